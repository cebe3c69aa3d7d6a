//! The positions of the connections that receive server-sent events.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::id::ConnKey;
use crate::ws::event_stream::EventPosition;
use crate::ws::frame::Outgoing;

/// The position of each connection that receives events.
#[derive(Debug, Default)]
pub(super) struct EventPositions(BTreeMap<ConnKey, EventPosition>);

impl EventPositions {
    pub(super) fn open(&mut self, key: ConnKey) {
        self.0.insert(key, EventPosition::default());
    }

    pub(super) fn get_mut(&mut self, key: ConnKey) -> Option<&mut EventPosition> {
        self.0.get_mut(&key)
    }

    /// Encodes a frame for the connection under `key`; `None` if event streams do not carry such a frame.
    pub(super) fn encode(&mut self, key: ConnKey, frame: Outgoing<'_>) -> Option<Bytes> {
        let position = self.0.get_mut(&key).expect("open_events() has inserted it");
        position.event(frame).map(Bytes::from)
    }

    pub(super) fn remove(&mut self, key: ConnKey) {
        self.0.remove(&key);
    }
}
