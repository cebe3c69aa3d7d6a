//! Lengths of files and functions.

use super::files::src;
use super::source::Source;
use super::{Violation, check};

/// Most lines of a file, without its `#[cfg(test)]` items.
const MAX_FILE: usize = 500;
/// Most lines of a function, from `fn` to the closing brace. Closures and inner functions are parts of it.
const MAX_FUNCTION: usize = 80;

/// Longer files, and why they are.
const FILE_EXCEPTIONS: &[(&str, &str)] = &[
    ("sim/view.rs", "the view of a client, and all checks of it"),
    ("sim/world.rs", "the simulated world, and its steps"),
];

/// Longer functions, and why they are.
const FUNCTION_EXCEPTIONS: &[(&str, &str)] = &[
    ("sim/client_input.rs send_kind()", "one arm for each kind of message"),
    ("sim/operator.rs send_operator_command()", "one arm for each command"),
    ("sim/view.rs handle()", "one arm for each message of the server"),
    ("sim/world.rs connect()", "each kind of request that a client can begin with"),
];

#[test]
fn files_are_short() {
    let files = src();
    let lengths = files.iter().map(|(file, text)| (file, Source::parse(text).lines));
    let violations = lengths
        .filter(|(_, lines)| *lines > MAX_FILE)
        .map(|(file, lines)| Violation { subject: file.clone(), message: format!("{lines} lines") });
    check(&format!("a file has at most {MAX_FILE} lines without its tests"), violations.collect(), FILE_EXCEPTIONS);
}

#[test]
fn functions_are_short() {
    let mut violations = Vec::new();
    for (file, text) in &src() {
        for function in Source::parse(text).functions {
            if function.lines > MAX_FUNCTION {
                let subject = format!("{file} {}()", function.name);
                violations.push(Violation { subject, message: format!("{} lines", function.lines) });
            }
        }
    }
    check(&format!("a function has at most {MAX_FUNCTION} lines"), violations, FUNCTION_EXCEPTIONS);
}
