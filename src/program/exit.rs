//! Exit codes of the program and of its commands. The help, the man page and the guide have the same sentences.

use std::fmt::Write;

pub(crate) const FAILED: u8 = 1;
/// The program or the command did not start as it was asked to.
pub(crate) const NOT_STARTED: u8 = 2;
/// Connections were cut off at the end.
pub(crate) const CUT_OFF: u8 = 3;
/// The journal is of an application that the program does not contain.
pub(crate) const NOT_REPLAYABLE: u8 = 7;

/// Codes with their meanings.
pub(crate) type Codes = &'static [(u8, &'static str)];

pub(crate) const SERVER: Codes = &[
    (0, "stopped on request"),
    (FAILED, "failed while running, or panicked"),
    (NOT_STARTED, "could not start with this configuration"),
    (CUT_OFF, "stopped, but connections were cut off"),
];

pub(crate) const CHECK: Codes = &[
    (0, "the server would start with it"),
    (FAILED, "the output cannot be written"),
    (NOT_STARTED, "the server would not start with it"),
];

#[cfg(unix)]
pub(crate) const CLUSTER: Codes = &[
    (0, "stopped on request"),
    (FAILED, "all nodes have ended on their own"),
    (NOT_STARTED, "the cluster did not start"),
    (CUT_OFF, "stopped, but connections were cut off"),
];

pub(crate) const LOAD: Codes = &[
    (0, "nothing was lost, doubled or out of order, and the rate was reached"),
    (FAILED, "something was lost or refused, members were closed for good, or the rate was not reached"),
    (NOT_STARTED, "it did not start, no member has joined, or a token was refused"),
];

/// Those of [`ReplayError::exit_code`](lobbyd::net::ReplayError::exit_code), except for that of a check, which the built-in
/// applications do not have.
pub(crate) const REPLAY: Codes = &[
    (0, "all output was reproduced"),
    (FAILED, "the journal cannot be read, or the output cannot be written"),
    (NOT_STARTED, "there is no such journal, or the arguments are invalid"),
    (4, "the output differs"),
    (5, "the file is damaged, or is not a journal"),
    (6, "another version or build wrote it"),
    (NOT_REPLAYABLE, "it cannot be replayed"),
];

/// Returns the end of a help text: its own lines, and one for each code.
pub(crate) fn help(text: &str, codes: Codes) -> String {
    let mut help = format!("{text}Exit codes:");
    for (index, (code, meaning)) in codes.iter().enumerate() {
        let end = if index + 1 == codes.len() { '.' } else { ';' };
        write!(help, "\n{code} {meaning}{end}").expect("a string takes everything");
    }
    help
}
