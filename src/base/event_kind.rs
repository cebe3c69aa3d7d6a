//! Kinds of the events that the hook and the operators' event stream report, and sets of them.

use std::fmt;

/// Kind of an event. [`EventKinds`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventKind {
    ServerStarted,
    ServerStopped,
    Draining,
    LobbyOpened,
    LobbyClosed,
    Joined,
    Rejoined,
    Away,
    Back,
    Left,
    Host,
    Started,
}

impl EventKind {
    /// All kinds, in the order of the documentation.
    pub(crate) const ALL: [EventKind; 12] = [
        EventKind::ServerStarted,
        EventKind::Joined,
        EventKind::Rejoined,
        EventKind::Away,
        EventKind::Back,
        EventKind::Left,
        EventKind::LobbyOpened,
        EventKind::LobbyClosed,
        EventKind::Host,
        EventKind::Started,
        EventKind::Draining,
        EventKind::ServerStopped,
    ];

    /// Returns the word on the wire: the `type` of the event.
    pub(crate) fn word(self) -> &'static str {
        match self {
            EventKind::ServerStarted => "server_started",
            EventKind::ServerStopped => "server_stopped",
            EventKind::Draining => "draining",
            EventKind::LobbyOpened => "lobby_opened",
            EventKind::LobbyClosed => "lobby_closed",
            EventKind::Joined => "joined",
            EventKind::Rejoined => "rejoined",
            EventKind::Away => "away",
            EventKind::Back => "back",
            EventKind::Left => "left",
            EventKind::Host => "host",
            EventKind::Started => "started",
        }
    }

    pub(crate) fn named(word: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of kinds of events, by their words: `joined,left`, or `all`.
///
/// ```
/// use lobbyd::config::EventKinds;
///
/// let kinds: EventKinds = "left,joined".parse().unwrap();
/// assert_eq!(kinds.to_string(), "joined,left");
/// assert_eq!(EventKinds::ALL.to_string(), "all");
/// assert!("entered".parse::<EventKinds>().unwrap_err().contains("server_started, joined"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    /// All kinds, also those that a later version adds.
    pub const ALL: EventKinds = EventKinds(u16::MAX);

    pub(crate) fn contains(self, kind: EventKind) -> bool {
        self.0 & kind.bit() != 0
    }
}

impl std::str::FromStr for EventKinds {
    type Err = String;

    /// Fails with a message that quotes the word and lists all words.
    fn from_str(text: &str) -> Result<EventKinds, String> {
        if text == "all" {
            return Ok(EventKinds::ALL);
        }
        text.split(',').map(str::trim).try_fold(EventKinds(0), |EventKinds(bits), word| {
            let kind = EventKind::named(word).ok_or_else(|| {
                let words: Vec<&str> = EventKind::ALL.into_iter().map(EventKind::word).collect();
                format!("`{}` is neither `all` nor one of {}", word.escape_debug(), words.join(", "))
            })?;
            Ok(EventKinds(bits | kind.bit()))
        })
    }
}

impl fmt::Display for EventKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == EventKinds::ALL {
            return f.write_str("all");
        }
        let kinds = EventKind::ALL.into_iter().filter(|kind| self.contains(*kind));
        let words: Vec<&str> = kinds.map(EventKind::word).collect();
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_word_and_its_own_bit() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::named(kind.word()), Some(kind));
            let kinds: EventKinds = kind.word().parse().expect("a word");
            assert_eq!(kinds.to_string(), kind.word());
            assert!(EventKind::ALL.into_iter().all(|other| kinds.contains(other) == (other == kind)));
        }
        assert!("".parse::<EventKinds>().is_err() && "joined,,left".parse::<EventKinds>().is_err());
    }
}
