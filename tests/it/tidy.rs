//! Rules of the source tree: which modules may import which, where I/O is allowed, and the licences of dependencies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each module with the modules that it may import. All of them may import `base`, which imports none.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &[]),
    ("http", &[]),
    ("ws", &["config", "http"]),
    ("lobby", &["config"]),
    ("protocol", &["config", "lobby"]),
    ("egress", &["config", "lobby", "ws"]),
    ("engine", &["config", "http", "ws", "lobby", "protocol", "egress"]),
    ("apps", &["engine", "ws", "lobby"]),
    ("admin", &["config", "engine", "http", "lobby", "ws"]),
    ("journal", &["config", "engine", "http", "ws"]),
    ("net", &["config", "engine", "lobby", "admin", "journal"]),
    ("sim", &["config", "engine", "ws", "lobby", "apps", "journal"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The modules that a source names: the words after `crate::`.
fn imports(text: &str) -> Vec<String> {
    // Unit tests may use the simulator.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn modules_import_only_what_is_allowed() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for (module, allowed) in MAY_IMPORT {
        for path in sources(&src.join(module)) {
            let text = fs::read_to_string(&path).expect("a source is readable");
            for import in imports(&text) {
                let is_module = MAY_IMPORT.iter().any(|(other, _)| *other == import);
                assert!(
                    !is_module || import == "base" || import == *module || allowed.contains(&&*import),
                    "{} imports {import}",
                    path.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "the sources were read");
}

#[test]
fn only_the_driver_does_io_or_reads_a_clock() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let driver = path.starts_with(src.join("net")) || path.parent() == Some(&src);
        let text = fs::read_to_string(&path).expect("a source is readable");
        for word in ["mio::", "socket2::", "std::net::Tcp", "std::fs", "Instant::now", "SystemTime::now", "thread::"] {
            assert!(driver || !text.contains(word), "{} uses {word}", path.display());
        }
        for word in ["Rc<", "RefCell<", "Mutex<", "mpsc::"] {
            let handle = path.ends_with("net/handle.rs");
            assert!(
                handle || !text.contains(word),
                "{} uses {word}: the engine is single-threaded, and each value has one owner",
                path.display()
            );
        }
    }
}

/// Words that this source tree once used for its own concepts, each with the standard term that replaced it.
const OLD_WORDS: &[(&str, &str)] = &[
    ("chorus", "broadcast log"),
    ("singer", "flush target"),
    ("singing", "lobbies to flush"),
    ("solo", "unicast"),
    ("tune", "subscribe"),
    ("haste", "priority"),
    ("unhold", "uncork"),
    ("happening", "app event"),
    ("happenings", "app events"),
    ("introduce", "announce, flush presence"),
    ("unsettled", "unflushed"),
    ("parting", "queued close"),
    ("partings", "close queue"),
    ("vacate", "leave the seat"),
    ("foretell", "set the recorded decision"),
    ("foretold", "recorded decision"),
    ("residue", "checkpoint"),
    ("narrator", "event tracer"),
    ("narrate", "trace"),
    ("utterance", "relay request"),
    ("unshaken", "non-panicking"),
    ("mischief", "client input"),
    ("verdict", "invariants"),
    ("whoever", "a named subject"),
    ("unbegun", "unsent"),
];

/// Splits into lower-case words: at everything but letters, and before each capital of a `CamelCase` name.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in text.chars() {
        if !c.is_alphabetic() || c.is_uppercase() {
            words.push(String::new());
        }
        if c.is_alphabetic() {
            words.last_mut().expect("the list has a word").extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn sources_use_standard_terms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests", "examples", "benches", "fuzz"].map(|folder| root.join(folder));
    let paths = folders.iter().flat_map(|folder| sources(folder));
    // This file lists the words, and build folders hold the sources of others.
    let paths =
        paths.filter(|path| !path.ends_with("tidy.rs") && !path.components().any(|part| part.as_os_str() == "target"));
    let mut found = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a source is readable");
        for (number, line) in text.lines().enumerate() {
            let words = words(line);
            let old = OLD_WORDS.iter().filter(|(old, _)| words.iter().any(|word| word == old));
            let phrase =
                words.windows(2).any(|pair| pair == ["those", "who"]).then_some(&("those who", "a named subject"));
            for (old, term) in old.chain(phrase) {
                found.push(format!("{}:{}: `{old}`; write: {term}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn hash_maps_are_never_iterated() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lobby/directory.rs"));
    let text = text.expect("the directory's source");
    for map in ["user_keys", "lobby_keys"] {
        assert!(text.contains(map));
        for walk in [".iter()", ".values()", ".keys()", ".drain("] {
            assert!(
                !text.contains(&format!("{map}{walk}")),
                "{map} is iterated, in an order that differs from run to run"
            );
        }
    }
}

/// The accepted licences. If a dependency offers several, one of them is enough.
const LICENCES: &[&str] = &["MIT", "Apache-2.0", "Unicode-3.0"];

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
