//! Carries out what other threads have asked for.

use log::warn;

use super::handle::Command;
use super::server::Server;
use crate::base::time::Time;
use crate::engine::app::App;
use crate::engine::operator::OperatorCommand;

impl<A: App> Server<A> {
    /// Takes the commands from the queue, and carries them out in order.
    pub(super) fn carry_out_commands(&mut self, now: Time) {
        for command in self.handle.take() {
            match command {
                Command::Stop => self.stopping.advance(),
                Command::App(command) => self.engine.handle_command(now, &command),
                Command::Authorized(conn, answer) => self.engine.handle_authorized(now, conn, answer),
                Command::Http(report) => {
                    if let Some(events) = &mut self.server_events {
                        events.handle_report(now, &mut self.engine, *report);
                    }
                }
                Command::Clock(command) => {
                    if let Err(refusal) = self.engine.handle_operator(now, OperatorCommand::Clock(command)) {
                        warn!("the clock command {command:?} was refused: {refusal}");
                    }
                }
            }
        }
    }
}
