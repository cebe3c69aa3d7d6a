//! Cross-origin resource sharing (Fetch standard, section 3.2): the headers with which a browser lets a page read an answer.

use std::ops::Range;

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin: ";

/// What the page that sent a request may read. Its origin is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cors {
    /// Pages of every origin may read the answer, if they sent no cookies.
    Any,
    /// Pages of this origin may read it, also if they sent cookies.
    Origin(String),
}

impl Cors {
    /// The headers for a page of this origin. An origin that is allowed only because all are, or because it is `null`,
    /// stands for no page in particular, so cookies must not make it one.
    pub(crate) fn of(origin: &str, allows_any: bool) -> Cors {
        if allows_any || origin.eq_ignore_ascii_case("null") { Cors::Any } else { Cors::Origin(origin.to_owned()) }
    }

    /// Appends the header lines.
    pub(crate) fn put_lines(&self, out: &mut Vec<u8>) {
        let (origin, credentials) = match self {
            Cors::Any => ("*", ""),
            Cors::Origin(origin) => (&**origin, "Access-Control-Allow-Credentials: true\r\n"),
        };
        let lines = [ALLOW_ORIGIN, origin, "\r\nVary: Origin\r\n", credentials];
        lines.iter().for_each(|line| out.extend_from_slice(line.as_bytes()));
    }

    /// Returns where a response repeats the origin, which the client wrote.
    pub(crate) fn echo(&self, response: &[u8]) -> Option<Range<u64>> {
        let Cors::Origin(origin) = self else { return None };
        let at = response.windows(ALLOW_ORIGIN.len()).position(|window| window == ALLOW_ORIGIN.as_bytes())?;
        let start = (at + ALLOW_ORIGIN.len()) as u64;
        Some(start..start + origin.len() as u64)
    }
}
