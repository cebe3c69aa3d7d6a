//! Ticks of the game, and members' messages, which wait for them.

use super::Engine;
use super::app::App;
use super::context::Context;
use super::core::Core;
use super::member::{Member, Message, Protocol};
use super::observer::ObservedEvent;
use super::state::events::AppEvent;
use super::state::inbox::QueuedMessage;
use super::state::ticks::Ticks;
use crate::base::close::Reject;
use crate::base::id::{ConnId, ConnKey};
use crate::protocol;

/// What becomes of a message for the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It is to be delivered now.
    Now,
    /// It waits for the next tick.
    Queued,
    /// It was refused and answered.
    Refused,
}

/// The `retry_after_ms` of a refusal while the clock is paused, when the time of the next tick is unknown.
const PAUSED_RETRY_MS: u64 = 1000;

impl<A: App> Engine<A> {
    /// Runs the due ticks. Before each tick it delivers the messages that were received since the previous one.
    pub(super) fn run_ticks(&mut self) {
        let mut has_ticked = false;
        loop {
            if self.core.egress.wants_flush() {
                return;
            }
            if let Some((conn, message)) = self.core.inboxes.take_due() {
                let member = self.core.member(conn.key()).expect("only members have an inbox");
                self.serve_queued(&member, &message);
            } else if let Some(tick) = self.core.ticks.as_mut().and_then(Ticks::take_under_way) {
                self.core.observer.note(self.core.clock.now(), || ObservedEvent::Tick(tick));
                self.app.on_tick(&mut Context { core: &mut self.core }, &tick);
                has_ticked = true;
            } else if !self.core.begin_tick() {
                break;
            }
            self.dispatch_events();
        }
        // Presence is flushed before output is uncorked: joins and leaves belong to this tick.
        if has_ticked {
            self.flush_presence_and_events();
            self.core.egress.uncork_all();
        }
    }

    /// Delivers the queued messages of all members that the next batch closes. The application may close some of them
    /// meanwhile; the batch then closes other members in their stead, so their messages are delivered too.
    pub(super) fn drain_inboxes_of_batch(&mut self) {
        if self.core.close_queue.is_empty() {
            return;
        }
        let mut drained = Vec::new();
        loop {
            let batch = self.core.next_batch();
            if batch == drained {
                break;
            }
            batch.iter().for_each(|&conn| self.drain_inbox(conn));
            drained = batch;
        }
    }

    /// Delivers the queued messages of a member, as long as it has its seat.
    pub(super) fn drain_inbox(&mut self, conn: ConnId) {
        while self.core.slot(conn).is_some_and(|slot| slot.seat().is_some())
            && let Some(message) = self.core.inboxes.take_of(conn)
        {
            let member = self.core.member(conn.key()).expect("the connection has a seat");
            self.serve_queued(&member, &message);
            self.dispatch_events();
        }
    }

    /// Serves a queued message. Its sender may have left its seat.
    pub(super) fn serve_queued(&mut self, from: &Member, message: &QueuedMessage) {
        match (A::PROTOCOL, message) {
            (Protocol::Json, QueuedMessage::Text(text)) => self.serve_queued_request(from, text, false),
            (_, QueuedMessage::Control(text)) => self.serve_queued_request(from, text, true),
            (Protocol::Raw, QueuedMessage::Text(text)) => drop(self.deliver(from, Message::Text(text))),
            (_, QueuedMessage::Binary(bytes)) => drop(self.deliver(from, Message::Binary(bytes))),
        }
    }
}

impl Core {
    /// Charges a message for the application and, with ticks on, puts it into the connection's inbox.
    ///
    /// A message that does not fit into the inbox is refused. It takes no tokens and counts as no strike, because the
    /// reason is the tick, not the sender's rate. Otherwise a member that continues to send while an operator pauses
    /// the clock would be closed.
    pub(super) fn admit_message(
        &mut self,
        key: ConnKey,
        reference: Option<&str>,
        to_queued: impl FnOnce() -> QueuedMessage,
    ) -> Admitted {
        let before = self.ticks.is_some().then(|| self.message_buckets(key));
        if let Err(denied) = self.charge_message(key) {
            self.rate_limited(key, reference, denied);
            return Admitted::Refused;
        }
        let Some(before) = before else { return Admitted::Now };
        let (conn, message) = (self.conns[key].id, to_queued());
        let why = if !self.inboxes.has_room(conn, message.cost()) {
            "messages that wait for the next tick exceed max_inbox_bytes"
        } else if !self.may_wait(key, reference) {
            "more than max_unanswered requests wait for the next tick"
        } else {
            self.inboxes.put(conn, message);
            return Admitted::Queued;
        };
        self.restore_message_buckets(key, before);
        self.inbox_full(key, reference, why);
        Admitted::Refused
    }

    /// Refuses a message that does not fit into the inbox, with the time until the next tick as `retry_after_ms`.
    fn inbox_full(&mut self, key: ConnKey, reference: Option<&str>, why: &str) {
        self.counters.count_reject(Reject::RateLimited);
        let ticks = self.ticks.as_mut().expect("messages wait only with ticks on");
        ticks.refused += 1;
        let wait = ticks.wait(self.clock.now());
        if self.should_report_refusal(key, reference) {
            let millis = wait.map_or(PAUSED_RETRY_MS, |wait| (wait.as_micros().div_ceil(1000) as u64).max(1));
            protocol::write_rate_limited(&mut self.buffers.text, reference, why, millis);
            self.reply(key);
        }
    }

    /// Queues the event that delivers the messages in a member's inbox. Its seat is free or taken over already; the
    /// event precedes the member's leave, if there is one.
    pub(super) fn note_undelivered(&mut self, member: &Member) {
        if self.inboxes.has_messages_of(member.conn) {
            self.events.push_back(AppEvent::Undelivered(member.clone()));
        }
    }

    /// Begins the next tick, if one is due. Returns whether one has begun.
    pub(super) fn begin_tick(&mut self) -> bool {
        let begun = self.ticks.as_mut().is_some_and(|ticks| ticks.begin(self.clock.now()));
        if begun {
            self.inboxes.begin_tick();
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::time::Time;
    use crate::config::Config;
    use crate::engine::driver::Start;
    use crate::engine::member::{Authorization, Exclude};
    use crate::engine::state::ticks::Tick;
    use crate::sim::{MemorySockets, wire};
    use crate::ws::frame::Frame;
    use crate::ws::handshake::Request;

    /// Logs messages and ticks. The message `flood` sends more than the queues have room for.
    #[derive(Default)]
    struct Flooding(Vec<String>);

    impl App for Flooding {
        const PROTOCOL: Protocol = Protocol::Raw;

        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            Authorization::token_is_user(request)
        }

        fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
            let Message::Text(text) = message else { return };
            self.0.push(format!("{}:{text}", from.user()));
            if text == "flood" {
                for _ in 0..100 {
                    cx.broadcast_to_lobby(from.lobby(), Exclude::None, &Frame::text(&"x".repeat(1000)));
                }
            }
        }

        fn on_tick(&mut self, _: &mut Context<'_>, tick: &Tick) {
            self.0.push(format!("tick {}", tick.number()));
        }
    }

    /// A message received while a tick is interrupted waits for the next tick, so that the order of connections is
    /// kept.
    #[test]
    fn messages_received_during_a_tick_wait_for_the_next() {
        let config = Config { tick_hz: Some(10), ..Config::default() };
        let mut engine = Engine::new(
            config.check().expect("the configuration is valid"),
            Start { unix_micros: 0, seed: 1 },
            Flooding::default(),
        );
        let mut sockets = MemorySockets::default();
        let [ann, bob] = ["ann", "bob"].map(|user| {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).unwrap();
            engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]));
            conn
        });
        engine.handle_bytes(Time::ZERO, ann, &wire::text("flood"));
        engine.handle_bytes(Time::ZERO, bob, &wire::text("b1"));
        engine.end_turn(Time::ZERO, &mut sockets).unwrap();
        assert_eq!(engine.app().0, [""; 0]);

        // The steps of end_turn(), because a driver cannot report input in the middle of a tick.
        let now = Time::ZERO + Duration::from_millis(100);
        engine.expire(now);
        assert!(engine.wants_flush());
        assert_eq!(engine.poll_timeout(), Some(now), "there is more to do");
        engine.handle_bytes(now, ann, &wire::text("a2"));
        engine.end_turn(now, &mut sockets).unwrap();
        assert_eq!(std::mem::take(&mut engine.app_mut().0), ["ann:flood", "bob:b1", "tick 1"]);
        engine.end_turn(now + Duration::from_millis(100), &mut sockets).unwrap();
        assert_eq!(engine.app().0, ["ann:a2", "tick 2"]);
    }
}
