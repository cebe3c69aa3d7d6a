//! Model of the limits on connections: restricted identities, lifetimes, addresses, and the sizes of queues.
//!
//! Draws configurations and identities, and checks that the engine enforces them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::client::Link;
use super::rates;
use super::swarm::{Behaviour, Swarm};
use super::tick_model;
use super::world::World;
use crate::base::close::CloseReason;
use crate::base::random::Random;
use crate::base::rate::{Bucket, Rate};
use crate::base::time::Time;
use crate::config::{ByteSize, Config, Limit};
use crate::engine::app::{App, Identity};

/// Addresses of the clients, each with the index of its network. Limits count per network: an IPv4 address, or an IPv6
/// /64.
const ADDRESSES: &[(IpAddr, usize)] = &[
    (v4([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]), 0),
    (v4([0, 0, 0, 0, 0, 0xffff, 0x0a00, 2]), 1),
    (v6([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]), 0),
    (v6([0x2001, 0xdb8, 0, 1, 0, 0, 0, 1]), 2),
    (v6([0x2001, 0xdb8, 0, 1, 0x8000, 0, 0, 2]), 2),
    (v6([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]), 3),
];
/// A number larger than that of the users in a run.
const MORE_THAN_USERS: usize = 1000;
/// Number of different networks in [`ADDRESSES`].
pub(super) const NETWORKS: usize = 4;

const fn v6(parts: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = parts;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const fn v4(mapped: [u16; 8]) -> IpAddr {
    match v6(mapped) {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => panic!("not an IPv4-mapped address"),
        },
        address => address,
    }
}

/// Draws an address and returns it with the index of its network.
pub(super) fn draw_address(random: &mut Random) -> (IpAddr, usize) {
    ADDRESSES[random.below(ADDRESSES.len() as u64) as usize]
}

pub(super) fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize]
}

/// Draws a limit. The value 0 stands for no limit.
pub(super) fn limit(random: &mut Random, values: &[u32]) -> Limit {
    match pick(random, values) {
        0 => Limit::UNLIMITED,
        n => Limit::at_most(n),
    }
}

/// Draws the configuration fields that belong to behaviours of the run. Each behaviour has its own generator, so that
/// excluding one does not change the others.
pub(super) fn draw(config: &mut Config, swarm: &Swarm, seed: u64) {
    let generator = |behaviour: Behaviour| {
        (swarm.weight(behaviour) > 0).then(|| Random::new(seed ^ 0x7e_12_35 ^ (behaviour as u64) << 40))
    };
    if let Some(random) = &mut generator(Behaviour::Rates) {
        rates::draw(config, random);
    }
    if let Some(random) = &mut generator(Behaviour::Expiry) {
        config.token_grace = pick(random, &[Duration::ZERO, Duration::from_millis(100), config.ping_interval]);
    }
    if let Some(random) = &mut generator(Behaviour::Lifetime) {
        let least = Duration::from_secs(1);
        config.max_lifetime = Some(pick(random, &[1, 10, 50, 200]) * config.ping_interval.max(least));
    }
    if let Some(random) = &mut generator(Behaviour::Addresses) {
        config.max_per_ip = limit(random, &[0, 0, 1, 2, 4]);
        config.attempts_per_minute = limit(random, &[0, 6, 60, 6000]);
        config.attempt_burst = pick(random, &[1, 3, 10, 60]);
        config.max_remembered_rates = pick(random, &[0, 1, 65_536]);
    }
    if let Some(random) = &mut generator(Behaviour::Unread) {
        config.max_deferred_turns = pick(random, &[0, 1, 3, 1000]);
    }
    if let Some(random) = &mut generator(Behaviour::Ticks) {
        tick_model::draw(config, random);
    }
    if let Some(random) = &mut generator(Behaviour::Pressure) {
        config.outbound_high_mark = pick(random, &[ByteSize(1), ByteSize(100), ByteSize(1000), ByteSize(20_000)]);
        config.outbound_low_mark =
            ByteSize(pick(random, &[0, config.outbound_high_mark.0 / 4, config.outbound_high_mark.0 - 1]));
    }
}

/// Restrictions of the identities that the application returns, and a model of the user rates.
pub(super) struct IdentityModel {
    /// Percentages of identities with their own rate, with an expiry, and restricted to one lobby.
    percents: [u64; 3],
    /// Unit of the drawn expiry times, in milliseconds.
    span: u64,
    /// The own rate, or none, of each user that has connected so far.
    tiers: BTreeMap<String, Option<Rate>>,
    random: Random,
    /// The message rate of a user without its own rate.
    user_rate: Option<Rate>,
    /// Whether the engine remembers the rates of all disconnected users.
    remembers: bool,
    /// Bucket of each user, over all its connections.
    spent: BTreeMap<String, Bucket>,
}

impl IdentityModel {
    pub(super) fn new(swarm: &Swarm, config: &Config, random: Random) -> IdentityModel {
        let percents = [Behaviour::Tier, Behaviour::Expiry, Behaviour::OneLobby];
        let percents = percents.map(|behaviour| u64::from(swarm.weight(behaviour)).min(60));
        IdentityModel {
            percents,
            span: config.ping_interval.as_millis() as u64,
            tiers: BTreeMap::new(),
            random,
            user_rate: config.user_message_rate(),
            remembers: config.max_remembered_rates as usize >= MORE_THAN_USERS,
            spent: BTreeMap::new(),
        }
    }

    /// Charges a message of `user` that reached the application, and checks that the user's rate allows it, over all
    /// the user's connections.
    ///
    /// The engine also charges messages that do not reach the application, so this bucket is never emptier than the
    /// engine's.
    pub(super) fn charge(&mut self, user: &str, now: Time) -> Result<(), String> {
        let tier = self.tiers.get(user).copied().flatten();
        let Some(rate) = tier.or(self.user_rate).filter(|_| self.remembers) else { return Ok(()) };
        let spent = self.spent.entry(user.into()).or_default();
        spent
            .take(now, 1, rate)
            .map_err(|_| format!("{user} sent more messages than {rate} allows over all its connections"))
    }

    /// Returns the user's own rate, drawn once per user. With one rate per connection, tokens spent at a high rate
    /// would have to be earned back at a low one.
    fn tier_of(&mut self, user: &str) -> Option<Rate> {
        if let Some(tier) = self.tiers.get(user) {
            return *tier;
        }
        let tier = self.random.percent(self.percents[0]).then(|| rates::draw_tier(&mut self.random));
        self.tiers.insert(user.into(), tier);
        tier
    }

    /// Returns an identity of `user` with its rate and without any other restriction.
    pub(super) fn identity_of(&mut self, user: &str) -> Identity {
        Identity { tier: self.tier_of(user), ..Identity::new(user) }
    }

    /// Draws restrictions for `identity` and returns the behaviours they stand for.
    pub(super) fn restrict(&mut self, identity: &mut Identity, code: &str, unix_millis: u64) -> Vec<Behaviour> {
        let mut occurred = Vec::new();
        identity.tier = self.tier_of(&identity.user);
        if identity.tier.is_some() {
            occurred.push(Behaviour::Tier);
        }
        let random = &mut self.random;
        if random.percent(self.percents[1]) {
            let far = pick(random, &[0, 1, self.span, 4 * self.span, 40 * self.span]);
            identity.expires = Some(unix_millis + random.below(far + 1));
            occurred.push(Behaviour::Expiry);
        }
        if random.percent(self.percents[2]) {
            let other = random.percent(30);
            identity.lobby = Some(if other { "elsewhere" } else { code }.into());
            occurred.push(Behaviour::OneLobby);
        }
        occurred
    }
}

/// Returns the time at which a connection must have ended because its identity expires, `token_grace` included.
fn expiry_of(identity: &Identity, config: &Config, unix_at_zero: u64) -> Option<Time> {
    let millis = identity.expires?;
    let ends = Time::from_micros(millis * 1000) + config.token_grace;
    Some(Time::from_micros(ends.as_micros().saturating_sub(unix_at_zero)))
}

impl<A: App> World<A> {
    /// Whether the connection's identity, address or rate can have ended it now with `reason`.
    pub(super) fn limits_allow(&self, link: &Link, reason: CloseReason) -> bool {
        let config = self.engine.config();
        let observed = &self.engine.app().observed;
        let identity = link.conn.and_then(|conn| observed.identities.get(&conn));
        match reason {
            CloseReason::TokenExpired => identity.is_some_and(|identity| {
                let grace = if link.view.is_synced() { Duration::ZERO } else { config.token_grace };
                expiry_of(identity, config, self.unix_at_zero).is_some_and(|end| self.now + grace >= end)
            }),
            CloseReason::Unauthorized => {
                let elsewhere = identity.and_then(|identity| identity.lobby.as_deref());
                link.is_unpredictable || elsewhere.is_some_and(|lobby| lobby != self.shared.lobbies[link.lobby])
            }
            CloseReason::MaxLifetime => config.max_lifetime.is_some_and(|age| self.now - link.opened >= age),
            CloseReason::IpLimit => {
                let there = self.links.iter().flatten().filter(|it| it.conn.is_some() && it.network == link.network);
                !config.max_per_ip.has_room(there.count() - 1)
            }
            CloseReason::RateLimited => self.rates_allow(link),
            _ => self.operator_allows(link.conn, reason),
        }
    }

    /// Checks, after a turn, that no member has exceeded its expiry or lifetime and no network has exceeded
    /// `max_per_ip`.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        let config = self.engine.config();
        let observed = &self.engine.app().observed;
        // A timer may be late by the wheel's granule. Twice that is allowed here.
        let slack = config.wheel_granule * 2;
        for seated in observed.seats.values() {
            let conn = seated.conn;
            let end =
                observed.identities.get(&conn).and_then(|identity| expiry_of(identity, config, self.unix_at_zero));
            // A step of the wall clock may move the expiry into the past.
            let end = end.map(|end| end.max(self.wall_stepped_at.unwrap_or(Time::ZERO)));
            if end.is_some_and(|end| self.now >= end + slack) {
                return Err(format!("conn={conn} is still joined, but its identity has expired"));
            }
            if config.max_lifetime.is_some_and(|age| self.now >= seated.since + age + slack) {
                return Err(format!("conn={conn} is still joined, but is older than max_lifetime"));
            }
        }
        if config.max_per_ip != Limit::UNLIMITED {
            let mut there = [0; NETWORKS];
            let seated = |link: &&Link| link.conn.is_some() && link.reason.is_none() && link.status == Some(101);
            self.links.iter().flatten().filter(seated).for_each(|link| there[link.network] += 1);
            if let Some(many) =
                there.iter().find(|&&count: &&usize| count > 0 && !config.max_per_ip.has_room(count - 1))
            {
                return Err(format!("{many} connections of one network, more than max_per_ip"));
            }
        }
        Ok(())
    }

    /// Checks the attempt rate, per network: a 429 was sent only if the rate may have been exceeded, and no more
    /// connections were upgraded than the rate allows.
    pub(super) fn check_attempts(&self) -> Result<(), String> {
        let config = self.engine.config();
        let rate = config.attempt_rate();
        for (network, (&attempts, &admitted)) in self.attempts.iter().zip(&self.shared.admitted).enumerate() {
            let refused = self.shared.refused_429[network];
            let Some(rate) = rate else {
                if refused > 0 {
                    return Err("a request was answered 429, but attempts are not limited".into());
                }
                continue;
            };
            if refused > 0 && attempts <= u64::from(rate.burst()) {
                return Err(format!("one of {attempts} attempts was answered 429, but {rate} allows all of them"));
            }
            let earned = u128::from(rate.count()) * (self.now - Time::ZERO).as_millis() / rate.period().as_millis();
            let remembers = config.max_remembered_rates as usize >= NETWORKS;
            if remembers && u128::from(admitted) > u128::from(rate.burst()) + earned + 1 {
                return Err(format!("{admitted} connections were upgraded from one network, more than {rate} allows"));
            }
        }
        Ok(())
    }
}
