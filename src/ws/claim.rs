//! What a request says about its session and about how its client enters the lobby: parameters of the query.
//!
//! Names of sessions and passwords are redacted like tokens: only their hashes leave this module.

use crate::base::entry::{BadEntry, Entry, PasswordHash, Role};
use crate::base::session::{BadClaim, Claim, Position, SessionHash};
use crate::http::target::{percent_decode, query_value};

/// Reads the claim of a request. A query without a `session`, or with an empty one, has none, whatever its other
/// parameters are: an application may use the same names.
///
/// # Errors
///
/// A session whose parameters are malformed: a name that is none; a position that is not given completely, or a part of
/// it that is not a decimal integer below 2^53. A query with a session that cannot be decoded is malformed too.
pub(crate) fn read_claim(query: &str) -> Result<Option<Claim>, BadClaim> {
    let Ok(session) = query_value(query, "session") else {
        return if has_any(query, &["session"]) { Err(BadClaim) } else { Ok(None) };
    };
    let Some(session) = session else { return Ok(None) };
    let value = |name| query_value(query, name).expect("the whole query was decoded above");
    let hash = |name: &str| SessionHash::of(name).ok_or(BadClaim);
    let number = |digits: &str| position_number(digits).ok_or(BadClaim);
    let position = match (value("epoch"), value("seq"), value("n")) {
        (None, None, None) => None,
        (Some(epoch), Some(seq), Some(n)) => {
            Some(Position { epoch: number(&epoch)?, seq: number(&seq)?, n: number(&n)? })
        }
        _ => return Err(BadClaim),
    };
    Ok(Some(Claim { session: hash(&session)?, was: value("was").map(|was| hash(&was)).transpose()?, position }))
}

/// Reads how a client enters a lobby, from the parameters `create`, `role`, `password` and `seats`.
///
/// # Errors
///
/// A parameter with a value that is none of its own. A query with any of them that cannot be decoded is malformed too.
pub(crate) fn read_entry(query: &str) -> Result<Entry, BadEntry> {
    const NAMES: &[&str] = &["create", "role", "password", "seats"];
    let Ok(create) = query_value(query, "create") else {
        return if has_any(query, NAMES) { Err(BadEntry) } else { Ok(Entry::ORDINARY) };
    };
    let value = |name| query_value(query, name).expect("the whole query was decoded above");
    Ok(Entry {
        create: match create.as_deref() {
            None | Some("1") => true,
            Some("0") => false,
            Some(_) => return Err(BadEntry),
        },
        role: match value("role").as_deref() {
            None | Some("play") => Role::Play,
            Some("watch") => Role::Watch,
            Some(_) => return Err(BadEntry),
        },
        password: value("password").map(|text| PasswordHash::of(&text).ok_or(BadEntry)).transpose()?,
        seats: value("seats").map(|digits| seats_number(&digits).ok_or(BadEntry)).transpose()?,
    })
}

/// Returns whether a query that cannot be decoded as a whole has one of these parameters.
fn has_any(query: &str, names: &[&str]) -> bool {
    query.split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        !value.is_empty() && percent_decode(key, true).is_some_and(|key| names.contains(&&*key))
    })
}

/// Parses a number of seats.
fn seats_number(digits: &str) -> Option<u32> {
    let is_decimal = digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|&seats| is_decimal && seats > 0)
}

/// Parses a part of a position.
pub(super) fn position_number(digits: &str) -> Option<u64> {
    let is_decimal = digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|&number| is_decimal && number < Position::END)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0123456789abcdef";
    const OTHER: &str = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

    fn claim(was: Option<&str>, position: Option<[u64; 3]>) -> Result<Option<Claim>, BadClaim> {
        let hash = |name| SessionHash::of(name).expect("a name");
        let position = position.map(|[epoch, seq, n]| Position { epoch, seq, n });
        Ok(Some(Claim { session: hash(NAME), was: was.map(hash), position }))
    }

    #[test]
    fn claims_are_read_from_the_query() {
        for (query, expected) in [
            ("session={NAME}", claim(None, None)),
            ("token=ann&session={NAME}&was={OTHER}&x=1", claim(Some(OTHER), None)),
            ("session=&session={NAME}&session={OTHER}&was=&epoch=&seq=&n=", claim(None, None)),
            ("n=3&seq=2&epoch=1&session={NAME}", claim(None, Some([1, 2, 3]))),
            ("session={NAME}&epoch=0&seq=9007199254740991&n=007", claim(None, Some([0, (1 << 53) - 1, 7]))),
            ("%73ession=%30123456789abcdef", claim(None, None)),
        ] {
            let query = query.replace("{NAME}", NAME).replace("{OTHER}", OTHER);
            assert_eq!(read_claim(&query), expected, "{query}");
        }
    }

    #[test]
    fn a_query_without_a_session_has_no_claim() {
        for query in [
            "",
            "token=ann",
            "session",
            "session=&was=x&epoch=x",
            "seq=-1&n=x&was=x",
            "Session=x",
            "x=%ff",
            "session=&x=%ff",
        ] {
            assert_eq!(read_claim(query), Ok(None), "{query}");
        }
    }

    #[test]
    fn malformed_claims_are_told_apart() {
        for query in [
            "session=short",
            "session={NAME}.",
            "session={NAME}+",
            "session=%ff",
            "session={NAME}&x=%ff",
            "x=%ff&%73ession={NAME}",
            "session={NAME}&was=short",
            "session={NAME}&epoch=1",
            "session={NAME}&epoch=1&seq=2&n=",
            "session={NAME}&epoch=1&seq=2&n=x",
            "session={NAME}&epoch=1&seq=-2&n=3",
            "session={NAME}&epoch=%2B1&seq=2&n=3",
            "session={NAME}&epoch=1.0&seq=2&n=3",
            "session={NAME}&epoch=1&seq=9007199254740992&n=3",
            "session={NAME}&epoch=1&seq=2&n=99999999999999999999999",
            "session={NAME}&epoch=\u{663}&seq=2&n=3",
        ] {
            let query = query.replace("{NAME}", NAME);
            assert_eq!(read_claim(&query), Err(BadClaim), "{query}");
        }
    }
    #[test]
    fn entries_are_read_from_the_query() {
        let password = |text| PasswordHash::of(text);
        let whole = Entry { create: false, role: Role::Watch, password: password("a b"), seats: Some(4) };
        for (query, expected) in [
            ("token=ann&Create=0&create=&x=%31", Entry::ORDINARY),
            ("create=1&role=play&password=&seats=", Entry::ORDINARY),
            ("create=0&role=watch&password=a+b&seats=4", whole),
            ("seats=004&%70assword=a%20b&role=watch&create=0&create=x&password=x", whole),
            ("seats=4294967295", Entry { seats: Some(u32::MAX), ..Entry::ORDINARY }),
            // It cannot be decoded, and has no parameter for this.
            ("session=&x=%ff", Entry::ORDINARY),
        ] {
            assert_eq!(read_entry(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn malformed_entries_are_told_apart() {
        let long = format!("password={}", "x".repeat(65));
        for query in [
            "create=2",
            "create=true",
            "role=host",
            "role=Watch",
            "seats=0",
            "seats=-1",
            "seats=%2B4",
            "seats=4.0",
            "seats=4294967296",
            "password=%ff",
            "password=%00",
            "role=watch&x=%ff",
            "x=%ff&%63reate=1",
            &long,
        ] {
            assert_eq!(read_entry(query), Err(BadEntry), "{query}");
        }
    }
}
