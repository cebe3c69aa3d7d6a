//! Values and requests, in any parts, against another implementation of RESP3; hostile bytes are refused.

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
        assert_eq!(read_all([first, second]).as_deref().map_err(|error| *error), expected, "{text:?} in two at {at}");
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
