//! How `lobbyd cluster` starts other programs: it starts itself, asks the kernel to end this process with its parent, and becomes
//! the other program.
//!
//! So nothing is left behind even if `lobbyd cluster` is killed. Linux only: elsewhere the processes go on then.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

/// The hidden argument of `lobbyd cluster`: the id of the parent, a program, and the arguments of the program.
pub(super) const ARGUMENT: &str = "execute";

/// Returns a command that becomes `program`, in a process group of its own.
pub(super) fn command(program: &OsStr) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["cluster", &format!("--{ARGUMENT}"), &process::id().to_string()]).arg(program).process_group(0);
    Ok(command)
}

/// Becomes another program. Returns why it cannot.
pub(super) fn execute<'a>(mut words: impl Iterator<Item = &'a OsString>) -> String {
    let (Some(parent), Some(program)) = (words.next(), words.next()) else { return "no program is named".into() };
    if !ends_with_parent(parent) {
        return "lobbyd cluster has ended".into();
    }
    let error = Command::new(program).args(words).exec();
    format!("{}: it cannot be started: {error}", program.display())
}

/// Asks for SIGKILL at the end of the parent. Returns false if it has ended already.
#[cfg(target_os = "linux")]
fn ends_with_parent(parent: &OsStr) -> bool {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

    let is_set = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    let current = getppid().map(|id| Pid::as_raw(Some(id)).to_string());
    is_set && current.is_some_and(|current| *parent == *current)
}

#[cfg(not(target_os = "linux"))]
fn ends_with_parent(_parent: &OsStr) -> bool {
    true
}
