//! Rules of the source tree: which files may import which, their length, where I/O is allowed, the terms to use, and the
//! licences of dependencies.

mod files;
mod imports;
mod layers;
mod lengths;
mod lexer;
mod licences;
mod purity;
mod source;
mod terms;

/// A place where a rule is broken.
struct Violation {
    /// What an exception names.
    subject: String,
    message: String,
}

/// Checks that exactly the excepted subjects break a rule. An exception is a subject and the reason why it stands.
///
/// # Panics
///
/// With all violations without an exception, and all exceptions without a violation.
#[track_caller]
fn check(rule: &str, violations: Vec<Violation>, exceptions: &[(&str, &str)]) {
    let is_excepted = |violation: &&Violation| exceptions.iter().any(|(subject, _)| *subject == violation.subject);
    let mut problems: Vec<String> = Vec::new();
    for violation in violations.iter().filter(|violation| !is_excepted(violation)) {
        problems.push(format!("{}: {}", violation.subject, violation.message));
    }
    for (subject, reason) in exceptions {
        if violations.iter().all(|violation| violation.subject != *subject) {
            problems.push(format!("{subject}: keeps the rule now; remove its exception: {reason}"));
        }
    }
    assert!(problems.is_empty(), "{rule}:\n{}", problems.join("\n"));
}

#[test]
#[should_panic(expected = "a: is too long\nc: keeps the rule now; remove its exception: too long")]
fn violations_and_needless_exceptions_are_listed_at_once() {
    let violations =
        ["a", "b"].map(|subject| Violation { subject: subject.into(), message: "is too long".into() }).into();
    check("lengths", violations, &[("b", "is old"), ("c", "too long")]);
}
