//! Writes JSON objects for operators: on one line, with the keys in the order of the calls, for human readers.

use std::fmt::Write as _;

/// A JSON object under construction.
#[derive(Debug)]
pub(super) struct JsonObject(String);

impl JsonObject {
    pub(super) fn new() -> JsonObject {
        JsonObject("{".into())
    }

    fn key(&mut self, key: &str) {
        let comma = if self.0.ends_with('{') { "" } else { "," };
        self.0.extend([comma, "\"", key, "\":"]);
    }

    /// Appends a value whose text is JSON already, such as a number, `true`, `null` or an object.
    pub(super) fn plain(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.key(key);
        write!(self.0, "{value}").expect("writing to a string does not fail");
        self
    }

    pub(super) fn optional(self, key: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.plain(key, value),
            None => self.plain(key, "null"),
        }
    }

    pub(super) fn string(self, key: &str, value: &str) -> Self {
        let json = serde_json::to_string(value).expect("every string can be encoded as JSON");
        self.plain(key, json)
    }

    pub(super) fn array(mut self, key: &str, items: impl Iterator<Item = JsonObject>) -> Self {
        self.key(key);
        self.0.push('[');
        for (index, item) in items.enumerate() {
            self.0.extend([if index == 0 { "" } else { "," }, &item.end()]);
        }
        self.0.push(']');
        self
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Formats a duration as milliseconds with three decimals: the engine's time has microseconds.
pub(super) fn millis(span: std::time::Duration) -> String {
    let micros = span.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_valid_json() {
        let inner = [JsonObject::new().plain("n", 1), JsonObject::new()];
        let text = JsonObject::new()
            .string("a", "q\"\\\u{1}{")
            .optional("b", None::<u8>)
            .array("c", inner.into_iter())
            .array("d", std::iter::empty())
            .end();
        let value: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(value, serde_json::json!({"a": "q\"\\\u{1}{", "b": null, "c": [{"n": 1}, {}], "d": []}));
    }
}
