//! What the link sends next, and when.

use crate::base::time::Time;
use crate::cluster::link::config::{MAX_PENDING_REQUESTS, OUTPUT_BYTES, SINCE_INTERVAL, STATE_POLL};
use crate::cluster::link::core::{Leave, Link, Phase, Probe};
use crate::cluster::link::requests::Request;

impl Link {
    /// Returns the time at which to call [`Link::expire`].
    pub(crate) fn poll_timeout(&self) -> Time {
        match self.phase {
            Phase::Down { .. } if self.leave == Leave::Done => Time::NEVER,
            Phase::Down { retry_at } => retry_at,
            Phase::Closing => Time::ZERO,
            Phase::Connecting { deadline } | Phase::Greeting { deadline } | Phase::Subscribing { deadline } => deadline,
            Phase::Ready => self.next_timer(),
        }
    }

    fn next_timer(&self) -> Time {
        let reply = self.in_flight.front().map_or(Time::NEVER, |waiting| waiting.deadline);
        if self.is_in_flight(Request::Hello) {
            return reply;
        }
        let Some(attachment) = &self.attachment else {
            let can_attach = !self.is_in_flight(Request::Attach) && self.leave == Leave::No;
            return if can_attach { reply.min(self.attach_at.max(self.frozen_until)) } else { reply };
        };
        let mut next = reply.min(self.since_at);
        next = next.min(if self.probe.is_complete() { self.heartbeat_at } else { self.probe.deadline });
        if let Some(fetch) = &attachment.fetch {
            next = next.min(fetch.deadline);
            if !self.is_in_flight(Request::StateGet) {
                next = next.min(fetch.poll_at);
            }
        }
        if self.frozen_until > Time::ZERO { next.min(self.frozen_until) } else { next }
    }

    /// Carries out what is due.
    pub(crate) fn expire(&mut self, now: Time) {
        match self.phase {
            Phase::Connecting { deadline } | Phase::Greeting { deadline } | Phase::Subscribing { deadline }
                if now >= deadline =>
            {
                self.close("Redis does not answer in time".to_owned());
            }
            Phase::Ready => self.expire_ready(now),
            _ => {}
        }
        self.pump(now);
    }

    fn expire_ready(&mut self, now: Time) {
        if self.in_flight.front().is_some_and(|waiting| now >= waiting.deadline) {
            return self.close("Redis does not answer in time".to_owned());
        }
        if now >= self.frozen_until {
            self.frozen_until = Time::ZERO;
        }
        if self.is_in_flight(Request::Hello) {
            return;
        }
        let Some(attachment) = &self.attachment else { return };
        if !self.probe.is_complete() && now >= self.probe.deadline {
            return self.close("what the cluster publishes does not arrive".to_owned());
        }
        if attachment.fetch.as_ref().is_some_and(|fetch| now >= fetch.deadline) {
            return self.detach(now, "no node has provided the state");
        }
        if now >= self.since_at {
            self.since_wanted = true;
            self.since_at = now + SINCE_INTERVAL;
        }
    }

    /// Writes all requests that can be sent now.
    pub(super) fn pump(&mut self, now: Time) {
        if self.phase != Phase::Ready || self.is_in_flight(Request::Hello) {
            return;
        }
        if self.attachment.is_none() {
            let is_free = !self.is_in_flight(Request::Attach) && self.leave == Leave::No;
            if is_free && now >= self.attach_at.max(self.frozen_until) {
                self.requests.attach(&mut self.output, &self.config, self.has_seen_log, self.log_index);
                self.expect_reply(now, Request::Attach);
            }
            return;
        }
        self.pump_since(now);
        self.pump_heartbeat(now);
        self.pump_fetch(now);
        self.pump_batches(now);
        self.pump_states(now);
        self.pump_leave(now);
    }

    fn pump_since(&mut self, now: Time) {
        let is_busy = self.is_in_flight(Request::Since) || self.is_in_flight(Request::Restore);
        let Some(attachment) = self.attachment.as_ref().filter(|attachment| attachment.is_live()) else { return };
        if self.since_wanted && !is_busy {
            self.since_wanted = false;
            self.since_from = attachment.kept.last().0;
            self.requests.since(&mut self.output, attachment);
            self.expect_reply(now, Request::Since);
        }
    }

    fn pump_heartbeat(&mut self, now: Time) {
        let Some(attachment) = &self.attachment else { return };
        if now < self.heartbeat_at || !self.probe.is_complete() || self.is_in_flight(Request::Heartbeat) {
            return;
        }
        let number = self.probe.number + 1;
        let deadline = now + self.config.timeout();
        self.probe = Probe { number, deadline, head: None, was_published: false };
        self.heartbeat_at = now + self.config.heartbeat();
        self.requests.heartbeat(&mut self.output, attachment, number);
        self.expect_reply(now, Request::Heartbeat);
    }

    fn pump_fetch(&mut self, now: Time) {
        if self.is_in_flight(Request::StateGet) {
            return;
        }
        let Some(attachment) = &mut self.attachment else { return };
        let Some(fetch) = &mut attachment.fetch else { return };
        if now >= fetch.poll_at {
            fetch.poll_at = now + STATE_POLL;
            self.requests.state_get(&mut self.output, attachment.node.0, fetch.part);
            self.expect_reply(now, Request::StateGet);
        }
    }

    fn pump_batches(&mut self, now: Time) {
        let is_append = |request| matches!(request, Request::Append { .. });
        let mut appends = self.in_flight.iter().filter(|waiting| is_append(waiting.request)).count();
        let Some(attachment) = &mut self.attachment else { return };
        if !attachment.is_live() || !self.is_caught_up || now < self.frozen_until {
            return;
        }
        if self.must_send_again && appends == 0 {
            self.must_send_again = false;
            attachment.batches.send_again();
        }
        while !self.must_send_again && appends < MAX_PENDING_REQUESTS && self.output.len() < OUTPUT_BYTES {
            let Some(attachment) = &mut self.attachment else { return };
            let Some((batch, bytes)) = attachment.batches.unsent() else { return };
            self.requests.append(&mut self.output, attachment, batch, bytes);
            attachment.batches.mark_sent();
            self.expect_reply(now, Request::Append { batch });
            appends += 1;
        }
    }

    fn pump_states(&mut self, now: Time) {
        while self.output.len() < OUTPUT_BYTES {
            let Some(attachment) = &self.attachment else { return };
            let Some(transfer) = self.states.front_mut() else { return };
            if transfer.part == transfer.parts() {
                // All parts are sent. The reply to the last one removes the transfer.
                return;
            }
            self.requests.state_put(&mut self.output, attachment.node.0, transfer);
            transfer.part += 1;
            let request = Request::StatePut { node: transfer.node, is_last: transfer.part == transfer.parts() };
            self.expect_reply(now, request);
        }
    }

    fn pump_leave(&mut self, now: Time) {
        let Some(attachment) = &self.attachment else { return };
        if self.leave == Leave::Wanted && attachment.batches.bytes() == 0 {
            self.leave = Leave::Sent;
            self.requests.leave(&mut self.output, attachment);
            self.expect_reply(now, Request::Leave);
        }
    }
}
