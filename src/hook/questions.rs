//! Questions whether a client may connect: which wait, which are asked, and what each is answered.
//!
//! ```text
//! waiting --a call is free--> asked --result--> answered
//!    |  |                       |
//!    |  +-timeout passed--------+--> given up: answered by `hook_on_failure`; a later result is ignored
//!    +----the client has gone------> dropped
//! ```
//!
//! The timeout is `hook_timeout` in the queue, and again `hook_timeout` for the call: a call that begins late has as much time
//! as any other, so the work of the backend is not lost. The oldest question is asked first, until it has waited for half of the
//! timeout. From then on more are asked than the backend can answer, and the newest one is asked first: those that are
//! answered are answered soon, and the others are given up. When the queue is full, a network that has more questions in it than
//! others gives way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use log::{debug, warn};

use super::answer::read;
use super::{CallId, HttpCall, HttpResult, MAX_ANSWER};
use crate::base::close::CloseReason;
use crate::base::distribution::Distribution;
use crate::base::id::ConnId;
use crate::base::network::displaced_by;
use crate::base::time::Time;
use crate::config::{Config, OnHookFailure};
use crate::engine::member::Authorization;

/// Time for which a call may outlast its timeout, before its question is given up.
const CALL_GRACE: Duration = Duration::from_millis(250);

/// The questions of all connections. A question is answered exactly once.
#[derive(Debug)]
pub(crate) struct Questions {
    timeout: Duration,
    max_waiting: usize,
    max_asked: usize,
    failure: CloseReason,
    asked_so_far: u64,
    waiting: VecDeque<Waiting>,
    /// By the number of the question.
    asked: BTreeMap<u64, Asked>,
    /// Whether the last question was answered by the backend. A failure is logged once.
    is_failing: bool,
    stats: QuestionStats,
}

/// The questions by their result, and how long the backend took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuestionStats {
    pub(crate) allowed: u64,
    pub(crate) refused: u64,
    /// The backend did not answer in time.
    pub(crate) timeouts: u64,
    /// The backend could not be reached, or answered with a status other than 200.
    pub(crate) failed: u64,
    /// The answer was not valid.
    pub(crate) invalid: u64,
    /// The queue was full.
    pub(crate) overflowed: u64,
    /// The client had gone before its question was asked.
    pub(crate) gone: u64,
    pub(crate) latency: Distribution,
}

#[derive(Debug)]
struct Waiting {
    conn: ConnId,
    address: IpAddr,
    body: Vec<u8>,
    since: Time,
}

#[derive(Debug)]
struct Asked {
    conn: ConnId,
    at: Time,
}

impl Questions {
    pub(crate) fn new(config: &Config) -> Questions {
        let failure = match config.hook_on_failure {
            OnHookFailure::Retry => CloseReason::AuthTimeout,
            OnHookFailure::Refuse => CloseReason::Unauthorized,
        };
        Questions {
            timeout: config.hook_timeout,
            max_waiting: config.max_hook_questions as usize,
            max_asked: config.max_hook_calls as usize,
            failure,
            asked_so_far: 0,
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            is_failing: false,
            stats: QuestionStats {
                allowed: 0,
                refused: 0,
                timeouts: 0,
                failed: 0,
                invalid: 0,
                overflowed: 0,
                gone: 0,
                latency: Distribution::of_durations(),
            },
        }
    }

    /// Adds a question with this body about a client with this address. If the queue is full, returns the connection that
    /// gives way and its answer: one of a network that has more questions than others, or else the new one.
    ///
    /// `awaits_answer` tells whether a connection is still there. So it is with the other methods.
    pub(crate) fn ask(
        &mut self,
        now: Time,
        (conn, address): (ConnId, IpAddr),
        body: Vec<u8>,
        awaits_answer: impl Fn(ConnId) -> bool,
    ) -> Option<(ConnId, Authorization)> {
        let refused = if self.has_room(awaits_answer) { None } else { Some(self.give_way(address).unwrap_or(conn)) };
        if refused != Some(conn) {
            self.waiting.push_back(Waiting { conn, address, body, since: now });
        }
        let refused = refused?;
        self.stats.overflowed += 1;
        self.note_failure("max_hook_questions questions wait already");
        Some((refused, Authorization::Refuse(self.failure)))
    }

    /// Returns whether one more question can wait. Questions of clients that have gone make room.
    fn has_room(&mut self, awaits_answer: impl Fn(ConnId) -> bool) -> bool {
        if self.waiting.len() >= self.max_waiting {
            let count = self.waiting.len();
            self.waiting.retain(|waiting| awaits_answer(waiting.conn));
            self.stats.gone += (count - self.waiting.len()) as u64;
        }
        self.waiting.len() < self.max_waiting
    }

    /// Removes the question that gives way to one from this address.
    fn give_way(&mut self, address: IpAddr) -> Option<ConnId> {
        let entries = self.waiting.iter().enumerate().map(|(at, waiting)| (waiting.address, at));
        let (at, _) = displaced_by(address, entries)?;
        self.waiting.remove(at).map(|waiting| waiting.conn)
    }

    /// Returns the next call to begin, if one may begin now.
    pub(crate) fn poll_call(&mut self, now: Time, awaits_answer: impl Fn(ConnId) -> bool) -> Option<HttpCall> {
        if self.asked.len() >= self.max_asked {
            return None;
        }
        let Waiting { conn, body, .. } = loop {
            let next = self.next_waiting(now)?;
            if awaits_answer(next.conn) {
                break next;
            }
            self.stats.gone += 1;
        };
        self.asked_so_far += 1;
        self.asked.insert(self.asked_so_far, Asked { conn, at: now });
        let of = CallId::Question(self.asked_so_far);
        Some(HttpCall { of, body: Some(body), timeout: self.timeout, max_answer: MAX_ANSWER })
    }

    /// Takes the question to ask next from the queue.
    fn next_waiting(&mut self, now: Time) -> Option<Waiting> {
        let is_overloaded = self.waiting.front()?.since + self.timeout / 2 < now;
        if is_overloaded { self.waiting.pop_back() } else { self.waiting.pop_front() }
    }

    /// Handles the result of the call with this number. Returns the answer; `None` if the question was given up.
    pub(crate) fn handle_result(
        &mut self,
        now: Time,
        number: u64,
        result: HttpResult,
    ) -> Option<(ConnId, Authorization)> {
        let Asked { conn, at } = self.asked.remove(&number)?;
        self.stats.latency.record((now - at).as_micros() as u64);
        let answer = match result {
            Ok((200, body)) => match read(&body) {
                Ok(answer) => {
                    let is_allowed = matches!(answer, Authorization::Allow(_));
                    *if is_allowed { &mut self.stats.allowed } else { &mut self.stats.refused } += 1;
                    self.is_failing = false;
                    debug!("conn={conn} the hook {}", if is_allowed { "allows it" } else { "refuses it" });
                    return Some((conn, answer));
                }
                Err(rule) => {
                    self.stats.invalid += 1;
                    self.note_failure(rule);
                    self.failure
                }
            },
            Ok((status, _)) => {
                self.stats.failed += 1;
                self.note_failure(&format!("its status is {status}"));
                self.failure
            }
            Err(fault) => {
                match fault {
                    super::HttpFault::Timeout => self.stats.timeouts += 1,
                    super::HttpFault::TooLong => self.stats.invalid += 1,
                    super::HttpFault::Failed(_) => self.stats.failed += 1,
                }
                self.note_failure(&fault.to_string());
                self.failure
            }
        };
        Some((conn, Authorization::Refuse(answer)))
    }

    /// Gives up the questions whose time is over: first those that are asked, then those that wait, the oldest first.
    pub(crate) fn expire(&mut self, now: Time, awaits_answer: impl Fn(ConnId) -> bool) -> Vec<(ConnId, Authorization)> {
        let mut given_up = Vec::new();
        let limit = self.timeout + CALL_GRACE;
        // Numbers grow with the time at which the calls began.
        while let Some(first) = self.asked.first_entry().filter(|first| first.get().at + limit <= now) {
            given_up.push(first.remove().conn);
        }
        let late = self.waiting.iter().take_while(|waiting| waiting.since + self.timeout <= now).count();
        for Waiting { conn, .. } in self.waiting.drain(..late) {
            if awaits_answer(conn) {
                given_up.push(conn);
            } else {
                self.stats.gone += 1;
            }
        }
        if !given_up.is_empty() {
            self.stats.timeouts += given_up.len() as u64;
            self.note_failure("there was no answer in time");
        }
        given_up.into_iter().map(|conn| (conn, Authorization::Refuse(self.failure))).collect()
    }

    /// Returns when to call [`expire`](Self::expire) next.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let waiting = self.waiting.front().map(|first| first.since + self.timeout);
        let asked = self.asked.values().next().map(|asked| asked.at + self.timeout + CALL_GRACE);
        waiting.into_iter().chain(asked).min()
    }

    /// Number of questions that wait or are asked.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    pub(crate) fn stats(&self) -> &QuestionStats {
        &self.stats
    }

    fn note_failure(&mut self, cause: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(
                "the hook does not answer whether clients may connect: {cause}; they are refused with {}",
                self.failure
            );
        }
    }
}

#[cfg(test)]
mod tests;
