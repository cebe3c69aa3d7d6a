//! Whether strict parsers read a JSON text. Some are not able to read what serde_json skips over: values nested too
//! deeply (RFC 8259 section 9 allows a parser to limit the depth), strings that contain an escape for half of a
//! surrogate pair (RFC 8259 section 8.2; RFC 7493 section 2.1 forbids it), and numbers beyond the largest finite double,
//! which some parsers refuse and others read as infinity (RFC 7493 section 2.2).
//!
//! Knows no message and no field.

use serde_json::value::RawValue;

use crate::base::limit::Limit;

const TOO_DEEP: &str = "the message is nested deeper than max_json_depth";
const LONE_SURROGATE: &str = "a string has an escape for half of a surrogate pair";
const TOO_LARGE: &str = "a number is beyond the largest finite double";

/// The largest finite double has this many digits. A number without an exponent needs as many to be larger.
const DIGITS_OF_LARGEST: usize = 309;

/// Checks a message, which must be valid JSON. Its own object or array is the first level.
///
/// # Errors
///
/// The reason why some parsers would not read the message.
pub(super) fn check(json: &str, max_depth: Limit) -> Result<(), &'static str> {
    let bytes = json.as_bytes();
    // The usual message has no escape, no exponent, no long number and not enough brackets, and is not scanned.
    if may_have_escape_or_exponent(bytes) || may_have_long_number(bytes) || may_exceed(bytes, max_depth) {
        scan(bytes, max_depth)
    } else {
        Ok(())
    }
}

/// Returns whether there is a backslash, or an `e` or `E` behind a digit. The last byte of JSON is no backslash, and is not
/// compared with one. May return `true` for other texts: of a digit only the upper four bits are compared.
///
/// It looks at eight bytes at a time and decides once, which takes fewer instructions for a short text than a search.
fn may_have_escape_or_exponent(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    // A byte of the difference is 0 if the byte is a backslash.
    let escape = |word: u64| word ^ (ONES * b'\\' as u64);
    // A byte of the result is 0 if the byte of `word` may be a digit and the byte behind it is an `e`.
    let exponent = |word: u64, next: u64| {
        let digit = (word & (ONES * 0xf0)) ^ (ONES * b'0' as u64);
        digit | ((next | (ONES * 0x20)) ^ (ONES * b'e' as u64))
    };
    // The high bit of a byte is set if the byte is 0. A byte above such a byte may have it too. The other bits mean nothing.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let found = |word: &[u8; 8], next: &[u8; 8]| {
        let (word, next) = (u64::from_ne_bytes(*word), u64::from_ne_bytes(*next));
        zeros(escape(word)) | zeros(exponent(word, next))
    };
    let Some((_, rest)) = bytes.split_first() else { return false };
    match (bytes[..rest.len()].last_chunk(), rest.last_chunk()) {
        // The last words may overlap those before them.
        (Some(last), Some(next)) => {
            let words = bytes.as_chunks().0.iter().zip(rest.as_chunks().0);
            words.fold(found(last, next), |any, (word, next)| any | found(word, next)) & (ONES << 7) != 0
        }
        _ => bytes.contains(&b'\\') || bytes.windows(2).any(|pair| pair[0] & 0xf0 == b'0' && pair[1] | 0x20 == b'e'),
    }
}

/// Returns whether there may be [`DIGITS_OF_LARGEST`] digits in a row. Those in strings are counted too.
fn may_have_long_number(bytes: &[u8]) -> bool {
    // So many digits in a row contain 32 that begin at a multiple of 256.
    const { assert!(255 + 32 <= DIGITS_OF_LARGEST) };
    bytes.len() >= DIGITS_OF_LARGEST
        && bytes
            .chunks(256)
            .any(|chunk| chunk.first_chunk::<32>().is_some_and(|part| part.iter().all(u8::is_ascii_digit)))
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
            b'-' | b'0'..=b'9' => at = end_of_number(bytes, at - 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// Returns the position behind the number that begins at `start`.
fn end_of_number(bytes: &[u8], start: usize) -> Result<usize, &'static str> {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = bytes[start..].iter().take_while(|&byte| is_part(byte)).count();
    let number = &bytes[start..start + length];
    let may_be_large = length >= DIGITS_OF_LARGEST || number.iter().any(|byte| byte | 0x20 == b'e');
    // What is no number is not valid JSON, and is refused for that.
    let read = || str::from_utf8(number).ok()?.parse::<f64>().ok();
    if may_be_large && read().is_some_and(f64::is_infinite) { Err(TOO_LARGE) } else { Ok(start + length) }
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
        const PIECES: &[&str] = &[
            "[", "{", "]", "}", "\"", "\\", "u", "\\ud800", "\\uDC00", "\\u0041", "1", ":", ",", "é", "\\\\", "\\\"",
            "1e999", "-",
        ];
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
    fn an_escape_or_an_exponent_is_found_at_any_place() {
        for length in 0..40 {
            for other in [0, b'[', b']', b'\\' + 0x80, 0xff, b'e', b'3', b'"'] {
                let mut bytes = vec![other; length];
                assert!(!may_have_escape_or_exponent(&bytes), "{length} times {other}");
                for at in 0..length.saturating_sub(1) {
                    bytes[at] = b'\\';
                    assert!(may_have_escape_or_exponent(&bytes), "{length} times {other}, but for {at}");
                    bytes[at] = other;
                }
                for (at, pair) in (1..length).flat_map(|at| [b"0e", b"9E"].map(|pair| (at, pair))) {
                    bytes[at - 1..=at].copy_from_slice(pair);
                    assert!(may_have_escape_or_exponent(&bytes), "{length} times {other}, but for {at}");
                    bytes[at - 1..=at].fill(other);
                }
            }
        }
    }

    /// serde_json refuses a number if it is beyond the largest finite double.
    #[test]
    fn a_number_passes_if_serde_json_reads_it() {
        let mut random = Random::new(3);
        let digits = |random: &mut Random, most: u64| {
            let first = char::from(b'1' + random.below(9) as u8);
            (0..random.below(most)).fold(String::from(first), |text, _| text + &random.below(10).to_string())
        };
        let (mut refused, mut passed) = (0, 0);
        for _ in 0..5000 {
            let sign = ["", "-"][random.below(2) as usize];
            let most = [3, 400][random.below(2) as usize];
            let whole = digits(&mut random, most);
            let part = ["", ".5", ".000", ".123456789"][random.below(4) as usize];
            let exponent = match random.below(5) {
                0 => String::new(),
                1 => format!("e{}", random.below(400)),
                2 => format!("E+{}", random.below(400)),
                3 => format!("e-{}", random.below(400)),
                _ => format!("e000{}", 290 + random.below(30)),
            };
            let pad = "x".repeat(random.below(300) as usize);
            let text = format!(r#"{{"{pad}":[{sign}{whole}{part}{exponent}]}}"#);
            let is_read = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(check(&text, Limit::at_most(127)).is_ok(), is_read, "{text}");
            if is_read { passed += 1 } else { refused += 1 }
        }
        assert!(refused > 1000 && passed > 1000, "{refused} {passed}");
    }

    #[test]
    fn a_long_number_is_found_at_any_place() {
        let digits = "7".repeat(DIGITS_OF_LARGEST);
        for before in 0..600 {
            let text = format!("\"{}\",{digits}", "x".repeat(before));
            assert!(may_have_long_number(text.as_bytes()), "{before}");
            assert_eq!(check(&text, Limit::UNLIMITED), Err(TOO_LARGE), "{before}");
            assert_eq!(check(&text[..text.len() - 1], Limit::UNLIMITED), Ok(()), "{before}");
        }
        assert!(!may_have_long_number("7".repeat(DIGITS_OF_LARGEST - 1).as_bytes()));
        assert!(!may_have_long_number("12345678, ".repeat(1000).as_bytes()));
    }

    #[test]
    fn data_is_one_level_below_its_message() {
        assert_eq!(check_data("[[]]", Limit::at_most(3)), Ok(()));
        assert_eq!(check_data("[[[]]]", Limit::at_most(3)), Err(TOO_DEEP));
        assert_eq!(check_data("1", Limit::at_most(0)), Ok(()));
        assert!(check_data("1,2", Limit::UNLIMITED).is_err());
    }
}
