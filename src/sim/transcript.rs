//! The transcript of a run: a hash over all events, and the last events for the report of a failure.
//!
//! Knows nothing of the meaning of the events. Recording an event takes a few nanoseconds, so it is always on. Events
//! are formatted only when a run fails.

use std::fmt::Write as _;

use super::swarm::behaviour::Behaviour;
use crate::base::close::CloseReason;
use crate::base::time::Time;

/// Number of events kept for the report of a failure.
const MAX_EVENTS: usize = 4096;
/// Number of bytes of a text or frame kept with its event.
const SAMPLE: usize = 72;
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
}

#[derive(Clone, Copy)]
struct TranscriptEvent {
    step: u64,
    at: Time,
    link: u32,
    kind: EventKind,
    number: u64,
    sample: [u8; SAMPLE],
    sampled: u8,
}

pub(super) struct Transcript {
    hash: u64,
    events: Vec<TranscriptEvent>,
    /// Index of the oldest event, which the next event replaces, once `events` is full.
    next: usize,
    pub(super) step: u64,
    /// Number of the link that the last step concerned, or [`NO_CLIENT`]. The report of a failure names it.
    pub(super) current_client: u32,
}

impl Transcript {
    pub(super) fn new(seed: u64) -> Transcript {
        Transcript {
            hash: seed ^ 0xcbf2_9ce4_8422_2325,
            events: Vec::new(),
            next: 0,
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
        let sampled = bytes.len().min(SAMPLE);
        let mut event =
            TranscriptEvent { step: self.step, at, link, kind, number, sample: [0; SAMPLE], sampled: sampled as u8 };
        event.sample[..sampled].copy_from_slice(&bytes[..sampled]);
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        } else {
            self.events[self.next] = event;
            self.next = (self.next + 1) % MAX_EVENTS;
        }
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

    /// Formats the last `count` events of the connections in `links`, and those that concern no connection, one per
    /// line.
    pub(super) fn last(&self, links: &[u32], count: usize) -> String {
        let ordered = self.events[self.next..].iter().chain(&self.events[..self.next]);
        let is_concerned = |event: &&TranscriptEvent| match event.link {
            // Clock events are omitted: each line shows its time.
            NO_CLIENT => event.kind != EventKind::Clock,
            link => links.contains(&link),
        };
        let concerned: Vec<&TranscriptEvent> = ordered.filter(is_concerned).collect();
        let mut lines = String::new();
        for event in &concerned[concerned.len().saturating_sub(count)..] {
            let TranscriptEvent { step, at, kind, number, .. } = event;
            let kind = kind.word();
            let link = if event.link == NO_CLIENT { String::from("server") } else { format!("#{}", event.link) };
            let _ = write!(lines, "  step {step:<6} {at} {link:<7} {kind}");
            if *number > 0 {
                let _ = write!(lines, " {number}");
            }
            let sample = &event.sample[..usize::from(event.sampled)];
            if !sample.is_empty() {
                let _ = write!(lines, "  {}", sample.escape_ascii());
            }
            lines.push('\n');
        }
        lines
    }
}
