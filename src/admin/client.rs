//! One operator connection: its buffers, its state and its deadline. Knows no other connection, and no engine.

use std::time::Duration;

use super::streams::{Stream, keep_alive_at};
use crate::base::peer::Peer;
use crate::base::time::Time;
use crate::events::log::EventLog;
use crate::events::reader::EventQuery;
use crate::http::DateLine;
use crate::http::head::is_head_request;
use crate::http::response::JsonResponse;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) peer: Peer,
    /// Number of clients accepted before this one.
    pub(super) number: u64,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    /// Bytes of `output` that have been written.
    pub(super) written: usize,
    pub(super) state: ClientState,
    /// Path of the request whose report the client waits for, for the log.
    pub(super) asked: String,
    /// Whether `input` has changed since it was last parsed.
    pub(super) has_new_input: bool,
    /// Whether `100 Continue` was sent for the current request.
    pub(super) continued: bool,
    /// Whether the client has ended its stream.
    pub(super) ended: bool,
    /// Whether the socket may have unread bytes. Then the deadline waits for the next turn.
    pub(super) is_unread: bool,
    /// Whether the client has shown the token, or needs none and has asked for more than `/health`.
    pub(super) is_admitted: bool,
    /// Whether a request with the token waits for the slot of a client that was answered in the same turn.
    pub(super) waits_for_slot: bool,
    /// Whether the client was accepted since the last [`work`](super::AdminConns::work), which serves the request that it
    /// may have sent already.
    pub(super) is_new: bool,
    /// Whether the client was answered by the last [`work`](super::AdminConns::work). No write has been attempted yet.
    pub(super) is_just_answered: bool,
    pub(super) deadline: Time,
    /// Bytes received and discarded in [`ClientState::Lingering`].
    pub(super) lingering_bytes: usize,
    /// The stream of events that the client reads.
    pub(super) stream: Option<Box<Stream>>,
}

/// The times of an answer that is given in this turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTimes {
    pub(super) date: DateLine,
    /// Deadline for reading it.
    pub(super) deadline: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    /// Receiving a request.
    Reading,
    /// Waiting for the report with this ticket.
    Waiting { ticket: u64, keep_alive: bool },
    /// Sending an answer. After the last one no further request is read.
    Writing { is_last: bool },
    /// Sending events until the client ends its stream. The deadline is that for reading the output or, without output, for
    /// the next comment.
    Streaming,
    /// All is written. Further input is discarded until the client ends its stream.
    Lingering,
    /// The driver still has to drop the socket.
    Closed,
}

impl Client {
    pub(super) fn new(number: u64, peer: Peer, deadline: Time) -> Client {
        Client {
            peer,
            number,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            state: ClientState::Reading,
            asked: String::new(),
            has_new_input: false,
            continued: false,
            ended: false,
            is_unread: false,
            is_admitted: false,
            waits_for_slot: false,
            is_new: true,
            is_just_answered: false,
            deadline,
            lingering_bytes: 0,
            stream: None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == ClientState::Closed
    }

    pub(super) fn close(&mut self) {
        self.state = ClientState::Closed;
        self.input = Vec::new();
        self.output = Vec::new();
        self.written = 0;
        self.stream = None;
    }

    /// Begins to send events.
    pub(super) fn begin_stream(&mut self, query: EventQuery, log: &EventLog, times: AnswerTimes) {
        let stream = Stream::begin(query, log, times.date, &mut self.output);
        self.stream = Some(Box::new(stream));
        self.state = ClientState::Streaming;
        self.is_just_answered = true;
        self.waits_for_slot = false;
        self.input = Vec::new();
        self.deadline = times.deadline;
    }

    /// Appends events to the output of a stream if all of it was written. `deadline` is that for reading them.
    pub(super) fn fill_stream(&mut self, log: &EventLog, deadline: Time) {
        if let Some(stream) = &mut self.stream
            && stream.fill(log, &mut self.output)
        {
            self.deadline = deadline;
        }
    }

    pub(super) fn answer(&mut self, answer: &JsonResponse, with_body: bool, keep_alive: bool, times: AnswerTimes) {
        answer.write(&mut self.output, times.date, with_body, keep_alive);
        self.state = ClientState::Writing { is_last: !keep_alive };
        self.is_just_answered = true;
        self.waits_for_slot = false;
        self.deadline = times.deadline;
    }

    /// The first `bytes` of the pending output were written.
    pub(super) fn wrote(&mut self, now: Time, bytes: usize, timeout: Duration, linger: Duration) {
        self.written += bytes;
        if self.written < self.output.len() {
            // Unlike an answer, a stream has no end. Its client only has to read on.
            if self.state == ClientState::Streaming && bytes > 0 {
                self.deadline = now + timeout;
            }
            return;
        }
        self.output = Vec::new();
        self.written = 0;
        match self.state {
            ClientState::Writing { is_last: true } => {
                self.state = ClientState::Lingering;
                self.input = Vec::new();
                self.has_new_input = true;
                self.deadline = now + linger;
            }
            ClientState::Writing { is_last: false } => {
                self.state = ClientState::Reading;
                self.has_new_input = true;
                self.deadline = now + timeout;
            }
            ClientState::Streaming => self.deadline = keep_alive_at(now),
            ClientState::Reading | ClientState::Waiting { .. } | ClientState::Lingering | ClientState::Closed => {}
        }
    }

    /// Whether `input` contains more than a part of the empty line that may precede a request.
    pub(super) fn has_begun_request(&self) -> bool {
        !b"\r\n".starts_with(&self.input)
    }

    /// Handles a deadline that has passed.
    pub(super) fn expire(&mut self, times: AnswerTimes) {
        match self.state {
            ClientState::Waiting { .. } => {}
            ClientState::Streaming if self.output.is_empty() => {
                self.output.extend_from_slice(b": keep-alive\n\n");
                self.deadline = times.deadline;
            }
            ClientState::Reading if self.has_begun_request() => {
                let answer = JsonResponse::error(408, "too_late", "the request took longer than admin_timeout");
                self.answer(&answer, !is_head_request(&self.input), false, times);
            }
            _ => self.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::event_kind::EventKinds;
    use crate::events::reader::Start;

    #[test]
    fn a_stream_of_events_ends_when_nothing_of_it_is_read_for_the_timeout() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let times = |seconds| AnswerTimes { date: DateLine::NONE, deadline: at(seconds) };
        let (timeout, linger) = (Duration::from_secs(30), Duration::from_secs(1));
        let mut client = Client::new(1, ([127, 0, 0, 1], 5000).into(), at(30));
        let query = EventQuery { kinds: EventKinds::ALL, lobby: None, start: Start::Now };
        client.begin_stream(query, &EventLog::new(1, None, 10), times(30));
        for seconds in [29, 58, 87] {
            client.wrote(at(seconds), 1, timeout, linger);
            assert_eq!(client.deadline, at(seconds + 30));
        }
        client.wrote(at(100), 0, timeout, linger);
        assert_eq!(client.deadline, at(117));
        client.expire(times(147));
        assert!(client.is_closed());
    }

    /// An answer has an end, so a client that reads it byte by byte has no more time than others.
    #[test]
    fn the_deadline_of_an_answer_does_not_move() {
        let deadline = Time::ZERO + Duration::from_secs(30);
        let times = AnswerTimes { date: DateLine::NONE, deadline };
        let mut client = Client::new(1, ([127, 0, 0, 1], 5000).into(), Time::ZERO);
        client.answer(&JsonResponse::error(404, "not_found", "nothing is here"), true, false, times);
        client.wrote(Time::ZERO + Duration::from_secs(29), 1, Duration::from_secs(30), Duration::from_secs(1));
        assert_eq!(client.deadline, deadline);
    }
}
