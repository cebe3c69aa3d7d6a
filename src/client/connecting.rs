//! Attempts, losses and the end: how a session comes back.

use std::time::Duration;

use super::action::{Action, Attempt, AttemptId, Outgoing};
use super::address::Origin;
use super::backoff::Ending;
use super::event::{Closed, Event, State};
use super::limits::MAX_VIEW_WEIGHT;
use super::list::Lobbies;
use super::session::{Link, Session};
use super::timers::Timer;
use crate::base::time::Time;

/// Time for the welcome, and then for the list. The server itself allows 10 s for authorization.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for the answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The backoff begins anew after so long a connection.
const STABLE: Duration = Duration::from_secs(5);

impl Session {
    /// Starts to connect. Does nothing if it has already.
    pub fn connect(&mut self, now: Time) {
        if self.state == State::Idle {
            self.open(now);
        }
    }

    /// Gives the seat up, for good. Without a connection the seat is kept until its time is over. Of the events that were not
    /// polled, those about the lobby and its messages are dropped.
    pub fn leave(&mut self) {
        if self.state == State::Closed {
            return;
        }
        self.say(Outgoing::Text(r#"{"type":"leave"}"#.to_owned()));
        self.drop_link(Some(Some(1000)));
        self.events.forget_lobby();
        self.close(Ending::new(1000, "left").closed(None));
    }

    /// The application came to the front, or the device woke up. With `is_online`: the network is back.
    ///
    /// A connection is probed with a ping, because a dead one looks like a silent one. A session that waits connects at once
    /// if the network is back, but not before the time that the server has asked for.
    pub fn wake(&mut self, now: Time, is_online: bool) {
        if self.state != State::Waiting {
            self.probe(now);
        } else if is_online {
            self.timers.set(Timer::Retry, now + self.backoff.rest(now));
        }
    }

    pub(super) fn open(&mut self, now: Time) {
        let id = self.next_link();
        self.timers.set(Timer::Connect, now + WELCOME_TIMEOUT);
        self.become_state(State::Connecting, None);
        let mut address = self.address.clone().with(&self.seat_fields());
        if let Some(home) = &self.home {
            address.origin = home.clone();
        }
        if let Some(code) = self.code() {
            address = address.in_lobby(code);
        }
        self.actions.push_back(Action::Connect(Attempt { id, address }));
    }

    /// The attempt has brought no welcome, or no list after it.
    pub(super) fn not_opened(&mut self, now: Time) {
        let is_welcome = self.link.as_ref().is_some_and(|link| link.is_welcome);
        self.give_up(now, if is_welcome { "no_list" } else { "no_welcome" });
    }

    /// Gives a connection up that has not ended. It is closed without a code: 1000 would give the seat up, too.
    pub(super) fn give_up(&mut self, now: Time, reason: &str) {
        let link = self.drop_link(Some(None));
        self.come_back(now, link, Ending::new(1006, reason), true);
    }

    /// The connection has ended. `may_have_asked`: the server may still read the request of an attempt.
    pub(super) fn lost(&mut self, now: Time, ending: Ending, may_have_asked: bool) {
        let link = self.drop_link(None);
        self.come_back(now, link, ending, may_have_asked);
    }

    fn come_back(&mut self, now: Time, link: Option<Link>, ending: Ending, may_have_asked: bool) {
        let Some(link) = link else { return };
        let ending = link.goodbye.unwrap_or(ending);
        if ending.code == 1006 && may_have_asked && !link.is_welcome {
            self.backoff.leave_stray();
        }
        // If the server of the lobby cannot be reached, the first address knows where the lobby is then.
        let known = self.home.take().filter(|_| link.is_welcome);
        self.home = match &ending.url {
            Some(url) => Origin::split(url).ok().map(|(origin, _)| origin),
            None => known,
        };
        let Some(wait) = self.backoff.after(now, &ending, self.position.is_some(), &mut self.draw) else {
            return self.close(ending.closed(None));
        };
        self.timers.set(Timer::Retry, now + wait);
        self.become_state(State::Waiting, Some(ending.closed(Some(wait))));
    }

    /// Leaves the current connection or attempt, if there is one, and closes it: `Some(code)`. What was not polled of it is
    /// not sent, except before a close with a code.
    fn drop_link(&mut self, close: Option<Option<u16>>) -> Option<Link> {
        for timer in [Timer::Connect, Timer::Stable, Timer::Probe, Timer::Heartbeat, Timer::Retry] {
            self.timers.stop(timer);
        }
        let link = self.link.take()?;
        if !matches!(close, Some(Some(_))) {
            self.actions.retain(|action| !matches!(action, Action::Send(id, _) if *id == link.id));
        }
        self.actions.extend(close.map(|code| Action::Close(link.id, code)));
        Some(link)
    }

    pub(super) fn close(&mut self, why: Closed) {
        for id in self.requests.ids() {
            self.settle(id, Err(why.error()));
        }
        self.timers.stop_all();
        self.become_state(State::Closed, Some(why));
    }

    pub(super) fn become_state(&mut self, state: State, why: Option<Closed>) {
        if self.state != state {
            self.state = state;
            self.why.clone_from(&why);
            self.events.push_at_once(Event::Connection { state, why });
        }
    }

    // ---- signs of life ----

    /// A dead connection looks like a silent one, until something is sent that must be answered.
    pub(super) fn probe(&mut self, now: Time) {
        self.ask(now, PROBE_TIMEOUT);
    }

    /// Another question does not postpone the end of the one before.
    fn ask(&mut self, now: Time, timeout: Duration) {
        let due = now + timeout;
        if self.timers.due(Timer::Probe).is_none_or(|earlier| earlier > due) && self.ping(now) {
            self.timers.set(Timer::Probe, due);
        }
    }

    /// A question has no answer. It may have arrived, if there is no room for events: then a driver reads nothing.
    pub(super) fn unanswered(&mut self, now: Time) {
        if self.has_room() {
            self.give_up(now, "");
        } else {
            self.timers.set(Timer::Probe, now + PROBE_TIMEOUT);
        }
    }

    /// Asks if nothing has arrived for some time.
    pub(super) fn beat(&mut self, now: Time) {
        let Some(heartbeat) = self.heartbeat() else { return };
        let due = self.last_heard + heartbeat;
        if due > now {
            return self.timers.set(Timer::Heartbeat, due);
        }
        self.ask(now, heartbeat / 2);
        self.timers.set(Timer::Heartbeat, now + heartbeat);
    }

    fn heartbeat(&self) -> Option<Duration> {
        self.options.heartbeat.filter(|heartbeat| !heartbeat.is_zero())
    }

    pub(super) fn heard(&mut self, now: Time) {
        self.last_heard = now;
        self.timers.stop(Timer::Probe);
    }

    /// Its `ref` is a string, because integers are the numbers of requests.
    pub(super) fn ping(&mut self, now: Time) -> bool {
        self.say(Outgoing::Text(format!(r#"{{"type":"ping","ref":"{}"}}"#, now.as_micros())))
    }

    /// The server has let the client in. Its list follows.
    pub(super) fn connected(&mut self, now: Time) {
        self.timers.set(Timer::Connect, now + WELCOME_TIMEOUT);
        self.timers.set(Timer::Stable, now + STABLE);
        if let Some(heartbeat) = self.heartbeat() {
            self.timers.set(Timer::Heartbeat, now + heartbeat);
        }
    }

    // ---- bounds ----

    /// Whether a message of the current connection may be read. If the events are not polled, the connection is given up: the
    /// server has the message when the client comes back.
    pub(super) fn may_read(&mut self, now: Time, id: AttemptId, bytes: usize) -> bool {
        if !self.is_current(id) {
            return false;
        }
        self.heard(now);
        if bytes > self.options.max_frame_bytes {
            self.refuse_server();
            return false;
        }
        if self.events.is_full() {
            self.has_gap |= self.events.drop_early();
            self.give_up(now, "overflow");
            return false;
        }
        true
    }

    /// Whatever a server sends, what is known of the lobby has a bound.
    pub(super) fn check_memory(&mut self) {
        if self.view.weight() + self.lobbies.as_ref().map_or(0, Lobbies::weight) > MAX_VIEW_WEIGHT {
            self.refuse_server();
        }
    }

    fn refuse_server(&mut self) {
        self.drop_link(Some(None));
        self.close(Ending::new(1009, "too_large").closed(None));
    }
}
