//! What a request says about its session: the parameters `session`, `was`, `epoch`, `seq` and `n` of the query.
//!
//! The names are redacted like tokens: only their hashes leave this module.

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
        return if has_session(query) { Err(BadClaim) } else { Ok(None) };
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

/// Returns whether a query that cannot be decoded as a whole has a `session`.
fn has_session(query: &str) -> bool {
    query.split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        !value.is_empty() && percent_decode(key, true).is_some_and(|key| key == "session")
    })
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
}
