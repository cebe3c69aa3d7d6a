//! The keys with which tokens are checked, and the choice of the key of a token.

use std::fmt;

use super::jwks::{NamedKey, read as read_jwks};
use super::material::hs256;
use super::pem::read as read_pem;
use super::refusal::JwtRefusal;
use super::signature::{Alg, Key, self_test};
use crate::base::der::{Der, INTEGER, SEQUENCE};

/// The keys with which a [`Jwt`](super::Jwt) checks signatures: a secret, a public key, or a set of keys.
///
/// The key decides the algorithm, and a token that names another one is refused (RFC 8725 section 3.1): a token that is
/// signed by HS256 with the text of a public key as its secret is not accepted.
///
/// ```
/// use lobbyd::apps::JwtKeys;
///
/// let keys = JwtKeys::secret(b"not a good secret, but a long one\n").unwrap();
/// assert_eq!(keys.len(), 1);
/// assert!(JwtKeys::secret(b"short").unwrap_err()[0].starts_with("the secret has 5 bytes, fewer than 32"));
///
/// let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"2026","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// assert_eq!(JwtKeys::jwks(set.as_bytes()).unwrap().len(), 1);
/// ```
#[derive(Clone)]
pub struct JwtKeys {
    form: Form,
    /// At least one, unless they are still to be fetched. A key that is not of a set has no name, and the name in the token is ignored.
    keys: Vec<NamedKey>,
    unused: Vec<String>,
}

/// The form of a file of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Secret,
    Pem,
    Jwks,
    /// The same, from a URL.
    Fetched,
}

/// Shows the form and the number of keys, never a key.
impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKeys({:?}, {})", self.form, self.len())
    }
}

impl JwtKeys {
    /// Most bytes of a file of keys.
    pub const MAX_FILE: usize = 1 << 20;

    /// The secret of HS256, which the issuer of the tokens shares: all bytes, without one line end at the end.
    ///
    /// A secret that ends in a line end is written as a set with one key of the type `oct`: see [`jwks`](Self::jwks).
    ///
    /// # Errors
    ///
    /// The problem: fewer than 32 bytes, or a key set, or a public key in PEM, DER or SSH form, which is no secret.
    pub fn secret(contents: &[u8]) -> Result<JwtKeys, Vec<String>> {
        JwtKeys::read(Form::Secret, contents)
    }

    /// A public key in PEM form, as `openssl pkey -pubout` writes it: RSA of at least 2048 bits for RS256, EC on P-256 for
    /// ES256, or Ed25519 for EdDSA. Also RSA as `RSA PUBLIC KEY`.
    ///
    /// # Errors
    ///
    /// The problem. It contains no part of the file.
    pub fn pem(contents: &[u8]) -> Result<JwtKeys, Vec<String>> {
        JwtKeys::read(Form::Pem, contents)
    }

    /// A set of keys in JSON (JWKS, RFC 7517), of the types `RSA`, `EC` on `P-256`, `OKP` on `Ed25519`, and `oct`.
    ///
    /// Keys of other types, for other algorithms and for encryption are left out: see [`unused`](Self::unused). Two keys
    /// may have the same `kid` only if their algorithms differ. A token must name its key with `kid`; without it, it is
    /// checked with the only key of its algorithm. A set has at most 100 keys.
    ///
    /// # Errors
    ///
    /// The first five problems, and the number of the others. They contain no part of the file.
    pub fn jwks(contents: &[u8]) -> Result<JwtKeys, Vec<String>> {
        JwtKeys::read(Form::Jwks, contents)
    }

    /// A set of keys that is fetched from [`jwt_jwks_url`](crate::Config::jwt_jwks_url). It has no key until then.
    ///
    /// # Errors
    ///
    /// The cryptography does not work.
    pub fn to_fetch() -> Result<JwtKeys, Vec<String>> {
        self_test().map_err(|problem| vec![problem])?;
        Ok(JwtKeys { form: Form::Fetched, keys: Vec::new(), unused: Vec::new() })
    }

    /// Whether another fetch may bring the key with this name. A token without a name waits for the first keys only.
    pub(super) fn may_be_fetched(&self, kid: Option<&str>) -> bool {
        let is_unknown = kid.is_some_and(|kid| self.keys.iter().all(|named| named.kid.as_deref() != Some(kid)));
        self.form == Form::Fetched && (is_unknown || self.keys.is_empty())
    }

    /// Reads new contents of the same form.
    pub(super) fn read_again(&self, contents: &[u8]) -> Result<JwtKeys, Vec<String>> {
        JwtKeys::read(self.form, contents)
    }

    fn read(form: Form, contents: &[u8]) -> Result<JwtKeys, Vec<String>> {
        let single = |key: Result<Key, String>| key.map(|key| vec![NamedKey { kid: None, key }]).map_err(|p| vec![p]);
        let (keys, unused) = match form {
            Form::Secret => (single(secret(contents))?, Vec::new()),
            Form::Pem => (single(read_pem(contents))?, Vec::new()),
            Form::Jwks | Form::Fetched => read_jwks(contents).map(|set| (set.keys, set.unused))?,
        };
        // At the start, instead of at the first token.
        self_test().map_err(|problem| vec![problem])?;
        Ok(JwtKeys { form, keys, unused })
    }

    /// Returns the number of keys in use.
    #[expect(clippy::len_without_is_empty, reason = "only keys that are still to be fetched are none")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns a sentence for each key of a set that is left out, with its position and the cause: for the first five, and
    /// then the number of the others.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// Returns the key for a token with this header.
    pub(super) fn key_for(&self, alg: Alg, kid: Option<&str>) -> Result<&Key, JwtRefusal> {
        let of_alg = || self.keys.iter().filter(|named| named.key.alg() == alg);
        let mut candidates = of_alg().filter(|named| match (self.form, kid) {
            (Form::Jwks | Form::Fetched, Some(kid)) => named.kid.as_deref() == Some(kid),
            _ => true,
        });
        match (candidates.next(), candidates.next()) {
            (Some(named), None) => Ok(&named.key),
            (None, _) if of_alg().next().is_none() => Err(JwtRefusal::Algorithm),
            _ => Err(JwtRefusal::Key),
        }
    }
}

fn secret(contents: &[u8]) -> Result<Key, String> {
    if contents.windows(10).any(|window| window == b"-----BEGIN") {
        return Err("it is a key in PEM form and no secret; read it as a public key".into());
    }
    if contents.starts_with(b"\xef\xbb\xbf") {
        return Err("it begins with a byte order mark; save it without one".into());
    }
    let text = contents.trim_ascii_start();
    if text.starts_with(b"{") {
        return Err("it is a JSON object and no secret; if it is a key set, use --jwt-jwks-file".into());
    }
    let ssh: [&[u8]; 5] = [b"ssh-", b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-sha2-", b"---- BEGIN SSH2"];
    if ssh.iter().any(|start| text.starts_with(start)) {
        return Err("it is a public key of SSH and no secret; create one with `openssl rand -hex 32`".into());
    }
    if is_der(contents) {
        return Err("it is a key or certificate in DER form and no secret; read it as a public key in PEM form".into());
    }
    let line = contents.strip_suffix(b"\n").unwrap_or(contents);
    hs256(line.strip_suffix(b"\r").filter(|_| line.len() < contents.len()).unwrap_or(line))
}

/// Whether the contents are one SEQUENCE of DER (X.690 section 8.9) that begins with a SEQUENCE or an INTEGER, as keys and
/// certificates do. A printable secret may begin like it (`0` is the tag 0x30), but DER is not printable.
fn is_der(contents: &[u8]) -> bool {
    let mut rest = Der(contents);
    let Some(sequence) = rest.take(SEQUENCE) else { return false };
    let is_printable = contents.trim_ascii_end().iter().all(|byte| (b' '..=b'~').contains(byte));
    // A line end may have been added.
    matches!(sequence.first(), Some(&(SEQUENCE | INTEGER))) && rest.0.len() <= 2 && !is_printable
}
