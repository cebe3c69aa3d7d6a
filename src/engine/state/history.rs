//! The numbered frames of a lobby that can be replayed: its last messages and presence changes, as JSON texts.
//!
//! The texts are encoded when they are replayed, as WebSocket frames or as server-sent events. Knows no connection.

use std::borrow::Cow;

use smol_str::SmolStr;

use super::text_ring::TextRing;
use crate::base::id::SeatId;
use crate::base::session::SessionHash;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter};

/// The session that sent a frame. A seat may belong to several sessions, one after the other, and users may choose the
/// same name for their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) seat: SeatId,
    pub(crate) session: SessionHash,
}

/// The last frames of a lobby with a `seq`.
#[derive(Debug)]
pub(crate) struct History(TextRing<Origin>);

/// Origin of a frame.
#[derive(Debug)]
struct Origin {
    /// `None` for a sender without a session, and for the lobby itself.
    sender: Option<Sender>,
    /// The `ref` of the sender's request, for the `ack` that it is replayed as.
    reference: Option<SmolStr>,
}

/// A frame of the history.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HistoryEntry<'a> {
    pub(crate) seq: u64,
    pub(crate) sender: Option<Sender>,
    pub(crate) reference: Option<&'a str>,
    pub(crate) text: Cow<'a, str>,
}

impl History {
    /// Creates an empty history of a lobby whose last frame had the number `last`. The bytes are those of the texts.
    pub(crate) fn new(last: u64, max_frames: u32, max_bytes: usize) -> History {
        History(TextRing::new(last, max_frames as usize, max_bytes))
    }

    /// Appends a frame, and drops the oldest ones that leave no room for it. Must be called for every `seq`: a gap
    /// empties the history, as does a text that is longer than the history may be.
    ///
    /// If the sender's request was sent as several frames, only the last one keeps the `ref`, because a `ref` receives
    /// one `ack`.
    pub(crate) fn push(&mut self, seq: u64, sender: Option<Sender>, reference: Option<&str>, text: &str) {
        if reference.is_some() {
            // The requests of a session are executed one after the other, so its last frame with a `ref` shows whether
            // this request has sent a frame before.
            let of_sender = |origin: &&mut Origin| origin.sender == sender && origin.reference.is_some();
            if let Some(last) = self.0.newest_first().find(of_sender)
                && last.reference.as_deref() == reference
            {
                last.reference = None;
            }
        }
        self.0.push(seq, Origin { sender, reference: reference.map(SmolStr::new) }, text);
    }

    /// Returns whether every frame with `after < seq <= last` is held.
    pub(crate) fn covers(&self, after: u64, last: u64) -> bool {
        after == last || (self.0.forgotten() <= after && after < last && last <= self.0.last())
    }

    /// The frames held with a `seq` above `after`, in order.
    pub(crate) fn entries_after(&self, after: u64) -> impl Iterator<Item = HistoryEntry<'_>> {
        self.0.after(after).map(|it| HistoryEntry {
            seq: it.number,
            sender: it.about.sender,
            reference: it.about.reference.as_deref(),
            text: it.text,
        })
    }

    /// Writes the history to a snapshot.
    pub(crate) fn write(&self, to: &mut SnapshotWriter) {
        self.0.write(to, |Origin { sender, reference }, to| {
            // A seat has no id 0.
            to.number(sender.map_or(0, |sender| sender.seat.0));
            sender.iter().for_each(|sender| to.bits(sender.session.bits()));
            to.option_text(reference.as_deref());
        });
    }

    /// Reads a history with these bounds.
    pub(crate) fn read(
        max_frames: u32,
        max_bytes: usize,
        from: &mut SnapshotReader<'_>,
    ) -> Result<History, SnapshotError> {
        let bounds = (max_frames as usize, max_bytes);
        let ring = TextRing::read(bounds, "the bounds of histories", from, |from| {
            let sender = match from.count()? {
                0 => None,
                seat => Some(Sender { seat: SeatId(seat), session: SessionHash::from_bits(from.bits()?) }),
            };
            Ok(Origin { sender, reference: from.option_text()?.map(SmolStr::new) })
        })?;
        Ok(History(ring))
    }

    /// Length of all texts held.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Number of frames held.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(seat: u64) -> Option<Sender> {
        Some(Sender { seat: SeatId(seat), session: SessionHash::from_bits(7) })
    }

    #[test]
    fn covers_exactly_the_frames_that_are_held() {
        for max_frames in 0..5 {
            let mut history = History::new(10, max_frames, 1000);
            for last in 10..20 {
                if last > 10 {
                    history.push(last, None, None, "{}");
                }
                let held: Vec<u64> = history.entries_after(0).map(|it| it.seq).collect();
                assert_eq!(held.len(), (last as usize - 10).min(max_frames as usize));
                for after in 0..25 {
                    for to in 0..25 {
                        let is_held = after <= to && (after + 1..=to).all(|seq| held.contains(&seq));
                        assert_eq!(history.covers(after, to), is_held, "{after} to {to} of {held:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_ref_of_a_sender_is_kept_at_its_last_frame() {
        let mut history = History::new(0, 10, 1000);
        let long = format!("\"{}\"", "r".repeat(64));
        let pushed = [
            (sender(1), Some("1")),
            (sender(2), Some("1")),
            (None, None),
            (sender(1), Some("1")),
            (sender(1), Some("2")),
            (sender(2), Some(&*long)),
            (sender(2), None),
            (sender(2), Some(&*long)),
        ];
        for (seq, (sender, reference)) in (1..).zip(pushed) {
            history.push(seq, sender, reference, "{}");
        }
        let kept: Vec<_> = history.entries_after(0).map(|it| it.reference).collect();
        assert_eq!(kept, [None, Some("1"), None, Some("1"), Some("2"), None, None, Some(&*long)]);
    }

    #[test]
    fn a_text_that_is_too_long_empties_the_history() {
        let mut history = History::new(0, 10, 20);
        history.push(1, None, None, "0123456789");
        history.push(2, None, None, "0123456789");
        assert_eq!((history.len(), history.bytes()), (2, 20));
        history.push(3, None, None, &"x".repeat(21));
        assert_eq!((history.len(), history.bytes(), history.covers(2, 3), history.covers(3, 3)), (0, 0, false, true));
        history.push(4, None, None, &"x".repeat(20));
        assert!(history.covers(3, 4) && !history.covers(2, 4));
    }

    /// A lobby with sessions needs `history_frames` of these, each with a length of 8 bytes, beside the texts.
    #[test]
    fn memory_per_frame_stays_small() {
        // Seat 8, session 16, whether there is a sender 8; `ref` 24.
        assert_eq!(size_of::<Origin>(), 56);
    }
}
