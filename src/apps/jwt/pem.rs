//! Public keys in PEM form (RFC 7468): SubjectPublicKeyInfo of RFC 5280 section 4.1.2.7, and RSAPublicKey of RFC 8017
//! appendix A.1.1.

use data_encoding::BASE64;

use super::material::{ed25519, es256, rs256};
use super::signature::Key;
use crate::base::der::{BIT_STRING, Der, INTEGER, SEQUENCE};

/// AlgorithmIdentifiers: OID and parameters (RFC 3279 section 2.3.1, RFC 5480 section 2.1.1, RFC 8410 section 3).
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const EC_P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";

/// Reads the one public key of a PEM file.
pub(super) fn read(text: &[u8]) -> Result<Key, String> {
    let (label, der) = block(text)?;
    let key = match label {
        "PUBLIC KEY" => public_key_info(&der),
        "RSA PUBLIC KEY" => rsa_public_key(&der),
        _ if label.ends_with("PRIVATE KEY") => {
            return Err("it is a private key, which only the issuer of tokens may have; write its public key with \
                        `openssl pkey -pubout`"
                .into());
        }
        "CERTIFICATE" => {
            return Err("it is a certificate; write its public key with `openssl x509 -noout -pubkey`".into());
        }
        _ => return Err("its label is neither PUBLIC KEY nor RSA PUBLIC KEY".into()),
    };
    key.unwrap_or_else(|| Err("its contents are no public key in DER".into()))
}

/// Returns the label and the contents of the only block. Text around it is ignored.
fn block(text: &[u8]) -> Result<(&str, Vec<u8>), String> {
    let text = str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let mut begins = text.match_indices("-----BEGIN ");
    let (start, begin) = begins.next().ok_or("it has no line -----BEGIN PUBLIC KEY-----")?;
    if begins.next().is_some() {
        return Err("it has several blocks; for several keys use a JWKS".into());
    }
    let (label, rest) = text[start + begin.len()..].split_once("-----").ok_or("its first line has no end")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).ok_or("it has no line -----END …-----")?;
    let body: String = body.split_ascii_whitespace().collect();
    Ok((label, BASE64.decode(body.as_bytes()).map_err(|_| "its contents are no base64")?))
}

/// Parses a SubjectPublicKeyInfo. `None` if it is malformed.
fn public_key_info(der: &[u8]) -> Option<Result<Key, String>> {
    let mut info = Der(Der(der).take_last(SEQUENCE)?);
    let algorithm = info.take(SEQUENCE)?;
    let (unused_bits, key) = info.take_last(BIT_STRING)?.split_first()?;
    if *unused_bits != 0 {
        return None;
    }
    match algorithm {
        RSA => rsa_public_key(key),
        EC_P256 => match key.try_into() {
            Ok(point) if key[0] == 4 => Some(es256(point)),
            _ => Some(Err("its point is compressed; write it with `openssl ec -pubin -conv_form uncompressed`".into())),
        },
        ED25519 => key.try_into().ok().map(ed25519),
        _ => Some(Err("its kind is not supported: it must be RSA, EC on P-256 (prime256v1), or Ed25519".into())),
    }
}

fn rsa_public_key(der: &[u8]) -> Option<Result<Key, String>> {
    let mut numbers = Der(Der(der).take_last(SEQUENCE)?);
    let modulus = numbers.take(INTEGER)?;
    let exponent = numbers.take_last(INTEGER)?;
    // The first bit is the sign.
    let is_positive = |number: &[u8]| number.first().is_some_and(|first| *first < 0x80);
    (is_positive(modulus) && is_positive(exponent)).then(|| rs256(modulus, exponent))
}
