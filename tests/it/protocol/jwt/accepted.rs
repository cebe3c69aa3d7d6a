//! Tokens that are accepted, and their identities.

use std::time::Duration;

use lobbyd::Identity;
use lobbyd::admission::Rate;
use lobbyd::apps::{Jwt, JwtRefusal};

use super::NOW;
use crate::common::jwt::{Algorithm, CLAIMS, keys, set, signed, token};

const FAMILIES: [(Algorithm, &str, &str); 4] = [
    (Algorithm::HS256, "HS256", "h1"),
    (Algorithm::RS256, "RS256", "r1"),
    (Algorithm::ES256, "ES256", "e1"),
    (Algorithm::EdDSA, "EdDSA", "d1"),
];

/// `CLAIMS`, which expire a minute after the start, with the default leeway.
fn ann() -> Identity {
    Identity::new("ann").expires_at_unix_millis(NOW + 70_000)
}

#[test]
fn each_algorithm_is_accepted_with_its_key_and_with_a_set() {
    for (alg, name, kid) in FAMILIES {
        let single = Jwt::new(keys(alg));
        for header in [
            format!(r#"{{"alg":"{name}"}}"#),
            format!(r#"{{"alg":"{name}","typ":"JWT"}}"#),
            format!(r#"{{"typ":"at+jwt", "alg" : "{name}","kid":"anything","x5t":"unused","jti":[1,{{}}]}}"#),
            format!(r#"{{"alg":"{name}","typ":"application/at+JWT"}}"#),
            format!(r#"{{"alg":"{name}","jku":"https://game.example/keys","x5u":"","x5c":[],"jwk":{{}}}}"#),
        ] {
            assert_eq!(single.check(&signed(alg, &header, CLAIMS), NOW), Ok(ann()), "{header}");
        }
        let set = Jwt::new(set());
        for header in [format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#), format!(r#"{{"alg":"{name}"}}"#)] {
            assert_eq!(set.check(&signed(alg, &header, CLAIMS), NOW), Ok(ann()), "{header}");
        }
        // Each key has one algorithm.
        for (other, _, _) in FAMILIES.iter().filter(|(other, _, _)| *other != alg) {
            let token = signed(alg, &format!(r#"{{"alg":"{name}"}}"#), CLAIMS);
            assert_eq!(Jwt::new(keys(*other)).check(&token, NOW), Err(JwtRefusal::Algorithm), "{name} {other:?}");
        }
    }
    // RFC 9864 names the curve.
    let token = signed(Algorithm::EdDSA, r#"{"alg":"Ed25519"}"#, CLAIMS);
    assert_eq!(Jwt::new(keys(Algorithm::EdDSA)).check(&token, NOW), Ok(ann()));
}

#[track_caller]
fn check(jwt: &Jwt, claims: &str, expected: Result<Identity, JwtRefusal>) {
    assert_eq!(jwt.check(&token(claims), NOW), expected, "{claims}");
}

fn jwt() -> Jwt {
    Jwt::new(keys(Algorithm::HS256))
}

#[test]
fn claims_become_an_identity() {
    let jwt = jwt();
    check(&jwt, CLAIMS, Ok(ann()));
    check(&jwt, r#"{"sub":"ann","exp":1000060,"iat":"never read","jti":{},"iss":7,"name":"Ann"}"#, Ok(ann()));
    check(&jwt, r#"{"sub":"ann","exp":1000060,"lobby":"chess-2"}"#, Ok(ann().only_in("chess-2")));
    for (tier, rate) in [("free", Rate::FREE), ("pro", Rate::PRO), ("enterprise", Rate::ENTERPRISE)] {
        check(&jwt, &format!(r#"{{"sub":"ann","exp":1000060,"tier":"{tier}"}}"#), Ok(ann().tier(rate)));
    }
    let data = |claims: &str, data: &str| {
        let claims = format!(r#"{{"sub":"ann","exp":1000060,{claims}}}"#);
        check(&jwt, &claims, Ok(ann().data(data.as_bytes())));
    };
    data(r#""data":{"rating": 1850.50}"#, r#"{"data":{"rating": 1850.50}}"#);
    data(r#""data":null"#, r#"{"data":null}"#);
    data(r#""data":"x","role":"host""#, r#"{"role":"host","data":"x"}"#);
    data(r#""role":"\"},{""#, r#"{"role":"\"},{"}"#);
    let zoe = Identity::new("Zoë 👑").expires_at_unix_millis(NOW + 70_000);
    check(&jwt, r#"{"sub":"Zo\u00eb 👑","exp":1000060}"#, Ok(zoe));
    check(&jwt, &format!(r#"{{"sub":"{}","exp":1000060}}"#, "x".repeat(129)), Err(JwtRefusal::Subject));
}

#[test]
fn times_are_seconds_with_fractions_within_the_leeway() {
    let strict = jwt().leeway(Duration::ZERO);
    let at = |millis| Ok(Identity::new("ann").expires_at_unix_millis(millis));
    for (exp, expected) in [
        ("1000001", at(1_000_001_000)),
        ("1000001.0", at(1_000_001_000)),
        ("1.000001e6", at(1_000_001_000)),
        ("1000000.5", at(1_000_000_500)),
        ("1000000.001", at(1_000_000_001)),
        ("253402300799", at(253_402_300_799_000)),
        // The time itself is over.
        ("1000000", Err(JwtRefusal::Expired)),
        ("0", Err(JwtRefusal::Expired)),
        ("1e-9", Err(JwtRefusal::Expired)),
    ] {
        check(&strict, &format!(r#"{{"sub":"ann","exp":{exp}}}"#), expected);
    }
    let lenient = jwt().leeway(Duration::from_millis(2500));
    check(&lenient, r#"{"sub":"ann","exp":999997.5}"#, Err(JwtRefusal::Expired));
    check(&lenient, r#"{"sub":"ann","exp":999998}"#, at(1_000_000_500));
    for (jwt, nbf, is_accepted) in [
        (&strict, "1000000", true),
        (&strict, "999999.9", true),
        (&strict, "1000000.001", false),
        (&lenient, "1000002.5", true),
        (&lenient, "1000003", false),
    ] {
        let identity = jwt.check(&token(&format!(r#"{{"sub":"ann","exp":2000000,"nbf":{nbf}}}"#)), NOW);
        assert_eq!(identity.err(), (!is_accepted).then_some(JwtRefusal::NotYet), "{nbf}");
    }
    let endless = jwt().leeway(Duration::MAX);
    check(&endless, r#"{"sub":"ann","exp":1,"nbf":2000000}"#, at(u64::MAX));
}

#[test]
fn exp_can_be_optional() {
    check(&jwt(), r#"{"sub":"ann"}"#, Err(JwtRefusal::NoExpiry));
    let optional = jwt().exp_is_optional();
    check(&optional, r#"{"sub":"ann"}"#, Ok(Identity::new("ann")));
    check(&optional, CLAIMS, Ok(ann()));
    check(&optional, r#"{"sub":"ann","exp":1}"#, Err(JwtRefusal::Expired));
    check(&optional, r#"{"sub":"ann","exp":null}"#, Err(JwtRefusal::Time));
}

#[test]
fn a_configured_audience_and_issuer_are_required() {
    let named = jwt().audience("lobby").issuer("https://login.example/");
    let claims = |more: &str| format!(r#"{{"sub":"ann","exp":1000060{more}}}"#);
    let good = r#","iss":"https://login.example/","aud":"#;
    check(&named, &claims(&format!(r#"{good}"lobby""#)), Ok(ann()));
    check(&named, &claims(&format!(r#"{good}["shop","lobby"]"#)), Ok(ann()));
    for wrong in
        [r#""Lobby""#, r#""lobby ""#, r#"["shop"]"#, "[]", r#"["lobby",1]"#, r#"[["lobby"]]"#, "null", "{}", "1"]
    {
        check(&named, &claims(&format!("{good}{wrong}")), Err(JwtRefusal::Audience));
    }
    check(&named, &claims(r#","iss":"https://login.example/""#), Err(JwtRefusal::Audience));
    for wrong in [r#""https://login.example""#, r#"["https://login.example/"]"#, "null", r#""""#] {
        check(&named, &claims(&format!(r#","aud":"lobby","iss":{wrong}"#)), Err(JwtRefusal::Issuer));
    }
    check(&named, &claims(r#","aud":"lobby""#), Err(JwtRefusal::Issuer));
    // Not configured: an issuer is ignored, but a token for an audience is for somebody else.
    check(&jwt(), &claims(r#","iss":"https://login.example/""#), Ok(ann()));
    check(&jwt(), &claims(r#","aud":"lobby""#), Err(JwtRefusal::Audience));
    check(&jwt(), &claims(r#","aud":[]"#), Err(JwtRefusal::Audience));
}
