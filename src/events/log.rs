//! The last events, numbered, as JSON texts.

use std::collections::VecDeque;

use smol_str::SmolStr;

use super::text::write_event;
use crate::base::event_kind::EventKind;
use crate::engine::state::feed::FeedEvent;

/// An event in the log.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Number of the event. The first event of a start of the server has the number 1, and no number is left out.
    pub(crate) seq: u64,
    pub(crate) kind: EventKind,
    /// `None` if it is about the server.
    pub(crate) lobby: Option<SmolStr>,
    /// JSON object, without a line break.
    pub(crate) text: Box<str>,
}

/// The last `max_events` events.
#[derive(Debug)]
pub(crate) struct EventLog {
    boot: String,
    node: Option<String>,
    max_events: usize,
    last: u64,
    entries: VecDeque<Entry>,
}

impl EventLog {
    /// Creates a log without events. `boot` identifies this start of the server, `node` this node of a cluster.
    pub(crate) fn new(boot: u64, node: Option<String>, max_events: usize) -> EventLog {
        EventLog { boot: format!("{boot:016x}"), node, max_events, last: 0, entries: VecDeque::new() }
    }

    /// Appends an event. Returns the entry that gives way to it.
    pub(crate) fn push(&mut self, event: &FeedEvent) -> Option<Entry> {
        self.last += 1;
        let text = write_event(&self.boot, self.last, self.node.as_deref(), event);
        let lobby = event.lobby.clone();
        self.entries.push_back(Entry { seq: self.last, kind: event.kind, lobby, text: text.into() });
        if self.entries.len() > self.max_events { self.entries.pop_front() } else { None }
    }

    /// Identifies this start of the server: 16 hexadecimal digits.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Returns the number of the last event; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Returns the number of the oldest event that is kept; that of the next event if there is none.
    pub(crate) fn oldest(&self) -> u64 {
        self.entries.front().map_or(self.last + 1, |entry| entry.seq)
    }

    /// Returns the events from the number `seq` on that are kept.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        let skipped = usize::try_from(seq.saturating_sub(self.oldest())).unwrap_or(usize::MAX);
        self.entries.range(skipped.min(self.entries.len())..)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event of a lobby.
    pub(crate) fn event(kind: EventKind, lobby: Option<&str>) -> FeedEvent {
        let lobby = lobby.map(SmolStr::new);
        FeedEvent { unix_millis: 5, kind, lobby, member: None, reason: None, deadline_millis: None }
    }

    #[test]
    fn the_log_keeps_the_last_events_and_numbers_all() {
        let mut log = EventLog::new(255, None, 3);
        assert_eq!((log.boot(), log.last(), log.oldest(), log.from(0).count()), ("00000000000000ff", 0, 1, 0));
        let gone: Vec<Option<u64>> =
            (0..5).map(|_| log.push(&event(EventKind::Joined, Some("a"))).map(|entry| entry.seq)).collect();
        assert_eq!(gone, [None, None, None, Some(1), Some(2)]);
        assert_eq!((log.last(), log.oldest()), (5, 3));
        let seqs = |from| log.from(from).map(|entry| entry.seq).collect::<Vec<_>>();
        assert_eq!(
            (seqs(0), seqs(4), seqs(5), seqs(6), seqs(u64::MAX)),
            (vec![3, 4, 5], vec![4, 5], vec![5], vec![], vec![])
        );
    }
}
