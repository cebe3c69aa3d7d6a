//! The events of the server, and the calls of the hook: connects the engine, the rules in [`hook`](crate::hook) and the threads
//! that perform the calls.

use std::net::IpAddr;
use std::time::Duration;

use log::warn;
use serde::Serialize;

use super::error::Error;
use super::handle::Handle;
#[cfg(feature = "hook")]
use super::http_client::{self, HttpClient};
use super::http_report::HttpReport;
#[cfg(not(feature = "hook"))]
use super::no_http_client::{self as http_client, HttpClient};
use crate::admin::Exposition;
use crate::base::close::CloseReason;
use crate::base::event_kind::EventKind;
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::{App, Authorization};
use crate::engine::state::feed::FeedEvent;
use crate::engine::state::questions::{ConnectQuestion, Question, QuestionKind, TokenText};
use crate::events::log::EventLog;
use crate::hook::CallId;
use crate::hook::batches::Batches;
use crate::hook::keys::KeyFetches;
use crate::hook::questions::Questions;

/// The last events, and the hook if there is one.
pub(super) struct Events {
    log: EventLog,
    hook: Option<Hook>,
    /// Until when a server that stops waits for the backend to take the last events. Set when the drain is over.
    stop_by: Option<Time>,
}

/// The parts that call URLs.
struct Hook {
    batches: Option<Batches>,
    questions: Option<Questions>,
    keys: Option<KeyFetches>,
    timeout: Duration,
    client: HttpClient,
}

/// Checks the files of the hook, if there is one.
pub(super) fn check(config: &Config) -> Result<(), Error> {
    if config.hook.is_none() && config.jwt_jwks_url.is_none() {
        return Ok(());
    }
    http_client::check(config).map_err(|(option, problem)| Error::Hook(option, problem))
}

impl Events {
    /// Returns `None` if nobody can read events, and no URL is to be called. `boot` is a number that no other start has.
    pub(super) fn new<A: App>(engine: &mut Engine<A>, handle: &Handle, boot: u64) -> Result<Option<Events>, Error> {
        let config = engine.config().clone();
        let hook = Hook::new(&config, handle)?;
        if config.admin.is_none() && hook.is_none() {
            return Ok(None);
        }
        let node = config.node.as_ref().filter(|_| config.cluster.is_some()).map(|node| node.as_str().to_owned());
        let log = EventLog::new(boot, node, config.max_kept_events as usize);
        engine.start_feed();
        engine.answer_questions(config.hook.is_some(), config.jwt_jwks_url.is_some());
        let mut events = Events { log, hook, stop_by: None };
        events.push(Time::ZERO, &FeedEvent::of_server(EventKind::ServerStarted, engine.unix_millis()));
        Ok(Some(events))
    }

    /// Reads the secret and the certificates of the hook again. Without calls of URLs nothing happens.
    pub(super) fn reload(&mut self, config: &Config) -> Result<(), Error> {
        let reloaded = self.hook.as_mut().map_or(Ok(()), |hook| hook.client.reload(config));
        reloaded.map_err(|(option, problem)| Error::Hook(option, problem))
    }

    pub(super) fn log(&self) -> &EventLog {
        &self.log
    }

    fn push(&mut self, now: Time, event: &FeedEvent) {
        let gone = self.log.push(event);
        if let Some(batches) = self.hook.as_mut().and_then(|hook| hook.batches.as_mut()) {
            if let Some(entry) = gone {
                batches.note_overrun(&entry);
            }
            batches.note_events(now);
        }
    }

    /// Handles the result of a call.
    pub(super) fn handle_report<A: App>(&mut self, now: Time, engine: &mut Engine<A>, report: HttpReport) {
        let Some(hook) = &mut self.hook else { return };
        hook.client.handle_report(&report);
        hook.handle_result(now, engine, report);
    }

    /// At the end of a turn, when its input is in the journal: takes the events and the questions of the turn, gives up what has
    /// waited for too long, and begins calls.
    pub(super) fn end_turn<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        for event in engine.take_feed() {
            self.push(now, &event);
        }
        let Some(hook) = &mut self.hook else { return };
        for question in engine.take_questions() {
            hook.ask(now, engine, &self.log, question);
        }
        hook.expire(now, engine);
        hook.begin_calls(now, engine, &self.log);
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let hook = self.hook.as_ref()?;
        let times = [
            hook.questions.as_ref().and_then(Questions::poll_timeout),
            hook.batches.as_ref().and_then(Batches::poll_timeout),
            hook.keys.as_ref().and_then(KeyFetches::poll_timeout),
            self.stop_by,
        ];
        times.into_iter().flatten().min()
    }

    /// The drain is over. Returns whether the server may stop: the backend has taken all events, or had time enough.
    pub(super) fn may_stop<A: App>(&mut self, now: Time, engine: &mut Engine<A>) -> bool {
        let stop_by = match self.stop_by {
            Some(stop_by) => stop_by,
            None => {
                for event in engine.take_feed() {
                    self.push(now, &event);
                }
                self.push(now, &FeedEvent::of_server(EventKind::ServerStopped, engine.unix_millis()));
                // One call may be under way, and another one follows.
                let stop_by = now + self.hook.as_ref().map_or(Duration::ZERO, |hook| 2 * hook.timeout);
                self.stop_by = Some(stop_by);
                if let Some(hook) = &mut self.hook {
                    hook.batches.iter_mut().for_each(Batches::note_last);
                    hook.begin_calls(now, engine, &self.log);
                }
                stop_by
            }
        };
        let batches = self.hook.as_ref().and_then(|hook| hook.batches.as_ref());
        if batches.is_none_or(|batches| batches.is_complete(&self.log)) {
            return true;
        }
        if now >= stop_by {
            warn!("the hook has not taken the last events");
        }
        now >= stop_by
    }
}

impl Hook {
    fn new(config: &Config, handle: &Handle) -> Result<Option<Hook>, Error> {
        if config.hook.is_none() && config.jwt_jwks_url.is_none() {
            return Ok(None);
        }
        let client =
            HttpClient::new(config, handle.clone()).map_err(|(option, problem)| Error::Hook(option, problem))?;
        let keys = config.jwt_jwks_url.as_ref().map(|_| KeyFetches::new(config));
        keys.iter().for_each(KeyFetches::log_start);
        Ok(Some(Hook {
            batches: config.hook.as_ref().map(|_| Batches::new(config)),
            questions: config.hook.as_ref().map(|_| Questions::new(config)),
            keys,
            timeout: config.hook_timeout,
            client,
        }))
    }

    fn handle_result<A: App>(&mut self, now: Time, engine: &mut Engine<A>, report: HttpReport) {
        match report.of {
            CallId::Question(number) => {
                let answer = self.questions.as_mut().and_then(|it| it.handle_result(now, number, report.result));
                if let Some((conn, answer)) = answer {
                    engine.handle_authorized(now, conn, answer);
                }
            }
            CallId::Batch => self.batches.iter_mut().for_each(|it| it.handle_result(now, &report.result)),
            CallId::Keys => {
                let Some(keys) = &mut self.keys else { return };
                let fetched = keys.handle_result(now, report.result, |contents| engine.reload_keys(now, contents));
                for waiting in fetched.tokens {
                    if fetched.has_failed {
                        engine.handle_authorized(now, waiting.conn, come_back());
                    } else {
                        engine.authorize_again(now, waiting.conn, &waiting.token);
                    }
                }
            }
        }
    }

    fn ask<A: App>(&mut self, now: Time, engine: &mut Engine<A>, log: &EventLog, question: Question) {
        let Question { conn, address, of } = question;
        let awaits_answer = |conn| engine.awaits_answer(conn);
        let refused = match of {
            QuestionKind::Connect(question) => {
                let body = question_body(log, conn, address, &question);
                let questions = self.questions.as_mut().expect("only then questions are taken");
                questions.ask(now, (conn, address), body, awaits_answer)
            }
            QuestionKind::Key(TokenText(token)) => {
                let keys = self.keys.as_mut().expect("only then tokens are taken");
                keys.wait(now, (conn, address), token, awaits_answer).map(|conn| (conn, come_back()))
            }
        };
        if let Some((conn, refusal)) = refused {
            engine.handle_authorized(now, conn, refusal);
        }
    }

    fn expire<A: App>(&mut self, now: Time, engine: &mut Engine<A>) {
        let awaits_answer = |conn| engine.awaits_answer(conn);
        let given_up = self.questions.as_mut().map(|questions| questions.expire(now, awaits_answer));
        for (conn, answer) in given_up.into_iter().flatten() {
            engine.handle_authorized(now, conn, answer);
        }
    }

    fn begin_calls<A: App>(&mut self, now: Time, engine: &mut Engine<A>, log: &EventLog) {
        loop {
            let awaits_answer = |conn| engine.awaits_answer(conn);
            let questions = self.questions.as_mut().and_then(|questions| questions.poll_call(now, awaits_answer));
            let batch = || self.batches.as_mut().and_then(|batches| batches.poll_call(now, log));
            let keys = || self.keys.as_mut().and_then(|keys| keys.poll_call(now, awaits_answer));
            let Some(call) = questions.or_else(batch).or_else(keys) else { return };
            if let Err(report) = self.client.begin(call) {
                self.handle_result(now, engine, report);
            }
        }
    }
}

/// Asks a client to come back after a growing wait.
fn come_back() -> Authorization {
    Authorization::Refuse(CloseReason::AuthTimeout)
}

/// Returns the body of a question.
fn question_body(log: &EventLog, conn: ConnId, address: IpAddr, question: &ConnectQuestion) -> Vec<u8> {
    #[derive(Serialize)]
    struct QuestionObject<'a> {
        r#type: &'static str,
        boot: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<&'a str>,
        id: String,
        path: &'a str,
        lobby: Option<&'a str>,
        token: Option<&'a str>,
        user: Option<&'a str>,
        address: String,
        origin: Option<&'a str>,
        headers: std::collections::BTreeMap<&'a str, &'a str>,
    }
    let ConnectQuestion { path, lobby, token, user, origin, headers } = question;
    let object = QuestionObject {
        r#type: "connect",
        boot: log.boot(),
        node: log.node(),
        id: conn.to_string(),
        path,
        lobby: lobby.as_deref(),
        token: token.as_deref(),
        user: user.as_deref(),
        address: address.to_string(),
        origin: origin.as_deref(),
        headers: headers.iter().map(|(name, value)| (&**name, &**value)).collect(),
    };
    serde_json::to_vec(&object).expect("strings and maps of them always serialize")
}

impl Events {
    pub(super) fn write_metrics(&self, metrics: &mut Exposition) {
        metrics.counter("lobbyd_events_total", "Events of seats, lobbies and the server.", self.log.last() as f64);
        let Some(hook) = &self.hook else { return };
        if let Some(questions) = &hook.questions {
            let stats = questions.stats();
            let help = "Questions whether a client may connect, by their result.";
            let results = [
                ("allowed", stats.allowed),
                ("refused", stats.refused),
                ("timeout", stats.timeouts),
                ("failed", stats.failed),
                ("invalid", stats.invalid),
                ("overflow", stats.overflowed),
                ("gone", stats.gone),
            ];
            metrics.counters("lobbyd_hook_questions_total", help, "result", &results);
            let help = "Questions that wait for the hook.";
            metrics.gauge("lobbyd_hook_questions_pending", help, questions.len() as f64);
            metrics.histogram("lobbyd_hook_question_seconds", "Duration of calls with a question.", &stats.latency);
        }
        if let Some(batches) = &hook.batches {
            let stats = batches.stats();
            let results = [("delivered", stats.delivered), ("lost", stats.lost)];
            metrics.counters("lobbyd_hook_events_total", "Events for the hook, by their end.", "result", &results);
            metrics.gauge(
                "lobbyd_hook_events_pending",
                "Events that wait for the hook.",
                batches.waiting(&self.log) as f64,
            );
            metrics.counter("lobbyd_hook_batches_total", "Calls with events that succeeded.", stats.batches as f64);
            metrics.counter("lobbyd_hook_retries_total", "Calls with events that were repeated.", stats.retries as f64);
            metrics.histogram("lobbyd_hook_batch_seconds", "Duration of calls with events.", &stats.latency);
        }
        if let Some(keys) = &hook.keys {
            let stats = keys.stats();
            let results = [("fetched", stats.fetched), ("failed", stats.failed)];
            metrics.counters("lobbyd_jwks_fetches_total", "Fetches of the keys of tokens.", "result", &results);
            let help = "Tokens with an unknown key that wait for a fetch.";
            metrics.gauge("lobbyd_jwks_tokens_pending", help, keys.waiting() as f64);
            let help = "Tokens with an unknown key that could not wait for a fetch.";
            metrics.counter("lobbyd_jwks_tokens_turned_away_total", help, stats.turned_away as f64);
        }
    }
}
