//! Questions whether a client may connect: which wait, which are asked, and what each is answered.
//!
//! ```text
//! waiting --a call is free--> asked --result--> answered
//!    |                          |
//!    +----timeout passed--------+--> given up: answered by `hook_on_failure`; a later result is ignored
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use log::{debug, warn};

use super::answer::read;
use super::{CallId, HttpCall, HttpResult, MAX_ANSWER};
use crate::base::close::CloseReason;
use crate::base::distribution::Distribution;
use crate::base::id::ConnId;
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
    pub(crate) latency: Distribution,
}

#[derive(Debug)]
struct Waiting {
    conn: ConnId,
    body: Vec<u8>,
    since: Time,
}

#[derive(Debug)]
struct Asked {
    conn: ConnId,
    since: Time,
    asked_at: Time,
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
                latency: Distribution::of_durations(),
            },
        }
    }

    /// Adds a question with this body. Returns its answer at once if the queue is full.
    pub(crate) fn ask(&mut self, now: Time, conn: ConnId, body: Vec<u8>) -> Option<Authorization> {
        if self.waiting.len() >= self.max_waiting {
            self.stats.overflowed += 1;
            self.note_failure("max_hook_questions questions wait already");
            return Some(Authorization::Refuse(self.failure));
        }
        self.waiting.push_back(Waiting { conn, body, since: now });
        None
    }

    /// Returns the next call to begin, if one may begin now.
    pub(crate) fn poll_call(&mut self, now: Time) -> Option<HttpCall> {
        if self.asked.len() >= self.max_asked {
            return None;
        }
        let Waiting { conn, body, since } = self.waiting.pop_front()?;
        self.asked_so_far += 1;
        self.asked.insert(self.asked_so_far, Asked { conn, since, asked_at: now });
        // What has waited in the queue has less time left: the client has waited as well.
        let timeout = self.timeout.saturating_sub(now - since).max(Duration::from_millis(1));
        Some(HttpCall { of: CallId::Question(self.asked_so_far), body: Some(body), timeout, max_answer: MAX_ANSWER })
    }

    /// Handles the result of the call with this number. Returns the answer; `None` if the question was given up.
    pub(crate) fn handle_result(
        &mut self,
        now: Time,
        number: u64,
        result: HttpResult,
    ) -> Option<(ConnId, Authorization)> {
        let Asked { conn, asked_at, .. } = self.asked.remove(&number)?;
        self.stats.latency.record((now - asked_at).as_micros() as u64);
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

    /// Gives up the questions whose time is over, in the order in which they were asked.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<(ConnId, Authorization)> {
        let mut given_up = Vec::new();
        let limit = self.timeout + CALL_GRACE;
        let late: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.since + limit <= now).map(|(number, _)| *number).collect();
        for number in late {
            given_up.extend(self.asked.remove(&number).map(|asked| asked.conn));
        }
        while self.waiting.front().is_some_and(|first| first.since + self.timeout <= now) {
            given_up.extend(self.waiting.pop_front().map(|first| first.conn));
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
        let asked = self.asked.values().map(|asked| asked.since + self.timeout + CALL_GRACE).min();
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
mod tests {
    use super::*;
    use crate::hook::HttpFault;

    const MS: Duration = Duration::from_millis(1);

    fn conn(index: usize) -> ConnId {
        ConnId::new(index, 1).expect("in range")
    }

    fn questions(max_waiting: u32, max_asked: u32) -> Questions {
        Questions::new(&Config { max_hook_questions: max_waiting, max_hook_calls: max_asked, ..Config::default() })
    }

    fn number(call: Option<HttpCall>) -> u64 {
        match call.expect("a call").of {
            CallId::Question(number) => number,
            other => panic!("{other:?}"),
        }
    }

    fn retry(index: usize) -> (ConnId, Authorization) {
        (conn(index), Authorization::Refuse(CloseReason::AuthTimeout))
    }

    #[test]
    fn questions_wait_for_a_free_call_and_keep_their_order() {
        let (mut questions, now) = (questions(8, 1), Time::ZERO);
        (0..3).for_each(|index| assert_eq!(questions.ask(now, conn(index), vec![index as u8]), None));
        let first = questions.poll_call(now).expect("a call");
        assert_eq!((first.body, first.timeout), (Some(vec![0]), 1000 * MS));
        assert_eq!(questions.poll_call(now), None, "one call at a time");
        let later = now + 300 * MS;
        let answer = questions.handle_result(later, 1, Ok((200, br#"{"allow":true,"user":"ann"}"#.to_vec())));
        assert_eq!(answer, Some((conn(0), Authorization::allow("ann"))));
        let second = questions.poll_call(later).expect("a call");
        assert_eq!((second.body, second.timeout), (Some(vec![1]), 700 * MS), "it has waited for 300 ms");
        let answer = questions.handle_result(later, 2, Ok((200, br#"{"allow":false}"#.to_vec())));
        assert_eq!(answer, Some((conn(1), Authorization::Refuse(CloseReason::Unauthorized))));
        let stats = questions.stats();
        assert_eq!((stats.allowed, stats.refused, stats.latency.count()), (1, 1, 2));
    }

    #[test]
    fn a_backend_that_lies_or_fails_lets_no_client_in_and_is_counted() {
        let (mut questions, now) = (questions(32, 32), Time::ZERO);
        let results: Vec<HttpResult> = vec![
            Ok((500, Vec::new())),
            Ok((302, br#"{"allow":true,"user":"ann"}"#.to_vec())),
            Ok((201, br#"{"allow":true,"user":"ann"}"#.to_vec())),
            Ok((200, b"<html>".to_vec())),
            Ok((200, br#"{"allow":"yes","user":"ann"}"#.to_vec())),
            Err(HttpFault::TooLong),
            Err(HttpFault::Timeout),
            Err(HttpFault::Failed("connection refused".into())),
        ];
        for (index, result) in results.into_iter().enumerate() {
            questions.ask(now, conn(index), Vec::new());
            let number = number(questions.poll_call(now));
            assert_eq!(questions.handle_result(now, number, result), Some(retry(index)));
        }
        let stats = questions.stats();
        assert_eq!((stats.failed, stats.invalid, stats.timeouts, stats.allowed), (4, 3, 1, 0));
        assert_eq!(questions.len(), 0);
    }

    #[test]
    fn a_full_queue_answers_at_once() {
        let (mut questions, now) = (questions(2, 1), Time::ZERO);
        assert_eq!((questions.ask(now, conn(0), Vec::new()), questions.ask(now, conn(1), Vec::new())), (None, None));
        assert_eq!(questions.ask(now, conn(2), Vec::new()), Some(retry(2).1));
        questions.poll_call(now).expect("a call");
        assert_eq!(questions.ask(now, conn(3), Vec::new()), None, "a call has made room");
        assert_eq!((questions.len(), questions.stats().overflowed), (3, 1));
    }

    #[test]
    fn a_question_is_given_up_after_its_timeout_and_answered_once() {
        let mut questions = questions(8, 1);
        let begin = Time::ZERO + 5 * MS;
        questions.ask(begin, conn(0), Vec::new());
        questions.ask(begin + MS, conn(1), Vec::new());
        let hanging = number(questions.poll_call(begin));
        assert_eq!(questions.poll_timeout(), Some(begin + 1001 * MS));
        assert_eq!(questions.expire(begin + 1000 * MS), []);
        assert_eq!(questions.expire(begin + 1001 * MS), [retry(1)], "it was never asked");
        assert_eq!(questions.poll_timeout(), Some(begin + 1250 * MS));
        assert_eq!(questions.expire(begin + 1250 * MS), [retry(0)]);
        let late =
            questions.handle_result(begin + 1300 * MS, hanging, Ok((200, br#"{"allow":true,"user":"a"}"#.to_vec())));
        assert_eq!((late, questions.poll_timeout(), questions.len()), (None, None, 0));
        assert_eq!((questions.stats().timeouts, questions.stats().allowed), (2, 0));
    }

    #[test]
    fn a_failure_can_refuse_for_good() {
        let config = Config { hook_on_failure: OnHookFailure::Refuse, max_hook_questions: 0, ..Config::default() };
        let answer = Questions::new(&config).ask(Time::ZERO, conn(0), Vec::new());
        assert_eq!(answer, Some(Authorization::Refuse(CloseReason::Unauthorized)));
    }
}
