//! Whether and when a client comes back after a connection was lost.

use std::time::Duration;

use super::event::Closed;
use super::fields::Fields;
use super::limits::MAX_REASON_BYTES;
use crate::base::time::Time;

/// Largest wait before the first attempt after a loss; it doubles with each attempt.
const FIRST: Duration = Duration::from_millis(500);
/// Largest wait.
const MAX: Duration = Duration::from_secs(20);

/// How a connection has ended: by the server's `goodbye`, or by what the network reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) code: u16,
    pub(super) reason: String,
    /// Overrules the code.
    pub(super) reconnect: Option<bool>,
    pub(super) retry_after: Duration,
    /// Where the lobby is.
    pub(super) url: Option<String>,
}

impl Ending {
    pub(super) fn new(code: u16, reason: &str) -> Ending {
        Ending { code, reason: reason.to_owned(), reconnect: None, retry_after: Duration::ZERO, url: None }
    }

    /// Reads a `goodbye`. `None` if it has no code.
    pub(super) fn of_goodbye(goodbye: &Fields<'_>) -> Option<Ending> {
        Some(Ending {
            code: u16::try_from(goodbye.number("code")?).ok()?,
            reason: goodbye.text("reason").filter(|reason| reason.len() <= MAX_REASON_BYTES).unwrap_or_default(),
            reconnect: goodbye.flag("reconnect"),
            retry_after: Duration::from_millis(goodbye.number("retry_after_ms").unwrap_or(0)),
            url: goodbye.text("url"),
        })
    }

    pub(super) fn closed(&self, wait: Option<Duration>) -> Closed {
        Closed { code: self.code, reason: self.reason.clone(), wait }
    }

    fn may_come_back(&self) -> bool {
        self.reconnect.unwrap_or(matches!(self.code, 1001 | 1005 | 1006 | 1011 | 4100..=4299 | 4500..=4699))
    }

    /// Whether the server expects the client back without a wait.
    fn is_brief(&self) -> bool {
        self.url.is_some() || matches!(self.code, 4200..=4299 | 4600..=4699)
    }
}

#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Attempts since the last connection that held for some time.
    attempt: u32,
    /// The last connection ended with 4001.
    is_expired: bool,
    /// An attempt, of this process or of the one before, had no answer: it may still reach the server, and displace a later
    /// connection.
    has_stray: bool,
    /// The server wants no attempt before.
    not_before: Time,
}

impl Backoff {
    pub(super) fn new(has_stray: bool) -> Backoff {
        Backoff { has_stray, ..Backoff::default() }
    }

    /// A connection has held for some time.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
        self.is_expired = false;
    }

    /// The server may still read a request that had no answer.
    pub(super) fn leave_stray(&mut self) {
        self.has_stray = true;
    }

    /// Returns how long the client waits before it comes back; `None`: it does not. `draw` yields uniform random numbers.
    ///
    /// A token that has expired is renewed. If the new one is refused at once, a third would be too. A client that was
    /// replaced by its own stray attempt comes back: if there is a newer login, the server refuses a client with a position.
    pub(super) fn after(
        &mut self,
        now: Time,
        ending: &Ending,
        has_position: bool,
        draw: &mut dyn FnMut() -> u64,
    ) -> Option<Duration> {
        let is_renewed = match ending.code {
            4004 => self.has_stray && has_position,
            _ => ending.reason == "token_expired" && !self.is_expired,
        };
        self.is_expired = ending.code == 4001;
        if ending.code == 4004 {
            self.has_stray = false;
        }
        let comes_back = if matches!(ending.code, 4001 | 4004) { is_renewed } else { ending.may_come_back() };
        if !comes_back {
            return None;
        }
        let is_at_once = is_renewed || (ending.is_brief() && self.attempt == 0);
        let jitter = if is_at_once { Duration::ZERO } else { self.jitter(draw) };
        self.attempt = self.attempt.saturating_add(1);
        self.not_before = now + ending.retry_after;
        Some(jitter.max(ending.retry_after))
    }

    /// Draws from the whole range (full jitter), so that clients that were lost together do not come back together.
    fn jitter(&self, draw: &mut dyn FnMut() -> u64) -> Duration {
        let bound = FIRST.saturating_mul(2_u32.saturating_pow(self.attempt)).min(MAX);
        let micros = (bound.as_micros() * u128::from(draw())) >> 64;
        Duration::from_micros(micros as u64)
    }

    /// Returns how long the client must still wait when the network is back.
    pub(super) fn rest(&self, now: Time) -> Duration {
        self.not_before - now
    }
}
