//! Keys of tokens that are fetched from a URL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lobbyd::apps::{Jwt, JwtKeys};

use super::*;
use crate::common::jwt::{Algorithm, file, signed};

fn token(kid: &str) -> String {
    let header = format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\"}}");
    signed(Algorithm::EdDSA, &header, r#"{"sub":"ann","exp":4e9}"#)
}

fn bind(backend: &Backend, journal: Option<&Folder>) -> (Server<Relay>, SocketAddr) {
    let config = Config {
        jwt_jwks_url: Some(format!("http://{}/jwks.json", backend.address).parse().expect("a URL")),
        journal: journal.map(Folder::journal),
        admin: Some("127.0.0.1:0".parse().expect("an address")),
        ..on_free_port()
    };
    let jwt = Jwt::new(JwtKeys::to_fetch().expect("the cryptography works"));
    let server = Server::bind(config, Relay::new(Auth::Jwt(jwt))).expect("a free port");
    let address = server.local_addr().expect("the server listens");
    (server, address)
}

#[test]
fn a_token_waits_for_the_keys_and_unknown_keys_cause_no_second_fetch() {
    let set = String::from_utf8(file("set.jwks.json")).expect("UTF-8");
    // A key of a type that nobody knows must not spoil the set.
    let set = set.replacen("[", r#"[{"kty":"AKP","alg":"ML-DSA-65","kid":"pq","pub":"AAAA"},"#, 1);
    let backend = Backend::new(move |_| Reply::Answer(200, set.clone()));
    let folder = Folder::new("hook-keys");
    let (mut server, address) = bind(&backend, Some(&folder));
    assert_eq!(try_to_join(&mut server, address, &token("d1")), Ok("ann".into()));
    assert_eq!(try_to_join(&mut server, address, &token("d1")), Ok("ann".into()));
    // The next fetch is later than auth_timeout, so these do not wait.
    for kid in ["new", "newer", "forged"] {
        assert_eq!(try_to_join(&mut server, address, &token(kid)), come_back());
    }
    let calls: Vec<Call> = backend.calls.try_iter().collect();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].line, "GET /jwks.json");
    assert_eq!(metric(&mut server, "lobbyd_jwks_tokens_turned_away_total"), 3.0);
    let stats = server.engine().stats();
    server.turn(SHORT).expect("the turn succeeds");
    drop(server);
    let recorded = std::fs::read(&folder.segments()[0]).expect("the journal");
    let summary = journal::replay(&*recorded, Relay::default()).expect("nothing differs");
    assert_eq!(summary.stats.counters.joined, stats.counters.joined);
}

/// Such as the page of a maintenance, or a portal that answers for every site.
#[test]
fn an_answer_that_is_no_set_of_keys_is_a_failed_fetch() {
    let set = String::from_utf8(file("set.jwks.json")).expect("UTF-8");
    for page in ["<html>Back soon</html>", "", "{}", r#"{"keys":[]}"#] {
        let (set, mut fetches) = (set.clone(), 0);
        let backend = Backend::new(move |_| {
            fetches += 1;
            Reply::Answer(200, if fetches == 1 { page.into() } else { set.clone() })
        });
        let (mut server, address) = bind(&backend, None);
        // 4101, since the token may be valid. Later clients wait for the next fetch, a second later.
        let first = try_to_join(&mut server, address, &token("d1"));
        assert!(first == come_back() || first == Ok("ann".into()), "{page}: {first:?}");
        assert_eq!(try_to_join(&mut server, address, &token("d1")), Ok("ann".into()), "{page}");
        let fetches = |server: &mut Server<Relay>, result: &str| {
            metric(server, &format!("lobbyd_jwks_fetches_total{{result=\"{result}\"}}"))
        };
        assert_eq!((fetches(&mut server, "failed"), fetches(&mut server, "fetched")), (1.0, 1.0), "{page}");
    }
}

#[test]
fn while_the_keys_cannot_be_fetched_clients_are_asked_to_come_back() {
    let set = String::from_utf8(file("set.jwks.json")).expect("UTF-8");
    let can_answer = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&can_answer);
    let backend = Backend::new(move |_| {
        if is_up.load(Relaxed) { Reply::Answer(200, set.clone()) } else { Reply::Answer(503, String::new()) }
    });
    let (mut server, address) = bind(&backend, None);
    assert_eq!(try_to_join(&mut server, address, &token("d1")), come_back());
    can_answer.store(true, Relaxed);
    // The next try is a second later, or two if the first client came after the first try; this client waits for it.
    assert_eq!(try_to_join(&mut server, address, &token("d1")), Ok("ann".into()));
    assert!(backend.calls.try_iter().count() >= 2);
}
