//! A message of the server: an object whose values are still JSON text.
//!
//! Values are parsed when they are needed, so that one that cannot be read, such as an application's data that is nested too
//! deeply for this parser, does not hide the others.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::number;

/// Fields by name. Of a name that occurs twice, the last one counts, as in JavaScript. `null` is the same as no field.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Fields<'a>(#[serde(borrow)] BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// Returns `None` for anything but an object.
    pub(super) fn read(text: &'a str) -> Option<Fields<'a>> {
        serde_json::from_str(text).ok()
    }

    /// Returns the JSON text of a field.
    pub(super) fn json(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get()).filter(|text| *text != "null")
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.json(name)?).ok()
    }

    /// Returns an integer that is not negative and below 2^53.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        u64::try_from(number::integer(self.json(name)?)?).ok()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        serde_json::from_str(self.json(name)?).ok()
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        self.flag(name) == Some(true)
    }

    pub(super) fn object(&self, name: &str) -> Option<Fields<'a>> {
        Fields::read(self.json(name)?)
    }

    /// Returns the entries of a list, without those that are no `T`.
    pub(super) fn list<T: Deserialize<'a>>(&self, name: &str) -> Option<Vec<T>> {
        let list: Vec<&'a RawValue> = serde_json::from_str(self.json(name)?).ok()?;
        Some(list.into_iter().filter_map(|entry| serde_json::from_str(entry.get()).ok()).collect())
    }

    /// Returns the values of an object. One that cannot be parsed, such as a number above the largest float, is left out.
    pub(super) fn map(&self, name: &str) -> Option<Map<String, Value>> {
        Some(self.object(name)?.values_without(&[]))
    }

    /// Returns all fields except the named ones. A value that cannot be parsed is left out.
    pub(super) fn values_without(&self, names: &[&str]) -> Map<String, Value> {
        let others = self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        others.filter_map(|(name, value)| Some((name.clone(), serde_json::from_str(value.get()).ok()?))).collect()
    }

    /// Returns the object as JSON text, without a field.
    pub(super) fn json_without(&self, name: &str) -> String {
        let mut text = String::from("{");
        for (key, value) in self.0.iter().filter(|(key, _)| *key != name) {
            if text.len() > 1 {
                text.push(',');
            }
            text += &Value::from(key.as_str()).to_string();
            text.push(':');
            text += value.get();
        }
        text.push('}');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_when_they_are_needed() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let text = format!(r#"{{"type":"message","seq":1.7e1,"data":{deep},"from":null,"half":"\ud800"}}"#);
        let fields = Fields::read(&text).expect("an object");
        assert_eq!((fields.text("type").as_deref(), fields.number("seq")), (Some("message"), Some(17)));
        assert_eq!(fields.json("data"), Some(&*deep));
        assert_eq!((fields.json("from"), fields.text("half"), fields.map("data")), (None, None, None));
        assert_eq!(fields.values_without(&["type"]).len(), 2, "seq and from");
    }

    #[test]
    fn a_value_that_cannot_be_read_does_not_hide_the_others() {
        let fields = Fields::read(r#"{"data":{"far":1e400,"near":[1e400],"round":2,"gone":null}}"#).expect("an object");
        let map = fields.map("data").expect("an object");
        assert_eq!(Value::from(map), serde_json::json!({"round": 2, "gone": null}));
    }

    #[test]
    fn an_object_is_written_without_a_field() {
        let fields = Fields::read(r#"{"type":"move","ref":1,"\"":{"b": 1}}"#).expect("an object");
        assert_eq!(fields.json_without("ref"), r#"{"\"":{"b": 1},"type":"move"}"#);
        assert_eq!(Fields::read(r#"{"ref":1}"#).expect("an object").json_without("ref"), "{}");
    }

    #[test]
    fn anything_but_an_object_is_no_message() {
        assert!(["", "{", "[]", "17", "null", "{}}", "{\"a\"}"].iter().all(|text| Fields::read(text).is_none()));
    }
}
