//! The configuration in `examples/deploy` is that of the guide, and a server starts with it.

use std::fs;
use std::path::Path;

use super::{PROGRAM, command};
use crate::common::files::Folder;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_guide_shows_the_configuration_of_the_example() {
    let file = read("examples/deploy/lobbyd.toml");
    let (_, shown) = file.split_once("\n\n").expect("a comment, and the options");
    assert!(read("src/guide/deploying.md").contains(&format!("```toml\n{shown}```\n")), "it has to show\n{shown}");
}

#[test]
fn a_server_accepts_the_configuration_of_the_example() {
    let folder = Folder::new("deployed");
    let name = folder.0.to_str().expect("UTF-8");
    let config = folder.0.join("lobbyd.toml");
    fs::write(&config, read("examples/deploy/lobbyd.toml").replace("/etc/lobbyd", name)).expect("the folder is ours");
    fs::write(folder.0.join("jwt.pem"), read("tests/keys/ec.pub.pem")).expect("the folder is ours");
    fs::write(folder.0.join("admin-token"), "0123456789abcdef0123456789abcdef\n").expect("the folder is ours");
    let output = command(PROGRAM).args(["check", "--config"]).arg(&config).output().expect("the program was built");
    let (printed, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if cfg!(feature = "jwt") {
        assert!(printed.starts_with("ok\n") && problems.is_empty(), "{printed}{problems}");
    } else {
        assert!(
            problems.lines().count() == 2 && problems.contains("auth = jwt: this program was built without"),
            "{problems}"
        );
    }
}
