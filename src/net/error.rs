//! Why a server could not start, or could not continue.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::{ListenAddress, Problems, RedisUrl};

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
    /// The file with the certificate cannot be read, or has no certificate.
    Certificate(PathBuf, String),
    /// The file with the private key cannot be read, or has no key that fits the certificate.
    Key(PathBuf, String),
    /// The journal cannot be created or written.
    Journal(PathBuf, io::Error),
    /// The Redis of the cluster has no address that is known. A Redis that does not answer is not an error.
    Cluster(RedisUrl, io::Error),
    /// The hook cannot work as configured: the option, and the problem.
    Hook(&'static str, String),
    /// Waiting for events failed.
    Poll(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(problems) => problems.fmt(f),
            Error::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {}", listen_text(address, error))
            }
            Error::Token(path, problem) => write!(f, "admin_token_file = {}: {problem}", path.display()),
            Error::Certificate(path, problem) => write!(f, "tls_cert = {}: {problem}", path.display()),
            Error::Key(path, problem) => write!(f, "tls_key = {}: {problem}", path.display()),
            Error::Journal(path, error) => write!(f, "journal = {}: {}", path.display(), text(error)),
            Error::Cluster(url, error) => write!(f, "cluster = {url}: {}", text(error)),
            Error::Hook(option, problem) => write!(f, "{option}: {problem}"),
            Error::Poll(error) => write!(f, "cannot wait for events: {}", text(error)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Config(_) | Error::Token(..) | Error::Certificate(..) | Error::Key(..) | Error::Hook(..) => None,
            Error::Listen(_, error) | Error::Journal(_, error) | Error::Cluster(_, error) | Error::Poll(error) => {
                Some(error)
            }
        }
    }
}

/// Why listening failed, and the way out if one is known.
fn listen_text(address: &ListenAddress, error: &io::Error) -> String {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, PermissionDenied};

    match (error.kind(), address.without_tls()) {
        (AddrInUse, _) => "address in use; is another lobbyd running?".into(),
        (AddrNotAvailable, _) => {
            "the machine does not have this address; name one of its own, or 0.0.0.0 for all".into()
        }
        (NotFound, ListenAddress::Unix(_)) => format!("{}; create its folder", text(error)),
        (PermissionDenied, ListenAddress::Unix(_)) => {
            format!("{}; the server must be permitted to create files in its folder", text(error))
        }
        (PermissionDenied, _) => format!("{}; ports below 1024 need CAP_NET_BIND_SERVICE", text(error)),
        (_, ListenAddress::Name { .. }) => format!("{}; check the name", text(error)),
        _ => text(error),
    }
}

/// The text of an error as a part of a sentence: it begins in lower case, and has no number of the operating system.
pub(super) fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error ").map_or(&*text, |(text, _)| text);
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // An abbreviation keeps its capitals.
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// Returns the error with its [`text`].
pub(super) fn described(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => io::Error::new(error.kind(), text(&error)),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_system_become_parts_of_a_sentence() {
        assert_eq!(text(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(text(&io::Error::other("RDMA is off")), "RDMA is off");
        assert_eq!(text(&io::Error::other("it is a folder")), "it is a folder");
        assert_eq!(text(&io::Error::other("")), "");
    }
}
