//! The pages for people: what this service is (`/`), the playground (`/play`) and the API reference (`/docs`).
//!
//! They are static files inside the binary: no build step, no inline script, nothing from another host, and the
//! Content-Security-Policy holds them to that. Whatever they show of a program was written by somebody unknown, so the
//! policy is the second wall behind scripts that build text and never HTML. The pages use the native API like any other
//! client; nothing here knows a run.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Images may come from `data:` URLs, because a program's image files are shown from the answer that carries them.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// One file of the pages.
struct Asset {
    name: &'static str,
    content: &'static str,
    content_type: &'static str,
    /// The digest of the content in quotes, as `ETag` wants it.
    tag: HeaderValue,
}

macro_rules! assets {
    ($($name:literal: $content_type:expr,)*) => {
        vec![$(Asset::new($name, include_str!(concat!("pages/", $name)), $content_type)),*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets! {
        "index.html": HTML,
        "play.html": HTML,
        "docs.html": HTML,
        "base.css": CSS,
        "index.css": CSS,
        "play.css": CSS,
        "docs.css": CSS,
        "theme.js": SCRIPT,
        "copy.js": SCRIPT,
        "index.js": SCRIPT,
        "play.js": SCRIPT,
        "client.js": SCRIPT,
        "editor.js": SCRIPT,
        "highlight.js": SCRIPT,
        "output.js": SCRIPT,
        "verdict.js": SCRIPT,
        "files.js": SCRIPT,
        "refusal.js": SCRIPT,
        "words.js": SCRIPT,
        "share.js": SCRIPT,
        "samples.js": SCRIPT,
        "docs.js": SCRIPT,
        "schema.js": SCRIPT,
        "icon.svg": "image/svg+xml",
    }
});

impl Asset {
    fn new(name: &'static str, content: &'static str, content_type: &'static str) -> Self {
        let digest: String = Sha256::digest(content).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let tag = HeaderValue::from_str(&format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Asset { name, content, content_type, tag }
    }

    /// The file, or 304 when the client says that it has this version.
    ///
    /// `no-cache` lets a browser keep the file but ask each time: after an upgrade no old script meets a new service.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if is_known(headers, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Response::new(Body::from(self.content));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            response
        };
        let out = response.headers_mut();
        out.insert(ETAG, self.tag.clone());
        out.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        out.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        out.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        out.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

/// The router of `/`, `/play`, `/docs` and the files those three are made of.
///
/// `languages` gives the ids of the languages at the time of the call: profiles may be read again while serving.
pub fn pages<S: Clone + Send + Sync + 'static>(
    languages: impl Fn() -> Vec<String> + Send + Sync + 'static,
) -> Router<S> {
    let languages = Arc::new(languages);
    files().route("/", get(async move |headers: HeaderMap| front_page(&headers, languages())))
}

/// All of [`pages`] but `/`, for a service whose `/` is more than a page.
pub fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/play", get(async |headers: HeaderMap| file("play.html", &headers)))
        .route("/docs", get(async |headers: HeaderMap| file("docs.html", &headers)))
        // Browsers ask for it by themselves, where a JSON answer is looked at for instance.
        .route("/favicon.ico", get(async |headers: HeaderMap| file("icon.svg", &headers)))
        .route("/pages/{name}", get(async |Path(name): Path<String>, headers: HeaderMap| file(&name, &headers)))
}

/// `/`: a page for browsers, and for everything else the same facts as JSON.
pub fn front_page(headers: &HeaderMap, languages: Vec<String>) -> Response {
    let mut response = if accepts_html(headers) {
        file("index.html", headers)
    } else {
        let mut response = Json(json!({
            "name": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "docs": "/docs",
            "playground": "/play",
            "openapi": "/openapi.json",
            "execute": "/api/execute",
            "websocket": "/ws",
            "languages": languages,
        }))
        .into_response();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

fn file(name: &str, headers: &HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => asset.answer(headers),
        None => {
            let error = json!({"error": {
                "code": "not_found",
                "message": format!("there is no page file {name:?}"),
                "hint": "the pages are /, /play and /docs",
                "field": null,
            }});
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
    }
}

/// True when a browser asks: `text/html` by name. `*/*`, which curl sends, means whatever suits a program.
fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |range| {
            let mut parts = range.split(';').map(str::trim);
            let html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
            let refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
            html && !parts.any(refused)
        },
    )
}

/// True when `If-None-Match` names this version; weak tags count, as caches on the way may weaken them.
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || tag.to_str().is_ok_and(|tag| known.strip_prefix("W/").unwrap_or(known) == tag))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let router: Router = pages(|| vec!["python".to_owned(), "c".to_owned()]);
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_page_comes_with_its_type_policy_and_tag_and_is_not_sent_twice() {
        for path in ["/", "/play", "/docs", "/pages/play.js", "/pages/base.css", "/pages/icon.svg"] {
            let (status, headers, body) = ask(path, &[("accept", "text/html,*/*;q=0.8")]).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            assert!(!body.is_empty(), "{path}");
            let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{path}: {policy}");
            assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            assert_eq!(headers[REFERRER_POLICY], "no-referrer", "{path}");
            let tag = headers[ETAG].to_str().unwrap().to_owned();

            let known = format!("\"other\", W/{tag}");
            let (status, headers, body) = ask(path, &[("accept", "text/html"), ("if-none-match", &known)]).await;
            assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
            assert_eq!(headers[ETAG].to_str().unwrap(), tag);
            let (status, ..) = ask(path, &[("accept", "text/html"), ("if-none-match", "\"other\"")]).await;
            assert_eq!(status, StatusCode::OK, "{path}");
        }
        assert_eq!(ask("/pages/play.js", &[]).await.1[CONTENT_TYPE], SCRIPT);
        assert_eq!(ask("/pages/nothing.js", &[]).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_front_page_is_json_for_those_who_do_not_ask_for_a_page() {
        for accept in [&[][..], &[("accept", "*/*")], &[("accept", "application/json, text/html;q=0")]] {
            let (status, headers, body) = ask("/", accept).await;
            assert_eq!((status, headers[VARY].to_str().unwrap()), (StatusCode::OK, "accept"));
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["name"], "sandboxd");
            assert_eq!(body["languages"], json!(["python", "c"]));
            assert_eq!((&body["docs"], &body["openapi"]), (&json!("/docs"), &json!("/openapi.json")));
        }
        let (_, headers, body) = ask("/", &[("accept", "application/json;q=0.5, text/html")]).await;
        assert_eq!(
            (headers[CONTENT_TYPE].to_str().unwrap(), &headers[VARY]),
            (HTML, &HeaderValue::from_static("accept"))
        );
        assert!(body.starts_with("<!doctype html>"));
    }

    /// Every reference from one file of the pages to another, or to anything else.
    #[test]
    fn the_pages_refer_to_files_that_exist_and_to_no_other_host() {
        let names: Vec<_> = ASSETS.iter().map(|asset| asset.name).collect();
        let mut references = 0;
        for asset in ASSETS.iter() {
            let quoted = asset.content.split(['"', '\'']);
            for name in quoted.filter_map(|text| text.strip_prefix("/pages/").or(text.strip_prefix("./"))) {
                assert!(names.contains(&name), "{} refers to {name}", asset.name);
                references += 1;
            }
            if asset.content_type == HTML {
                for tag in asset.content.split("<script").skip(1) {
                    assert!(tag.starts_with(" src=") || tag.starts_with(" type=\"module\" src="), "{}", asset.name);
                }
                assert!(!asset.content.contains(" style=") && !asset.content.contains(" onclick="), "{}", asset.name);
            }
            let other = asset.content.replace("http://www.w3.org/2000/svg", "").replace("http://localhost:8080", "");
            assert!(!other.contains("http://") && !other.contains("https://"), "{}", asset.name);
        }
        assert!(references > 20, "{references}");
        // All of the playground must stay a light page: it is sent uncompressed.
        let bytes: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        assert!(bytes < 160 * 1024, "{bytes} bytes");
    }

    #[test]
    fn every_language_has_a_sample() {
        let samples = ASSETS.iter().find(|asset| asset.name == "samples.js").unwrap().content;
        for (file, text) in crate::words::embedded::EMBEDDED_PROFILES {
            let name = crate::words::profile::Profile::parse(file, text).unwrap().name;
            assert!(samples.contains(&format!("\n  {name}: {{")), "{name}");
        }
    }

    /// Whatever a program writes must stay text.
    #[test]
    fn no_script_makes_html_from_text() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type == SCRIPT) {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!asset.content.contains(way), "{} uses {way}", asset.name);
            }
        }
    }
}
