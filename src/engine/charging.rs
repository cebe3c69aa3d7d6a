//! Charges connections, users and addresses for what they send, and refuses what exceeds a rate.
//!
//! Decides which buckets are charged. The buckets are in [`meters`](super::state::meters).

use std::net::IpAddr;
use std::time::Duration;

use super::core::Core;
use super::member::Protocol;
use super::state::conn::Slot;
use super::state::meters::Rates;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::{ConnKey, SeatKey};
use crate::base::network::network_of;
use crate::base::rate::{Bucket, Denied};
use crate::base::time::Time;
use crate::http::PlainResponse;
use crate::lobby::directory::Directory;
use crate::protocol;

/// Longest answer to a health check that is charged as a control message.
const HEALTH_PONG_BYTES: usize = 256;

impl Core {
    /// Counts a request's address, once it is known.
    pub(super) fn note_address(&mut self, key: ConnKey, address: IpAddr) {
        self.conns.set_address(key, address);
        self.conns[key].address = Some(self.addresses.add_connection(network_of(address)));
    }

    /// Stops counting the address of a request that was answered, on a connection that stays open.
    pub(super) fn release_address(&mut self, key: ConnKey) {
        let now = self.clock.own();
        self.conns.clear_address(key);
        if let Some(address) = self.conns[key].address.take() {
            self.addresses.left(address, now);
        }
    }

    /// Charges an attempt to the address of the request, which [`note_address`](Self::note_address) has set.
    ///
    /// # Errors
    ///
    /// HTTP 429 if the address has made too many attempts, and the wait until the next one.
    pub(super) fn charge_attempt(&mut self, key: ConnKey) -> Result<(), (PlainResponse, Duration)> {
        let (now, address) = (self.clock.own(), self.conns[key].address.expect("the address is noted"));
        self.rates.attempt.map_or(Ok(()), |rate| self.addresses.charge(address, now, rate))
    }

    /// Charges received bytes, before they are parsed.
    ///
    /// If the buckets lack tokens, the bytes are owed together with those that follow. So a message that arrives in
    /// several reads is charged as a whole, even if the bucket has tokens again at one of the reads.
    pub(super) fn charge_bytes(&mut self, key: ConnKey, count: usize) {
        let now = self.clock.own();
        let Core { conns, directory, rates, .. } = self;
        let slot = &mut conns[key];
        let is_admitted = slot.is_admitted();
        slot.meter.owed = slot.meter.owed.saturating_add(saturating_u32(count));
        let charged = take_bytes(slot, directory, rates, now, slot.meter.owed);
        let meter = &mut slot.meter;
        meter.set_over(charged.err());
        let Err(over) = charged else {
            meter.owed = 0;
            return;
        };
        // No complete message is this long, so this one may never end. Its pieces are refused as if they were messages,
        // until the connection is closed.
        let burst = rates.least_byte_burst;
        if is_admitted && meter.owed > burst.saturating_mul(2) {
            meter.owed = burst;
            self.rate_limited(key, None, over);
        }
    }

    /// Returns whether `count` bytes, with those that are owed, would be within the byte rate now. Takes no tokens.
    pub(super) fn has_bytes(&mut self, key: ConnKey, count: usize) -> bool {
        let now = self.clock.own();
        let Core { conns, directory, rates, .. } = self;
        let slot = &mut conns[key];
        let shared = slot.seat().map(|seat| (seat, directory.meter_of(seat).bytes));
        let own = slot.meter.bytes;
        let has =
            take_bytes(slot, directory, rates, now, slot.meter.owed.saturating_add(saturating_u32(count))).is_ok();
        slot.meter.bytes = own;
        if let Some((seat, shared)) = shared {
            directory.meter_of(seat).bytes = shared;
        }
        has
    }

    /// Charges `count` bytes that a message contains beyond the `received` bytes of its frame.
    ///
    /// If they are refused, the wait is long enough for the whole message: `received` was charged before, and is charged
    /// again when the client repeats the message.
    pub(super) fn charge_contents(&mut self, key: ConnKey, count: usize, received: usize) {
        let was_charged = self.conns[key].meter.owed == 0;
        self.charge_bytes(key, count);
        let now = self.clock.own();
        let Core { conns, directory, rates, .. } = self;
        let slot = &mut conns[key];
        let whole = slot.meter.owed.saturating_add(saturating_u32(received));
        if was_charged
            && slot.meter.over().is_some()
            && let Err(over) = take_bytes(slot, directory, rates, now, whole)
        {
            slot.meter.set_over(Some(over));
        }
    }

    /// Charges the user of `seat` for the bytes of the request, which were charged to the connection's own bucket.
    pub(super) fn charge_head_to_user(&mut self, key: ConnKey, seat: SeatKey) {
        if self.rates.is_byte_same {
            self.directory.meter_of(seat).bytes.lower_to(self.conns[key].meter.bytes);
        }
    }

    /// Updates the owed bytes at the end of a message; `bytes_after` bytes of the input follow it. If the message was
    /// refused because of the byte rate, its bytes are no longer owed, but the bytes after it still are.
    pub(super) fn message_ended(&mut self, key: ConnKey, bytes_after: usize) {
        let meter = &mut self.conns[key].meter;
        if meter.over().is_some() {
            meter.owed = meter.owed.min(saturating_u32(bytes_after));
        }
    }

    /// The same for a compressed message. `owed`: the bytes that were owed before its contents were charged. If there were none,
    /// the bytes after the message are paid, and only its contents exceed the rate.
    pub(super) fn compressed_message_ended(&mut self, key: ConnKey, owed: u32, bytes_after: usize) {
        if owed > 0 {
            return self.message_ended(key, bytes_after);
        }
        let meter = &mut self.conns[key].meter;
        meter.owed = 0;
        meter.set_over(None);
    }

    /// Charges a message to its connection and its user. The rate of an identity replaces both configured rates, so
    /// that a lower user rate does not undercut it.
    ///
    /// # Errors
    ///
    /// [`Denied`] if a rate is exceeded. No tokens are taken then.
    pub(super) fn charge_message(&mut self, key: ConnKey) -> Result<(), Denied> {
        let now = self.clock.own();
        let Core { conns, directory, rates, .. } = self;
        let slot = &mut conns[key];
        let seat = slot.seat();
        let meter = &mut slot.meter;
        if let Some(over) = meter.over() {
            return Err(over);
        }
        let tier = meter.tier();
        let (own, user) = (tier.or(rates.message), rates.user_message);
        match seat {
            Some(seat) if rates.is_message_same || tier.is_some() => {
                let shared = &mut directory.meter_of(seat).messages;
                shared.take_up_to(now, 1, own)
            }
            Some(seat) if user.is_some() => {
                let shared = &mut directory.meter_of(seat).messages;
                Bucket::take_from_all(now, 1, [(&mut meter.messages, own), (shared, user)])
            }
            _ => meter.messages.take_up_to(now, 1, own),
        }
    }

    /// The buckets that a member's messages are charged to: the connection's and the user's.
    pub(super) fn message_buckets(&mut self, key: ConnKey) -> [Bucket; 2] {
        let seat = self.conns[key].seat().expect("only members' messages are charged here");
        [self.conns[key].meter.messages, self.directory.meter_of(seat).messages]
    }

    /// Restores the buckets from [`message_buckets`](Self::message_buckets), which undoes later charges.
    pub(super) fn restore_message_buckets(&mut self, key: ConnKey, [own, shared]: [Bucket; 2]) {
        let seat = self.conns[key].seat().expect("only members' messages are charged here");
        self.conns[key].meter.messages = own;
        self.directory.meter_of(seat).messages = shared;
    }

    /// Charges the answer to a health check, of which `length` is the length of the text.
    ///
    /// # Errors
    ///
    /// [`Denied`] if a rate is exceeded.
    pub(super) fn charge_health_pong(&mut self, key: ConnKey, length: usize) -> Result<(), Denied> {
        // A long one is read like any message, so the rate of bytes must bound it.
        if length > HEALTH_PONG_BYTES { self.charge_message(key) } else { self.charge_control(key) }
    }

    /// Charges a ping, a pong or a short answer to a health check.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the rate is exceeded.
    pub(super) fn charge_control(&mut self, key: ConnKey) -> Result<(), Denied> {
        let now = self.clock.own();
        match self.rates.control {
            Some(rate) => self.conns[key].meter.control.take(now, 1, rate),
            None => Ok(()),
        }
    }

    /// Refuses a message that exceeds its sender's rate. After too many such messages without a wait, the connection is closed.
    ///
    /// A message with a `ref` always gets its one `error`. Without a `ref`, an `error` is sent at most once a second.
    pub(super) fn rate_limited(&mut self, key: ConnKey, reference: Option<&str>, denied: Denied) {
        self.counters.count_reject(Reject::RateLimited);
        let now = self.clock.own();
        if !self.conns[key].meter.may_refuse(now, denied.retry_after, self.rates.strike) {
            return self.begin_close(key, CloseReason::RateLimited);
        }
        if !self.should_report_refusal(key, reference) {
            return;
        }
        let retry_after_ms = denied.retry_after.as_micros().div_ceil(1000).min(u128::from(u32::MAX)) as u64;
        protocol::write_rate_limited(&mut self.buffers.text, reference, "you send more than your rate", retry_after_ms);
        self.reply(key);
    }

    /// Whether an `error` for a refused message is to be sent now. If so, the time is noted as that of the last one.
    pub(super) fn should_report_refusal(&mut self, key: ConnKey, reference: Option<&str>) -> bool {
        let now = self.clock.own();
        self.protocol == Protocol::Json && self.conns[key].meter.may_report(now, reference.is_some())
    }
}

/// Takes bytes from the buckets of a connection and its user. A bucket whose burst is smaller gives the burst.
///
/// # Errors
///
/// [`Denied`] if a bucket has not enough tokens. None are taken then.
#[inline]
fn take_bytes(slot: &mut Slot, directory: &mut Directory, rates: &Rates, now: Time, amount: u32) -> Result<(), Denied> {
    let (own, user) = (rates.byte, rates.user_byte);
    match slot.seat() {
        Some(seat) if rates.is_byte_same => directory.meter_of(seat).bytes.take_up_to(now, amount, user),
        Some(seat) if user.is_some() => {
            let shared = &mut directory.meter_of(seat).bytes;
            Bucket::take_from_all(now, amount, [(&mut slot.meter.bytes, own), (shared, user)])
        }
        _ => slot.meter.bytes.take_up_to(now, amount, own),
    }
}

fn saturating_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
