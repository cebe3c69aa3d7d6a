//! Rate limits: messages and bytes per connection and per user, control frames per connection, connections per address.
//!
//! Knows which buckets a message is charged to. The token bucket itself is in [`rate`](crate::base::rate).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use slab::Slab;

use super::core::Core;
use super::member::Protocol;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::remove_keyed;
use crate::base::rate::{Bucket, Denied, Rate, Remembered};
use crate::base::time::Time;
use crate::config::Config;
use crate::http::Refusal;
use crate::lobby::directory::SeatKey;
use crate::protocol;

/// The configured rates; `None` means no limit.
#[derive(Debug)]
pub(crate) struct Rates {
    message: Option<Rate>,
    user_message: Option<Rate>,
    byte: Option<Rate>,
    user_byte: Option<Rate>,
    control: Option<Rate>,
    attempt: Option<Rate>,
    strike: Rate,
    /// Whether the rate of a user equals the rate of a connection. All connections of a user are charged to the user's
    /// bucket, so it never has more tokens than the bucket of one connection. With equal rates it is enough to charge
    /// the user's bucket.
    is_message_same: bool,
    is_byte_same: bool,
}

impl Rates {
    pub(crate) fn new(config: &Config) -> Rates {
        let (message, user_message) = (config.message_rate(), config.user_message_rate());
        let (byte, user_byte) = (config.byte_rate(), config.user_byte_rate());
        Rates {
            message,
            user_message,
            byte,
            user_byte,
            is_message_same: message.is_some() && message == user_message,
            is_byte_same: byte.is_some() && byte == user_byte,
            control: config.control_rate(),
            attempt: config.attempt_rate(),
            strike: Rate::new(1, Duration::from_secs(1), config.max_rate_strikes),
        }
    }
}

/// Rate-limit state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages: Bucket,
    bytes: Bucket,
    control: Bucket,
    /// Received bytes that no bucket has been charged for yet.
    owed: u32,
    extra: Option<Box<MeterExtra>>,
}

/// State that few connections need: those with a rate of their own, and those that have exceeded a rate.
#[derive(Debug, Default)]
struct MeterExtra {
    /// The message rate of the connection's identity, instead of the configured one.
    tier: Option<Rate>,
    strikes: Bucket,
    /// Set while the received bytes exceed the byte rate. Messages are refused then.
    over: Option<Denied>,
    /// Time from which the next `rate_limited` error without a `ref` may be sent.
    error_at: Time,
}

impl Meter {
    /// The message rate of the connection's identity, if it has one.
    pub(crate) fn tier(&self) -> Option<Rate> {
        self.extra.as_ref()?.tier
    }

    pub(crate) fn set_tier(&mut self, tier: Option<Rate>) {
        if tier.is_some() || self.tier().is_some() {
            self.extra.get_or_insert_default().tier = tier;
        }
    }

    fn over(&self) -> Option<Denied> {
        self.extra.as_ref()?.over
    }

    fn set_over(&mut self, over: Option<Denied>) {
        if over.is_some() || self.over().is_some() {
            self.extra.get_or_insert_default().over = over;
        }
    }
}

/// Key of an address that has a connection.
pub(crate) type AddressKey = u32;

/// Connections by address. An IPv6 address counts as its /64 network, the usual assignment to one customer.
#[derive(Debug)]
pub(crate) struct Addresses {
    connected: Slab<ConnectedAddress>,
    keys: HashMap<IpAddr, AddressKey>,
    remembered: Remembered<IpAddr, Bucket>,
}

#[derive(Debug)]
struct ConnectedAddress {
    address: IpAddr,
    connections: usize,
    attempts: Bucket,
}

impl Addresses {
    pub(crate) fn new(config: &Config) -> Addresses {
        Addresses {
            connected: Slab::new(),
            keys: HashMap::new(),
            remembered: Remembered::new(config.max_remembered_rates),
        }
    }

    /// Counts a connection from `address`, until [`left`](Self::left).
    fn add_connection(&mut self, address: IpAddr) -> AddressKey {
        let Addresses { connected, keys, remembered } = self;
        let key = *keys.entry(address).or_insert_with(|| {
            let attempts = remembered.take(&address).unwrap_or_default();
            connected.insert(ConnectedAddress { address, connections: 0, attempts }) as AddressKey
        });
        connected[key as usize].connections += 1;
        key
    }

    /// Charges one connection attempt.
    ///
    /// # Errors
    ///
    /// HTTP 429 if the address has made too many attempts.
    fn charge(&mut self, key: AddressKey, now: Time, rate: Rate) -> Result<(), Refusal> {
        let attempts = &mut self.connected[key as usize].attempts;
        attempts.take(now, 1, rate).map_err(|denied| {
            let remaining = attempts.remaining(now, rate);
            Refusal::too_many(rate, remaining, denied.retry_after, attempts.full_after(now))
        })
    }

    /// Stops counting a connection. With the last one, the address is removed and its bucket is remembered until it is
    /// full.
    pub(crate) fn left(&mut self, key: AddressKey, now: Time) {
        let entry = &mut self.connected[key as usize];
        entry.connections -= 1;
        if entry.connections == 0 {
            let ConnectedAddress { address, attempts, .. } = remove_keyed(&mut self.connected, key as usize);
            self.keys.remove(&address);
            self.remembered.put(now, address, attempts, attempts.full_at());
        }
    }

    /// The attempt buckets of addresses without a connection. The bucket that is full first comes first.
    pub(crate) fn remembered(&self, now: Time) -> Vec<(IpAddr, Bucket)> {
        self.remembered.entries(now).map(|(&address, &attempts)| (address, attempts)).collect()
    }

    pub(crate) fn remember(&mut self, address: IpAddr, attempts: Bucket, now: Time) {
        self.remembered.put(now, address, attempts, attempts.full_at());
    }

    /// Number of connections of one address.
    pub(crate) fn connections(&self, key: AddressKey) -> usize {
        self.connected.get(key as usize).map_or(0, |entry| entry.connections)
    }

    /// Number of addresses with a connection.
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.connected.len(), self.keys.len());
        self.connected.len()
    }
}

/// The network that counts as one address: the /64 of an IPv6 address, or a whole IPv4 address.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
        v4 => v4,
    }
}

impl Core {
    /// Counts a request's address, once it is known.
    ///
    /// # Errors
    ///
    /// HTTP 429 if the address has made too many attempts. The inner result is [`CloseReason::IpLimit`] if the address
    /// has too many connections.
    pub(super) fn charge_attempt(&mut self, key: usize, address: IpAddr) -> Result<Result<(), CloseReason>, Refusal> {
        let address = self.addresses.add_connection(network_of(address));
        self.slots[key].address = Some(address);
        self.rates.attempt.map_or(Ok(()), |rate| self.addresses.charge(address, self.now, rate))?;
        let has_room = self.config.max_per_ip.has_room(self.addresses.connections(address) - 1);
        Ok(if has_room { Ok(()) } else { Err(CloseReason::IpLimit) })
    }

    /// Charges received bytes, before they are parsed.
    ///
    /// If the buckets lack tokens, the bytes are owed together with those that follow. So a message that arrives in
    /// several reads is charged as a whole, even if the bucket has tokens again at one of the reads.
    pub(super) fn charge_bytes(&mut self, key: usize, count: usize) {
        let Core { slots, directory, now, rates, .. } = self;
        let (own, user) = (rates.byte, rates.user_byte);
        let slot = &mut slots[key];
        let seat = slot.seat();
        let meter = &mut slot.meter;
        meter.owed = meter.owed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let charged = match seat {
            Some(seat) if rates.is_byte_same => {
                let shared = &mut directory.meter_of(seat).bytes;
                Bucket::take_from_all(*now, meter.owed, [(shared, user)])
            }
            Some(seat) if user.is_some() => {
                let shared = &mut directory.meter_of(seat).bytes;
                Bucket::take_from_all(*now, meter.owed, [(&mut meter.bytes, own), (shared, user)])
            }
            _ => Bucket::take_from_all(*now, meter.owed, [(&mut meter.bytes, own)]),
        };
        meter.set_over(charged.err());
        let Err(over) = charged else {
            meter.owed = 0;
            return;
        };
        // No complete message is this long, so this one may never end. Its pieces are refused as if they were messages,
        // until the connection is closed.
        let burst = own.into_iter().chain(user).map(Rate::burst).min().unwrap_or(u32::MAX);
        if seat.is_some() && meter.owed > burst.saturating_mul(2) {
            meter.owed = burst;
            self.rate_limited(key, None, over);
        }
    }

    /// Charges the user of `seat` for the bytes of the request, which were charged to the connection's own bucket.
    pub(super) fn charge_head_to_user(&mut self, key: usize, seat: SeatKey) {
        if self.rates.is_byte_same {
            self.directory.meter_of(seat).bytes.lower_to(self.slots[key].meter.bytes);
        }
    }

    /// Updates the owed bytes at the end of a message; `bytes_after` bytes of the input follow it. If the message was
    /// refused because of the byte rate, its bytes are no longer owed, but the bytes after it still are.
    pub(super) fn message_ended(&mut self, key: usize, bytes_after: usize) {
        let meter = &mut self.slots[key].meter;
        if meter.over().is_some() {
            meter.owed = meter.owed.min(u32::try_from(bytes_after).unwrap_or(u32::MAX));
        }
    }

    /// Charges a message to its connection and its user. The rate of an identity replaces both configured rates, so
    /// that a lower user rate does not undercut it.
    ///
    /// # Errors
    ///
    /// [`Denied`] if a rate is exceeded. No tokens are taken then.
    pub(super) fn charge_message(&mut self, key: usize) -> Result<(), Denied> {
        let Core { slots, directory, now, rates, .. } = self;
        let slot = &mut slots[key];
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
                Bucket::take_from_all(*now, 1, [(shared, own)])
            }
            Some(seat) if user.is_some() => {
                let shared = &mut directory.meter_of(seat).messages;
                Bucket::take_from_all(*now, 1, [(&mut meter.messages, own), (shared, user)])
            }
            _ => Bucket::take_from_all(*now, 1, [(&mut meter.messages, own)]),
        }
    }

    /// The buckets that a member's messages are charged to: the connection's and the user's.
    pub(super) fn message_buckets(&mut self, key: usize) -> [Bucket; 2] {
        let seat = self.slots[key].seat().expect("only members' messages are charged here");
        [self.slots[key].meter.messages, self.directory.meter_of(seat).messages]
    }

    /// Restores the buckets from [`message_buckets`](Self::message_buckets), which undoes later charges.
    pub(super) fn restore_message_buckets(&mut self, key: usize, [own, shared]: [Bucket; 2]) {
        let seat = self.slots[key].seat().expect("only members' messages are charged here");
        self.slots[key].meter.messages = own;
        self.directory.meter_of(seat).messages = shared;
    }

    /// Charges a ping, a pong or the answer to a health check.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the rate is exceeded.
    pub(super) fn charge_control(&mut self, key: usize) -> Result<(), Denied> {
        let now = self.now;
        match self.rates.control {
            Some(rate) => self.slots[key].meter.control.take(now, 1, rate),
            None => Ok(()),
        }
    }

    /// Refuses a message that exceeds its sender's rate. After too many such messages the connection is closed.
    ///
    /// A message with a `ref` always gets its one `error`. Without a `ref`, an `error` is sent at most once a second.
    pub(super) fn rate_limited(&mut self, key: usize, reference: Option<&str>, denied: Denied) {
        self.counters.count_reject(Reject::RateLimited);
        let now = self.now;
        let meter = self.slots[key].meter.extra.get_or_insert_default();
        if meter.strikes.take(now, 1, self.rates.strike).is_err() {
            return self.begin_close(key, CloseReason::RateLimited);
        }
        if !self.should_report_refusal(key, reference) {
            return;
        }
        let retry_after_ms = denied.retry_after.as_micros().div_ceil(1000).min(u128::from(u32::MAX)) as u64;
        protocol::write_rate_limited(&mut self.text, reference, "you send more than your rate", retry_after_ms);
        self.reply(key);
    }

    /// Whether an `error` for a refused message is to be sent now. If so, the time is noted as that of the last one.
    pub(super) fn should_report_refusal(&mut self, key: usize, reference: Option<&str>) -> bool {
        let now = self.now;
        let meter = self.slots[key].meter.extra.get_or_insert_default();
        if self.protocol == Protocol::Raw || (reference.is_none() && now < meter.error_at) {
            return false;
        }
        meter.error_at = now + Duration::from_secs(1);
        true
    }
}
