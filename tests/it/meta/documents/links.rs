//! Links of the documents lead somewhere, in the repository and in rustdoc.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{documents, pages, read, root};
use crate::meta::is_left_out;

/// Fragments that rustdoc uses itself on each page. A heading with such a text gets another fragment there, such as `fields-1`.
const FRAGMENTS_OF_RUSTDOC: &[&str] = &[
    "all-types",
    "copy-path",
    "fields",
    "help",
    "implementations",
    "layout",
    "main-content",
    "provided-methods",
    "required-methods",
    "search",
    "settings",
    "variants",
];

/// A document without its code, to look for links and headings.
struct Prose {
    path: PathBuf,
    lines: Vec<String>,
}

impl Prose {
    fn read(path: &Path) -> Prose {
        let mut is_code = false;
        let mut lines = Vec::new();
        for line in read(path).lines() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                lines.push(without_code(line));
            }
        }
        Prose { path: path.to_owned(), lines }
    }

    /// The fragments under which the headings are reached, in rustdoc and in the repository.
    fn fragments(&self) -> BTreeSet<String> {
        let headings = read(&self.path);
        let headings = headings.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let kept = line.trim_start_matches('#').trim().chars();
                let kept = kept.filter(|&c| c.is_alphanumeric() || "-_ ".contains(c));
                kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
            })
            .collect()
    }

    /// Pairs of a label and its target, at the end of a page.
    fn definitions(&self) -> Vec<(&str, &str)> {
        self.lines.iter().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).collect()
    }

    /// Checks that no label is defined twice: only the first definition is in force.
    #[track_caller]
    fn check_definitions(&self) {
        let mut labels = BTreeSet::new();
        for (label, _) in self.definitions() {
            assert!(labels.insert(label), "{}: [{label}] is defined twice", self.path.display());
        }
    }

    /// Targets of links of the form `[text](target)`.
    fn inline_targets(&self) -> Vec<&str> {
        self.lines.iter().flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next()).collect()
    }

    /// Labels that the text refers to: `[text][label]`, and a label in backticks alone.
    fn used_labels(&self) -> BTreeSet<&str> {
        let mut used = BTreeSet::new();
        for line in self.lines.iter().filter(|line| !(line.starts_with('[') && line.contains("]: "))) {
            used.extend(line.split("][").skip(1).filter_map(|rest| rest.split(']').next()));
            for rest in line.split("[`").skip(1) {
                let (name, after) = rest.split_once("`]").expect("the label ends");
                if !after.starts_with(['(', '[']) {
                    used.insert(&rest[..name.len()]);
                }
            }
        }
        used
    }
}

/// Removes code, except where it is the whole text of a link.
fn without_code(line: &str) -> String {
    let pieces: Vec<&str> = line.split('`').collect();
    let mut kept = String::new();
    for (at, piece) in pieces.iter().enumerate() {
        let is_link = at % 2 == 1
            && pieces[at - 1].ends_with('[')
            && pieces.get(at + 1).is_some_and(|next| next.starts_with(']'));
        match at % 2 {
            0 => kept += piece,
            _ if is_link => kept.extend(["`", piece, "`"]),
            _ => {}
        }
    }
    kept
}

/// Checks that a link leads to a file or heading.
#[track_caller]
fn check_target(from: &Prose, target: &str) {
    let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => from.path.clone(),
        _ => from.path.parent().expect("a folder").join(file),
    };
    if is_left_out(file.trim_start_matches("../")) {
        return;
    }
    assert!(path.exists(), "{}: {target} leads nowhere", from.path.display());
    if !fragment.is_empty() {
        let fragments = Prose::read(&path).fragments();
        assert!(fragments.contains(fragment), "{}: no heading has the fragment {target}", from.path.display());
    }
}

#[test]
fn links_lead_somewhere() {
    for document in documents().iter().map(|path| Prose::read(path)) {
        let targets = document.inline_targets();
        for target in targets.iter().filter(|target| !target.starts_with("http")) {
            check_target(&document, target);
            // rustdoc has no file beside a page.
            let is_page = document.path.parent().is_some_and(|folder| folder.ends_with("guide"));
            assert!(!is_page || target.starts_with('#'), "{}: use a label for {target}", document.path.display());
        }
        document.definitions().iter().for_each(|(_, target)| check_target(&document, target));
    }
}

/// Each label of a page leads to the same place in the repository (the page's own definition) and in rustdoc (`links.md`).
#[test]
fn labels_are_defined_for_the_repository_and_for_rustdoc() {
    let links = Prose::read(&root().join("src/guide/links.md"));
    links.check_definitions();
    let links = links.definitions();
    let mut all_used = BTreeSet::new();
    for page in pages().iter().map(|path| Prose::read(path)) {
        let name = page.path.display();
        page.check_definitions();
        let definitions = page.definitions();
        let defined: BTreeSet<&str> = definitions.iter().map(|(label, _)| label.trim_matches('`')).collect();
        let used: BTreeSet<&str> = page.used_labels().into_iter().map(|label| label.trim_matches('`')).collect();
        assert_eq!(used, defined, "{name}: the used labels, and those defined at its end");
        for (label, target) in definitions {
            let link = links.iter().find(|(other, _)| *other == label);
            let (_, rustdoc) = link.unwrap_or_else(|| panic!("{name}: [{label}] is not in links.md"));
            if let Some((page, fragment)) = target.split_once(".md").filter(|(page, _)| !page.contains('/')) {
                assert_eq!(*rustdoc, format!("crate::guide::{page}{fragment}"), "{name}: [{label}]");
                let is_taken = FRAGMENTS_OF_RUSTDOC.contains(&fragment.trim_start_matches('#'));
                assert!(!is_taken, "{name}: rustdoc gives the heading of [{label}] another fragment");
            }
            all_used.insert(label.to_owned());
        }
    }
    let unused: Vec<_> = links.iter().filter(|(label, _)| !all_used.contains(*label)).collect();
    assert!(unused.is_empty(), "no page uses {unused:?}");
}
