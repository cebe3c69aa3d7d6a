//! Rules of the source tree: which files may import which, their length, where I/O is allowed, the terms to use, and the
//! licences of dependencies.

mod dependencies;
mod files;
mod imports;
mod layers;
mod lengths;
mod lexer;
mod licences;
mod public;
mod purity;
mod source;
mod terms;

pub use files::rust_files;

/// Fails with all violations of a rule, if there are any.
#[track_caller]
fn check(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}
