//! The native face's one shape of errors, and the status codes of all faces.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::service::rate::RateState;
use crate::service::refusal::{Class, Refusal};

/// Why a request was not served.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// A word for programs.
    pub code: &'static str,
    /// A sentence that names the thing.
    pub message: String,
    /// The remedy, where there is one.
    pub hint: Option<String>,
    /// The part of the request that is at fault, where it is one.
    pub field: Option<String>,
}

/// For the OpenAPI document: what a request that runs something may be refused with, in a face's own shape of errors.
macro_rules! run_refusals {
    ($name:ident, $body:ident) => {
        #[derive(utoipa::IntoResponses)]
        #[allow(dead_code)]
        pub enum $name {
            /// The request is not understood, or asks for more than there is
            #[response(status = 400)]
            BadRequest($body),
            /// A key is required, or the one given is wrong
            #[response(status = 401)]
            Unauthorized($body),
            /// The key does not allow it; without keys, the service does not answer to the name in `Host`
            #[response(status = 403)]
            Forbidden($body),
            /// The body took too long to arrive
            #[response(status = 408)]
            Timeout($body),
            /// The body, or the code in it, is too large
            #[response(status = 413)]
            TooLarge($body),
            /// The body is no JSON by its content type
            #[response(status = 415)]
            UnsupportedMediaType($body),
            /// One request too many; `Retry-After` says when to come again
            #[response(status = 429)]
            TooManyRequests($body),
            /// The sandbox failed
            #[response(status = 500)]
            Internal($body),
            /// No room now; `Retry-After` says when to come again
            #[response(status = 503)]
            Unavailable($body),
        }
    };
}

/// The same of a request that reads what there is.
macro_rules! read_refusals {
    ($name:ident, $body:ident) => {
        #[derive(utoipa::IntoResponses)]
        #[allow(dead_code)]
        pub enum $name {
            /// A parameter is not understood, or out of range
            #[response(status = 400)]
            BadRequest($body),
            /// A key is required, or the one given is wrong
            #[response(status = 401)]
            Unauthorized($body),
            /// Without keys: the service does not answer to the name in `Host`
            #[response(status = 403)]
            Forbidden($body),
            /// There is no such thing, or it is not the caller's
            #[response(status = 404)]
            NotFound($body),
            /// The history cannot be read
            #[response(status = 500)]
            Internal($body),
        }
    };
}
pub(super) use {read_refusals, run_refusals};

run_refusals!(NativeRunRefusals, ErrorBody);
read_refusals!(NativeReadRefusals, ErrorBody);

/// What a request for the operator's eyes may be refused with.
#[derive(IntoResponses)]
#[allow(dead_code)]
pub enum OperatorRefusals {
    /// A key is required, or the one given is wrong
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The key is not an administrator's; without keys, the service does not answer to the name in `Host`
    #[response(status = 403)]
    Forbidden(ErrorBody),
}

/// A refusal in the native shape.
pub struct NativeError(pub Refusal);

impl From<Refusal> for NativeError {
    fn from(refusal: Refusal) -> NativeError {
        NativeError(refusal)
    }
}

impl IntoResponse for NativeError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: detail(&self.0) };
        with_headers(&self.0, (status_code(self.0.class), Json(body)).into_response())
    }
}

pub fn detail(refusal: &Refusal) -> ErrorDetail {
    ErrorDetail {
        code: refusal.code,
        message: refusal.message.clone(),
        hint: refusal.hint.clone(),
        field: refusal.field.clone(),
    }
}

/// The headers every face's refusals carry.
pub fn with_headers(refusal: &Refusal, mut response: Response) -> Response {
    if let Some(after) = refusal.retry_after {
        // Whole seconds, and never "at once".
        let seconds = (after.as_millis().div_ceil(1000) as u64).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(state) = &refusal.rate {
        add_rate_headers(state, &mut response);
    }
    if refusal.class == Class::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Where the caller stands with its rate limit.
pub fn add_rate_headers(state: &RateState, response: &mut Response) {
    for (name, value) in state.headers() {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
}

pub fn status_code(class: Class) -> StatusCode {
    match class {
        Class::BadRequest => StatusCode::BAD_REQUEST,
        Class::Unauthorized => StatusCode::UNAUTHORIZED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Class::Timeout => StatusCode::REQUEST_TIMEOUT,
        Class::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Class::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Class::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}
