//! State shared by all model clients of a run, so that the frames that one client received can be compared with those
//! of the others.

use std::collections::{BTreeMap, BTreeSet};

use super::limit_model::NETWORKS;

/// State shared by all model clients of a run.
pub(super) struct SharedState {
    pub(super) users: Vec<String>,
    pub(super) lobbies: Vec<String>,
    /// Index of the user of each link of the run, by the link's number.
    pub(super) link_users: Vec<usize>,
    /// Whether every message of a member reaches all other members exactly once, as with the built-in applications.
    pub(super) relays: bool,
    /// Hash of the text received under each epoch and `seq`.
    text_hashes: BTreeMap<(u64, u64), u64>,
    /// Number of messages received from clients and from the operator.
    pub(super) messages: u64,
    /// Whether a message may be refused with `rate_limited`: because of a rate, or of a full inbox.
    pub(super) has_rate_limits: bool,
    /// Whether a message may be refused because the inbox that waits for the next tick is full.
    pub(super) has_inbox_limit: bool,
    /// Whether the faults have stopped. Clients then send so slowly that no message is refused.
    pub(super) is_final_phase: bool,
    /// Messages that the server acknowledged, by link and number. Kept with rate limits only.
    pub(super) acked: BTreeSet<(u32, u32)>,
    /// Messages that the server refused, by link and number.
    pub(super) refused: BTreeSet<(u32, u32)>,
    /// Messages that at least one other client received, by link and number. Kept with rate limits only.
    pub(super) delivered: BTreeSet<(u32, u32)>,
    /// The operator's messages, with the `seq` that the engine returned for each.
    pub(super) published: Vec<(u32, u64)>,
    /// Number of upgraded connections, by network.
    pub(super) admitted: [u64; NETWORKS],
    /// Number of connections answered 429, by network.
    pub(super) refused_429: [u64; NETWORKS],
}

impl SharedState {
    pub(super) fn new(users: Vec<String>, lobbies: Vec<String>, relays: bool) -> SharedState {
        SharedState {
            users,
            lobbies,
            link_users: Vec::new(),
            relays,
            text_hashes: BTreeMap::new(),
            messages: 0,
            published: Vec::new(),
            has_rate_limits: false,
            has_inbox_limit: false,
            is_final_phase: false,
            acked: BTreeSet::new(),
            refused: BTreeSet::new(),
            delivered: BTreeSet::new(),
            admitted: [0; NETWORKS],
            refused_429: [0; NETWORKS],
        }
    }

    /// Records that a client received `message`, which therefore must not have been refused.
    pub(super) fn note_delivered(&mut self, message: (u32, u32)) -> Result<(), String> {
        if !self.has_rate_limits {
            return Ok(());
        }
        self.delivered.insert(message);
        if self.refused.contains(&message) {
            Err("a client received a message that the server had refused".into())
        } else {
            Ok(())
        }
    }

    /// Checks that all members receive the same text under the same epoch and `seq`.
    pub(super) fn check_same_text(&mut self, epoch: u64, seq: u64, text: &str) -> Result<(), String> {
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        if *self.text_hashes.entry((epoch, seq)).or_insert(hash) == hash {
            Ok(())
        } else {
            Err(format!("seq {seq} of epoch {epoch} had another text for another member: {text}"))
        }
    }
}
