//! The client's address as trusted proxies name it: `X-Forwarded-For`, `Forwarded` (RFC 7239) and `X-Real-IP`.
//!
//! A proxy appends one entry to what it received, and a client can send any text before it. So entries are found from the
//! right, and no text to the left of an entry, such as an unclosed quotation mark, changes how the entry is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::head::Headers;
use crate::base::forwarded_header::ForwardedHeader;

/// Why the header names no address at the position of the outermost trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ForwardedFault {
    /// The header has fewer entries than there are trusted proxies, or is missing.
    Missing,
    /// The proxy hides the address: `unknown`, or an obfuscated identifier such as `_hidden` (RFC 7239 section 6).
    Hidden,
    /// The entry is not an address.
    Malformed,
}

/// Returns the address in the entry that the outermost of `proxies` trusted proxies has written, which is at least one.
///
/// An IPv4-mapped IPv6 address is returned as the IPv4 address.
pub(crate) fn forwarded_address(
    headers: Headers<'_, '_>,
    header: ForwardedHeader,
    proxies: u32,
) -> Result<IpAddr, ForwardedFault> {
    // Several lines count as one (RFC 9110 section 5.3).
    let lines: Vec<&[u8]> = headers.values(header.name()).collect();
    let has_quotes = header == ForwardedHeader::Forwarded;
    let mut entries = lines.into_iter().rev().flat_map(|line| EntriesFromRight { rest: Some(line), has_quotes });
    let entry = entries.nth(proxies.saturating_sub(1) as usize).ok_or(ForwardedFault::Missing)?;
    match header {
        ForwardedHeader::Forwarded => node_address(&for_parameter(entry).ok_or(ForwardedFault::Malformed)?),
        ForwardedHeader::XForwardedFor | ForwardedHeader::XRealIp => node_address(&unquoted(entry)),
    }
}

/// The elements of a list, the last one first, without white space around them. Empty elements are skipped (RFC 9110
/// section 5.6.1).
struct EntriesFromRight<'a> {
    rest: Option<&'a [u8]>,
    /// Whether a comma in a quoted string is part of an element. Addresses have no commas, so only `Forwarded` needs it.
    has_quotes: bool,
}

impl<'a> Iterator for EntriesFromRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let line = self.rest.take()?;
            let comma =
                if self.has_quotes { last_separator(line, b',') } else { line.iter().rposition(|&c| c == b',') };
            let entry = match comma {
                Some(at) => {
                    self.rest = Some(&line[..at]);
                    &line[at + 1..]
                }
                None => line,
            };
            if !entry.trim_ascii().is_empty() {
                return Some(entry.trim_ascii());
            }
        }
    }
}

/// Returns the position of the last `separator` outside quoted strings (RFC 9110 section 5.6.4).
///
/// Reads from the right. A quotation mark is escaped, and so inside a string, if an odd number of backslashes precedes
/// it: outside strings there are no backslashes.
fn last_separator(text: &[u8], separator: u8) -> Option<usize> {
    let mut is_quoted = false;
    (0..text.len()).rev().find(|&at| {
        let backslashes = || text[..at].iter().rev().take_while(|&&c| c == b'\\').count();
        if text[at] == b'"' && backslashes() % 2 == 0 {
            is_quoted = !is_quoted;
        }
        text[at] == separator && !is_quoted
    })
}

/// Returns the value of the parameter `for` of one element of `Forwarded`; `None` if it is missing or occurs twice.
fn for_parameter(element: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let semicolon = last_separator(pairs, b';');
        let pair = semicolon.map_or(pairs, |at| &pairs[at + 1..]).trim_ascii();
        rest = semicolon.map(|at| &pairs[..at]);
        let Some(equals) = pair.iter().position(|&c| c == b'=') else { continue };
        if pair[..equals].trim_ascii().eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            found = Some(unquoted(pair[equals + 1..].trim_ascii()));
        }
    }
    found
}

/// Returns the content of a quoted string, without its escapes. Other text is returned as it is.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let Some(inner) = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")) else { return text.to_vec() };
    let mut content = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&c) = bytes.next() {
        let c = if c == b'\\' { bytes.next() } else { Some(&c) };
        content.extend(c);
    }
    content
}

/// Parses a node (RFC 7239 section 6): an address with an optional port. IPv6 addresses may lack their brackets, since
/// many proxies write them so.
fn node_address(node: &[u8]) -> Result<IpAddr, ForwardedFault> {
    let node = str::from_utf8(node).map_err(|_| ForwardedFault::Malformed)?.trim();
    let address = if let Some(rest) = node.strip_prefix('[') {
        let (inner, rest) = rest.split_once(']').ok_or(ForwardedFault::Malformed)?;
        let is_whole = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        v6(inner).filter(|_| is_whole).map(IpAddr::V6)
    } else if let Some(address) = v6(node) {
        Some(IpAddr::V6(address))
    } else {
        let (name, port) = node.split_once(':').map_or((node, None), |(name, port)| (name, Some(port)));
        if !port.is_none_or(is_port) {
            return Err(ForwardedFault::Malformed);
        }
        if name.eq_ignore_ascii_case("unknown") || name.starts_with('_') {
            return Err(ForwardedFault::Hidden);
        }
        name.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    };
    address.map(|address| address.to_canonical()).ok_or(ForwardedFault::Malformed)
}

/// Parses an IPv6 address. A zone (RFC 4007 section 11) is dropped: it is local to the proxy's machine.
fn v6(text: &str) -> Option<Ipv6Addr> {
    text.split_once('%').map_or(text, |(address, _)| address).parse().ok()
}

/// Returns whether `text` is a port: a number, or an obfuscated one such as `_port`.
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty(),
        None => text.parse::<u16>().is_ok() && text.bytes().all(|c| c.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::{HeaderLines, RequestHead};
    use super::*;
    use crate::base::random::Random;

    fn read(header: ForwardedHeader, proxies: u32, lines: &[&[u8]]) -> Result<String, ForwardedFault> {
        let name: &[u8] = match header {
            ForwardedHeader::XForwardedFor => b"X-Forwarded-For: ",
            ForwardedHeader::Forwarded => b"forwarded: ",
            ForwardedHeader::XRealIp => b"X-Real-IP: ",
        };
        let lines: Vec<u8> = lines.iter().flat_map(|line| [name, line, b"\r\n"].concat()).collect();
        let head = [b"GET / HTTP/1.1\r\n", &lines[..], b"\r\n"].concat();
        let mut lines = HeaderLines::EMPTY;
        let head = RequestHead::parse(&head, &mut lines, 16).expect("well-formed");
        forwarded_address(head.headers, header, proxies).map(|address| address.to_string())
    }

    #[track_caller]
    fn check(header: ForwardedHeader, proxies: u32, lines: &[&str], expected: Result<&str, ForwardedFault>) {
        let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        assert_eq!(read(header, proxies, &bytes), expected.map(String::from), "{lines:?}");
    }

    use ForwardedFault::{Hidden, Malformed, Missing};

    /// Forms of one entry that both `X-Forwarded-For` and, quoted, `Forwarded` have.
    const NODES: &[(&str, Result<&str, ForwardedFault>)] = &[
        ("192.0.2.43", Ok("192.0.2.43")),
        ("192.0.2.43:4711", Ok("192.0.2.43")),
        ("[2001:db8::1]", Ok("2001:db8::1")),
        ("[2001:db8::1]:4711", Ok("2001:db8::1")),
        ("2001:DB8:0::1", Ok("2001:db8::1")),
        ("::ffff:192.0.2.43", Ok("192.0.2.43")),
        ("[::ffff:192.0.2.43]:1", Ok("192.0.2.43")),
        ("fe80::1%eth0", Ok("fe80::1")),
        ("[fe80::1%2]:1", Ok("fe80::1")),
        ("192.0.2.43:_port", Ok("192.0.2.43")),
        ("unknown", Err(Hidden)),
        ("UNKNOWN", Err(Hidden)),
        ("_hidden", Err(Hidden)),
        ("unknown:_port", Err(Hidden)),
        ("unix:", Err(Malformed)),
        ("192.0.2.256", Err(Malformed)),
        ("192.0.2", Err(Malformed)),
        ("192.0.2.43:", Err(Malformed)),
        ("192.0.2.43:65536", Err(Malformed)),
        ("192.0.2.43:+1", Err(Malformed)),
        ("192.0.2.43:1:1", Err(Malformed)),
        ("[192.0.2.43]", Err(Malformed)),
        ("[::1", Err(Malformed)),
        ("[::1]1", Err(Malformed)),
        ("::1]", Err(Malformed)),
        ("game.example", Err(Malformed)),
        ("-", Err(Malformed)),
    ];

    #[test]
    fn all_forms_of_an_address_are_read() {
        for &(node, expected) in NODES {
            for proxy in [ForwardedHeader::XForwardedFor, ForwardedHeader::XRealIp] {
                check(proxy, 1, &[node], expected);
                check(proxy, 1, &[&format!(" \"{node}\" ")], expected);
            }
            check(ForwardedHeader::Forwarded, 1, &[&format!("for=\"{node}\"")], expected);
            check(ForwardedHeader::Forwarded, 1, &[&format!("for={node}")], expected);
        }
    }

    #[test]
    fn entries_are_counted_from_the_right_over_all_lines() {
        let header = ForwardedHeader::XForwardedFor;
        let lines = ["6.6.6.6, 1.1.1.1", "2.2.2.2"];
        check(header, 1, &lines, Ok("2.2.2.2"));
        check(header, 2, &lines, Ok("1.1.1.1"));
        check(header, 3, &lines, Ok("6.6.6.6"));
        check(header, 4, &lines, Err(Missing));
        check(header, 1, &[], Err(Missing));
        check(header, 1, &["", " , ,, "], Err(Missing));
        check(header, 2, &[" , 1.1.1.1 ,, \t", "", ",2.2.2.2,"], Ok("1.1.1.1"));
        let lines = ["for=6.6.6.6, for=1.1.1.1;by=3.3.3.3", "For=2.2.2.2"];
        check(ForwardedHeader::Forwarded, 1, &lines, Ok("2.2.2.2"));
        check(ForwardedHeader::Forwarded, 2, &lines, Ok("1.1.1.1"));
        check(ForwardedHeader::Forwarded, 3, &lines, Ok("6.6.6.6"));
        check(ForwardedHeader::Forwarded, 4, &lines, Err(Missing));
        check(ForwardedHeader::XRealIp, 1, &["6.6.6.6", "1.1.1.1"], Ok("1.1.1.1"));
    }

    #[test]
    fn parameters_of_forwarded_are_read_as_rfc_7239_writes_them() {
        let header = ForwardedHeader::Forwarded;
        check(header, 1, &["by=203.0.113.43; FOR = \"[2001:db8:cafe::17]:4711\" ;proto=http"], Ok("2001:db8:cafe::17"));
        check(header, 1, &[r#"for="\1\9\2.0.2.43""#], Ok("192.0.2.43"));
        check(header, 1, &[r#"for=1.1.1.1;ext="a,b;for=6.6.6.6""#], Ok("1.1.1.1"));
        check(header, 1, &[r#"ext="\"";for=1.1.1.1;other="\\""#], Ok("1.1.1.1"));
        check(header, 2, &[r#"for=1.1.1.1;ext="\",\\", for=2.2.2.2"#], Ok("1.1.1.1"));
        check(header, 1, &["proto=https;by=1.1.1.1"], Err(Malformed));
        check(header, 1, &["for=1.1.1.1;for=2.2.2.2"], Err(Malformed));
        check(header, 1, &["1.1.1.1"], Err(Malformed));
        check(header, 1, &["for="], Err(Malformed));
        check(header, 1, &["forward=1.1.1.1"], Err(Malformed));
    }

    /// A client sends the front of the line, and its proxy appends the last entry.
    #[test]
    fn text_of_a_client_does_not_hide_the_entry_of_its_proxy() {
        let forged: [&[u8]; 9] = [
            b"\"",
            b"for=\"",
            b"for=\"\\",
            b"for=\"a, b",
            b"\\\"",
            b"\xff\xfe",
            b"for=\"6.6.6.6\\\"",
            b"\"\"\"",
            b";;=;=",
        ];
        for front in forged {
            let line = |entry: &[u8]| [front, b", ", entry].concat();
            let address = Ok("9.9.9.9".to_owned());
            assert_eq!(read(ForwardedHeader::XForwardedFor, 1, &[&line(b"9.9.9.9")]), address, "{front:?}");
            assert_eq!(read(ForwardedHeader::Forwarded, 1, &[&line(b"for=9.9.9.9;ext=\"a\"")]), address, "{front:?}");
            assert_eq!(read(ForwardedHeader::Forwarded, 1, &[front, b"for=9.9.9.9"]), address, "{front:?}");
        }
    }

    /// The same with random text, and no text makes the parser panic.
    #[test]
    fn no_text_of_a_client_moves_the_entries_of_two_proxies() {
        const TEXT: &[u8] = b"\"\"\\\\,,;;=for[]:.19_% \t\xff";
        let mut random = Random::new(1);
        let mut text =
            || -> Vec<u8> { (0..random.below(12)).map(|_| TEXT[random.below(TEXT.len() as u64) as usize]).collect() };
        for _ in 0..5000 {
            let front = text();
            let line = |entries: &[u8]| [&front, &b", "[..], entries].concat();
            let address = Ok("9.9.9.9".to_owned());
            let listed = line(b"9.9.9.9:1, 8.8.8.8");
            assert_eq!(read(ForwardedHeader::XForwardedFor, 2, &[&listed]), address, "{front:?}");
            let listed = line(b"ext=\"\\\"\";for=9.9.9.9, for=\"[::1]:1\";by=\",\"");
            assert_eq!(read(ForwardedHeader::Forwarded, 2, &[&listed]), address, "{front:?}");
            for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded, ForwardedHeader::XRealIp] {
                let _ = read(header, 1, &[&front, &text()]);
            }
        }
    }
}
