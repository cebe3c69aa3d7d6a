use super::*;
use crate::hook::HttpFault;

const MS: Duration = Duration::from_millis(1);

fn conn(index: usize) -> ConnId {
    ConnId::new(index, 1).expect("in range")
}

fn questions(max_waiting: u32, max_asked: u32) -> Questions {
    Questions::new(&Config { max_hook_questions: max_waiting, max_hook_calls: max_asked, ..Config::default() })
}

fn address(network: u8) -> IpAddr {
    [192, 0, 2, network].into()
}

impl Questions {
    /// Asks about a client of the first network, which stays.
    fn ask_here(&mut self, now: Time, index: usize, body: Vec<u8>) -> Option<(ConnId, Authorization)> {
        self.ask(now, (conn(index), address(1)), body, |_| true)
    }

    fn next(&mut self, now: Time) -> Option<HttpCall> {
        self.poll_call(now, |_| true)
    }

    fn give_up(&mut self, now: Time) -> Vec<(ConnId, Authorization)> {
        self.expire(now, |_| true)
    }
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
    (0..3).for_each(|index| assert_eq!(questions.ask_here(now, index, vec![index as u8]), None));
    let first = questions.next(now).expect("a call");
    assert_eq!((first.body, first.timeout), (Some(vec![0]), 1000 * MS));
    assert_eq!(questions.next(now), None, "one call at a time");
    let later = now + 300 * MS;
    let answer = questions.handle_result(later, 1, Ok((200, br#"{"allow":true,"user":"ann"}"#.to_vec())));
    assert_eq!(answer, Some((conn(0), Authorization::allow("ann"))));
    let second = questions.next(later).expect("a call");
    assert_eq!((second.body, second.timeout), (Some(vec![1]), 1000 * MS), "its wait costs it nothing");
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
        questions.ask_here(now, index, Vec::new());
        let number = number(questions.next(now));
        assert_eq!(questions.handle_result(now, number, result), Some(retry(index)));
    }
    let stats = questions.stats();
    assert_eq!((stats.failed, stats.invalid, stats.timeouts, stats.allowed), (4, 3, 1, 0));
    assert_eq!(questions.len(), 0);
}

#[test]
fn a_full_queue_answers_at_once() {
    let (mut questions, now) = (questions(2, 1), Time::ZERO);
    assert_eq!((questions.ask_here(now, 0, Vec::new()), questions.ask_here(now, 1, Vec::new())), (None, None));
    assert_eq!(questions.ask_here(now, 2, Vec::new()), Some(retry(2)));
    questions.next(now).expect("a call");
    assert_eq!(questions.ask_here(now, 3, Vec::new()), None, "a call has made room");
    assert_eq!((questions.len(), questions.stats().overflowed), (3, 1));
}

#[test]
fn a_question_is_given_up_after_its_timeout_and_answered_once() {
    let mut questions = questions(8, 1);
    let begin = Time::ZERO + 5 * MS;
    (0..3).for_each(|index| assert_eq!(questions.ask_here(begin, index, Vec::new()), None));
    number(questions.next(begin));
    assert_eq!(questions.poll_timeout(), Some(begin + 1000 * MS));
    assert_eq!(questions.handle_result(begin + 900 * MS, 1, Err(HttpFault::Timeout)), Some(retry(0)));
    let hanging = number(questions.next(begin + 900 * MS));
    assert_eq!(questions.give_up(begin + 999 * MS), []);
    assert_eq!(questions.give_up(begin + 1000 * MS), [retry(1)], "it was never asked");
    assert_eq!(questions.poll_timeout(), Some(begin + 2150 * MS), "a call that began late has the whole timeout");
    assert_eq!(questions.give_up(begin + 2149 * MS), []);
    assert_eq!(questions.give_up(begin + 2150 * MS), [retry(2)]);
    let late = questions.handle_result(begin + 2200 * MS, hanging, Ok((200, br#"{"allow":true,"user":"a"}"#.to_vec())));
    assert_eq!((late, questions.poll_timeout(), questions.len()), (None, None, 0));
    assert_eq!((questions.stats().timeouts, questions.stats().allowed), (3, 0));
}

#[test]
fn the_newest_question_is_asked_first_while_the_oldest_has_waited_for_half_of_the_timeout() {
    let (mut questions, now) = (questions(8, 8), Time::ZERO);
    let body = |call: Option<HttpCall>| call.expect("a call").body.expect("a POST");
    for index in 0..3 {
        assert_eq!(questions.ask_here(now + 200 * index * MS, 0, vec![index as u8]), None);
    }
    assert_eq!(body(questions.next(now + 500 * MS)), [0]);
    assert_eq!(questions.ask_here(now + 600 * MS, 0, vec![3]), None);
    assert_eq!(body(questions.next(now + 700 * MS)), [1]);
    assert_eq!(body(questions.next(now + 901 * MS)), [3]);
    assert_eq!(body(questions.next(now + 901 * MS)), [2]);
}

/// A backend with some workers, each of which takes the same time for a call, and goes on when its caller has given up.
struct ModelBackend {
    /// When each worker is free.
    free_at: Vec<Time>,
    span: Duration,
    /// The calls under way: when each one has a result, its number, and whether it is an answer.
    results: Vec<(Time, u64, bool)>,
}

impl ModelBackend {
    fn begin(&mut self, now: Time, call: &HttpCall) {
        let CallId::Question(number) = call.of else { panic!("{call:?}") };
        let worker = self.free_at.iter_mut().min().expect("a worker");
        *worker = now.max(*worker) + self.span;
        let is_in_time = *worker <= now + call.timeout;
        self.results.push((if is_in_time { *worker } else { now + call.timeout }, number, is_in_time));
    }
}

#[test]
fn a_backend_that_is_too_slow_for_all_answers_as_many_as_it_can() {
    let mut questions = questions(256, 8);
    let mut backend = ModelBackend { free_at: vec![Time::ZERO; 8], span: 50 * MS, results: Vec::new() };
    let (mut asked, mut answered, mut longest) = (Vec::new(), 0, Duration::ZERO);
    // 200 clients a second for 10 s; the backend can answer 160.
    for millis in 0..10_000 {
        let now = Time::ZERO + millis * MS;
        if millis % 5 == 0 {
            assert_eq!(questions.ask_here(now, asked.len(), Vec::new()), None, "the queue is never full");
            asked.push(now);
        }
        let (due, rest): (Vec<_>, _) = backend.results.drain(..).partition(|(at, ..)| *at <= now);
        backend.results = rest;
        let results = due.into_iter().filter_map(|(_, number, is_answer)| {
            let answer = || (200, br#"{"allow":true,"user":"ann"}"#.to_vec());
            questions.handle_result(now, number, if is_answer { Ok(answer()) } else { Err(HttpFault::Timeout) })
        });
        for (conn, answer) in results.collect::<Vec<_>>().into_iter().chain(questions.give_up(now)) {
            answered += 1;
            if matches!(answer, Authorization::Allow(_)) {
                longest = longest.max(now - asked[conn.index()]);
            }
        }
        while let Some(call) = questions.next(now) {
            backend.begin(now, &call);
        }
    }
    let stats = questions.stats();
    assert!(stats.allowed >= 1550, "{stats:?}");
    assert_eq!(stats.latency.count(), stats.allowed, "no call is given up");
    assert_eq!(answered + questions.len(), 2000);
    assert!(longest <= 600 * MS, "an answer comes soon, after {longest:?}");
}

#[test]
fn a_failure_can_refuse_for_good() {
    let config = Config { hook_on_failure: OnHookFailure::Refuse, max_hook_questions: 0, ..Config::default() };
    let answer = Questions::new(&config).ask_here(Time::ZERO, 0, Vec::new());
    assert_eq!(answer, Some((conn(0), Authorization::Refuse(CloseReason::Unauthorized))));
}

#[test]
fn questions_of_clients_that_have_gone_are_neither_asked_nor_answered() {
    let (mut questions, now) = (questions(4, 1), Time::ZERO);
    (0..4).for_each(|index| assert_eq!(questions.ask_here(now, index, vec![index as u8]), None));
    let call = questions.poll_call(now, |waiting| waiting != conn(0)).expect("a call");
    assert_eq!(call.body, Some(vec![1]), "the first client has gone");
    // Those that have gone make room.
    (4..6).for_each(|index| assert_eq!(questions.ask_here(now, index, Vec::new()), None));
    let refused = questions.ask(now, (conn(6), address(1)), Vec::new(), |waiting| waiting != conn(3));
    assert_eq!((refused, questions.stats().gone), (None, 2));
    let given_up = questions.expire(now + 1000 * MS, |waiting| waiting == conn(5));
    assert_eq!((given_up, questions.len()), (vec![retry(5)], 1));
    let stats = questions.stats();
    assert_eq!((stats.gone, stats.timeouts, stats.overflowed), (5, 1, 0));
}

#[test]
fn when_the_queue_is_full_the_network_with_most_questions_gives_way() {
    let (mut questions, now) = (questions(6, 1), Time::ZERO);
    let mut ask = |index, network| questions.ask(now, (conn(index), address(network)), Vec::new(), |_| true);
    assert_eq!((ask(0, 7), ask(1, 8)), (None, None));
    (2..6).for_each(|index| assert_eq!(ask(index, 9), None));
    assert_eq!(ask(6, 9), Some(retry(6)), "a flood displaces no other client");
    assert_eq!((ask(7, 5), ask(8, 6)), (Some(retry(2)), Some(retry(3))), "the oldest of the flood");
    assert_eq!((ask(9, 4), ask(10, 3)), (Some(retry(4)), Some(retry(10))), "no network has more than one");
    assert_eq!(questions.stats().overflowed, 5);
}
