//! State of sessions, by seat, and histories of lobbies. A seat without a session and a lobby without one have none.

use crate::base::arena::SideTable;
use crate::base::id::{LobbyKey, SeatKey};
use crate::base::session::Position;
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, ensure};
use crate::config::Config;
use crate::engine::state::directs::Directs;
use crate::engine::state::history::History;
use crate::engine::state::upstream::Upstream;

/// State of one session.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// The `seq` of its first `presence_state`; `None` until that was sent.
    pub(crate) since_seq: Option<u64>,
    /// Number of the last direct message before the session began. Earlier sessions of the seat have read none as high.
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
    /// Numbers of the last direct messages to seats without a session that had one.
    last_directs: SideTable<SeatKey, u64>,
}

impl SessionStates {
    pub(crate) fn new(config: &Config) -> SessionStates {
        SessionStates {
            direct_frames: config.direct_frames,
            direct_bytes: config.direct_bytes.0,
            of_seats: SideTable::default(),
            last_directs: SideTable::default(),
        }
    }

    /// Begins a session on a new seat.
    pub(crate) fn begin(&mut self, seat: SeatKey) {
        self.insert(seat, Directs::after(0, self.direct_frames, self.direct_bytes), 0);
    }

    /// Begins a new session on a seat that was taken over. It receives the direct messages that were never written.
    ///
    /// The number of the last direct message is part of a position, so positions of earlier sessions are recognized by it.
    /// Otherwise a client that comes back with one would be told that none of its requests was executed.
    pub(crate) fn renew(&mut self, seat: SeatKey) {
        let last = self.last_directs.get(seat).copied();
        match self.get_mut(seat) {
            Some(state) => {
                state.since_n = state.directs.begin_session();
                (state.since_seq, state.upstream, state.unanswered) = (None, Upstream::default(), 0);
            }
            None => {
                let mut directs = Directs::after(last.unwrap_or(0), self.direct_frames, self.direct_bytes);
                let since_n = last.map_or(0, |_| directs.begin_session());
                self.insert(seat, directs, since_n);
            }
        }
    }

    /// Ends the session of a seat that is taken over by a connection without one.
    pub(crate) fn end(&mut self, seat: SeatKey) {
        if let Some(last) = self.get(seat).map(|state| state.directs.last()) {
            self.last_directs.insert(seat, last);
            self.of_seats.remove(seat);
        }
    }

    fn insert(&mut self, seat: SeatKey, directs: Directs, since_n: u64) {
        let (upstream, unanswered) = (Upstream::default(), 0);
        let state = SessionState { since_seq: None, since_n, begun_at: None, upstream, unanswered, directs };
        self.of_seats.insert(seat, Box::new(state));
        self.last_directs.remove(seat);
    }

    /// Writes what is known of a seat to a snapshot: the state of its session, if it has one. Requests that wait for a tick
    /// are not part of it.
    pub(crate) fn write(&self, seat: SeatKey, to: &mut SnapshotWriter) {
        let Some(state) = self.get(seat) else {
            return to.option(self.last_directs.get(seat).copied());
        };
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

    /// Reads what is known of a seat.
    pub(crate) fn read(
        &mut self,
        seat: SeatKey,
        has_session: bool,
        from: &mut SnapshotReader<'_>,
    ) -> Result<(), SnapshotError> {
        if !has_session {
            let last = from.option()?;
            ensure(last.is_none_or(|last| last <= 1 << 62), "a count is at most 2^62")?;
            last.into_iter().for_each(|last| self.last_directs.insert(seat, last));
            return Ok(());
        }
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
        self.last_directs = SideTable::default();
    }

    /// Forgets a seat that was freed.
    pub(crate) fn remove(&mut self, seat: SeatKey) {
        self.of_seats.remove(seat);
        self.last_directs.remove(seat);
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
