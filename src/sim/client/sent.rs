//! Requests that a client has sent: what each one is, and what became of it.

/// Outcome of a numbered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Executed,
    /// Answered with an error.
    Refused,
    /// Never sent, although a higher number was.
    Skipped,
}

/// A message that the client sent and that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentRequest {
    pub(crate) kind: RequestKind,
    pub(crate) reference: Option<u32>,
    /// The client's number of broadcasts and messages to the application up to this request.
    pub(crate) k: u32,
    /// If it was compressed: the bytes by which it is longer than its payload.
    pub(crate) growth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Broadcast,
    App,
    Direct,
    /// A broadcast that is not numbered.
    Volatile,
    Presence,
    Ping,
    Malformed,
    /// A malformed `health_pong`. It is answered with an error, but charged as a `health_pong`.
    BadPong,
    Leave,
    /// A request of lobby control, by its index. `is_marked`: the change has the client's mark.
    Control {
        asked: u32,
        is_marked: bool,
    },
    /// In a session, a request whose number was used before, with the answer it must get. `None` if its outcome was not
    /// known.
    Repeat(Option<Outcome>),
}

/// The answer to a request of lobby control.
#[derive(Debug)]
pub(super) struct ControlAnswer {
    /// Index of the request.
    pub(super) asked: u32,
    /// Code of the error; `None` for an `ack`.
    pub(super) code: Option<Box<str>>,
    /// Whether the answer has a `ref`. Without one it may belong to another request.
    pub(super) is_certain: bool,
}

impl RequestKind {
    /// Whether a number as its `ref` counts, in a session.
    pub(crate) fn is_numbered(self) -> bool {
        use RequestKind::{App, Broadcast, Control, Direct, Malformed, Volatile};
        matches!(self, Broadcast | App | Direct | Volatile | Malformed | Control { .. })
    }

    /// Whether it waits for the next tick, if ticks are on.
    pub(crate) fn waits_for_tick(self) -> bool {
        use RequestKind::{App, Broadcast, Control, Direct, Volatile};
        matches!(self, Broadcast | App | Direct | Volatile | Control { .. })
    }

    /// Whether it takes a `seq` and reaches all other members.
    pub(crate) fn is_message(self) -> bool {
        matches!(self, RequestKind::Broadcast | RequestKind::App)
    }
}
