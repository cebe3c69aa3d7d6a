//! The public names of the crate: few at the root, each in one place, and each with an example.

use std::collections::BTreeMap;

use super::check;
use super::files::src;
use super::lexer::{Kind, tokens};

/// Most names at the root of the crate, without its modules.
const MAX_ROOT_NAMES: usize = 20;
/// Files of public modules.
const PUBLIC: &[&str] = &[
    "lib.rs",
    "admin/mod.rs",
    "apps/mod.rs",
    "client/mod.rs",
    "config/mod.rs",
    "journal/mod.rs",
    "net/mod.rs",
    "sim/mod.rs",
    "sim/wire.rs",
];
/// Beginnings of the definitions of types and functions.
const ITEMS: &[&str] = &["pub struct ", "pub enum ", "pub trait ", "pub const ", "pub fn "];

/// Returns the names that the `pub use` items of a file export, each with the depth of braces in which the item is.
fn exported(text: &str) -> Vec<(String, usize)> {
    let tokens = tokens(text);
    let (mut names, mut depth, mut at) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        match tokens[at].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "pub" if tokens.get(at + 1).is_some_and(|next| next.text == "use") => {
                while tokens[at].text != ";" {
                    let is_last = [",", "}", ";"].contains(&tokens[at + 1].text);
                    if tokens[at].kind == Kind::Word && is_last {
                        names.push((tokens[at].text.to_owned(), depth));
                    }
                    at += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    names
}

/// Returns the name that a line defines as a public item, if any.
fn defined(line: &str) -> Option<&str> {
    let rest = ITEMS.iter().find_map(|item| line.strip_prefix(item))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Returns the documentation of each public item by its name. A name that is defined twice has both.
fn documentation() -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for text in src().values() {
        let mut doc = String::new();
        for line in text.lines() {
            let code = line.trim_start();
            if code.starts_with("///") {
                doc.extend([code, "\n"]);
            } else if !code.starts_with("#[") {
                // A method is no item: functions are at the beginning of a line. Types may be defined by a macro.
                let is_item = !code.starts_with("pub fn ") || line == code;
                if let Some(name) = defined(code).filter(|_| is_item) {
                    found.entry(name.to_owned()).or_default().push_str(&doc);
                }
                doc.clear();
            }
        }
    }
    found
}

#[test]
fn the_root_exports_few_names() {
    let root: Vec<String> =
        exported(&src()["lib.rs"]).into_iter().filter(|(_, depth)| *depth == 0).map(|(name, _)| name).collect();
    assert!(root.iter().any(|name| name == "App"), "the exports are found");
    assert!(root.len() <= MAX_ROOT_NAMES, "{} names at the root: {}", root.len(), root.join(" "));
}

#[test]
fn a_name_is_public_in_one_place() {
    let files = src();
    let mut names: Vec<String> = PUBLIC.iter().flat_map(|file| exported(&files[*file])).map(|(name, _)| name).collect();
    names.sort();
    let violations = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone());
    check("a public name has one path", &violations.collect::<Vec<_>>());
}

#[test]
fn every_public_item_shows_an_example_or_says_why_not() {
    let files = src();
    let exports = PUBLIC.iter().flat_map(|file| exported(&files[*file])).map(|(name, _)| name);
    let own = PUBLIC.iter().flat_map(|file| files[*file].lines()).filter_map(defined).map(str::to_owned);
    let docs = documentation();
    let mut violations = Vec::new();
    for name in exports.chain(own).filter(|name| name != "Readme") {
        match docs.get(&name) {
            Some(doc) if doc.contains("```") || doc.contains("xample") => {}
            Some(_) => violations.push(format!("{name}: no example, and no sentence that says where or why not")),
            None => violations.push(format!("{name}: its definition was not found")),
        }
    }
    check("every public item has an example, or a sentence about one", &violations);
}
