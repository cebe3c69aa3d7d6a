//! What all clients of a run know together, so that what one was told can be held against what others were.

use std::collections::{BTreeMap, BTreeSet};

use super::limit_model::NETWORKS;

/// What all clients of a run know together.
pub(super) struct SharedState {
    pub(super) users: Vec<String>,
    pub(super) lobbies: Vec<String>,
    /// The user of each link there ever was, by the link's number.
    pub(super) owners: Vec<usize>,
    /// Whether every message of a member reaches all others exactly once, as with the stock applications.
    pub(super) relays: bool,
    /// A hash of what was told under each epoch and `seq`.
    told: BTreeMap<(u64, u64), u64>,
    pub(super) messages: u64,
    /// Whether anybody may be refused for its rate.
    pub(super) limited: bool,
    /// Whether anybody may be refused because too much waits for the next tick.
    pub(super) has_full_inboxes: bool,
    /// Whether everybody takes its time, so that nobody is.
    pub(super) is_calm: bool,
    /// Messages, by client and number, that are known to have been sent on or refused, and those that somebody heard.
    pub(super) acked: BTreeSet<(u32, u32)>,
    pub(super) refused: BTreeSet<(u32, u32)>,
    pub(super) spread: BTreeSet<(u32, u32)>,
    /// The operator's messages, and the `seq` it was told of each.
    pub(super) published: Vec<(u32, u64)>,
    /// Of each address: connections that were let in, and those that were answered 429.
    pub(super) let_in: [u64; NETWORKS],
    pub(super) refused_429: [u64; NETWORKS],
}

impl SharedState {
    pub(super) fn new(users: Vec<String>, lobbies: Vec<String>, relays: bool) -> SharedState {
        SharedState {
            users,
            lobbies,
            owners: Vec::new(),
            relays,
            told: BTreeMap::new(),
            messages: 0,
            published: Vec::new(),
            limited: false,
            has_full_inboxes: false,
            is_calm: false,
            acked: BTreeSet::new(),
            refused: BTreeSet::new(),
            spread: BTreeSet::new(),
            let_in: [0; NETWORKS],
            refused_429: [0; NETWORKS],
        }
    }

    /// Somebody has heard a message, so it was not refused.
    pub(super) fn spread(&mut self, told: (u32, u32)) -> Result<(), String> {
        if !self.limited {
            return Ok(());
        }
        self.spread.insert(told);
        if self.refused.contains(&told) { Err("its sender was told that it was refused".into()) } else { Ok(()) }
    }

    /// Everybody must be told the same under the same number.
    pub(super) fn tell(&mut self, epoch: u64, seq: u64, text: &str) -> Result<(), String> {
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        if *self.told.entry((epoch, seq)).or_insert(hash) == hash {
            Ok(())
        } else {
            Err(format!("seq {seq} of epoch {epoch} was something else for another member: {text}"))
        }
    }
}
