//! Bytes that are no snapshot, or none of these settings.

use super::tests::{Node, operated};
use super::*;
use crate::base::random::Random;
use crate::config::{Config, Limit};
use crate::engine::driver::Start;
use crate::engine::member::Protocol;

/// Replaces the body of a snapshot, so that the head fits it.
fn with_body(snapshot: &[u8], body: &[u8]) -> Vec<u8> {
    let checksum = checksum_of(body).to_le_bytes();
    [&snapshot[..12], &checksum, body].concat()
}

#[track_caller]
fn check_refused(node: &mut Node, bytes: &[u8], expected: SnapshotError) {
    let now = node.core.now();
    assert_eq!(node.core.load_snapshot(bytes, now, None), Err(expected));
    assert!(node.core.directory.is_blank() && node.core.sessions.count() == 0 && node.core.histories.count() == 0);
    node.check();
}

#[test]
fn bytes_that_are_no_whole_snapshot_of_this_version_are_refused() {
    let node = operated(&mut Random::new(1), 150);
    let (mut blank, snapshot) = (Node::blank(&node.core, node.unix_now(), 7), node.written());
    check_refused(&mut blank, b"", SnapshotError::NoSnapshot);
    check_refused(&mut blank, &[0; 100], SnapshotError::NoSnapshot);
    let mut newer = snapshot.clone();
    newer[8..12].copy_from_slice(&7_u32.to_le_bytes());
    check_refused(&mut blank, &newer, SnapshotError::Version(7));
    assert_eq!(
        SnapshotError::Version(7).to_string(),
        "the snapshot has version 7 of the format: this program reads version 2"
    );
    for len in 8..snapshot.len() {
        check_refused(&mut blank, &snapshot[..len], SnapshotError::Damaged);
    }
    for at in (12..snapshot.len()).step_by(7) {
        let mut damaged = snapshot.clone();
        damaged[at] ^= 4;
        check_refused(&mut blank, &damaged, SnapshotError::Damaged);
    }
    blank.core.load_snapshot(&snapshot, Time::ZERO, None).expect("it is whole");
    let again = blank.core.load_snapshot(&snapshot, Time::ZERO, None);
    assert_eq!(again, Err(SnapshotError::NotBlank));
}

/// A body with a right checksum, but other bytes, as another program may write it: it is refused, or the state is valid and the
/// engine goes on with it.
#[test]
fn a_body_that_another_program_has_changed_never_makes_the_engine_panic() {
    let (mut loaded, mut refused) = (0, 0);
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut node = operated(&mut random, 100 + seed * 10);
        node.advance(0);
        let snapshot = node.written();
        for _ in 0..250 {
            let mut body = snapshot[HEAD_BYTES..].to_vec();
            for _ in 0..=random.below(2) {
                let at = random.below(body.len() as u64) as usize;
                match random.below(4) {
                    0 => body[at] = random.next_u64() as u8,
                    1 => body[at] = body[at].wrapping_add(1),
                    2 => drop(body.remove(at)),
                    _ => body.truncate(at + 1),
                }
            }
            let mut other = Node::blank(&node.core, node.unix_now(), 500);
            let now = other.core.now();
            match other.core.load_snapshot(&with_body(&snapshot, &body), now, None) {
                Ok(_) => {
                    loaded += 1;
                    other.check();
                    (0..15).for_each(|_| drop(other.step(&mut random)));
                    other.check();
                }
                Err(_) => {
                    refused += 1;
                    assert!(other.core.directory.is_blank());
                    other.check();
                }
            }
        }
    }
    assert!(loaded > 100 && refused > 500, "{loaded} loaded, {refused} refused");
}

#[test]
fn a_snapshot_that_does_not_fit_the_settings_is_refused() {
    #[track_caller]
    fn check(node: &Node, setting: &'static str, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&node.core.config);
        change(&mut config);
        let has_control = config.lobby_control;
        let config = config.check().expect("a valid configuration").with_lobby_control(has_control);
        let like = Core::new(config, Protocol::Json, Start { unix_micros: 0, seed: 1 });
        let mut other = Node::blank(&like, node.unix_now(), 5);
        check_refused(&mut other, &node.written(), SnapshotError::Setting(setting));
    }
    let mut random = Random::new(3);
    let node = operated(&mut random, 400);
    check(&node, "lobby_control", |config| config.lobby_control = false);
    check(&node, "max_connections", |config| config.max_connections = Limit::at_most(1));
    check(&node, "max_lobbies", |config| config.max_lobbies = Limit::at_most(1));
    check(&node, "the bounds of histories", |config| config.history_frames = 1);
    assert_eq!(
        SnapshotError::Setting("max_bans").to_string(),
        "the snapshot does not fit max_bans: all nodes of a cluster need the same settings"
    );
}
