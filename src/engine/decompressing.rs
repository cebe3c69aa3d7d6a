//! Compressed messages: decompresses them, charges what they contain, and acts on them as on others.

use super::Engine;
use super::app::App;
use super::member::Message;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::config::rates::CLIENT_FRAME_HEADER;

impl<A: App> Engine<A> {
    /// Handles a compressed message; `bytes_after` bytes of the input follow it. Returns the length of the message, and how much work
    /// it was to decompress it.
    ///
    /// The received bytes were charged before. If the message is longer than they are, the difference is charged here, so that
    /// a rate bounds what a client makes the server read. Many blocks with codes count as a longer message, but none counts as
    /// more than the longest message: so a burst always has room for one.
    // Not inlined: other messages must not pay for it.
    #[cold]
    #[inline(never)]
    pub(super) fn on_compressed(
        &mut self,
        conn: ConnId,
        is_text: bool,
        payload: &[u8],
        bytes_after: usize,
    ) -> (usize, usize) {
        let owed = self.core.conns[conn.key()].meter.owed;
        // The buffer is moved out of the core, because the message is borrowed from it.
        let mut message = std::mem::take(&mut self.core.buffers.decompressed);
        let max_bytes = self.core.config.max_message_bytes.0;
        let decompressed = self.core.decompressor.decompress(payload, &mut message, max_bytes);
        let read = decompressed.and_then(|work| Ok((work, as_text(is_text, &message)?)));
        let work = match read {
            Ok((work, text)) => {
                self.core.counters.decompressed_messages += 1;
                self.core.counters.decompressed_bytes += message.len() as u64;
                let charged = work.codes.min(max_bytes).max(message.len());
                self.on_decompressed(conn, text, &message, charged, payload.len());
                if self.core.slot(conn).is_some() {
                    self.core.compressed_message_ended(conn.key(), owed, bytes_after);
                }
                work.total
            }
            Err(reason) => {
                self.on_fault(conn, reason);
                payload.len()
            }
        };
        let length = message.len();
        self.core.buffers.decompressed = message;
        (length, work)
    }

    /// Charges a message as one of `charged` bytes, of which `payload_len` were received, and handles it.
    fn on_decompressed(&mut self, conn: ConnId, text: Option<&str>, bytes: &[u8], charged: usize, payload_len: usize) {
        let key = conn.key();
        let uncharged = charged.saturating_sub(payload_len);
        if uncharged > 0 {
            self.core.charge_contents(key, uncharged, CLIENT_FRAME_HEADER + payload_len);
            // The charge may have closed the connection.
            self.dispatch_events();
            if self.core.slot(conn).is_none_or(|slot| slot.close_kind.is_some()) {
                return;
            }
        }
        match text {
            Some(text) => self.on_text(key, text),
            None => self.on_app_message(key, Message::Binary(bytes)),
        }
    }
}

/// Returns the text of a text message; `None` for a binary one.
fn as_text(is_text: bool, message: &[u8]) -> Result<Option<&str>, CloseReason> {
    if !is_text {
        return Ok(None);
    }
    str::from_utf8(message).map(Some).map_err(|_| CloseReason::BadUtf8)
}
