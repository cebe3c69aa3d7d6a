//! Names the build after what it is made of, so that a journal is replayed by the engine that recorded it.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    files.sort();
    // Which versions of other crates are used matters as much; a package that was unpacked has no such list.
    files.extend(Some(root.join("Cargo.lock")).filter(|path| path.exists()));
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let contents = fs::read(path).expect("a source is readable");
        let name = path.strip_prefix(&root).expect("it was found there").to_string_lossy().replace('\\', "/");
        for byte in name.bytes().chain([0]).chain(contents) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo::rerun-if-changed=src");
    // Cargo sets it for what it runs, too: under another prefix than that of options.
    println!("cargo::rustc-env=SOURCES_OF_LOBBYD={hash:016x}");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
