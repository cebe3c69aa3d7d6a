//! Which folder of `src` may import which, and that no file imports in a circle.

use std::collections::BTreeSet;

use super::check;
use super::files::src;
use super::imports::{Import, circles, imports, without_module};

/// Each folder, or file directly in `src`, with those that it may import. These stand above it in this table.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    // It knows the protocol as any client does, and nothing of the server.
    ("client", &["base"]),
    ("config", &["base"]),
    ("http", &["base"]),
    ("cluster", &["base"]),
    ("lobby", &["base", "config"]),
    ("pages", &["base", "http"]),
    ("ws", &["base", "config", "http"]),
    ("protocol", &["base", "config", "lobby"]),
    ("egress", &["base", "config", "lobby", "ws"]),
    ("engine", &["base", "config", "http", "cluster", "lobby", "pages", "ws", "protocol", "egress"]),
    ("events", &["base", "engine"]),
    ("hook", &["base", "config", "lobby", "engine", "events"]),
    // The public names of the crate. The built-in applications and the program use them as any other user does.
    ("lib.rs", &["base", "config", "http", "lobby", "ws", "protocol", "egress", "engine"]),
    // Documentation only.
    ("guide", &[]),
    ("admin", &["base", "config", "http", "lobby", "ws", "engine", "events"]),
    ("journal", &["base", "config", "http", "cluster", "lobby", "ws", "egress", "engine"]),
    ("apps", &["base", "lobby", "ws", "engine", "lib.rs"]),
    ("net", &["base", "config", "http", "cluster", "lobby", "egress", "engine", "events", "hook", "admin", "journal"]),
    (
        "sim",
        &["base", "client", "config", "http", "cluster", "lobby", "ws", "egress", "engine", "admin", "journal", "apps"],
    ),
    ("program", &["lib.rs", "client", "config", "admin", "journal", "apps", "net", "sim"]),
    ("main.rs", &["program"]),
];

fn folder(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

fn describe(import: &Import) -> String {
    format!("{}:{} {} -> {}", import.file, import.line, import.path, import.of)
}

#[test]
fn folders_import_only_what_is_below_them() {
    let mut violations = Vec::new();
    for import in imports(&src()) {
        let (from, of) = (folder(&import.file), folder(&import.of));
        let allowed = LAYERS.iter().find(|(name, _)| *name == from).map_or(&[][..], |(_, allowed)| allowed);
        if from != of && !allowed.contains(&of) {
            violations.push(format!("{from} imports {of}: {}", describe(&import)));
        }
    }
    check("a folder imports only what the table allows", &violations);
}

#[test]
fn the_table_of_layers_has_an_order() {
    for (at, (name, allowed)) in LAYERS.iter().enumerate() {
        for other in *allowed {
            assert!(
                LAYERS[..at].iter().any(|(lower, _)| lower == other),
                "{name} may import {other}, which is not above"
            );
        }
    }
}

#[test]
fn files_do_not_import_in_a_circle() {
    let imports = imports(&src());
    let violations = circles(&imports).into_iter().map(|circle| {
        let folders: BTreeSet<&str> = circle.iter().map(|file| folder(file)).collect();
        let is_inside = |import: &&Import| circle.contains(&*import.file) && circle.contains(&*import.of);
        let inside: Vec<String> =
            imports.iter().filter(is_inside).map(|import| format!("\n  {}", describe(import))).collect();
        format!("{}:{}", folders.into_iter().collect::<Vec<_>>().join(", "), inside.concat())
    });
    check("no files import each other in a circle", &violations.collect::<Vec<_>>());
}

#[test]
fn every_file_is_a_module() {
    assert_eq!(without_module(&src()), [""; 0], "files that the compiler does not see");
}
