//! Calls the application: delivers messages, and dispatches events after the call that caused them.

use std::borrow::Cow;

use super::Engine;
use super::app::App;
use super::context::Context;
use super::member::{Member, Message};
use super::observer::ObservedEvent;
use super::state::events::AppEvent;
use crate::base::close::Reject;

impl<A: App> Engine<A> {
    /// Flushes presence and dispatches events until nothing is left to do.
    pub(super) fn flush_presence_and_events(&mut self) {
        // A callback may send, and so change lobbies again.
        while !self.core.unflushed_lobbies.is_empty() || !self.core.events.is_empty() {
            self.core.flush_all_presence();
            self.dispatch_events();
        }
    }

    /// Passes a message to the application. Returns the rejection if the application rejected the message.
    pub(super) fn deliver(&mut self, from: &Member, message: Message<'_>) -> Option<(Reject, Cow<'static, str>)> {
        let Engine { app, core } = self;
        // A rejection from another callback is discarded: it does not belong to this message.
        core.answer.rejection = None;
        core.observer.note(core.clock.now(), || ObservedEvent::Message { from: from.clone(), content: message.into() });
        app.on_message(&mut Context { core }, from, message);
        core.take_rejection()
    }

    /// Dispatches events to the application, including those that its callbacks cause, until none is left.
    #[inline]
    pub(super) fn dispatch_events(&mut self) {
        if !self.core.events.is_empty() {
            self.dispatch_all_events();
        }
    }

    pub(super) fn dispatch_all_events(&mut self) {
        while let Some(event) = self.core.events.pop_front() {
            let Engine { app, core } = self;
            core.observe_event(&event);
            let cx = &mut Context { core };
            match event {
                AppEvent::Undelivered(member) => {
                    while let Some(message) = self.core.inboxes.take_of(member.conn) {
                        self.serve_queued(&member, &message);
                    }
                }
                AppEvent::Joined(member) => app.on_join(cx, &member),
                AppEvent::Rejoined(member) => app.on_rejoin(cx, &member),
                AppEvent::Away(member, reason) => app.on_away(cx, &member, reason),
                AppEvent::Back(member) => app.on_back(cx, &member),
                AppEvent::Left(member, reason) => app.on_leave(cx, &member, reason),
                // These happen to a connection, and not on every node of a cluster.
                AppEvent::Health(member, latency) => {
                    let was_shared = cx.core.set_shared(false);
                    app.on_health(cx, &member, latency);
                    self.core.set_shared(was_shared);
                }
                AppEvent::Pressure(member, pressure) => {
                    let was_shared = cx.core.set_shared(false);
                    app.on_pressure(cx, &member, pressure);
                    self.core.set_shared(was_shared);
                }
            }
        }
    }
}
