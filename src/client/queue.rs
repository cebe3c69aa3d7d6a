//! The events that the application has not polled.

use std::collections::VecDeque;

use super::error::LobbyError;
use super::event::{Ack, Event, LobbyMember, RequestId, State};
use super::limits::MAX_EVENT_WEIGHT;
use super::weight;

/// Memory of an event, without what it refers to.
const EVENT: usize = 256;

/// Events in order. Until the members are known, those about the lobby wait.
#[derive(Debug)]
pub(super) struct EventQueue {
    ready: VecDeque<Event>,
    /// Events before the first list; `None` when the list is known.
    early: Option<VecDeque<Event>>,
    weight: usize,
}

impl Default for EventQueue {
    fn default() -> EventQueue {
        EventQueue { ready: VecDeque::new(), early: Some(VecDeque::new()), weight: 0 }
    }
}

impl EventQueue {
    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.ready.pop_front()?;
        self.weight -= weight_of(&event);
        Some(event)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Removes the outcome of a request, ahead of the events before it.
    pub(super) fn take_settled(&mut self, request: RequestId) -> Option<Result<Ack, LobbyError>> {
        let at = self.ready.iter().position(|event| matches!(event, Event::Settled { id, .. } if *id == request))?;
        let event = self.ready.remove(at)?;
        self.weight -= weight_of(&event);
        if let Event::Settled { result, .. } = event { Some(result) } else { None }
    }

    /// Whether so much waits that no message may be read.
    pub(super) fn is_full(&self) -> bool {
        self.weight >= MAX_EVENT_WEIGHT
    }

    /// Whether the first list is known.
    pub(super) fn is_known(&self) -> bool {
        self.early.is_none()
    }

    /// The application has left: what was not polled about the lobby is dropped.
    pub(super) fn forget_lobby(&mut self) {
        self.early = None;
        self.ready.retain(|event| matches!(event, Event::Connection { .. } | Event::Settled { .. }));
        self.weight = self.ready.iter().map(weight_of).sum();
    }

    /// The connection was given up before the first list: nothing could be polled of what has waited for it. Returns whether
    /// something is dropped.
    pub(super) fn drop_early(&mut self) -> bool {
        let dropped = self.early.as_mut().map(std::mem::take).unwrap_or_default();
        self.weight -= dropped.iter().map(weight_of).sum::<usize>();
        !dropped.is_empty()
    }

    /// Reports something about the lobby.
    pub(super) fn push(&mut self, event: Event) {
        self.weight += weight_of(&event);
        self.early.as_mut().unwrap_or(&mut self.ready).push_back(event);
    }

    /// Reports a change, unless the first list is not known: it has all of them.
    pub(super) fn push_change(&mut self, event: Event) {
        if self.is_known() {
            self.push(event);
        }
    }

    /// Reports something about the session, which does not wait for the first list.
    pub(super) fn push_at_once(&mut self, event: Event) {
        // An application that never polls gets no further states of the connection.
        if self.is_full() && matches!(&event, Event::Connection { state, .. } if *state != State::Closed) {
            return;
        }
        self.weight += weight_of(&event);
        self.ready.push_back(event);
    }

    /// The first list is known: the events that have waited for it follow.
    pub(super) fn release(&mut self) {
        self.ready.extend(self.early.take().into_iter().flatten());
    }
}

/// A member counts whole in each event. Events may share its data, but after a change each has its own copy.
fn weight_of(event: &Event) -> usize {
    let of_text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let inner = match event {
        Event::Connection { why, .. } => why.as_ref().map_or(0, |why| why.reason.len()),
        Event::Message(message) => message.json.len() + of_text(&message.kind) + of_text(&message.from),
        Event::Binary(bytes) => bytes.len(),
        Event::Join(who) | Event::Away(who) | Event::Back(who) | Event::Host(Some(who)) => who.weight(),
        Event::Leave { who, reason } => who.weight() + reason.len(),
        Event::Settled { result: Ok(ack), .. } => weight::of_map(&ack.fields),
        Event::Settled { result: Err(error), .. } | Event::Error(error) => error.weight(),
        Event::Data { changes, who, by, .. } => {
            weight::of_map(changes) + who.as_ref().map_or(0, LobbyMember::weight) + of_text(by)
        }
        Event::Settings { changes, by, .. } => weight::of_map(changes) + of_text(by),
        Event::Start(seats) => seats.iter().map(|seat| EVENT + seat.user.len() + seat.conn.len()).sum(),
        Event::Members | Event::Gap | Event::Host(None) | Event::Countdown(_) | Event::Lobbies => 0,
    };
    EVENT + inner
}
