//! A stream with TLS: a socket, a session, and the records that are not complete or not sent.
//!
//! ```text
//! as accepted --start()--> handshake --> open --shut_down_output()--> close_notify sent, then FIN
//! ```
//!
//! An idle stream has no buffers. To its user it looks like a socket: when that takes no more, [`write`](TlsStream::write) says so,
//! and what it has taken is a prefix of what it was given.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use log::debug;

use super::super::plain_stream::{Left, PlainStream, Received};
use super::records::{EmptyRecords, MAX_AT_ONCE, MAX_PLAINTEXT, MAX_RECORD, first_whole, is_incomplete};
use super::session::{End, Session};
use super::shared::{HandshakeResult, Tls};

/// Reads that are dropped after a failure, so that closing the socket does not reset the connection and destroy the alert.
const DROPPED_READS: usize = 16;

pub(in crate::net) struct TlsStream(Box<Inner>);

struct Inner {
    socket: PlainStream,
    /// `None` before [`TlsStream::start`].
    session: Option<Session>,
    /// Received bytes of a record or handshake message that has not arrived whole.
    held: Vec<u8>,
    /// Records for the peer.
    unsent: Vec<u8>,
    /// Bytes of `unsent` that the socket has taken.
    sent: usize,
    /// Whether the last byte given to `write` is in `unsent` but was not reported as written. So the user knows that something
    /// is left, and what it counts as partly written is what it must not take back.
    is_last_unreported: bool,
    empty_records: EmptyRecords,
    /// Why nothing more is received.
    end: Option<End>,
    output: Output,
    /// Whether the result of the handshake was counted.
    is_counted: bool,
}

/// Result of [`Inner::open`].
#[derive(Default)]
struct Opened {
    /// Bytes of the records that are done with.
    consumed: usize,
    /// Bytes of plaintext.
    plaintext: usize,
    work: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Open,
    /// The write side is shut down when all records are sent.
    Ending,
    ShutDown,
}

impl TlsStream {
    pub(in crate::net) fn new(socket: PlainStream) -> TlsStream {
        TlsStream(Box::new(Inner {
            socket,
            session: None,
            held: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            is_last_unreported: false,
            empty_records: EmptyRecords::default(),
            end: None,
            output: Output::Open,
            is_counted: false,
        }))
    }

    pub(in crate::net) fn socket(&self) -> &PlainStream {
        &self.0.socket
    }

    pub(in crate::net) fn socket_mut(&mut self) -> &mut PlainStream {
        &mut self.0.socket
    }

    /// Begins the session, with the present certificate.
    pub(in crate::net) fn start(&mut self, tls: &mut Tls) -> io::Result<()> {
        self.0.session = Some(tls.new_session()?);
        Ok(())
    }

    pub(in crate::net) fn is_handshaking(&self) -> bool {
        self.0.session.as_ref().is_none_or(Session::is_handshaking)
    }

    /// Reads once, and decrypts all records that have arrived whole.
    ///
    /// # Errors
    ///
    /// Errors of the socket. A peer that breaks the protocol is sent an alert, and is an error too.
    pub(in crate::net) fn receive(&mut self, tls: &mut Tls, plaintext: &mut [u8]) -> io::Result<Received> {
        let inner = &mut *self.0;
        match &inner.end {
            None => {}
            Some(End::Closed) => return Ok(Received::End),
            Some(End::Failed(problem)) => return Err(io::Error::other(problem.clone())),
        }
        let held = inner.held.len();
        let count = match inner.socket.read(&mut tls.buffer[held..]) {
            Ok(0) => {
                debug!("the stream has ended without close_notify, with {held} bytes of a record");
                return Ok(Received::End);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::plain(0, Left::Nothing)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Received::plain(0, Left::More)),
            Err(error) => return Err(error),
        };
        let end = held + count;
        let left = if end == tls.buffer.len() { Left::More } else { Left::Unlikely };
        let Some(session) = inner.session.as_ref().filter(|session| {
            // Without a handshake the output has ended unsaid, and there is nothing to receive.
            inner.output == Output::Open || !session.is_handshaking()
        }) else {
            return Ok(Received::plain(0, left));
        };
        if is_incomplete(&inner.held, &tls.buffer[held..end]) {
            inner.held.extend_from_slice(&tls.buffer[held..end]);
            return Ok(Received::plain(0, left));
        }
        let was_handshaking = session.is_handshaking();
        tls.buffer[..held].copy_from_slice(&inner.held);
        let records = &mut tls.buffer[..end];
        let Opened { consumed, plaintext, work } = inner.open(records, plaintext);
        // Empty in most cases, and then without an allocation.
        inner.held = records[consumed..].to_vec();
        if inner.held.len() > MAX_RECORD && inner.end.is_none() {
            inner.end = Some(End::Failed("a handshake message is too long".into()));
        }
        if let Some(session) = inner.session.as_ref().filter(|it| was_handshaking && !it.is_handshaking()) {
            inner.is_counted = true;
            tls.count(if session.is_resumed() { HandshakeResult::Resumed } else { HandshakeResult::Full });
        }
        // An error of the socket is found by the next read.
        let _ = inner.send();
        if let Some(End::Failed(_)) = inner.end {
            inner.abandon(&mut tls.buffer);
        }
        // A read after the end tells it, after what was received before.
        let left = if inner.end.is_some() { Left::More } else { left };
        Ok(Received::Bytes { count: plaintext, left, work })
    }

    /// Encrypts into as few records as possible, and writes them. Returns how many bytes were written.
    ///
    /// Before the handshake is over, nothing can be told to the peer. What is written then is dropped: it is the answer to a
    /// client that has come in vain, or was too slow.
    ///
    /// # Errors
    ///
    /// Errors of the socket. `WouldBlock` if it takes no more.
    pub(in crate::net) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let inner = &mut *self.0;
        let total = slices.iter().map(|slice| slice.len()).sum();
        let Some(session) = inner.session.as_ref().filter(|_| inner.output == Output::Open) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if let Some(End::Failed(_)) = inner.end {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if session.is_handshaking() {
            return Ok(total);
        }
        inner.send()?;
        if !inner.unsent.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = usize::from(std::mem::take(&mut inner.is_last_unreported)).min(total);
        while written < total {
            let end = total.min(written + MAX_PLAINTEXT);
            inner.encrypt(slices, written, end)?;
            written = end;
            inner.send()?;
            if !inner.unsent.is_empty() {
                if written == total {
                    inner.is_last_unreported = true;
                    written -= 1;
                }
                return if written == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) };
            }
        }
        Ok(written)
    }

    /// The socket takes bytes again.
    pub(in crate::net) fn handle_writable(&mut self) {
        // An error of the socket is found by the next read.
        let _ = self.0.send();
    }

    /// Sends `close_notify`, and shuts down the write side when all records are sent.
    pub(in crate::net) fn shut_down_output(&mut self) {
        let inner = &mut *self.0;
        if inner.output == Output::Open {
            inner.append_close();
            inner.output = Output::Ending;
            let _ = inner.send();
        }
    }

    /// Closes the socket, after `close_notify` if the socket takes it.
    pub(in crate::net) fn close(self, tls: &mut Tls) {
        let mut inner = self.0;
        if !inner.is_counted && inner.session.is_some() {
            tls.count(HandshakeResult::Failed);
        }
        if inner.output == Output::Open && inner.unsent.is_empty() {
            inner.append_close();
            let _ = inner.send();
        }
    }
}

impl Inner {
    /// Decrypts all whole records, some at a time, so that they are charged before many are decrypted. Sets `end`.
    fn open(&mut self, records: &mut [u8], plaintext: &mut [u8]) -> Opened {
        let mut opened = Opened::default();
        let Some(session) = self.session.as_mut() else { return opened };
        let mut takes_all = false;
        while self.end.is_none() {
            let is_handshaking = session.is_handshaking();
            let rest = &mut records[opened.consumed..];
            let (count, whole) = first_whole(rest);
            takes_all |= count < MAX_AT_ONCE;
            let until = if takes_all { rest.len() } else { whole };
            let decrypted = session.decrypt(&mut rest[..until], &mut plaintext[opened.plaintext..], &mut self.unsent);
            opened.consumed += decrypted.consumed;
            opened.plaintext += decrypted.plaintext;
            self.end = decrypted.end;
            // The number of handshakes is limited, and that of their records by the length of a message.
            if !is_handshaking {
                match self.empty_records.charge(count, decrypted.data_records) {
                    Some(work) => opened.work += work,
                    None => self.end = Some(End::Failed("too many records without data".into())),
                }
            }
            if takes_all {
                break;
            }
            // A message of the handshake may have more records than are taken at once.
            takes_all = decrypted.consumed == 0;
        }
        opened
    }

    /// Encrypts the bytes from `start` to `end` of the slices taken together, which are at most one record.
    fn encrypt(&mut self, slices: &[IoSlice<'_>], start: usize, end: usize) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let session = self.session.as_mut().ok_or_else(broken)?;
        let encrypted = match slices {
            [slice] => session.encrypt(&slice[start..end], &mut self.held, &mut self.unsent),
            _ => session.encrypt(&gathered(slices, start, end), &mut self.held, &mut self.unsent),
        };
        encrypted.map_err(|_| broken())
    }

    /// Sends records until the socket takes no more. With the last one, ends the output if that is wanted, and frees the buffer.
    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.unsent.len() {
            match self.socket.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        (self.unsent, self.sent) = (Vec::new(), 0);
        if self.output == Output::Ending {
            self.output = Output::ShutDown;
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    fn append_close(&mut self) {
        let is_failed = matches!(self.end, Some(End::Failed(_)));
        if let Some(session) = self.session.as_mut().filter(|session| !is_failed && !session.is_handshaking()) {
            // If this fails, the session cannot send anything, and the peer sees the end of the stream only.
            let _ = session.close(&mut self.held, &mut self.unsent);
        }
    }

    /// Ends the output after a failure, and drops what has been received.
    fn abandon(&mut self, buffer: &mut [u8]) {
        (self.held, self.output) = (Vec::new(), Output::ShutDown);
        let _ = self.socket.shutdown(Shutdown::Write);
        for _ in 0..DROPPED_READS {
            if !matches!(self.socket.read(buffer), Ok(1..)) {
                break;
            }
        }
    }
}

/// Copies the bytes from `start` to `end` of the slices taken together.
fn gathered(slices: &[IoSlice<'_>], start: usize, end: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(end - start);
    let mut at = 0;
    for slice in slices {
        let range = start.clamp(at, at + slice.len()) - at..end.clamp(at, at + slice.len()) - at;
        bytes.extend_from_slice(&slice[range]);
        at += slice.len();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_gathered_across_their_ends() {
        let slices = [IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defg"), IoSlice::new(b"h")];
        for start in 0..=8 {
            for end in start..=8 {
                assert_eq!(gathered(&slices, start, end), b"abcdefgh"[start..end]);
            }
        }
    }
}
