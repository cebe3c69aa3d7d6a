//! When the set of keys of tokens is fetched from its URL, and which connections wait for it.
//!
//! ```text
//! idle --a token with an unknown kid, or jwt_jwks_refresh over--> fetching --result--> idle; each token is checked again
//! ```
//!
//! After a fetch for an unknown key, the next one begins 30 s later: clients can send tokens with any `kid`.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use log::{info, warn};

use super::{CallId, HttpCall, HttpResult, wait_after};
use crate::base::id::ConnId;
use crate::base::network::displaced_by;
use crate::base::time::Time;
use crate::config::Config;

/// Shortest time between the begins of two fetches because of an unknown key.
const MIN_INTERVAL: Duration = Duration::from_secs(30);
/// Most bytes of a set of keys.
const MAX_SET: usize = 1 << 20;
/// Longest duration of one fetch. It is longer than that of a question: providers of keys are far away.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose token names a key that is not known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WaitingToken {
    pub(crate) conn: ConnId,
    pub(crate) token: Box<str>,
    address: IpAddr,
    since: Time,
}

/// Without the token.
impl std::fmt::Debug for WaitingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WaitingToken({})", self.conn)
    }
}

/// The fetches of one set of keys.
#[derive(Debug)]
pub(crate) struct KeyFetches {
    refresh: Duration,
    max_waiting: usize,
    /// Longest time for which a connection may wait.
    max_wait: Duration,
    waiting: VecDeque<WaitingToken>,
    is_fetching: bool,
    /// When the next fetch may begin because of an unknown key.
    not_before: Time,
    /// When the next fetch begins in any case.
    next_at: Time,
    failures: u32,
    /// The set that the application has taken last.
    contents: Option<Vec<u8>>,
    stats: KeyStats,
}

/// The fetches so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyStats {
    pub(crate) fetched: u64,
    pub(crate) failed: u64,
    /// Tokens that could not wait: too many did, or the next fetch is too late for them.
    pub(crate) turned_away: u64,
}

/// What follows from a fetch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// Tokens to check again. If the fetch has failed, their clients are asked to come back later.
    pub(crate) tokens: Vec<WaitingToken>,
    pub(crate) has_failed: bool,
}

impl KeyFetches {
    /// The first fetch begins at once.
    pub(crate) fn new(config: &Config) -> KeyFetches {
        KeyFetches {
            refresh: config.jwt_jwks_refresh,
            max_waiting: config.max_hook_questions as usize,
            max_wait: config.auth_timeout,
            waiting: VecDeque::new(),
            is_fetching: false,
            not_before: Time::ZERO,
            next_at: Time::ZERO,
            failures: 0,
            contents: None,
            stats: KeyStats::default(),
        }
    }

    /// Lets a connection wait for the next fetch. Returns the one that cannot wait: it, or another one that gives way
    /// because too many wait, of a network that has more tokens than others. That client is asked to come back later.
    ///
    /// `awaits_answer` tells whether a connection is still there.
    pub(crate) fn wait(
        &mut self,
        now: Time,
        (conn, address): (ConnId, IpAddr),
        token: Box<str>,
        awaits_answer: impl Fn(ConnId) -> bool,
    ) -> Option<ConnId> {
        let is_in_time = self.is_fetching || self.fetch_at() < now + self.max_wait;
        if is_in_time && self.waiting.len() >= self.max_waiting {
            self.waiting.retain(|waiting| awaits_answer(waiting.conn));
        }
        let turned_away = if !is_in_time {
            Some(conn)
        } else if self.waiting.len() >= self.max_waiting {
            Some(self.give_way(address).unwrap_or(conn))
        } else {
            None
        };
        self.stats.turned_away += u64::from(turned_away.is_some());
        if turned_away != Some(conn) {
            self.waiting.push_back(WaitingToken { conn, token, address, since: now });
        }
        turned_away
    }

    /// Removes the token that gives way to one from this address.
    fn give_way(&mut self, address: IpAddr) -> Option<ConnId> {
        let entries = self.waiting.iter().enumerate().map(|(at, waiting)| (waiting.address, at));
        let (at, _) = displaced_by(address, entries)?;
        self.waiting.remove(at).map(|waiting| waiting.conn)
    }

    /// When the next fetch for a waiting token begins.
    fn fetch_at(&self) -> Time {
        self.not_before.min(self.next_at)
    }

    /// Returns the call to begin, if one is due. Nothing is fetched for connections that have gone.
    pub(crate) fn poll_call(&mut self, now: Time, awaits_answer: impl Fn(ConnId) -> bool) -> Option<HttpCall> {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return None;
        }
        self.waiting.retain(|waiting| awaits_answer(waiting.conn));
        if self.poll_timeout().is_none_or(|at| now < at) {
            return None;
        }
        self.is_fetching = true;
        self.not_before = now + MIN_INTERVAL;
        Some(HttpCall { of: CallId::Keys, body: None, timeout: FETCH_TIMEOUT, max_answer: MAX_SET })
    }

    /// Returns when the next fetch begins.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match self.is_fetching {
            true => None,
            false if self.waiting.is_empty() => Some(self.next_at),
            false => Some(self.fetch_at()),
        }
    }

    /// Handles the result of a fetch. `take` passes a new set to the application, and returns whether it is a valid one.
    pub(crate) fn handle_result(&mut self, now: Time, result: HttpResult, take: impl FnOnce(&[u8]) -> bool) -> Fetched {
        self.is_fetching = false;
        let tokens = std::mem::take(&mut self.waiting).into();
        let fault = match result {
            Ok((200, contents)) if self.contents.as_ref() == Some(&contents) || take(&contents) => {
                self.stats.fetched += 1;
                self.failures = 0;
                self.next_at = now + self.refresh;
                self.contents = Some(contents);
                return Fetched { tokens, has_failed: false };
            }
            Ok((200, _)) => "its answer is no valid set of keys".to_owned(),
            Ok((status, _)) => format!("its status is {status}"),
            Err(fault) => fault.to_string(),
        };
        self.stats.failed += 1;
        self.failures = self.failures.saturating_add(1);
        self.next_at = now + wait_after(self.failures).max(Duration::from_secs(1));
        warn!("the keys cannot be fetched from jwt_jwks_url: {fault}; the old keys stay in force");
        Fetched { tokens, has_failed: true }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn stats(&self) -> &KeyStats {
        &self.stats
    }

    /// Logs that the first fetch begins.
    pub(crate) fn log_start(&self) {
        info!("the keys of tokens are fetched from jwt_jwks_url, now and every {:?}", self.refresh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::HttpFault;

    const SECOND: Duration = Duration::from_secs(1);

    fn conn(index: usize) -> ConnId {
        ConnId::new(index, 1).expect("in range")
    }

    fn address(network: u8) -> IpAddr {
        [192, 0, 2, network].into()
    }

    /// Whether a connection of the first network can wait.
    fn wait(keys: &mut KeyFetches, now: Time, index: usize, token: Box<str>) -> bool {
        keys.wait(now, (conn(index), address(1)), token, |_| true).is_none()
    }

    fn fetches() -> KeyFetches {
        KeyFetches::new(&Config { max_hook_questions: 3, ..Config::default() })
    }

    fn conns(fetched: &Fetched) -> Vec<ConnId> {
        fetched.tokens.iter().map(|waiting| waiting.conn).collect()
    }

    #[test]
    fn the_keys_are_fetched_at_the_start_and_then_once_in_each_interval() {
        let (mut keys, now) = (fetches(), Time::ZERO);
        assert!(wait(&mut keys, now, 0, "a".into()), "the first fetch is due");
        let call = keys.poll_call(now, |_| true).expect("at once");
        assert_eq!((call.of, call.body, call.max_answer), (CallId::Keys, None, 1 << 20));
        assert!(wait(&mut keys, now, 1, "b".into()) && keys.poll_call(now, |_| true).is_none());
        let mut taken = Vec::new();
        let fetched = keys.handle_result(now + SECOND, Ok((200, b"{}".to_vec())), |contents| {
            taken.extend_from_slice(contents);
            true
        });
        assert_eq!((conns(&fetched), &*taken), (vec![conn(0), conn(1)], &b"{}"[..]));
        assert_eq!(keys.poll_timeout(), Some(now + SECOND + Config::default().jwt_jwks_refresh));
        let later = keys.poll_timeout().expect("a time");
        keys.poll_call(later, |_| true).expect("the refresh");
        let fetched =
            keys.handle_result(later, Ok((200, b"{}".to_vec())), |_| panic!("the same set is not read again"));
        assert_eq!(fetched, Fetched { tokens: vec![], has_failed: false });
    }

    #[test]
    fn unknown_keys_cause_one_fetch_in_30_seconds() {
        let (mut keys, now) = (fetches(), Time::ZERO);
        keys.poll_call(now, |_| true).expect("the first");
        keys.handle_result(now, Ok((200, Vec::new())), |_| true);
        let mut fetched = 0;
        for second in 0..300 {
            let now = now + second * SECOND;
            wait(&mut keys, now, second as usize, "forged".into());
            if keys.poll_call(now, |_| true).is_some() {
                fetched += 1;
                keys.handle_result(now, Ok((200, Vec::new())), |_| true);
            }
        }
        assert_eq!(fetched, 9);
        assert!(keys.stats().turned_away >= 9 * 20, "those that would wait longer than auth_timeout do not wait");
    }

    #[test]
    fn tokens_wait_in_a_bounded_number_and_no_longer_than_auth_timeout() {
        let (mut keys, now) = (fetches(), Time::ZERO);
        let waits: Vec<bool> = (0..5).map(|index| wait(&mut keys, now, index, "t".into())).collect();
        assert_eq!((waits, keys.waiting()), (vec![true, true, true, false, false], 3));
        keys.poll_call(now, |_| true).expect("the first");
        let failed = keys.handle_result(now, Err(HttpFault::Timeout), |_| panic!("there is no set"));
        assert_eq!((failed.has_failed, failed.tokens.len()), (true, 3));
        assert!(wait(&mut keys, now, 9, "t".into()), "the next try is soon");
        assert_eq!(keys.poll_timeout(), Some(now + SECOND));
        assert_eq!((keys.poll_call(now + SECOND, |_| false).is_some(), keys.waiting()), (true, 0), "it has gone");
    }

    #[test]
    fn failures_are_tried_again_with_growing_waits() {
        let (mut keys, mut now) = (fetches(), Time::ZERO);
        let mut waits = Vec::new();
        for _ in 0..9 {
            keys.poll_call(now, |_| true).expect("due");
            assert!(keys.handle_result(now, Ok((503, Vec::new())), |_| panic!("there is no set")).has_failed);
            let next = keys.poll_timeout().expect("a time");
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 1, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_set_that_the_application_refuses_is_a_failure_and_is_not_kept() {
        let (mut keys, mut now) = (fetches(), Time::ZERO);
        let mut fetch = |set: &str, is_valid: bool| {
            assert!(wait(&mut keys, now, 0, "t".into()));
            keys.poll_call(now, |_| true).expect("due");
            let mut is_read = false;
            let fetched = keys.handle_result(now, Ok((200, set.as_bytes().to_vec())), |_| {
                is_read = true;
                is_valid
            });
            assert_eq!(fetched.tokens.len(), 1);
            let wait = keys.poll_timeout().expect("a time") - now;
            now = now + wait;
            (is_read, fetched.has_failed, wait.as_secs())
        };
        let hour = Config::default().jwt_jwks_refresh.as_secs();
        assert_eq!(fetch("", false), (true, true, 1));
        assert_eq!(fetch("<html>", false), (true, true, 1));
        assert_eq!(fetch("<html>", false), (true, true, 1), "it is read again");
        assert_eq!(fetch("{}", true), (true, false, hour));
        assert_eq!(fetch("<html>", false), (true, true, 1));
        assert_eq!(fetch("{}", true), (false, false, hour), "it is in force");
        assert_eq!((keys.stats().fetched, keys.stats().failed), (2, 4));
    }

    #[test]
    fn nothing_is_fetched_for_clients_that_have_gone_and_they_take_no_room() {
        let (mut keys, now) = (fetches(), Time::ZERO);
        keys.poll_call(now, |_| true).expect("the first");
        keys.handle_result(now, Ok((200, Vec::new())), |_| true);
        let now = now + 25 * SECOND;
        (0..3).for_each(|index| assert!(wait(&mut keys, now, index, "t".into())));
        let turned_away = keys.wait(now, (conn(3), address(1)), "t".into(), |waiting| waiting == conn(1));
        assert_eq!((turned_away, keys.waiting()), (None, 2));
        let now = now + 5 * SECOND;
        assert_eq!((keys.poll_call(now, |_| false), keys.waiting()), (None, 0));
        assert!(wait(&mut keys, now, 4, "t".into()) && keys.poll_call(now, |_| true).is_some());
    }

    #[test]
    fn when_too_many_tokens_wait_the_network_with_most_of_them_gives_way() {
        let (mut keys, now) = (fetches(), Time::ZERO);
        (0..3).for_each(|index| assert!(wait(&mut keys, now, index, "t".into())));
        let mut wait = |index, network| keys.wait(now, (conn(index), address(network)), "t".into(), |_| true);
        assert_eq!((wait(3, 1), wait(4, 2)), (Some(conn(3)), Some(conn(0))));
        assert_eq!((wait(5, 2), wait(6, 3)), (Some(conn(5)), Some(conn(1))));
        assert_eq!((keys.waiting(), keys.stats().turned_away), (3, 4));
    }
}
