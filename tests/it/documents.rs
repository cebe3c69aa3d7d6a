//! The README says what the code does.
//!
//! What stands between its markers is written by these tests and those of `operating`: `LOBBYD_BLESS=1 cargo test documents` brings them up to date.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lobbyd::{CloseReason, Config, Reconnect};

fn readme() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&path).expect("there is a README");
    (path, text)
}

/// Tests of this process that write the README do so one after the other.
static WRITING: Mutex<()> = Mutex::new(());

fn find(text: &str, marker: &str) -> Range<usize> {
    let start = text.find(marker).expect("the marker is there");
    let start = start + text[start..].find('\n').expect("the marker has a line of its own") + 1;
    start..start + text[start..].find("<!-- end -->").expect("the section ends")
}

/// What stands between a marker and the next `<!-- end -->`.
pub fn section(marker: &str) -> String {
    let (_, text) = readme();
    text[find(&text, marker)].to_owned()
}

/// Compares what stands between a marker and the next `<!-- end -->` with what should.
#[track_caller]
pub fn check(marker: &str, expected: &str) {
    let _turn = WRITING.lock();
    let (path, text) = readme();
    let Range { start, end } = find(&text, marker);
    if std::env::var_os("LOBBYD_BLESS").is_some() {
        fs::write(path, [&text[..start], expected, &text[end..]].concat()).expect("the README can be written");
    } else {
        assert_eq!(&text[start..end], expected, "run LOBBYD_BLESS=1 cargo test documents");
    }
}

/// One test, because both tables are in one file.
#[test]
fn tables_of_the_readme_are_those_of_the_code() {
    let flags = Config::FIELDS.iter().map(|field| {
        let doc = field.doc.trim().replace('\n', " ").replace('|', "\\|");
        format!("| `--{}` | `{}` | {} |\n", field.flag(), field.default, doc.trim_end_matches('.'))
    });
    check("<!-- flags", &flags.collect::<String>());

    let closes = CloseReason::ALL.iter().filter(|reason| reason.code() != 0).map(|reason| {
        let again = match reason.reconnect() {
            Reconnect::No => "not unchanged",
            Reconnect::Backoff => "after a growing wait",
            Reconnect::AtOnce => "at once",
        };
        format!("| {} | `{}` | {} | {again} |\n", reason.code(), reason.word(), reason.explain())
    });
    check("<!-- closes", &closes.collect::<String>());
}

#[test]
fn every_variable_is_named_after_its_flag() {
    for field in Config::FIELDS {
        assert_eq!(field.variable(), format!("LOBBYD_{}", field.flag().to_uppercase().replace('-', "_")));
        let first = field.doc.trim().chars().next().expect("every field is documented");
        assert!(first.is_uppercase() && field.doc.trim().ends_with('.'), "{} has a sentence", field.name);
    }
}

/// The Rust in the README is the Rust that embeds.
#[test]
fn what_the_readme_names_exists() {
    let (_, text) = readme();
    let paths = [
        "examples/embed.rs",
        "examples/arena.rs",
        "tests/autobahn/run",
        "tests/clients/run",
        "benches/instructions.sh",
        "benches/peers/run",
        "CHANGELOG.md",
    ];
    for path in paths {
        let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
        assert!(exists, "{path}");
        assert!(text.contains(path) || path == "CHANGELOG.md", "the README names {path}");
    }
}

/// What the README shows of the arena, which is compiled and run there, is the arena.
#[test]
fn excerpts_of_the_arena_are_the_arena() {
    let (_, text) = readme();
    let arena = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/arena.rs");
    let arena = fs::read_to_string(arena).expect("there is an arena");
    let excerpts: Vec<&str> =
        text.split("```rust,ignore\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(excerpts.len(), 4);
    for excerpt in excerpts {
        assert!(arena.contains(excerpt), "this is not in examples/arena.rs:\n{excerpt}");
    }
}
