//! Model of the limits per network: the rate of attempts to connect, and the number of seats.
//!
//! Fed with accepted connections, with the responses that clients read, and with the open connections. A network is what
//! the limits count as one address.

use crate::base::id::ConnId;
use crate::base::rate::Rate;
use crate::base::time::Time;
use crate::config::{Config, Limit};

/// Number of different networks in a run: those of the clients, and that of their proxy.
pub(crate) const NETWORKS: usize = 6;
/// Network of the proxy. Requests in which it names no client count for it.
pub(crate) const PROXY_NETWORK: usize = NETWORKS - 1;

/// A connection without a close reason: it may hold a seat or a reservation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenConn {
    pub(crate) conn: ConnId,
    pub(crate) network: usize,
    /// Index of its user.
    pub(crate) user: usize,
}

/// The attempts of each network.
#[derive(Debug)]
pub(crate) struct AddressModel {
    rate: Option<Rate>,
    /// Whether the engine remembers the attempts of all networks.
    remembers: bool,
    max_per_ip: Limit,
    /// The open connections before the last step. Not kept without a limit.
    open: Vec<OpenConn>,
    /// The last connections of seats without one, and earlier connections of seats.
    others: Vec<OpenConn>,
    /// Number of accepted connections.
    attempts: [u64; NETWORKS],
    /// Number of upgraded connections.
    admitted: [u64; NETWORKS],
    /// Number of connections answered 429.
    refused: [u64; NETWORKS],
}

impl AddressModel {
    pub(crate) fn new(config: &Config) -> AddressModel {
        AddressModel {
            rate: config.attempt_rate(),
            remembers: config.max_remembered_rates as usize >= NETWORKS,
            max_per_ip: config.max_per_ip,
            open: Vec::new(),
            others: Vec::new(),
            attempts: [0; NETWORKS],
            admitted: [0; NETWORKS],
            refused: [0; NETWORKS],
        }
    }

    /// A connection from `network` was accepted.
    pub(crate) fn accepted(&mut self, network: usize) {
        self.attempts[network] += 1;
    }

    /// A client in `network` read the response to its upgrade request.
    pub(crate) fn answered(&mut self, network: usize, status: u16) {
        match status {
            101 => self.admitted[network] += 1,
            429 => self.refused[network] += 1,
            _ => {}
        }
    }

    /// Whether attempts are limited at all.
    pub(crate) fn limits_attempts(&self) -> bool {
        self.rate.is_some()
    }

    /// Checks the attempt rate, per network: a 429 was sent only if the rate may have been exceeded, and no more
    /// connections were upgraded than the rate allows.
    pub(crate) fn check_attempts(&self, now: Time) -> Result<(), String> {
        for (network, (&attempts, &admitted)) in self.attempts.iter().zip(&self.admitted).enumerate() {
            let refused = self.refused[network];
            let Some(rate) = self.rate else {
                if refused > 0 {
                    return Err("a request was answered 429, but attempts are not limited".into());
                }
                continue;
            };
            if refused > 0 && attempts <= u64::from(rate.burst()) {
                return Err(format!("one of {attempts} attempts was answered 429, but {rate} allows all of them"));
            }
            let earned = u128::from(rate.count()) * (now - Time::ZERO).as_millis() / rate.period().as_millis();
            if self.remembers && u128::from(admitted) > u128::from(rate.burst()) + earned + 1 {
                return Err(format!("{admitted} connections were upgraded from one network, more than {rate} allows"));
            }
        }
        Ok(())
    }

    /// Notes the connections that have no close reason before the next one is looked at, and the last connections of
    /// seats that count besides. A seat may have been freed since the step before.
    pub(crate) fn note_open(&mut self, mut open: Vec<OpenConn>, others: Vec<OpenConn>) {
        let before = std::mem::replace(&mut self.others, others);
        for seat in self.others.iter().chain(&before) {
            if open.iter().all(|known| known.conn != seat.conn) {
                open.push(*seat);
            }
        }
        self.open = open;
    }

    /// Checks that no network has exceeded `max_per_ip`. `networks` are those of the members.
    pub(crate) fn check_seats(&self, networks: impl Iterator<Item = usize>) -> Result<(), String> {
        if self.max_per_ip == Limit::UNLIMITED {
            return Ok(());
        }
        let mut there = [0; NETWORKS];
        networks.for_each(|network| there[network] += 1);
        match there.iter().find(|&&count: &&usize| count > 0 && !self.max_per_ip.has_room(count - 1)) {
            Some(many) => Err(format!("{many} seats of one network, more than max_per_ip")),
            None => Ok(()),
        }
    }

    /// Whether `conn` may have been refused for `max_per_ip`: so many other connections of its network may have held a
    /// seat. A seat of the same user that the connection would have replaced does not count, and neither do connections
    /// that were refused before.
    pub(crate) fn allows_refusal(&self, conn: ConnId, is_replaceable: impl Fn(ConnId) -> bool) -> bool {
        let Some(refused) = self.open.iter().find(|open| open.conn == conn) else { return false };
        let is_counted = |other: &&OpenConn| {
            let is_replaced = other.user == refused.user && is_replaceable(other.conn);
            other.conn != conn && other.network == refused.network && !is_replaced
        };
        !self.max_per_ip.has_room(self.open.iter().filter(is_counted).count())
    }
}
