//! `--hook`: its secret is read again on SIGHUP.

use std::fs;

use super::{PROGRAM, Program};
use crate::common::files::Folder;

#[test]
fn the_secret_is_read_again_on_sighup_unless_it_is_bad() {
    let folder = Folder::new("program-hook-secret");
    let path = folder.0.join("secret");
    let write = |secret: &str| fs::write(&path, secret).expect("the folder can be written");
    write("0123456789abcdef\n");
    let shown = path.to_str().expect("UTF-8");
    // Nobody listens there.
    let hook = ["--hook", "http://127.0.0.1:1/", "--hook-timeout", "100ms", "--hook-secret-file", shown];
    let mut program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"][..], &hook].concat());
    write("short");
    program.signal("-HUP");
    program.wait_for("the old files of the hook stay in force: hook_secret_file: must hold at least 16 characters");
    fs::remove_file(&path).expect("the file exists");
    program.signal("-HUP");
    program.wait_for("the old files of the hook stay in force: hook_secret_file: no such file or directory");
    write("fedcba9876543210\n");
    program.signal("-HUP");
    program.wait_for("the files of the hook were read again");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}
