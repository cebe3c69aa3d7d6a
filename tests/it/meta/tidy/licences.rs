//! The licences of the dependencies.

use serde_json::Value;

use super::dependencies::all_packages;

/// The accepted licences, each with its reason. If a dependency offers several, one of them is enough. All of them permit
/// binaries under other terms, and ask only that their text is kept.
const LICENCES: &[(&str, &str)] = &[
    ("MIT", "that of this crate"),
    ("Apache-2.0", "that of this crate"),
    ("Unicode-3.0", "tables of characters, in unicode-ident"),
    ("ISC", "the MIT licence in other words: rustls and its cryptography"),
    ("BSD-3-Clause", "MIT, and no advertising with the authors' names: cryptography"),
    ("Zlib", "MIT, and altered sources must be marked: compression and hash functions"),
];

/// Whether an SPDX expression can be met. The old form `A/B` means `A OR B`, and `AND` binds more tightly than `OR`.
fn is_allowed(licence: &str) -> bool {
    fn any<'a>(words: &mut impl Iterator<Item = &'a str>) -> bool {
        let mut is_met = false;
        let mut are_met = true;
        while let Some(word) = words.next() {
            match word {
                ")" => break,
                "OR" => {
                    is_met |= are_met;
                    are_met = true;
                }
                "AND" => {}
                // A licence with an exception is a different licence, and not accepted.
                "WITH" => {
                    words.next();
                    are_met = false;
                }
                "(" => are_met &= any(words),
                name => are_met &= LICENCES.iter().any(|(licence, _)| *licence == name),
            }
        }
        is_met || are_met
    }
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    !licence.is_empty() && any(&mut spaced.split_whitespace())
}

/// Covers the dependencies of all features and those of the tests, on this platform.
#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_a_registry() {
    let metadata = all_packages();
    let used: Vec<&Value> =
        metadata["resolve"]["nodes"].as_array().expect("a list").iter().map(|node| &node["id"]).collect();
    let packages = metadata["packages"].as_array().expect("a list");
    let mut refused = Vec::new();
    for package in packages.iter().filter(|package| used.contains(&&package["id"])) {
        let name = package["name"].as_str().expect("a name");
        let (licence, source) = (package["license"].as_str().unwrap_or(""), package["source"].as_str().unwrap_or(""));
        if !is_allowed(licence) || (name != "lobbyd" && !source.starts_with("registry+")) {
            refused.push(format!("{name}: {licence:?} from {source:?}"));
        }
    }
    assert!(used.len() > 20 && refused.is_empty(), "{refused:#?}");
}

#[test]
fn the_licence_of_this_crate_is_stated_with_its_text() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expression = env!("CARGO_PKG_LICENSE");
    assert_eq!(expression, "MIT OR Apache-2.0");
    assert!(read("LICENSE.md").contains(&format!("SPDX-License-Identifier: {expression}")));
    assert!(read("LICENSE-MIT").starts_with("MIT License\n"));
    assert!(read("LICENSE-APACHE").trim_start().starts_with("Apache License\n"));
}

#[test]
fn a_licence_expression_is_allowed_if_it_can_be_met() {
    for (licence, allowed) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("Unlicense OR MIT", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND OpenSSL", false),
        ("MPL-2.0 AND MIT", false),
        ("MPL-2.0 AND MIT OR Apache-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("GPL-3.0-only OR (MPL-2.0 AND (MIT OR Zlib))", false),
        ("ISC AND (Apache-2.0 OR ISC) AND BSD-3-Clause", true),
        ("Zlib", true),
        ("BSD-4-Clause", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(licence), allowed, "{licence}");
    }
}
