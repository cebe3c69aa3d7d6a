//! Reads the backend's answer to the question whether a client may connect.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::close::CloseReason;
use crate::base::codes::CloseCode;
use crate::base::rate::Rate;
use crate::engine::member::{Authorization, Identity};
use crate::lobby::{is_lobby_code, is_user_id};

/// The fields of the answer. Unknown ones are ignored, so that a backend can be newer than this server.
#[derive(Deserialize)]
struct Answer<'a> {
    allow: bool,
    user: Option<String>,
    role: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    tier: Option<String>,
    lobby: Option<String>,
    expires: Option<u64>,
    /// Why the client is refused: `banned`, or with `code` a word of the application.
    reason: Option<String>,
    code: Option<u16>,
}

/// Returns the authorization that the answer gives.
///
/// # Errors
///
/// The rule that the answer breaks. It contains no part of the answer.
pub(super) fn read(body: &[u8]) -> Result<Authorization, &'static str> {
    // The brace is checked because serde also reads a list as a struct.
    let body = body.trim_ascii();
    if body.first() != Some(&b'{') {
        return Err("it is not a JSON object");
    }
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "a field is missing or has the wrong type",
        _ => "it is not valid JSON",
    })?;
    if answer.allow { allowed(answer) } else { Ok(Authorization::Refuse(refusal(&answer)?)) }
}

fn allowed(answer: Answer<'_>) -> Result<Authorization, &'static str> {
    let user = answer
        .user
        .filter(|user| is_user_id(user))
        .ok_or("`user` must be 1 to 128 bytes without control characters")?;
    let mut identity = Identity::new(user);
    if let Some(tier) = answer.tier {
        identity.tier = Some(Rate::of_tier(&tier).ok_or("`tier` must be free, pro or enterprise")?);
    }
    if let Some(lobby) = answer.lobby {
        if !is_lobby_code(&lobby) {
            return Err("`lobby` must be a lobby code");
        }
        identity = identity.only_in(lobby);
    }
    identity.expires = answer.expires;
    // In the same form as the claims of a JWT.
    let mut data = String::new();
    if let Some(role) = answer.role {
        data = format!("\"role\":{}", serde_json::to_string(&role).expect("a string always serializes"));
    }
    if let Some(raw) = answer.data.filter(|raw| raw.get() != "null") {
        data =
            if data.is_empty() { format!("\"data\":{}", raw.get()) } else { format!("{data},\"data\":{}", raw.get()) };
    }
    if !data.is_empty() {
        identity = identity.data(format!("{{{data}}}").into_bytes());
    }
    Ok(Authorization::Allow(identity))
}

fn refusal(answer: &Answer<'_>) -> Result<CloseReason, &'static str> {
    let reason = answer.reason.as_deref().unwrap_or("unauthorized");
    if let Some(code) = answer.code {
        let rule = "`code` must be from 4400 to 4699, and `reason` 1 to 32 lower-case letters, digits and underscores";
        return CloseCode::new(code, reason).map(CloseReason::App).ok_or(rule);
    }
    Ok(match reason {
        "banned" => CloseReason::Banned,
        "token_expired" => CloseReason::TokenExpired,
        "lobby_full" => CloseReason::LobbyFull,
        "lobby_locked" => CloseReason::LobbyLocked,
        "lobby_not_found" => CloseReason::LobbyNotFound,
        // Words of the backend's own are for its people.
        _ => CloseReason::Unauthorized,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Result<Authorization, &str>) {
        assert_eq!(read(body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn an_answer_names_the_user_and_its_restrictions() {
        check(r#" {"allow":true,"user":"ann"} "#, Ok(Authorization::allow("ann")));
        let identity = Identity::new("ann").tier(Rate::PRO).only_in("chess").expires_at_unix_millis(1_900_000_000_000);
        let identity = identity.data(r#"{"role":"admin","data":{"rating":1850}}"#.as_bytes());
        check(
            r#"{"allow":true,"user":"ann","tier":"pro","lobby":"chess","expires":1900000000000,"role":"admin",
                "data":{"rating":1850},"later":[1]}"#,
            Ok(Authorization::Allow(identity)),
        );
        let only_role = Identity::new("ann").data(r#"{"role":"x"}"#.as_bytes());
        check(r#"{"allow":true,"user":"ann","role":"x","data":null}"#, Ok(Authorization::Allow(only_role)));
        let only_data = Identity::new("ann").data(r#"{"data":[1, 2]}"#.as_bytes());
        check(r#"{"allow":true,"user":"ann","data":[1, 2]}"#, Ok(Authorization::Allow(only_data)));
    }

    #[test]
    fn a_refusal_has_a_reason_of_the_protocol_or_a_code_of_the_application() {
        check(r#"{"allow":false}"#, Ok(Authorization::Refuse(CloseReason::Unauthorized)));
        check(r#"{"allow":false,"reason":"Not today"}"#, Ok(Authorization::Refuse(CloseReason::Unauthorized)));
        check(r#"{"allow":false,"reason":"banned"}"#, Ok(Authorization::Refuse(CloseReason::Banned)));
        let own = CloseReason::app(4500, "maintenance");
        check(r#"{"allow":false,"code":4500,"reason":"maintenance"}"#, Ok(Authorization::Refuse(own)));
    }

    #[test]
    fn an_answer_of_another_form_is_no_answer() {
        for body in
            ["", "null", "[true]", "true", "<html>", "\"ok\"", "{\"allow\":true,\"user\":\"a\"", "{\"allow\":true}}"]
        {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
        let data = Err("a field is missing or has the wrong type");
        for body in [
            r#"{"user":"ann"}"#,
            r#"{"allow":"true","user":"ann"}"#,
            r#"{"allow":1,"user":"ann"}"#,
            r#"{"allow":true,"user":7}"#,
            r#"{"allow":true,"allow":false,"user":"ann"}"#,
            r#"{"allow":true,"user":"ann","expires":-1}"#,
            r#"{"allow":true,"user":"ann","expires":"never"}"#,
            r#"{"allow":false,"code":70000,"reason":"x"}"#,
        ] {
            check(body, data.clone());
        }
        for body in [
            r#"{"allow":true}"#,
            r#"{"allow":true,"user":""}"#,
            r#"{"allow":true,"user":"a\nb"}"#,
            r#"{"allow":true,"user":"ann","tier":"gold"}"#,
            r#"{"allow":true,"user":"ann","lobby":"../etc"}"#,
            r#"{"allow":false,"code":4003,"reason":"kicked"}"#,
            r#"{"allow":false,"code":4400,"reason":"No!"}"#,
        ] {
            assert!(read(body.as_bytes()).is_err_and(|rule| rule.starts_with('`')), "{body}");
        }
        let deep = format!("{{\"allow\":true,\"user\":\"ann\",\"data\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(read(deep.as_bytes()).is_err() || read(deep.as_bytes()).is_ok(), "it does not panic");
        assert!(read(&[0xff; 64]).is_err());
    }
}
