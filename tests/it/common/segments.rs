//! Journals in memory, in segments.

use std::io;

use lobbyd::journal::{RotateHint, Sink};

/// A journal in memory, with all its segments.
pub struct Segments {
    pub segments: Vec<Vec<u8>>,
    /// Decides by the bytes of the current segment when the next one begins.
    hint: fn(&[u8]) -> RotateHint,
}

impl Segments {
    pub fn new(hint: fn(&[u8]) -> RotateHint) -> Segments {
        Segments { segments: Vec::new(), hint }
    }
}

impl Sink for Segments {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        self.segments.push(Vec::new());
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        self.segments.last_mut().expect("a segment was begun").extend([block, rest].concat());
        Ok(())
    }

    fn rotate_hint(&self) -> RotateHint {
        (self.hint)(self.segments.last().map_or(&[], Vec::as_slice))
    }
}
