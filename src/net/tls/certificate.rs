//! What operators want to know about a certificate: its names, and when it expires. Reads the few fields of X.509 (RFC 5280)
//! that say so, and checks nothing else.

use std::fmt;

use crate::base::der::{Der, GENERALIZED_TIME, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, UTC_TIME};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Tags of elements that X.509 numbers by context.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;

/// 2.5.4.3 and 2.5.29.17.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Names that are shown. More are counted.
const SHOWN_NAMES: usize = 3;

/// Displayed as `for game.example, valid until 2027-02-24 10:00:00 UTC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The names of hosts, or if there are none the common name.
    names: Vec<String>,
    /// In seconds since the Unix epoch, as is `not_after`.
    not_before: i64,
    pub(super) not_after: i64,
}

impl Certificate {
    /// Reads a certificate in DER. `None` if it is none.
    pub(super) fn read(der: &[u8]) -> Option<Certificate> {
        let mut certificate = Der(Der(der).take(SEQUENCE)?);
        let mut fields = Der(certificate.take(SEQUENCE)?);
        if fields.0.first() == Some(&VERSION) {
            fields.next();
        }
        fields.take(INTEGER)?;
        // The algorithm of the signature, and the issuer.
        fields.take(SEQUENCE)?;
        fields.take(SEQUENCE)?;
        let mut validity = Der(fields.take(SEQUENCE)?);
        let (not_before, not_after) = (take_time(&mut validity)?, take_time(&mut validity)?);
        let subject = fields.take(SEQUENCE)?;
        // The public key.
        fields.take(SEQUENCE)?;
        let extensions = std::iter::from_fn(|| fields.next()).find(|(tag, _)| *tag == EXTENSIONS);
        let mut names = extensions.and_then(|(_, extensions)| host_names(extensions)).unwrap_or_default();
        if names.is_empty() {
            names.extend(common_name(subject));
        }
        Some(Certificate { names, not_before, not_after })
    }

    /// Why clients refuse the certificate at this time, if they do.
    pub(super) fn problem(&self, unix_seconds: i64) -> Option<String> {
        if unix_seconds > self.not_after {
            return Some(format!("the certificate has expired on {}; clients refuse it", Date(self.not_after)));
        }
        let is_early = unix_seconds < self.not_before;
        is_early.then(|| format!("the certificate is not valid before {}; clients refuse it", Date(self.not_before)))
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            self.names.iter().take(SHOWN_NAMES).map(|name| name.escape_debug().to_string()).collect();
        let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
        write!(f, "for {names}")?;
        if self.names.len() > SHOWN_NAMES {
            write!(f, " and {} more", self.names.len() - SHOWN_NAMES)?;
        }
        write!(f, ", valid until {}", Date(self.not_after))
    }
}

fn host_names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut extensions = Der(Der(extensions).take(SEQUENCE)?);
    while let Some((_, extension)) = extensions.next() {
        let mut extension = Der(extension);
        if extension.take(OBJECT_IDENTIFIER)? != SUBJECT_ALTERNATIVE_NAME {
            continue;
        }
        let value = std::iter::from_fn(|| extension.next()).find(|(tag, _)| *tag == OCTET_STRING)?.1;
        let mut names = Der(Der(value).take(SEQUENCE)?);
        let names = std::iter::from_fn(|| names.next()).filter(|(tag, _)| *tag == DNS_NAME);
        return Some(names.map(|(_, name)| String::from_utf8_lossy(name).into_owned()).collect());
    }
    None
}

fn common_name(subject: &[u8]) -> Option<String> {
    let mut subject = Der(subject);
    while let Some((_, set)) = subject.next() {
        let mut attribute = Der(Der(set).take(SEQUENCE)?);
        if attribute.take(OBJECT_IDENTIFIER)? == COMMON_NAME {
            return Some(String::from_utf8_lossy(attribute.next()?.1).into_owned());
        }
    }
    None
}

/// Takes a time, in seconds since the Unix epoch (RFC 5280 section 4.1.2.5).
fn take_time(fields: &mut Der<'_>) -> Option<i64> {
    let (tag, text) = fields.next()?;
    let (year_digits, century) = match tag {
        UTC_TIME => (2, None),
        GENERALIZED_TIME => (4, Some(0)),
        _ => return None,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = digits.split_at(year_digits);
    let year = number(year);
    let year = year + century.unwrap_or(if year < 50 { 2000 } else { 1900 });
    let mut parts = rest.chunks(2).map(number);
    let [month, day, hour, minute, second] = [(); 5].map(|()| parts.next().unwrap_or(0));
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    is_date.then(|| days(year, month, day) * DAY + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by Howard Hinnant's algorithm `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A time in seconds since the Unix epoch, displayed as `2027-02-24 10:00:00 UTC`.
struct Date(i64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inverse of `days`.
        let (days, seconds) = (self.0.div_euclid(DAY) + 719_468, self.0.rem_euclid(DAY));
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = days.div_euclid(146_097) * 400 + year_of_era + i64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(tag: u8, text: &str) -> Option<i64> {
        let der = [&[tag, text.len() as u8], text.as_bytes()].concat();
        take_time(&mut Der(&der))
    }

    #[test]
    fn times_are_read_and_shown() {
        for (tag, text, seconds, shown) in [
            (UTC_TIME, "700101000000Z", 0, "1970-01-01 00:00:00 UTC"),
            (UTC_TIME, "491231235959Z", 2_524_607_999, "2049-12-31 23:59:59 UTC"),
            (UTC_TIME, "500101000000Z", -631_152_000, "1950-01-01 00:00:00 UTC"),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000, "2050-01-01 00:00:00 UTC"),
            (GENERALIZED_TIME, "20240229123456Z", 1_709_210_096, "2024-02-29 12:34:56 UTC"),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(time(tag, text), Some(seconds), "{text}");
            assert_eq!(Date(seconds).to_string(), shown);
        }
        for text in ["", "Z", "700101000000", "701301000000Z", "700100000000Z", "700101240000Z", "7001010000+0Z"] {
            assert_eq!(time(UTC_TIME, text), None, "{text}");
        }
        for day in (-100_000..100_000).step_by(97) {
            let shown = Date(day * DAY).to_string();
            let part = |range: std::ops::Range<usize>| shown[range].parse().expect("a number");
            assert_eq!(days(part(0..4), part(5..7), part(8..10)), day, "{shown}");
        }
    }

    #[test]
    fn no_bytes_make_the_reader_fail() {
        assert_eq!(Certificate::read(b""), None);
        let lengths =
            [&[0x30, 0x84, 255, 255, 255, 255][..], &[0x30, 0x83, 255, 255, 255, 0], &[0x30, 0x82, 1], &[0x30]];
        lengths.into_iter().for_each(|der| assert_eq!(Certificate::read(der), None));
    }

    #[test]
    fn a_certificate_is_refused_before_and_after_its_time() {
        let certificate = Certificate { names: vec!["a".into(), "b".into()], not_before: 100, not_after: 200 };
        assert_eq!(certificate.to_string(), "for a, b, valid until 1970-01-01 00:03:20 UTC");
        assert_eq!(certificate.problem(99).map(|problem| problem.contains("not valid before")), Some(true));
        assert_eq!(certificate.problem(100), None);
        assert_eq!(certificate.problem(200), None);
        assert_eq!(certificate.problem(201).map(|problem| problem.contains("has expired")), Some(true));
    }
}
