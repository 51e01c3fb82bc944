//! What clients of the native WebSocket send, and how they are told that it cannot be done.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::body;
use crate::api::error::detail;
use crate::api::execute::Encoding;
use crate::service::refusal::{Class, Refusal};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authenticate {
    pub key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    #[serde(rename = "executionId", alias = "execution_id")]
    pub id: String,
    /// Events up to this one are known already.
    #[serde(rename = "lastEventId")]
    pub last_event_id: Option<usize>,
}

/// A message that is about an execution and says no more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    #[serde(rename = "executionId", alias = "execution_id")]
    pub id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stdin {
    #[serde(rename = "executionId", alias = "execution_id")]
    pub id: String,
    pub data: String,
    #[serde(default)]
    pub encoding: Encoding,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    #[serde(rename = "executionId", alias = "execution_id")]
    pub id: String,
    pub signal: SignalName,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum SignalName {
    Number(i32),
    Name(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

pub const KINDS: [&str; 9] =
    ["authenticate", "execute", "subscribe", "unsubscribe", "stdin", "stdin_close", "signal", "cancel", "ping"];

/// The kind of a message, and its other fields.
///
/// # Errors
/// It is no message, or of no known kind.
pub fn parse(text: Option<&str>) -> Result<(&'static str, Map<String, Value>), Refusal> {
    let text =
        text.ok_or_else(|| Refusal::new(Class::BadRequest, "bad_message", "messages are JSON as text, not binary"))?;
    let mut fields: Map<String, Value> = body::parse(text.as_bytes())?;
    let hint = || format!("types: {}", KINDS.join(", "));
    let refused = |message: String| Err(Refusal::bad("unknown_type", "type", message).hint(hint()));
    match fields.remove("type") {
        Some(Value::String(kind)) => match KINDS.iter().find(|known| **known == kind) {
            Some(known) => Ok((known, fields)),
            None => refused(format!("unknown type {:?}", kind.chars().take(64).collect::<String>())),
        },
        Some(_) => refused("type is no string".to_owned()),
        None => refused("type is missing".to_owned()),
    }
}

/// As the client is told of a refusal; `id` is what its message was about.
pub fn error_json(refusal: &Refusal, id: Option<&str>) -> Value {
    let mut value = json!({"type": "error", "error": detail(refusal)});
    if let Some(id) = id {
        value["executionId"] = id.chars().take(64).collect::<String>().into();
    }
    if let Some(after) = refusal.retry_after {
        value["retryAfterMs"] = (after.as_millis() as u64).into();
    }
    value
}

/// # Errors
/// No signal is called that.
pub fn signal_number(signal: &SignalName) -> Result<i32, Refusal> {
    use nix::sys::signal::Signal;
    let known = match signal {
        SignalName::Number(number) => Signal::try_from(*number).ok(),
        SignalName::Name(name) => {
            let name = name.to_ascii_uppercase();
            let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
            name.parse().ok()
        }
    };
    let refusal = || Refusal::bad("unknown_signal", "signal", "no signal is called that").hint("as \"SIGINT\" or 2");
    known.map(|signal| signal as i32).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let number = |text: &str| signal_number(&serde_json::from_str(text).unwrap()).map_err(|refusal| refusal.code);
        for (text, expected) in [("\"SIGINT\"", 2), ("\"int\"", 2), ("15", 15), ("\"SIGWINCH\"", 28)] {
            assert_eq!(number(text), Ok(expected), "{text}");
        }
        for text in ["0", "-1", "99", "\"SIGNONE\"", "\"\""] {
            assert_eq!(number(text), Err("unknown_signal"), "{text}");
        }
    }

    #[test]
    fn messages_without_a_known_type_are_refused_with_the_list() {
        for (text, code) in
            [("{", "bad_json"), ("[]", "bad_request"), ("{}", "unknown_type"), (r#"{"type":1}"#, "unknown_type")]
        {
            assert_eq!(parse(Some(text)).unwrap_err().code, code, "{text}");
        }
        let refusal = parse(Some(r#"{"type":"exec"}"#)).unwrap_err();
        assert!(refusal.hint.is_some_and(|hint| hint.contains("execute")), "{}", refusal.message);
        assert_eq!(parse(None).unwrap_err().code, "bad_message");
        assert_eq!(parse(Some(r#"{"type":"ping"}"#)).unwrap().0, "ping");
    }
}
