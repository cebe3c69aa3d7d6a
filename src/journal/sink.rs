//! Destination of a journal's bytes.

use std::io;

use crate::engine::recording::{Recording, RotateHint};

/// Destination of a journal.
///
/// ```
/// use std::io;
///
/// use lobbyd::journal::{RotateHint, Sink};
///
/// /// Keeps each segment in memory, and begins a new one after 1 MiB.
/// #[derive(Default)]
/// struct Segments(Vec<Vec<u8>>);
///
/// impl Sink for Segments {
///     fn begin(&mut self, _: u64) -> io::Result<()> {
///         self.0.push(Vec::new());
///         Ok(())
///     }
///
///     fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
///         let segment = self.0.last_mut().expect("begin() is called first");
///         segment.extend_from_slice(block);
///         segment.extend_from_slice(rest);
///         Ok(())
///     }
///
///     fn rotate_hint(&self) -> RotateHint {
///         if self.0.last().is_some_and(|segment| segment.len() > 1 << 20) { RotateHint::Now } else { RotateHint::Continue }
///     }
/// }
/// ```
pub trait Sink: 'static {
    /// Begins segment `number`, to which the following writes belong. The first is 1.
    ///
    /// # Errors
    ///
    /// When the segment cannot be created.
    fn begin(&mut self, number: u64) -> io::Result<()>;

    /// Writes `block`, and `rest` directly after it. Bytes written by a successful call survive the end of the process.
    ///
    /// # Errors
    ///
    /// When not all bytes could be written. The recorder then makes no further writes.
    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()>;

    /// Returns whether the segment is long enough to begin another one.
    fn rotate_hint(&self) -> RotateHint {
        RotateHint::Continue
    }

    /// Returns the totals of the writes so far, each counted with [`Recording::add_write`].
    fn recording(&self) -> Recording {
        Recording::default()
    }
}

/// Keeps all segments concatenated in memory, for tests.
impl Sink for Vec<u8> {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        self.extend_from_slice(block);
        self.extend_from_slice(rest);
        Ok(())
    }
}
