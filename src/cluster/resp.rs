//! RESP3, the protocol of Redis: bytes in, values out, and requests as bytes.
//!
//! The [`Reader`] is incremental: it takes input in parts of any size and keeps what is incomplete. The peer is trusted to be
//! a Redis, but not to be a correct one: every length is bounded, and no memory is allocated for announced bytes
//! or elements before they arrive.
//!
//! Specification: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Streamed types (`$?`, `*?`), which Redis
//! does not send, are refused.

use std::fmt;

/// A value that Redis has sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A simple, blob or verbatim string. The format of a verbatim string (`txt:`) is removed.
    Text(Vec<u8>),
    /// An error: its code, a space and its message.
    Error(Vec<u8>),
    Integer(i64),
    /// A double or a big number, as its text.
    Number(Vec<u8>),
    Bool(bool),
    Null,
    /// An array or a set.
    Array(Vec<Value>),
    /// Keys and values in turn.
    Map(Vec<Value>),
    /// A message that is not a reply: of a subscription, for example.
    Push(Vec<Value>),
}

impl Value {
    /// Returns the bytes of a string.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a number that is not negative, from an integer or from a string of decimal digits.
    pub(crate) fn unsigned(&self) -> Option<u64> {
        match self {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) => decimal(text),
            _ => None,
        }
    }
}

/// Parses decimal digits, without a sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_decimal)?.parse().ok()
}

/// Bounds of a [`Reader`]. Input beyond one of them is an [`Error`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of a line: a simple string, an error, a number or a length.
    pub(crate) line: usize,
    /// Bytes of a blob.
    pub(crate) blob: usize,
    /// Bytes of all strings of one value, with [`ELEMENT_BYTES`] for each element.
    pub(crate) value: usize,
    /// Levels of arrays, maps and sets in one another.
    pub(crate) depth: usize,
}

/// What an element counts besides its bytes: about the size of a [`Value`].
pub(crate) const ELEMENT_BYTES: usize = 32;

/// Why input is not acceptable. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    UnknownType(u8),
    InvalidLine,
    InvalidLength,
    MissingLineEnd,
    TooLong,
    TooDeep,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownType(byte) => write!(f, "a value begins with the unknown type {:?}", char::from(*byte)),
            Error::InvalidLine => f.write_str("a line is not what its type requires"),
            Error::InvalidLength => f.write_str("a length is not a decimal number"),
            Error::MissingLineEnd => f.write_str("a line or a blob does not end with CR LF"),
            Error::TooLong => f.write_str("a value is longer than its bound"),
            Error::TooDeep => f.write_str("values are nested too deeply"),
        }
    }
}

/// Reads values from a stream of bytes.
pub(crate) struct Reader {
    bounds: Bounds,
    /// Input that is not yet consumed, from `start` on. Without complete elements once [`Reader::next`] has returned `None`.
    buffer: Vec<u8>,
    start: usize,
    /// Bytes after `start` that have no LF, so that a line in many parts is searched once.
    searched: usize,
    /// The blob whose length was read.
    blob: Option<(Kind, usize)>,
    /// Incomplete arrays, maps, sets and pushes, the outermost first.
    stack: Vec<Aggregate>,
    /// What the value that is being read counts against `bounds.value`.
    size: usize,
}

struct Aggregate {
    kind: Kind,
    /// Elements that are still to come.
    missing: usize,
    items: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Error,
    Verbatim,
    Array,
    Map,
    Push,
    /// Data about the next value, which is ignored.
    Attribute,
}

/// The first line of an element, understood.
enum Head {
    Complete(Value),
    Blob(Kind, usize),
    Aggregate(Kind, usize),
}

impl Reader {
    pub(crate) fn new(bounds: Bounds) -> Reader {
        Reader { bounds, buffer: Vec::new(), start: 0, searched: 0, blob: None, stack: Vec::new(), size: 0 }
    }

    /// Appends input. Call [`Reader::next`] until it returns `None` afterwards; then at most one incomplete line or
    /// blob is kept.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete value, or `None` if more input is needed. After an error, the reader is of no use.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Error> {
        while let Some(element) = self.next_element()? {
            if let Some(value) = self.complete(element) {
                self.size = 0;
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Adds an element to the innermost incomplete aggregate. Returns the value if that completes the outermost.
    fn complete(&mut self, mut element: Value) -> Option<Value> {
        while let Some(innermost) = self.stack.last_mut() {
            innermost.items.push(element);
            innermost.missing -= 1;
            if innermost.missing > 0 {
                return None;
            }
            let Aggregate { kind, items, .. } = self.stack.pop().expect("the stack has an innermost aggregate");
            if kind == Kind::Attribute {
                return None;
            }
            element = aggregate(kind, items);
        }
        Some(element)
    }

    /// Returns the next string, number or empty aggregate. Puts an aggregate that has elements onto the stack.
    fn next_element(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some((kind, len)) = self.blob {
                return self.read_blob(kind, len);
            }
            let Some(line) = self.line()? else { return Ok(None) };
            let head = parse_head(&self.buffer[line.0..line.1])?;
            match head {
                Head::Complete(value) => {
                    self.charge(line.1 - line.0)?;
                    return Ok(Some(value));
                }
                Head::Blob(kind, len) => {
                    if len > self.bounds.blob {
                        return Err(Error::TooLong);
                    }
                    self.charge(len)?;
                    self.blob = Some((kind, len));
                }
                Head::Aggregate(Kind::Attribute, 0) => {}
                Head::Aggregate(kind, 0) => {
                    self.charge(0)?;
                    return Ok(Some(aggregate(kind, Vec::new())));
                }
                Head::Aggregate(kind, missing) => {
                    self.charge(0)?;
                    // Each element counts at least `ELEMENT_BYTES`, so a longer aggregate can never be completed.
                    if missing > self.bounds.value / ELEMENT_BYTES {
                        return Err(Error::TooLong);
                    }
                    if self.stack.len() >= self.bounds.depth {
                        return Err(Error::TooDeep);
                    }
                    self.stack.push(Aggregate { kind, missing, items: Vec::new() });
                }
            }
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.size = self.size.saturating_add(bytes).saturating_add(ELEMENT_BYTES);
        if self.size > self.bounds.value { Err(Error::TooLong) } else { Ok(()) }
    }

    /// Consumes a line. Returns its range in the buffer, without the line end.
    fn line(&mut self) -> Result<Option<(usize, usize)>, Error> {
        let unsearched = self.start + self.searched;
        let Some(at) = self.buffer[unsearched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len() - self.start;
            return if self.searched > self.bounds.line { Err(Error::TooLong) } else { Ok(None) };
        };
        let (first, end) = (self.start, unsearched + at);
        if end - first > self.bounds.line {
            return Err(Error::TooLong);
        }
        if end == first || self.buffer[end - 1] != b'\r' {
            return Err(Error::MissingLineEnd);
        }
        self.start = end + 1;
        self.searched = 0;
        Ok(Some((first, end - 1)))
    }

    fn read_blob(&mut self, kind: Kind, len: usize) -> Result<Option<Value>, Error> {
        let rest = &self.buffer[self.start..];
        if rest.len() < len + 2 {
            return Ok(None);
        }
        if &rest[len..len + 2] != b"\r\n" {
            return Err(Error::MissingLineEnd);
        }
        let value = match kind {
            Kind::Error => Value::Error(rest[..len].to_vec()),
            Kind::Verbatim if len < 4 || rest[3] != b':' => return Err(Error::InvalidLine),
            Kind::Verbatim => Value::Text(rest[4..len].to_vec()),
            _ => Value::Text(rest[..len].to_vec()),
        };
        self.start += len + 2;
        self.blob = None;
        Ok(Some(value))
    }
}

fn aggregate(kind: Kind, items: Vec<Value>) -> Value {
    match kind {
        Kind::Map => Value::Map(items),
        Kind::Push => Value::Push(items),
        _ => Value::Array(items),
    }
}

fn parse_head(line: &[u8]) -> Result<Head, Error> {
    let (&kind, rest) = line.split_first().ok_or(Error::InvalidLine)?;
    let length = || match decimal(rest) {
        Some(length) => usize::try_from(length).map_err(|_| Error::TooLong),
        None => Err(Error::InvalidLength),
    };
    let head = match kind {
        // Null strings and arrays of RESP2.
        b'$' | b'*' if rest == b"-1" => Head::Complete(Value::Null),
        b'$' => Head::Blob(Kind::Text, length()?),
        b'!' => Head::Blob(Kind::Error, length()?),
        b'=' => Head::Blob(Kind::Verbatim, length()?),
        b'*' | b'~' => Head::Aggregate(Kind::Array, length()?),
        b'>' => Head::Aggregate(Kind::Push, length()?),
        b'%' => Head::Aggregate(Kind::Map, length()?.checked_mul(2).ok_or(Error::TooLong)?),
        b'|' => Head::Aggregate(Kind::Attribute, length()?.checked_mul(2).ok_or(Error::TooLong)?),
        b'+' => Head::Complete(Value::Text(rest.to_vec())),
        b'-' => Head::Complete(Value::Error(rest.to_vec())),
        b':' => Head::Complete(Value::Integer(integer(rest).ok_or(Error::InvalidLine)?)),
        b',' if is_double(rest) => Head::Complete(Value::Number(rest.to_vec())),
        b'(' if is_big_number(rest) => Head::Complete(Value::Number(rest.to_vec())),
        b'#' if rest == b"t" || rest == b"f" => Head::Complete(Value::Bool(rest == b"t")),
        b'_' if rest.is_empty() => Head::Complete(Value::Null),
        b',' | b'(' | b'#' | b'_' => return Err(Error::InvalidLine),
        unknown => return Err(Error::UnknownType(unknown)),
    };
    Ok(head)
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn is_double(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

fn is_big_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Appends a request: an array of blobs.
pub(crate) fn write_request(output: &mut Vec<u8>, words: &[&[u8]]) {
    output.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        write_blob(output, word);
    }
}

/// Appends a blob.
pub(crate) fn write_blob(output: &mut Vec<u8>, bytes: &[u8]) {
    output.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    output.extend_from_slice(bytes);
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
