//! Why a token is refused.

use std::fmt;

use crate::CloseReason;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        /// Why a token is refused. For the log: the client is told only the [close reason](JwtRefusal::close_reason).
        ///
        /// It contains no part of the token. [`Jwt`](super::Jwt) has an example.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum JwtRefusal {
            $($(#[doc = $doc])+ $name,)+
        }

        impl fmt::Display for JwtRefusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(JwtRefusal::$name => $text,)+
                })
            }
        }
    };
}

refusals! {
    /// The request has no token.
    Missing = "there is no token";
    /// It is not a JWS in compact form (RFC 7515 section 7.1): three parts in base64url without padding.
    Form = "it is not three parts of base64url without padding, separated by dots";
    /// Its header is not a JSON object with each member once.
    Header = "its header is not a JSON object with each member once, of the type that RFC 7515 defines";
    /// Its header names an extension (`crit`, `b64`) or a content (`cty`, `typ`) that is not supported.
    Extension = "its header has crit, b64 or cty, or a typ other than JWT and at+jwt";
    /// No key has the algorithm that its header names.
    Algorithm = "its alg is not that of a key";
    /// No key has its `kid`.
    Key = "its kid is not that of a key, or it has none and several keys have its alg";
    /// Its signature is not one by this key.
    Signature = "its signature is wrong";
    /// Its claims are not a JSON object with each member once.
    Claims = "its claims are not a JSON object with each member once";
    /// `sub` is missing or no user id.
    Subject = "sub is missing or no user id: a string of 1 to 128 bytes without control characters";
    /// `iss` is not the configured issuer.
    Issuer = "iss is not the configured issuer";
    /// `aud` does not contain the configured audience; or it is present, and no audience is configured.
    Audience = "aud does not contain the configured audience, or it is present and none is configured";
    /// `lobby` is no code of a lobby.
    Lobby = "lobby is no code of a lobby";
    /// `tier` is not a tier.
    Tier = "tier is none of free, pro, enterprise";
    /// `role` is no string.
    Role = "role is no string";
    /// `exp` or `nbf` is no time.
    Time = "exp or nbf is no number of seconds between 1970 and the year 9999";
    /// `exp` is missing.
    NoExpiry = "exp is missing";
    /// `nbf` is in the future.
    NotYet = "nbf is in the future";
    /// `exp` is in the past.
    Expired = "exp is in the past";
}

impl JwtRefusal {
    /// Returns what the client is told: `token_expired`, or `unauthorized` for everything else.
    pub fn close_reason(self) -> CloseReason {
        match self {
            JwtRefusal::Expired => CloseReason::TokenExpired,
            _ => CloseReason::Unauthorized,
        }
    }
}
