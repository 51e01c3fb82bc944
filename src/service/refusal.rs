//! Why a request is not served: the caller's mistake, "not now", or our fault, each with what the caller can do.

use std::time::Duration;

use super::rate::RateState;
use crate::words::request::RequestError;

/// Whose turn it is to do something about it; each face has its own way to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// The request's head or body was too slow.
    Timeout,
    TooLarge,
    UnsupportedMediaType,
    /// The caller's own limit is reached.
    TooManyRequests,
    /// Ours.
    Internal,
    /// The service's limit is reached, or something it needs is not there now.
    Unavailable,
}

/// A request that was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub class: Class,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people; names the thing.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
    /// The part of the request that is at fault.
    pub field: Option<String>,
    pub retry_after: Option<Duration>,
    /// Where the caller stands with its rate limit, if that is why.
    pub rate: Option<RateState>,
}

impl Refusal {
    pub fn new(class: Class, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { class, code, message: message.into(), hint: None, field: None, retry_after: None, rate: None }
    }

    pub fn bad(code: &'static str, field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { field: Some(field.into()), ..Refusal::new(Class::BadRequest, code, message) }
    }

    pub fn hint(self, hint: impl Into<String>) -> Refusal {
        Refusal { hint: Some(hint.into()), ..self }
    }

    pub fn retry_after(self, after: Duration) -> Refusal {
        Refusal { retry_after: Some(after), ..self }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Refusal {
        let code = match error.field {
            "language" => "unknown_language",
            "limits" => "limit_out_of_range",
            "files" => "bad_files",
            _ => "bad_request",
        };
        Refusal { hint: error.hint, ..Refusal::bad(code, error.field, error.message) }
    }
}
