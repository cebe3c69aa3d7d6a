//! What a session is sent when it has a connection: what it missed, and the numbers that it continues with.

use super::core::Core;
use super::member::Member;
use super::observer::ObservedEvent;
use super::seating::{Arrival, Continuity};
use super::state::history::Sender;
use super::state::replay::{ReplayItem, Resumption};
use crate::base::id::{ConnId, ConnKey, LobbyKey, SeatKey};
use crate::base::session::Position;
use crate::egress::Priority;
use crate::protocol;
use crate::ws::frame::{Mark, MarkedText, Outgoing};

/// Texts to send again, in one buffer.
#[derive(Debug, Default)]
pub(super) struct MissedTexts {
    text: String,
    ends: Vec<(usize, Mark)>,
    /// Whether no frame is missing.
    pub(super) is_complete: bool,
    /// Number of the last direct message before those of the texts.
    pub(super) n: u64,
    /// Position of the client, if no frame is missing.
    pub(super) position: Option<Position>,
}

impl MissedTexts {
    fn push(&mut self, text: &str, mark: Mark) {
        self.text.push_str(text);
        self.ends.push((self.text.len(), mark));
    }

    /// Number of texts.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn iter(&self) -> impl Iterator<Item = MarkedText<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(end, _)| end));
        starts.zip(&self.ends).map(|(start, &(end, mark))| MarkedText { text: &self.text[start..end], mark })
    }
}

impl Core {
    /// Returns the session in a seat, as the history names the senders of frames.
    pub(super) fn sender_in(&self, seat: SeatKey) -> Option<Sender> {
        let session = self.directory.session_of(seat)?;
        Some(Sender { seat: self.directory.seat(seat).id, session })
    }

    /// Returns what the session of a member has missed. `None` for a member without a session.
    pub(super) fn missed(&mut self, member: &Member, arrival: Arrival) -> Option<MissedTexts> {
        let session = self.sender_in(member.seat_key)?;
        let state = self.sessions.get(member.seat_key)?;
        let lobby = self.directory.lobby_ref(member.lobby_key);
        let position = match arrival {
            // Without a position, the client has read nothing since its session began.
            Arrival::Resumed { position, continuity: Continuity::Same } => Some(position.unwrap_or(Position {
                epoch: lobby.epoch,
                seq: state.since_seq.unwrap_or(lobby.seq),
                n: state.since_n,
            })),
            Arrival::Joined | Arrival::TookOver | Arrival::Resumed { .. } => None,
        };
        let resumption = Resumption {
            history: self.histories.get(member.lobby_key)?,
            epoch: lobby.epoch,
            last_seq: lobby.seq,
            directs: &state.directs,
            session,
            since_seq: state.since_seq.unwrap_or(lobby.seq),
        };
        let replay = resumption.replay(position);
        let mut missed = MissedTexts { is_complete: replay.is_complete, n: replay.n, ..MissedTexts::default() };
        missed.position = position.filter(|_| missed.is_complete).map(|position| Position { n: missed.n, ..position });
        for item in replay.items {
            match item {
                ReplayItem::Frame { seq, text } => missed.push(&text, Mark::Seq(seq)),
                ReplayItem::Direct { n, text } => missed.push(&text, Mark::Direct(n)),
                ReplayItem::Ack { seq, reference } => {
                    protocol::write_ack(&mut self.buffers.text, reference, Some(seq));
                    missed.push(&self.buffers.text, Mark::Seq(seq));
                }
            }
        }
        Some(missed)
    }

    /// Sends what a session has missed.
    pub(super) fn send_missed(&mut self, key: ConnKey, missed: &MissedTexts) {
        for text in missed.iter() {
            if self.conns[key].seat().is_some() {
                self.send(key, Outgoing::Marked(&text), Priority::Normal);
            }
        }
    }

    /// Records that the session in a seat, if there is one, is sent a `presence_state`.
    pub(super) fn note_presence_state(&mut self, seat: SeatKey, lobby: LobbyKey) {
        let seq = self.directory.lobby_ref(lobby).seq;
        if let Some(state) = self.sessions.get_mut(seat)
            && state.since_seq.is_none()
        {
            state.since_seq = Some(seq);
            let seat = self.directory.seat(seat).id;
            self.observer.note(self.clock.now(), || ObservedEvent::Began { seat, seq });
        }
    }

    #[inline]
    fn observe_frame(&mut self, lobby: LobbyKey, seq: u64, text: &str) {
        let Core { observer, directory, clock, .. } = self;
        observer.note(clock.now(), || {
            let lobby = directory.lobby_ref(lobby);
            ObservedEvent::Said { lobby: lobby.code.clone(), epoch: lobby.epoch, seq, text: text.into() }
        });
    }

    /// Keeps a numbered frame for the sessions of its lobby.
    #[inline]
    pub(super) fn keep_frame(&mut self, lobby: LobbyKey, seq: u64, text: &str) {
        self.observe_frame(lobby, seq, text);
        if let Some(history) = self.histories.get_mut(lobby) {
            history.push(seq, None, None, text);
        }
    }

    /// Keeps the message of a member for the sessions of its lobby. `reference` is the `ref` of its request.
    #[inline]
    pub(super) fn keep_message(&mut self, from: &Member, seq: u64, reference: Option<&str>, text: &str) {
        self.observe_frame(from.lobby_key, seq, text);
        if self.histories.get(from.lobby_key).is_some() {
            let sender = self.sender_in(from.seat_key);
            let reference = reference.filter(|_| sender.is_some());
            self.histories.get_mut(from.lobby_key).expect("checked before").push(seq, sender, reference, text);
        }
    }
}

impl Core {
    /// Sends a direct message to a seat. `write` writes it, with its number if the seat has a session; then it is kept, and
    /// sent only if the session has a connection. Returns false if there was no room for it.
    pub(super) fn send_direct(&mut self, seat: SeatKey, write: impl FnOnce(&mut String, Option<u64>)) -> bool {
        let n = self.sessions.get(seat).map(|state| state.directs.next());
        let mut text = std::mem::take(&mut self.buffers.text);
        write(&mut text, n);
        let conn = self.directory.conn_of(seat);
        let marked;
        let frame = match n {
            None => Outgoing::Text(&text),
            Some(n) => {
                self.keep_direct(seat, conn, n, &text);
                marked = MarkedText { text: &text, mark: Mark::Direct(n) };
                Outgoing::Marked(&marked)
            }
        };
        let has_room = conn.is_none_or(|conn| self.send(conn.key(), frame, Priority::Deferred));
        self.buffers.text = text;
        has_room
    }

    /// Keeps the direct message with the number `n` for a session.
    fn keep_direct(&mut self, seat: SeatKey, conn: Option<ConnId>, n: u64, text: &str) {
        let after_seq = self.directory.lobby_ref(self.directory.seat(seat).lobby).seq;
        // The other nodes of a cluster do not know the queue.
        let is_known = |conn: ConnId| !self.is_clustered() && !self.egress.has_queue(conn.key());
        let is_queue_empty = conn.is_some_and(is_known);
        let id = self.directory.seat(seat).id;
        self.observer.note(self.clock.now(), || ObservedEvent::SaidDirectly { seat: id, n, text: text.into() });
        self.sessions.state(seat).directs.push(after_seq, is_queue_empty, text);
    }

    /// Returns the payload of a ping: the number of the last direct message that is kept for the member's session, so that
    /// the pong shows that it has arrived. Empty if there is none.
    pub(super) fn ping_payload(&self, key: ConnKey) -> Option<[u8; 8]> {
        let state = self.sessions.get(self.conns[key].seat()?)?;
        let directs = &state.directs;
        (directs.last() > directs.forgotten()).then(|| directs.last().to_be_bytes())
    }

    /// Forgets the direct messages that a pong shows to have arrived. Not in a cluster, where the other nodes do not know it:
    /// later messages displace them.
    pub(super) fn note_session_pong(&mut self, key: ConnKey, payload: &[u8]) {
        if self.is_clustered() {
            return;
        }
        if let Ok(number) = payload.try_into()
            && let Some(state) = self.conns[key].seat().and_then(|seat| self.sessions.get_mut(seat))
        {
            state.directs.acknowledge(u64::from_be_bytes(number));
        }
    }
}
