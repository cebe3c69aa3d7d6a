//! Rules of lobbies: users, seats and limits, and presence.
//!
//! Knows nothing of sockets, frames, JSON or HTTP.

mod checking;
pub(crate) mod control;
pub(crate) mod directory;
mod duplicate_login;
pub(crate) mod entering;
mod inspect;
mod pages;
pub(crate) mod presence;
pub(crate) mod published;
mod records;
mod removing;
mod seat_limits;
mod session_records;
pub(crate) mod sessions;
mod snapshot;

use crate::base::list_query::has_only_code_characters;

/// Returns whether `text` is a valid lobby code: 1 to 64 of `A-Z a-z 0-9 _ -`.
///
/// ```
/// assert!(lobbyd::admission::is_lobby_code("chess-2"));
/// assert!(!lobbyd::admission::is_lobby_code("two words"));
/// ```
pub fn is_lobby_code(text: &str) -> bool {
    (1..=64).contains(&text.len()) && has_only_code_characters(text)
}

/// Returns whether `text` is a valid user id: 1 to 128 bytes of UTF-8 without control characters, except for `.` and `..`.
///
/// Browsers and many HTTP libraries remove these two from a path (RFC 3986 section 5.2.4), so that an operator's request
/// about such a user would become another one: `POST /users/../kick` would kick everybody.
///
/// ```
/// assert!(lobbyd::admission::is_user_id("Zoë"));
/// assert!(!lobbyd::admission::is_user_id(""));
/// assert!(!lobbyd::admission::is_user_id(".."));
/// ```
pub fn is_user_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && !matches!(text, "." | "..") && !text.chars().any(char::is_control)
}
