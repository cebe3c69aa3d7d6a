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
mod tests {
    use redis_protocol::resp3::decode::complete::decode;
    use redis_protocol::resp3::encode::complete::encode;
    use redis_protocol::resp3::types::{OwnedFrame, Resp3Frame, VerbatimStringFormat};

    use super::*;
    use crate::base::random::Random;

    const BOUNDS: Bounds = Bounds { line: 64, blob: 256, value: 8192, depth: 4 };

    /// Reads all values of the parts.
    fn read_all<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Value>, Error> {
        let mut reader = Reader::new(BOUNDS);
        let mut values = Vec::new();
        for part in parts {
            reader.push(part);
            while let Some(value) = reader.next()? {
                values.push(value);
            }
        }
        Ok(values)
    }

    #[track_caller]
    fn check(text: &str, expected: Result<&[Value], Error>) {
        let bytes = text.as_bytes();
        assert_eq!(read_all([bytes]).as_deref().map_err(|error| *error), expected, "{text:?}");
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(
                read_all([first, second]).as_deref().map_err(|error| *error),
                expected,
                "{text:?} in two at {at}"
            );
        }
        assert_eq!(read_all(bytes.chunks(1)).as_deref().map_err(|error| *error), expected, "{text:?} byte by byte");
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn every_type_is_read_in_any_parts() {
        check("+OK\r\n", Ok(&[text("OK")]));
        check("-ERR no\r\n", Ok(&[Value::Error(b"ERR no".into())]));
        check(":-12\r\n", Ok(&[Value::Integer(-12)]));
        check("$0\r\n\r\n", Ok(&[text("")]));
        check("$5\r\na\r\nb\n\r\n", Ok(&[text("a\r\nb\n")]));
        check("!5\r\nERR a\r\n", Ok(&[Value::Error(b"ERR a".into())]));
        check("=6\r\ntxt:ab\r\n", Ok(&[text("ab")]));
        check(",1.5\r\n,inf\r\n", Ok(&[Value::Number(b"1.5".into()), Value::Number(b"inf".into())]));
        check("(123456789012345678901\r\n", Ok(&[Value::Number(b"123456789012345678901".into())]));
        check("#t\r\n#f\r\n", Ok(&[Value::Bool(true), Value::Bool(false)]));
        check("_\r\n$-1\r\n*-1\r\n", Ok(&[Value::Null, Value::Null, Value::Null]));
        check("*0\r\n*1\r\n*0\r\n", Ok(&[Value::Array(vec![]), Value::Array(vec![Value::Array(vec![])])]));
        check("~2\r\n:1\r\n:2\r\n", Ok(&[Value::Array(vec![Value::Integer(1), Value::Integer(2)])]));
        check("%1\r\n+a\r\n*1\r\n:2\r\n", Ok(&[Value::Map(vec![text("a"), Value::Array(vec![Value::Integer(2)])])]));
        check(">2\r\n+message\r\n$1\r\nx\r\n", Ok(&[Value::Push(vec![text("message"), text("x")])]));
        check("|1\r\n+a\r\n:1\r\n:7\r\n", Ok(&[Value::Integer(7)]));
        check(
            "*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:7\r\n:8\r\n",
            Ok(&[Value::Array(vec![Value::Integer(7), Value::Integer(8)])]),
        );
        check("*2\r\n:1\r\n", Ok(&[]));
    }

    #[test]
    fn hostile_input_is_refused() {
        for (input, error) in [
            ("\r\n", Error::InvalidLine),
            ("\n", Error::MissingLineEnd),
            ("+OK\n", Error::MissingLineEnd),
            ("$1\r\nab\r\n", Error::MissingLineEnd),
            ("HTTP/1.1 400\r\n", Error::UnknownType(b'H')),
            (":\r\n", Error::InvalidLine),
            (":1x\r\n", Error::InvalidLine),
            ("#x\r\n", Error::InvalidLine),
            ("_x\r\n", Error::InvalidLine),
            ("(1.5\r\n", Error::InvalidLine),
            (",x\r\n", Error::InvalidLine),
            ("=3\r\nabc\r\n", Error::InvalidLine),
            ("$-2\r\n", Error::InvalidLength),
            ("$+1\r\n", Error::InvalidLength),
            ("$?\r\n", Error::InvalidLength),
            ("*?\r\n", Error::InvalidLength),
            ("$\r\n", Error::InvalidLength),
            ("$99999999999999999999\r\n", Error::InvalidLength),
            ("$257\r\n", Error::TooLong),
            ("$18446744073709551615\r\n", Error::TooLong),
            ("*18446744073709551615\r\n", Error::TooLong),
            ("%18446744073709551615\r\n", Error::TooLong),
            ("*257\r\n", Error::TooLong),
            ("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", Error::TooDeep),
        ] {
            check(input, Err(error));
        }
        check(&format!("+{}\r\n", "x".repeat(64)), Err(Error::TooLong));
        check(&"x".repeat(66), Err(Error::TooLong));
        check(&format!("*255\r\n{}", format!("$100\r\n{}\r\n", "x".repeat(100)).repeat(255)), Err(Error::TooLong));
    }

    #[test]
    fn announced_lengths_allocate_nothing() {
        let mut reader = Reader::new(Bounds { line: 64, blob: 1 << 30, value: 1 << 40, depth: 4 });
        reader.push(b"*30000000\r\n$1073741824\r\nabc");
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.buffer.capacity() < 1024);
        assert!(reader.stack[0].items.capacity() < 16);
    }

    #[test]
    fn what_was_read_is_not_kept() {
        let mut reader = Reader::new(BOUNDS);
        for _ in 0..1000 {
            reader.push(b"+OK\r\n+O");
            assert!(reader.next().is_ok_and(|value| value.is_some()));
            assert_eq!(reader.next(), Ok(None));
            reader.push(b"K\r\n");
            assert!(reader.next().is_ok_and(|value| value.is_some()));
        }
        assert!(reader.buffer.capacity() < 1024);
    }

    /// Returns a random frame of the other implementation, and the same value of ours. Its maps and sets have at most one element,
    /// because it does not keep their order.
    fn random_frame(random: &mut Random, depth: u32) -> (OwnedFrame, Value) {
        let mut bytes = |most: u64| {
            (0..random.below(most + 1)).map(|_| b"ab \r\n\0\xff"[random.below(7) as usize]).collect::<Vec<u8>>()
        };
        let attributes = None;
        let blob = bytes(20);
        let line: Vec<u8> = bytes(20).into_iter().filter(|byte| !b"\r\n".contains(byte)).collect();
        let kind = random.below(if depth == 0 { 10 } else { 14 });
        let elements = |random: &mut Random, most: u64| -> (Vec<OwnedFrame>, Vec<Value>) {
            (0..random.below(most + 1)).map(|_| random_frame(random, depth - 1)).unzip()
        };
        match kind {
            0 => (OwnedFrame::BlobString { data: blob.clone(), attributes }, Value::Text(blob)),
            1 => (OwnedFrame::BlobError { data: blob.clone(), attributes }, Value::Error(blob)),
            2 => (OwnedFrame::SimpleString { data: line.clone(), attributes }, Value::Text(line)),
            3 => (OwnedFrame::SimpleError { data: "ERR x".into(), attributes }, Value::Error(b"ERR x".into())),
            4 => (OwnedFrame::Boolean { data: blob.len() > 5, attributes }, Value::Bool(blob.len() > 5)),
            5 => (OwnedFrame::Null, Value::Null),
            6 => {
                let data = random.next_u64().cast_signed();
                (OwnedFrame::Number { data, attributes }, Value::Integer(data))
            }
            7 => (OwnedFrame::Double { data: 2.5, attributes }, Value::Number(b"2.5".into())),
            8 => {
                let data = b"-123456789012345678901234567890".to_vec();
                (OwnedFrame::BigNumber { data: data.clone(), attributes }, Value::Number(data))
            }
            9 => {
                let format = VerbatimStringFormat::Markdown;
                (OwnedFrame::VerbatimString { data: blob.clone(), format, attributes }, Value::Text(blob))
            }
            10 => {
                let (data, values) = elements(random, 3);
                (OwnedFrame::Array { data, attributes }, Value::Array(values))
            }
            // Only some of its values can be elements of a set.
            11 => {
                let frame = OwnedFrame::BlobString { data: blob.clone(), attributes: None };
                let data = std::iter::once(frame).collect();
                (OwnedFrame::Set { data, attributes }, Value::Array(vec![Value::Text(blob)]))
            }
            12 => {
                let (frame, value) = random_frame(random, depth - 1);
                let key = OwnedFrame::SimpleString { data: b"key".into(), attributes: None };
                let data = std::iter::once((key, frame)).collect();
                (OwnedFrame::Map { data, attributes }, Value::Map(vec![text("key"), value]))
            }
            _ => {
                let (mut data, mut values) = elements(random, 2);
                let (word, kind) = (b"pubsub".to_vec(), b"message".to_vec());
                for word in [kind, word] {
                    data.insert(0, OwnedFrame::SimpleString { data: word.clone(), attributes: None });
                    values.insert(0, Value::Text(word));
                }
                (OwnedFrame::Push { data, attributes }, Value::Push(values))
            }
        }
    }

    #[test]
    fn values_that_another_implementation_writes_are_read_in_any_parts() {
        let mut random = Random::new(22);
        for _ in 0..3000 {
            let (frame, value) = random_frame(&mut random, 3);
            let mut bytes = vec![0; frame.encode_len(false)];
            let len = encode(&mut bytes, &frame, false).expect("the frame can be written");
            bytes.truncate(len);
            let at = random.below(len as u64 + 1) as usize;
            let (first, second) = bytes.split_at(at);
            let expected = Ok(vec![value]);
            assert_eq!(read_all([first, second]), expected, "{:?} in two at {at}", String::from_utf8_lossy(&bytes));
            assert_eq!(read_all(bytes.chunks(1)), expected, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn requests_are_read_by_another_implementation() {
        let words: [&[u8]; 4] = [b"EVALSHA", b"", b"a\r\nb", &[0xff; 300]];
        let mut bytes = Vec::new();
        write_request(&mut bytes, &words);
        let (frame, len) = decode(&bytes).expect("a frame").expect("a complete frame");
        assert_eq!(len, bytes.len());
        let blob = |word: &&[u8]| OwnedFrame::BlobString { data: word.to_vec(), attributes: None };
        assert_eq!(frame, OwnedFrame::Array { data: words.iter().map(blob).collect(), attributes: None });
    }

    #[test]
    fn changed_bytes_never_panic_and_agree_on_what_is_complete() {
        let mut random = Random::new(23);
        for _ in 0..20_000 {
            let (frame, _) = random_frame(&mut random, 2);
            let mut bytes = vec![0; frame.encode_len(false)];
            let len = encode(&mut bytes, &frame, false).expect("the frame can be written");
            bytes.truncate(len);
            for _ in 0..random.below(3) {
                let at = random.below(len as u64) as usize;
                bytes[at] = b"*$:%>~|!=+-0129\r\n?"[random.below(18) as usize];
            }
            let whole = read_all([&bytes[..]]);
            let in_parts = read_all(bytes.chunks(1));
            assert_eq!(whole, in_parts, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
