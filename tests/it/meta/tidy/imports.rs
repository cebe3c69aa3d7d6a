//! The import graph of a source tree: which file uses items of which other file.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Path, Source};

/// The text of each file, by its path below `src`.
pub(super) type Files = BTreeMap<String, String>;

/// The root file of each crate, and the name that its users give to the crate.
const ROOTS: [(&str, &str); 2] = [("lib.rs", "lobbyd"), ("main.rs", "main")];

/// Most `use` items followed for one name. Names that are imported from each other have no end.
const MAX_ALIASES: usize = 8;

/// A path in `file` that leads to the file `of`, which defines it or exports it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) path: String,
    pub(super) of: String,
}

struct Tree<'a> {
    /// Whether the tests of a file are parts of it.
    parse: fn(&'a str) -> Source<'a>,
    /// The file of each module, inline modules included. The first name of a module is the name of its crate.
    files: BTreeMap<Vec<&'a str>, &'a str>,
    /// The module of each file, and what the file contains.
    sources: BTreeMap<&'a str, (Vec<&'a str>, Source<'a>)>,
}

/// Returns the imports between different files. A path that leads out of the tree is no import.
pub(super) fn imports(files: &Files) -> BTreeSet<Import> {
    let tree = Tree::load(files, Source::parse);
    let mut found = BTreeSet::new();
    for (file, (module, source)) in &tree.sources {
        for path in &source.paths {
            let of = tree.file_of(module, source, path);
            found.extend(of.filter(|of| of != file).map(|of| Import {
                file: (*file).to_owned(),
                line: path.line,
                path: path.names.join("::"),
                of: of.to_owned(),
            }));
        }
    }
    found
}

/// Returns the files that no `mod` item names, so that the compiler does not see them.
pub(super) fn without_module(files: &Files) -> Vec<&str> {
    let tree = Tree::load(files, Source::parse_with_tests);
    files.keys().map(String::as_str).filter(|file| !tree.sources.contains_key(file)).collect()
}

/// Returns the groups of files that import each other, directly or through other files of the group.
pub(super) fn circles(imports: &BTreeSet<Import>) -> Vec<BTreeSet<&str>> {
    let mut direct: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        direct.entry(&import.file).or_default().insert(&import.of);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = direct.keys().map(|file| (*file, reachable(&direct, file))).collect();
    let circle = |file: &&str| -> BTreeSet<&str> {
        let others = reached[file].iter().copied();
        others.filter(|other| reached.get(other).is_some_and(|back| back.contains(file))).collect()
    };
    let circles: BTreeSet<BTreeSet<&str>> = direct.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    circles.into_iter().collect()
}

fn reachable<'a>(direct: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut rest) = (BTreeSet::new(), vec![start]);
    while let Some(file) = rest.pop() {
        rest.extend(direct.get(file).into_iter().flatten().filter(|of| reached.insert(**of)));
    }
    reached
}

impl<'a> Tree<'a> {
    fn load(files: &'a Files, parse: fn(&'a str) -> Source<'a>) -> Tree<'a> {
        let mut tree = Tree { parse, files: BTreeMap::new(), sources: BTreeMap::new() };
        for (root, name) in ROOTS {
            if let Some((file, text)) = files.get_key_value(root) {
                tree.add(files, vec![name], file, text);
            }
        }
        tree
    }

    /// Adds the file of a module, then those of the modules that it declares.
    fn add(&mut self, files: &'a Files, module: Vec<&'a str>, file: &'a str, text: &'a str) {
        let source = (self.parse)(text);
        // The modules of lib.rs, main.rs and x/mod.rs are next to the file, those of x.rs in the folder x.
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        let mut folder: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        if !["lib.rs", "main.rs", "mod.rs"].contains(&name) {
            folder.extend(name.strip_suffix(".rs"));
        }
        for inner in &source.modules {
            let path = [&module[..], &inner.path].concat();
            if inner.is_inline {
                self.files.insert(path, file);
                continue;
            }
            let stem = [&folder[..], &inner.path].concat().join("/");
            let candidates = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
            if let Some((file, text)) = candidates.iter().find_map(|candidate| files.get_key_value(candidate)) {
                self.add(files, path, file, text);
            }
        }
        self.files.insert(module.clone(), file);
        self.sources.insert(file, (module, source));
    }

    /// Returns the file of the last module that a path names, as seen from `module`; `None` if the path leads to
    /// another crate or begins with the name of an item.
    fn file_of(&self, module: &[&'a str], source: &Source<'a>, path: &Path<'a>) -> Option<&'a str> {
        let here = [module, &path.scope].concat();
        let module = self.module_of(here, source, &path.names, 0)?;
        self.files.get(&module).copied()
    }

    /// Follows `names` through the modules. `aliases` counts the `use` items followed.
    fn module_of(
        &self,
        here: Vec<&'a str>,
        source: &Source<'a>,
        names: &[&'a str],
        aliases: usize,
    ) -> Option<Vec<&'a str>> {
        let (first, mut rest) = names.split_first()?;
        let mut module = match *first {
            "crate" => here[..1].to_vec(),
            "self" => here,
            "super" => here[..here.len() - 1].to_vec(),
            name if self.is_module(&here, name) => [&here[..], &[name]].concat(),
            name => {
                let is_import = |path: &&Path<'a>| path.alias == Some(name) && path.names != [name];
                match source.paths.iter().find(is_import).filter(|_| aliases < MAX_ALIASES) {
                    // The name of a module that a `use` item brought into scope. If that is not a module but an item,
                    // the `use` item is the import.
                    Some(import) => {
                        let module = self.module_of(here.clone(), source, &import.names, aliases + 1)?;
                        module.ends_with(&import.names[import.names.len() - 1..]).then_some(module)?
                    }
                    None if self.files.contains_key(&vec![name]) => vec![name],
                    None => return None,
                }
            }
        };
        while let Some((name, after)) = rest.split_first() {
            match *name {
                "super" => drop(module.pop()),
                "self" => {}
                name if self.is_module(&module, name) => module.push(name),
                _ => break,
            }
            rest = after;
        }
        Some(module)
    }

    fn is_module(&self, parent: &[&'a str], name: &'a str) -> bool {
        self.files.contains_key(&[parent, &[name]].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    /// A library with `a/mod.rs`, `a/b.rs`, `a/b/c.rs` and `d.rs`, and a program with `program/e.rs`. `text` is the
    /// contents of `file`.
    #[track_caller]
    fn check(file: &str, text: &str, expected: &[&str]) {
        let mut tree = files(&[
            ("lib.rs", "mod a; mod d;"),
            ("a/mod.rs", "pub(crate) mod b;"),
            ("a/b.rs", "mod c;"),
            ("a/b/c.rs", ""),
            ("d.rs", ""),
            ("main.rs", "mod program;"),
            ("program/mod.rs", "mod e;"),
            ("program/e.rs", ""),
        ]);
        let declared = tree[file].clone();
        tree.insert(file.to_owned(), format!("{declared}\n{text}"));
        let imports = imports(&tree);
        assert!(imports.iter().all(|import| import.file == file));
        let of: BTreeSet<&str> = imports.iter().map(|import| import.of.as_str()).collect();
        assert_eq!(of, expected.iter().copied().collect(), "{file}: {text}");
    }

    #[test]
    fn a_path_leads_to_the_file_of_its_last_module() {
        check("d.rs", "use crate::a::b::C;", &["a/b.rs"]);
        check("d.rs", "use crate::a::Refusal;", &["a/mod.rs"]);
        check("d.rs", "use crate::a::b;", &["a/b.rs"]);
        check("d.rs", "use crate::a::b::c::*;", &["a/b/c.rs"]);
        check("d.rs", "fn f() { crate::a::b::c::d(crate::E) }", &["a/b/c.rs", "lib.rs"]);
        check("d.rs", "use crate::{a::{self, b::{C, c::D}}};", &["a/b.rs", "a/b/c.rs", "a/mod.rs"]);
    }

    #[test]
    fn self_and_super_are_relative() {
        check("a/b.rs", "use super::C; use super::super::d::E;", &["a/mod.rs", "d.rs"]);
        check("a/b.rs", "use self::c::D; fn f() { c::E }", &["a/b/c.rs"]);
        check("a/b/c.rs", "use super::*; fn f() { super::super::b::g() }", &["a/b.rs"]);
        check("a/mod.rs", "pub use self::b::C;", &["a/b.rs"]);
        check(
            "a/b.rs",
            "mod f { use super::c::D; use super::G; mod h { use super::super::super::I; } }",
            &["a/b/c.rs", "a/mod.rs"],
        );
    }

    #[test]
    fn a_name_from_a_use_item_leads_to_its_module() {
        check("d.rs", "use crate::a; fn f() { a::b::g() }", &["a/mod.rs", "a/b.rs"]);
        check("d.rs", "use crate::a::b as x; fn f() { x::c::d(x::E) }", &["a/b.rs", "a/b/c.rs"]);
        check("d.rs", "use crate::a::B; fn f() { B::c() }", &["a/mod.rs"]);
    }

    #[test]
    fn other_crates_and_local_names_are_no_imports() {
        check("d.rs", "use std::fs; use ::a::b; use log::{a, d}; fn f() { fs::read(Self::A, a::b()) }", &[]);
        check("d.rs", "use b; enum B { C } use self::B::*; fn f() { B::C }", &[]);
        check("d.rs", "// use crate::a;\n#[cfg(test)] mod tests { use crate::a; }", &[]);
        check("a/mod.rs", "mod inner;", &[]);
    }

    #[test]
    fn the_program_imports_the_library_by_its_name() {
        check(
            "program/e.rs",
            "use lobbyd::a::b::C; use lobbyd::D; use crate::program::F; use super::G;",
            &["a/b.rs", "lib.rs", "program/mod.rs"],
        );
        check(
            "main.rs",
            "use self::program::e; fn main() { e::f(); program::g() }",
            &["program/e.rs", "program/mod.rs"],
        );
    }

    #[test]
    fn files_without_a_mod_item_are_found() {
        let tree = files(&[("lib.rs", "mod a;"), ("a.rs", "#[cfg(test)] mod b;"), ("a/b.rs", ""), ("c.rs", "")]);
        assert_eq!(without_module(&tree), ["c.rs"]);
    }

    #[test]
    fn circles_are_found() {
        let tree = files(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e; mod f;"),
            ("a.rs", "use crate::b::B; use crate::d::D;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a::A;"),
            ("d.rs", "use crate::e::E;"),
            ("e.rs", "use crate::d::D; use crate::f::F;"),
            ("f.rs", ""),
        ]);
        let imports = imports(&tree);
        assert_eq!(circles(&imports), [BTreeSet::from(["a.rs", "b.rs", "c.rs"]), BTreeSet::from(["d.rs", "e.rs"])]);
    }
}
