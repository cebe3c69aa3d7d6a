//! Rules of the source tree and of the documents.

pub mod documents;
pub mod tidy;

use std::fs;
use std::path::Path;

/// Whether the tests run in a packaged crate, and `path` is one of those that `exclude` in `Cargo.toml` leaves out of it.
pub fn is_left_out(path: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Only a packaged crate has this file.
    let is_packaged = root.join("Cargo.toml.orig").exists();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest can be read");
    let (_, excluded) = manifest.split_once("exclude = [").expect("the manifest excludes files");
    let (excluded, _) = excluded.split_once(']').expect("the list ends");
    let mut excluded = excluded.split('"').skip(1).step_by(2).map(|path| path.trim_start_matches('/'));
    is_packaged && excluded.any(|folder| Path::new(path).starts_with(folder))
}

/// The package does not contain them.
#[test]
fn pictures_of_the_readme_are_small() {
    if is_left_out("examples/pictures") {
        return;
    }
    let pictures: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pictures"))
        .expect("a folder of pictures")
        .collect();
    assert!(pictures.len() >= 2, "the playground and the arena");
    for picture in pictures {
        let picture = picture.expect("a readable entry");
        let length = picture.metadata().expect("a file").len();
        assert!(length < 150_000, "{}: {length} bytes", picture.path().display());
    }
}
