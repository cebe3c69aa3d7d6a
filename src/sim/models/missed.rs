//! What a lobby and its members have said, and what of it a session that comes back must be sent.
//!
//! Works it out from every frame that was said and from the bounds of the configuration: the rings of the server are those
//! of the last frames that the bounds allow.

use crate::base::close::LeaveReason;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::sim::client::books::ReadPosition;

/// A frame of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// A `message` or `presence_diff`, with the hash of its text.
    Frame { seq: u64, hash: u64 },
    /// The client's own message.
    Ack { seq: u64, reference: u64 },
    /// A direct message.
    Direct { n: u64 },
}

/// What the `welcome` of a resumed session must say, and what must follow.
#[derive(Clone, Debug)]
pub(crate) struct Resume {
    /// `None` if it cannot be told.
    pub(crate) recovered: Option<bool>,
    /// The frames after the claimed position, all of which follow if it is recovered.
    pub(crate) replay: Vec<Replayed>,
    /// Number of the last direct message.
    pub(crate) last_direct: u64,
    /// Whether the client's position is not of this session: it knows an earlier one of the same name, and has not read the
    /// `welcome` of this one. `None` if it cannot be told.
    pub(crate) predates: Option<bool>,
    /// Number of direct messages that must follow at least if it is not recovered.
    pub(crate) min_directs: u64,
}

/// What a connection claims.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// Number of the session's name, and of the one that it continues.
    pub(crate) session: u32,
    pub(crate) was: Option<u32>,
    pub(crate) position: Option<ReadPosition>,
    /// Number under which the client's messages are known.
    pub(crate) marker: u32,
    /// Whether the position is behind what the client has read, so that the server may have dropped direct messages.
    pub(crate) is_behind: bool,
}

/// A seat of a session.
#[derive(Debug)]
pub(super) struct SessionSeat {
    pub(super) session: u32,
    pub(super) marker: u32,
    pub(super) user: Box<str>,
    pub(super) lobby: Box<str>,
    pub(super) conn: ConnId,
    /// Since when it is away, and why.
    pub(super) away: Option<Away>,
    /// Position of the session's first `presence_state`. Of `n` the lowest number that it can have been.
    pub(super) start: ReadPosition,
    /// When the session began, and the position that the client had then, read in an earlier session of the same name.
    pub(super) begun: (Time, Option<ReadPosition>),
    /// Whether there were direct messages before the session, of which it may have received some.
    pub(super) starts_late: bool,
    pub(super) directs: Vec<SaidDirect>,
    /// Number of the last direct message.
    pub(super) last_direct: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    pub(super) since: Time,
    pub(super) reason: LeaveReason,
    /// Whether the other members were told.
    pub(super) is_announced: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SaidDirect {
    pub(super) n: u64,
    pub(super) bytes: usize,
    /// Place among everything that was said.
    pub(super) place: u64,
}

/// What a lobby has said in its present epoch.
#[derive(Debug, Default)]
pub(super) struct LobbyLog {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) frames: Vec<SaidFrame>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SaidFrame {
    pub(super) seq: u64,
    pub(super) bytes: usize,
    pub(super) hash: u64,
    /// Number under which the messages of its sender are known, if a client has sent it.
    pub(super) marker: Option<u32>,
    /// The `ref` of its sender.
    pub(super) reference: Option<u64>,
    pub(super) place: u64,
}

impl SessionSeat {
    /// Returns whether the position of a claim is not of this session. `None` in the turn in which the session began: its
    /// `presence_state` may not have been sent.
    pub(super) fn predates(&self, claim: &Claim, log: Option<&LobbyLog>, at: Time) -> Option<bool> {
        let Some(position) = claim.position else { return Some(false) };
        let epoch = log.map_or(0, |log| log.epoch);
        let is_behind = position.seq < self.start.seq || position.n < self.start.n;
        let is_older = position.epoch != epoch || is_behind || self.begun.1 == Some(position);
        (is_older || at > self.begun.0).then_some(is_older)
    }

    /// A new session begins on the seat: the numbers of its direct messages are higher than all before. `step` is what is
    /// added to them.
    pub(super) fn renumber(&mut self, step: u64) {
        self.start.n = self.last_direct + 1;
        let digits = |n: u64| n.to_string().len();
        for direct in &mut self.directs {
            direct.bytes += digits(direct.n + step) - digits(direct.n);
            direct.n += step;
        }
        self.last_direct += step;
        self.starts_late = true;
    }

    /// Returns what a client that claims this seat is sent. `history` and `kept` are the bounds of what is kept: frames and
    /// bytes.
    pub(super) fn resume(
        &self,
        claim: &Claim,
        log: Option<&LobbyLog>,
        history: (usize, usize),
        kept: (usize, usize),
        is_reload: bool,
        predates: Option<bool>,
    ) -> Resume {
        let is_reload = is_reload || predates == Some(true);
        let nothing = LobbyLog::default();
        let log = log.unwrap_or(&nothing);
        let position = if is_reload { None } else { Some(claim.position.unwrap_or(self.start)) };
        let of_epoch = position.filter(|position| position.epoch == log.epoch);
        let read = of_epoch.map_or(0, |position| position.n);
        let directs = self.directs.iter().filter(|direct| direct.n > read);
        let frames = log.frames.iter().filter(|frame| of_epoch.is_some_and(|position| frame.seq > position.seq));
        let is_right = of_epoch.is_some_and(|position| {
            (self.start.seq..=log.seq).contains(&position.seq) && position.n <= self.last_direct
        });
        let has_frames = fits(history, frames.clone().map(|frame| frame.bytes));
        let has_directs = fits(kept, directs.clone().map(|direct| direct.bytes));
        let recovered = is_right && has_frames && has_directs;
        // Of the direct messages before the session, it may count those that were not written.
        let is_open = is_right && has_frames && claim.position.is_none() && self.starts_late;
        // What a later ping was answered for is not kept.
        let is_behind = claim.is_behind || (claim.position.is_none() && self.starts_late);
        let is_certain = !is_behind || directs.clone().next().is_none();
        let mut replay: Vec<(u64, Replayed)> = frames
            .filter_map(|frame| {
                let SaidFrame { seq, hash, place, .. } = *frame;
                let item = if frame.marker == Some(self.marker) {
                    Replayed::Ack { seq, reference: frame.reference? }
                } else {
                    Replayed::Frame { seq, hash }
                };
                Some((place, item))
            })
            .chain(directs.clone().map(|direct| (direct.place, Replayed::Direct { n: direct.n })))
            .collect();
        replay.sort_by_key(|&(place, _)| place);
        let kept_last = self.directs.iter().rev().scan((0, 0), |(count, bytes), direct| {
            (*count, *bytes) = (*count + 1, *bytes + direct.bytes);
            (*count <= kept.0 && *bytes <= kept.1 && direct.n > read).then_some(())
        });
        Resume {
            predates,
            recovered: (is_certain || !recovered && !is_open).then_some(recovered),
            replay: replay.into_iter().map(|(_, item)| item).collect(),
            last_direct: self.last_direct,
            min_directs: if is_behind || is_reload || of_epoch.is_none() { 0 } else { kept_last.count() as u64 },
        }
    }
}

/// Whether frames of these lengths, the last ones, are all kept by a history with these bounds.
fn fits((max_frames, max_bytes): (usize, usize), bytes: impl Iterator<Item = usize>) -> bool {
    let (frames, bytes) = bytes.fold((0, 0), |(frames, sum), bytes| (frames + 1, sum + bytes));
    frames <= max_frames && bytes <= max_bytes
}
