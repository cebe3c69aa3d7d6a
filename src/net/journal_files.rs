//! Journal segments in files: names, locking, rotation and reading.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use log::{info, warn};

use super::clock::Stopwatch;
use super::files::{self, Lock, LockHolder, lock_beside, private};
use crate::config::Config;
use crate::journal::{Recording, RotateHint, Sink};

/// Writes that take longer than this are logged, because all connections wait for them.
const SLOW_MICROS: u64 = 10_000;

const HOLDER: LockHolder = LockHolder { does: "writes it", thing: "a journal" };

/// The calls that sync a file's data and a folder's entries to disk.
#[derive(Clone, Copy)]
struct Sync {
    file: fn(&File) -> io::Result<()>,
    folder: fn(&File) -> io::Result<()>,
}

/// A folder needs fsync(2): the file systems may skip a new entry in fdatasync(2), because the folder's size is the same.
const SYNC: Sync = Sync { file: File::sync_data, folder: File::sync_all };

/// Writes each segment to a new file.
pub(super) struct Files {
    path: PathBuf,
    max_bytes: Option<u64>,
    /// Syncs a file or folder to disk; `None` when `journal_sync` is off.
    sync: Option<Sync>,
    /// The file of the current segment; `None` after the next one could not be created.
    file: Option<File>,
    /// Number in the file's name.
    number: u64,
    /// Bytes in the file.
    length: u64,
    recording: Recording,
    _lock: Lock,
}

impl Files {
    /// Locks the journal `path` and creates its next file. Existing files stay as they are.
    pub(super) fn open(path: &Path, config: &Config) -> io::Result<Files> {
        Files::open_with(path, config, config.journal_sync.then_some(SYNC))
    }

    fn open_with(path: &Path, config: &Config, sync: Option<Sync>) -> io::Result<Files> {
        refuse_folder(path)?;
        let lock = lock_beside(path, &HOLDER)?;
        let number = segments(path)?.last().map_or(0, |(number, _)| *number) + 1;
        Ok(Files {
            path: path.to_owned(),
            max_bytes: config.journal_max_bytes.map(|bytes| bytes.0 as u64),
            sync,
            file: Some(create(path, number, sync)?),
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
        self.sync.map_or(Ok(()), |sync| (sync.file)(file))
    }
}

impl Sink for Files {
    fn begin(&mut self, number: u64) -> io::Result<()> {
        // open() has created the first file already.
        if number > 1 {
            self.number += 1;
            // The old file is closed first: connections may have used up all other descriptors.
            self.file = None;
            self.file = Some(create(&self.path, self.number, self.sync)?);
            self.length = 0;
        }
        info!("recording to the journal segment {}", name(&self.path, self.number).display());
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let stopwatch = Stopwatch::start();
        let written = self.write_now(block, rest);
        let micros = stopwatch.micros();
        if micros > SLOW_MICROS && micros > self.recording.slowest_micros {
            warn!("writing the journal took {} ms, and all connections waited for it", micros / 1000);
        }
        let bytes = block.len() + rest.len();
        self.recording.add_write(written.is_ok().then_some(bytes), micros);
        match written {
            Ok(()) => self.length += bytes as u64,
            // Removes the incomplete block. If that fails too, a replay reports a torn end.
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

fn refuse_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder; name a file in it"));
    }
    Ok(())
}

/// Checks that the files of the journal `path` can be created, and creates none. Another server may write the journal at
/// the moment.
pub(super) fn check(path: &Path) -> io::Result<()> {
    refuse_folder(path)?;
    files::check_creatable(path)
}

fn name(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:06}"));
    name.into()
}

/// Creates a segment file. Only its owner may read it, because it contains the members' messages.
///
/// Syncs its folder too: only then does the name of the file outlast a loss of power.
fn create(path: &Path, number: u64, sync: Option<Sync>) -> io::Result<File> {
    let file = private().create_new(true).open(name(path, number))?;
    if let Some(sync) = sync {
        sync_folder(path, sync)?;
    }
    Ok(file)
}

#[cfg(unix)]
fn sync_folder(path: &Path, sync: Sync) -> io::Result<()> {
    (sync.folder)(&File::open(folder(path))?)
}

/// Elsewhere folders cannot be opened as files.
#[cfg(not(unix))]
fn sync_folder(_: &Path, _: Sync) -> io::Result<()> {
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The number and the path of a segment file.
type SegmentFile = (u64, PathBuf);

/// Returns the segments of the journal `path`, ordered by number.
fn segments(path: &Path) -> io::Result<Vec<SegmentFile>> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file");
    let stem = path.file_name().ok_or_else(no_name)?.to_str().ok_or_else(no_name)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(path))? {
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

/// Opens a journal to be [replayed](crate::journal::replay).
///
/// If `path` is a segment file, reads this segment and the following ones of its session. If it is the journal's path
/// from the configuration, reads all remaining segments of the last session.
///
/// ```no_run
/// use lobbyd::apps::Relay;
/// use lobbyd::journal;
/// use lobbyd::net::open_journal;
///
/// let summary = journal::replay(open_journal("session".as_ref())?, Relay::default())?;
/// println!("{} turns", summary.turn);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// `NotFound` when no such segment exists; else those of the operating system.
pub fn open_journal(path: &Path) -> io::Result<impl Read + use<>> {
    let (first, all) = if path.is_file() { following(path)? } else { (None, segments(path)?) };
    if all.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such journal or segment exists"));
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

/// Returns the number in the name of a segment file, if there is one, and all segments of its journal.
fn following(path: &Path) -> io::Result<(Option<u64>, Vec<SegmentFile>)> {
    let number = path.extension().and_then(|digits| digits.to_str()).filter(|digits| digits.len() >= 6);
    match number.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok((Some(number), segments(&path.with_extension(""))?)),
        None => Ok((None, vec![(1, path.to_owned())])),
    }
}

/// Returns whether a segment file is the first of its session.
fn begins_session(segment: &Path) -> io::Result<bool> {
    Ok(crate::journal::begins_session(&mut files::open(segment)?))
}

/// Reads several files as one stream.
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

#[cfg(all(test, unix))]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static SYNCED: Cell<Vec<&'static str>> = const { Cell::new(Vec::new()) };
    }

    /// Notes what is synced, in place of the disk.
    const NOTED: Sync = Sync { file: |_| note("file"), folder: |_| note("folder") };

    fn note(what: &'static str) -> io::Result<()> {
        let mut synced = SYNCED.take();
        synced.push(what);
        SYNCED.set(synced);
        Ok(())
    }

    #[test]
    fn the_folder_of_each_new_segment_is_synced_before_its_contents() {
        let folder = std::env::temp_dir().join(format!("lobbyd-synced-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder can be written");
        for (sync, expected) in [(Some(NOTED), &["folder", "file", "folder", "file", "file"][..]), (None, &[])] {
            let mut files = Files::open_with(&folder.join("session"), &Config::default(), sync).expect("a new journal");
            files.begin(1).and_then(|()| files.write(b"a", b"b")).expect("the folder can be written");
            files.begin(2).and_then(|()| files.write(b"a", b"b")).expect("the folder can be written");
            files.write(b"c", b"").expect("the folder can be written");
            assert_eq!(SYNCED.take(), expected);
        }
        fs::remove_dir_all(folder).expect("the folder exists");
    }
}
