//! A session that was authenticated by JWTs: its journal contains no token and no key, and a replay needs neither.

use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::{Auth, Jwt, Relay};
use lobbyd::config::Secrets;
use lobbyd::journal;

use super::site::Site;
use crate::common::jwt::{Algorithm, file, keys, set, signed, token};

/// Records a session with accepted, refused and expired tokens, and new keys.
fn session(config: Config, jwt: Jwt) -> (Vec<u8>, lobbyd::stats::Stats) {
    let mut site = Site::new(config, Relay::new(Auth::Jwt(jwt)));
    let rsa = signed(
        Algorithm::RS256,
        r#"{"alg":"RS256","kid":"r1"}"#,
        r#"{"sub":"ann","exp":4e9,"tier":"pro","role":"host","data":"of-the-member"}"#,
    );
    for token in [rsa, token(r#"{"sub":"bob","exp":4e9}"#), token(r#"{"sub":"old","exp":1}"#), "x.y.z".to_owned()] {
        site.connect(&format!("/ws/chess?token={token}"), &[]);
        site.turn();
    }
    site.engine.handle_reload(site.now, &file("set.jwks.json"));
    site.turn();
    site.now = site.now + Duration::from_secs(3);
    site.turn();
    let stats = site.engine.stats();
    (site.journal(), stats)
}

#[test]
fn a_replay_of_a_session_with_jwts_needs_no_key() {
    for secrets in [Secrets::Omit, Secrets::Keep] {
        let (journal, stats) = session(Config { journal_secrets: secrets, ..Config::default() }, Jwt::new(set()));
        assert_eq!((stats.counters.joined, stats.counters.closed(lobbyd::CloseReason::TokenExpired)), (2, 1));
        // Without authentication: the journal has the answers.
        let summary = journal::replay(&*journal, Relay::default()).expect("nothing differs");
        assert_eq!(summary.stats, stats);
        // With other keys, and with the same.
        for jwt in [Jwt::new(keys(Algorithm::EdDSA)), Jwt::new(set())] {
            let summary = journal::replay(&*journal, Relay::new(Auth::Jwt(jwt))).expect("nothing differs");
            assert_eq!(summary.stats, stats);
        }
        let contains = |word: &str| journal.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(contains("of-the-member"), "the identity is recorded");
        // Beginnings of the headers of the tokens, and the reloaded set.
        assert!(!contains("eyJhbGciOiJ"));
        assert_eq!(contains("YSBzZWNyZXQ"), secrets == Secrets::Keep, "{secrets:?}");
    }
}
