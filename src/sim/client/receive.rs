//! A model client reads what the server sent, checks it, and answers it correctly or, on purpose, incorrectly.
//!
//! Knows nothing of the engine.

use super::events::{EventReader, EventUnit};
use super::link::{Link, mask};
use super::payload::write_number;
use super::pipe::Side;
use super::shared_state::SharedState;
use super::view::{Expected, Reaction};
use crate::base::close::CloseReason;
use crate::base::random::Random;
use crate::sim::wire::{self, Opcode, Received};

/// Stands for the code of a close frame without one (RFC 6455 section 7.1.5).
const NO_CODE: u16 = 1005;

impl Link {
    /// Reads up to `n` bytes and handles the frames that are complete.
    pub(crate) fn read(&mut self, n: usize, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        if self.is_post() {
            return self.read_post(n);
        }
        let bytes = self.pipe.client_read(n);
        if let Some(events) = &mut self.events {
            events.push(bytes);
            self.read_events(shared, random)?;
        } else {
            self.reader.push(bytes);
        }
        while let Some(received) = self.reader.next().map_err(|violation| violation.to_string())? {
            self.handle(received, shared, random)?;
        }
        if self.pipe.is_at_server_end() && self.pipe.is_client_reading() {
            self.handle_server_end()?;
        }
        Ok(())
    }

    /// Reads up to `n` bytes of the answer to a POST, or the end of the connection.
    fn read_post(&mut self, n: usize) -> Result<(), String> {
        let Link { posting: Some(posting), pipe, .. } = self else { return Ok(()) };
        posting.receive(pipe.client_read(n))?;
        if pipe.is_at_server_end() && pipe.is_client_reading() {
            if posting.waits && posting.answer.is_none() {
                posting.answer = Some(None);
            }
            posting.keeps = false;
            pipe.end(Side::Ended);
        }
        Ok(())
    }

    /// Handles the units of an event stream that are complete.
    fn read_events(&mut self, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        while let Some(unit) = self.events.as_mut().map_or(Ok(None), EventReader::next)? {
            match unit {
                EventUnit::Answer(status, head) => self.handle_answer(status, &head)?,
                EventUnit::Body | EventUnit::Retry => {}
                EventUnit::Comment => self.frames += 1,
                EventUnit::Event(event) => {
                    self.frames += 1;
                    self.handle_text(&event.data, shared, random)?;
                    self.view.follow_ack(&event)?;
                    self.view.check_event(&event)?;
                }
            }
        }
        Ok(())
    }

    /// Handles the end of the server's stream: checks that it was allowed, and closes the client's direction.
    fn handle_server_end(&mut self) -> Result<(), String> {
        if self.pipe.server_ended {
            let unread = self.events.as_ref().map_or(self.reader.unread(), EventReader::unread);
            if unread > 0 {
                return Err("the server shut down its side in the middle of a frame or event".into());
            }
            let has_end = if self.has_events() { self.view.goodbye.is_some() } else { self.closed.is_some() };
            if self.status.is_none() || (self.is_accepted() && !has_end) {
                return Err("the server shut down its side without a response, a close frame or a goodbye".into());
            }
        }
        if self.pipe.client == Side::HalfClosed && self.is_owed_answers && !self.was_cut {
            let lacks_answer = match self.reason {
                Some(CloseReason::PeerClosed | CloseReason::PeerGone) => self.closed.is_none(),
                Some(CloseReason::HttpRefused) => self.status.is_none(),
                _ => false,
            };
            if lacks_answer {
                return Err(format!(
                    "the client closed its own direction and got no answer before the end of the stream: {:?}",
                    self.reason
                ));
            }
        }
        self.pipe.end(Side::Ended);
        Ok(())
    }

    fn handle(&mut self, received: Received, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        match received {
            Received::Answer(status, head) => self.handle_answer(status, &head)?,
            Received::Body(body) => {
                let is_head_request = self.probe.is_some_and(|probe| probe.is_head_request);
                if is_head_request && self.status == Some(200) {
                    return Err(format!("a HEAD request is answered with the body {body:?}"));
                }
            }
            Received::Text(text) => {
                self.frames += 1;
                self.handle_text(&text, shared, random)?;
            }
            Received::Binary(bytes) => {
                self.frames += 1;
                self.view.receive_raw(&bytes, shared)?;
            }
            Received::Ping(payload) => {
                self.frames += 1;
                if self.traits.pongs_wrongly && random.percent(50) {
                    self.pipe.send(&wire::frame(Opcode::PONG, true, b"another", mask(random)));
                } else if !self.traits.is_mute {
                    // With a raw application, health checks are RFC 6455 pings whose payload is the nonce.
                    self.ponged.extend(payload.as_slice().try_into().map(u64::from_be_bytes));
                    self.pipe.send(&wire::frame(Opcode::PONG, true, &payload, mask(random)));
                }
            }
            Received::Pong(payload) => {
                self.frames += 1;
                let expected = self.pings.pop_front();
                if !self.is_unpredictable
                    && expected.map(u32::to_be_bytes).as_ref().map(|n| &n[..]) != Some(&payload[..])
                {
                    return Err(format!("pong with payload {payload:?}, expected {expected:?}"));
                }
            }
            Received::Close(code, reason) => self.handle_close(code, reason, random)?,
        }
        Ok(())
    }

    /// Checks the head of the response to the client's request.
    fn handle_answer(&mut self, status: u16, head: &str) -> Result<(), String> {
        self.status = Some(status);
        let is_allowed = match (status, self.probe) {
            // A busy or draining server answers 503, and 408 follows if the request arrives too slowly.
            (200 | 408 | 503, Some(_)) => true,
            // The application or an operator has ended the connection before its request was read.
            (400, Some(_)) => self.reason.is_some_and(|reason| reason != CloseReason::HttpRefused),
            (_, Some(_)) => false,
            (200 | 304, None) if self.asks_for_file => true,
            // A client that asks for events is also told with an event why it is refused.
            (200, None) if self.has_events() => true,
            (101, None) => self.may_be_accepted && !self.has_events(),
            _ if !self.may_be_accepted || self.is_unpredictable => (400..=599).contains(&status),
            // A valid request is refused only because of a limit, or because the connection or the server ends.
            (400, None) => self.reason != Some(CloseReason::HttpRefused),
            _ => matches!(status, 408 | 429 | 431 | 503),
        };
        let is_expected = self.expected_status.is_none_or(|expected| expected == status);
        if !is_allowed || !is_expected || head.matches("\r\nDate: ").count() != 1 {
            return Err(format!("unexpected response: {}", head.trim_end().replace("\r\n", " | ")));
        }
        Ok(())
    }

    fn handle_text(&mut self, text: &str, shared: &mut SharedState, random: &mut Random) -> Result<(), String> {
        if !self.is_json {
            return match self.player {
                Some(_) => self.play(text),
                None => self.view.receive_raw(text.as_bytes(), shared),
            };
        }
        let (user, lobby) = (shared.users[self.user].clone(), shared.lobbies[self.lobby].clone());
        let expected = Expected { user: &user, lobby: &lobby, strict: self.is_strict(shared) };
        let reaction = self.view.receive_text(text, expected, shared)?;
        self.play(text)?;
        // A refused `leave` has no effect: the client goes on as a member.
        if std::mem::take(&mut self.view.answers.leave_refused) {
            self.sent_leave = false;
        }
        self.resend(random);
        match reaction {
            Reaction::HealthPing(nonce) => self.answer_health_check(nonce, random),
            Reaction::Nothing => {}
        }
        Ok(())
    }

    /// Passes a message to the player, if there is one.
    fn play(&mut self, text: &str) -> Result<(), String> {
        let Some(player) = &mut self.player else { return Ok(()) };
        player.heard(text).map_err(|error| {
            self.is_rejected = true;
            format!("{error}: {text}")
        })
    }

    fn answer_health_check(&mut self, nonce: u64, random: &mut Random) {
        self.nonces.push(nonce);
        // The server takes the written bytes of an event stream for the answer.
        if self.sent_close || self.traits.is_mute || self.has_events() {
            return;
        }
        if !self.traits.pongs_wrongly {
            return self.pong(nonce, random);
        }
        let older = self.nonces[random.below(self.nonces.len() as u64) as usize];
        match random.below(4) {
            0 => self.pong(nonce + 1, random),
            1 => self.pong(older, random),
            2 => {
                self.pong(older, random);
                self.pong(nonce, random);
                self.pong(nonce, random);
            }
            _ => {}
        }
    }

    fn pong(&mut self, nonce: u64, random: &mut Random) {
        self.ponged.push(nonce);
        self.health_pongs += 1;
        let text = format!("{{\"type\":\"health_pong\",\"timestamp\":{}}}", write_number(nonce));
        self.pipe.send(&wire::frame(Opcode::TEXT, true, text.as_bytes(), mask(random)));
    }

    fn handle_close(&mut self, code: u16, reason: String, random: &mut Random) -> Result<(), String> {
        if let Some(goodbye) = &self.view.goodbye
            && (goodbye.0 != code || goodbye.1 != reason)
        {
            return Err(format!("close {code} {reason} does not match the goodbye {} {}", goodbye.0, goodbye.1));
        }
        if self.is_json && !self.sent_close && !self.is_unpredictable && self.view.goodbye.is_none() {
            return Err(format!("close {code} {reason} without a goodbye"));
        }
        if self.sent_close
            && !self.is_unpredictable
            && self.view.goodbye.is_none()
            && self.is_json
            && self.close_code.unwrap_or(NO_CODE) != code
        {
            return Err(format!("close {code} answers the client's {:?}", self.close_code));
        }
        self.closed = Some((code, reason));
        if !self.sent_close && !self.traits.is_rude {
            self.close(Some(code), random);
        }
        Ok(())
    }
}
