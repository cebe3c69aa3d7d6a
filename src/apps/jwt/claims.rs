//! Claims (RFC 7519 section 4), and the identity that they describe.

use super::json::{Object, WrongType};
use super::refusal::JwtRefusal;
use crate::Identity;
use crate::admission::{Rate, is_lobby_code, is_user_id};

/// The last second of the year 9999. A later time is a mistake, such as a number of milliseconds.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// What a token must claim.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) audience: Option<String>,
    pub(super) issuer: Option<String>,
    /// Largest difference between the issuer's clock and this one.
    pub(super) leeway_millis: u64,
    pub(super) requires_exp: bool,
}

impl Rules {
    /// Returns the identity that verified claims describe.
    ///
    /// `exp` is checked last, because `token_expired` asks the client to come back with a newer token of the same kind.
    pub(super) fn identity(&self, claims: &[u8], unix_millis: u64) -> Result<Identity, JwtRefusal> {
        let claims = Object::parse(claims).ok_or(JwtRefusal::Claims)?;
        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        let user = claims.string("sub").ok().flatten().filter(|user| is_user_id(user)).ok_or(JwtRefusal::Subject)?;
        let mut identity = Identity::new(user);
        if let Some(code) = claims.string("lobby").map_err(|WrongType| JwtRefusal::Lobby)? {
            if !is_lobby_code(&code) {
                return Err(JwtRefusal::Lobby);
            }
            identity = identity.only_in(code);
        }
        if let Some(tier) = claims.string("tier").map_err(|WrongType| JwtRefusal::Tier)? {
            identity = identity.tier(Rate::of_tier(&tier).ok_or(JwtRefusal::Tier)?);
        }
        if let Some(data) = data(&claims)? {
            identity = identity.data(data.into_bytes());
        }
        if millis(&claims, "nbf")?.is_some_and(|nbf| nbf > unix_millis.saturating_add(self.leeway_millis)) {
            return Err(JwtRefusal::NotYet);
        }
        match millis(&claims, "exp")?.map(|exp| exp.saturating_add(self.leeway_millis)) {
            Some(end) if end <= unix_millis => Err(JwtRefusal::Expired),
            Some(end) => Ok(identity.expires_at_unix_millis(end)),
            None if self.requires_exp => Err(JwtRefusal::NoExpiry),
            None => Ok(identity),
        }
    }

    fn check_issuer(&self, claims: &Object<'_>) -> Result<(), JwtRefusal> {
        let Some(expected) = &self.issuer else { return Ok(()) };
        let issuer = claims.string("iss").map_err(|WrongType| JwtRefusal::Issuer)?;
        if issuer.as_ref() == Some(expected) { Ok(()) } else { Err(JwtRefusal::Issuer) }
    }

    /// A token with an audience is not for a server that has no name (RFC 7519 section 4.1.3).
    fn check_audience(&self, claims: &Object<'_>) -> Result<(), JwtRefusal> {
        let audiences = match claims.string("aud") {
            Ok(audience) => audience.map(|audience| vec![audience]),
            Err(WrongType) => claims.strings("aud").map_err(|WrongType| JwtRefusal::Audience)?,
        };
        match (&self.audience, audiences) {
            (None, None) => Ok(()),
            (Some(expected), Some(audiences)) if audiences.contains(expected) => Ok(()),
            _ => Err(JwtRefusal::Audience),
        }
    }
}

/// Returns `role` and `data` as one JSON object, with their JSON text unchanged.
fn data(claims: &Object<'_>) -> Result<Option<String>, JwtRefusal> {
    claims.string("role").map_err(|WrongType| JwtRefusal::Role)?;
    let members = ["role", "data"].map(|name| claims.raw(name).map(|text| format!("\"{name}\":{text}")));
    let members = members.into_iter().flatten().collect::<Vec<_>>();
    Ok((!members.is_empty()).then(|| format!("{{{}}}", members.join(","))))
}

/// Returns a NumericDate (RFC 7519 section 2): seconds since the Unix epoch, which may have a fraction.
fn millis(claims: &Object<'_>, name: &str) -> Result<Option<u64>, JwtRefusal> {
    match claims.number(name) {
        Ok(None) => Ok(None),
        Ok(Some(seconds)) if (0.0..=MAX_SECONDS).contains(&seconds) => Ok(Some((seconds * 1000.0) as u64)),
        Ok(Some(_)) | Err(WrongType) => Err(JwtRefusal::Time),
    }
}
