//! Sets `SOURCES_OF_LOBBYD` to a hash of the sources. It is part of the build's name in journals, so that a journal is
//! replayed by the build that recorded it.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    // Documentation does not change what the program sends.
    files.retain(|path| path.extension().is_none_or(|extension| extension != "md"));
    files.sort();
    // The versions of the dependencies count too. An unpacked package has no Cargo.lock.
    files.extend(Some(root.join("Cargo.lock")).filter(|path| path.exists()));
    // FNV-1a, 64 bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let contents = fs::read(path).expect("source files are readable");
        let name = path.strip_prefix(&root).expect("every file is below the root").to_string_lossy().replace('\\', "/");
        for byte in name.bytes().chain([0]).chain(contents) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo::rerun-if-changed=src");
    // `cargo run` and `cargo test` pass this variable on to the program. With the prefix `LOBBYD_` it would be taken
    // for an option.
    println!("cargo::rustc-env=SOURCES_OF_LOBBYD={hash:016x}");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("source folders are readable") {
        let path = entry.expect("folder entries are readable").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
