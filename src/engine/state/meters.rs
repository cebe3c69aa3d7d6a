//! State of the rate limits: the configured rates, the buckets of connections, and the connections of each address.
//!
//! The token bucket itself is in [`rate`](crate::base::rate).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::base::arena::Arena;
use crate::base::id::AddressKey;
use crate::base::rate::{Bucket, Denied, Rate, Remembered};
use crate::base::time::Time;
use crate::config::Config;
use crate::http::PlainResponse;

/// The configured rates; `None` means no limit.
#[derive(Debug)]
pub(crate) struct Rates {
    pub(crate) message: Option<Rate>,
    pub(crate) user_message: Option<Rate>,
    pub(crate) byte: Option<Rate>,
    pub(crate) user_byte: Option<Rate>,
    pub(crate) control: Option<Rate>,
    pub(crate) attempt: Option<Rate>,
    /// Of requests for the list of lobbies.
    pub(crate) list: Option<Rate>,
    /// Of wrong passwords and unknown codes.
    pub(crate) guess: Option<Rate>,
    pub(crate) strike: Rate,
    /// Whether the rate of a user equals the rate of a connection. All connections of a user are charged to the user's
    /// bucket, so it never has more tokens than the bucket of one connection. With equal rates it is enough to charge
    /// the user's bucket.
    pub(crate) is_message_same: bool,
    pub(crate) is_byte_same: bool,
    /// The smallest burst of the byte rates: what one charge can take at most.
    pub(crate) least_byte_burst: u32,
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
            least_byte_burst: byte.into_iter().chain(user_byte).map(Rate::burst).min().unwrap_or(u32::MAX),
            control: config.control_rate(),
            attempt: config.attempt_rate(),
            list: config.list_rate(),
            guess: config.guess_rate(),
            strike: Rate::new(1, Duration::from_secs(1), config.max_rate_strikes),
        }
    }
}

/// Rate-limit state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) messages: Bucket,
    pub(crate) bytes: Bucket,
    pub(crate) control: Bucket,
    /// Received bytes that no bucket has been charged for yet.
    pub(crate) owed: u32,
    extra: Option<Box<MeterExtra>>,
}

/// State that few connections need: those with a rate of their own, and those that have exceeded a rate.
#[derive(Debug, Default)]
struct MeterExtra {
    /// The message rate of the connection's identity, instead of the configured one.
    tier: Option<Rate>,
    strikes: Bucket,
    /// Time from which the message that was refused last would have been accepted.
    retry_at: Time,
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

    pub(crate) fn over(&self) -> Option<Denied> {
        self.extra.as_ref()?.over
    }

    pub(crate) fn set_over(&mut self, over: Option<Denied>) {
        if over.is_some() || self.over().is_some() {
            self.extra.get_or_insert_default().over = over;
        }
    }
}

/// Time between two `rate_limited` errors without a `ref`.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

impl Meter {
    /// Counts a refused message that would be accepted after `wait`. It is a strike if it came before the wait of the refusal
    /// before it was over: a client that waits as it is told is never closed. Returns false if there were too many strikes.
    pub(crate) fn may_refuse(&mut self, now: Time, wait: Duration, strike: Rate) -> bool {
        let extra = self.extra.get_or_insert_default();
        let is_early = now < extra.retry_at;
        extra.retry_at = now + wait;
        !is_early || extra.strikes.take(now, 1, strike).is_ok()
    }

    /// Whether an `error` for a refused message is to be sent now: always for a message with a `ref`, otherwise once a
    /// second. If so, the time is noted as that of the last one.
    pub(crate) fn may_report(&mut self, now: Time, has_reference: bool) -> bool {
        let extra = self.extra.get_or_insert_default();
        let may = has_reference || now >= extra.error_at;
        if may {
            extra.error_at = now + REPORT_PAUSE;
        }
        may
    }
}

/// Connections by address. An IPv6 address counts as its /64 network, the usual assignment to one customer.
#[derive(Debug)]
pub(crate) struct Addresses {
    connected: Arena<AddressKey, ConnectedAddress>,
    keys: HashMap<IpAddr, AddressKey>,
    remembered: Remembered<IpAddr, Bucket>,
    /// Buckets for requests for the list of lobbies, with or without a connection of the address.
    lists: Remembered<IpAddr, Bucket>,
    /// Buckets for guesses, with or without a connection of the address.
    guesses: Remembered<IpAddr, Bucket>,
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
            connected: Arena::default(),
            keys: HashMap::new(),
            remembered: Remembered::new(config.max_remembered_rates),
            lists: Remembered::new(config.max_remembered_rates),
            guesses: Remembered::new(config.max_remembered_rates),
        }
    }

    /// Checks whether the address may guess once more.
    ///
    /// # Errors
    ///
    /// HTTP 429 if it has guessed too often, and the wait until it may.
    pub(crate) fn check_guesses(
        &self,
        key: AddressKey,
        now: Time,
        rate: Rate,
    ) -> Result<(), (PlainResponse, Duration)> {
        let mut guesses = self.guesses_of(key);
        guesses.take(now, 1, rate).map_err(|Denied { retry_after }| {
            let refusal = PlainResponse::too_many(rate, 0, retry_after, guesses.full_after(now));
            (refusal.with_sentence("too many wrong passwords or lobby codes; wait a little"), retry_after)
        })
    }

    /// Charges a guess.
    pub(crate) fn charge_guess(&mut self, key: AddressKey, now: Time, rate: Rate) {
        let mut guesses = self.guesses_of(key);
        // It was checked before.
        let _ = guesses.take(now, 1, rate);
        self.remember_guesses(self.connected[key].address, guesses, now);
    }

    fn guesses_of(&self, key: AddressKey) -> Bucket {
        self.guesses.get(&self.connected[key].address).copied().unwrap_or_default()
    }

    /// The buckets for guesses. The bucket that is full first comes first.
    pub(crate) fn guesses(&self, now: Time) -> Vec<(IpAddr, Bucket)> {
        self.guesses.entries(now).map(|(&address, &guesses)| (address, guesses)).collect()
    }

    pub(crate) fn remember_guesses(&mut self, address: IpAddr, guesses: Bucket, now: Time) {
        self.guesses.take(&address);
        self.guesses.put(now, address, guesses, guesses.full_at());
    }

    /// Charges a request for the list of lobbies.
    ///
    /// # Errors
    ///
    /// HTTP 429 if the address has made too many, and the wait until the next one.
    pub(crate) fn charge_list(
        &mut self,
        key: AddressKey,
        now: Time,
        rate: Rate,
    ) -> Result<(), (PlainResponse, Duration)> {
        let address = self.connected[key].address;
        let mut lists = self.lists.get(&address).copied().unwrap_or_default();
        lists.take(now, 1, rate).map_err(|Denied { retry_after }| {
            let refusal = PlainResponse::too_many(rate, lists.remaining(now, rate), retry_after, lists.full_after(now));
            (refusal.with_sentence("you ask for the list of lobbies too often; wait a little"), retry_after)
        })?;
        self.remember_lists(address, lists, now);
        Ok(())
    }

    /// The buckets for requests for the list of lobbies. The bucket that is full first comes first.
    pub(crate) fn lists(&self, now: Time) -> Vec<(IpAddr, Bucket)> {
        self.lists.entries(now).map(|(&address, &lists)| (address, lists)).collect()
    }

    pub(crate) fn remember_lists(&mut self, address: IpAddr, lists: Bucket, now: Time) {
        self.lists.take(&address);
        self.lists.put(now, address, lists, lists.full_at());
    }

    /// Counts a connection from `address`, until [`left`](Self::left).
    pub(crate) fn add_connection(&mut self, address: IpAddr) -> AddressKey {
        let Addresses { connected, keys, remembered, .. } = self;
        let key = *keys.entry(address).or_insert_with(|| {
            let attempts = remembered.take(&address).unwrap_or_default();
            connected.insert(ConnectedAddress { address, connections: 0, attempts })
        });
        connected[key].connections += 1;
        key
    }

    /// Charges one connection attempt.
    ///
    /// # Errors
    ///
    /// HTTP 429 if the address has made too many attempts, and the wait until the next one.
    pub(crate) fn charge(&mut self, key: AddressKey, now: Time, rate: Rate) -> Result<(), (PlainResponse, Duration)> {
        let attempts = &mut self.connected[key].attempts;
        attempts.take(now, 1, rate).map_err(|Denied { retry_after }| {
            let remaining = attempts.remaining(now, rate);
            (PlainResponse::too_many(rate, remaining, retry_after, attempts.full_after(now)), retry_after)
        })
    }

    /// Returns whether the address has an attempt left.
    pub(crate) fn has_attempt(&self, key: AddressKey, now: Time, rate: Rate) -> bool {
        self.connected[key].attempts.remaining(now, rate) > 0
    }

    /// Keeps an address with a connection from being forgotten, until a further [`left`](Self::left).
    pub(crate) fn hold(&mut self, key: AddressKey) {
        self.connected[key].connections += 1;
    }

    /// Stops counting a connection. With the last one, the address is removed and its bucket is remembered until it is
    /// full.
    pub(crate) fn left(&mut self, key: AddressKey, now: Time) {
        let entry = &mut self.connected[key];
        entry.connections -= 1;
        if entry.connections == 0 {
            let ConnectedAddress { address, attempts, .. } = self.connected.remove(key);
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
        self.connected.get(key).map_or(0, |entry| entry.connections)
    }

    /// Number of addresses with a connection.
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.connected.len(), self.keys.len());
        self.connected.len()
    }
}
