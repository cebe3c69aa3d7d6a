//! A server behind a proxy that drops, doubles, swaps or delays a message, or cuts a connection. It passes on frames of
//! WebSockets, events of event streams, and the answers to POSTs.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use lobbyd::sim::wire::{Reader, Received};

/// What the proxy does with the 20th message that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Drop,
    Double,
    /// Sends it after the next message.
    Swap,
    /// Ends the connection in front of it.
    Cut,
    /// Stops all output of the server to one member, until the others have received 100 messages more.
    Stall,
    /// Passes it on, but ends a connection for POSTs in place of its 20th answer.
    CutPost,
}

/// Number of messages that have been passed on, of all connections.
#[derive(Default)]
struct PassedOn {
    messages: Mutex<usize>,
    has_changed: Condvar,
}

impl PassedOn {
    /// Returns the number before this message.
    fn add(&self) -> usize {
        let mut messages = self.messages.lock().expect("no thread panics with it");
        *messages += 1;
        self.has_changed.notify_all();
        *messages - 1
    }

    fn wait_for(&self, count: usize) {
        let messages = self.messages.lock().expect("no thread panics with it");
        drop(self.has_changed.wait_while(messages, |messages| *messages < count));
    }
}

/// Returns the address of a proxy in front of the server.
pub(super) fn behind_a_faulty_proxy(server: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let (messages, answers) = (Arc::new(PassedOn::default()), Arc::new(PassedOn::default()));
    // The threads end with their connections, and that of the listener with the process.
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(server).expect("the server listens");
            let (mut from, mut to) = (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let (messages, answers) = (messages.clone(), answers.clone());
            thread::spawn(move || pass_on(upstream, client, fault, &messages, &answers));
        }
    });
    address
}

/// What the server sends on a connection, in pieces that may have a fault.
#[derive(Default)]
struct Pieces {
    reader: Reader,
    /// Bytes of an event stream, or of further answers to POSTs.
    body: Vec<u8>,
    is_event_stream: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    AnswerToPost,
    Other,
}

impl Pieces {
    fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        let is_message = |text: &str| text.starts_with(r#"{"type":"message""#);
        loop {
            if let Some(piece) = self.next_of_body() {
                return Some(piece);
            }
            let (kind, bytes) = match self.reader.next().expect("the server keeps to the protocol")? {
                Received::Answer(status, head) => {
                    self.is_event_stream = head.contains("\r\nContent-Type: text/event-stream\r\n");
                    (if status == 202 { Kind::AnswerToPost } else { Kind::Other }, head.into_bytes())
                }
                Received::Body(text) => {
                    self.body.extend(text.into_bytes());
                    continue;
                }
                Received::Text(text) => {
                    (if is_message(&text) { Kind::Message } else { Kind::Other }, frame(0x81, text.as_bytes()))
                }
                Received::Ping(payload) => (Kind::Other, frame(0x89, &payload)),
                Received::Close(code, reason) => {
                    (Kind::Other, frame(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat()))
                }
                other => panic!("{other:?}"),
            };
            return Some((kind, bytes));
        }
    }

    fn next_of_body(&mut self) -> Option<(Kind, Vec<u8>)> {
        let end: &[u8] = if self.is_event_stream { b"\n\n" } else { b"\r\n\r\n" };
        let length = self.body.windows(end.len()).position(|bytes| bytes == end)? + end.len();
        let bytes: Vec<u8> = self.body.drain(..length).collect();
        let is_message = String::from_utf8_lossy(&bytes).contains("data: {\"type\":\"message\"");
        let kind = match self.is_event_stream {
            true if is_message => Kind::Message,
            true => Kind::Other,
            false => Kind::AnswerToPost,
        };
        Some((kind, bytes))
    }
}

/// Passes on what the server sends.
fn pass_on(mut upstream: TcpStream, mut client: TcpStream, fault: Fault, messages: &PassedOn, answers: &PassedOn) {
    let (mut pieces, mut bytes, mut held) = (Pieces::default(), [0; 65_536], None);
    while let Ok(count) = upstream.read(&mut bytes)
        && count > 0
    {
        pieces.reader.push(&bytes[..count]);
        while let Some((kind, piece)) = pieces.next() {
            let is_message = kind == Kind::Message;
            let is_it = is_message && messages.add() == 20;
            let is_answer = kind == Kind::AnswerToPost && answers.add() == 20;
            let sent = match fault {
                Fault::Drop if is_it => continue,
                Fault::Double if is_it => [&piece[..], &piece].concat(),
                Fault::Swap if is_it => {
                    held = Some(piece);
                    continue;
                }
                Fault::Cut if is_it => return cut(&client, &upstream),
                Fault::CutPost if is_answer => return cut(&client, &upstream),
                Fault::Stall if is_it => {
                    messages.wait_for(120);
                    piece
                }
                _ if is_message => [piece, held.take().unwrap_or_default()].concat(),
                _ => piece,
            };
            if client.write_all(&sent).is_err() {
                return;
            }
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}

fn cut(client: &TcpStream, upstream: &TcpStream) {
    let _ = client.shutdown(Shutdown::Both);
    let _ = upstream.shutdown(Shutdown::Both);
}

/// A frame as a server sends it.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short frame");
    let header =
        if length < 126 { vec![first, length as u8] } else { vec![first, 126, (length >> 8) as u8, length as u8] };
    [&header[..], payload].concat()
}
