//! Operators' connections: pieces, keep-alive, timeouts and their number.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::{Config, Time};

use super::{config, get, operator, post, read, three};
use crate::common::scenario::World;

/// After a pause of the process, the rest of the request may be in the kernel.
#[test]
fn unread_input_does_not_time_a_request_out() {
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    let request = get("/health/live");
    operator.conns.handle_bytes(operator.client, &request.as_bytes()[..10]);
    assert_eq!(operator.turn(&mut world), "");
    world.now = world.now + Duration::from_secs(3600);
    operator.conns.handle_unread(operator.client);
    assert_eq!(operator.turn(&mut world), "");
    operator.conns.handle_bytes(operator.client, &request.as_bytes()[10..]);
    assert!(operator.turn(&mut world).starts_with("HTTP/1.1 200"));
}

#[test]
fn requests_arrive_in_any_pieces_and_are_answered_in_order() {
    let (mut world, mut operator) = three();
    let requests = [post("/lobbies/go/lock", r#"{"locked":true}"#), get("/health/live"), get("/lobbies/go")].concat();
    let mut answers = String::new();
    for byte in requests.bytes() {
        operator.conns.handle_bytes(operator.client, &[byte]);
        answers += &operator.turn(&mut world);
    }
    let whole = answers.clone();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);

    // The same requests at once: one is handled per turn, and the next turn is due at once.
    operator.conns.handle_bytes(operator.client, requests.as_bytes());
    answers.clear();
    for _ in 0..3 {
        assert_eq!(operator.conns.poll_timeout(), Some(Time::ZERO));
        let answer = operator.turn(&mut world);
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
        answers += &answer;
    }
    operator.turn(&mut world);
    assert_eq!(answers, whole);
    assert_eq!(operator.conns.poll_timeout(), Some(Time::ZERO + Duration::from_secs(30)));
}

#[test]
fn the_client_decides_about_keep_alive() {
    let mut world = World::new(config(), Relay::default());
    for (request, goes_on) in [
        (get("/health/live"), true),
        (get("/health/live").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), false),
        (get("/health/live").replace("HTTP/1.1", "HTTP/1.0"), false),
        (get("/nothing"), true),
        ("nonsense\r\n\r\n".into(), false),
    ] {
        let mut operator = operator(&config());
        let answer = operator.ask(&mut world, &request);
        let connection = if goes_on { "\r\nConnection: keep-alive" } else { "\r\nConnection: close" };
        assert!(answer.head.ends_with(connection), "{request}{}", answer.head);
        assert_eq!(operator.conns.is_finished(operator.client), !goes_on);
        assert!(!operator.is_closed(), "further input is read, since a reset would destroy the answer");
        operator.conns.handle_end(operator.client);
        operator.turn(&mut world);
        assert!(operator.is_closed());
    }
}

#[test]
fn a_half_closed_client_is_still_answered() {
    let (mut world, mut operator) = three();
    operator.conns.handle_bytes(operator.client, post("/users/ann/ping", "").as_bytes());
    operator.conns.handle_end(operator.client);
    assert_eq!(operator.turn(&mut world), "");
    world.advance(Duration::from_secs(2));
    world.take("ann");
    assert_eq!(read(&operator.turn(&mut world)).body["healthy"], false);
    operator.turn(&mut world);
    assert!(operator.is_closed());
}

#[test]
fn a_head_request_gets_the_head_alone() {
    let (mut world, mut operator) = three();
    let request = get("/health/live").replace("GET", "HEAD");
    operator.conns.handle_bytes(operator.client, request.as_bytes());
    let answer = operator.turn(&mut world);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("\r\nContent-Length: 18\r\n"), "{answer}");
}

#[test]
fn expect_100_continue_is_answered() {
    let (mut world, mut operator) = three();
    let request = post("/lobbies/go/publish", r#"{"data":1}"#).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let (head, body) = request.split_at(request.len() - 10);
    operator.conns.handle_bytes(operator.client, head.as_bytes());
    assert_eq!(operator.turn(&mut world), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(operator.ask(&mut world, body).body["queued"], 1);
    world.take("cid");
}

#[test]
fn slow_requests_and_slow_readers_are_timed_out() {
    let mut world = World::new(config(), Relay::default());
    let mut operator = operator(&config());
    assert_eq!(operator.ask(&mut world, &get("/stats")).status, 200);
    operator.conns.handle_bytes(operator.client, b"GET /health/live HTTP/1.1\r\n");
    // The deadline does not move while the request trickles in.
    for second in 1..=29 {
        world.now = Time::from_micros(second * 1_000_000);
        operator.conns.handle_bytes(operator.client, b"A");
        operator.conns.work(world.now, &mut world.engine);
        assert_eq!(operator.conns.pending(operator.client), b"");
    }
    world.now = Time::from_micros(30_000_000);
    operator.conns.work(world.now, &mut world.engine);
    assert!(operator.conns.pending(operator.client).starts_with(b"HTTP/1.1 408 "));
    // The deadline also applies to an answer that is not read.
    world.now = Time::from_micros(60_000_000);
    operator.conns.work(world.now, &mut world.engine);
    assert!(operator.is_closed());
}

#[test]
fn a_client_that_pipelines_too_much_is_closed() {
    let config = Config { max_message_bytes: ByteSize(1024), ..config() };
    let (mut world, mut operator) = (World::new(config.clone(), Relay::default()), operator(&config));
    let request = get("/health/live");
    for _ in 0..5000 {
        operator.conns.handle_bytes(operator.client, request.as_bytes());
    }
    operator.conns.work(world.now, &mut world.engine);
    assert!(operator.is_closed());
}

/// Bytes after the last answer are read only so that no reset destroys it.
#[test]
fn a_client_that_sends_on_after_its_last_answer_is_closed() {
    let config = Config { max_linger_bytes: ByteSize(1000), ..config() };
    let (mut world, mut operator) = (World::new(config.clone(), Relay::default()), operator(&config));
    let request = get("/health/live").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    assert_eq!(operator.ask(&mut world, &request).status, 200);
    assert!(operator.conns.is_finished(operator.client));
    for _ in 0..10 {
        assert!(!operator.is_closed());
        operator.conns.handle_bytes(operator.client, &[b'x'; 100]);
    }
    operator.turn(&mut world);
    assert!(!operator.is_closed());
    operator.conns.handle_bytes(operator.client, b"x");
    assert!(operator.is_closed());
}
