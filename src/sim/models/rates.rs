//! Model of the rates of a connection: the server neither serves more messages than the rates allow nor refuses
//! messages that they allow.
//!
//! Keeps the rates only. Checked with what a client sent and received.

use std::time::Duration;

use crate::base::rate::Rate;
use crate::config::Config;

/// The rates of the configuration.
#[derive(Debug)]
pub(crate) struct RateModel {
    message: Option<Rate>,
    byte: Option<Rate>,
    control: Option<Rate>,
    user_message: Option<Rate>,
    user_byte: Option<Rate>,
    max_strikes: u64,
    /// Whether a message may be refused because the inbox that waits for the next tick is full.
    limits_inbox: bool,
    /// Whether any message may be refused.
    may_refuse: bool,
}

/// What the client of one connection sent and received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Age of the connection.
    pub(crate) elapsed: Duration,
    /// Own rate of the connection's identity.
    pub(crate) tier: Option<Rate>,
    /// Number of connections that the user has made. They share its rates, also after they closed.
    pub(crate) connections: usize,
    /// Number of frames sent, or somewhat less.
    pub(crate) frames: u64,
    /// Number of bytes sent, and of those by which compressed messages are longer than their payloads.
    pub(crate) bytes: u64,
    /// Number of answers to requests that are charged as messages.
    pub(crate) served: u64,
    /// Bytes by which these requests, compressed, are longer than their payloads.
    pub(crate) served_growth: u64,
    /// Number of refusals.
    pub(crate) refusals: u64,
    /// Number of refusals without a `ref`.
    pub(crate) refusals_without_ref: u64,
}

impl RateModel {
    pub(crate) fn new(config: &Config, limits_inbox: bool, may_refuse: bool) -> RateModel {
        RateModel {
            message: config.message_rate(),
            byte: config.byte_rate(),
            control: config.control_rate(),
            user_message: config.user_message_rate(),
            user_byte: config.user_byte_rate(),
            max_strikes: config.max_rate_strikes.into(),
            limits_inbox,
            may_refuse,
        }
    }

    /// Checks that the server did not serve more messages than the rates allow, nor compressed ones that contain more bytes.
    pub(crate) fn check_served(&self, usage: &Usage) -> Result<(), String> {
        let Usage { elapsed, tier, served, served_growth, .. } = *usage;
        let bound = |rate: Rate| most_tokens(rate, elapsed);
        for rate in [tier.or(self.message), tier.or(self.user_message)].into_iter().flatten() {
            if u128::from(served) > bound(rate) {
                return Err(format!("{served} messages were served in {elapsed:?}, more than {rate} allows"));
            }
        }
        for rate in [self.byte, self.user_byte].into_iter().flatten() {
            if u128::from(served_growth) > bound(rate) {
                return Err(format!(
                    "compressed messages grew by {served_growth} bytes in {elapsed:?}, more than {rate} allows"
                ));
            }
        }
        Ok(())
    }

    /// Checks, after a refusal, that the rates explain it and that the connection may still be open.
    pub(crate) fn check_refusal(&self, usage: &Usage) -> Result<(), String> {
        let Usage { elapsed, frames, bytes, refusals, refusals_without_ref, .. } = *usage;
        let seconds = elapsed.as_secs() + 1;
        // Refusals for a full inbox do not count as rate strikes.
        if !self.limits_inbox && u128::from(refusals) > u128::from(self.max_strikes + seconds) + self.waited(usage) {
            return Err(format!("refused {refusals} times in {elapsed:?} without being closed"));
        }
        if refusals_without_ref > seconds {
            return Err(format!(
                "{refusals_without_ref} refusals without a ref in {elapsed:?}, more than one a second"
            ));
        }
        if self.allows_everything(usage) {
            return Err(format!("refused after only {frames} frames with {bytes} bytes"));
        }
        Ok(())
    }

    /// Most refusals that came after the wait of the refusal before: something else has taken at least one token meanwhile.
    fn waited(&self, usage: &Usage) -> u128 {
        let Usage { elapsed, tier, .. } = *usage;
        let messages = [tier.or(self.message), tier.or(self.user_message)];
        let rates = messages.into_iter().chain([self.byte, self.user_byte, self.control]).flatten();
        rates.map(|rate| most_tokens(rate, elapsed)).sum::<u128>() + 1
    }

    /// Whether everything that the client sent is within the bursts.
    fn allows_everything(&self, usage: &Usage) -> bool {
        let Usage { tier, connections, frames, bytes, .. } = *usage;
        let has_user_rate = self.user_message.is_some() || self.user_byte.is_some();
        let is_shared = tier.is_some() || (has_user_rate && connections > 1);
        let within = |rate: Option<Rate>, count: u64| rate.is_none_or(|rate| count <= u64::from(rate.burst()));
        !is_shared
            && !self.limits_inbox
            && within(self.message, frames)
            && within(self.control, frames)
            && within(self.byte, bytes)
            && within(self.user_message, frames)
            && within(self.user_byte, bytes)
    }

    /// Whether a refused message is certainly served after the wait that the server asked for. `is_whole`: it arrives
    /// in one piece.
    pub(crate) fn is_wait_enough(&self, tier: Option<Rate>, is_whole: bool) -> bool {
        let messages = self.message.or(self.user_message).or(tier).is_some();
        let bytes = self.byte.or(self.user_byte).is_some();
        // With several kinds of limits, the wait for one may be too short for another.
        let kinds = [messages, bytes, self.limits_inbox].into_iter().filter(|&limits| limits).count();
        // A message that arrives in pieces may be refused because of the last piece.
        kinds < 2 && (!bytes || is_whole)
    }

    /// Whether a connection that sent so many bytes can have been closed for exceeding a rate.
    pub(crate) fn allows_close(&self, bytes_sent: u64) -> bool {
        // 6 bytes: a frame has at least a header of 2 and a mask of 4.
        let frames = bytes_sent / 6;
        self.may_refuse && frames > self.max_strikes
    }
}

/// Most tokens that a bucket can give in `elapsed`.
fn most_tokens(rate: Rate, elapsed: Duration) -> u128 {
    u128::from(rate.burst()) + u128::from(rate.count()) * elapsed.as_micros() / rate.period().as_micros() + 1
}
