//! Integers in JSON text, parsed exactly.

/// Smallest magnitude at which a double cannot represent every integer: 2^53 and 2^53 + 1 are the same double.
const BOUND: u64 = 1 << 53;
/// Largest number of digits of an integer below [`BOUND`].
const MAX_DIGITS: i64 = 16;
/// Every number with at most this many digits is below [`BOUND`].
const SAFE_DIGITS: usize = 15;

/// Returns the value of a JSON number (RFC 8259 section 6) if it is integral and smaller than 2^53 in magnitude.
///
/// The notation does not matter: `17`, `17.0` and `1.7e1` are equal, because many clients write every number as a
/// double. The value is exact for any number of digits and any exponent; nothing is rounded.
///
/// Returns `None` for all other JSON values. `json` must be valid JSON.
pub(crate) fn integer(json: &str) -> Option<i64> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    let magnitude = if digits.len() <= SAFE_DIGITS && digits.bytes().all(|c| c.is_ascii_digit()) {
        digits.parse().ok()?
    } else {
        magnitude(digits)?
    };
    let value = i64::try_from(magnitude).ok()?;
    Some(if digits.len() < json.len() { -value } else { value })
}

/// Returns the value of a number without a sign.
fn magnitude(text: &str) -> Option<u64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Not a number but a string, an array, an object or a literal.
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit()) {
        return None;
    }
    let digits = || whole.bytes().chain(fraction.bytes());
    let leading = digits().take_while(|&c| c == b'0').count();
    let count = digits().count();
    if leading == count {
        return Some(0);
    }
    let trailing = digits().rev().take_while(|&c| c == b'0').count();
    // value = significant digits * 10^scale
    let scale = parse_exponent(exponent)? - fraction.len() as i64 + trailing as i64;
    let significant = count - leading - trailing;
    if scale < 0 || scale + significant as i64 > MAX_DIGITS {
        return None;
    }
    let value = digits().skip(leading).take(significant).fold(0, |value, c| value * 10 + u64::from(c - b'0'));
    Some(value * 10_u64.pow(scale as u32)).filter(|&value| value < BOUND)
}

/// Parses an exponent, limited to `MAX_EXPONENT`. A larger exponent gives the same result, because no text has enough
/// digits to compensate for it.
fn parse_exponent(text: &str) -> Option<i64> {
    const MAX_EXPONENT: i64 = 1 << 40;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let exponent = digits.bytes().fold(0, |value: i64, c| MAX_EXPONENT.min(value * 10 + i64::from(c - b'0')));
    Some(if text.starts_with('-') { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spellings: &[&str], expected: Option<i64>) {
        for text in spellings {
            assert_eq!(integer(text), expected, "{text}");
        }
    }

    #[test]
    fn different_notations_of_a_number_are_equal() {
        check(
            &["17", "17.0", "1.7e1", "1.7E+1", "170e-1", "0.017e3", "1700000e-5", "17.000000000000000000000"],
            Some(17),
        );
        check(&["-17", "-17.0", "-1.7e1", "-170e-1", "-0.17e02"], Some(-17));
        check(&["0", "-0", "0.0", "-0.0e5", "0e400", "0e-400", "0.000e99999999999999999999999"], Some(0));
        check(&["1e15", "1000000000000000.0", "0.1e16", "1e+0015"], Some(1_000_000_000_000_000));
        let long = format!("1{}e-2000", "0".repeat(2001));
        check(&[&long, &format!("0.{}1e2003", "0".repeat(2001)), &format!("10.{}", "0".repeat(5000))], Some(10));
    }

    #[test]
    fn the_bound_is_exact() {
        check(&["9007199254740991", "9007199254740991.0", "9.007199254740991e15"], Some(9_007_199_254_740_991));
        check(&["-9007199254740991", "-900719925474099100e-2"], Some(-9_007_199_254_740_991));
        // As a double, 9007199254740991.5 would be rounded, and 1.00000000000000000000000001 would become an integer.
        check(&["9007199254740991.5", "9007199254740992", "-9007199254740992", "9.007199254740992e15"], None);
        check(&["9999999999999999", "1e16", "18446744073709551616", "1e400", "-1e400", "1e99999999999999999999"], None);
        check(&["1.5", "1e-1", "0.1", "1e-400", "1e-99999999999999999999", "1.00000000000000000000000001"], None);
        check(&[&"9".repeat(5000), &format!("0.{}", "9".repeat(5000))], None);
    }

    #[test]
    fn other_json_values_are_refused() {
        check(&["null", "true", "\"17\"", "[17]", "{}", "", "-", "\"1e1\"", "e", ".", "NaN"], None);
    }

    /// Compares with double arithmetic, in a range in which that is exact.
    #[test]
    fn small_numbers_equal_double_arithmetic() {
        for mantissa in ["1", "12", "1.5", "0.25", "100", "7.00", "123.450"] {
            for exponent in -6..8 {
                let text = format!("{mantissa}e{exponent}");
                let double: f64 = format!("{mantissa}e{}", exponent + 6).parse().expect("a number");
                let expected = (double % 1e6 == 0.0).then_some((double / 1e6) as i64);
                check(&[&text, &text.to_uppercase()], expected);
            }
        }
    }
}
