//! Model of the close reasons: whether what happened on a connection explains the reason with which it ended.
//!
//! Decides from the facts of one connection only. Reasons with other causes are decided by the models of those causes.

use std::time::Duration;

use crate::base::close::CloseReason;
use crate::config::{Config, DuplicateLogin};

/// What happened on a connection until it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// Time since the connection was accepted.
    pub(crate) age: Duration,
    /// Time since the server last received a byte.
    pub(crate) silence: Duration,
    /// Whether the server has not read all bytes, or the end of the stream.
    pub(crate) has_input: bool,
    /// Number of consecutive turns in which the driver reported unread input.
    pub(crate) unread_turns: u32,
    /// Whether the client has closed or lost its side of the connection.
    pub(crate) client_ended: bool,
    /// Whether a write can have failed.
    pub(crate) write_failed: bool,
    /// Whether the user has another connection, or had a later one.
    pub(crate) user_has_other: bool,
    /// Whether the user had another connection at any time, which may have ended since.
    pub(crate) user_had_other: bool,
    pub(crate) sent_leave: bool,
    pub(crate) sent_close: bool,
    /// Code of that close frame.
    pub(crate) close_code: Option<u16>,
    /// Whether any client has sent a malformed message.
    pub(crate) malformed_sent: bool,
    /// Whether the client sent something invalid.
    pub(crate) is_unpredictable: bool,
    /// Whether it is not known what the client sent: something invalid, or an application's player chose it.
    pub(crate) is_unchecked: bool,
    pub(crate) is_draining: bool,
    /// Whether the client has read `presence_state`.
    pub(crate) is_synced: bool,
    /// Whether it asked for an event stream, on which an attempt beyond the rate is refused with a close code.
    pub(crate) is_event_attempt: bool,
    /// Number of bytes that the client sent.
    pub(crate) bytes_sent: u64,
}

impl Circumstances {
    /// Whether the connection can have ended with `reason`. `None` if the circumstances do not decide it.
    pub(crate) fn allow(&self, reason: CloseReason, config: &Config) -> Option<bool> {
        Some(match reason {
            CloseReason::Hangup => self.client_ended,
            CloseReason::WriteFailed => self.write_failed,
            CloseReason::ServerShutdown => self.is_draining,
            // An unread connection must not time out before its timers were deferred for max_deferred_turns turns.
            CloseReason::Stale | CloseReason::HandshakeTimeout | CloseReason::AuthTimeout
                if self.has_input && self.unread_turns <= config.max_deferred_turns =>
            {
                false
            }
            // A refused login has the other connection of its user pinged.
            CloseReason::Stale if config.duplicate_login != DuplicateLogin::Replace && self.user_had_other => {
                self.silence >= config.pong_timeout
            }
            CloseReason::Stale => self.silence >= config.ping_interval + config.pong_timeout,
            CloseReason::HandshakeTimeout => self.age >= config.handshake_timeout,
            CloseReason::AuthTimeout => self.age >= config.auth_timeout,
            CloseReason::MaxLifetime => config.max_lifetime.is_some_and(|age| self.age >= age),
            CloseReason::Replaced => self.user_has_other,
            CloseReason::Left => self.sent_leave || self.is_unchecked,
            CloseReason::PeerClosed => (self.sent_close && !self.says_gone()) || self.is_unchecked,
            CloseReason::PeerGone => (self.sent_close && self.says_gone()) || self.is_unchecked,
            CloseReason::BadMessage => self.is_unchecked || self.malformed_sent,
            CloseReason::MessageTooBig => self.is_unchecked,
            CloseReason::ProtocolError | CloseReason::BadUtf8 => self.is_unpredictable,
            _ => return None,
        })
    }

    /// Whether the client's close frame says that it went away, or says nothing.
    fn says_gone(&self) -> bool {
        self.close_code.is_none_or(|code| code == 1001)
    }
}
