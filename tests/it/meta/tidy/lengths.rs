//! Lengths of files and functions.

use super::check;
use super::files::src;
use super::source::Source;

/// Most lines of a file, without its `#[cfg(test)]` items.
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
