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

/// The container itself is not built by any test.
#[test]
fn a_server_starts_with_the_variables_of_the_container() {
    let file = read("examples/deploy/Dockerfile");
    let lines = |word: &str| file.lines().filter_map(move |line| line.strip_prefix(word)).collect::<Vec<_>>();
    for copied in lines("COPY ").into_iter().filter(|line| !line.starts_with("--from")) {
        let (sources, _) = copied.rsplit_once(' ').expect("sources and a target");
        for source in sources.split(' ') {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{source}");
        }
    }
    let folder = Folder::new("container");
    let path = |name: &str| folder.0.join(name).to_str().expect("UTF-8").to_owned();
    fs::write(path("admin-token"), "0123456789abcdef0123456789abcdef\n").expect("the folder is ours");
    fs::write(path("tokens"), "4f1c9a0b7d2e ann\n").expect("the folder is ours");
    let text = format!(
        "auth = \"tokens\"\ntokens_file = {:?}\nadmin_token_file = {:?}\nlisten = \"127.0.0.1:1\"\n",
        path("tokens"),
        path("admin-token")
    );
    fs::write(path("lobbyd.toml"), text).expect("the folder is ours");
    let variables: Vec<_> = lines("ENV ").into_iter().flat_map(|line| line.split(' ')).collect();
    assert_eq!(variables, ["LOBBYD_LISTEN=0.0.0.0:9001", "LOBBYD_ADMIN=0.0.0.0:9002"]);
    assert_eq!(lines("EXPOSE "), ["9001 9002"]);
    let variables = variables.into_iter().filter_map(|pair| pair.split_once('='));
    let arguments: Vec<String> = serde_json::from_str(lines("CMD ")[0]).expect("a list");
    assert_eq!(arguments, ["--config", "/etc/lobbyd/lobbyd.toml"]);
    let mut check = command(PROGRAM);
    check.arg("check").arg(&arguments[0]).arg(path("lobbyd.toml")).envs(variables);
    let output = check.output().expect("the program was built");
    let (printed, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(printed.starts_with("ok\n") && problems.is_empty(), "{printed}{problems}");
}
