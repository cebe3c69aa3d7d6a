//! Safe display of text from a journal.

use std::fmt::{self, Write};

/// Displays a text from a journal with control characters escaped. A journal from an untrusted source may contain
/// escape sequences for the terminal.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            // Escaped as in a Rust literal, except for quotation marks and backslashes.
            .try_for_each(|c| {
                if matches!(c, '"' | '\'' | '\\') { f.write_char(c) } else { write!(f, "{}", c.escape_debug()) }
            })
    }
}
