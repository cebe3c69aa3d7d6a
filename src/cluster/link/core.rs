//! The link: its data, and what the driver and the engine call.

use std::collections::VecDeque;
use std::mem;

use crate::base::time::Time;
use crate::cluster::entry::LinkInput;
use crate::cluster::kept_log::KeptLog;
use crate::cluster::link::attachment::{Attachment, StateTransfer};
use crate::cluster::link::backoff::Backoff;
use crate::cluster::link::config::{LinkConfig, MAX_BATCH_BYTES, REFUSED_DELAY, VALUE_BYTES};
use crate::cluster::link::requests::{Request, Requests};
use crate::cluster::log::ClusterOutput;
use crate::cluster::resp::{Bounds, Reader};

/// See the [module](super).
pub(crate) struct Link {
    pub(super) config: LinkConfig,
    pub(super) requests: Requests,
    pub(super) backoff: Backoff,
    pub(super) phase: Phase,
    pub(super) reader: Reader,
    pub(super) output: Vec<u8>,
    /// Requests without a reply, with the time by which it must come. Replies arrive in this order.
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) attachment: Option<Attachment>,
    /// Counts attachments, so that the reply to a request of an earlier one is ignored.
    pub(super) attachment_number: u64,
    /// Delay before the node attaches anew, and when it does.
    pub(super) attach_backoff: Backoff,
    pub(super) attach_at: Time,
    /// Whether this process knows that the cluster has a log. A Redis without one has lost it then.
    pub(super) has_seen_log: bool,
    /// Index of the last entry at the `hello` of this connection, or the last incarnation of this node if that is larger.
    pub(super) log_index: u64,
    /// On this connection, the entries up to the end of the log were applied once. Batches may be sent.
    pub(super) is_caught_up: bool,
    pub(super) since_wanted: bool,
    /// What the node knew when it last asked `since`.
    pub(super) since_from: u64,
    pub(super) since_at: Time,
    /// A refused batch: the batches after it were refused, too. When all replies have arrived, they are sent again.
    pub(super) must_send_again: bool,
    /// Appends are refused until then.
    pub(super) frozen_until: Time,
    /// When Redis last answered this node as an attached one.
    pub(super) heard_at: Time,
    /// When a node whose lease may have expired restores a blank log, if no other node has done so.
    pub(super) restore_at: Time,
    pub(super) heartbeat_at: Time,
    pub(super) probe: Probe,
    /// States for other nodes.
    pub(super) states: VecDeque<StateTransfer>,
    pub(super) leave: Leave,
    pub(super) inputs: VecDeque<LinkInput>,
    /// The last [`LinkInput::Reachable`].
    pub(super) is_reachable: bool,
    pub(super) problem: Option<String>,
}

/// State of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Down { retry_at: Time },
    Connecting { deadline: Time },
    Greeting { deadline: Time },
    Subscribing { deadline: Time },
    Ready,
    Closing,
}

pub(super) struct InFlight {
    pub(super) request: Request,
    pub(super) attachment_number: u64,
    pub(super) deadline: Time,
}

/// The last probe. It is complete when the reply of its heartbeat and the published probe have both arrived, in any order.
#[derive(Clone, Copy, Default)]
pub(super) struct Probe {
    pub(super) number: u64,
    pub(super) deadline: Time,
    /// End of the log when the probe was published: all entries up to it were published before.
    pub(super) head: Option<u64>,
    pub(super) was_published: bool,
}

impl Probe {
    pub(super) fn is_complete(&self) -> bool {
        self.head.is_some() && self.was_published
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    No,
    Wanted,
    Sent,
    Done,
}

/// What the driver must do with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// There is none. Open one at this time, and call [`Link::connecting`].
    Open(Time),
    Keep,
    /// Close it, and call [`Link::disconnected`].
    Close,
}

const BOUNDS: Bounds = Bounds { line: 4096, blob: MAX_BATCH_BYTES + 1024, value: VALUE_BYTES, depth: 8 };

impl Link {
    pub(crate) fn new(config: LinkConfig) -> Link {
        Link {
            requests: Requests::new(&config),
            backoff: Backoff::new(config.seed, config.freeze()),
            phase: Phase::Down { retry_at: Time::ZERO },
            reader: Reader::new(BOUNDS),
            output: Vec::new(),
            in_flight: VecDeque::new(),
            attachment: None,
            attachment_number: 0,
            attach_backoff: Backoff::new(config.seed ^ 1, config.freeze()),
            attach_at: Time::ZERO,
            has_seen_log: false,
            log_index: 0,
            is_caught_up: false,
            since_wanted: false,
            since_from: 0,
            since_at: Time::NEVER,
            must_send_again: false,
            frozen_until: Time::ZERO,
            heard_at: Time::ZERO,
            restore_at: Time::NEVER,
            heartbeat_at: Time::ZERO,
            probe: Probe::default(),
            states: VecDeque::new(),
            leave: Leave::No,
            inputs: VecDeque::new(),
            is_reachable: false,
            problem: None,
            config,
        }
    }

    /// Returns what the driver must do with the socket. Changes with every other call.
    pub(crate) fn connection(&self) -> Connection {
        match self.phase {
            Phase::Down { .. } if self.leave == Leave::Done => Connection::Keep,
            Phase::Down { retry_at } => Connection::Open(retry_at),
            Phase::Closing => Connection::Close,
            _ => Connection::Keep,
        }
    }

    /// The driver has begun to connect.
    pub(crate) fn connecting(&mut self, now: Time) {
        self.phase = Phase::Connecting { deadline: now + self.config.timeout() };
    }

    /// The socket is connected.
    pub(crate) fn connected(&mut self, now: Time) {
        self.reader = Reader::new(BOUNDS);
        self.output.clear();
        self.in_flight.clear();
        let deadline = now + self.config.timeout();
        self.phase = Phase::Greeting { deadline };
        self.requests.greet(&mut self.output, &self.config);
        self.expect_reply(now, Request::Greet);
        if self.config.database != 0 {
            self.requests.select(&mut self.output, self.config.database);
            self.expect_reply(now, Request::Select);
        }
    }

    /// Bytes have arrived.
    pub(crate) fn received(&mut self, now: Time, bytes: &[u8]) {
        if self.phase == Phase::Closing {
            return;
        }
        self.reader.push(bytes);
        while self.phase != Phase::Closing {
            match self.reader.next() {
                Ok(Some(value)) => self.handle_value(now, value),
                Ok(None) => break,
                Err(error) => self.close(format!("Redis sends what is not RESP3: {error}")),
            }
        }
        self.pump(now);
    }

    /// The connection is closed, or was not established. Call it with the reason that the system gives, if any.
    pub(crate) fn disconnected(&mut self, now: Time, reason: Option<&str>) {
        if let Some(reason) = reason {
            self.problem.get_or_insert_with(|| format!("no connection to Redis: {reason}"));
        }
        self.phase = Phase::Down { retry_at: now + self.backoff.next() };
        self.output.clear();
        self.in_flight.clear();
        self.is_caught_up = false;
        self.must_send_again = false;
        if let Some(attachment) = &mut self.attachment {
            attachment.batches.send_again();
        }
        if let Some(transfer) = self.states.front_mut() {
            transfer.part = 0;
        }
        if self.leave != Leave::No {
            self.leave = Leave::Done;
        }
        if mem::take(&mut self.is_reachable) {
            self.inputs.push_back(LinkInput::Reachable(false));
        }
    }

    /// Returns the bytes to write.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// The first `len` bytes of the output were written.
    pub(crate) fn written(&mut self, now: Time, len: usize) {
        self.output.drain(..len);
        self.pump(now);
    }

    /// Returns the next input of the engine.
    pub(crate) fn poll_input(&mut self) -> Option<LinkInput> {
        self.inputs.pop_front()
    }

    /// Takes what the engine wants to tell the other nodes. It is ignored while this node is not attached.
    ///
    /// # Panics
    ///
    /// If a batch has more than [`MAX_BATCH_BYTES`].
    pub(crate) fn push(&mut self, now: Time, output: ClusterOutput) {
        let Some(attachment) = self.attachment.as_mut().filter(|attachment| attachment.is_live()) else { return };
        match output {
            ClusterOutput::Append(bytes) => {
                assert!(bytes.len() <= MAX_BATCH_BYTES, "a batch has {} bytes", bytes.len());
                attachment.batches.push(bytes);
                if attachment.batches.bytes() > self.config.queue_bytes {
                    self.detach(now, "more operations wait for Redis than cluster_queue_bytes allows");
                }
            }
            ClusterOutput::State { node, index, bytes } => {
                let queued: usize = self.states.iter().map(|transfer| transfer.bytes.len()).sum();
                if queued + bytes.len() > self.config.state_bytes {
                    self.report(format!(
                        "the state of {} bytes for another node exceeds cluster_state_bytes",
                        bytes.len()
                    ));
                } else {
                    self.states.push_back(StateTransfer { node, index, bytes, part: 0 });
                }
            }
        }
        self.pump(now);
    }

    /// Whether so many operations wait that no more should be pushed.
    pub(crate) fn is_congested(&self) -> bool {
        self.attachment.as_ref().is_some_and(|attachment| attachment.batches.bytes() > self.config.queue_bytes / 2)
    }

    /// Asks to detach this node, before the process ends. [`Link::has_left`] tells when that is done.
    pub(crate) fn leave(&mut self, now: Time) {
        if self.leave == Leave::No {
            self.leave =
                if self.attachment.is_some() && self.phase == Phase::Ready { Leave::Wanted } else { Leave::Done };
            self.pump(now);
        }
    }

    /// Whether the node is detached, or cannot be because Redis is not reachable.
    pub(crate) fn has_left(&self) -> bool {
        self.leave == Leave::Done
    }

    #[cfg(test)]
    pub(crate) fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Returns the entries that this node has applied, if it is attached and has the state of the cluster. For the simulator.
    pub(crate) fn kept_log(&self) -> Option<&KeptLog> {
        self.attachment.as_ref().filter(|attachment| attachment.is_live()).map(|attachment| &attachment.kept)
    }

    /// Whether this node is attached, Redis answers, and nothing is on the way. For the simulator.
    pub(crate) fn is_settled(&self) -> bool {
        let is_empty = |attachment: &Attachment| attachment.is_live() && attachment.batches.bytes() == 0;
        self.is_reachable
            && self.is_caught_up
            && self.states.is_empty()
            && self.attachment.as_ref().is_some_and(is_empty)
    }

    /// Returns what an operator should know, since the last call.
    pub(crate) fn poll_problem(&mut self) -> Option<String> {
        self.problem.take()
    }

    pub(super) fn report(&mut self, problem: String) {
        self.problem = Some(problem);
    }

    /// The connection is of no use any more.
    pub(super) fn close(&mut self, problem: String) {
        self.report(problem);
        self.phase = Phase::Closing;
        self.output.clear();
    }

    pub(super) fn expect_reply(&mut self, now: Time, request: Request) {
        let deadline = now + self.config.timeout();
        self.in_flight.push_back(InFlight { request, attachment_number: self.attachment_number, deadline });
    }

    pub(super) fn is_in_flight(&self, request: Request) -> bool {
        self.in_flight
            .iter()
            .any(|waiting| waiting.request == request && waiting.attachment_number == self.attachment_number)
    }

    /// The engine cannot read the state with which it was [attached](LinkInput::Attached). Another node, or a later version of this
    /// one, may provide one that it can.
    pub(crate) fn refuse_state(&mut self, now: Time) {
        self.inputs.clear();
        self.detach(now, "it cannot read the state of the cluster");
        self.attach_at = now + REFUSED_DELAY;
    }

    /// Detaches the node, and attaches it anew.
    pub(super) fn detach(&mut self, now: Time, problem: &str) {
        let Some(attachment) = self.attachment.take() else { return };
        if self.leave != Leave::No {
            self.leave = Leave::Done;
            return;
        }
        self.report(format!("node {} is detached from the cluster: {problem}", self.config.node));
        self.attachment_number += 1;
        self.attach_at = now + self.attach_backoff.next();
        self.states.clear();
        self.is_caught_up = false;
        self.since_wanted = false;
        self.must_send_again = false;
        self.is_reachable = false;
        if attachment.is_live() {
            self.inputs.push_back(LinkInput::Detached);
        }
    }
}
