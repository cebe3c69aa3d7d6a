//! Why a server could not start, or could not continue.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::{ListenAddress, Problems};

/// Why a server could not start, or could not continue.
///
/// [`Server`](super::Server) returns it, as in the example of the [crate documentation](crate).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is invalid; all problems at once.
    Config(Problems),
    /// Listening on the address failed.
    Listen(ListenAddress, io::Error),
    /// The file with the operators' token cannot be read, or its contents are not a valid token.
    Token(PathBuf, String),
    /// The journal cannot be created or written.
    Journal(PathBuf, io::Error),
    /// Waiting for events failed.
    Poll(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(problems) => problems.fmt(f),
            Error::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: address in use; is another lobbyd running?")
            }
            Error::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Error::Token(path, problem) => write!(f, "admin_token_file = {}: {problem}", path.display()),
            Error::Journal(path, error) => write!(f, "journal = {}: {error}", path.display()),
            Error::Poll(error) => write!(f, "cannot wait for events: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Config(_) | Error::Token(..) => None,
            Error::Listen(_, error) | Error::Journal(_, error) | Error::Poll(error) => Some(error),
        }
    }
}
