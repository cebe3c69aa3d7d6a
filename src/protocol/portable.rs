//! Whether strict parsers read a JSON text. Some are not able to read what serde_json skips over: values nested too
//! deeply (RFC 8259 section 9 allows a parser to limit the depth), and strings that contain an escape for half of a
//! surrogate pair (RFC 8259 section 8.2; RFC 7493 section 2.1 forbids it).
//!
//! Knows no message and no field.

use serde_json::value::RawValue;

use crate::base::limit::Limit;

const TOO_DEEP: &str = "the message is nested deeper than max_json_depth";
const LONE_SURROGATE: &str = "a string has an escape for half of a surrogate pair";

/// Checks a message, which must be valid JSON. Its own object or array is the first level.
///
/// # Errors
///
/// The reason why some parsers would not read the message.
pub(super) fn check(json: &str, max_depth: Limit) -> Result<(), &'static str> {
    let bytes = json.as_bytes();
    // The usual message has neither an escape nor enough brackets, and is not scanned.
    if has_backslash(bytes) || may_exceed(bytes, max_depth) { scan(bytes, max_depth) } else { Ok(()) }
}

/// The same as `contains`, with half as many instructions for a short text: it looks at eight bytes at a time, and
/// decides once.
fn has_backslash(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    // The high bit of a byte is set if the byte is a backslash. A byte above a backslash may have it too.
    let found = |word: &[u8; 8]| {
        let difference = u64::from_ne_bytes(*word) ^ (ONES * b'\\' as u64);
        difference.wrapping_sub(ONES) & !difference & (ONES << 7)
    };
    match bytes.last_chunk() {
        // The last word may overlap the one before it.
        Some(last) => bytes.as_chunks().0.iter().fold(found(last), |all, word| all | found(word)) != 0,
        None => bytes.contains(&b'\\'),
    }
}

/// Checks that `data` is valid JSON that may be put into a message.
///
/// # Errors
///
/// The reason why some parsers would not read the message.
pub(crate) fn check_data(data: &str, max_depth: Limit) -> Result<(), &'static str> {
    serde_json::from_str::<&RawValue>(data).map_err(|_| "the data is not valid JSON")?;
    // The message is a level too.
    let max_depth = max_depth.bound().map_or(Limit::UNLIMITED, |bound| Limit::at_most(bound.saturating_sub(1)));
    check(data, max_depth)
}

/// Returns whether the JSON has so many opening brackets that it may be nested deeper than `max_depth`. Those in strings
/// are counted too.
fn may_exceed(bytes: &[u8], max_depth: Limit) -> bool {
    let Some(bound) = max_depth.bound() else { return false };
    // Each level takes two brackets, so a short text needs no count. The bit makes `{` of `[`.
    bytes.len() / 2 > bound as usize && bytes.iter().filter(|&&byte| byte | 0x20 == b'{').count() > bound as usize
}

/// Returns the text with U+FFFD in place of each half of a surrogate pair that is written as an escape. Its length and the
/// positions in it stay the same.
pub(super) fn without_surrogates(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        if matches!(escaped_unit(&bytes, at), Some(0xd800..=0xdfff)) {
            bytes[at + 2..at + 6].copy_from_slice(b"fffd");
        }
        at += 2;
    }
    String::from_utf8(bytes).unwrap_or_default()
}

fn scan(bytes: &[u8], max_depth: Limit) -> Result<(), &'static str> {
    let (mut depth, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'[' | b'{' if !max_depth.has_room(depth) => return Err(TOO_DEEP),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(bytes, at)?,
            _ => {}
        }
    }
    Ok(())
}

/// Returns the position behind the string whose contents begin at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, &'static str> {
    loop {
        match bytes.get(at) {
            None => return Ok(at),
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match escaped_unit(bytes, at) {
                // The other escapes have two characters.
                None => at += 2,
                Some(0xd800..=0xdbff) if matches!(escaped_unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
                Some(0xd800..=0xdfff) => return Err(LONE_SURROGATE),
                Some(_) => at += 6,
            },
            Some(_) => at += 1,
        }
    }
}

/// Returns the UTF-16 code unit of the escape `\uXXXX` at `at`. `None` if there is another escape, or none.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    /// A text of random brackets, quotes and escapes, that is perhaps no JSON.
    fn draw(random: &mut Random) -> String {
        const PIECES: &[&str] =
            &["[", "{", "]", "}", "\"", "\\", "u", "\\ud800", "\\uDC00", "\\u0041", "1", ":", ",", "é", "\\\\", "\\\""];
        (0..random.below(30)).map(|_| PIECES[random.below(PIECES.len() as u64) as usize]).collect()
    }

    #[test]
    fn any_text_is_scanned_without_a_panic() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let text = draw(&mut random);
            for depth in [Limit::at_most(1), Limit::at_most(3), Limit::UNLIMITED] {
                let _ = check(&text, depth);
            }
        }
    }

    /// serde_json reads a string only if its surrogates are paired, and values of up to 127 levels.
    #[test]
    fn a_text_passes_if_serde_json_reads_it_as_a_value() {
        let mut random = Random::new(2);
        let mut refused = 0;
        for _ in 0..20_000 {
            let levels = random.below(140) as usize;
            let contents = draw(&mut random).replace('"', "").replace(['[', '{'], "[");
            let text = format!("{}\"{contents}\"{}", "[".repeat(levels), "]".repeat(levels));
            if serde_json::from_str::<&RawValue>(&text).is_err() {
                continue;
            }
            let is_read = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(check(&text, Limit::at_most(127)).is_ok(), is_read, "{text}");
            refused += u32::from(!is_read);
        }
        assert!(refused > 1000, "{refused}");
    }

    #[test]
    fn a_backslash_is_found_at_any_place() {
        for length in 0..40 {
            for other in [0, b'[', b']', b'\\' + 0x80, 0xff] {
                let mut bytes = vec![other; length];
                assert!(!has_backslash(&bytes), "{length} times {other}");
                for at in 0..length {
                    bytes[at] = b'\\';
                    assert!(has_backslash(&bytes), "{length} times {other}, but for {at}");
                    bytes[at] = other;
                }
            }
        }
    }

    #[test]
    fn data_is_one_level_below_its_message() {
        assert_eq!(check_data("[[]]", Limit::at_most(3)), Ok(()));
        assert_eq!(check_data("[[[]]]", Limit::at_most(3)), Err(TOO_DEEP));
        assert_eq!(check_data("1", Limit::at_most(0)), Ok(()));
        assert!(check_data("1,2", Limit::UNLIMITED).is_err());
    }
}
