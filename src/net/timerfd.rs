//! A kernel timer (timerfd) that wakes the loop with microsecond precision. The poll's own timeout is rounded up to
//! whole milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::base::time::Time;

#[derive(Debug)]
pub(super) struct TimerFd {
    timer: OwnedFd,
    set_for: Time,
}

impl TimerFd {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<TimerFd> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(TimerFd { timer, set_for: Time::ZERO })
    }

    /// Sets the timer to expire once, at `deadline`; does nothing if that has passed. Setting the timer also clears its
    /// readiness, so it is never read.
    pub(super) fn set(&mut self, now: Time, deadline: Time) -> io::Result<()> {
        // Each setting is a system call, and most turns keep the same deadline.
        if deadline <= now || deadline == self.set_for {
            return Ok(());
        }
        self.set_for = deadline;
        let wait = deadline - now;
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
