//! Input from other threads: commands as data in one bounded queue, and a waker for the event loop.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mio::{Registry, Token, Waker};

use crate::base::id::ConnId;
use crate::engine::app::Authorization;
use crate::engine::state::ticks::ClockCommand;

/// Reaches a running [`Server`](super::Server) from any thread.
///
/// Commands are data. They take effect in the loop's next turn, in the order in which they were sent.
///
/// ```
/// use lobbyd::apps::Relay;
/// use lobbyd::net::{Busy, Server};
/// use lobbyd::Config;
///
/// let config = Config { listen: "127.0.0.1:0".parse().unwrap(), max_commands: 1, ..Config::default() };
/// let mut server = Server::bind(config, Relay::default())?;
/// let handle = server.handle();
/// // No turn has taken the first command from the queue.
/// assert_eq!(handle.send("a command for the application"), Ok(()));
/// assert_eq!(handle.send("another"), Err(Busy));
/// let other = std::thread::spawn(move || handle.stop());
/// assert_eq!(server.run()?.forced, 0);
/// other.join().unwrap();
/// # Ok::<(), lobbyd::net::Error>(())
/// ```
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

/// The queue already holds `max_commands` commands. The new command was not accepted.
///
/// [`Handle`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue already holds max_commands commands")
    }
}

impl std::error::Error for Busy {}

impl Handle {
    pub(super) fn new(registry: &Registry, token: Token, max_commands: u32) -> io::Result<Handle> {
        let waker = Waker::new(registry, token)?;
        let shared = Shared { queue: Mutex::default(), waker, max_commands: max_commands as usize };
        Ok(Handle { shared: Arc::new(shared) })
    }

    /// Drains the server and stops it. A second call stops it at once.
    pub fn stop(&self) {
        // Accepted even when the queue is full.
        self.push(Command::Stop);
    }

    /// Sends a command to the application, which receives it in [`App::on_command`](crate::App::on_command).
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue already holds `max_commands` commands.
    pub fn send(&self, command: impl Into<Vec<u8>>) -> Result<(), Busy> {
        self.try_push(Command::App(command.into()))
    }

    /// Answers an authorization that is [`Pending`](Authorization::Pending).
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue already holds `max_commands` commands.
    pub fn authorized(&self, conn: ConnId, answer: Authorization) -> Result<(), Busy> {
        self.try_push(Command::Authorized(conn, answer))
    }

    /// Controls the game clock, as an operator may. The command has no effect, and a warning is logged, when `tick_hz`
    /// is off, when its number is out of range, or when it is a step while the clock runs.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the queue already holds `max_commands` commands.
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
        // Waking fails only when the server no longer exists; then the command has no effect.
        let _ = self.shared.waker.wake();
    }

    pub(super) fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut *self.queue())
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Command>> {
        // A poisoned lock is safe to use: no code in this module panics while the queue is inconsistent.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
