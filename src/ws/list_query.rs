//! Reads what a request asks of the list of lobbies: the parameters `pool`, `tag.` with the key of a tag, and `after`.

use smol_str::SmolStr;

use super::claim::position_number;
use crate::base::list_query::{ListFilter, ListQuery, MAX_TAG_BYTES, MAX_TAGS, is_pool};
use crate::http::target::percent_decode;

/// Reads the query of a request. A parameter without a value counts as absent, and other parameters are ignored.
///
/// # Errors
///
/// The rule that the query breaks.
pub(super) fn read_list_query(query: &str) -> Result<ListQuery, &'static str> {
    const ENCODING: &str = "the query is not properly percent-encoded UTF-8";
    let mut read = ListQuery::default();
    let mut has_after = false;
    let ListQuery { filter: ListFilter { pool, tags }, after } = &mut read;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = percent_decode(key, true).ok_or(ENCODING)?;
        let value = percent_decode(value, true).ok_or(ENCODING)?;
        if value.is_empty() {
            continue;
        }
        match &*key {
            "pool" if pool.is_some() => return Err("pool occurs twice in the query"),
            "pool" if is_pool(&value) => *pool = Some(SmolStr::new(value)),
            "pool" => return Err("pool must have 1 to 32 of the characters A-Z a-z 0-9 _ -"),
            "after" if has_after => return Err("after occurs twice in the query"),
            "after" => {
                (*after, has_after) =
                    (position_number(&value).ok_or("after must be the next of an earlier answer")?, true);
            }
            key => {
                let Some(key) = key.strip_prefix("tag.") else { continue };
                if !(1..=MAX_TAG_BYTES).contains(&key.len()) || value.len() > MAX_TAG_BYTES {
                    return Err("keys and values of tags must have 1 to 64 bytes");
                }
                match tags.binary_search_by(|(other, _)| other.as_str().cmp(key)) {
                    Ok(_) => return Err("a tag occurs twice in the query"),
                    Err(_) if tags.len() == MAX_TAGS => {
                        return Err("at most 4 tags can be asked for, as no lobby has more");
                    }
                    Err(position) => tags.insert(position, (key.into(), SmolStr::new(value))),
                }
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pool: Option<&str>, tags: &[(&str, &str)], after: u64) -> ListQuery {
        let tags = tags.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        ListQuery { filter: ListFilter { pool: pool.map(SmolStr::from), tags }, after }
    }

    #[test]
    fn a_query_is_read() {
        for (text, expected) in [
            ("", query(None, &[], 0)),
            ("pool=&tag.game=&after=&token=x&tags=y", query(None, &[], 0)),
            ("pool=fun-1", query(Some("fun-1"), &[], 0)),
            ("tag.map=a+b&tag.game=ch%C3%A9ss", query(None, &[("game", "chéss"), ("map", "a b")], 0)),
            ("%70ool=a&tag%2Egame=x&after=9007199254740991", query(Some("a"), &[("game", "x")], (1 << 53) - 1)),
        ] {
            assert_eq!(read_list_query(text).as_ref(), Ok(&expected), "{text}");
            assert!(expected.filter.is_valid());
        }
    }

    #[test]
    fn a_bad_query_is_refused_with_the_rule() {
        let long = "x".repeat(65);
        for (text, why) in [
            ("pool=a&pool=b", "pool occurs twice"),
            ("pool=a%20b", "pool must have"),
            (&format!("pool={}", &long[..33]), "pool must have"),
            ("after=1&after=1", "after occurs twice"),
            ("after=-1", "after must be"),
            ("after=9007199254740992", "after must be"),
            ("after=next", "after must be"),
            ("tag.=a", "1 to 64 bytes"),
            (&format!("tag.a={long}"), "1 to 64 bytes"),
            (&format!("tag.{long}=a"), "1 to 64 bytes"),
            ("tag.a=1&tag.b=1&tag.%61=2", "a tag occurs twice"),
            ("tag.a=1&tag.b=1&tag.c=1&tag.d=1&tag.e=1", "at most 4 tags"),
            ("x=%ff", "percent-encoded"),
            ("tag.a=%00", "percent-encoded"),
        ] {
            let refusal = read_list_query(text).expect_err(text);
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
    }
}
