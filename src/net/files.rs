//! Reads files written by operators: only regular files of a bounded size are accepted. Locks files of the server.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

#[cfg(unix)]
use log::warn;

use super::error::described;

/// Opens a regular file for reading.
///
/// # Errors
///
/// Errors of the operating system, and `InvalidInput` for other kinds of files, such as a FIFO, on which a reader waits
/// for a writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // Opening a FIFO without a writer must not block. The flag has no effect on regular files.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Reads a regular file of at most `max` bytes.
///
/// ```no_run
/// let tokens = lobbyd::net::read_file("tokens.txt".as_ref(), 16 << 20)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Errors of the operating system, `FileTooLarge` for a larger file, and `InvalidInput` when it is not a regular file.
pub fn read_file(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path).map_err(described)?;
    file.take((max as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(described)?;
    if bytes.len() > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}

/// What the holder of a lock does, for the message to another server.
pub(super) struct LockHolder {
    /// Such as `writes it`.
    pub(super) does: &'static str,
    /// What each server needs one of, such as `a journal`.
    pub(super) thing: &'static str,
}

/// A locked file.
#[derive(Debug)]
pub(super) struct Lock(#[cfg_attr(not(unix), expect(dead_code, reason = "closing the file unlocks it"))] File);

#[cfg(unix)]
impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process, between fork and exec, has a copy of the descriptor.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

/// Locks the file `path.lock`, until the returned lock is dropped, so that no other server uses `path`.
///
/// The lock is on a separate file, because `path` itself is created and deleted. That file is never removed: another
/// server may have opened it already, and would then lock a file that no longer has a name.
///
/// # Errors
///
/// Errors of the operating system, and `ResourceBusy` when another process holds the lock.
pub(super) fn lock_beside(path: &Path, holder: &LockHolder) -> io::Result<Lock> {
    let name = lock_name(path);
    let file = private().create(true).truncate(false).open(&name)?;
    #[cfg(unix)]
    if let Err(error) = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        let error = io::Error::from(error);
        let LockHolder { does, thing } = holder;
        if error.kind() == io::ErrorKind::WouldBlock {
            let problem =
                format!("another server {does} and has locked its .lock file; give each server {thing} of its own");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, problem));
        }
        // Some network file systems do not support locks.
        warn!("{} cannot be locked: {error}; no other server may use {}", name.display(), path.display());
    }
    Ok(Lock(file))
}

/// Returns the path of the file that is locked for `path`.
pub(super) fn lock_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Checks that `path` and the file that is locked for it can be created in their folder. Creates nothing.
///
/// # Errors
///
/// Errors of the operating system.
pub(super) fn check_creatable(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // `.` exists in folders only.
    std::fs::metadata(folder.join("."))?;
    #[cfg(unix)]
    {
        use rustix::fs::{Access, access};

        access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
        let lock = lock_name(path);
        if lock.exists() {
            access(&lock, Access::WRITE_OK)?;
        }
    }
    Ok(())
}

/// Options for a new file that only its owner may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
