//! Input from other threads: commands as data in one bounded queue, and a waker for the event loop.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mio::{Registry, Token, Waker};

use super::http_report::HttpReport;
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
    queue: Mutex<Queue>,
    waker: Waker,
}

/// The commands that no turn has taken yet. One lock covers the check of the bound and the insertion.
#[derive(Debug)]
struct Queue {
    commands: VecDeque<Command>,
    /// Bound on `commands`, without the stops.
    max_commands: usize,
    /// Number of commands that the bound does not count: of [`Command::Stop`], of which there are at most [`MAX_STOPS`], and
    /// of [`Command::Http`], of which there is at most one for each thread.
    uncounted: usize,
    stops: usize,
}

/// Stops that are queued at most: the first drains, the second stops at once, and further ones have no effect.
const MAX_STOPS: usize = 2;

#[derive(Debug)]
pub(super) enum Command {
    Stop,
    App(Vec<u8>),
    Authorized(ConnId, Authorization),
    Clock(ClockCommand),
    /// A call of the hook has ended.
    Http(Box<HttpReport>),
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
        let queue = Mutex::new(Queue::new(max_commands as usize));
        Ok(Handle { shared: Arc::new(Shared { queue, waker }) })
    }

    /// Drains the server and stops it. A second call stops it at once.
    pub fn stop(&self) {
        self.queue().push_stop();
        self.wake();
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

    /// Reports the end of a call of the hook.
    #[cfg_attr(not(feature = "hook"), expect(dead_code, reason = "nothing performs calls"))]
    pub(super) fn report(&self, report: HttpReport) {
        self.queue().push_uncounted(Command::Http(Box::new(report)));
        self.wake();
    }

    fn try_push(&self, command: Command) -> Result<(), Busy> {
        self.queue().try_push(command)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // Waking fails only when the server no longer exists; then the command has no effect.
        let _ = self.shared.waker.wake();
    }

    pub(super) fn take(&self) -> VecDeque<Command> {
        self.queue().take()
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // A poisoned lock is safe to use: no code in this module panics while the queue is inconsistent.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn new(max_commands: usize) -> Queue {
        Queue { commands: VecDeque::new(), max_commands, uncounted: 0, stops: 0 }
    }

    fn try_push(&mut self, command: Command) -> Result<(), Busy> {
        if self.commands.len() - self.uncounted >= self.max_commands {
            return Err(Busy);
        }
        self.commands.push_back(command);
        Ok(())
    }

    /// Queues a stop, even when the queue is full.
    fn push_stop(&mut self) {
        if self.stops < MAX_STOPS {
            self.stops += 1;
            self.push_uncounted(Command::Stop);
        }
    }

    fn push_uncounted(&mut self, command: Command) {
        self.uncounted += 1;
        self.commands.push_back(command);
    }

    fn take(&mut self) -> VecDeque<Command> {
        (self.uncounted, self.stops) = (0, 0);
        std::mem::take(&mut self.commands)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const MAX: u32 = 64;

    fn handle() -> (mio::Poll, Handle) {
        let poll = mio::Poll::new().expect("a descriptor is free");
        let handle = Handle::new(poll.registry(), Token(0), MAX).expect("a descriptor is free");
        (poll, handle)
    }

    #[test]
    fn threads_that_send_at_once_never_exceed_the_bound() {
        let (_poll, handle) = handle();
        for _ in 0..200 {
            let barrier = Barrier::new(4);
            let send = || {
                barrier.wait();
                (0..MAX).filter(|_| handle.send("x").is_ok()).count()
            };
            let accepted: usize = thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(send));
                threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
            });
            assert_eq!((accepted, handle.take().len()), (MAX as usize, MAX as usize));
        }
    }

    #[test]
    fn stops_are_accepted_when_the_queue_is_full_and_at_most_two_are_queued() {
        let (_poll, handle) = handle();
        while handle.send("x").is_ok() {}
        (0..1000).for_each(|_| handle.stop());
        assert_eq!(handle.take().len(), MAX as usize + 2);
        (0..1000).for_each(|_| handle.stop());
        assert_eq!(handle.send("x"), Ok(()), "stops take no room from commands");
        assert_eq!(handle.take().len(), 3);
    }
}
