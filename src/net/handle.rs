//! The way in from other threads: data on one bounded queue, and a wake-up.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mio::{Registry, Token, Waker};

use crate::engine::app::Authorization;
use crate::engine::tick::ClockCommand;
use crate::id::ConnId;

/// Reaches a running [`Server`](super::Server) from any thread.
///
/// Everything travels as data and takes effect in the loop's next turn, in the order in which it was sent.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<VecDeque<Command>>,
    waker: Waker,
    max_commands: usize,
}

#[derive(Debug)]
pub(super) enum Command {
    Stop,
    App(Vec<u8>),
    Authorized(ConnId, Authorization),
    Clock(ClockCommand),
}

/// The server has `max_commands` to do already. The command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("max_commands commands wait already")
    }
}

impl std::error::Error for Busy {}

impl Handle {
    pub(super) fn new(registry: &Registry, token: Token, max_commands: u32) -> io::Result<Handle> {
        let waker = Waker::new(registry, token)?;
        let shared = Shared { queue: Mutex::default(), waker, max_commands: max_commands as usize };
        Ok(Handle { shared: Arc::new(shared) })
    }

    /// Asks the server to say goodbye to everybody and end. A second call ends it at once.
    pub fn stop(&self) {
        // Never refused: a full queue is no reason to go on.
        self.push(Command::Stop);
    }

    /// Sends the application a command, for [`App::on_command`](crate::App::on_command).
    ///
    /// # Errors
    ///
    /// [`Busy`] when `max_commands` wait already.
    pub fn send(&self, command: impl Into<Vec<u8>>) -> Result<(), Busy> {
        self.try_push(Command::App(command.into()))
    }

    /// Answers an authorization that is [`Pending`](Authorization::Pending).
    ///
    /// # Errors
    ///
    /// [`Busy`] when `max_commands` wait already.
    pub fn authorized(&self, conn: ConnId, answer: Authorization) -> Result<(), Busy> {
        self.try_push(Command::Authorized(conn, answer))
    }

    /// Sets the game's clock, as an operator may. With `tick_hz` off there is none, and nothing happens; nor does with a
    /// number out of range, or with a step while the clock runs.
    ///
    /// # Errors
    ///
    /// [`Busy`] when `max_commands` wait already.
    pub fn clock(&self, command: ClockCommand) -> Result<(), Busy> {
        self.try_push(Command::Clock(command))
    }

    fn try_push(&self, command: Command) -> Result<(), Busy> {
        let full = self.queue().len() >= self.shared.max_commands;
        if full {
            return Err(Busy);
        }
        self.push(command);
        Ok(())
    }

    fn push(&self, command: Command) {
        self.queue().push_back(command);
        // It fails only when the server is gone, and then nobody is there to wake.
        let _ = self.shared.waker.wake();
    }

    pub(super) fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut *self.queue())
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Command>> {
        // A panic between two lines of this file leaves the queue whole.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
