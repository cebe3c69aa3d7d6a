//! Connections that receive server-sent events instead of frames.
//!
//! Such a connection reads no broadcast log: each frame is encoded for it as an event and queued individually, as for a
//! lagging member. An event carries the position of its reader, so two readers of one frame do not get the same bytes.

use super::output::{Egress, Feed};
use super::results::{LatestQueued, Priority, QueueFull, Queued};
use crate::base::arena::Key;
use crate::base::id::ConnKey;
use crate::ws::event_stream::EventPosition;
use crate::ws::frame::{Frame, Outgoing};

impl Egress {
    /// From now on the connection receives events instead of frames.
    pub(crate) fn open_events(&mut self, key: ConnKey) {
        self.output_mut(key).feed = Feed::Events;
        self.events.open(key);
    }

    /// The position of a connection that receives events.
    pub(crate) fn event_position(&mut self, key: ConnKey) -> Option<&mut EventPosition> {
        self.events.get_mut(key)
    }

    /// Queues a frame as an event. A frame that event streams do not carry is skipped.
    pub(super) fn push_event(
        &mut self,
        key: ConnKey,
        frame: Outgoing<'_>,
        priority: Priority,
        is_bounded: bool,
    ) -> Queued {
        let Some(event) = self.events.encode(key, frame) else { return Ok(None) };
        if is_bounded && !self.has_room(key, event.len()) {
            return Err(QueueFull);
        }
        let priority = self.effective_priority(priority);
        let is_corked = priority == Priority::Deferred;
        let outbox = self.outbox_to_push(key, is_corked);
        match priority {
            Priority::Urgent => outbox.push_whole_ahead(event),
            Priority::Deferred | Priority::Normal => outbox.push_whole(event, is_corked),
        }
        Ok(self.after_push(key, is_corked))
    }

    /// Queues a frame as an event, in place of the unsent one under the key `latest`.
    pub(super) fn push_latest_event(&mut self, key: ConnKey, latest: u64, frame: &Frame) -> LatestQueued {
        let Some(event) = self.events.encode(key, Outgoing::Frame(frame)) else {
            return LatestQueued { is_queued: true, has_replaced: false, crossed: None };
        };
        let Egress { conns, outboxes, .. } = self;
        let has_replaced = outboxes.of(&mut conns[key.index()].outbox).drop_latest(latest);
        let (has_room, is_corked) = (self.has_room(key, event.len()), self.corks_output());
        if has_room {
            self.outbox_to_push(key, is_corked).push_latest_whole(latest, event, is_corked);
        }
        let crossed = self.after_push(key, is_corked);
        LatestQueued { is_queued: has_room, has_replaced, crossed }
    }
}
