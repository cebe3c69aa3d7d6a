//! What a member has received of each other member of its lobby, and what is missing. Without I/O.
//!
//! Each member numbers the messages that it sends from 0 on. A receiver must get each number once and in order, except for
//! messages that the server has refused.

use std::collections::BTreeSet;

/// What one member has received of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    /// By the position of the sender in the lobby.
    senders: Vec<Received>,
}

#[derive(Clone, Debug, Default)]
struct Received {
    /// Number of the next message.
    next: u64,
    /// Numbers below `next` that were not received.
    missing: BTreeSet<u64>,
    /// The receiver knows that it may have missed some messages: it came back without all of them.
    has_gap: bool,
    /// Messages in such gaps.
    skipped: u64,
}

/// How a message fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It was not received before.
    New,
    /// A later message of the same sender was received before it.
    Late,
    Doubled,
}

/// What a member has sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Messages so far, which have the numbers below this one.
    pub(super) count: u64,
    /// Numbers of messages that need not arrive: they were refused, or it is not known whether they were accepted.
    pub(super) optional: BTreeSet<u64>,
}

/// Messages that one receiver lacks at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) lost: u64,
    /// The receiver was told that it has missed them.
    pub(super) unrecovered: u64,
}

impl Books {
    pub(super) fn new(members: usize) -> Books {
        Books { senders: vec![Received::default(); members] }
    }

    /// Enters a message.
    pub(super) fn receive(&mut self, sender: usize, number: u64) -> Fit {
        let book = &mut self.senders[sender];
        if number < book.next {
            return if book.missing.remove(&number) { Fit::Late } else { Fit::Doubled };
        }
        if std::mem::take(&mut book.has_gap) {
            book.skipped += number - book.next;
        } else {
            book.missing.extend(book.next..number);
        }
        book.next = number + 1;
        Fit::New
    }

    /// Notes that messages may be missing up to the next one of each sender, and that the receiver knows it.
    pub(super) fn accept_gap(&mut self) {
        self.senders.iter_mut().for_each(|book| book.has_gap = true);
    }

    /// Whether every message of this sender that must arrive has arrived.
    pub(super) fn is_complete(&self, sender: usize, sent: &Sent) -> bool {
        self.missing(sender, sent) == Missing::default()
    }

    /// Returns what is missing of a sender.
    pub(super) fn missing(&self, sender: usize, sent: &Sent) -> Missing {
        let book = &self.senders[sender];
        let required = |number: &u64| !sent.optional.contains(number);
        let inside = book.missing.iter().copied().filter(required).count() as u64;
        let rest = sent.count.saturating_sub(book.next)
            - sent.optional.range(book.next.min(sent.count)..sent.count).count() as u64;
        let (lost, skipped) = if book.has_gap { (0, rest) } else { (rest, 0) };
        Missing { lost: inside + lost, unrecovered: book.skipped + skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64, optional: &[u64]) -> Sent {
        Sent { count, optional: optional.iter().copied().collect() }
    }

    #[test]
    fn each_number_is_received_once_and_in_order() {
        let mut books = Books::new(2);
        for (number, fit) in
            [(0, Fit::New), (1, Fit::New), (1, Fit::Doubled), (3, Fit::New), (0, Fit::Doubled), (2, Fit::Late)]
        {
            assert_eq!(books.receive(1, number), fit, "{number}");
        }
        assert_eq!(books.receive(1, 2), Fit::Doubled);
        assert_eq!(books.receive(0, 0), Fit::New, "each sender has its own numbers");
        assert!(books.is_complete(1, &sent(4, &[])));
    }

    #[test]
    fn gaps_and_missing_ends_are_lost_unless_they_were_refused() {
        let mut books = Books::new(1);
        for number in [0, 2, 5] {
            books.receive(0, number);
        }
        let lost = |sent: &Sent| books.missing(0, sent).lost;
        assert_eq!(lost(&sent(6, &[])), 3);
        assert_eq!(lost(&sent(8, &[])), 5);
        assert_eq!(lost(&sent(8, &[1, 3, 7])), 2);
        assert_eq!(lost(&sent(8, &[1, 3, 4, 6, 7])), 0);
        assert!(books.is_complete(0, &sent(8, &[1, 3, 4, 6, 7])));
        assert_eq!(lost(&sent(6, &[0])), 3, "a message may arrive although it is optional");
    }

    #[test]
    fn what_the_receiver_knows_to_have_missed_is_not_lost() {
        let mut books = Books::new(2);
        books.receive(0, 0);
        books.accept_gap();
        books.receive(0, 4);
        books.receive(0, 6);
        assert_eq!(books.missing(0, &sent(7, &[])), Missing { lost: 1, unrecovered: 3 });
        assert_eq!(books.missing(1, &sent(2, &[])), Missing { lost: 0, unrecovered: 2 }, "none has come since");
    }
}
