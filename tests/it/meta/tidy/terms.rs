//! The terms of the field, in code, comments, strings and documents.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{files_with, rust_files};

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

/// The documents: the README, the changelog and the guide, and those of the clients.
fn documents(root: &Path) -> Vec<PathBuf> {
    let documents = ["README.md", "CHANGELOG.md"].map(|name| root.join(name));
    let documents: Vec<PathBuf> = documents.into_iter().chain(files_with("md", &root.join("src"))).collect();
    assert!(documents.len() > 20, "{documents:?}");
    documents
}

#[test]
fn sources_and_documents_use_standard_terms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests", "examples", "benches", "fuzz"].map(|folder| root.join(folder));
    // A packaged crate has no `fuzz`.
    let folders: Vec<_> = folders.into_iter().filter(|folder| folder.is_dir()).collect();
    assert!(folders.len() >= 4, "{folders:?}");
    let paths = folders.iter().flat_map(|folder| rust_files(folder)).chain(documents(root));
    // This file lists the words, and build folders hold the sources of others.
    let paths = paths
        .filter(|path| !path.ends_with("tidy/terms.rs") && !path.components().any(|part| part.as_os_str() == "target"));
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
