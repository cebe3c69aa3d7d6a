//! Replays the entries of a node of a cluster: what its link told the engine, and what it took from it.

use std::io;

use super::super::error::Fault;
use super::super::format::kinds;
use super::super::format::read::{BadEntry, EntryReader, Read};
use super::Replay;
use super::output::differs;
use crate::base::checksum::Checksum;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation, LogEntry};
use crate::engine::app::App;
use crate::engine::recording::Input;

/// Longest state that is accepted, in bytes: that of a value in Redis.
const MAX_STATE: usize = 512 << 20;

impl<A: App, R: io::Read> Replay<A, R> {
    /// Replays an entry of a node of a cluster.
    pub(super) fn feed_cluster(&mut self, kind: u8, from: &mut EntryReader<'_>) -> Result<(), Fault> {
        if (kind == kinds::JOIN_CLUSTER) != self.engine.next_entry().is_none() {
            return Err(BadEntry.into());
        }
        match kind {
            kinds::JOIN_CLUSTER if self.engine.is_blank() => self.engine.replay_input(self.now, &Input::JoinCluster),
            kinds::CLUSTER_STATE => {
                let part = from.slice()?;
                if part.is_empty() || self.cluster_state.len() + part.len() > MAX_STATE {
                    return Err(BadEntry.into());
                }
                self.cluster_state.extend_from_slice(part);
            }
            kinds::CLUSTER_ATTACHED => {
                let (node, index) = (Incarnation(from.number()?), from.count()?);
                let bytes = std::mem::take(&mut self.cluster_state);
                let state = if from.flag()? { Some(&*bytes) } else { None };
                if state.is_none() && !bytes.is_empty() {
                    return Err(BadEntry.into());
                }
                self.note(None, || format!("is attached to the cluster as node {node}, at entry {index}"));
                self.feed_link(ClusterInput::Attached { node, index, state });
            }
            kinds::CLUSTER_ENTRY => {
                let entry = log_entry(from)?;
                if self.engine.next_entry() != Some(entry.index) {
                    return Err(BadEntry.into());
                }
                self.feed_link(ClusterInput::Entry(entry));
            }
            kinds::CLUSTER_REACHABLE => {
                let is_reachable = from.flag()?;
                let what = if is_reachable { "answers" } else { "does not answer" };
                self.note(None, || format!("learns that Redis {what}"));
                self.feed_link(ClusterInput::Reachable(is_reachable));
            }
            kinds::CLUSTER_DETACHED => {
                self.note(None, || "is no longer attached to the cluster".to_owned());
                self.feed_link(ClusterInput::Detached);
            }
            kinds::CLUSTER_TAKEN => self.compare_taken(from)?,
            _ => return Err(BadEntry.into()),
        }
        Ok(())
    }

    fn feed_link(&mut self, input: ClusterInput<'_>) {
        self.engine.replay_input(self.now, &Input::Cluster(input));
    }

    /// Takes what the link took, and compares it with the recorded checksum.
    fn compare_taken(&mut self, from: &mut EntryReader<'_>) -> Result<(), Fault> {
        let recorded = match from.byte()? {
            0 => None,
            1 => Some((from.number()?, from.number()?)),
            _ => return Err(BadEntry.into()),
        };
        let (length, checksum) = (from.number()?, from.take(8)?);
        let output = self.engine.poll_cluster();
        let (place, bytes) = match &output {
            None => return Err(differs("nothing more is appended to the log of the cluster")),
            Some(ClusterOutput::Append(bytes)) => (None, bytes),
            Some(ClusterOutput::State { node, index, bytes }) => (Some((node.0, *index)), bytes),
        };
        let mut taken = Checksum::new(0);
        taken.write(bytes);
        if place != recorded || bytes.len() as u64 != length || taken.finish().to_le_bytes() != checksum {
            let what =
                if place.is_none() { "other operations are appended to" } else { "another state is provided for" };
            return Err(differs(format!("{what} the cluster: {} bytes", bytes.len())));
        }
        Ok(())
    }
}

fn log_entry<'a>(from: &mut EntryReader<'a>) -> Read<LogEntry<'a>> {
    let (index, unix_micros) = (from.count()?, from.count()?);
    let body = match from.byte()? {
        0 => EntryBody::Founded,
        1 => {
            let (node, name) = (Incarnation(from.number()?), from.slice()?);
            EntryBody::Attached { node, name: std::str::from_utf8(name).map_err(|_| BadEntry)? }
        }
        2 => EntryBody::Ended { node: Incarnation(from.number()?) },
        3 => EntryBody::Operations { node: Incarnation(from.number()?), bytes: from.slice()? },
        _ => return Err(BadEntry),
    };
    Ok(LogEntry { index, unix_micros, body })
}
