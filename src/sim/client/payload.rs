//! What model clients put into their messages, so that a receiver can tell who sent a message and in which order.
//!
//! Writes and reads payloads. Knows no connection and keeps the numbers of received messages only.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::number::integer;

/// Payload that model clients put into every message.
#[derive(Deserialize)]
pub(crate) struct Marker {
    /// Number of the sender's link.
    pub(crate) l: u32,
    /// Number of the message among those of its kind from this link.
    pub(crate) k: u32,
}

/// Payload of a broadcast that is not numbered.
#[derive(Deserialize)]
pub(crate) struct VolatileMarker {
    /// Number of the sender's link.
    pub(crate) l: u32,
    /// Number of the message among the direct messages and volatile broadcasts from this link.
    pub(crate) v: u32,
}

/// Payload of an operator's message: its number.
#[derive(Deserialize)]
pub(crate) struct OperatorMessage {
    pub(crate) op: u32,
}

impl Marker {
    pub(crate) fn read(data: &Option<&RawValue>) -> Option<Marker> {
        serde_json::from_str(data.as_ref()?.get()).ok()
    }

    /// Reads a raw message: two numbers of eight digits, as in [`raw_message`].
    pub(crate) fn read_raw(bytes: &[u8]) -> Option<Marker> {
        let digits = |range| str::from_utf8(bytes.get(range)?).ok()?.parse().ok();
        Some(Marker { l: digits(0..8)?, k: digits(8..16)? })
    }
}

impl VolatileMarker {
    pub(crate) fn read(data: &Option<&RawValue>) -> Option<VolatileMarker> {
        serde_json::from_str(data.as_ref()?.get()).ok()
    }
}

impl OperatorMessage {
    pub(crate) fn read(data: &Option<&RawValue>) -> Option<OperatorMessage> {
        serde_json::from_str(data.as_ref()?.get()).ok()
    }
}

/// Formats a message that [`Marker::read_raw`] reads.
pub(crate) fn raw_message(link: u32, k: u32, padding: usize) -> String {
    format!("{link:08}{k:08}{}", ".".repeat(padding))
}

/// Reads a raw latest-wins frame: the letter `L`, one digit for the key, and twelve for the value.
pub(crate) fn read_raw_latest(bytes: &[u8]) -> Option<(u64, u64)> {
    let digits = |range| str::from_utf8(bytes.get(range)?).ok()?.parse().ok();
    if bytes.first() == Some(&b'L') { Some((digits(1..2)?, digits(2..14)?)) } else { None }
}

/// Writes a number in one of the spellings that clients use; in many languages every number is written as a double.
pub(crate) fn write_number(number: u64) -> String {
    let digits = number.to_string();
    let (first, rest) = digits.split_at(1);
    match number % 5 {
        0 => digits,
        1 => format!("{digits}.0"),
        2 => format!("{first}.{rest}0e{}", rest.len()),
        3 => format!("{digits}00E-2"),
        _ => format!("{digits}.000e+00"),
    }
}

/// Reads a number, but only in the spelling that [`write_number`] uses for it.
pub(crate) fn read_number(text: &str) -> Option<u64> {
    let number = integer(text).and_then(|number| u64::try_from(number).ok())?;
    (write_number(number) == text).then_some(number)
}

/// Number of the last message received from each client.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastReceived {
    last: Vec<(u32, u32)>,
    /// Clients of which the next message may follow a gap.
    has_gap: Vec<u32>,
}

/// Whether numbers may be missing between two messages of one link.
pub(crate) enum Gaps<'a> {
    Forbidden,
    Allowed,
    /// Allowed, and appended to the list: link and number of each missing message.
    Noted(&'a mut Vec<(u32, u32)>),
}

impl LastReceived {
    /// Records a message and checks its order: no message may arrive twice or out of order.
    pub(crate) fn check_next(&mut self, marker: &Marker, gaps: Gaps<'_>) -> Result<(), String> {
        let Some((_, last)) = self.last.iter_mut().find(|(from, _)| *from == marker.l) else {
            self.last.push((marker.l, marker.k));
            return Ok(());
        };
        let known_gap = self.has_gap.iter().position(|from| *from == marker.l);
        let follows = match gaps {
            _ if known_gap.map(|at| self.has_gap.swap_remove(at)).is_some() => marker.k > *last,
            Gaps::Forbidden => marker.k == *last + 1,
            Gaps::Allowed => marker.k > *last,
            Gaps::Noted(gaps) => {
                gaps.extend((*last + 1..marker.k).map(|k| (marker.l, k)));
                marker.k > *last
            }
        };
        if !follows {
            return Err(format!("message {} of client #{} after message {last}", marker.k, marker.l));
        }
        *last = marker.k;
        Ok(())
    }

    /// Any number of messages may be missing before the next one of each client.
    pub(crate) fn allow_gaps(&mut self) {
        self.has_gap = self.last.iter().map(|&(from, _)| from).collect();
    }

    /// Returns the number of the last message received from `link`.
    pub(crate) fn of(&self, link: u32) -> Option<u32> {
        self.last.iter().find(|(from, _)| *from == link).map(|(_, k)| *k)
    }
}
