//! What may block before an attempt can connect: the token of the application, and the addresses of a name.
//!
//! A thread does it, and ends with its answer. There is at most one: an attempt that begins while the thread of an earlier
//! one still runs waits for its end.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread;

use mio::Waker;

use super::options::LobbyToken;
use crate::client::action::{Attempt, AttemptId};

/// An attempt that can connect.
pub(super) struct Prepared {
    pub(super) attempt: Attempt,
    pub(super) token: Option<String>,
    /// To be tried in this order. At least one.
    pub(super) addresses: Vec<SocketAddr>,
}

/// An attempt, and what came of it.
pub(super) struct Answer {
    pub(super) id: AttemptId,
    /// Or the reason why it has failed.
    pub(super) prepared: Result<Prepared, &'static str>,
}

pub(super) struct Preparing {
    token: LobbyToken,
    /// Wakes the turn that waits.
    waker: Arc<Waker>,
    /// The attempt whose thread runs.
    running: Option<(AttemptId, Arc<Slot>)>,
    /// The newest attempt, if another one's thread runs.
    next: Option<Attempt>,
}

/// Where a thread leaves its answer.
#[derive(Default)]
struct Slot(Mutex<Progress>);

#[derive(Default)]
enum Progress {
    #[default]
    Running,
    Prepared(Box<Prepared>),
    Failed(&'static str),
}

impl Slot {
    /// Takes the answer, if the thread has left one.
    fn take(&self) -> Option<Result<Prepared, &'static str>> {
        match std::mem::take(&mut *self.0.lock().expect(NO_PANIC)) {
            Progress::Running => None,
            Progress::Prepared(prepared) => Some(Ok(*prepared)),
            Progress::Failed(reason) => Some(Err(reason)),
        }
    }
}

/// The application's function has returned no token, or has panicked.
const NO_TOKEN: &str = "no_token";
/// The host has none that is known.
const NO_ADDRESS: &str = "no_address";
const NO_PANIC: &str = "no thread panics while it holds the lock";

impl Preparing {
    pub(super) fn new(token: LobbyToken, waker: Waker) -> Preparing {
        Preparing { token, waker: Arc::new(waker), running: None, next: None }
    }

    /// Prepares an attempt. Returns its answer if nothing blocks; otherwise [`poll`](Self::poll) does later.
    pub(super) fn begin(&mut self, attempt: Attempt) -> Option<Answer> {
        let is_address = attempt.host().parse::<IpAddr>().is_ok();
        if is_address && !self.token.may_block() {
            return Some(Answer { id: attempt.id(), prepared: prepare(attempt, &self.token) });
        }
        if self.running.is_some() {
            self.next = Some(attempt);
            return None;
        }
        let id = attempt.id();
        match self.spawn(attempt) {
            Ok(slot) => {
                self.running = Some((id, slot));
                None
            }
            // The system has no thread to spare.
            Err(_) => Some(Answer { id, prepared: Err("no_thread") }),
        }
    }

    /// Returns the answer of the thread, once.
    pub(super) fn poll(&mut self) -> Option<Answer> {
        let (id, slot) = self.running.as_ref()?;
        let answer = Answer { id: *id, prepared: slot.take()? };
        self.running = None;
        match self.next.take() {
            // The answer is that of an attempt that was given up.
            Some(next) => self.begin(next),
            None => Some(answer),
        }
    }

    fn spawn(&self, attempt: Attempt) -> io::Result<Arc<Slot>> {
        let slot = Arc::new(Slot::default());
        let reply = Reply { slot: slot.clone(), waker: self.waker.clone(), prepared: Err(NO_TOKEN) };
        let token = self.token.clone();
        let work = move || {
            let mut reply = reply;
            reply.prepared = prepare(attempt, &token);
        };
        thread::Builder::new().name("lobby".to_owned()).spawn(work)?;
        Ok(slot)
    }
}

/// Leaves the answer and wakes the turn when it is dropped: also if the application's function panics.
struct Reply {
    slot: Arc<Slot>,
    waker: Arc<Waker>,
    prepared: Result<Prepared, &'static str>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        let prepared = std::mem::replace(&mut self.prepared, Err(NO_TOKEN));
        let progress = prepared.map_or_else(Progress::Failed, |prepared| Progress::Prepared(Box::new(prepared)));
        *self.slot.0.lock().expect(NO_PANIC) = progress;
        // Fails if the client is gone.
        let _ = self.waker.wake();
    }
}

fn prepare(attempt: Attempt, token: &LobbyToken) -> Result<Prepared, &'static str> {
    let token = token.get().map_err(|_| NO_TOKEN)?;
    let found = (attempt.host(), attempt.port()).to_socket_addrs().map_err(|_| NO_ADDRESS)?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(NO_ADDRESS);
    }
    Ok(Prepared { attempt, token, addresses })
}
