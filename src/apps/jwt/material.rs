//! Keys from their numbers and bytes, with the rules that all forms of keys share.

use super::signature::Key;

/// Shortest secret of HS256: as long as its hash (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;
/// Sizes of RSA keys in bits: the smallest of RFC 7518 section 3.3, and a bound for the time of a check.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The y coordinates of the points of order 1, 2, 4 and 8 on edwards25519, little-endian: 1, p - 1, 0, and two more. Then
/// the forms of 0 and 1 that are not reduced modulo p.
const SMALL_ORDER: [[u8; 32]; 7] = [
    *b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    near_p(0xec),
    [0; 32],
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    near_p(0xed),
    near_p(0xee),
];

/// 2^255 - 256 + `low`, little-endian. p is 2^255 - 19.
const fn near_p(low: u8) -> [u8; 32] {
    let mut y = [0xff; 32];
    y[0] = low;
    y[31] = 0x7f;
    y
}

pub(super) fn hs256(secret: &[u8]) -> Result<Key, String> {
    if secret.len() < MIN_SECRET {
        return Err(format!(
            "the secret has {} bytes, fewer than {MIN_SECRET} (RFC 7518 section 3.2); create one with `openssl rand -hex 32`",
            secret.len()
        ));
    }
    Ok(Key::hs256(secret))
}

/// A key with this modulus and exponent, big-endian.
pub(super) fn rs256(modulus: &[u8], exponent: &[u8]) -> Result<Key, String> {
    let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        let (min, max) = RSA_BITS.into_inner();
        return Err(format!("the RSA key has {bits} bits, and must have {min} to {max}"));
    }
    // With the exponent 1 every message is its own signature.
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !is_odd(modulus) || !is_odd(exponent) || exponent == [1] || exponent.len() > 4 {
        return Err("the RSA key has an invalid modulus or exponent".into());
    }
    Ok(Key::rs256(modulus, exponent))
}

/// A key with this uncompressed point on P-256.
pub(super) fn es256(point: &[u8; 65]) -> Result<Key, String> {
    Ok(Key::es256(point))
}

/// A key with this point on edwards25519, encoded as in RFC 8032 section 5.1.2.
pub(super) fn ed25519(point: &[u8; 32]) -> Result<Key, String> {
    let mut y = *point;
    y[31] &= 0x7f;
    if SMALL_ORDER.contains(&y) {
        return Err("the Ed25519 key is a point of small order: signatures by it can be forged".into());
    }
    Ok(Key::ed25519(point))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
