//! What the stream keeps, and a clock of Redis that is set back.

use crate::cluster::pair::{LOG, founded};
use crate::cluster::redis::has_redis;

#[test]
fn a_clock_that_is_set_back_neither_keeps_a_silent_node_nor_suspends_appends() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("clock");
    pair.run("attach b print");
    let at = pair.position();
    pair.check(&format!("heartbeat 2 {at} 7 1"), "OK 3");
    pair.now -= 3_600_000_000;
    for _ in 0..3 {
        pair.check(&format!("heartbeat 2 {at} 8 1"), "OK 3");
        pair.advance(25);
    }
    pair.check(&format!("heartbeat 2 {at} 8 1"), "OK 4");
    pair.check("hello 1000000 run2", "OK 3000000 4");
    pair.now -= 3_600_000_000;
    pair.check("hello 1000000 run2", "OK 0 4");
    let at = pair.position();
    pair.check(&format!("append 2 {at} 1 one"), "OK 5");
}

#[test]
fn the_stream_keeps_no_more_bytes_than_asked() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("bytes");
    let (begin, long) = (pair.position(), "x".repeat(400));
    for batch in 1..=5 {
        let at = pair.position();
        pair.check(&format!("append 2 {at} {batch} {long}"), &format!("OK {}", batch + 2));
    }
    assert_eq!(pair.real.call(&[b"XLEN", LOG]), b":3\r\n");
    pair.check(&format!("since 2 {begin} 99999"), "TRIMMED");
    let (at, huge) = (pair.position(), "x".repeat(5000));
    pair.check(&format!("append 2 {at} 6 {huge}"), "OK 8");
    assert_eq!(pair.real.call(&[b"XLEN", LOG]), b":1\r\n", "the last entry stays, whatever its length");
    assert!(pair.run(&format!("since 2 {at} 99999")).starts_with("OK 8 "));
}
