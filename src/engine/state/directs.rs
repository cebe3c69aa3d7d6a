//! The direct messages of one session, numbered from 1, which are kept until they are known to have arrived.
//!
//! ```text
//! push() --> held, unwritten --note_all_written()--> held, written --acknowledge()--> forgotten
//!                 |                                       +---begin_session()-------------^
//!                 +------------ no room for a later message --------------------------> lost
//! ```

use std::borrow::Cow;

use super::text_ring::TextRing;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure};
use crate::protocol;

/// The last direct messages of a session, as JSON texts. When a new session receives the seat, the numbers go on above all
/// earlier ones.
#[derive(Debug)]
pub(crate) struct Directs {
    /// With the `seq` of the lobby's last frame before each message.
    ring: TextRing<u64>,
    /// Number of the last message that was written to the connection.
    written: u64,
}

/// A direct message that is held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DirectEntry<'a> {
    pub(crate) n: u64,
    /// The `seq` of the lobby's last frame before it.
    pub(crate) after_seq: u64,
    pub(crate) text: Cow<'a, str>,
}

impl Directs {
    /// The next message has the number `last + 1`.
    pub(crate) fn after(last: u64, max_frames: u32, max_bytes: usize) -> Directs {
        Directs { ring: TextRing::new(last, max_frames as usize, max_bytes), written: last }
    }

    /// Returns the number that the next message must contain.
    pub(crate) fn next(&self) -> u64 {
        self.ring.last() + 1
    }

    /// Appends the message with the number [`next`](Self::next), and drops the oldest ones that leave no room for it.
    /// `after_seq` is the `seq` of the lobby's last frame. An empty queue of the connection shows that all earlier
    /// messages were written; a seat without a connection has no queue, and passes false.
    pub(crate) fn push(&mut self, after_seq: u64, is_queue_empty: bool, text: &str) {
        if is_queue_empty {
            self.note_all_written();
        }
        self.ring.push(self.next(), after_seq, text);
    }

    /// Records that the queue of the connection is empty.
    pub(crate) fn note_all_written(&mut self) {
        self.written = self.ring.last();
    }

    /// Forgets the messages up to `n`, because a ping that was sent after them was answered.
    pub(crate) fn acknowledge(&mut self, n: u64) {
        self.written = self.written.max(n.min(self.ring.last()));
        self.ring.drop_to(n);
    }

    /// The seat belongs to a new session: forgets the messages that were written, and numbers the others anew, so that the
    /// session before has read no number as high. Returns the number before the first one.
    ///
    /// The number of an unwritten message is not enough, because the session before may have read it.
    pub(crate) fn begin_session(&mut self) -> u64 {
        self.ring.drop_to(self.written);
        // Above the last number, whatever is held.
        let first = self.ring.forgotten() + self.ring.max_texts() as u64 + 1;
        let mut ring = self.ring.emptied(first);
        for held in self.ring.after(0) {
            let number = ring.last() + 1;
            ring.push(number, *held.about, &protocol::renumbered_direct(&held.text, number));
        }
        (self.ring, self.written) = (ring, first);
        first
    }

    /// The messages held with a number above `n`, in order.
    pub(crate) fn entries_after(&self, n: u64) -> impl Iterator<Item = DirectEntry<'_>> {
        self.ring.after(n).map(|it| DirectEntry { n: it.number, after_seq: *it.about, text: it.text })
    }

    /// Returns whether a message with a number above `n` is no longer held.
    pub(crate) fn has_lost_after(&self, n: u64) -> bool {
        n < self.forgotten()
    }

    /// Highest number of a message that is no longer held. All later ones are.
    pub(crate) fn forgotten(&self) -> u64 {
        self.ring.forgotten()
    }

    /// Number of the last message; 0 if there was none.
    pub(crate) fn last(&self) -> u64 {
        self.ring.last()
    }

    /// Number of the last message that is known to have been written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Writes the messages to a snapshot.
    pub(crate) fn write(&self, to: &mut SnapshotWriter) {
        to.number(self.written);
        self.ring.write(to, |&after_seq, to| to.number(after_seq));
    }

    /// Reads messages with these bounds.
    pub(crate) fn read(
        max_frames: u32,
        max_bytes: usize,
        from: &mut SnapshotReader<'_>,
    ) -> Result<Directs, SnapshotError> {
        let (written, bounds) = (from.count()?, (max_frames as usize, max_bytes));
        let ring = TextRing::read(bounds, "the bounds of direct messages", from, SnapshotReader::count)?;
        ensure(written <= ring.last(), "only messages that exist were written")?;
        Ok(Directs { ring, written })
    }

    /// Number of messages held.
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Length of all texts held.
    pub(crate) fn bytes(&self) -> usize {
        self.ring.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(directs: &Directs, after: u64) -> Vec<u64> {
        directs.entries_after(after).map(|it| it.n).collect()
    }

    #[test]
    fn an_acknowledged_message_is_forgotten_and_numbers_go_on() {
        let mut directs = Directs::after(0, 10, 1000);
        assert_eq!((directs.next(), directs.last(), directs.forgotten()), (1, 0, 0));
        (0..4).for_each(|seq| directs.push(seq, false, "{}"));
        directs.acknowledge(2);
        assert_eq!((held(&directs, 0), held(&directs, 3)), (vec![3, 4], vec![4]));
        assert_eq!((directs.has_lost_after(1), directs.has_lost_after(2)), (true, false));
        directs.acknowledge(1);
        directs.acknowledge(4);
        assert_eq!((held(&directs, 0), directs.next(), directs.forgotten()), (vec![], 5, 4));
        // An answered ping never acknowledges what was not sent.
        directs.acknowledge(9);
        directs.push(9, false, "{}");
        assert_eq!((held(&directs, 0), directs.last()), (vec![5], 5));
        assert_eq!(directs.entries_after(0).next().map(|it| it.after_seq), Some(9));
    }

    #[test]
    fn a_new_session_receives_only_what_was_never_written_under_higher_numbers() {
        let text = |n: u64| format!(r#"{{"type":"direct","from":"\"n\":2","n":{n},"data":{{"n":2}}}}"#);
        let mut directs = Directs::after(0, 10, 1000);
        directs.push(1, true, &text(1));
        directs.push(1, true, &text(2));
        directs.push(1, false, &text(3));
        assert_eq!(directs.begin_session(), 12);
        assert_eq!(held(&directs, 0), [13, 14], "only the queue before the second message was empty");
        assert!(directs.entries_after(0).all(|it| it.text == text(it.n) && it.after_seq == 1));
        assert_eq!((directs.forgotten(), directs.written(), directs.next()), (12, 12, 15));
        directs.note_all_written();
        directs.push(1, false, &text(15));
        assert_eq!((directs.begin_session(), held(&directs, 0)), (25, vec![26]));
    }

    #[test]
    fn a_new_session_begins_above_all_numbers_whatever_is_held() {
        for (max_frames, max_bytes, sent, written) in
            [(0, 0, 3, 3), (2, 100, 5, 0), (2, 100, 5, 4), (3, 3, 2, 0), (9, 9, 9, 9)]
        {
            let mut directs = Directs::after(0, max_frames, max_bytes);
            (0..sent).for_each(|at| directs.push(0, at <= written, "{}"));
            let last = directs.last();
            let first = directs.begin_session();
            assert!(first > last && directs.forgotten() >= first, "{first} after {last}");
        }
    }

    #[test]
    fn the_oldest_messages_are_lost_when_there_is_no_room() {
        let mut directs = Directs::after(0, 2, 10);
        (0..3).for_each(|_| directs.push(0, false, "abc"));
        assert_eq!((held(&directs, 0), directs.len(), directs.bytes()), (vec![2, 3], 2, 6));
        directs.push(0, false, "0123456789");
        assert_eq!((held(&directs, 0), directs.has_lost_after(2), directs.has_lost_after(3)), (vec![4], true, false));
        directs.push(0, false, "0123456789a");
        assert_eq!((held(&directs, 0), directs.last(), directs.has_lost_after(4)), (vec![], 5, true));
    }
}
