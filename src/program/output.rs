//! Standard output of the commands that print a text.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Prints a whole text. Returns exit code 1 if it cannot be written; a reader that has seen enough is no failure.
pub(crate) fn print(text: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lobbyd: standard output cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}
