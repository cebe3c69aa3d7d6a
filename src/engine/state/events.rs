//! Events for the application. They are queued and dispatched after the call that caused them, so that no callback runs
//! inside another.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::close::LeaveReason;
use crate::engine::member::{Member, Pressure};

/// An event that has still to be dispatched to the application.
#[derive(Debug)]
pub(crate) enum AppEvent {
    /// The member has left its seat or lost it to a newer connection, but its inbox still has messages. They are
    /// delivered before its leave is dispatched.
    Undelivered(Member),
    Joined(Member),
    Rejoined(Member),
    /// The connection of a session was lost; its seat is kept.
    Away(Member, LeaveReason),
    /// A session has a connection again.
    Back(Member),
    Left(Member, LeaveReason),
    Health(Member, Option<Duration>),
    Pressure(Member, Pressure),
}

/// Events in the order of dispatch.
pub(crate) type AppEvents = VecDeque<AppEvent>;
