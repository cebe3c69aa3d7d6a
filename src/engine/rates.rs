//! Who may do how much: one connection's and one user's messages and bytes, one address's connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use slab::Slab;

use super::core::Core;
use super::member::Protocol;
use crate::close::{CloseReason, Reject};
use crate::config::Config;
use crate::id::remove_keyed;
use crate::lobby::directory::SeatKey;
use crate::lobby::protocol;
use crate::rate::{Bucket, Denied, Rate, Remembered};
use crate::time::Time;
use crate::wire::http::Refusal;

/// The rates of the configuration. `None` where there is no limit.
#[derive(Debug)]
pub(crate) struct Rates {
    message: Option<Rate>,
    user_message: Option<Rate>,
    byte: Option<Rate>,
    user_byte: Option<Rate>,
    control: Option<Rate>,
    attempt: Option<Rate>,
    strike: Rate,
    /// Whether a user is limited, and to the rate of one connection. Then the user's bucket, from which all of its connections
    /// spend, is never fuller than that of one of them, and is charged alone.
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

/// What one connection has used up.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages: Bucket,
    bytes: Bucket,
    control: Bucket,
    /// Bytes received that no bucket has paid for yet.
    owed: u32,
    unusual: Option<Box<Unusual>>,
}

/// What only those need who have a rate of their own, or were beyond theirs.
#[derive(Debug, Default)]
struct Unusual {
    /// The rate of the connection's identity, in place of the configuration's.
    tier: Option<Rate>,
    strikes: Bucket,
    /// Set while what is being read is more than the rate of bytes: its messages are refused.
    over: Option<Denied>,
    /// When the next `rate_limited` that nobody asked for may be sent.
    error_at: Time,
}

impl Meter {
    /// The rate of the connection's identity.
    pub(crate) fn tier(&self) -> Option<Rate> {
        self.unusual.as_ref()?.tier
    }

    pub(crate) fn set_tier(&mut self, tier: Option<Rate>) {
        if tier.is_some() || self.tier().is_some() {
            self.unusual.get_or_insert_default().tier = tier;
        }
    }

    fn over(&self) -> Option<Denied> {
        self.unusual.as_ref()?.over
    }

    fn set_over(&mut self, over: Option<Denied>) {
        if over.is_some() || self.over().is_some() {
            self.unusual.get_or_insert_default().over = over;
        }
    }
}

/// The place of an address among those with a connection.
pub(crate) type AddressKey = u32;

/// Connections by address. With IPv6 an address is a /64: what one customer is given.
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

    /// A connection came from `address`. Counts it until [`left`](Self::left).
    fn came(&mut self, address: IpAddr) -> AddressKey {
        let Addresses { connected, keys, remembered } = self;
        let key = *keys.entry(address).or_insert_with(|| {
            let attempts = remembered.take(&address).unwrap_or_default();
            connected.insert(ConnectedAddress { address, connections: 0, attempts }) as AddressKey
        });
        connected[key as usize].connections += 1;
        key
    }

    /// Fails when it is one attempt too many.
    fn charge(&mut self, key: AddressKey, now: Time, rate: Rate) -> Result<(), Refusal> {
        let attempts = &mut self.connected[key as usize].attempts;
        attempts.take(now, 1, rate).map_err(|denied| {
            let remaining = attempts.remaining(now, rate);
            Refusal::too_many(rate, remaining, denied.retry_after, attempts.full_after(now))
        })
    }

    pub(crate) fn left(&mut self, key: AddressKey, now: Time) {
        let here = &mut self.connected[key as usize];
        here.connections -= 1;
        if here.connections == 0 {
            let ConnectedAddress { address, attempts, .. } = remove_keyed(&mut self.connected, key as usize);
            self.keys.remove(&address);
            self.remembered.put(now, address, attempts, attempts.full_at());
        }
    }

    /// The attempts of addresses without a connection. The address whose bucket is full first comes first.
    pub(crate) fn remembered(&self, now: Time) -> Vec<(IpAddr, Bucket)> {
        self.remembered.entries(now).map(|(&address, &attempts)| (address, attempts)).collect()
    }

    pub(crate) fn remember(&mut self, address: IpAddr, attempts: Bucket, now: Time) {
        self.remembered.put(now, address, attempts, attempts.full_at());
    }

    /// Connections of one address.
    pub(crate) fn connections(&self, key: AddressKey) -> usize {
        self.connected.get(key as usize).map_or(0, |here| here.connections)
    }

    /// Addresses with a connection.
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.connected.len(), self.keys.len());
        self.connected.len()
    }
}

/// What counts as one address.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
        v4 => v4,
    }
}

impl Core {
    /// Counts a request's address, once it is known. Fails when that address has come too often, or is here too often.
    pub(super) fn charge_attempt(&mut self, key: usize, address: IpAddr) -> Result<Result<(), CloseReason>, Refusal> {
        let address = self.addresses.came(network_of(address));
        self.slots[key].address = Some(address);
        self.rates.attempt.map_or(Ok(()), |rate| self.addresses.charge(address, self.now, rate))?;
        let has_room = self.config.max_per_ip.has_room(self.addresses.connections(address) - 1);
        Ok(if has_room { Ok(()) } else { Err(CloseReason::IpLimit) })
    }

    /// Charges received bytes, before they are looked at.
    ///
    /// What the buckets do not hold is owed, and with it what follows: a message that comes in several reads is charged
    /// whole, whichever of them meets a bucket with something in it.
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
        // No message can owe so much. Whoever sends endless pieces of one is told, and ended, as if they were messages.
        let burst = own.into_iter().chain(user).map(Rate::burst).min().unwrap_or(u32::MAX);
        if seat.is_some() && meter.owed > burst.saturating_mul(2) {
            meter.owed = burst;
            self.rate_limited(key, None, over);
        }
    }

    /// A connection has taken `seat`. What its request took from its own bucket is missing in its user's from now on.
    pub(super) fn share_bytes(&mut self, key: usize, seat: SeatKey) {
        if self.rates.is_byte_same {
            self.directory.meter_of(seat).bytes.lower_to(self.slots[key].meter.bytes);
        }
    }

    /// A message has been read to its end, and `unread` bytes follow it. If it was refused for its bytes, they are not owed
    /// any more; those after it are.
    pub(super) fn message_ended(&mut self, key: usize, unread: usize) {
        let meter = &mut self.slots[key].meter;
        if meter.over().is_some() {
            meter.owed = meter.owed.min(u32::try_from(unread).unwrap_or(u32::MAX));
        }
    }

    /// Charges a message, to its connection and to its user. An identity's own rate counts as both, so that no lower one of a
    /// user undercuts it.
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

    /// What a member's messages are paid from, its own and its user's.
    pub(super) fn message_buckets(&mut self, key: usize) -> [Bucket; 2] {
        let seat = self.slots[key].seat().expect("only members are served");
        [self.slots[key].meter.messages, self.directory.meter_of(seat).messages]
    }

    /// Gives back what was charged since.
    pub(super) fn restore_message_buckets(&mut self, key: usize, [own, shared]: [Bucket; 2]) {
        let seat = self.slots[key].seat().expect("only members are served");
        self.slots[key].meter.messages = own;
        self.directory.meter_of(seat).messages = shared;
    }

    /// Charges a ping, a pong or a health answer.
    pub(super) fn charge_control(&mut self, key: usize) -> Result<(), Denied> {
        let now = self.now;
        match self.rates.control {
            Some(rate) => self.slots[key].meter.control.take(now, 1, rate),
            None => Ok(()),
        }
    }

    /// A message was more than its sender's rate. Who keeps doing that is ended.
    ///
    /// With a `ref` it gets its one answer; without one the sender is told at most once a second.
    pub(super) fn rate_limited(&mut self, key: usize, reference: Option<&str>, denied: Denied) {
        self.counters.count_reject(Reject::RateLimited);
        let now = self.now;
        let meter = self.slots[key].meter.unusual.get_or_insert_default();
        if meter.strikes.take(now, 1, self.rates.strike).is_err() {
            return self.begin_close(key, CloseReason::RateLimited);
        }
        if !self.may_tell_refusal(key, reference) {
            return;
        }
        let retry_after_ms = denied.retry_after.as_micros().div_ceil(1000).min(u128::from(u32::MAX)) as u64;
        protocol::write_rate_limited(&mut self.text, reference, "you send more than your rate", retry_after_ms);
        self.reply(key);
    }

    /// Whether the sender of what is refused is told so now, which is noted then.
    pub(super) fn may_tell_refusal(&mut self, key: usize, reference: Option<&str>) -> bool {
        let now = self.now;
        let meter = self.slots[key].meter.unusual.get_or_insert_default();
        if self.protocol == Protocol::Raw || (reference.is_none() && now < meter.error_at) {
            return false;
        }
        meter.error_at = now + Duration::from_secs(1);
        true
    }
}
