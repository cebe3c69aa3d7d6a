//! State of sessions, by seat, and histories of lobbies. A seat without a session and a lobby without one have none.

use crate::base::arena::SideTable;
use crate::base::id::{LobbyKey, SeatKey};
use crate::base::session::Position;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter};
use crate::config::Config;
use crate::engine::state::directs::Directs;
use crate::engine::state::history::History;
use crate::engine::state::upstream::Upstream;

/// State of one session.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// The `seq` of its first `presence_state`; `None` until that was sent.
    pub(crate) since_seq: Option<u64>,
    /// Number of the last direct message before the session began.
    pub(crate) since_n: u64,
    /// Position of the client, read in an earlier session of the same name, with which it began this one.
    pub(crate) begun_at: Option<Position>,
    pub(crate) upstream: Upstream,
    /// Number of requests with a number that wait for the next tick.
    pub(crate) unanswered: u32,
    pub(crate) directs: Directs,
}

/// States of all sessions.
#[derive(Debug)]
pub(crate) struct SessionStates {
    direct_frames: u32,
    direct_bytes: usize,
    /// By the key of the seat.
    of_seats: SideTable<SeatKey, Box<SessionState>>,
}

impl SessionStates {
    pub(crate) fn new(config: &Config) -> SessionStates {
        SessionStates {
            direct_frames: config.direct_frames,
            direct_bytes: config.direct_bytes.0,
            of_seats: SideTable::default(),
        }
    }

    /// Begins a session on a seat that had none.
    pub(crate) fn insert(&mut self, seat: SeatKey) {
        let directs = Directs::new(self.direct_frames, self.direct_bytes);
        let state = SessionState {
            since_seq: None,
            since_n: 0,
            begun_at: None,
            upstream: Upstream::default(),
            unanswered: 0,
            directs,
        };
        self.of_seats.insert(seat, Box::new(state));
    }

    /// Begins a new session on a seat. It receives the direct messages that were never written.
    pub(crate) fn renew(&mut self, seat: SeatKey) {
        match self.get_mut(seat) {
            Some(state) => {
                state.directs.keep_unwritten();
                (state.since_seq, state.since_n) = (None, state.directs.forgotten());
                (state.upstream, state.unanswered) = (Upstream::default(), 0);
            }
            None => self.insert(seat),
        }
    }

    /// Writes the state of a session to a snapshot. Requests that wait for a tick are not part of it.
    pub(crate) fn write(&self, seat: SeatKey, to: &mut SnapshotWriter) {
        let state = self.get(seat).expect("a seat with a session has its state");
        let SessionState { since_seq, since_n, begun_at, upstream, unanswered: _, directs } = state;
        to.option(*since_seq);
        to.number(*since_n);
        to.flag(begun_at.is_some());
        if let Some(Position { epoch, seq, n }) = *begun_at {
            [epoch, seq, n].into_iter().for_each(|number| to.number(number));
        }
        upstream.write(to);
        directs.write(to);
    }

    /// Reads the state of the session in a seat that has none.
    pub(crate) fn read(&mut self, seat: SeatKey, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let (since_seq, since_n) = (from.option()?, from.count()?);
        let begun_at = match from.flag()? {
            true => Some(Position { epoch: from.count()?, seq: from.count()?, n: from.count()? }),
            false => None,
        };
        let upstream = Upstream::read(from)?;
        let directs = Directs::read(self.direct_frames, self.direct_bytes, from)?;
        let state = SessionState { since_seq, since_n, begun_at, upstream, unanswered: 0, directs };
        self.of_seats.insert(seat, Box::new(state));
        Ok(())
    }

    /// Forgets all sessions.
    pub(crate) fn clear(&mut self) {
        self.of_seats = SideTable::default();
    }

    pub(crate) fn remove(&mut self, seat: SeatKey) {
        self.of_seats.remove(seat);
    }

    pub(crate) fn get(&self, seat: SeatKey) -> Option<&SessionState> {
        self.of_seats.get(seat).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, seat: SeatKey) -> Option<&mut SessionState> {
        self.of_seats.get_mut(seat).map(Box::as_mut)
    }

    /// Returns the state of a seat that has a session.
    pub(crate) fn state(&mut self, seat: SeatKey) -> &mut SessionState {
        self.get_mut(seat).expect("a seat with a session has its state")
    }

    /// Number of sessions.
    pub(crate) fn count(&self) -> usize {
        self.of_seats.keys().count()
    }
}

/// Histories of the lobbies that have a session.
#[derive(Debug)]
pub(crate) struct Histories {
    max_frames: u32,
    max_bytes: usize,
    /// By the key of the lobby, with its epoch: a lobby may have the key of one that was just removed.
    of_lobbies: SideTable<LobbyKey, (u64, Box<History>)>,
}

impl Histories {
    pub(crate) fn new(config: &Config) -> Histories {
        Histories {
            max_frames: config.history_frames,
            max_bytes: config.history_bytes.0,
            of_lobbies: SideTable::default(),
        }
    }

    /// Begins the history of a lobby in this epoch whose last frame had the number `seq`, unless it has one.
    pub(crate) fn keep(&mut self, lobby: LobbyKey, epoch: u64, seq: u64) {
        if self.of_lobbies.get(lobby).is_none_or(|(known, _)| *known != epoch) {
            let history = History::new(seq, self.max_frames, self.max_bytes);
            self.of_lobbies.insert(lobby, (epoch, Box::new(history)));
        }
    }

    /// Writes the history of a lobby to a snapshot.
    pub(crate) fn write(&self, lobby: LobbyKey, to: &mut SnapshotWriter) {
        self.get(lobby).expect("a lobby with a session has a history").write(to);
    }

    /// Reads the history of a lobby in this epoch.
    pub(crate) fn read(
        &mut self,
        lobby: LobbyKey,
        epoch: u64,
        from: &mut SnapshotReader<'_>,
    ) -> Result<(), SnapshotError> {
        let history = History::read(self.max_frames, self.max_bytes, from)?;
        self.of_lobbies.insert(lobby, (epoch, Box::new(history)));
        Ok(())
    }

    /// Forgets all histories.
    pub(crate) fn clear(&mut self) {
        self.of_lobbies = SideTable::default();
    }

    pub(crate) fn remove(&mut self, lobby: LobbyKey) {
        self.of_lobbies.remove(lobby);
    }

    #[inline]
    pub(crate) fn get(&self, lobby: LobbyKey) -> Option<&History> {
        self.of_lobbies.get(lobby).map(|(_, history)| &**history)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, lobby: LobbyKey) -> Option<&mut History> {
        self.of_lobbies.get_mut(lobby).map(|(_, history)| &mut **history)
    }

    /// Number of histories.
    pub(crate) fn count(&self) -> usize {
        self.of_lobbies.keys().count()
    }
}
