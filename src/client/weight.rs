//! The memory that JSON values take, roughly.

use serde_json::{Map, Value};

/// Memory of an entry of a map, without its key and its value.
const ENTRY: usize = 32;

pub(super) fn of_map(map: &Map<String, Value>) -> usize {
    map.iter().map(|(key, value)| ENTRY + key.len() + of_value(value)).sum()
}

fn of_value(value: &Value) -> usize {
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(of_value).sum(),
        Value::Object(map) => of_map(map),
    };
    size_of::<Value>() + inner
}
