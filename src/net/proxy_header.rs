//! The header of the PROXY protocol, versions 1 and 2, with which a proxy names the address of its client
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Without I/O.
//!
//! HTTP or TLS follows on the same connection, so no byte behind the header may be read with it: [`ProxyHeader::wanted`]
//! says how many bytes may be read next.
//!
//! ```text
//! signature ──► version 1: a line of text, until CR LF
//!           └─► version 2: 16 bytes with a length ──► as many bytes
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, with its line end (section 2.1).
const MAX_LINE: usize = 107;
/// Longest header of version 2 that is accepted: section 2 lets a receiver expect no more, since the smallest maximum
/// segment of TCP over IPv4 holds it.
const MAX_HEADER: usize = 536;
/// How a header of version 1 begins.
const LINE_PREFIX: &[u8] = b"PROXY ";
/// How a header of version 2 begins (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a header of version 2 in front of the addresses: the signature, version and command, family, and length.
const FIXED: usize = 16;
/// Shortest header of version 1: `PROXY UNKNOWN` and its line end.
const SHORTEST_LINE: usize = 15;
/// Type of the TLV with the checksum of the header.
const PP2_TYPE_CRC32C: u8 = 0x03;

/// A header of the PROXY protocol that is being received.
///
/// A driver of your own, which owns its sockets, reads at most [`wanted`](Self::wanted) bytes at a time and passes them to
/// [`push`](Self::push), until that returns an origin. [`Server`](super::Server) does so if `proxy_protocol` lists the peer.
///
/// ```
/// use std::io::Read;
///
/// use lobbyd::net::{ProxiedOrigin, ProxyHeader};
///
/// let mut socket = &b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n"[..];
/// let mut header = ProxyHeader::default();
/// let origin = loop {
///     let mut bytes = vec![0; header.wanted()];
///     let count = socket.read(&mut bytes).unwrap();
///     if let Some(origin) = header.push(&bytes[..count])? {
///         break origin;
///     }
/// };
/// assert_eq!(origin, ProxiedOrigin::Client("192.0.2.1:56324".parse().unwrap()));
/// assert!(socket.starts_with(b"GET /"), "nothing behind the header was read");
/// # Ok::<(), lobbyd::net::ProxyHeaderFault>(())
/// ```
#[derive(Debug, Default)]
pub struct ProxyHeader {
    bytes: Vec<u8>,
}

/// Where a connection comes from, as its header says.
///
/// [`ProxyHeader`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxiedOrigin {
    /// The proxy passes on the connection of this client. An IPv4-mapped IPv6 address is the IPv4 address.
    Client(SocketAddr),
    /// The connection is the proxy's own, such as a health check (`LOCAL`), or its client has no address that the header
    /// can name (`UNKNOWN`, `AF_UNSPEC`). The address of the socket counts.
    Proxy,
}

/// Why a header is refused.
///
/// [`ProxyHeader`] has an example without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProxyHeaderFault {
    /// The first bytes are those of no header.
    Signature,
    /// The header is longer than 107 bytes (version 1) or 536 bytes (version 2).
    TooLong,
    /// Another version or command, a line of another form, or a length that does not fit the addresses or a TLV.
    Malformed,
    /// The client has another kind of address: not TCP, or a socket file on the machine of the proxy.
    Family,
    /// The checksum of the header is another one.
    Checksum,
}

impl ProxyHeaderFault {
    /// Returns a phrase for the log.
    pub fn explain(self) -> &'static str {
        match self {
            ProxyHeaderFault::Signature => "the connection does not begin with a PROXY header",
            ProxyHeaderFault::TooLong => "the PROXY header is too long",
            ProxyHeaderFault::Malformed => "the PROXY header is malformed",
            ProxyHeaderFault::Family => "the PROXY header names an address that is not one of TCP",
            ProxyHeaderFault::Checksum => "the checksum of the PROXY header is wrong",
        }
    }
}

impl std::fmt::Display for ProxyHeaderFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.explain())
    }
}

impl std::error::Error for ProxyHeaderFault {}

impl ProxyHeader {
    /// Longest header that is accepted, in bytes.
    pub const MAX_BYTES: usize = MAX_HEADER;

    /// Returns how many bytes may be read next: at least one, and no more than the header still has, whatever it is.
    pub fn wanted(&self) -> usize {
        let count = self.bytes.len();
        let least = if !self.is_line() {
            // Version 1 has headers that are shorter than the fixed part of version 2.
            match self.v2_length() {
                Some(length) => length,
                None if count > 0 => FIXED,
                None => SHORTEST_LINE,
            }
        } else {
            count + least_rest_of_line(&self.bytes)
        };
        least.max(count + 1) - count
    }

    /// Takes the bytes that were read, at most [`wanted`](Self::wanted). Returns the origin once the header is complete.
    ///
    /// # Errors
    ///
    /// A [`ProxyHeaderFault`] as soon as the bytes can be no valid header. The connection must be closed then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<ProxiedOrigin>, ProxyHeaderFault> {
        self.bytes.extend_from_slice(bytes);
        let is_beginning = |of: &[u8]| self.bytes.iter().zip(of).all(|(one, other)| one == other);
        if self.bytes.is_empty() {
            Ok(None)
        } else if self.is_line() && is_beginning(LINE_PREFIX) {
            match self.bytes.as_slice() {
                [line @ .., b'\r', b'\n'] if line.len() + 2 <= MAX_LINE => parse_line(line).map(Some),
                // Of a line that lacks fields, some bytes behind its end may have been read: it is not too long because of them.
                line if line[..line.len().min(MAX_LINE) - 1].contains(&b'\r') => Err(ProxyHeaderFault::Malformed),
                line if line.len() >= MAX_LINE => Err(ProxyHeaderFault::TooLong),
                _ => Ok(None),
            }
        } else if !self.is_line() && is_beginning(SIGNATURE) {
            match self.v2_length() {
                Some(length) if length > MAX_HEADER => Err(ProxyHeaderFault::TooLong),
                Some(length) if length == self.bytes.len() => parse_v2(&self.bytes).map(Some),
                _ => Ok(None),
            }
        } else {
            Err(ProxyHeaderFault::Signature)
        }
    }

    /// Whether no byte was received yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the first byte is that of version 1.
    fn is_line(&self) -> bool {
        self.bytes.first() == LINE_PREFIX.first()
    }

    /// Returns the length of a header of version 2, once it is known.
    fn v2_length(&self) -> Option<usize> {
        let fixed = self.bytes.get(..FIXED)?;
        Some(FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]])))
    }
}

/// Returns the least number of bytes that complete a line of version 1, so that few reads are needed.
fn least_rest_of_line(line: &[u8]) -> usize {
    if line.ends_with(b"\r") {
        return 1;
    }
    if line.len() < SHORTEST_LINE - 2 {
        return SHORTEST_LINE - line.len();
    }
    // Each field that has not begun is a space and at least one character.
    let spaces = line.iter().filter(|&&c| c == b' ').count();
    let is_tcp = line.starts_with(b"PROXY TCP");
    let fields = if is_tcp { 5_usize.saturating_sub(spaces) } else { 0 };
    2 * fields + 2
}

/// Parses a header of version 1 without its line end (section 2.1).
fn parse_line(line: &[u8]) -> Result<ProxiedOrigin, ProxyHeaderFault> {
    let malformed = ProxyHeaderFault::Malformed;
    let rest = line.strip_prefix(LINE_PREFIX).filter(|rest| !rest.contains(&b'\r')).ok_or(malformed)?;
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(ProxiedOrigin::Proxy);
    }
    let text = str::from_utf8(rest).map_err(|_| malformed)?;
    let fields: Vec<&str> = text.split(' ').collect();
    let &[family, source, destination, source_port, destination_port] = &fields[..] else { return Err(malformed) };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, port) = address(source).zip(port(source_port)).ok_or(malformed)?;
    address(destination).zip(self::port(destination_port)).ok_or(malformed)?;
    Ok(client(source, port))
}

/// Parses a port: a number without a sign and without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_canonical = text == "0" || text.starts_with(|c: char| ('1'..='9').contains(&c));
    text.parse().ok().filter(|_| is_canonical)
}

fn client(address: IpAddr, port: u16) -> ProxiedOrigin {
    ProxiedOrigin::Client(SocketAddr::new(address.to_canonical(), port))
}

/// Parses a complete header of version 2 (section 2.2).
fn parse_v2(header: &[u8]) -> Result<ProxiedOrigin, ProxyHeaderFault> {
    let (fixed, rest) = header.split_at(FIXED);
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    let (family, transport) = (fixed[13] >> 4, fixed[13] & 0xf);
    match (version, command) {
        // LOCAL: everything behind it is skipped, and the family is ignored.
        (2, 0) => return Ok(ProxiedOrigin::Proxy),
        (2, 1) => {}
        _ => return Err(ProxyHeaderFault::Malformed),
    }
    let (origin, tlvs) = match (family, transport) {
        // AF_UNSPEC or UNSPEC: a receiver may use the address of the socket. Where addresses end is not known.
        (0, 0..=2) | (1..=3, 0) => return Ok(ProxiedOrigin::Proxy),
        (1, 1) => {
            let (addresses, tlvs) = rest.split_first_chunk::<12>().ok_or(ProxyHeaderFault::Malformed)?;
            let &[a, b, c, d, _, _, _, _, high, low, ..] = addresses;
            (client(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])), tlvs)
        }
        (2, 1) => {
            let (addresses, tlvs) = rest.split_first_chunk::<36>().ok_or(ProxyHeaderFault::Malformed)?;
            let mut source = [0; 16];
            source.copy_from_slice(&addresses[..16]);
            (client(Ipv6Addr::from(source).into(), u16::from_be_bytes([addresses[32], addresses[33]])), tlvs)
        }
        (1..=2, 2) | (3, 1..=2) => return Err(ProxyHeaderFault::Family),
        _ => return Err(ProxyHeaderFault::Malformed),
    };
    check_tlvs(header, header.len() - tlvs.len())?;
    Ok(origin)
}

/// Checks that the TLVs of a header end where it ends, and its checksum if one of them has it (section 2.2.3). The others
/// are skipped.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), ProxyHeaderFault> {
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk::<3>() else { return Err(ProxyHeaderFault::Malformed) };
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        let bytes = header.get(value..at).ok_or(ProxyHeaderFault::Malformed)?;
        if kind == PP2_TYPE_CRC32C {
            let sent = bytes.try_into().map(u32::from_be_bytes).map_err(|_| ProxyHeaderFault::Malformed)?;
            // The sender has computed it with zeros in its place.
            let zeroed = header[..value].iter().chain(&[0; 4]).chain(&header[at..]);
            if crc32c(zeroed) != sent {
                return Err(ProxyHeaderFault::Checksum);
            }
        }
    }
    Ok(())
}

/// CRC-32C (Castagnoli, RFC 9260 appendix A), bit by bit: few proxies send one, in a header of at most 536 bytes.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const REFLECTED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let register = bytes.fold(u32::MAX, |register, &byte| {
        (0..8).fold(register ^ u32::from(byte), |bits, _| {
            if bits & 1 == 1 { bits >> 1 ^ REFLECTED_POLYNOMIAL } else { bits >> 1 }
        })
    });
    !register
}

#[cfg(test)]
mod tests {
    use ProxyHeaderFault::{Checksum, Family, Malformed, Signature, TooLong};

    use super::*;
    use crate::base::random::Random;

    /// Reads a header as a socket gives it, at most `most` bytes at a time. Returns what was not read.
    fn read(mut input: &[u8], most: usize) -> (Result<Option<ProxiedOrigin>, ProxyHeaderFault>, &[u8]) {
        let mut header = ProxyHeader::default();
        loop {
            let count = header.wanted().min(most).min(input.len());
            if count == 0 {
                return (Ok(None), input);
            }
            let (read, rest) = input.split_at(count);
            input = rest;
            match header.push(read) {
                Ok(None) => {}
                result => return (result, input),
            }
        }
    }

    /// Checks a header as it is, one byte at a time, and followed by bytes that must not be read.
    #[track_caller]
    fn check(header: &[u8], expected: Result<&str, ProxyHeaderFault>) {
        let origin = match expected {
            Ok("") => Ok(Some(ProxiedOrigin::Proxy)),
            Ok(address) => Ok(Some(ProxiedOrigin::Client(address.parse().expect("an address")))),
            Err(fault) => Err(fault),
        };
        for most in [usize::MAX, 1, 2, 7] {
            assert_eq!(read(header, most).0, origin, "{} in pieces of {most}", header.escape_ascii());
            let followed = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
            let (result, rest) = read(&followed, most);
            assert_eq!(result, origin, "{} and more", header.escape_ascii());
            assert!(expected.is_err() || rest == b"GET / HTTP/1.1\r\n\r\n", "{}", rest.escape_ascii());
        }
        if expected.is_ok() {
            for end in 0..header.len() {
                assert_eq!(read(&header[..end], usize::MAX).0, Ok(None), "{end} bytes of {}", header.escape_ascii());
            }
        }
    }

    fn line(text: &str) -> Vec<u8> {
        [text.as_bytes(), b"\r\n"].concat()
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("a short header").to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
        [&address("2001:db8::1")[..], &address("2001:db8::2"), &[0xdc, 0x04, 0x01, 0xbb]].concat()
    }

    /// With the examples of section 2.1, and its longest lines.
    #[test]
    fn lines_of_version_1() {
        check(&line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535"), Ok("255.255.255.255:65535"));
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        check(&line(&format!("PROXY TCP6 {longest} {longest} 65535 65535")), Ok(&format!("[{longest}]:65535")));
        check(&line(&format!("PROXY UNKNOWN {longest} {longest} 65535 65535")), Ok(""));
        check(&line("PROXY UNKNOWN"), Ok(""));
        check(&line("PROXY UNKNOWN "), Ok(""));
        check(&line("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443"), Ok("192.168.0.1:56324"));
        check(&line("PROXY TCP4 1.1.1.1 2.2.2.2 0 0"), Ok("1.1.1.1:0"));
        check(&line("PROXY TCP6 ::1 :: 1 2"), Ok("[::1]:1"));
        check(&line("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2"), Ok("192.0.2.1:1"));
    }

    #[test]
    fn malformed_lines_are_refused() {
        for text in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 ",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1",
            "PROXY TCP4 192.0.2.1  198.51.100.1 56324 443",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536",
            "PROXY TCP4 192.0.2.1 198.51.100.1 -1 443",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 443",
            "PROXY TCP4 192.0.2.1 198.51.100.1 00 443",
            "PROXY TCP4 192.0.2.1 198.51.100.1  443",
            "PROXY TCP4 192.0.02.1 198.51.100.1 56324 443",
            "PROXY TCP4 192.0.2.256 198.51.100.1 56324 443",
            "PROXY TCP4 192.0.2.1 game.example 56324 443",
            "PROXY TCP4 ::1 ::1 56324 443",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443",
            "PROXY TCP6 [::1] [::1] 56324 443",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443",
            "PROXY tcp4 192.0.2.1 198.51.100.1 56324 443",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443",
            "PROXY UNKNOWNS 192.0.2.1",
            "PROXY ",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 44\u{0663}",
            "PROXY TCP4 192.0.2.1\r198.51.100.1 56324 443",
            "PROXY TCP4 192.0.2.1\n198.51.100.1 56324 443",
        ] {
            check(&line(text), Err(Malformed));
        }
        check(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\r\n", Err(Malformed));
        // Fields are missing, so more bytes than the line has left may be read with it.
        for (fields, length) in (0..4).flat_map(|fields| (20..=105).map(move |length| (fields, length))) {
            let text = format!("PROXY TCP6{}", " f".repeat(fields));
            check(&line(&format!("{text:f<length$}")), Err(Malformed));
        }
        // The longest line has 107 bytes with its end.
        check(&line(&format!("PROXY UNKNOWN {}", "x".repeat(91))), Ok(""));
        check(&line(&format!("PROXY UNKNOWN {}", "x".repeat(92))), Err(TooLong));
        check(&[b"PROXY UNKNOWN ", &[b' '; 1000][..]].concat(), Err(TooLong));
        // A line that ends with LF alone does not end.
        check(&[b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n", &[b'x'; 100][..]].concat(), Err(TooLong));
    }

    #[test]
    fn other_first_bytes_are_refused_at_once() {
        for text in
            ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0", "\x16\x03\x01", "proxy TCP4", "\r\n\r\n\0\r\nQUIT\r", "\0"]
        {
            check(text.as_bytes(), Err(Signature));
        }
        for (at, &byte) in SIGNATURE.iter().enumerate() {
            let mut wrong = SIGNATURE[..=at].to_vec();
            wrong[at] = byte ^ 0x80;
            assert_eq!(read(&wrong, 1).0, Err(Signature), "the byte at {at}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        check(&v2(0x21, 0x11, &V4), Ok("192.0.2.1:56324"));
        check(&v2(0x21, 0x21, &v6()), Ok("[2001:db8::1]:56324"));
        let mapped = [&"::ffff:192.0.2.1".parse::<Ipv6Addr>().expect("an address").octets()[..], &v6()[16..]].concat();
        check(&v2(0x21, 0x21, &mapped), Ok("192.0.2.1:56324"));
        // HAProxy's health check, and other local connections, whatever follows.
        check(&v2(0x20, 0x00, b""), Ok(""));
        check(&v2(0x20, 0x11, &V4), Ok(""));
        check(&v2(0x20, 0x31, &[0xff; 520]), Ok(""));
        // No known address.
        check(&v2(0x21, 0x00, b""), Ok(""));
        check(&v2(0x21, 0x00, &[7; 100]), Ok(""));
        check(&v2(0x21, 0x10, &V4), Ok(""));
    }

    #[test]
    fn wrong_headers_of_version_2_are_refused() {
        check(&v2(0x21, 0x31, &[0; 216]), Err(Family));
        check(&v2(0x21, 0x32, &[0; 216]), Err(Family));
        check(&v2(0x21, 0x12, &V4), Err(Family));
        check(&v2(0x21, 0x22, &v6()), Err(Family));
        for (command, family) in
            [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x2f, 0x11), (0x21, 0x41), (0x21, 0x13), (0x21, 0x03)]
        {
            check(&v2(command, family, &[0; 36]), Err(Malformed));
        }
        check(&v2(0x21, 0x11, &V4[..11]), Err(Malformed));
        check(&v2(0x21, 0x11, b""), Err(Malformed));
        check(&v2(0x21, 0x21, &v6()[..35]), Err(Malformed));
        check(&v2(0x20, 0x00, &[0; 520]), Ok(""));
        check(&v2(0x20, 0x00, &[0; 521]), Err(TooLong));
        check(&v2(0x21, 0x11, &[0; 65_535]), Err(TooLong));
    }

    fn with_tlvs(tlvs: &[&[u8]]) -> Vec<u8> {
        v2(0x21, 0x11, &[&V4[..], &tlvs.concat()].concat())
    }

    #[test]
    fn tlvs_are_skipped_and_their_lengths_checked() {
        // The authority, a NOOP, and the endpoint of AWS (PP2_TYPE_AWS).
        check(&with_tlvs(&[b"\x02\0\x04game", b"\x04\0\0", b"\xea\0\x03\x01vp"]), Ok("192.0.2.1:56324"));
        check(&with_tlvs(&[b"\x04\x02\x01", &[0; 505]]), Err(Malformed));
        check(&with_tlvs(&[b"\x04"]), Err(Malformed));
        check(&with_tlvs(&[b"\x04\0"]), Err(Malformed));
        check(&with_tlvs(&[b"\x04\0\x01"]), Err(Malformed));
        check(&with_tlvs(&[b"\x04\xff\xff", &[0; 100]]), Err(Malformed));
    }

    #[test]
    fn a_checksum_is_compared_if_there_is_one() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        let zeroed = with_tlvs(&[b"\x04\0\x01x", b"\x03\0\x04\0\0\0\0", b"\x04\0\x02yz"]);
        let at = FIXED + V4.len() + 4 + 3;
        let mut right = zeroed.clone();
        right[at..at + 4].copy_from_slice(&crc32c(zeroed.iter()).to_be_bytes());
        check(&right, Ok("192.0.2.1:56324"));
        check(&zeroed, Err(Checksum));
        for byte in [FIXED, FIXED + 8, at, at + 3, right.len() - 1] {
            let mut wrong = right.clone();
            wrong[byte] ^= 1;
            check(&wrong, Err(Checksum));
        }
        check(&with_tlvs(&[b"\x03\0\x03abc"]), Err(Malformed));
    }

    /// Whatever is wrong with a header: the result does not depend on how it arrives, and nothing behind a header is read.
    #[test]
    fn changed_headers_are_read_alike_in_any_pieces() {
        let mut random = Random::new(23);
        let headers = [
            line("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443"),
            line("PROXY TCP6 2001:db8::1 ::1 1 2"),
            line("PROXY UNKNOWN ::1 ::1 1 2"),
            v2(0x21, 0x11, &V4),
            v2(0x20, 0x00, b""),
            with_tlvs(&[b"\x04\0\x01x", b"\x03\0\x04\0\0\0\0"]),
        ];
        for _ in 0..5_000 {
            let mut header = headers[random.below(headers.len() as u64) as usize].clone();
            for _ in 0..random.below(4) {
                let at = random.below(header.len() as u64) as usize;
                match random.below(3) {
                    0 => header[at] = random.below(256) as u8,
                    1 => header[at] = b" \r\n0:."[random.below(6) as usize],
                    _ => drop(header.remove(at)),
                }
            }
            header.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            let (whole, rest) = read(&header, usize::MAX);
            for most in [1, 2, 3, 20] {
                let (pieces, rest_of_pieces) = read(&header, most);
                assert_eq!(pieces, whole, "{} in pieces of {most}", header.escape_ascii());
                assert!(whole.is_err() || rest_of_pieces == rest, "{}", header.escape_ascii());
            }
        }
    }
}
