//! The work of a connection's timer: pings, health checks and timeouts.

use std::time::Duration;

use super::core::Core;
use super::member::Protocol;
use super::posts::refusal_of;
use super::state::conn::ConnState;
use super::state::events::AppEvent;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, ConnKey};
use crate::base::time::Time;
use crate::egress::Priority;
use crate::http::PlainResponse;
use crate::ws::frame::Outgoing;
use crate::ws::handshake::Acceptance;

impl Core {
    /// Handles a connection's timer. The deadline may have moved since the timer was set.
    pub(super) fn handle_timer(&mut self, key: ConnKey) {
        let Some(slot) = self.conns.by_key(key) else { return };
        match (&slot.state, slot.close_kind) {
            (ConnState::Closed, _) => return,
            (ConnState::Seated(_) | ConnState::Listing(_), _) => self.keep_alive(key),
            (_, _) if self.clock.own() < slot.deadline => {}
            (_, Some(_)) if self.must_flush(slot.id) => self.set_stage_deadline(key, self.config.close_timeout),
            (_, Some(_)) if slot.wire.is_closing() => {
                // The peer's close frame did not come in time.
                self.conns[key].wire.linger();
                self.set_stage_deadline(key, self.config.linger_timeout);
                self.egress.mark_dirty(key);
            }
            (_, Some(_)) => return self.mark_closed(key),
            (_, None) if slot.wire.is_deciding() => self.close_for_auth_timeout(key),
            // No request is under way, so there is nothing to answer.
            (_, None) if slot.wire.is_idle() => return self.abort(key, CloseReason::HttpRefused),
            (_, None) if slot.wire.is_reading_body() => {
                self.refuse_post(key, PlainResponse::new(408, "the body of the request took too long"));
            }
            (_, None) => {
                let refusal = PlainResponse::new(408, "the request head took too long");
                self.close_with_http(key, CloseReason::HandshakeTimeout, &refusal);
            }
        }
        self.rearm(key);
    }

    /// Authorization took too long. The upgrade is accepted, so that a page can read the close reason.
    fn close_for_auth_timeout(&mut self, key: ConnKey) {
        match self.conns[key].wire.pending_request() {
            Some(Acceptance::Post(_)) => {
                self.close_with_http(key, CloseReason::AuthTimeout, &refusal_of(CloseReason::AuthTimeout));
            }
            _ => {
                self.accept_pending(key);
                self.begin_close(key, CloseReason::AuthTimeout);
            }
        }
    }

    fn keep_alive(&mut self, key: ConnKey) {
        let now = self.clock.own();
        let slot = &mut self.conns[key];
        if now >= slot.deadline {
            let reason = if slot.ends_at_max_lifetime { CloseReason::MaxLifetime } else { CloseReason::TokenExpired };
            return self.begin_close(key, reason);
        }
        let expired = slot.health.expire_checks(now);
        self.report_unanswered(key, expired);
        let slot = &mut self.conns[key];
        if now >= slot.health.next_check()
            && let Some(interval) = self.config.health_interval
        {
            // Counted from the time at which it was due, so that checks do not drift; after a long pause, counted from
            // now.
            let next = slot.health.next_check() + interval;
            slot.health.schedule_check(if next > now { next } else { now + interval });
            self.begin_check(key, self.config.health_timeout);
        }
        let slot = &mut self.conns[key];
        if slot.close_kind.is_some()
            || now < slot.health.path_deadline(self.config.ping_interval, self.config.pong_timeout)
        {
            return;
        }
        if slot.health.is_pinged() {
            self.begin_close(key, CloseReason::Stale);
        } else {
            self.ping(key);
        }
    }

    /// A login of `user` was refused, because the user holds as many seats as it may. Pings the seat that was silent
    /// longest: its connection may have failed without an end of the stream. Returns the wait after which the outcome is
    /// known; `None` if there is no seat, or if it has proved to be alive since another login had it pinged.
    pub(super) fn ping_for_login(&mut self, user: &str) -> Option<Duration> {
        let timeout = self.config.pong_timeout;
        let conns = self.directory.seats_of(user).iter().filter_map(|&seat| self.directory.conn_of(seat));
        let key = conns.map(ConnId::key).min_by_key(|&key| self.conns[key].health.last_heard())?;
        let now = self.clock.own();
        if self.conns[key].health.needs_login_ping(now, timeout * 2) {
            self.ping(key);
            self.rearm(key);
        }
        let slot = &self.conns[key];
        // The ping itself may have exceeded the bound of the outbox, which frees the seat.
        let known_at = match slot.seat() {
            Some(_) if !slot.health.is_pinged() => return None,
            Some(_) => slot.health.path_deadline(self.config.ping_interval, timeout),
            None => now,
        };
        // The timer may be late by a granule.
        Some((known_at - now) + self.config.wheel_granule * 2)
    }

    fn ping(&mut self, key: ConnKey) {
        let now = self.clock.own();
        self.conns[key].health.pinged(now);
        self.counters.pings += 1;
        let payload = self.ping_payload(key);
        self.send(key, Outgoing::Ping(payload.as_ref().map_or(&[], |payload| &payload[..])), Priority::Urgent);
    }

    /// Reports `count` health checks of a member as unanswered.
    fn report_unanswered(&mut self, key: ConnKey, count: usize) {
        self.counters.health_checks_failed += count as u64;
        for _ in 0..count {
            let member = self.member(key).expect("only members have health checks");
            self.events.push_back(AppEvent::Health(member, None));
        }
    }

    /// Starts a health check of a member's page. Returns its nonce.
    pub(super) fn begin_check(&mut self, key: ConnKey, timeout: Duration) -> u64 {
        let stamp = self.unix_millis();
        let now = self.clock.own();
        let slot = &mut self.conns[key];
        let nonce = slot.health.begin_check(now, timeout, stamp);
        slot.health.trim_checks(now, self.config.max_health_pings as usize);
        self.counters.health_checks += 1;
        match self.protocol {
            Protocol::Json => self.health_ping(key, nonce),
            Protocol::Raw => {
                self.send(key, Outgoing::Ping(&nonce.to_be_bytes()), Priority::Urgent);
            }
        }
        nonce
    }

    /// Handles an RFC 6455 pong. With a raw protocol it answers health checks too.
    pub(super) fn handle_pong(&mut self, key: ConnKey, payload: &[u8]) {
        if let Err(denied) = self.charge_control(key) {
            return self.rate_limited(key, None, denied);
        }
        match (self.protocol, payload.try_into()) {
            (Protocol::Raw, Ok(nonce)) => drop(self.answer_check(key, u64::from_be_bytes(nonce))),
            (Protocol::Raw, Err(_)) => {}
            (Protocol::Json, _) => self.note_session_pong(key, payload),
        }
    }

    pub(super) fn answer_check(&mut self, key: ConnKey, nonce: u64) -> Option<Duration> {
        let slot = &self.conns[key];
        slot.seat()?;
        let conn = slot.id;
        // Sockets are read before timers expire, except for the connections that the driver listed as unread.
        let heard_until = if self.is_deferred(conn) { Time::ZERO } else { self.clock.last_timeout };
        let now = self.clock.own();
        let latency = self.conns[key].health.answer(now, nonce, heard_until)?;
        self.latencies.health_checks.record(latency.as_micros() as u64);
        let member = self.member(key)?;
        self.pings.answered(member.conn, nonce, latency);
        self.events.push_back(AppEvent::Health(member, Some(latency)));
        Some(latency)
    }

    /// Handles a ping: queues its pong. Pongs count against the bound like all other output.
    pub(super) fn handle_ping(&mut self, key: ConnKey, payload: &[u8]) {
        self.send_unbounded(key, Outgoing::Pong(payload), Priority::Urgent);
        if let Err(denied) = self.charge_control(key) {
            self.rate_limited(key, None, denied);
        }
        if self.egress.queued_size(key).cost > self.config.max_outbound_bytes.0 {
            self.close_slow_consumer(key);
        }
    }
}
