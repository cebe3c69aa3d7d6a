//! The files of a journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use log::{info, warn};

use super::clock::Stopwatch;
use super::files;
use crate::config::Config;
use crate::journal::{Recording, RotateHint, Sink};

/// A write that takes longer than this makes members wait.
const SLOW_MICROS: u64 = 10_000;

/// Segments in files, one after the other.
pub(super) struct Files {
    path: PathBuf,
    max_bytes: Option<u64>,
    is_synced: bool,
    /// `None` once the next one could not be created.
    file: Option<File>,
    /// Which file of that name it is, and how many bytes are in it.
    number: u64,
    length: u64,
    recording: Recording,
    /// Locked as long as it is open.
    _lock: File,
}

impl Files {
    /// The next files of the journal that `config` names. What is there already stays as it is.
    pub(super) fn open(path: &Path, config: &Config) -> io::Result<Files> {
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder; name a file in it"));
        }
        let lock = lock(path)?;
        let number = segments(path)?.last().map_or(0, |(number, _)| *number) + 1;
        Ok(Files {
            path: path.to_owned(),
            max_bytes: config.journal_max_bytes.map(|bytes| bytes.0 as u64),
            is_synced: config.journal_sync,
            file: Some(create(path, number)?),
            number,
            length: 0,
            recording: Recording::default(),
            _lock: lock,
        })
    }

    fn write_now(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(block)?;
        file.write_all(rest)?;
        if self.is_synced { file.sync_data() } else { Ok(()) }
    }
}

impl Sink for Files {
    fn begin(&mut self, number: u64) -> io::Result<()> {
        // The first has been created already.
        if number > 1 {
            self.number += 1;
            // Closed first: it may be that members and strangers have left no other descriptor.
            self.file = None;
            self.file = Some(create(&self.path, self.number)?);
            self.length = 0;
        }
        info!("the journal goes on in {}", name(&self.path, self.number).display());
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let stopwatch = Stopwatch::start();
        let written = self.write_now(block, rest);
        let micros = stopwatch.micros();
        let recording = &mut self.recording;
        recording.writes += 1;
        recording.micros += micros;
        if micros > SLOW_MICROS && micros > recording.slowest_micros {
            warn!("writing the journal took {} ms, and everybody has waited for it", micros / 1000);
        }
        recording.slowest_micros = recording.slowest_micros.max(micros);
        match written {
            Ok(()) => {
                let bytes = (block.len() + rest.len()) as u64;
                recording.bytes += bytes;
                self.length += bytes;
            }
            // What is there should end with a whole block. If that cannot be had either, a replay says that it is torn.
            Err(_) => drop(self.file.as_ref().map(|file| file.set_len(self.length))),
        }
        written
    }

    fn rotate_hint(&self) -> RotateHint {
        match self.max_bytes {
            Some(max) if self.length >= max => RotateHint::Now,
            Some(max) if self.length >= max / 2 => RotateHint::WhenEmpty,
            _ => RotateHint::Continue,
        }
    }

    fn recording(&self) -> Recording {
        self.recording
    }
}

fn name(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:06}"));
    name.into()
}

/// Segments hold what members say: nobody else may read them.
fn create(path: &Path, number: u64) -> io::Result<File> {
    private().create_new(true).open(name(path, number))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Locks the journal `path`, so that no other server writes segments of the same name.
///
/// A file of its own is locked, because segments come and go. It is never removed: another server may have opened it
/// already, and would then lock a file that nobody else can find.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = private().create(true).truncate(false).open(&name)?;
    #[cfg(unix)]
    if let Err(error) = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        let error = io::Error::from(error);
        let name = Path::new(&name).display();
        if error.kind() == io::ErrorKind::WouldBlock {
            let why = format!("another server writes it and has locked {name}; give each server a journal of its own");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        // Some network file systems have no locks.
        warn!("{name} cannot be locked: {error}; no other server may write this journal");
    }
    Ok(file)
}

/// A file and its number.
type Segment = (u64, PathBuf);

/// The segments of the journal `path`, by number.
fn segments(path: &Path) -> io::Result<Vec<Segment>> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "that names no file");
    let stem = path.file_name().ok_or_else(no_name)?.to_str().ok_or_else(no_name)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?.path();
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.'));
        if let Some(number) = digits.filter(|digits| digits.len() >= 6).and_then(|digits| digits.parse().ok()) {
            found.push((number, entry));
        }
    }
    found.sort();
    Ok(found)
}

/// Opens a journal, to be [replayed](crate::journal::replay): a segment and those of its session that follow it, or, for
/// the name that the configuration has, the last session with all that is left of it.
///
/// # Errors
///
/// When there is none, or one cannot be opened.
pub fn open_journal(path: &Path) -> io::Result<impl Read + use<>> {
    let (first, all) = if path.is_file() { following(path)? } else { (None, segments(path)?) };
    if all.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such journal, and no segment of one"));
    }
    let mut chosen: Vec<PathBuf> = Vec::new();
    for (number, segment) in all {
        if first.is_some_and(|first| number < first) {
            continue;
        }
        if !chosen.is_empty() && begins_session(&segment)? {
            if first.is_some() {
                break;
            }
            chosen.clear();
        }
        chosen.push(segment);
    }
    Ok(Chain { files: chosen.into(), current: None })
}

/// The number of a segment, if it has one, and all segments of its journal.
fn following(path: &Path) -> io::Result<(Option<u64>, Vec<Segment>)> {
    let number = path.extension().and_then(|digits| digits.to_str()).filter(|digits| digits.len() >= 6);
    match number.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok((Some(number), segments(&path.with_extension(""))?)),
        None => Ok((None, vec![(1, path.to_owned())])),
    }
}

/// Whether a segment is the first of its session.
fn begins_session(segment: &Path) -> io::Result<bool> {
    Ok(crate::journal::begins_session(&mut files::open(segment)?))
}

/// Files read one behind the other.
struct Chain {
    files: std::collections::VecDeque<PathBuf>,
    current: Option<io::BufReader<File>>,
}

impl Read for Chain {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                let count = current.read(bytes)?;
                if count > 0 || bytes.is_empty() {
                    return Ok(count);
                }
                self.current = None;
            }
            match self.files.pop_front() {
                Some(next) => self.current = Some(io::BufReader::new(files::open(&next)?)),
                None => return Ok(0),
            }
        }
    }
}
