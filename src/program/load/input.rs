//! Bytes that were received and are not consumed.

/// Most bytes of a message that is not complete.
pub(super) const MAX_MESSAGE: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// Bytes at the front that were consumed. Dropped with the next bytes: many small pieces may arrive at once.
    consumed: usize,
}

impl Input {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.consumed));
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Consumes bytes from the front.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.bytes()[..count].to_vec();
        self.consumed += count;
        taken
    }
}
