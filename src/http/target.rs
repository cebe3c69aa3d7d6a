//! Request targets: paths, queries and percent-encoding.

use std::borrow::Cow;

/// Splits a target in origin form (RFC 9112 section 3.2.1) into path and query. Returns `None` for other forms.
pub(crate) fn split_target(target: &str) -> Option<(&str, &str)> {
    target.starts_with('/').then(|| target.split_once('?').unwrap_or((target, "")))
}

/// Returns the first non-empty value of `name` in a query. Fails if any part of the query cannot be decoded.
pub(crate) fn query_value<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, ()> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decode(key, true).ok_or(())?;
        let value = percent_decode(value, true).ok_or(())?;
        if found.is_none() && key == name && !value.is_empty() {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Decodes percent-encoding (RFC 3986 section 2.1). With `plus_is_space`, `+` is a space, as in form queries.
///
/// Returns `None` for a `%` without two hexadecimal digits, for bytes that are not UTF-8, and for control characters,
/// which are not valid in a path or a token.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let is_literal = |c: u8| c != b'%' && !(plus_is_space && c == b'+');
    let decoded = if text.bytes().all(is_literal) {
        Cow::Borrowed(text)
    } else {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&c, tail)) = rest.split_first() {
            rest = tail;
            match c {
                b'%' => {
                    let (&[high, low], tail) = rest.split_first_chunk()?;
                    let digit = |c: u8| char::from(c).to_digit(16);
                    bytes.push((digit(high)? * 16 + digit(low)?) as u8);
                    rest = tail;
                }
                b'+' if plus_is_space => bytes.push(b' '),
                c => bytes.push(c),
            }
        }
        Cow::Owned(String::from_utf8(bytes).ok()?)
    };
    (!decoded.chars().any(char::is_control)).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding_is_strict() {
        assert_eq!(percent_decode("a%20b+c", false).as_deref(), Some("a b+c"));
        assert_eq!(percent_decode("a%20b+c", true).as_deref(), Some("a b c"));
        assert_eq!(percent_decode("%E2%82%ac", false).as_deref(), Some("€"));
        for bad in ["%", "%2", "%zz", "%+1", "%00", "%ff", "%0a", "a%7f"] {
            assert_eq!(percent_decode(bad, true), None, "{bad}");
        }
    }
}
