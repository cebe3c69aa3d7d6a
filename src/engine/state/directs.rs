//! The direct messages of one session, numbered from 1, which are kept until they are known to have arrived.
//!
//! ```text
//! push() --> held, unwritten --note_all_written()--> held, written --acknowledge()--> forgotten
//!                 |                                       +---keep_unwritten()------------^
//!                 +------------ no room for a later message --------------------------> lost
//! ```

use std::borrow::Cow;

use super::text_ring::TextRing;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure};

/// The last direct messages of a session, as JSON texts. The numbers go on when a new session receives the seat.
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
    pub(crate) fn new(max_frames: u32, max_bytes: usize) -> Directs {
        Directs { ring: TextRing::new(0, max_frames as usize, max_bytes), written: 0 }
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

    /// Forgets the messages that were written, because the seat belongs to a new session.
    pub(crate) fn keep_unwritten(&mut self) {
        self.ring.drop_to(self.written);
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
        let mut directs = Directs::new(10, 1000);
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
    fn a_new_session_receives_only_what_was_never_written() {
        let mut directs = Directs::new(10, 1000);
        directs.push(1, true, "1");
        directs.push(1, true, "2");
        directs.push(1, false, "3");
        directs.keep_unwritten();
        assert_eq!(held(&directs, 0), [2, 3], "only the queue before the second message was empty");
        directs.note_all_written();
        directs.push(1, false, "4");
        directs.keep_unwritten();
        assert_eq!((held(&directs, 0), directs.forgotten()), (vec![4], 3));
    }

    #[test]
    fn the_oldest_messages_are_lost_when_there_is_no_room() {
        let mut directs = Directs::new(2, 10);
        (0..3).for_each(|_| directs.push(0, false, "abc"));
        assert_eq!((held(&directs, 0), directs.len(), directs.bytes()), (vec![2, 3], 2, 6));
        directs.push(0, false, "0123456789");
        assert_eq!((held(&directs, 0), directs.has_lost_after(2), directs.has_lost_after(3)), (vec![4], true, false));
        directs.push(0, false, "0123456789a");
        assert_eq!((held(&directs, 0), directs.last(), directs.has_lost_after(4)), (vec![], 5, true));
    }
}
