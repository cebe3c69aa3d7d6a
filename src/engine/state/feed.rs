//! What happened to seats and lobbies since the driver last asked: for the operators' event stream and the hook.
//!
//! Nothing is kept unless a driver asks for it. Unlike the observer it notes no messages.

use smol_str::SmolStr;

use crate::base::close::LeaveReason;
use crate::base::event_kind::EventKind;
use crate::base::id::SeatId;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedEvent {
    /// When it happened, in milliseconds since the Unix epoch.
    pub(crate) unix_millis: u64,
    pub(crate) kind: EventKind,
    /// `None` if it is about the server.
    pub(crate) lobby: Option<SmolStr>,
    pub(crate) member: Option<FeedMember>,
    /// Why the member left or is away.
    pub(crate) reason: Option<LeaveReason>,
    /// How long a drain lasts at most, in milliseconds.
    pub(crate) deadline_millis: Option<u64>,
}

impl FeedEvent {
    /// An event that is about the server.
    pub(crate) fn of_server(kind: EventKind, unix_millis: u64) -> FeedEvent {
        FeedEvent { unix_millis, kind, lobby: None, member: None, reason: None, deadline_millis: None }
    }
}

/// The member that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedMember {
    pub(crate) user: SmolStr,
    pub(crate) seat: SeatId,
    /// Whether it plays or watches. `None` where that is not reported.
    pub(crate) is_watcher: Option<bool>,
}

/// Events since the driver last took them. `None` unless a consumer is registered.
#[derive(Debug, Default)]
pub(crate) struct Feed(Option<Vec<FeedEvent>>);

impl Feed {
    pub(crate) fn start(&mut self) {
        self.0.get_or_insert_default();
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn push(&mut self, event: FeedEvent) {
        if let Some(events) = &mut self.0 {
            events.push(event);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<FeedEvent> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
