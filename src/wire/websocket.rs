//! RFC 6455 framing over tungstenite's state machine, fed from slices instead of a socket.
//!
//! tungstenite reads from and writes to a stream. Here the stream is [`Feed`]: reading takes from the received slice
//! and says `WouldBlock` at its end; writing appends to the outbox. Pongs and answers to a close frame go out that
//! way too, always as whole frames, so frames never interleave.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message, Utf8Bytes};

use super::outbox::Outbox;
use crate::close::CloseReason;

/// Not tungstenite's 128 KiB: this buffer is allocated for every connection and zeroed before every read. The loop's shared
/// receive buffer does the reading; this one only holds what is under way.
const READ_BUFFER: usize = 128;

/// What a peer did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Text(Utf8Bytes),
    Binary(Bytes),
    Ping,
    Pong(Bytes),
    /// The peer sent a close frame; the answer is queued. Nothing follows.
    Close,
    /// The peer broke the protocol. Nothing more can be understood.
    Fault(CloseReason),
}

#[derive(Debug)]
pub(crate) struct WebSocket(WebSocketContext);

impl WebSocket {
    pub(crate) fn new(max_message_bytes: usize) -> WebSocket {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // Every frame is handed to the outbox as soon as it is encoded.
            .write_buffer_size(0)
            .max_write_buffer_size(READ_BUFFER)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        WebSocket(WebSocketContext::new(Role::Server, Some(config)))
    }

    /// Takes from `input` up to the end of the next message or control frame. `None` when `input` holds no more.
    pub(crate) fn receive(&mut self, input: &mut &[u8], outbox: &mut Outbox) -> Option<Received> {
        let mut feed = Feed { input, outbox };
        let received = match self.0.read(&mut feed) {
            Ok(Message::Text(text)) => Received::Text(text),
            Ok(Message::Binary(bytes)) => Received::Binary(bytes),
            Ok(Message::Ping(_)) => {
                // The pong goes out at its place among the other frames, not at the next read.
                let _ = self.0.flush(&mut feed);
                Received::Ping
            }
            Ok(Message::Pong(payload)) => Received::Pong(payload),
            Ok(Message::Close(_)) => {
                // Queues the answer, unless ours went first. It ends with `ConnectionClosed`, as it should.
                let _ = self.0.flush(&mut feed);
                Received::Close
            }
            Ok(Message::Frame(_)) => unreachable!("tungstenite never reads a raw frame"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Received::Close,
            Err(Error::Capacity(_)) => Received::Fault(CloseReason::MessageTooBig),
            Err(Error::Utf8(_)) => Received::Fault(CloseReason::BadUtf8),
            Err(_) => Received::Fault(CloseReason::ProtocolError),
        };
        Some(received)
    }

    /// Queues a close frame. It must go through tungstenite, or the peer's close frame would be answered a second time.
    pub(crate) fn close(&mut self, code: u16, reason: &'static str, outbox: &mut Outbox) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
        // After the peer's close frame there is nothing to add; tungstenite says so with an error.
        let _ = self.0.close(&mut Feed { input: &mut &[][..], outbox }, Some(frame));
    }
}

/// The received slice and the outbox, as a stream.
struct Feed<'a, 'b> {
    input: &'a mut &'b [u8],
    outbox: &'a mut Outbox,
}

impl Read for Feed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Feed<'_, '_> {
    /// tungstenite hands over its whole write buffer, which holds whole frames.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.push(Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
