//! Observation of the events that the engine dispatches to the application, for the trace of a replay and for the
//! models of the simulator.
//!
//! An observer is fed with data afterwards and cannot change anything. Nothing is stored unless a driver asks for it.

use std::time::Duration;

use smol_str::SmolStr;

use super::member::{Member, Message, Pressure, RelayRequest};
use super::state::ticks::Tick;
use crate::base::close::LeaveReason;
use crate::base::id::SeatId;
use crate::base::time::Time;

/// An event that was dispatched to the application, noted directly before the application's callback was called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    pub(crate) at: Time,
    pub(crate) event: ObservedEvent,
}

/// The callback of [`App`](super::app::App) that was called, and its arguments; or what was sent, so that the replay of what
/// a client has missed can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ObservedEvent {
    /// `on_join`.
    Joined(Member),
    /// `on_rejoin`: this member has taken over the seat.
    TookOver(Member),
    /// `allows`. `to` is the receiver of a direct message.
    Relay { from: Member, to: Option<String>, data: String },
    /// `allows`, for a request of lobby control.
    Control { from: Member, word: &'static str, of: Option<SeatId>, text: String },
    /// `on_message`.
    Message { from: Member, content: Content },
    /// `on_away`.
    Away(Member, LeaveReason),
    /// `on_back`.
    Back(Member),
    /// `on_leave`.
    Left(Member, LeaveReason),
    /// `on_health`.
    Health(Member, Option<Duration>),
    /// `on_pressure`.
    Pressure(Member, Pressure),
    /// `on_tick`.
    Tick(Tick),
    /// `on_drain`, with the drain's deadline.
    Drain(Time),
    /// No callback: a numbered frame was sent to the members of a lobby.
    Said { lobby: SmolStr, epoch: u64, seq: u64, text: Box<str> },
    /// No callback: a direct message with this number was sent to the session in a seat.
    SaidDirectly { seat: SeatId, n: u64, text: Box<str> },
    /// No callback: the session in a seat was sent its first `presence_state`, with this `seq`.
    Began { seat: SeatId, seq: u64 },
}

/// Content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Text(Box<str>),
    /// A binary message of this many bytes.
    Bytes(usize),
}

/// The events since the driver last took them; `None` while they are not observed.
#[derive(Debug, Default)]
pub(super) struct Observer(Option<Vec<Observed>>);

impl Observer {
    pub(super) fn start(&mut self) {
        self.0.get_or_insert_default();
    }

    pub(super) fn take(&mut self) -> Vec<Observed> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Notes an event. `event` is called only while events are observed.
    #[inline]
    pub(super) fn note(&mut self, at: Time, event: impl FnOnce() -> ObservedEvent) {
        self.note_all(at, || Some(event()));
    }

    /// Notes any number of events.
    #[inline]
    pub(super) fn note_all<I: IntoIterator<Item = ObservedEvent>>(&mut self, at: Time, events: impl FnOnce() -> I) {
        if let Some(noted) = &mut self.0 {
            noted.extend(events().into_iter().map(|event| Observed { at, event }));
        }
    }
}

impl ObservedEvent {
    /// Returns the seat that got or lost its connection, or was freed.
    pub(crate) fn changed_seat(&self) -> Option<SeatId> {
        match self {
            ObservedEvent::Joined(member)
            | ObservedEvent::TookOver(member)
            | ObservedEvent::Away(member, _)
            | ObservedEvent::Back(member)
            | ObservedEvent::Left(member, _) => Some(member.seat()),
            _ => None,
        }
    }

    /// Whether the application was called.
    pub(crate) fn is_callback(&self) -> bool {
        use ObservedEvent::{Began, Said, SaidDirectly};
        !matches!(self, Said { .. } | SaidDirectly { .. } | Began { .. })
    }
}

impl From<Message<'_>> for Content {
    fn from(message: Message<'_>) -> Content {
        match message {
            Message::Text(text) | Message::Json { text, .. } => Content::Text(text.into()),
            Message::Binary(bytes) => Content::Bytes(bytes.len()),
        }
    }
}

impl ObservedEvent {
    pub(super) fn relay(from: &Member, request: RelayRequest<'_>) -> ObservedEvent {
        let (to, data) = match request {
            RelayRequest::Broadcast { data } => (None, data),
            RelayRequest::Direct { to, data } => (Some(to.to_owned()), data),
            RelayRequest::Set { of, data } => {
                return ObservedEvent::Control { from: from.clone(), word: "set", of, text: data.to_owned() };
            }
            RelayRequest::Host { conn } => {
                return ObservedEvent::Control {
                    from: from.clone(),
                    word: "host",
                    of: Some(conn),
                    text: String::new(),
                };
            }
            RelayRequest::Kick { user, is_banned } => {
                let word = if is_banned { "ban" } else { "kick" };
                return ObservedEvent::Control { from: from.clone(), word, of: None, text: user.to_owned() };
            }
            RelayRequest::Unban { user } => {
                return ObservedEvent::Control { from: from.clone(), word: "unban", of: None, text: user.to_owned() };
            }
            RelayRequest::Settings { settings } => {
                // It may contain a password.
                let text = format!("{} bytes", settings.len());
                return ObservedEvent::Control { from: from.clone(), word: "settings", of: None, text };
            }
        };
        ObservedEvent::Relay { from: from.clone(), to, data: data.to_owned() }
    }
}
