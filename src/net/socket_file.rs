//! Socket files: the lock beside each, its permissions, and its removal. Unix only.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::net::UnixListener;
use socket2::{Domain, SockAddr, Socket, Type};

use super::files::{self, Lock, LockHolder};
use crate::config::FileMode;

const HOLDER: LockHolder = LockHolder { does: "listens on it", thing: "a socket file" };

/// A socket file that this process has created. It is removed when this value is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that no other file of the same name is removed.
    identity: (u64, u64),
    /// It outlasts the removal of the socket file.
    _lock: Lock,
}

/// Listens on a new socket file.
///
/// A file that a dead server has left is replaced. Whether its server lives cannot be told from a refused connection
/// alone: on some systems a full backlog refuses connections too. So each server holds a lock on a file beside it, and
/// the operating system releases the lock when the server dies. Servers of other programs hold no such lock; a
/// connection that is not refused shows that one lives.
pub(super) fn listen(path: &Path, mode: FileMode, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    let lock = files::lock_beside(path, &HOLDER)?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()), _lock: lock };
    // Before listen(): nobody can connect until the permissions are set.
    fs::set_permissions(path, Permissions::from_mode(mode.0))?;
    socket.listen(backlog)?;
    Ok((UnixListener::from_std(socket.into()), file))
}

/// Checks that a socket file can be created at `path`, and creates none. A server may listen on it at the moment.
pub(super) fn check(path: &Path) -> io::Result<()> {
    SockAddr::unix(path)?;
    files::check_creatable(path)?;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => Err(is_no_socket()),
        _ => Ok(()),
    }
}

fn is_no_socket() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is no socket; name another file")
}

/// Removes the socket file of a server that does not live any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(is_no_socket());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A connection to a full backlog would block.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // WouldBlock: its backlog is full.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let file = fs::symlink_metadata(&self.path);
        if file.is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
