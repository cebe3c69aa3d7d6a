//! Read-only views of a node's part in a cluster, for the simulator.

use std::fmt::Write as _;

use super::super::Engine;
use super::super::app::App;
use super::operation::Operation;
use crate::base::checksum::Checksum;
use crate::base::id::SeatId;
use crate::base::time::Time;
use crate::cluster::log::Incarnation;

/// A seat, as a node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeatInCluster {
    pub(crate) id: SeatId,
    pub(crate) user: String,
    /// The node that has, or had, its connection.
    pub(crate) node: Incarnation,
    pub(crate) is_away: bool,
    /// Whether it has a connection on this node.
    pub(crate) is_here: bool,
}

impl<A: App> Engine<A> {
    /// Returns everything that all nodes share, as text. Empty before the node has executed an entry.
    pub(crate) fn shared_state(&self) -> String {
        let core = &self.core;
        let Some(cluster) = &core.cluster else { return String::new() };
        let mut out = format!("time {} executed {} nodes", cluster.unix_micros, cluster.executed);
        for (node, name) in &cluster.nodes {
            let _ = write!(out, " {node}={name}");
        }
        out.push('\n');
        let unix = |time: Time| match time {
            Time::ZERO | Time::NEVER => time.as_micros(),
            time => cluster.origin.unix_micros(time),
        };
        let now = cluster.origin.time(cluster.unix_micros);
        core.directory.write_shared(
            &mut out,
            now,
            unix,
            |out, seat| {
                if let Some(connection) = cluster.seat_connections.get(seat) {
                    let _ = write!(
                        out,
                        " held by {} since {} data {:?}",
                        connection.node, connection.join_number, connection.data
                    );
                }
                if let Some(state) = core.sessions.get(seat) {
                    let (upstream, directs) = (&state.upstream, &state.directs);
                    let _ = write!(out, " since {:?} {} {:?}", state.since_seq, state.since_n, state.begun_at);
                    let _ = write!(out, " done {} {}", upstream.done(), upstream.refused_hex());
                    let held = (directs.last(), directs.forgotten(), directs.written());
                    let _ = write!(out, " directs {held:?}");
                    for entry in directs.entries_after(0) {
                        let _ = write!(out, " {entry:?}");
                    }
                }
            },
            |out, lobby| {
                if let Some(history) = core.histories.get(lobby) {
                    let _ = write!(out, " history");
                    for entry in history.entries_after(0) {
                        let _ = write!(out, " {} {}", entry.seq, entry.text.len());
                    }
                }
            },
        );
        // What the text does not show.
        let snapshot = core.write_snapshot(now, cluster.origin);
        let mut checksum = Checksum::new(0);
        checksum.write(&snapshot);
        let _ = writeln!(out, "snapshot of {} bytes, {:016x}", snapshot.len(), checksum.finish());
        out
    }

    /// Returns all seats, in any order.
    pub(crate) fn seats_in_cluster(&self) -> Vec<SeatInCluster> {
        let Some(cluster) = &self.core.cluster else { return Vec::new() };
        let directory = &self.core.directory;
        let seat = |key| {
            let (seat, connection) = (directory.seat(key), cluster.seat_connections.get(key)?);
            Some(SeatInCluster {
                id: seat.id,
                user: directory.user_of(key).to_string(),
                node: connection.node,
                is_away: seat.is_away,
                is_here: directory.conn_of(key).is_some(),
            })
        };
        directory.all_seats().filter_map(seat).collect()
    }
}

/// Shows operations, for the report of a failure.
pub(crate) fn describe(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while let Some((operation, rest)) = Operation::read(bytes) {
        let _ = write!(text, "{operation:?}; ");
        bytes = rest;
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}
