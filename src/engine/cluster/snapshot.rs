//! The snapshot of the shared state: what a node that attaches loads, so that it goes on exactly as the others do.
//!
//! ```text
//! magic 8 bytes | version u32 | checksum of the rest u64 | time | nodes | directory | for each lobby: history, its seats
//! ```
//!
//! It contains everything on which a shared decision depends, and nothing that belongs to one node: connections, addresses,
//! reservations, rate buckets and queues. Two engines with the same shared state write the same bytes at the same time. A
//! snapshot is written between two entries of the log, when everything that was due has been done.
//!
//! Numbers of the head are little-endian. The values after it are those of [`base::snapshot`](crate::base::snapshot).

use std::sync::Arc;

use smol_str::SmolStr;

use crate::base::checksum::Checksum;
use crate::base::close::CloseReason;
use crate::base::id::{LobbyKey, SeatKey};
use crate::base::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter, VERSION, ensure, ensure_setting};
use crate::base::time::Time;
use crate::cluster::log::Incarnation;
use crate::engine::core::Core;
use crate::engine::state::cluster::{SeatConnection, SharedOrigin};

const MAGIC: &[u8; 8] = b"lobbysnp";
const HEAD_BYTES: usize = 20;

impl Core {
    /// Returns a snapshot of the shared state. `now` is the time of the shared clock, which has this origin.
    pub(in crate::engine) fn write_snapshot(&self, now: Time, origin: SharedOrigin) -> Vec<u8> {
        let mut to = SnapshotWriter::new(now);
        to.raw(&[0; HEAD_BYTES]);
        to.number(origin.unix_micros(now));
        self.write_nodes(&mut to);
        let lobbies = self.directory.lobbies_to_share();
        self.directory.write(&lobbies, &mut to);
        lobbies.iter().for_each(|&lobby| self.write_lobby(lobby, &mut to));
        let mut bytes = to.into_bytes();
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let checksum = checksum_of(&bytes[HEAD_BYTES..]);
        bytes[12..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Loads a snapshot into this engine, which has no users, lobbies and seats. `now` is the time of this engine: the shared
    /// clock has the origin that makes it the time of the snapshot, unless another one is given. Returns the time of the
    /// snapshot, in microseconds since the Unix epoch.
    ///
    /// Every seat becomes one without a connection of this engine.
    ///
    /// # Errors
    ///
    /// A [`SnapshotError`] if the bytes are no snapshot, or do not fit the settings. There are still no users, lobbies and seats
    /// then.
    pub(in crate::engine) fn load_snapshot(
        &mut self,
        bytes: &[u8],
        now: Time,
        origin: Option<SharedOrigin>,
    ) -> Result<u64, SnapshotError> {
        if !self.directory.is_blank() {
            return Err(SnapshotError::NotBlank);
        }
        let body = body_of(bytes)?;
        let unix_now = SnapshotReader::new(body, 0).count()?;
        let origin = origin.unwrap_or_else(|| SharedOrigin::at(now, unix_now));
        let loaded = self.read_snapshot(&mut SnapshotReader::new(body, origin.unix_at_zero));
        if loaded.is_err() {
            self.forget_shared();
        }
        loaded
    }

    /// Forgets the shared state: all users, lobbies and seats.
    pub(in crate::engine) fn forget_shared(&mut self) {
        self.directory.forget_all();
        self.sessions.clear();
        self.histories.clear();
        self.unflushed_lobbies.clear();
        if let Some(cluster) = &mut self.cluster {
            cluster.forget_seats();
            cluster.nodes.clear();
        }
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<u64, SnapshotError> {
        let unix_now = from.count()?;
        from.set_unix_now(unix_now);
        self.read_nodes(from)?;
        for lobby in self.directory.read(from)? {
            self.read_lobby(lobby, from)?;
        }
        ensure(from.is_empty(), "nothing follows the last lobby")?;
        Ok(unix_now)
    }

    // ---- the cluster itself ----

    fn write_nodes(&self, to: &mut SnapshotWriter) {
        to.option(self.cluster.as_ref().map(|cluster| cluster.executed));
        let Some(cluster) = &self.cluster else { return };
        to.len(cluster.nodes.len());
        for (node, name) in &cluster.nodes {
            to.number(node.0);
            to.text(name);
        }
    }

    fn read_nodes(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let executed = from.option()?;
        ensure_setting(executed.is_some() == self.cluster.is_some(), "cluster")?;
        let (Some(cluster), Some(executed)) = (&mut self.cluster, executed) else { return Ok(()) };
        ensure(executed <= 1 << 62, "a count is at most 2^62")?;
        (cluster.executed, cluster.nodes) = (executed, Default::default());
        for _ in 0..from.len()? {
            let (node, name) = (Incarnation(from.number()?), SmolStr::new(from.text()?));
            let is_last = cluster.nodes.last_key_value().is_none_or(|(&last, _)| last < node);
            ensure(is_last, "nodes are ordered by their incarnations")?;
            cluster.nodes.insert(node, name);
        }
        Ok(())
    }

    fn write_connection(&self, seat: SeatKey, to: &mut SnapshotWriter) {
        let Some(cluster) = &self.cluster else { return };
        let connection = cluster.seat_connections.get(seat);
        to.flag(connection.is_some());
        if let Some(SeatConnection { seat: _, node, join_number, data, ordered }) = connection {
            to.number(node.0);
            to.number(*join_number);
            to.flag(data.is_some());
            if let Some(data) = data {
                to.len(data.len());
                to.raw(data);
            }
            let number = |reason: CloseReason| CloseReason::ALL.iter().position(|&other| other == reason);
            to.option(ordered.and_then(number).map(|number| number as u64));
        }
    }

    fn read_connection(&mut self, seat: SeatKey, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let Some(cluster) = &mut self.cluster else { return Ok(()) };
        if !from.flag()? {
            return Ok(());
        }
        let (node, join_number) = (Incarnation(from.number()?), from.number()?);
        let data: Option<Arc<[u8]>> = if from.flag()? {
            let len = from.len()?;
            Some(from.raw(len)?.into())
        } else {
            None
        };
        let ordered = match from.option()? {
            None => None,
            Some(number) => {
                let reason = usize::try_from(number).ok().and_then(|number| CloseReason::ALL.get(number));
                ensure(reason.is_some(), "an ordered end has a reason of the server")?;
                reason.copied()
            }
        };
        self.directory.set_away_data(seat, data.clone());
        cluster.set_connection(
            seat,
            SeatConnection { seat: self.directory.seat(seat).id, node, join_number, data, ordered },
        );
        Ok(())
    }

    // ---- lobbies and seats ----

    fn write_lobby(&self, lobby: LobbyKey, to: &mut SnapshotWriter) {
        if self.directory.lobby_ref(lobby).has_sessions() {
            self.histories.write(lobby, to);
        }
        self.directory.all_seats_in(lobby).for_each(|seat| self.write_seat(seat, to));
    }

    fn read_lobby(&mut self, lobby: LobbyKey, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let lobby_ref = self.directory.lobby_ref(lobby);
        if !lobby_ref.presence.is_flushed() || self.directory.is_control_dirty(lobby) {
            self.unflushed_lobbies.push(lobby);
        }
        if lobby_ref.has_sessions() {
            self.histories.read(lobby, lobby_ref.epoch, from)?;
        }
        let seats: Vec<SeatKey> = self.directory.all_seats_in(lobby).collect();
        seats.into_iter().try_for_each(|seat| self.read_seat(seat, from))
    }

    /// Writes what the engine knows of a seat, beside the directory.
    fn write_seat(&self, seat: SeatKey, to: &mut SnapshotWriter) {
        self.sessions.write(seat, to);
        self.write_connection(seat, to);
    }

    fn read_seat(&mut self, seat: SeatKey, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let has_session = self.directory.session_of(seat).is_some();
        self.sessions.read(seat, has_session, from)?;
        self.read_connection(seat, from)
    }
}

/// Returns what follows the head of a snapshot that is whole and has the version that this program reads.
fn body_of(bytes: &[u8]) -> Result<&[u8], SnapshotError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::NoSnapshot)?;
    let (version, rest) = rest.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let (checksum, body) = rest.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    if u64::from_le_bytes(*checksum) == checksum_of(body) { Ok(body) } else { Err(SnapshotError::Damaged) }
}

fn checksum_of(body: &[u8]) -> u64 {
    let mut checksum = Checksum::new(0);
    checksum.write(body);
    checksum.finish()
}

#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;
