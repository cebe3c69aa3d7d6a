//! A timer of the kernel's that wakes the loop to the microsecond: a poll's own timeout is rounded up to milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::time::Time;

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

    /// Rings once, at `deadline`, if that is not over. Setting it takes back that it has rung, so it is never read.
    pub(super) fn set(&mut self, now: Time, deadline: Time) -> io::Result<()> {
        // Most turns do not change it, and each setting is a system call.
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
