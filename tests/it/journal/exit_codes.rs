//! The exit codes of `lobbyd replay`.

use std::fs;

use lobbyd::apps::{CatchPanics, Relay, Verbatim};
use lobbyd::journal;
use lobbyd::{Config, Time};

use super::failures::Nondeterministic;
use super::site::{Site, session};
use crate::common::files::Folder;
use crate::drivers::fuzzed::journal::{blocks_of, written};

#[test]
fn the_replay_exit_code_classifies_a_journal() {
    let folder = Folder::new("program");
    #[track_caller]
    fn check(folder: &Folder, journal: Option<&[u8]>, arguments: &[&str], code: i32, words: &str) {
        let path = folder.0.join("one");
        let _ = fs::remove_file(&path);
        if let Some(journal) = journal {
            fs::write(&path, journal).expect("the folder can be written");
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lobbyd"))
            .arg("replay")
            .arg(&path)
            .args(arguments)
            .output()
            .expect("the program starts");
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8(shown).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    let journal = session();
    let blocks = blocks_of(&journal);
    check(&folder, Some(&journal), &[], 0, "turns confirmed");
    check(&folder, Some(&journal), &["--print", "--user", "ann", "--from", "0.005"], 0, "broadcasts");
    check(&folder, Some(&journal), &["--stop-at", "2"], 0, "lobby chess members=2");
    check(&folder, Some(&journal[..journal.len() - 1]), &[], 0, "torn bytes at the end");
    check(&folder, None, &[], 2, "no such journal");
    check(&folder, Some(&journal), &["--from", "soon"], 2, "is not a number of seconds");

    // A block that begins with the check of a write, made wrong here.
    let mut other = blocks.clone();
    other.iter_mut().find(|block| block[0] == 25).expect("a block with a write")[1] ^= 1;
    check(
        &folder,
        Some(&written(&other)),
        &[],
        4,
        "turn 1 at 0.010000s: conn=0.1 is sent something else from its byte 0 on",
    );

    let mut flipped = journal.clone();
    flipped[journal.len() / 2] ^= 1;
    check(&folder, Some(&flipped), &[], 5, "it is damaged before byte");
    check(&folder, Some(b""), &[], 5, "it is empty");
    check(&folder, Some(b"#!/bin/sh\n"), &[], 5, "it is no journal");
    check(&folder, Some(&[b"lobbyd journal 9\n", &journal[17..]].concat()), &[], 6, "version 9");
    let mut other = blocks.clone();
    let at = other[0].windows(journal::BUILD.len()).position(|window| window == journal::BUILD.as_bytes());
    other[0][at.expect("the block names its build")] ^= 1;
    check(&folder, Some(&written(&other)), &[], 6, "replay it with the build that wrote it");
    check(&folder, Some(&written(&other)), &["--any-build"], 0, "turns confirmed");

    // Recorded with --on-app-panic close-lobby.
    let mut site = Site::new(Config::default(), CatchPanics::new(Verbatim::default()));
    site.turn();
    check(&folder, Some(&site.journal()), &[], 0, "turns confirmed");

    let mut site = Site::new(Config::default(), Nondeterministic(0));
    site.turn();
    check(&folder, Some(&site.journal()), &[], 7, "not with one of the built-in applications");
    let mut site = Site::new(Config::default(), Relay::default());
    site.engine.act(Time::ZERO, |_, _| {});
    check(&folder, Some(&site.journal()), &[], 7, "through `act` or `app_mut`");
}
