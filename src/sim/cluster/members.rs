//! What a page knows of the members of its lobby: by seat, the user and whether it is away.

use std::collections::BTreeMap;

use serde_json::Value;

pub(super) type Members = BTreeMap<String, (String, bool)>;

/// Reads the `users` of a `presence_state`.
pub(super) fn read_list(list: &Value) -> Option<Members> {
    let entry = |it: &Value| {
        let name = |field: &str| it[field].as_str().map(str::to_owned);
        Some((name("conn")?, (name("user")?, it["away"].as_bool().unwrap_or(false))))
    };
    list.as_array()?.iter().map(entry).collect()
}

pub(super) fn has_same_users(one: &Members, other: &Members) -> bool {
    let users = |members: &Members| -> Vec<(String, String)> {
        members.iter().map(|(seat, (user, _))| (seat.clone(), user.clone())).collect()
    };
    users(one) == users(other)
}

/// Applies a `presence_diff`.
pub(super) fn apply(members: &mut Members, diff: &Value) -> Result<(), String> {
    let entries = |field: &str| diff[field].as_array().cloned().unwrap_or_default();
    let name = |it: &Value, field: &str| it[field].as_str().unwrap_or_default().to_owned();
    for it in entries("leaves") {
        if members.remove(&name(&it, "conn")).is_none() {
            return Err(format!("{it} leaves, but is not a member"));
        }
    }
    for it in entries("joins") {
        if members.insert(name(&it, "conn"), (name(&it, "user"), false)).is_some() {
            return Err(format!("{it} joins, but is a member"));
        }
    }
    for (field, is_away) in [("away", true), ("back", false)] {
        for it in entries(field) {
            match members.get_mut(&name(&it, "conn")) {
                Some(member) => member.1 = is_away,
                None => return Err(format!("{it} is {field}, but is not a member")),
            }
        }
    }
    Ok(())
}
