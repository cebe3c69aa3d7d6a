//! What a connection knows of the session that it belongs to.
//!
//! Data only. The view checks what the server says of it.

use std::collections::VecDeque;

use super::sessions::{SentClaim, Unconfirmed};
use crate::sim::models::missed::{Replayed, Resume};

/// What a view knows of its session.
#[derive(Debug)]
pub(crate) struct InSession {
    /// Index of the session.
    pub(crate) index: usize,
    /// Whether another connection speaks for the session now.
    pub(crate) is_superseded: bool,
    /// Whether the client waits for its `welcome` before it sends, because it may have to send requests again.
    waits: bool,
    pub(super) claim: SentClaim,
    /// What the server must say, if it resumes the session. Known once it has done so.
    pub(crate) expected: Option<Resume>,
    /// Frames of the replay that were not read yet.
    pub(super) replay: VecDeque<Replayed>,
    /// Number of further direct messages before `presence_state`, of a session that is new or has lost frames.
    pub(super) kept_directs: u64,
    /// Whether the server has said that frames are lost, and what replaces them was not read yet.
    pub(super) has_lost_frames: bool,
    /// Whether the session was resumed without a gap.
    pub(super) is_recovered: bool,
    /// Requests to send again.
    pub(super) resend: Vec<Unconfirmed>,
}

impl InSession {
    pub(crate) fn new(index: usize, claim: SentClaim, waits: bool) -> InSession {
        InSession {
            index,
            is_superseded: false,
            waits,
            claim,
            expected: None,
            replay: VecDeque::new(),
            kept_directs: 0,
            has_lost_frames: false,
            is_recovered: false,
            resend: Vec::new(),
        }
    }

    pub(crate) fn waits_for_welcome(&self) -> bool {
        self.waits
    }

    /// Takes the requests to send again.
    pub(crate) fn take_resend(&mut self) -> Vec<Unconfirmed> {
        std::mem::take(&mut self.resend)
    }
}
