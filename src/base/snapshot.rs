//! The values of which a snapshot of the shared state consists: numbers, texts and times.
//!
//! Numbers have 1 to 10 bytes in LEB128, and no more than they need.
//! Texts and lists begin with their length. A reader allocates no more than the bytes that are left can fill.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::close::LeaveReason;
use super::leb128::{self, BadNumber};
use super::time::Time;

/// Largest number that counts something: two of them can be added and incremented without overflow. As microseconds it is
/// 146,000 years.
const MAX_COUNT: u64 = 1 << 62;
/// Codes of times that are no distance.
const NEVER: u64 = 0;
const ZERO: u64 = 1;
/// Added to the distance of a later time. The code itself is a time that has come.
const PASSED: u64 = 2;

/// Why a snapshot cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotError {
    /// The bytes do not begin as a snapshot does.
    NoSnapshot,
    /// The snapshot has another version of the format.
    Version(u32),
    /// The bytes have changed since they were written, or are not complete.
    Damaged,
    /// The snapshot breaks this rule.
    Invalid(&'static str),
    /// The snapshot does not fit this setting. All nodes of a cluster need the same settings.
    Setting(&'static str),
    /// The engine that is to load it has users or lobbies.
    NotBlank,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::NoSnapshot => f.write_str("these bytes are no snapshot of a lobbyd"),
            SnapshotError::Version(version) => {
                write!(f, "the snapshot has version {version} of the format: this program reads version {VERSION}")
            }
            SnapshotError::Damaged => f.write_str("the snapshot is damaged or incomplete"),
            SnapshotError::Invalid(rule) => write!(f, "the snapshot is invalid: {rule}"),
            SnapshotError::Setting(setting) => {
                write!(f, "the snapshot does not fit {setting}: all nodes of a cluster need the same settings")
            }
            SnapshotError::NotBlank => f.write_str("this node has users or lobbies of its own"),
        }
    }
}

impl Error for SnapshotError {}

/// Version of the format.
pub(crate) const VERSION: u32 = 2;

const TRUNCATED: SnapshotError = SnapshotError::Invalid("a value has fewer bytes than its length says");

pub(crate) fn ensure(holds: bool, rule: &'static str) -> Result<(), SnapshotError> {
    if holds { Ok(()) } else { Err(SnapshotError::Invalid(rule)) }
}

pub(crate) fn ensure_setting(fits: bool, setting: &'static str) -> Result<(), SnapshotError> {
    if fits { Ok(()) } else { Err(SnapshotError::Setting(setting)) }
}

/// Writes values.
///
/// ```ignore
/// let mut writer = SnapshotWriter::new(now);
/// writer.number(7);
/// writer.text("chess");
/// ```
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    bytes: Vec<u8>,
    now: Time,
}

impl SnapshotWriter {
    /// Begins a snapshot of the state at `now`.
    pub(crate) fn new(now: Time) -> SnapshotWriter {
        SnapshotWriter { bytes: Vec::new(), now }
    }

    /// The time of the state.
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// Writes a number below `u64::MAX`, or none.
    pub(crate) fn option(&mut self, number: Option<u64>) {
        self.number(number.map_or(0, |number| number + 1));
    }

    pub(crate) fn len(&mut self, len: usize) {
        self.number(len as u64);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.len(text.len());
        self.raw(text.as_bytes());
    }

    pub(crate) fn option_text(&mut self, text: Option<&str>) {
        self.flag(text.is_some());
        text.into_iter().for_each(|text| self.text(text));
    }

    pub(crate) fn bits(&mut self, bits: u128) {
        self.raw(&bits.to_le_bytes());
    }

    pub(crate) fn duration(&mut self, span: Duration) {
        self.number(u64::try_from(span.as_micros()).unwrap_or(MAX_COUNT).min(MAX_COUNT));
    }

    pub(crate) fn reason(&mut self, reason: LeaveReason) {
        let index = LeaveReason::ALL.iter().position(|&other| other == reason).expect("ALL has every reason");
        self.byte(index as u8);
    }

    /// Writes a deadline. How long ago one has passed is not written: no decision depends on it, and the engine that
    /// loads the snapshot may have started later.
    pub(crate) fn time(&mut self, time: Time) {
        self.number(match time {
            Time::NEVER => NEVER,
            Time::ZERO => ZERO,
            time if time <= self.now => PASSED,
            time => match (time - self.now).as_micros() as u64 {
                beyond if beyond > MAX_COUNT - PASSED => NEVER,
                distance => PASSED + distance,
            },
        });
    }
}

/// Reads the values of a [`SnapshotWriter`] from the front.
#[derive(Debug)]
pub(crate) struct SnapshotReader<'a> {
    rest: &'a [u8],
    /// Time of the state by the shared clock, in microseconds since the Unix epoch.
    unix_now: u64,
    /// What the shared clock shows at [`Time::ZERO`] of the engine that reads. May be negative.
    unix_at_zero: i64,
}

impl<'a> SnapshotReader<'a> {
    /// Reads for an engine at whose [`Time::ZERO`] the shared clock shows `unix_at_zero`, in microseconds since the Unix epoch.
    /// Times can be read once [`set_unix_now`](Self::set_unix_now) was called.
    pub(crate) fn new(bytes: &'a [u8], unix_at_zero: i64) -> SnapshotReader<'a> {
        SnapshotReader { rest: bytes, unix_now: 0, unix_at_zero }
    }

    /// Sets the time of the state by the shared clock, in microseconds since the Unix epoch.
    pub(crate) fn set_unix_now(&mut self, unix_now: u64) {
        self.unix_now = unix_now;
    }

    /// Returns the time of the state; [`Time::ZERO`] if this engine has started later.
    pub(crate) fn now(&self) -> Time {
        self.local(self.unix_now)
    }

    /// Returns a time of the shared clock as this engine counts it; [`Time::ZERO`] if that is before its start.
    fn local(&self, unix: u64) -> Time {
        let micros = i128::from(unix) - i128::from(self.unix_at_zero);
        Time::from_micros(u64::try_from(micros.max(0)).unwrap_or(u64::MAX))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn raw(&mut self, count: usize) -> Result<&'a [u8], SnapshotError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, SnapshotError> {
        Ok(self.raw(1)?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, SnapshotError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(SnapshotError::Invalid("a flag is 0 or 1")),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, SnapshotError> {
        let (number, count) = leb128::read(self.rest).map_err(|bad| match bad {
            BadNumber::Truncated => TRUNCATED,
            BadNumber::TooLarge => SnapshotError::Invalid("a number has at most 64 bits"),
        })?;
        let bytes = self.raw(count)?;
        // A last byte of 0 would be a second form of the same number.
        ensure(count == 1 || bytes[count - 1] > 0, "a number has its shortest form")?;
        Ok(number)
    }

    /// Reads a number that counts something.
    pub(crate) fn count(&mut self) -> Result<u64, SnapshotError> {
        let count = self.number()?;
        ensure(count <= MAX_COUNT, "a count is at most 2^62")?;
        Ok(count)
    }

    pub(crate) fn option(&mut self) -> Result<Option<u64>, SnapshotError> {
        Ok(self.number()?.checked_sub(1))
    }

    pub(crate) fn option_u32(&mut self) -> Result<Option<u32>, SnapshotError> {
        let number = self.option()?.map(u32::try_from).transpose();
        number.map_err(|_| SnapshotError::Invalid("a number is too large"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, SnapshotError> {
        u32::try_from(self.number()?).map_err(|_| SnapshotError::Invalid("a number is too large"))
    }

    /// Reads the length of a list whose entries have at least one byte each.
    pub(crate) fn len(&mut self) -> Result<usize, SnapshotError> {
        let len = usize::try_from(self.number()?).ok().filter(|&len| len <= self.rest.len());
        len.ok_or(TRUNCATED)
    }

    /// Reads the place of something in a list, or the length of the list for something new.
    pub(crate) fn len_up_to(&mut self, len: usize) -> Result<usize, SnapshotError> {
        let place = usize::try_from(self.number()?).ok().filter(|&place| place <= len);
        place.ok_or(SnapshotError::Invalid("a number names something that was read before"))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, SnapshotError> {
        let len = self.len()?;
        str::from_utf8(self.raw(len)?).map_err(|_| SnapshotError::Invalid("a text is UTF-8"))
    }

    pub(crate) fn option_text(&mut self) -> Result<Option<&'a str>, SnapshotError> {
        if self.flag()? { self.text().map(Some) } else { Ok(None) }
    }

    pub(crate) fn bits(&mut self) -> Result<u128, SnapshotError> {
        let bytes = self.raw(16)?.try_into().expect("16 bytes");
        Ok(u128::from_le_bytes(bytes))
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, SnapshotError> {
        self.count().map(Duration::from_micros)
    }

    pub(crate) fn reason(&mut self) -> Result<LeaveReason, SnapshotError> {
        let reason = LeaveReason::ALL.get(usize::from(self.byte()?)).copied();
        reason.ok_or(SnapshotError::Invalid("a reason is one of those why members leave"))
    }

    /// Reads a deadline. One that has passed, or is before this engine's start, becomes the earliest deadline that there is:
    /// it is not [`Time::ZERO`], which some deadlines have for "without one".
    pub(crate) fn time(&mut self) -> Result<Time, SnapshotError> {
        Ok(match self.count()? {
            NEVER => Time::NEVER,
            ZERO => Time::ZERO,
            code => {
                let time = if code == PASSED { Time::ZERO } else { self.local(self.unix_now + (code - PASSED)) };
                time.max(Time::from_micros(1))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: i64 = 1_000_000;

    fn written(write: impl FnOnce(&mut SnapshotWriter)) -> Vec<u8> {
        let mut writer = SnapshotWriter::new(Time::from_micros(500));
        write(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn numbers_round_trip_and_have_one_form() {
        for number in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), MAX_COUNT, u64::MAX] {
            let bytes = written(|writer| writer.number(number));
            let mut reader = SnapshotReader::new(&bytes, ORIGIN);
            assert_eq!((reader.number(), reader.is_empty()), (Ok(number), true));
            for cut in 0..bytes.len() {
                assert!(SnapshotReader::new(&bytes[..cut], ORIGIN).number().is_err(), "{number} cut to {cut}");
            }
        }
        for bytes in [&[0x80, 0][..], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert!(SnapshotReader::new(bytes, ORIGIN).number().is_err(), "{bytes:?}");
        }
        for option in [None, Some(0), Some(u64::MAX - 1)] {
            assert_eq!(SnapshotReader::new(&written(|writer| writer.option(option)), ORIGIN).option(), Ok(option));
        }
    }

    #[test]
    fn a_length_beyond_the_bytes_that_are_left_is_an_error() {
        let bytes = written(|writer| writer.number(1 << 40));
        assert_eq!(SnapshotReader::new(&bytes, ORIGIN).text(), Err(TRUNCATED));
        assert_eq!(SnapshotReader::new(&bytes, ORIGIN).len(), Err(TRUNCATED));
        assert!(SnapshotReader::new(&[2, 0xc3, 0x28], ORIGIN).text().is_err(), "not UTF-8");
    }

    /// Writes a time at 500 µs of an engine that started at `unix` 1 s, and reads it in an engine that started at `zero`.
    #[track_caller]
    fn check_time(time: Time, zero: i64, expected: Time) {
        let bytes = written(|writer| writer.time(time));
        let mut reader = SnapshotReader::new(&bytes, zero);
        reader.set_unix_now(1_000_500);
        assert_eq!(reader.time(), Ok(expected), "{time} for an engine that started at {zero}");
    }

    #[test]
    fn times_keep_their_place_on_the_shared_clock() {
        let at = Time::from_micros;
        check_time(at(700), 1_000_000, at(700));
        check_time(at(700), 900_000, at(100_700));
        check_time(at(700), 1_000_600, at(100));
        check_time(at(700), -5, at(1_000_705));
        check_time(Time::NEVER, 7, Time::NEVER);
        check_time(Time::ZERO, 7, Time::ZERO);
    }

    #[test]
    fn a_deadline_that_has_passed_or_is_before_the_start_is_due_at_once() {
        let at = Time::from_micros;
        // Passed when the snapshot was written.
        check_time(at(500), 900_000, at(1));
        check_time(at(3), 1_000_000, at(1));
        // In the future, but before the zero of the engine that reads it.
        check_time(at(700), 1_000_701, at(1));
        check_time(at(700), 1_000_700, at(1));
        check_time(at(u64::MAX - 1), 0, Time::NEVER);
    }

    #[test]
    fn every_reason_round_trips() {
        for &reason in LeaveReason::ALL {
            assert_eq!(SnapshotReader::new(&written(|writer| writer.reason(reason)), ORIGIN).reason(), Ok(reason));
        }
        assert!(SnapshotReader::new(&[LeaveReason::ALL.len() as u8], ORIGIN).reason().is_err());
    }
}
