//! Reads the sources.

use std::fs;
use std::path::{Path, PathBuf};

use super::imports::Files;

/// Returns the Rust files in a folder and the folders below it.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files_with("rs", folder)
}

/// Returns the files with an extension in a folder and the folders below it.
pub(super) fn files_with(extension: &str, folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(extension, &path));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the text of each file in `src`, by its path below `src`, with `/` on every system.
pub(super) fn src() -> Files {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named = |path: PathBuf| {
        let name = path.strip_prefix(&src).expect("the file is below src").to_str().expect("UTF-8").replace('\\', "/");
        (name, fs::read_to_string(&path).expect("a source is readable"))
    };
    let files: Files = rust_files(&src).into_iter().map(named).collect();
    assert!(files.len() > 50, "the sources were read");
    files
}
