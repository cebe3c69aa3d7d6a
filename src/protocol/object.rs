//! The entries of a JSON object, in the order in which they were written, with their values as raw text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Entries of an object: keys without escapes, and values as JSON text.
pub(super) struct Object<'a>(pub(super) Vec<(Cow<'a, str>, &'a str)>);

/// A key, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, &'de str)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    entries.push((key, value.get()));
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Entries).map(Object)
    }
}

impl<'a> Object<'a> {
    /// Reads an object. `None` if `text` is another JSON value.
    pub(super) fn read(text: &'a str) -> Option<Object<'a>> {
        serde_json::from_str(text).ok()
    }

    /// Returns a key that occurs twice.
    pub(super) fn repeated_key(&self) -> Option<&str> {
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| &**key).collect();
        keys.sort_unstable();
        keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_and_their_text() {
        let object = Object::read(r#" {"b": {"x":1} , "\u0061":null,"b":1.0e1} "#).expect("an object");
        assert_eq!(object.0, [("b".into(), r#"{"x":1}"#), ("a".into(), "null"), ("b".into(), "1.0e1")]);
        assert_eq!(object.repeated_key(), Some("b"));
        assert_eq!(Object::read("{}").expect("an object").repeated_key(), None);
        assert!(["[1]", "1", "null", "\"x\"", "{"].into_iter().all(|text| Object::read(text).is_none()));
    }
}
