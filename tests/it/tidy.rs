//! Who may import whom. The architecture stands as long as these arrows do.

use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the rooms it may know. Vocabulary knows nobody; `wire` and `lobby` never see each other.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("lobby", &[]),
    ("engine", &["wire", "lobby"]),
    ("apps", &["engine", "wire", "lobby"]),
    ("admin", &["engine", "wire", "lobby"]),
    ("journal", &["engine", "wire"]),
    ("net", &["engine", "wire", "lobby", "admin", "journal"]),
    ("sim", &["engine", "wire", "lobby", "apps", "journal"]),
];
const VOCABULARY: &[&str] = &["checksum", "close", "config", "id", "random", "rate", "time"];

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

/// The rooms a source names: what follows `crate::` or `super::super::` at the start of a path.
fn imports(text: &str) -> Vec<String> {
    // Unit tests may use what the simulator offers.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn rooms_import_only_what_they_may_know() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = 0;
    for name in VOCABULARY {
        let mut paths = vec![src.join(format!("{name}.rs"))];
        if src.join(name).is_dir() {
            paths.extend(sources(&src.join(name)));
        }
        for path in paths {
            let text = fs::read_to_string(&path).expect("a source is readable");
            for import in imports(&text) {
                let known = VOCABULARY.contains(&&*import);
                assert!(known, "{} imports {import}: vocabulary knows only vocabulary", path.display());
            }
        }
    }
    for (room, allowed) in MAY_IMPORT {
        for path in sources(&src.join(room)) {
            let text = fs::read_to_string(&path).expect("a source is readable");
            for import in imports(&text) {
                let rooms = MAY_IMPORT.iter().any(|(other, _)| *other == import);
                assert!(
                    !rooms || import == *room || allowed.contains(&&*import),
                    "{} imports {import}",
                    path.display()
                );
                arrows += 1;
            }
        }
    }
    assert!(arrows > 50, "the sources were read");
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
                "{} uses {word}: there is one thread and one owner",
                path.display()
            );
        }
    }
}

#[test]
fn hash_maps_are_looked_up_and_never_walked() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lobby/directory.rs"));
    let text = text.expect("the directory's source");
    for map in ["user_keys", "lobby_keys"] {
        assert!(text.contains(map));
        for walk in [".iter()", ".values()", ".keys()", ".drain("] {
            assert!(
                !text.contains(&format!("{map}{walk}")),
                "{map} is walked, in an order that differs from run to run"
            );
        }
    }
}
