//! The licences of the dependencies.

use std::process::Command;

use serde_json::Value;

/// The accepted licences. If a dependency offers several, one of them is enough. `ISC` and `BSD-3-Clause` are those of the
/// cryptography of the feature `jwt`; they ask for no more than MIT does, a notice.
const LICENCES: &[&str] = &["MIT", "Apache-2.0", "Unicode-3.0", "ISC", "BSD-3-Clause"];

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
                name => are_met &= LICENCES.contains(&name),
            }
        }
        is_met || are_met
    }
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    !licence.is_empty() && any(&mut spaced.split_whitespace())
}

/// Covers the dependencies compiled in and those of the tests, on this platform. Cargo has just built them, so it works
/// offline.
#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_a_registry() {
    let mut arguments = vec!["metadata", "--format-version", "1", "--offline", "--locked"];
    if !cfg!(feature = "bin") {
        arguments.push("--no-default-features");
    }
    // The crates of a feature that is off are not on this machine.
    if cfg!(feature = "jwt") {
        arguments.extend(["--features", "jwt"]);
    }
    let version = Command::new(env!("CARGO")).args(["--version", "--verbose"]).output().expect("cargo runs");
    let version = String::from_utf8(version.stdout).expect("UTF-8");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    arguments.extend(["--filter-platform", host]);
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
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
        ("", false),
    ] {
        assert_eq!(is_allowed(licence), allowed, "{licence}");
    }
}
