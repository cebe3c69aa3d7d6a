//! Event streams: how a connection becomes one, and how it is refused. Apart from that it is a connection as any other.

use std::time::Duration;

use super::core::Core;
use crate::base::close::{CloseReason, Reconnect};
use crate::base::id::ConnKey;
use crate::http::Cors;
use crate::ws::event_stream::{CONTINUE, stream_head};

/// Wait before a client comes back that was refused for a moment, and not told a time.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(1);

impl Core {
    /// Answers a request for events. The status is always 200: an `EventSource` never comes back after any other.
    pub(super) fn accept_events(&mut self, key: ConnKey, cors: Option<&Cors>) {
        let date = self.date_line();
        let slot = &mut self.conns[key];
        let id = slot.id;
        slot.wire.accept_events();
        // Spread, because a server that fails loses all its streams at once.
        let head = stream_head(date, cors, self.retry_after_ms(id));
        self.redact_echo(key, cors.and_then(|cors| cors.echo(&head)));
        self.egress.push_response(key, head);
        self.egress.open_events(key);
    }

    /// Milliseconds after which an `EventSource` connects again when it was closed for `reason`; `None`: never.
    pub(super) fn event_retry_ms(&self, key: ConnKey, reason: CloseReason, retry_after_ms: Option<u64>) -> Option<u64> {
        retry_after_ms.or_else(|| match reason.reconnect() {
            Reconnect::No => None,
            Reconnect::AtOnce => Some(0),
            Reconnect::Backoff => Some(self.retry_after_ms(self.conns[key].id)),
        })
    }

    /// The socket of an event stream has taken bytes. No pong will come, so this is the answer to the last comment.
    pub(super) fn note_progress(&mut self, key: ConnKey) {
        if self.conns[key].health.written() {
            self.rearm(key);
        }
    }

    /// Tells a client that its POST is accepted so far.
    pub(super) fn send_continue(&mut self, key: ConnKey) {
        self.egress.push_response(key, CONTINUE.into());
        self.egress.mark_dirty(key);
    }
}
