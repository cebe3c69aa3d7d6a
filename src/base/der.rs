//! Reads elements in DER (X.690), the encoding of keys and certificates.

pub(crate) const INTEGER: u8 = 0x02;
#[cfg(feature = "jwt")]
pub(crate) const BIT_STRING: u8 = 0x03;
#[cfg(feature = "tls")]
pub(crate) const OCTET_STRING: u8 = 0x04;
#[cfg(feature = "tls")]
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
#[cfg(feature = "tls")]
pub(crate) const UTC_TIME: u8 = 0x17;
#[cfg(feature = "tls")]
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The rest of a sequence of elements.
#[derive(Clone, Debug)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element: its tag and its contents. `None` at the end, or if the bytes are no DER.
    pub(crate) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Only the shortest form of a length (section 10.1), and at most three bytes of it: no key or certificate has 16 MiB.
        let (length, rest) = match rest {
            [length, rest @ ..] if *length < 0x80 => (usize::from(*length), rest),
            [0x81, low, rest @ ..] if *low >= 0x80 => (usize::from(*low), rest),
            [0x82, high, low, rest @ ..] if *high > 0 => (usize::from(*high) << 8 | usize::from(*low), rest),
            [0x83, high, middle, low, rest @ ..] if *high > 0 => {
                (usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// Takes the next element, which must have this tag, and returns its contents.
    pub(crate) fn take(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == expected).map(|(_, contents)| contents)
    }

    /// Takes the only element that is left, which must have this tag, and returns its contents.
    #[cfg(feature = "jwt")]
    pub(crate) fn take_last(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.take(expected).filter(|_| self.0.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_its_shortest_form_and_no_more_than_the_bytes_that_are_left() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536, (1 << 24) - 1] {
            let contents = vec![7; length];
            let bytes = (length as u32).to_be_bytes();
            for count in 0..=4 {
                let head = match count {
                    0 if length < 128 => vec![length as u8],
                    0 => continue,
                    _ if length >> (8 * count) > 0 => continue,
                    _ => [&[0x80 | count as u8], &bytes[4 - count..]].concat(),
                };
                let shortest = match length {
                    0..128 => 0,
                    128..256 => 1,
                    256..65_536 => 2,
                    _ => 3,
                };
                let der = [&[SEQUENCE], &head[..], &contents, &[9]].concat();
                let expected = (count == shortest).then_some((SEQUENCE, &contents[..]));
                assert_eq!(Der(&der).next(), expected, "{head:02x?}");
                assert_eq!(Der(&der[..der.len() - 2]).next(), None, "{head:02x?} cut");
            }
        }
        assert_eq!(Der(b"").next(), None);
        // The form without a length, which DER does not have.
        assert_eq!(Der(&[SEQUENCE, 0x80, 0, 0]).next(), None);
    }

    #[test]
    fn an_element_has_the_tag_that_is_expected() {
        let der = [INTEGER, 1, 5, SEQUENCE, 0];
        let mut elements = Der(&der);
        assert_eq!(elements.clone().take(SEQUENCE), None);
        assert_eq!((elements.take(INTEGER), elements.take(SEQUENCE)), (Some(&[5][..]), Some(&[][..])));
        assert_eq!(elements.next(), None);
    }
}
