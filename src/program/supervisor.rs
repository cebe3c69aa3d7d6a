//! Notifications to the service manager: sd_notify(3) over the socket that `NOTIFY_SOCKET` names.
//!
//! systemd starts a unit with `Type=notify` and waits for `READY=1`. With `WatchdogSec=` it also expects `WATCHDOG=1`
//! regularly. The loop itself sends it, so a loop that hangs is found. Without the variables nothing is sent.
#![expect(clippy::disallowed_methods, reason = "the watchdog belongs to the program, not to the engine")]

use std::env;
use std::io;
use std::time::{Duration, Instant};

use log::warn;

use super::logger::TARGET;

/// Fields of the first notification with the addresses of members and operators. sd_notify(3) reserves `X_` for fields that the manager
/// does not know; `lobbyd cluster` reads them.
pub(crate) const LISTEN_VARIABLE: &str = "X_LISTEN";
pub(crate) const ADMIN_VARIABLE: &str = "X_ADMIN";

/// The connection to the service manager. Does nothing if the program was not started by one.
pub(crate) struct Supervisor {
    manager: Option<Manager>,
    watchdog: Option<Watchdog>,
    is_stopping: bool,
    warned: bool,
}

struct Watchdog {
    /// Half of the time after which the manager ends the process, as sd_watchdog_enabled(3) advises.
    interval: Duration,
    due: Instant,
}

impl Supervisor {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// # Errors
    ///
    /// A sentence about the variable that cannot be used.
    pub(crate) fn from_environment() -> Result<Supervisor, String> {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let manager = name.map(|name| {
            Manager::at(&name)
                .map_err(|error| format!("NOTIFY_SOCKET = {}: {error}", name.to_string_lossy().escape_debug()))
        });
        let manager = manager.transpose()?;
        let watchdog = watchdog_interval().filter(|_| manager.is_some());
        let watchdog = watchdog.map(|interval| Watchdog { interval, due: Instant::now() });
        Ok(Supervisor { manager, watchdog, is_stopping: false, warned: false })
    }

    /// Reports that the server listens, and where.
    pub(crate) fn report_started(&mut self, status: &str, listen: &str, admin: Option<&str>) {
        let admin = admin.map(|admin| format!("\n{ADMIN_VARIABLE}={admin}"));
        let admin = admin.unwrap_or_default();
        self.send(&format!("READY=1\nSTATUS={status}\n{LISTEN_VARIABLE}={listen}{admin}"));
    }

    /// Reports that the files were read again.
    pub(crate) fn report_ready(&mut self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports that files are read again. [`report_ready`](Self::report_ready) ends it.
    pub(crate) fn report_reloading(&mut self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
    }

    /// Returns the longest time that a turn may wait.
    pub(crate) fn max_wait(&self) -> Option<Duration> {
        self.watchdog.as_ref().map(|watchdog| watchdog.due.saturating_duration_since(Instant::now()))
    }

    /// Called after each turn of the loop. Reports once that the server drains, and for the watchdog that the loop runs.
    /// `status` is the line that the manager shows.
    pub(crate) fn after_turn(&mut self, is_draining: bool, status: impl Fn() -> String) {
        if is_draining && !self.is_stopping {
            self.is_stopping = true;
            self.send(&format!("STOPPING=1\nSTATUS={}", status()));
        }
        let Some(watchdog) = &mut self.watchdog else { return };
        let now = Instant::now();
        if now >= watchdog.due {
            watchdog.due = now + watchdog.interval;
            self.send(&format!("WATCHDOG=1\nSTATUS={}", status()));
        }
    }

    fn send(&mut self, message: &str) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.send(message)
            && !self.warned
        {
            self.warned = true;
            warn!(target: TARGET, "the service manager cannot be notified: {error}");
        }
    }
}

/// Returns the time between two notifications for the watchdog, if the manager has one for this process.
fn watchdog_interval() -> Option<Duration> {
    let is_ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (is_ours && micros > 0).then(|| Duration::from_micros(micros) / 2)
}

/// Returns CLOCK_MONOTONIC, with which the manager orders a reload and its notification.
#[cfg(target_os = "linux")]
fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[cfg(not(target_os = "linux"))]
fn monotonic_micros() -> i64 {
    0
}

/// The manager's socket.
#[cfg(unix)]
struct Manager {
    socket: std::os::unix::net::UnixDatagram,
    address: std::os::unix::net::SocketAddr,
}

#[cfg(unix)]
impl Manager {
    fn at(name: &std::ffi::OsStr) -> io::Result<Manager> {
        let (socket, address) = (std::os::unix::net::UnixDatagram::unbound()?, address(name)?);
        // The manager reads at once. A full queue means that it hangs, and waiting for it would stop the server.
        socket.set_nonblocking(true)?;
        Ok(Manager { socket, address })
    }

    fn send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.address).map(drop)
    }
}

/// Returns the address of a socket file, or of an abstract socket, which is written with a leading `@`.
#[cfg(unix)]
fn address(name: &std::ffi::OsStr) -> io::Result<std::os::unix::net::SocketAddr> {
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither an absolute path nor an abstract name")),
    }
}

/// Elsewhere no manager speaks this protocol.
#[cfg(not(unix))]
enum Manager {}

#[cfg(not(unix))]
impl Manager {
    fn at(_: &std::ffi::OsStr) -> io::Result<Manager> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn send(&self, _: &str) -> io::Result<()> {
        match *self {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::ffi::OsStr;
    use std::os::linux::net::SocketAddrExt;
    use std::path::Path;

    use super::address;

    #[test]
    fn socket_files_and_abstract_sockets_are_understood_and_nothing_else() {
        let file = address(OsStr::new("/run/systemd/notify")).expect("a path");
        assert_eq!(file.as_pathname(), Some(Path::new("/run/systemd/notify")));
        let name = address(OsStr::new("@/org/x")).expect("an abstract name");
        assert_eq!(name.as_abstract_name(), Some(&b"/org/x"[..]));
        for other in ["run/notify", "vsock:2:1"] {
            assert!(address(OsStr::new(other)).is_err(), "{other}");
        }
    }
}
