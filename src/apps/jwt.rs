//! Authentication by JSON Web Tokens (RFC 7519), signed as a JWS in compact form (RFC 7515).
//!
//! A token is data of the client until its signature has been checked; only then its claims are parsed. The order is: form,
//! header, key, length of the signature, signature, claims. All of it is a function of the token, the keys and the time of
//! the turn: no file and no clock is read here.

mod claims;
mod json;
mod jwks;
mod keys;
mod material;
mod pem;
mod refusal;
mod signature;

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use log::{debug, info, warn};

use self::claims::Rules;
use self::json::{Object, WrongType};
pub use self::keys::JwtKeys;
pub use self::refusal::JwtRefusal;
use self::signature::Alg;
use crate::{Authorization, ConnId, Context, Identity, Request};

/// Authenticates users by JSON Web Tokens: for the built-in applications as [`Auth::Jwt`](super::Auth::Jwt), and for
/// [`App::authorize`](crate::App::authorize) of others.
///
/// Accepts HS256, RS256, ES256 and EdDSA with Ed25519. `sub` is the user, and `exp` the expiry. The guide's page on
/// security lists the claims. `role` and `data` reach the application as [`Member::data`](crate::Member::data): a JSON
/// object with these two members, each only if the token has it, and no data without both.
///
/// With the cargo feature `jwt`.
///
/// ```
/// use lobbyd::apps::{Jwt, JwtKeys, JwtRefusal};
/// use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Request};
///
/// /// Admits only players of the ladder.
/// struct Ladder {
///     jwt: Jwt,
/// }
///
/// impl App for Ladder {
///     const PROTOCOL: Protocol = Protocol::Json;
///
///     fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
///         match self.jwt.authorize(cx, request) {
///             Authorization::Allow(identity) => Authorization::Allow(identity.only_in("ladder")),
///             refused => refused,
///         }
///     }
///
///     fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
///         self.jwt.reload(cx, contents);
///     }
///
///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
/// }
///
/// let keys = JwtKeys::secret(b"not a good secret, but a long one").unwrap();
/// let ladder = Ladder { jwt: Jwt::new(keys).audience("ladder") };
///
/// // A token without a server, for example in a test.
/// let refusal = ladder.jwt.check("eyJhbGciOiJub25lIn0.e30.", 1_700_000_000_000).unwrap_err();
/// assert_eq!(refusal, JwtRefusal::Algorithm);
/// ```
#[derive(Clone, Debug)]
pub struct Jwt {
    keys: JwtKeys,
    rules: Rules,
}

impl Jwt {
    /// The default of [`leeway`](Self::leeway).
    pub const LEEWAY: Duration = Duration::from_secs(10);

    /// Accepts tokens that are signed by one of these keys and have an `exp`.
    pub fn new(keys: JwtKeys) -> Jwt {
        let rules = Rules { audience: None, issuer: None, leeway_millis: 0, requires_exp: true };
        Jwt { keys, rules }.leeway(Jwt::LEEWAY)
    }

    /// Requires that `aud` is this audience or a list that contains it. Without a call of this, tokens with `aud` are
    /// refused (RFC 7519 section 4.1.3).
    pub fn audience(mut self, audience: impl Into<String>) -> Jwt {
        self.rules.audience = Some(audience.into());
        self
    }

    /// Requires that `iss` is this issuer.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Jwt {
        self.rules.issuer = Some(issuer.into());
        self
    }

    /// Sets the largest difference between the issuer's clock and the server's: tokens are valid from `nbf` minus this
    /// until `exp` plus this.
    pub fn leeway(mut self, leeway: Duration) -> Jwt {
        self.rules.leeway_millis = u64::try_from(leeway.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Also accepts tokens without `exp`, which are valid for ever.
    pub fn exp_is_optional(mut self) -> Jwt {
        self.rules.requires_exp = false;
        self
    }

    /// Returns the keys in use.
    pub fn keys(&self) -> &JwtKeys {
        &self.keys
    }

    /// Returns the answer for [`App::authorize`](crate::App::authorize). The reason of a refusal is logged at the level
    /// debug, without the token.
    ///
    /// With [`JwtKeys::to_fetch`], a token with an unknown key waits until the keys were fetched again: see
    /// [`Context::await_keys`].
    pub fn authorize(&self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        let conn = request.conn();
        let Some(token) = request.token() else { return refuse(conn, JwtRefusal::Missing) };
        match self.check(token, cx.unix_millis()) {
            Ok(identity) => Authorization::Allow(identity),
            Err(JwtRefusal::Key | JwtRefusal::Algorithm) if self.lacks_key_of(token) => cx.await_keys(conn, token),
            Err(refusal) => refuse(conn, refusal),
        }
    }

    /// Returns the answer for [`App::authorize_again`](crate::App::authorize_again). An unknown key is refused then.
    pub fn authorize_again(&self, cx: &Context<'_>, conn: ConnId, token: &str) -> Authorization {
        match self.check(token, cx.unix_millis()) {
            Ok(identity) => Authorization::Allow(identity),
            Err(refusal) => refuse(conn, refusal),
        }
    }

    /// Whether the keys are fetched, and the token names one that is not among them.
    fn lacks_key_of(&self, token: &str) -> bool {
        let header = token.split('.').next().and_then(|header| BASE64URL_NOPAD.decode(header.as_bytes()).ok());
        let read = header.and_then(|header| read_header(&header).ok());
        read.is_some_and(|(_, kid)| self.keys.may_be_fetched(kid.as_deref()))
    }

    /// Checks a token at a wall time in milliseconds since the Unix epoch, and returns the identity of its user. The engine
    /// checks the lobby of the identity.
    ///
    /// # Errors
    ///
    /// Why the token is refused.
    pub fn check(&self, token: &str, unix_millis: u64) -> Result<Identity, JwtRefusal> {
        let (input, signature) = token.rsplit_once('.').ok_or(JwtRefusal::Form)?;
        let (header, claims) = input.split_once('.').ok_or(JwtRefusal::Form)?;
        // Strict (RFC 7515 appendix C): no padding, no white space, and no bits after the last byte. So two texts of one
        // signature do not exist.
        let [header, claims, signature] =
            [header, claims, signature].map(|part| BASE64URL_NOPAD.decode(part.as_bytes()));
        let (Ok(header), Ok(claims), Ok(signature)) = (header, claims, signature) else { return Err(JwtRefusal::Form) };
        let (alg, kid) = read_header(&header)?;
        if !self.keys.key_for(alg, kid.as_deref())?.verifies(input.as_bytes(), &signature) {
            return Err(JwtRefusal::Signature);
        }
        self.rules.identity(&claims, unix_millis)
    }

    /// Replaces the keys by those of a file of the same form, unless it is invalid: for
    /// [`App::on_reload`](crate::App::on_reload). The result is logged, and keys that were fetched in vain are
    /// fetched again soon: see [`Context::refuse_reload`]. The new keys apply to new connections only.
    pub fn reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        match self.keys.read_again(contents) {
            Ok(keys) => {
                info!("{} keys read", keys.len());
                self.keys = keys;
                self.log_unused();
            }
            Err(problems) => {
                warn!("the old keys stay in force: {}", problems.join("; "));
                cx.refuse_reload();
            }
        }
    }

    /// Logs the keys of a set that are left out, in one line.
    pub fn log_unused(&self) {
        if !self.keys.unused().is_empty() {
            info!("keys that are not used: {}", self.keys.unused().join("; "));
        }
    }
}

fn refuse(conn: ConnId, refusal: JwtRefusal) -> Authorization {
    debug!("conn={conn} the token is refused: {refusal}");
    Authorization::Refuse(refusal.close_reason())
}

/// Returns the algorithm and the name of the key in a header (RFC 7515 section 4).
///
/// A key in the header (`jwk`, `x5c`) and an address of one (`jku`, `x5u`) are never used.
fn read_header(header: &[u8]) -> Result<(Alg, Option<String>), JwtRefusal> {
    let header = Object::parse(header).ok_or(JwtRefusal::Header)?;
    let string = |name| header.string(name).map_err(|WrongType| JwtRefusal::Header);
    // An unknown extension in `crit` must be refused (RFC 7515 section 4.1.11), and none is known here. `b64` needs `crit`
    // (RFC 7797 section 6). `cty` stands for a token inside the token (RFC 7519 section 5.2).
    if ["crit", "b64", "cty"].iter().any(|name| header.has(name)) {
        return Err(JwtRefusal::Extension);
    }
    // Other types are for other purposes, for example `logout+jwt`, and signed by the same keys (RFC 8725 section 3.11).
    let is_known =
        |kind: &str| ["JWT", "at+jwt", "application/at+jwt"].iter().any(|name| name.eq_ignore_ascii_case(kind));
    if string("typ")?.is_some_and(|kind| !is_known(&kind)) {
        return Err(JwtRefusal::Extension);
    }
    let alg = string("alg")?.ok_or(JwtRefusal::Header)?;
    Ok((Alg::named(&alg).ok_or(JwtRefusal::Algorithm)?, string("kid")?))
}
