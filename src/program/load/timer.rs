//! Waits that are more precise than those of a poll, which are rounded up to whole milliseconds: on Linux a timerfd.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

#[derive(Debug)]
pub(super) struct Timer {
    #[cfg(target_os = "linux")]
    timer: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Timer {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        use std::os::fd::AsRawFd;

        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut mio::unix::SourceFd(&timer.as_raw_fd()), token, mio::Interest::READABLE)?;
        Ok(Timer { timer })
    }

    /// Makes the next poll end after `wait`. Returns the timeout for the poll.
    pub(super) fn set(&mut self, wait: Duration) -> io::Result<Duration> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

        if wait.is_zero() {
            return Ok(wait);
        }
        let it_value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        // Setting the timer also clears its readiness, so it is never read.
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: Timespec::default(), it_value },
        )?;
        Ok(wait + Duration::from_millis(1))
    }
}

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(super) fn new(_: &Registry, _: Token) -> io::Result<Timer> {
        Ok(Timer {})
    }

    pub(super) fn set(&mut self, wait: Duration) -> io::Result<Duration> {
        Ok(wait)
    }
}
