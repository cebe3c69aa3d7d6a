//! Keys and tokens for tests of JWTs. The keys are in `tests/keys`.

use std::fs;
use std::path::Path;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::crypto::sign;
pub use jsonwebtoken::{Algorithm, EncodingKey};
use lobbyd::apps::JwtKeys;

/// The secret of HS256. It is in the set of keys too.
pub const SECRET: &[u8] = b"a secret of the tests, not of a server";
/// Valid from the start of a [`World`](super::scenario::World), for a minute.
pub const CLAIMS: &str = r#"{"sub":"ann","exp":1000060}"#;

/// The contents of a file in `tests/keys`.
pub fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The contents of a PEM file in `tests/keys`.
pub fn der(name: &str) -> Vec<u8> {
    let text = String::from_utf8(file(name)).expect("ASCII");
    let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64.decode(lines.as_bytes()).expect("base64")
}

/// The keys that verify tokens of one algorithm.
pub fn keys(alg: Algorithm) -> JwtKeys {
    let keys = match alg {
        Algorithm::HS256 => JwtKeys::secret(SECRET),
        Algorithm::RS256 => JwtKeys::pem(&file("rsa.pub.pem")),
        Algorithm::ES256 => JwtKeys::pem(&file("ec.pub.pem")),
        Algorithm::EdDSA => JwtKeys::pem(&file("ed.pub.pem")),
        other => panic!("no key for {other:?}"),
    };
    keys.expect("a valid key")
}

/// The set with a key for each algorithm: `h1`, `r1`, `e1` and `d1`.
pub fn set() -> JwtKeys {
    JwtKeys::jwks(&file("set.jwks.json")).expect("a valid set")
}

fn private_key(alg: Algorithm) -> EncodingKey {
    match alg {
        Algorithm::HS256 => EncodingKey::from_secret(SECRET),
        Algorithm::RS256 => EncodingKey::from_rsa_der(&der("rsa.pem")),
        Algorithm::ES256 => EncodingKey::from_ec_der(&der("ec.pem")),
        Algorithm::EdDSA => EncodingKey::from_ed_der(&der("ed.pem")),
        other => panic!("no key for {other:?}"),
    }
}

fn input(header: &str, claims: &[u8]) -> String {
    [header.as_bytes(), claims].map(|part| BASE64URL_NOPAD.encode(part)).join(".")
}

/// A token with this text as its header and claims, signed by the test key of the algorithm.
pub fn signed(alg: Algorithm, header: &str, claims: &str) -> String {
    signed_by(alg, &private_key(alg), header, claims.as_bytes())
}

pub fn signed_by(alg: Algorithm, key: &EncodingKey, header: &str, claims: &[u8]) -> String {
    let input = input(header, claims);
    let signature = sign(input.as_bytes(), key, alg).expect("the key is valid");
    format!("{input}.{signature}")
}

/// A token with any bytes as its signature.
pub fn with_signature(header: &str, claims: &str, signature: &[u8]) -> String {
    format!("{}.{}", input(header, claims.as_bytes()), BASE64URL_NOPAD.encode(signature))
}

/// The token with another signature.
pub fn change_signature(token: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let (input, signature) = token.rsplit_once('.').expect("a token has three parts");
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base64url");
    format!("{input}.{}", BASE64URL_NOPAD.encode(&change(signature)))
}

/// A token for a user, by HS256 with [`SECRET`].
pub fn token(claims: &str) -> String {
    signed(Algorithm::HS256, r#"{"alg":"HS256"}"#, claims)
}
