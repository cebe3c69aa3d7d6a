//! Messages of the application as JSON.

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::LobbyError;

/// Bytes for the `ref` that a request gets later.
const REF_BYTES: usize = 24;

/// Writes a message. The fields of an object are those of the message; another payload is its field `data`, and nothing is no
/// field.
pub(super) fn encode(kind: &str, payload: &impl Serialize) -> Result<String, LobbyError> {
    let bad = |why: &str| LobbyError::with_message("bad_payload", why);
    let fields = match serde_json::to_value(payload).map_err(|error| bad(&error.to_string()))? {
        Value::Object(fields) => fields,
        Value::Null => Map::new(),
        data => Map::from_iter([("data".to_owned(), data)]),
    };
    if fields.contains_key("type") || fields.contains_key("ref") {
        return Err(bad("the client sets type and ref"));
    }
    let mut text = format!("{{\"type\":{}", Value::from(kind));
    for (name, value) in &fields {
        text += &format!(",{}:{value}", Value::from(name.as_str()));
    }
    text.push('}');
    Ok(text)
}

/// A message above the server's limit would end the connection for good.
pub(super) fn check_length(bytes: usize, max: Option<u64>) -> Result<(), LobbyError> {
    let is_small = max.is_none_or(|max| bytes as u64 <= max);
    if is_small { Ok(()) } else { Err(LobbyError::new("too_large")) }
}

pub(super) fn check_text(text: &str, max: Option<u64>) -> Result<(), LobbyError> {
    check_length(text.len() + REF_BYTES, max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_those_of_the_message_and_other_values_its_data() {
        let encode = |payload| encode("move", &payload).expect("a message");
        assert_eq!(encode(json!({"to": "e4", "at": 1})), r#"{"type":"move","at":1,"to":"e4"}"#);
        assert_eq!(encode(json!("hello")), r#"{"type":"move","data":"hello"}"#);
        assert_eq!(encode(json!([1, {}])), r#"{"type":"move","data":[1,{}]}"#);
        assert_eq!(
            (encode(json!(null)), encode(json!({}))),
            (r#"{"type":"move"}"#.into(), r#"{"type":"move"}"#.into())
        );
    }

    #[test]
    fn a_payload_cannot_set_what_the_client_sets() {
        assert_eq!(encode("\"", &json!(1)), Ok(r#"{"type":"\"","data":1}"#.to_owned()));
        for payload in [json!({"type": "leave"}), json!({"ref": null})] {
            assert_eq!(encode("move", &payload).expect_err("two types").code(), "bad_payload");
        }
        let not_json = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(encode("move", &not_json).expect_err("keys are texts").code(), "bad_payload");
    }
}
