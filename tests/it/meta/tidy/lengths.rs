//! Lengths of files and functions.

use std::path::Path;

use super::check;
use super::files::{rust_files, src};
use super::source::Source;

/// Most lines of a file, without its `#[cfg(test)]` items, and of a file of integration tests.
const MAX_FILE: usize = 500;
/// Most lines of a function, from `fn` to the closing brace. Closures and inner functions are parts of it.
const MAX_FUNCTION: usize = 80;

#[test]
fn files_are_short() {
    let files = src();
    let lengths = files.iter().map(|(file, text)| (file, Source::parse(text).lines));
    let violations =
        lengths.filter(|(_, lines)| *lines > MAX_FILE).map(|(file, lines)| format!("{file}: {lines} lines"));
    check(&format!("a file has at most {MAX_FILE} lines without its tests"), &violations.collect::<Vec<_>>());
}

#[test]
fn files_of_tests_are_short() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut violations = Vec::new();
    for path in rust_files(&tests) {
        let lines = std::fs::read_to_string(&path).expect("a source is readable").lines().count();
        if lines > MAX_FILE {
            violations.push(format!("{}: {lines} lines", path.display()));
        }
    }
    check(&format!("a file of tests has at most {MAX_FILE} lines"), &violations);
}

#[test]
fn functions_are_short() {
    let mut violations = Vec::new();
    for (file, text) in &src() {
        for function in Source::parse(text).functions {
            if function.lines > MAX_FUNCTION {
                violations.push(format!("{file} {}(): {} lines", function.name, function.lines));
            }
        }
    }
    check(&format!("a function has at most {MAX_FUNCTION} lines"), &violations);
}
