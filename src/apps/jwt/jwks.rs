//! Sets of keys in JSON: JWKS (RFC 7517 section 5).

use data_encoding::BASE64URL_NOPAD;
use serde_json::value::RawValue;

use super::json::{Object, WrongType};
use super::material::{ed25519, es256, hs256, rs256};
use super::signature::{Alg, Key};

/// Most keys of a set. Providers publish two or three; the bound limits the time that a set takes in the loop.
const MAX_KEYS: usize = 100;
/// Most sentences about the keys of a set: they become one line of the log.
const MAX_SENTENCES: usize = 5;

/// A key of a set, with its name if it has one.
#[derive(Clone)]
pub(super) struct NamedKey {
    pub(super) kid: Option<String>,
    pub(super) key: Key,
}

/// The keys of a set, and why others are not used.
pub(super) struct Set {
    pub(super) keys: Vec<NamedKey>,
    /// Sentences such as `key 2: its use is not sig`. The last one may be `and 7 more`.
    pub(super) unused: Vec<String>,
}

/// Why a key cannot be used.
enum Fault {
    /// It is for something else; the others can be used.
    Unused(&'static str),
    /// The set is wrong.
    Problem(String),
}

impl From<WrongType> for Fault {
    fn from(WrongType: WrongType) -> Fault {
        Fault::Problem("a member has the wrong type (RFC 7517 section 4)".into())
    }
}

impl From<String> for Fault {
    fn from(problem: String) -> Fault {
        Fault::Problem(problem)
    }
}

/// Reads a set. Keys that this program cannot use are left out (RFC 7517 section 5).
///
/// # Errors
///
/// The first problems. They contain no part of the set.
pub(super) fn read(text: &[u8]) -> Result<Set, Vec<String>> {
    let list = Object::parse(text).ok_or_else(|| vec!["it is not a JSON object with each member once".to_owned()])?;
    let list = list.raw("keys").and_then(|keys| serde_json::from_str::<Vec<&RawValue>>(keys).ok());
    let list = list.ok_or_else(|| vec!["it is no JWKS: it has no list `keys`".to_owned()])?;
    if list.len() > MAX_KEYS {
        return Err(vec![format!("it has {} keys, more than {MAX_KEYS}", list.len())]);
    }
    let (mut keys, mut unused, mut problems) = (Vec::<NamedKey>::new(), Vec::new(), Vec::new());
    for (at, text) in list.iter().enumerate() {
        match read_key(text.get()) {
            Ok(new) if keys.iter().any(|old| old.kid == new.kid && old.key.alg() == new.key.alg()) => {
                problems.push(format!("key {}: an earlier key has the same kid and algorithm", at + 1));
            }
            Ok(new) => keys.push(new),
            Err(Fault::Unused(cause)) => unused.push(format!("key {}: {cause}", at + 1)),
            Err(Fault::Problem(problem)) => problems.push(format!("key {}: {problem}", at + 1)),
        }
    }
    let unused = shortened(unused);
    if !problems.is_empty() {
        return Err(shortened(problems));
    }
    if keys.is_empty() {
        return Err([vec!["it has no key for HS256, RS256, ES256 or EdDSA".to_owned()], unused].concat());
    }
    Ok(Set { keys, unused })
}

/// Returns the first sentences, and the number of the others.
fn shortened(mut sentences: Vec<String>) -> Vec<String> {
    if sentences.len() > MAX_SENTENCES {
        let more = sentences.len() - MAX_SENTENCES;
        sentences.truncate(MAX_SENTENCES);
        sentences.push(format!("and {more} more"));
    }
    sentences
}

fn read_key(text: &str) -> Result<NamedKey, Fault> {
    let jwk = Object::parse(text.as_bytes()).ok_or_else(|| "it is no JSON object".to_owned())?;
    if jwk.string("use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(Fault::Unused("its use is not sig"));
    }
    if jwk.strings("key_ops")?.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return Err(Fault::Unused("its key_ops are without verify"));
    }
    let curve = jwk.string("crv")?;
    let kind = jwk.string("kty")?.ok_or_else(|| "it has no kty".to_owned())?;
    let alg = match (kind.as_str(), curve.as_deref()) {
        ("RSA", _) => Alg::Rs256,
        ("EC", Some("P-256")) => Alg::Es256,
        ("OKP", Some("Ed25519")) => Alg::Ed25519,
        ("oct", _) => Alg::Hs256,
        _ => return Err(Fault::Unused("its kty and crv are not supported")),
    };
    if jwk.string("alg")?.is_some_and(|name| Alg::named(&name) != Some(alg)) {
        return Err(Fault::Unused("its alg is not supported for its kty"));
    }
    if alg != Alg::Hs256 && jwk.has("d") {
        return Err("it is a private key, which only the issuer of tokens may have".to_owned().into());
    }
    let key = match alg {
        Alg::Hs256 => hs256(&bytes(&jwk, "k")?)?,
        Alg::Rs256 => rs256(&bytes(&jwk, "n")?, &bytes(&jwk, "e")?)?,
        Alg::Es256 => {
            let [x, y] = [fixed::<32>(&jwk, "x")?, fixed::<32>(&jwk, "y")?];
            let mut point = [4; 65];
            point[1..33].copy_from_slice(&x);
            point[33..].copy_from_slice(&y);
            es256(&point)?
        }
        Alg::Ed25519 => ed25519(&fixed(&jwk, "x")?)?,
    };
    Ok(NamedKey { kid: jwk.string("kid")?, key })
}

/// Returns a member in base64url without padding.
fn bytes(jwk: &Object<'_>, name: &str) -> Result<Vec<u8>, Fault> {
    let text = jwk.string(name)?.ok_or_else(|| format!("it has no {name}"))?;
    Ok(BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| format!("its {name} is no base64url without padding"))?)
}

/// Returns a member of fixed length (RFC 7518 section 6.2.1.2, RFC 8037 section 2).
fn fixed<const LENGTH: usize>(jwk: &Object<'_>, name: &str) -> Result<[u8; LENGTH], Fault> {
    let bytes = bytes(jwk, name)?;
    Ok(bytes.try_into().map_err(|_| format!("its {name} has not {LENGTH} bytes"))?)
}
