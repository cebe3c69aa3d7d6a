//! The crates that other programs get with the library.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Every crate that an embedder on Linux compiles with `default-features = false`, without those of build scripts and tests.
/// An optional dependency adds none. A new entry is a decision: its reason is beside it in `Cargo.toml`.
#[cfg(target_os = "linux")]
const EMBEDDED: &[&str] = &[
    "bitflags",
    "block-buffer",
    "bytes",
    "cfg-if",
    "chacha20",
    "const-oid",
    "cpufeatures",
    "crc32fast",
    "crypto-common",
    "data-encoding",
    "digest",
    "getrandom",
    "http",
    "httparse",
    "hybrid-array",
    "itoa",
    "libc",
    "linux-raw-sys",
    "log",
    "memchr",
    "mio",
    "proc-macro2",
    "quote",
    "rand",
    "rand_core",
    "rustix",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "sha1",
    "slab",
    "smol_str",
    "socket2",
    "syn",
    "thiserror",
    "thiserror-impl",
    "tungstenite",
    "twox-hash",
    "typenum",
    "unicode-ident",
    "zmij",
];

/// Runs Cargo, if possible without the network: it has built the tests, so only crates of further features may be missing.
fn cargo(arguments: &[&str]) -> String {
    let run = |network: &[&str]| {
        Command::new(env!("CARGO"))
            .args(arguments)
            .args(network)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs")
    };
    let mut output = run(&["--locked", "--offline"]);
    if !output.status.success() {
        output = run(&["--locked"]);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the packages of all features and of the tests, on this platform, in the form of `cargo metadata`.
pub(super) fn all_packages() -> Value {
    let version = Command::new(env!("CARGO")).args(["--version", "--verbose"]).output().expect("cargo runs");
    let version = String::from_utf8(version.stdout).expect("UTF-8");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let arguments = ["metadata", "--format-version", "1", "--all-features", "--filter-platform", host];
    serde_json::from_str(&cargo(&arguments)).expect("JSON")
}

#[cfg(target_os = "linux")]
#[test]
fn an_embedder_compiles_only_the_listed_crates() {
    let tree = cargo(&["tree", "--no-default-features", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let compiled: BTreeSet<&str> = names.filter(|name| *name != env!("CARGO_PKG_NAME")).collect();
    let listed: BTreeSet<&str> = EMBEDDED.iter().copied().collect();
    let new: Vec<_> = compiled.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&compiled).collect();
    assert!(new.is_empty(), "the library compiles further crates: {new:?}");
    assert!(gone.is_empty(), "no longer compiled, so remove them from the list: {gone:?}");
}
