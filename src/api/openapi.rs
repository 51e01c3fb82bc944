//! The OpenAPI 3.1 document, made from the handlers and their types.

use axum::Json;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{codesandbox, error, execute, executions, languages, light, ops, piston, seeds, validate};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sandboxd",
        description = "Runs programs, each in a brand-new sandbox. Whatever a program does is a verdict (200), never an \
                       error; errors are the caller's (4xx), \"not now\" (429, 503 with Retry-After) or ours (500)."
    ),
    paths(
        execute::execute, execute::list, execute::one, execute::cancel, execute::events,
        languages::languages,
        codesandbox::execute, validate::validate, executions::list, executions::one, light::typescript,
        piston::runtimes, piston::packages, piston::install, piston::uninstall, piston::execute,
        ops::health, ops::api_health, ops::ready, ops::detailed, ops::system, ops::metrics,
    ),
    // Those that refusals have are found by nobody else.
    components(schemas(error::ErrorBody, seeds::SeedErrorBody, piston::PistonMessage)),
    tags(
        (name = "native", description = "Runs, with all that there is to tell of them"),
        (name = "piston", description = "Piston v2; also below /api/v2/piston"),
        (name = "codesandbox", description = "The clients of codesandbox's API"),
        (name = "workers", description = "Function mode, syntax checks and history, as the workers service has them"),
        (name = "light", description = "TypeScript with a key, as the light service has it"),
        (name = "operations", description = "For whoever runs the service"),
    ),
    modifiers(&Keys)
)]
struct Api;

/// How callers say who they are.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A key of the configuration"));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        let header = ApiKey::Header(ApiKeyValue::with_description("X-API-Key", "The same key by another header"));
        components.add_security_scheme("key", SecurityScheme::ApiKey(header));
    }
}

/// The document.
pub async fn document() -> Json<Document> {
    Json(Api::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_of_version_3_1_and_names_each_operation_once() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let operations: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .filter_map(|operation| operation["operationId"].as_str())
            .collect();
        let distinct: std::collections::BTreeSet<_> = operations.iter().collect();
        assert!(operations.len() >= 12 && distinct.len() == operations.len(), "{operations:?}");
    }
}
