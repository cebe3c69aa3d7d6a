//! The list of lobbies as JSON.

use std::fmt::Write as _;

use super::settings::push_tags;
use super::writer::push_string;
use crate::lobby::control::listed::ListedLobby;

/// Appends an entry of the list.
fn push_lobby(out: &mut String, lobby: &ListedLobby) {
    let ListedLobby { code, name, tags, members, max, has_password, .. } = lobby;
    out.push_str("{\"code\":");
    push_string(out, code);
    out.push_str(",\"name\":");
    match name {
        Some(name) => push_string(out, name),
        None => out.push_str("null"),
    }
    out.push_str(",\"tags\":");
    push_tags(out, tags);
    write!(out, ",\"members\":{members},\"max\":").expect("writing to a String cannot fail");
    match max {
        Some(max) => write!(out, "{max}").expect("writing to a String cannot fail"),
        None => out.push_str("null"),
    }
    write!(out, ",\"has_password\":{has_password}}}").expect("writing to a String cannot fail");
}

fn push_list<T>(out: &mut String, entries: impl Iterator<Item = T>, mut push: impl FnMut(&mut String, T)) {
    out.push('[');
    for (index, entry) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        push(out, entry);
    }
    out.push(']');
}

/// Returns the answer to a request for a part of the list. `next` is the epoch after which to continue.
pub(crate) fn lobbies_json<'a>(lobbies: impl Iterator<Item = &'a ListedLobby>, next: Option<u64>) -> String {
    let mut out = String::from("{\"lobbies\":");
    push_list(&mut out, lobbies, push_lobby);
    match next {
        // Opaque for clients.
        Some(next) => write!(out, ",\"next\":\"{next}\"}}").expect("writing to a String cannot fail"),
        None => out.push_str(",\"next\":null}"),
    }
    out
}

/// Writes the first entries of the list; `more`: there are further ones.
pub(crate) fn write_lobbies<'a>(out: &mut String, lobbies: impl Iterator<Item = &'a ListedLobby>, more: bool) {
    out.clear();
    out.push_str("{\"type\":\"lobbies\",\"lobbies\":");
    push_list(out, lobbies, push_lobby);
    write!(out, ",\"more\":{more}}}").expect("writing to a String cannot fail");
}

/// Writes what has changed among the first entries of the list: new and changed ones, and the codes of those that are no
/// longer among them.
pub(crate) fn write_lobbies_diff<'a>(
    out: &mut String,
    set: impl Iterator<Item = &'a ListedLobby>,
    gone: impl Iterator<Item = &'a str>,
) {
    out.clear();
    out.push_str("{\"type\":\"lobbies_diff\",\"set\":");
    push_list(out, set, push_lobby);
    out.push_str(",\"gone\":");
    push_list(out, gone, push_string);
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit::MAX_LIST_BYTES;

    fn lobby(text: &str, tags: usize, max: Option<u32>) -> ListedLobby {
        let tags = (0..tags).map(|_| (text.into(), text.into())).collect();
        let mut lobby = ListedLobby::for_test(text, tags);
        lobby.max = max;
        lobby
    }

    #[test]
    fn lists_are_written() {
        let (open, full) = (lobby("a\"", 1, Some(4)), lobby("b", 0, None));
        let a = r#"{"code":"a\"","name":"a\"","tags":{"a\"":"a\""},"members":1,"max":4,"has_password":false}"#;
        let b = r#"{"code":"b","name":"b","tags":{},"members":1,"max":null,"has_password":false}"#;
        let lobbies = || [&open, &full].into_iter();
        assert_eq!(lobbies_json(lobbies(), Some(7)), format!(r#"{{"lobbies":[{a},{b}],"next":"7"}}"#));
        assert_eq!(lobbies_json([].into_iter(), None), r#"{"lobbies":[],"next":null}"#);
        let mut out = "before".to_owned();
        write_lobbies(&mut out, lobbies(), true);
        assert_eq!(out, format!(r#"{{"type":"lobbies","lobbies":[{a},{b}],"more":true}}"#));
        write_lobbies_diff(&mut out, [&full].into_iter(), ["x\"", "y"].into_iter());
        assert_eq!(out, format!(r#"{{"type":"lobbies_diff","set":[{b}],"gone":["x\"","y"]}}"#));
    }

    #[test]
    fn the_largest_list_is_within_its_bound() {
        let mut longest = lobby(&"\"".repeat(64), 4, Some(u32::MAX));
        longest.members = u32::MAX as usize;
        let list = lobbies_json(std::iter::repeat_n(&longest, 100), Some(1 << 53));
        assert!(list.len() + 1024 <= MAX_LIST_BYTES, "{}", list.len());
    }
}
