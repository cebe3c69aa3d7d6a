//! On what terms clients are let in: as whom and for how long, from where, and how full their queues may become.
//!
//! Configurations and identities are drawn here, and whether the engine holds everybody to them is checked here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::client::Link;
use super::rates;
use super::swarm::{Behaviour, Swarm};
use super::tick_model;
use super::world::World;
use crate::close::CloseReason;
use crate::config::{ByteSize, Config, Limit};
use crate::engine::app::{App, Identity};
use crate::random::Random;
use crate::rate::{Bucket, Rate};
use crate::time::Time;

/// Where clients come from, and which of them are one to the limits: an address, or a /64 of IPv6.
const ADDRESSES: &[(IpAddr, usize)] = &[
    (v4([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]), 0),
    (v4([0, 0, 0, 0, 0, 0xffff, 0x0a00, 2]), 1),
    (v6([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]), 0),
    (v6([0x2001, 0xdb8, 0, 1, 0, 0, 0, 1]), 2),
    (v6([0x2001, 0xdb8, 0, 1, 0x8000, 0, 0, 2]), 2),
    (v6([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]), 3),
];
/// More than there are users in a run.
const MANY: usize = 1000;
/// So many of them are different to the limits.
pub(super) const NETWORKS: usize = 4;

const fn v6(parts: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = parts;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const fn v4(mapped: [u16; 8]) -> IpAddr {
    match v6(mapped) {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => panic!("a mapped address"),
        },
        address => address,
    }
}

/// An address, and which of the networks it counts for.
pub(super) fn draw_address(random: &mut Random) -> (IpAddr, usize) {
    ADDRESSES[random.below(ADDRESSES.len() as u64) as usize]
}

pub(super) fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize]
}

pub(super) fn limit(random: &mut Random, values: &[u32]) -> Limit {
    match pick(random, values) {
        0 => Limit::UNLIMITED,
        n => Limit::at_most(n),
    }
}

/// Draws what of the configuration belongs to a behaviour of the run. Each has numbers of its own, so that leaving one out
/// changes nothing about the others.
pub(super) fn draw(config: &mut Config, swarm: &Swarm, seed: u64) {
    let numbers = |behaviour: Behaviour| {
        (swarm.weight(behaviour) > 0).then(|| Random::new(seed ^ 0x7e_12_35 ^ (behaviour as u64) << 40))
    };
    if let Some(random) = &mut numbers(Behaviour::Rates) {
        rates::draw(config, random);
    }
    if let Some(random) = &mut numbers(Behaviour::Expiry) {
        config.token_grace = pick(random, &[Duration::ZERO, Duration::from_millis(100), config.ping_interval]);
    }
    if let Some(random) = &mut numbers(Behaviour::Lifetime) {
        let least = Duration::from_secs(1);
        config.max_lifetime = Some(pick(random, &[1, 10, 50, 200]) * config.ping_interval.max(least));
    }
    if let Some(random) = &mut numbers(Behaviour::Addresses) {
        config.max_per_ip = limit(random, &[0, 0, 1, 2, 4]);
        config.attempts_per_minute = limit(random, &[0, 6, 60, 6000]);
        config.attempt_burst = pick(random, &[1, 3, 10, 60]);
        config.max_remembered_rates = pick(random, &[0, 1, 65_536]);
    }
    if let Some(random) = &mut numbers(Behaviour::Unread) {
        config.max_deferred_turns = pick(random, &[0, 1, 3, 1000]);
    }
    if let Some(random) = &mut numbers(Behaviour::Ticks) {
        tick_model::draw(config, random);
    }
    if let Some(random) = &mut numbers(Behaviour::Pressure) {
        config.outbound_high_mark = pick(random, &[ByteSize(1), ByteSize(100), ByteSize(1000), ByteSize(20_000)]);
        config.outbound_low_mark =
            ByteSize(pick(random, &[0, config.outbound_high_mark.0 / 4, config.outbound_high_mark.0 - 1]));
    }
}

/// Restricts whom the application lets in.
pub(super) struct Leases {
    /// Of a hundred identities, how many get a rate of their own, expire, or are good for one lobby.
    percents: [u64; 3],
    /// About how long they are good for, in milliseconds.
    span: u64,
    /// The rate of each user that has come so far.
    tiers: BTreeMap<String, Option<Rate>>,
    random: Random,
    /// The rate of messages of a user that has none of its own.
    user_rate: Option<Rate>,
    /// Whether what users who are gone had used up is remembered of all of them.
    remembers: bool,
    /// What each user has used up of its rate, over all its connections.
    spent: BTreeMap<String, Bucket>,
}

impl Leases {
    pub(super) fn new(swarm: &Swarm, config: &Config, random: Random) -> Leases {
        let percents = [Behaviour::Tier, Behaviour::Expiry, Behaviour::OneLobby];
        let percents = percents.map(|behaviour| u64::from(swarm.weight(behaviour)).min(60));
        Leases {
            percents,
            span: config.ping_interval.as_millis() as u64,
            tiers: BTreeMap::new(),
            random,
            user_rate: config.user_message_rate(),
            remembers: config.max_remembered_rates as usize >= MANY,
            spent: BTreeMap::new(),
        }
    }

    /// `user` has said something that reached the application, which its rate must allow, however often it came back.
    ///
    /// Not everything that is charged reaches the application, so this bucket is never emptier than the engine's.
    pub(super) fn charge(&mut self, user: &str, now: Time) -> Result<(), String> {
        let tier = self.tiers.get(user).copied().flatten();
        let Some(rate) = tier.or(self.user_rate).filter(|_| self.remembers) else { return Ok(()) };
        let spent = self.spent.entry(user.into()).or_default();
        spent.take(now, 1, rate).map_err(|_| format!("{user} has said more than {rate} over all its connections"))
    }

    /// A user has one rate, or what it owes under a generous one is paid off under a mean one.
    fn tier_of(&mut self, user: &str) -> Option<Rate> {
        if let Some(tier) = self.tiers.get(user) {
            return *tier;
        }
        let tier = self.random.percent(self.percents[0]).then(|| rates::draw_tier(&mut self.random));
        self.tiers.insert(user.into(), tier);
        tier
    }

    /// The user, with its rate, and without any other restriction.
    pub(super) fn identity_of(&mut self, user: &str) -> Identity {
        Identity { tier: self.tier_of(user), ..Identity::new(user) }
    }

    /// Restricts `identity` in some ways, which it returns.
    pub(super) fn restrict(&mut self, identity: &mut Identity, code: &str, unix_millis: u64) -> Vec<Behaviour> {
        let mut did = Vec::new();
        identity.tier = self.tier_of(&identity.user);
        if identity.tier.is_some() {
            did.push(Behaviour::Tier);
        }
        let random = &mut self.random;
        if random.percent(self.percents[1]) {
            let far = pick(random, &[0, 1, self.span, 4 * self.span, 40 * self.span]);
            identity.expires = Some(unix_millis + random.below(far + 1));
            did.push(Behaviour::Expiry);
        }
        if random.percent(self.percents[2]) {
            let other = random.percent(30);
            identity.lobby = Some(if other { "elsewhere" } else { code }.into());
            did.push(Behaviour::OneLobby);
        }
        did
    }
}

/// When a connection must be over at the latest for its identity's sake.
fn ends(identity: &Identity, config: &Config, unix_at_zero: u64) -> Option<Time> {
    let millis = identity.expires?;
    let ends = Time::from_micros(millis * 1000) + config.token_grace;
    Some(Time::from_micros(ends.as_micros().saturating_sub(unix_at_zero)))
}

impl<A: App> World<A> {
    /// Whether the terms of a connection can have ended it now.
    pub(super) fn limits_allow(&self, link: &Link, reason: CloseReason) -> bool {
        let config = self.engine.config();
        let seen = &self.engine.app().seen;
        let identity = link.conn.and_then(|conn| seen.identities.get(&conn));
        match reason {
            CloseReason::TokenExpired => identity.is_some_and(|identity| {
                let grace = if link.view.is_settled() { Duration::ZERO } else { config.token_grace };
                ends(identity, config, self.unix_at_zero).is_some_and(|end| self.now + grace >= end)
            }),
            CloseReason::Unauthorized => {
                let elsewhere = identity.and_then(|identity| identity.lobby.as_deref());
                link.is_spoiled || elsewhere.is_some_and(|lobby| lobby != self.common.lobbies[link.lobby])
            }
            CloseReason::MaxLifetime => config.max_lifetime.is_some_and(|age| self.now - link.opened >= age),
            CloseReason::IpLimit => {
                let there = self.links.iter().flatten().filter(|it| it.conn.is_some() && it.network == link.network);
                !config.max_per_ip.has_room(there.count() - 1)
            }
            CloseReason::RateLimited => self.may_be_struck(link),
            _ => self.may_be_told_to_go(link.conn, reason),
        }
    }

    /// After a turn: nobody is in a seat whose time is over, and no address has more than its share.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        let config = self.engine.config();
        let seen = &self.engine.app().seen;
        // A timer may come late by the wheel's granule.
        let slack = config.wheel_granule * 2;
        for seated in seen.seats.values() {
            let conn = seated.conn;
            let end = seen.identities.get(&conn).and_then(|identity| ends(identity, config, self.unix_at_zero));
            // A step of the wall clock may put it into the past.
            let end = end.map(|end| end.max(self.stepped_at.unwrap_or(Time::ZERO)));
            if end.is_some_and(|end| self.now >= end + slack) {
                return Err(format!("conn={conn} is still here, and its identity has expired"));
            }
            if config.max_lifetime.is_some_and(|age| self.now >= seated.since + age + slack) {
                return Err(format!("conn={conn} is still here, and is older than max_lifetime"));
            }
        }
        if config.max_per_ip != Limit::UNLIMITED {
            let mut there = [0; NETWORKS];
            let seated = |link: &&Link| link.conn.is_some() && link.reason.is_none() && link.status == Some(101);
            self.links.iter().flatten().filter(seated).for_each(|link| there[link.network] += 1);
            if let Some(many) =
                there.iter().find(|&&count: &&usize| count > 0 && !config.max_per_ip.has_room(count - 1))
            {
                return Err(format!("{many} connections of one address, more than max_per_ip"));
            }
        }
        Ok(())
    }

    /// Whether an address can have been told that it comes too often; and whether it was let in too often.
    pub(super) fn check_attempts(&self) -> Result<(), String> {
        let config = self.engine.config();
        let rate = config.attempt_rate();
        for (network, (&came, &let_in)) in self.came.iter().zip(&self.common.let_in).enumerate() {
            let refused = self.common.refused_429[network];
            let Some(rate) = rate else {
                if refused > 0 {
                    return Err("answered 429, and attempts are not limited".into());
                }
                continue;
            };
            if refused > 0 && came <= u64::from(rate.burst()) {
                return Err(format!("answered 429 to one of {came} attempts, of which {rate} allows all"));
            }
            let earned = u128::from(rate.count()) * (self.now - Time::ZERO).as_millis() / rate.period().as_millis();
            let remembers = config.max_remembered_rates as usize >= NETWORKS;
            if remembers && u128::from(let_in) > u128::from(rate.burst()) + earned + 1 {
                return Err(format!("let in {let_in} times from one address, of which the rate is {rate}"));
            }
        }
        Ok(())
    }
}
