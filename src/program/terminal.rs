//! Whether SIGHUP means that the terminal of the program was closed.

use std::fs::{self, File};
use std::io::{self, IsTerminal};

/// Returns whether the process was started in a terminal, whose end is to end the process too.
///
/// It must be called before the handler of SIGHUP is installed, and while the terminal exists.
pub(crate) fn ends_with_terminal() -> bool {
    // Only a process with a controlling terminal can open this file.
    let has_terminal = File::open("/dev/tty").is_ok()
        || io::stdin().is_terminal()
        || io::stdout().is_terminal()
        || io::stderr().is_terminal();
    has_terminal && !is_sighup_ignored()
}

/// Whether SIGHUP was ignored when the process began: `nohup` starts programs so, and they outlast their terminal.
///
/// Linux only. Elsewhere nobody can ask for the action of a signal without unsafe code.
fn is_sighup_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_sighup(&status))
}

/// Reads the mask of ignored signals from the text of `/proc/self/status`. SIGHUP has the number 1, the lowest bit.
fn ignores_sighup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_of_the_mask_is_sighup() {
        assert!(ignores_sighup("Name:\tlobbyd\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"));
        assert!(!ignores_sighup("Name:\tlobbyd\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_sighup("") && !ignores_sighup("SigIgn:\tx"));
    }
}
