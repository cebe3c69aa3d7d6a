//! Negotiation of `permessage-deflate` (RFC 7692 section 7.1): the offers of a client, and the answer to them.

use std::borrow::Cow;

use crate::http::head::Headers;

/// Size of the compressor's window, as a power of 2: compressed data refers to no text further back. Some clients have no
/// larger window. At level 2, JSON of 16 KiB becomes no shorter with the largest, of 2^15 bytes.
pub(super) const WINDOW_BITS: u8 = 12;

/// Name of the extension.
const NAME: &str = "permessage-deflate";

/// The header has another form than RFC 6455 section 9.1 allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedExtensions;

/// An offer of `permessage-deflate` that the server accepts. The answer excludes context takeover in both directions, which
/// clients should support (RFC 7692 section 7.1.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deflate {
    /// `server_max_window_bits`, which the answer has to repeat: from 8 to 15.
    window_bits: Option<u8>,
}

impl Deflate {
    /// Returns the agreement with this window of the client, if there is such a size.
    pub(crate) fn new(window_bits: Option<u8>) -> Option<Deflate> {
        window_bits.is_none_or(|bits| (8..=15).contains(&bits)).then_some(Deflate { window_bits })
    }

    /// The window of the client, if it has named one.
    pub(crate) fn window_bits(self) -> Option<u8> {
        self.window_bits
    }

    /// Whether the client can decompress what the compressor of all connections produces. A client with a smaller window is
    /// sent no compressed message, and may send them.
    pub(crate) fn takes_compressed(self) -> bool {
        self.window_bits.is_none_or(|bits| bits >= WINDOW_BITS)
    }

    /// Appends the header line of the answer, without its line end.
    pub(crate) fn append_line(self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"Sec-WebSocket-Extensions: permessage-deflate; ");
        to.extend_from_slice(b"server_no_context_takeover; client_no_context_takeover");
        if let Some(bits) = self.window_bits {
            to.extend_from_slice(format!("; server_max_window_bits={bits}").as_bytes());
        }
    }
}

/// Returns the offer that the server accepts, if there is one: the first for which it can compress, otherwise the first valid
/// one. Other extensions, and offers with parameters that are unknown, invalid or given twice, are declined.
///
/// # Errors
///
/// If the header is malformed: such a request must be refused (RFC 6455 section 9.1).
pub(crate) fn choose_offer(headers: Headers<'_, '_>) -> Result<Option<Deflate>, MalformedExtensions> {
    let mut chosen: Option<Deflate> = None;
    for line in headers.values("sec-websocket-extensions") {
        let mut scanner = Scanner(line);
        while let Some((name, parameters)) = scanner.next_extension()? {
            let offer = if name == NAME { accepted(&parameters) } else { None };
            match (chosen, offer) {
                (None, offer) => chosen = offer,
                (Some(first), Some(offer)) if !first.takes_compressed() && offer.takes_compressed() => {
                    chosen = Some(offer);
                }
                (Some(_), _) => {}
            }
        }
    }
    Ok(chosen)
}

type Parameter<'a> = (&'a str, Option<Cow<'a, str>>);

/// Returns what an offer with these parameters asks for; `None` to decline it.
fn accepted(parameters: &[Parameter<'_>]) -> Option<Deflate> {
    let mut window_bits = None;
    for (at, (name, value)) in parameters.iter().enumerate() {
        if parameters[..at].iter().any(|(other, _)| other == name) {
            return None;
        }
        match (*name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(value)) => {
                window_size(value)?;
            }
            ("server_max_window_bits", Some(value)) => window_bits = Some(window_size(value)?),
            _ => return None,
        }
    }
    Some(Deflate { window_bits })
}

/// Parses the size of a window: a decimal number from 8 to 15 without leading zeros.
fn window_size(value: &str) -> Option<u8> {
    (8..=15).find(|bits: &u8| *value == bits.to_string())
}

/// Reads the header from the front.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Returns the next extension with its parameters.
    fn next_extension(&mut self) -> Result<Option<(&'a str, Vec<Parameter<'a>>)>, MalformedExtensions> {
        // Elements of a list may be empty (RFC 9110 section 5.6.1).
        while self.takes(b',') {}
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.takes(b';') {
            let parameter = self.token()?;
            let value = if self.takes(b'=') { Some(self.value()?) } else { None };
            parameters.push((parameter, value));
        }
        if self.0.is_empty() || self.0[0] == b',' { Ok(Some((name, parameters))) } else { Err(MalformedExtensions) }
    }

    /// Skips white space, and consumes `byte` if it follows.
    fn takes(&mut self, byte: u8) -> bool {
        self.skip_whitespace();
        let takes = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(takes)..];
        takes
    }

    fn skip_whitespace(&mut self) {
        let length = self.0.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        self.0 = &self.0[length..];
    }

    fn token(&mut self) -> Result<&'a str, MalformedExtensions> {
        self.skip_whitespace();
        let length = self.0.iter().take_while(|byte| is_token_byte(**byte)).count();
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        str::from_utf8(token).ok().filter(|token| !token.is_empty()).ok_or(MalformedExtensions)
    }

    /// Reads a token, or a string in quotes with a token in it.
    fn value(&mut self) -> Result<Cow<'a, str>, MalformedExtensions> {
        self.skip_whitespace();
        if self.0.first() != Some(&b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let mut text = String::new();
        let mut bytes = self.0[1..].iter().enumerate();
        while let Some((at, &byte)) = bytes.next() {
            let byte = match byte {
                b'"' if text.is_empty() => return Err(MalformedExtensions),
                b'"' => {
                    self.0 = &self.0[at + 2..];
                    return Ok(Cow::Owned(text));
                }
                b'\\' => *bytes.next().ok_or(MalformedExtensions)?.1,
                byte => byte,
            };
            if !is_token_byte(byte) {
                return Err(MalformedExtensions);
            }
            text.push(char::from(byte));
        }
        Err(MalformedExtensions)
    }
}

/// Whether a token may contain the byte (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{HeaderLines, RequestHead};

    /// What is answered to these header lines: the parameters behind those that are always there, or why not.
    fn answer(lines: &[&str]) -> Result<Option<String>, MalformedExtensions> {
        let lines: String = lines.iter().map(|line| format!("sec-websocket-extensions: {line}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nX: y\r\n{lines}\r\n");
        let mut parsed = HeaderLines::EMPTY;
        let head = RequestHead::parse(head.as_bytes(), &mut parsed, 100).expect("a request");
        Ok(choose_offer(head.headers)?.map(|deflate| {
            let mut line = Vec::new();
            deflate.append_line(&mut line);
            let line = String::from_utf8(line).expect("ASCII");
            let always =
                "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover";
            line.strip_prefix(always).expect("the answer has no more parameters than needed").to_owned()
        }))
    }

    #[track_caller]
    fn check(lines: &[&str], expected: Option<&str>) {
        assert_eq!(answer(lines), Ok(expected.map(str::to_owned)), "{lines:?}");
    }

    #[test]
    fn valid_offers_are_accepted() {
        check(&["permessage-deflate"], Some(""));
        check(&["permessage-deflate; client_max_window_bits"], Some(""));
        check(&["permessage-deflate; client_max_window_bits=8"], Some(""));
        check(&["permessage-deflate;server_no_context_takeover;\tclient_no_context_takeover"], Some(""));
        check(&["permessage-deflate ; server_max_window_bits = 12"], Some("; server_max_window_bits=12"));
        check(&["permessage-deflate; server_max_window_bits=\"15\""], Some("; server_max_window_bits=15"));
        check(&["permessage-deflate; server_max_window_bits=\"1\\0\""], Some("; server_max_window_bits=10"));
        check(
            &["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"],
            Some("; server_max_window_bits=12"),
        );
    }

    #[test]
    fn other_offers_are_declined() {
        for parameters in [
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"x\"",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=x",
            "client_max_window_bits=",
            "client_max_window_bits=16",
            "client_max_window_bits; client_max_window_bits",
            "server_max_window_bits=10; server_max_window_bits=10",
            "unknown",
            "Server_No_Context_Takeover",
        ] {
            let line = format!("permessage-deflate; {parameters}");
            // An empty value is malformed.
            let expected = if parameters.ends_with('=') { Err(MalformedExtensions) } else { Ok(None) };
            assert_eq!(answer(&[&line]), expected, "{line}");
            if expected.is_ok() {
                check(&[&format!("{line}, permessage-deflate")], Some(""));
            }
        }
        for line in ["", " , ,", "x-webkit-deflate-frame", "permessage-bzip2; client_max_compress_level=9, mux"] {
            check(&[line], None);
        }
        check(&[], None);
    }

    #[test]
    fn an_offer_with_a_window_large_enough_for_the_compressor_is_preferred() {
        let small = "permessage-deflate; server_max_window_bits=9";
        let (medium, plain) = ("permessage-deflate; server_max_window_bits=12", "permessage-deflate");
        check(&[small], Some("; server_max_window_bits=9"));
        check(&[&format!("{small}, {plain}")], Some(""));
        check(&[small, "mux", &format!(",{medium}"), plain], Some("; server_max_window_bits=12"));
        check(&[plain, medium], Some(""));
        check(&["permessage-deflate; server_max_window_bits=8", small], Some("; server_max_window_bits=8"));
        for bits in 8..=15 {
            assert_eq!(Deflate::new(Some(bits)).map(Deflate::takes_compressed), Some(bits >= 12));
        }
        assert_eq!((Deflate::new(Some(7)), Deflate::new(Some(16))), (None, None));
    }

    #[test]
    fn a_malformed_header_is_told_apart() {
        for line in [
            ";",
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; a b",
            "permessage-deflate a",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"1",
            "permessage-deflate; a=\"1\\",
            "permessage-deflate; a=\"1 2\"",
            "permessage-deflate; a=\"1\"2",
            "permessage-deflate; a==1",
            "permessage-deflate, \u{e4}",
        ] {
            assert_eq!(answer(&[line]), Err(MalformedExtensions), "{line}");
            assert_eq!(answer(&["permessage-deflate", line]), Err(MalformedExtensions), "{line}");
        }
    }
}
