//! JSON as it is written to an operator: on one line, keys in the order in which a person wants to read them.

use std::fmt::Write as _;

/// A JSON object under way.
#[derive(Debug)]
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Object {
        Object("{".into())
    }

    fn key(&mut self, key: &str) {
        let comma = if self.0.ends_with('{') { "" } else { "," };
        self.0.extend([comma, "\"", key, "\":"]);
    }

    /// A number, `true`, `false`, `null` or anything else that is JSON already.
    pub(super) fn plain(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.key(key);
        write!(self.0, "{value}").expect("a string takes every byte");
        self
    }

    pub(super) fn optional(self, key: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.plain(key, value),
            None => self.plain(key, "null"),
        }
    }

    pub(super) fn string(self, key: &str, value: &str) -> Self {
        let json = serde_json::to_string(value).expect("a string can always be written");
        self.plain(key, json)
    }

    pub(super) fn array(mut self, key: &str, items: impl Iterator<Item = Object>) -> Self {
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

/// Milliseconds with three decimals: microseconds are what the loop's clock tells.
pub(super) fn millis(span: std::time::Duration) -> String {
    let micros = span.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json() {
        let inner = [Object::new().plain("n", 1), Object::new()];
        let text = Object::new()
            .string("a", "q\"\\\u{1}{")
            .optional("b", None::<u8>)
            .array("c", inner.into_iter())
            .array("d", std::iter::empty())
            .end();
        let value: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(value, serde_json::json!({"a": "q\"\\\u{1}{", "b": null, "c": [{"n": 1}, {}], "d": []}));
    }
}
