//! Model of the relayed messages: every receiver gets the same text, and no message is both refused and delivered.
//!
//! Fed by the clients with what each of them received. Knows no client and no format of a message.

use std::collections::{BTreeMap, BTreeSet};

/// A message of a client: number of its link, and number among the messages of this link.
pub(crate) type MessageId = (u32, u32);

/// Hash of a message of the server (FNV-1a).
pub(crate) fn hash_text(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The messages of a run and what is known of their delivery.
#[derive(Debug)]
pub(crate) struct RelayModel {
    /// Whether the server may refuse a message, or its outcome remain unknown. The outcomes are kept only then.
    has_outcomes: bool,
    /// Hash of the text received under each epoch and `seq`.
    text_hashes: BTreeMap<(u64, u64), u64>,
    /// Messages that the server acknowledged.
    acked: BTreeSet<MessageId>,
    /// Messages that the server refused.
    refused: BTreeSet<MessageId>,
    /// Messages that at least one other client received.
    delivered: BTreeSet<MessageId>,
    /// Messages that the application was shown.
    executed: BTreeSet<MessageId>,
    /// Changes of lobbies: the number of the sender's link, and the `ref`.
    changed: BTreeSet<MessageId>,
    /// Messages whose outcome their sender will never know.
    lost: BTreeSet<MessageId>,
    /// The operator's messages, with the `seq` that the engine returned for each.
    published: Vec<(u32, u64)>,
    /// The operator's messages without a `seq`, with the users that must not get them.
    unnumbered: Vec<(u32, Vec<String>)>,
}

impl RelayModel {
    pub(crate) fn new(has_outcomes: bool) -> RelayModel {
        RelayModel {
            has_outcomes,
            text_hashes: BTreeMap::new(),
            acked: BTreeSet::new(),
            refused: BTreeSet::new(),
            delivered: BTreeSet::new(),
            executed: BTreeSet::new(),
            changed: BTreeSet::new(),
            lost: BTreeSet::new(),
            published: Vec::new(),
            unnumbered: Vec::new(),
        }
    }

    /// A member received `text`. Checks that all members receive the same text under the same epoch and `seq`.
    pub(crate) fn text_received(&mut self, epoch: u64, seq: u64, text: &str) -> Result<(), String> {
        let hash = hash_text(text);
        if *self.text_hashes.entry((epoch, seq)).or_insert(hash) == hash {
            Ok(())
        } else {
            Err(format!("seq {seq} of epoch {epoch} had another text for another member: {text}"))
        }
    }

    /// A client received `message`, which therefore must not have been refused.
    pub(crate) fn delivered(&mut self, message: MessageId) -> Result<(), String> {
        if !self.has_outcomes {
            return Ok(());
        }
        self.delivered.insert(message);
        if self.refused.contains(&message) {
            return Err("a client received a message that the server had refused".into());
        }
        Ok(())
    }

    /// The sender received an acknowledgement of `message`.
    pub(crate) fn acked(&mut self, message: MessageId) {
        if self.has_outcomes {
            self.acked.insert(message);
        }
    }

    /// The sender received a refusal of `message`, which therefore must not have been delivered.
    pub(crate) fn refused(&mut self, message: MessageId) -> Result<(), String> {
        if self.delivered.contains(&message) {
            return Err("a refusal of a message that another client received".into());
        }
        self.refused.insert(message);
        Ok(())
    }

    /// The application was shown `messages`.
    pub(crate) fn executed(&mut self, messages: Vec<MessageId>) {
        self.executed.extend(messages);
    }

    /// These changes of lobbies were made.
    pub(crate) fn changed(&mut self, changes: Vec<MessageId>) {
        self.changed.extend(changes);
    }

    pub(crate) fn is_changed(&self, change: MessageId) -> bool {
        self.changed.contains(&change)
    }

    pub(crate) fn is_executed(&self, message: MessageId) -> bool {
        self.executed.contains(&message)
    }

    /// The sender will never know the outcome of `message`, and does not send it again.
    pub(crate) fn lost(&mut self, message: MessageId) {
        self.lost.insert(message);
    }

    /// Whether the sender does not know whether `message` was delivered.
    pub(crate) fn is_lost(&self, message: MessageId) -> bool {
        self.lost.contains(&message)
    }

    /// Returns the first of `gaps`, the messages that a member did not receive, that the server acknowledged.
    pub(crate) fn missing_among(&self, gaps: &[MessageId]) -> Option<MessageId> {
        gaps.iter().copied().find(|gap| self.acked.contains(gap))
    }

    /// The engine answered the operator's message `op` with `seq`.
    pub(crate) fn published(&mut self, op: u32, seq: u64) {
        self.published.push((op, seq));
    }

    /// The operator's message `op` was published to all but these users.
    pub(crate) fn published_unnumbered(&mut self, op: u32, exclude: &[String]) {
        self.unnumbered.push((op, exclude.to_vec()));
    }

    /// Whether `user` may have received the operator's message `op` without a `seq`.
    pub(crate) fn allows_unnumbered(&self, op: u32, user: &str) -> bool {
        let published = self.unnumbered.iter().find(|(k, _)| *k == op);
        published.is_some_and(|(_, exclude)| !exclude.iter().any(|excluded| excluded == user))
    }

    /// Whether the operator's message `op` may have been received under `seq`.
    pub(crate) fn allows_operator_message(&self, op: u32, seq: u64) -> bool {
        self.published.iter().find(|(k, _)| *k == op).is_none_or(|sent| sent.1 == seq)
    }
}
