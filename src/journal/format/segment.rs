//! The first entry of a segment: session, build, configuration and perhaps a checkpoint.

use super::checkpoint::{put_app_codes, put_buckets, put_checkpoint, read_app_codes, read_buckets, read_checkpoint};
use super::kinds;
use super::read::{BadEntry, EntryReader, Read};
use super::write::Put;
use crate::engine::recording::{Checkpoint, Edition};

/// Name of this build: its version and a hash of its sources. Journals of other builds are not replayed.
///
/// No example: it is compared with the build in a journal.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-", env!("SOURCES_OF_LOBBYD"));

/// The first entry of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Identifies the session: equal in all its segments, and different in those of other sessions.
    pub(crate) session: u64,
    /// Number of the segment in its session, from 1.
    pub(crate) number: u64,
    /// Check of the last block of the previous segment.
    pub(crate) chain: u32,
    pub(crate) build: String,
    pub(crate) app: String,
    pub(crate) unix_micros: u64,
    pub(crate) seed: u64,
    /// One line `name=value` for each field.
    pub(crate) config: String,
    /// Number of the last turn before this segment.
    pub(crate) turn: u64,
    /// Checkpoint and application snapshot with which a replay can begin. Present only when there were no connections.
    pub(crate) start: Option<(Checkpoint, Vec<u8>)>,
    /// Number of the [`Edition`](crate::engine::recording::Edition) of the answers; at the end, because the first edition
    /// had no such field.
    pub(crate) edition: u64,
    /// Name and version of the library that compresses messages, if the configuration lets it.
    pub(crate) compressor: Option<String>,
}

impl Segment {
    /// Appends the entry to `to`.
    pub(crate) fn put(&self, to: &mut Vec<u8>) {
        let Segment { session, number, chain, build, app, unix_micros, seed, config, turn, start, edition, compressor } =
            self;
        to.put_byte(kinds::SEGMENT);
        for number in [*session, *number, u64::from(*chain), *unix_micros, *seed, *turn] {
            to.put_number(number);
        }
        for text in [build, app, config] {
            to.put_slice(text.as_bytes());
        }
        put_start(to, start.as_ref());
        to.put_number(*edition);
        if let Some(compressor) = compressor {
            to.put_slice(compressor.as_bytes());
        }
    }

    /// Reads a block that holds this entry and no other.
    pub(crate) fn read(block: &[u8]) -> Read<Segment> {
        let mut from = EntryReader::new(block);
        if from.byte()? != kinds::SEGMENT {
            return Err(BadEntry);
        }
        let segment = Segment {
            session: from.number()?,
            number: from.count()?,
            chain: from.number_as()?,
            unix_micros: from.count()?,
            seed: from.number()?,
            turn: from.count()?,
            build: from.text()?,
            app: from.text()?,
            config: from.text()?,
            start: match from.byte()? {
                0 => None,
                form @ 1..=16 => {
                    let mut checkpoint = read_checkpoint(&mut from)?;
                    let parts = form - 1;
                    if parts & 1 != 0 {
                        read_app_codes(&mut from, &mut checkpoint.counters)?;
                    }
                    if parts & 2 != 0 {
                        checkpoint.guesses = read_buckets(&mut from)?;
                    }
                    if parts & 4 != 0 {
                        checkpoint.lists = read_buckets(&mut from)?;
                    }
                    checkpoint.is_node = parts & 8 != 0;
                    Some((checkpoint, from.slice()?.to_vec()))
                }
                _ => return Err(BadEntry),
            },
            edition: if from.is_empty() { Edition::First.number() } else { from.number()? },
            compressor: if from.is_empty() { None } else { Some(from.text()?) },
        };
        if from.is_empty() { Ok(segment) } else { Err(BadEntry) }
    }
}

fn put_start(to: &mut Vec<u8>, start: Option<&(Checkpoint, Vec<u8>)>) {
    let Some((checkpoint, snapshot)) = start else { return to.put_byte(0) };
    let counters = &checkpoint.counters;
    let has_app_codes = counters.app_closes.len() + counters.app_rejects.len() > 0;
    let (has_guesses, has_lists) = (!checkpoint.guesses.is_empty(), !checkpoint.lists.is_empty());
    to.put_byte(
        1 + u8::from(has_app_codes)
            + 2 * u8::from(has_guesses)
            + 4 * u8::from(has_lists)
            + 8 * u8::from(checkpoint.is_node),
    );
    put_checkpoint(to, checkpoint);
    if has_app_codes {
        put_app_codes(to, counters);
    }
    if has_guesses {
        put_buckets(to, &checkpoint.guesses);
    }
    if has_lists {
        put_buckets(to, &checkpoint.lists);
    }
    to.put_slice(snapshot);
}
