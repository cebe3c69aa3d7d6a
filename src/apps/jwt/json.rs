//! Strict JSON: every object has each member once, at every depth.
//!
//! RFC 7515 section 4 and RFC 7519 section 4 allow parsers to take the last of several members with one name. Then two
//! parsers can read one token in two ways, so such a token is refused.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object.
#[derive(Debug)]
pub(super) struct Object<'a> {
    members: Vec<(String, &'a RawValue)>,
}

/// A member that has another type than it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongType;

impl<'a> Object<'a> {
    /// Parses an object. Returns `None` for anything else, for repeated members, and for values that are nested more
    /// than 126 deep.
    pub(super) fn parse(text: &'a [u8]) -> Option<Object<'a>> {
        let text = str::from_utf8(text).ok()?;
        serde_json::from_str::<Unique>(text).ok()?;
        serde_json::from_str(text).ok()
    }

    /// Returns the JSON text of a member.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.members.iter().find(|(other, _)| other == name).map(|(_, value)| value.get())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Returns a member that must be a string, if it is present.
    pub(super) fn string(&self, name: &str) -> Result<Option<String>, WrongType> {
        self.typed(name)
    }

    /// Returns a member that must be a number, if it is present.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, WrongType> {
        self.typed(name)
    }

    /// Returns a member that must be a list of strings, if it is present.
    pub(super) fn strings(&self, name: &str) -> Result<Option<Vec<String>>, WrongType> {
        self.typed(name)
    }

    fn typed<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, WrongType> {
        self.raw(name).map(|text| serde_json::from_str(text).map_err(|_| WrongType)).transpose()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'de>, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Any JSON value whose objects have no repeated members. serde_json bounds the depth of its recursion.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unique, A::Error> {
        while list.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        while let Some(name) = map.next_key()? {
            if !names.insert(name) {
                // The rest is not read, and the parse fails.
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom("a repeated member"));
            }
            map.next_value::<Unique>()?;
        }
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, is_accepted: bool) {
        assert_eq!(Object::parse(text.as_bytes()).is_some(), is_accepted, "{text}");
    }

    #[test]
    fn only_objects_without_repeated_members_are_accepted() {
        check("{}", true);
        check(r#" {"a":1,"b":{"a":[1,"x",null,true,-1.5e3]}} "#, true);
        for text in ["", "[]", "1", "null", "{", "{}x", "{\"a\":NaN}", "{\"a\":1,}", "{\"a\":1e999}", "{'a':1}"] {
            check(text, false);
        }
        check(r#"{"a":1,"a":1}"#, false);
        check(r#"{"a":1,"\u0061":2}"#, false);
        check(r#"{"a":[{"b":{"c":1,"c":2}}]}"#, false);
        check("\u{feff}{}", false);
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_none(), "not UTF-8");
        check(r#"{"a":"\ud800"}"#, false);
    }

    #[test]
    fn the_depth_is_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        check(&nested(126), true);
        check(&nested(127), false);
        check(&nested(100_000), false);
    }

    #[test]
    fn members_have_one_type() {
        let object = Object::parse(br#"{"s":"x\n","n":1.5,"i":7,"z":null,"l":["a"],"m":["a",1]}"#).expect("an object");
        assert_eq!(object.string("s"), Ok(Some("x\n".into())));
        assert_eq!(object.number("n"), Ok(Some(1.5)));
        assert_eq!(object.number("i"), Ok(Some(7.0)));
        assert_eq!(object.string("absent"), Ok(None));
        assert_eq!(object.strings("l"), Ok(Some(vec!["a".into()])));
        for name in ["n", "z", "l"] {
            assert_eq!(object.string(name), Err(WrongType), "{name}");
        }
        for name in ["s", "z", "l"] {
            assert_eq!(object.number(name), Err(WrongType), "{name}");
        }
        assert_eq!(object.strings("m"), Err(WrongType));
        assert_eq!(object.raw("m"), Some(r#"["a",1]"#));
    }
}
