//! What is signed: the time, a dot, and the body. The signature itself is the driver's, which has the secret.

/// Shortest secret, in bytes: half the output of SHA-256.
pub(crate) const MIN_SECRET: usize = 16;

/// Name of the header with the time of sending, in milliseconds since the Unix epoch.
pub(crate) const TIMESTAMP: &str = "X-Lobbyd-Timestamp";
/// Name of the header with the signature.
pub(crate) const SIGNATURE: &str = "X-Lobbyd-Signature";

/// Returns the bytes to sign. A GET has no body.
pub(crate) fn signed_bytes(unix_millis: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = unix_millis.to_string().into_bytes();
    bytes.push(b'.');
    bytes.extend_from_slice(body);
    bytes
}

/// Reads the contents of the file with the secret: one line.
///
/// # Errors
///
/// The rule that the contents break.
pub(crate) fn read_secret(contents: &[u8]) -> Result<Vec<u8>, &'static str> {
    let secret = contents.trim_ascii();
    match secret.len() {
        0..MIN_SECRET => Err("must hold at least 16 characters: `openssl rand -hex 32` makes some"),
        _ if !secret.iter().all(u8::is_ascii_graphic) => {
            Err("must hold one line of visible ASCII characters and nothing else")
        }
        _ => Ok(secret.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_signed_with_the_body() {
        assert_eq!(signed_bytes(1_700_000_000_000, b"{}"), b"1700000000000.{}");
    }

    #[test]
    fn a_secret_is_one_line() {
        assert_eq!(read_secret(b"0123456789abcdef\n"), Ok(b"0123456789abcdef".to_vec()));
        assert!(read_secret(b"short").is_err() && read_secret(b"0123456789abcdef 0").is_err());
    }
}
