//! Entries of a node of a cluster: what the link tells the engine, and what it takes from it.

use super::super::format::kinds;
use super::super::format::write::Put;
use super::super::sink::Sink;
use super::JournalRecorder;
use crate::base::checksum::Checksum;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, LogEntry};

/// Longest part of a state that is one entry, so that a state of any size fits into blocks.
const MAX_STATE_PART: usize = 4 << 20;

impl<S: Sink> JournalRecorder<S> {
    pub(super) fn put_cluster_input(&mut self, input: &ClusterInput<'_>) {
        match *input {
            ClusterInput::Attached { node, index, state } => {
                for part in state.unwrap_or_default().chunks(MAX_STATE_PART) {
                    self.put_slice_entry(kinds::CLUSTER_STATE, part);
                }
                self.put_entry(kinds::CLUSTER_ATTACHED);
                self.buffer.put_number(node.0);
                self.buffer.put_number(index);
                self.buffer.put_byte(state.is_some().into());
            }
            ClusterInput::Entry(entry) => self.put_log_entry(&entry),
            ClusterInput::Reachable(is_reachable) => {
                self.put_entry(kinds::CLUSTER_REACHABLE);
                self.buffer.put_byte(is_reachable.into());
            }
            ClusterInput::Detached => self.put_entry(kinds::CLUSTER_DETACHED),
        }
    }

    fn put_log_entry(&mut self, &LogEntry { index, unix_micros, body }: &LogEntry<'_>) {
        let (form, node, bytes) = match body {
            EntryBody::Founded => (0, None, None),
            EntryBody::Attached { node, name } => (1, Some(node), Some(name.as_bytes())),
            EntryBody::Ended { node } => (2, Some(node), None),
            EntryBody::Operations { node, bytes } => (3, Some(node), Some(bytes)),
        };
        let fits = self.make_room(bytes.map_or(0, <[u8]>::len));
        self.buffer.put_byte(kinds::CLUSTER_ENTRY);
        self.buffer.put_number(index);
        self.buffer.put_number(unix_micros);
        self.buffer.put_byte(form);
        if let Some(node) = node {
            self.buffer.put_number(node.0);
        }
        if let Some(bytes) = bytes {
            self.put_last(bytes, fits);
        }
    }

    /// Records an output: its checksum, as for bytes that are sent to a client.
    pub(super) fn put_cluster_taken(&mut self, output: &ClusterOutput) {
        self.put_entry(kinds::CLUSTER_TAKEN);
        let bytes = match output {
            ClusterOutput::Append(bytes) => {
                self.buffer.put_byte(0);
                bytes
            }
            ClusterOutput::State { node, index, bytes } => {
                self.buffer.put_byte(1);
                self.buffer.put_number(node.0);
                self.buffer.put_number(*index);
                bytes
            }
        };
        self.buffer.put_number(bytes.len() as u64);
        let mut checksum = Checksum::new(0);
        checksum.write(bytes);
        self.buffer.put_bytes(&checksum.finish().to_le_bytes());
    }
}
