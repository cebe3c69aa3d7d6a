//! The transcript of a run: a hash over all events, and the last events for the report of a failure.
//!
//! Knows nothing of the meaning of the events. Recording an event takes a few nanoseconds, so it is always on. Events
//! are formatted only when a run fails.

use std::fmt::Write as _;

use super::decoder::{Unit, describe, quote};
use super::swarm::behaviour::Behaviour;
use crate::base::close::CloseReason;
use crate::base::time::Time;

/// Number of events that are kept at least, for the report of a failure.
const MIN_EVENTS: usize = 2048;
/// Number of units sent by clients that are kept at least.
const MIN_ACTIONS: usize = 512;
/// Number of bytes of an event that are kept: more than the header of a frame.
const SAMPLE: usize = 256;
/// Link number of an event that concerns no connection.
pub(super) const NO_CLIENT: u32 = u32::MAX;

macro_rules! events {
    ($( $name:ident = $number:literal, $word:literal; )*) => {
        /// Kind of an event. Its number goes into the hash and its word into reports, so a changed word does not change the
        /// hash.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum EventKind {
            $( $name, )*
            /// A client, the network, the clock, the application or an operator showed this behaviour.
            Did(Behaviour),
            /// The server recorded this close reason for a connection.
            Ended(CloseReason),
        }

        impl EventKind {
            const fn number(self) -> u64 {
                match self {
                    $( EventKind::$name => $number, )*
                    EventKind::Did(behaviour) => 1000 + behaviour as u64,
                    EventKind::Ended(reason) => 2000 + reason.kind() as u64,
                }
            }

            fn word(&self) -> &str {
                match self {
                    $( EventKind::$name => $word, )*
                    EventKind::Did(behaviour) => behaviour.word(),
                    EventKind::Ended(reason) => reason.word(),
                }
            }
        }
    };
}

events! {
    HangsUp = 1, "hangs up";
    Arrived = 2, "arrived";
    Reads = 3, "reads";
    Writable = 4, "writable";
    Wrote = 5, "wrote";
    WroteBlocked = 6, "wrote, blocked";
    WroteFinished = 7, "wrote, finished";
    WroteClosed = 8, "wrote, closed";
    WriteFailed = 9, "write failed";
    Dropped = 10, "dropped";
    Clock = 11, "the clock moves";
    TurnedAway = 12, "turned away";
    Connects = 13, "connects";
    Broadcast = 14, "broadcast";
    SpuriousWake = 15, "spurious wake";
    Latest = 16, "latest";
    HasWaited = 17, "has waited";
    Drains = 18, "drains";
    Filled = 19, "filled";
    Authorized = 20, "authorized";
    Request = 21, ">";
    Response = 22, "<";
}

#[derive(Clone, Copy)]
struct TranscriptEvent {
    step: u64,
    at: Time,
    link: u32,
    kind: EventKind,
    number: u64,
    /// What the bytes are, if they are a unit of a stream, and how long it is.
    unit: Option<(Unit, usize)>,
    /// Offset of its bytes in those of the list, which end where those of the next event begin.
    start: usize,
}

/// The last events, at least `min` of them, with their bytes.
struct Events {
    events: Vec<TranscriptEvent>,
    bytes: Vec<u8>,
    min: usize,
}

impl Events {
    fn new(min: usize) -> Events {
        Events { events: Vec::new(), bytes: Vec::new(), min }
    }

    fn push(&mut self, event: TranscriptEvent, bytes: &[u8]) {
        if self.events.len() == 2 * self.min {
            self.events.drain(..self.min);
            let removed = self.events[0].start;
            self.bytes.drain(..removed);
            self.events.iter_mut().for_each(|event| event.start -= removed);
        }
        self.events.push(TranscriptEvent { start: self.bytes.len(), ..event });
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(SAMPLE)]);
    }

    fn bytes_of(&self, at: usize) -> &[u8] {
        let end = self.events.get(at + 1).map_or(self.bytes.len(), |next| next.start);
        &self.bytes[self.events[at].start..end]
    }

    /// Formats the events at `indices`, one per line.
    fn lines(&self, indices: &[usize]) -> String {
        indices.iter().map(|&at| self.events[at].line(self.bytes_of(at))).collect()
    }
}

pub(super) struct Transcript {
    hash: u64,
    events: Events,
    /// What the clients sent.
    actions: Events,
    pub(super) step: u64,
    /// Number of the link that the last step concerned, or [`NO_CLIENT`]. The report of a failure names it.
    pub(super) current_client: u32,
}

impl Transcript {
    pub(super) fn new(seed: u64) -> Transcript {
        Transcript {
            hash: seed ^ 0xcbf2_9ce4_8422_2325,
            events: Events::new(MIN_EVENTS),
            actions: Events::new(MIN_ACTIONS),
            step: 0,
            current_client: NO_CLIENT,
        }
    }

    /// Adds an event. Its `bytes` go into the hash in full.
    pub(super) fn note(&mut self, at: Time, link: u32, kind: EventKind, number: u64, bytes: &[u8]) {
        self.mix(at.as_micros());
        self.mix(u64::from(link) << 32 | kind.number());
        self.mix(number);
        self.mix_bytes(bytes);
        let event = TranscriptEvent { step: self.step, at, link, kind, number, unit: None, start: 0 };
        self.events.push(event, bytes);
    }

    /// Adds a unit of a stream, completed by an event that is noted already. It is not hashed again.
    pub(super) fn note_unit(&mut self, at: Time, link: u32, kind: EventKind, unit: Unit, bytes: &[u8]) {
        let unit = Some((unit, bytes.len()));
        self.events.push(TranscriptEvent { step: self.step, at, link, kind, number: 0, unit, start: 0 }, bytes);
    }

    /// Adds a unit that a client sent. It is hashed when it arrives.
    pub(super) fn note_action(&mut self, at: Time, link: u32, unit: Unit, bytes: &[u8]) {
        let (kind, unit) = (EventKind::Broadcast, Some((unit, bytes.len())));
        self.actions.push(TranscriptEvent { step: self.step, at, link, kind, number: 0, unit, start: 0 }, bytes);
    }

    pub(super) fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(29);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        self.mix(u64::from_le_bytes(rest) ^ (bytes.len() as u64) << 56);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash ^ self.hash >> 32
    }

    /// Formats the last `count` events, one per line. Half of them are those of the connections in `concerned`, if
    /// there are as many. The others are those of the connections in `near`, and those that concern no connection.
    pub(super) fn last_events(&self, concerned: &[u32], near: &[u32], count: usize) -> String {
        let events = &self.events.events;
        // The bytes of a read or write are shown by the units that they complete, if there are any.
        let is_shown_later = |at: usize| {
            let next = events[at + 1..].iter().find(|next| next.link == events[at].link);
            events[at].has_bytes() && next.is_some_and(|next| next.unit.is_some())
        };
        let last = |is_of: &dyn Fn(u32) -> bool, count: usize| {
            let fits = |&at: &usize| is_of(events[at].link) && events[at].is_shown() && !is_shown_later(at);
            (0..events.len()).rev().filter(fits).take(count).collect::<Vec<usize>>()
        };
        let mut chosen = last(&|link| concerned.contains(&link), count / 2);
        chosen.extend(last(&|link| link == NO_CLIENT || near.contains(&link), count - chosen.len()));
        chosen.sort_unstable();
        self.events.lines(&chosen)
    }

    /// Formats the last `count` units that the connections in `links` sent, one per line.
    pub(super) fn last_actions(&self, links: &[u32], count: usize) -> String {
        let events = &self.actions.events;
        let mut sent: Vec<usize> =
            (0..events.len()).rev().filter(|&at| links.contains(&events[at].link)).take(count).collect();
        sent.reverse();
        self.actions.lines(&sent)
    }
}

impl TranscriptEvent {
    /// Clock events are omitted, because each line shows its time. So are broadcasts: the message is shown when it
    /// arrives.
    fn is_shown(&self) -> bool {
        !matches!(self.kind, EventKind::Clock | EventKind::Broadcast)
    }

    /// Whether its bytes are those of a read or write, which may be a part of a unit, or several.
    fn has_bytes(&self) -> bool {
        matches!(self.kind, EventKind::Arrived | EventKind::Wrote)
    }

    fn line(&self, bytes: &[u8]) -> String {
        let TranscriptEvent { step, at, link, kind, number, unit, .. } = self;
        let link = if *link == NO_CLIENT { String::from("server") } else { format!("#{link}") };
        let mut line = format!("  step {step:<6} {at} {link:<7}");
        // What a client sent has no word of its own.
        if *kind != EventKind::Broadcast {
            let _ = write!(line, " {}", kind.word());
        }
        match kind {
            EventKind::Arrived | EventKind::Wrote | EventKind::WroteBlocked | EventKind::Reads => {
                let _ = write!(line, " {number} bytes");
            }
            // The number is an internal code.
            EventKind::Did(_) | EventKind::Authorized => {}
            _ if *number > 0 => {
                let _ = write!(line, " {number}");
            }
            _ => {}
        }
        let text = match (unit, kind) {
            (Some((unit, length)), _) => describe(*unit, bytes, *length),
            (None, EventKind::Connects | EventKind::Did(_) | EventKind::Filled) => {
                quote(&String::from_utf8_lossy(bytes))
            }
            // The other bytes are shown as units.
            _ => String::new(),
        };
        if !text.is_empty() {
            let _ = write!(line, " {text}");
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_and_their_bytes_are_kept() {
        let mut events = Events::new(3);
        let event = |step| TranscriptEvent {
            step,
            at: Time::ZERO,
            link: 1,
            kind: EventKind::Connects,
            number: 0,
            unit: None,
            start: 0,
        };
        (0..10).for_each(|step| events.push(event(step), format!("{step}").repeat(step as usize).as_bytes()));
        let kept: Vec<(u64, &[u8])> =
            (0..events.events.len()).map(|at| (events.events[at].step, events.bytes_of(at))).collect();
        assert_eq!(kept, [(6, &b"666666"[..]), (7, b"7777777"), (8, b"88888888"), (9, b"999999999")]);
    }
}
