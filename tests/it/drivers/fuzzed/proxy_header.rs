//! The header of the PROXY protocol. The first byte selects how the input arrives; HTTP or TLS may follow the header.

use lobbyd::net::{ProxiedOrigin, ProxyHeader, ProxyHeaderFault};

/// Outcome of a connection, and the number of bytes that were read of it.
type Outcome = (Result<Option<ProxiedOrigin>, ProxyHeaderFault>, usize);

pub fn run(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let (origin, count) = read(bytes, usize::MAX);
    assert!(count <= ProxyHeader::MAX_BYTES);
    assert_eq!(read(bytes, 1).0, origin, "byte by byte");
    assert_eq!(read(bytes, 2 + usize::from(seed)).0, origin, "in pieces");
    if let Ok(Some(_)) = origin {
        let header = &bytes[..count];
        assert_eq!(read(header, usize::MAX), (origin, count), "nothing behind the header matters");
        assert_eq!(read(header, 1), (origin, count), "no byte behind the header is read");
        assert_eq!(read(&header[..count - 1], usize::MAX).0, Ok(None), "a header that is cut off is not complete");
        let more = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(read(&more, usize::MAX), (origin, count), "whatever follows");
    }
}

/// Reads as the driver does: at most what the header wants, and at most `most` bytes at a time.
fn read(bytes: &[u8], most: usize) -> Outcome {
    let (mut header, mut at) = (ProxyHeader::default(), 0);
    loop {
        assert!(header.wanted() > 0);
        let count = header.wanted().min(most).min(bytes.len() - at);
        if count == 0 {
            return (Ok(None), at);
        }
        at += count;
        match header.push(&bytes[at - count..at]) {
            Ok(None) => {}
            outcome => return (outcome, at),
        }
    }
}
