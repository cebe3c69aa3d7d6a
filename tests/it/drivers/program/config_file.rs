//! The configuration file: precedence, types, and refusals with their lines.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::start::refused;
use super::{PROGRAM, Program, command};
use crate::common::files::{File, Folder};

/// Runs the program with arguments and variables. Returns its exit code, its output and its error output.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output =
        command(PROGRAM).args(arguments).envs(variables.iter().copied()).output().expect("the program was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Returns the values in force, one line for each option, with the origin in a comment.
#[track_caller]
fn effective(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let (code, values, problems) = run(&[&["config", "--effective"], arguments].concat(), variables);
    assert_eq!((code, problems.as_str()), (Some(0), ""), "{values}");
    values
}

#[track_caller]
fn check_value(values: &str, name: &str, expected: &str) {
    let value = values.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    assert_eq!(value, Some(expected), "{name} in\n{values}");
}

/// Checks the problems of a file: `expected` has one line for each, in which `FILE` stands for the name of the file.
#[track_caller]
fn check_refusal(contents: &str, expected: &[&str]) {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let file = File::new(&format!("refused-file-{}", FILES.fetch_add(1, Ordering::Relaxed)), contents);
    let expected: String = expected.iter().map(|line| format!("  {}\n", line.replace("FILE", file.path()))).collect();
    let expected = format!("lobbyd: invalid configuration\n{expected}");
    assert_eq!(refused(&["--config", file.path()]), expected, "{contents}");
    // `check` reports the same.
    assert_eq!(refused(&["check", "--config", file.path()]), expected, "{contents}");
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let file = File::new(
        "precedence",
        "max_connections = 100\nmax_per_lobby = 101\nmax_pending = 102\nlog = \"debug\"\napp = \"verbatim\"\n",
    );
    let variables = [("LOBBYD_MAX_PER_LOBBY", "201"), ("LOBBYD_MAX_PENDING", "202"), ("LOBBYD_APP", "echo")];
    let flags = ["--config", file.path(), "--max-pending", "302"];
    let from_file = |line: u32| format!("{}:{line}", file.path());
    let values = effective(&flags, &variables);
    check_value(&values, "max_connections", &format!("100 # {}", from_file(1)));
    check_value(&values, "max_per_lobby", "201 # LOBBYD_MAX_PER_LOBBY");
    check_value(&values, "max_pending", "302 # --max-pending");
    check_value(&values, "max_closing", "256 # default");
    check_value(&values, "log", &format!("[\"debug\"] # {}", from_file(4)));
    check_value(&values, "app", "\"echo\" # LOBBYD_APP");
    // A flag that repeats the default wins, too.
    let values = effective(&["--config", file.path(), "--max-connections", "500"], &[]);
    check_value(&values, "max_connections", "500 # --max-connections");
    // The variable for the file, and the flag that wins over it.
    let values = effective(&[], &[("LOBBYD_CONFIG", file.path())]);
    check_value(&values, "max_connections", &format!("100 # {}", from_file(1)));
    let (code, _, warnings) = run(&["check"], &[("LOBBYD_CONFIG", file.path())]);
    assert_eq!((code, warnings.as_str()), (Some(0), ""), "the variable is known");
    let other = File::new("precedence-of-files", "max_connections = 7");
    let values = effective(&["--config", other.path()], &[("LOBBYD_CONFIG", file.path())]);
    check_value(&values, "max_connections", &format!("7 # {}:1", other.path()));
    check_value(&values, "max_pending", "256 # default");
}

#[test]
fn a_server_runs_with_its_file() {
    let file =
        File::new("served", "listen = \"127.0.0.1:0\"\nmax_per_lobby = 64\nlog = \"info\"\nseed = 7\napp = \"echo\"");
    let mut program = Program::start(PROGRAM, &["--config", file.path(), "--max-pending", "9"]);
    program.wait_for("max_per_lobby=64");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    let log = program.log_lines.concat();
    assert!(log.contains("app=echo") && log.contains("max_pending=9") && log.contains("seed=7"), "{log}");
    // The file has the same effect on the warnings as flags.
    assert!(!log.contains("WARN"), "{log}");
    let file = File::new("warned", "listen = \"127.0.0.1:0\"\nauth_timeout = \"1s\"\ntoken_grace = \"10s\"");
    let mut program = Program::start(PROGRAM, &["--config", file.path()]);
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    let warnings: Vec<&String> = program.log_lines.iter().filter(|line| line.contains("WARN")).collect();
    assert!(
        warnings.len() == 1
            && warnings[0].ends_with("auth_timeout has no effect: the built-in applications answer at once"),
        "{warnings:?}"
    );
}

#[test]
fn values_have_the_types_of_toml_or_the_texts_of_flags() {
    let file = File::new(
        "types",
        r#"
        max_connections = +16
        max_pending = "33"
        max_closing = 1_000
        max_message_bytes = 65536
        max_outbound_bytes = "1MiB"
        ping_interval = '1m'
        journal_sync = true
        admin = false
        max_per_ip = "unlimited"
        flush = "turn"
        allowed_origin = ["https://a.example", "https://b.example"]
        log = ["info", "lobbyd::net=debug"]
        seed = "18446744073709551615"
        "#,
    );
    let values = effective(&["--config", file.path()], &[]);
    let values: String =
        values.lines().map(|line| line.split_once(" # ").map_or(line, |(value, _)| value).to_owned() + "\n").collect();
    for (name, expected) in [
        ("max_connections", "16"),
        ("max_pending", "33"),
        ("max_closing", "1000"),
        ("max_message_bytes", "\"64KiB\""),
        ("max_outbound_bytes", "\"1MiB\""),
        ("ping_interval", "\"60s\""),
        ("journal_sync", "true"),
        ("admin", "\"off\""),
        ("max_per_ip", "\"unlimited\""),
        ("allowed_origin", "[\"https://a.example\", \"https://b.example\"]"),
        ("log", "[\"info\", \"lobbyd::net=debug\"]"),
        ("seed", "\"18446744073709551615\""),
    ] {
        check_value(&values, name, expected);
    }
    // The text of a flag.
    let file = File::new("texts", "allowed_origin = \"https://a.example, https://b.example\"\njournal_sync = \"on\"");
    let values = effective(&["--config", file.path()], &[]);
    check_value(&values, "journal_sync", &format!("true # {}:2", file.path()));
    assert!(values.contains("allowed_origin = [\"https://a.example\", \"https://b.example\"] # "), "{values}");
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_a_suggestion() {
    check_refusal(
        "# a comment\nmax-connections = 5\nmax_conections = 5\n\nmax_pending = 5\nfoo = \"x\"\nLISTEN = 1\nconfig = \"x\"",
        &[
            "FILE:2: the key max-connections is not known; do you mean max_connections?",
            "FILE:3: the key max_conections is not known; do you mean max_connections?",
            "FILE:6: the key foo is not known",
            "FILE:7: the key LISTEN is not known; do you mean listen?",
            "FILE:8: the key config is not known",
        ],
    );
    check_refusal(
        "[limits]\nmax_connections = 5\n\"a\\u202e\" = 1",
        &["FILE:1: the table limits is not known; options are keys at the top level of the file"],
    );
    check_refusal("\"a\\u202e\" = 1", &["FILE:1: the key a\\u{202e} is not known"]);
}

#[test]
fn wrong_types_and_values_are_refused_all_at_once_with_their_lines() {
    check_refusal(
        r#"max_connections = true
max_pending = "many"
journal_sync = 1
log_format = "xml"
allowed_origin = ["https://a.example", 5]
listen = 9001
max_closing = 1.5
max_headers = 0x10
ping_interval = 20
drain_batch = 0
[admin]
x = 1
"#,
        &[
            "FILE:1: max_connections: must be a string or a whole number in decimal",
            "FILE:3: journal_sync: must be true or false, or a string with on or off",
            "FILE:5: allowed_origin: the elements of the array must be strings",
            "FILE:6: listen: must be a string or an array of strings",
            "FILE:7: max_closing: must be a string or a whole number in decimal",
            "FILE:8: max_headers: must be a string or a whole number in decimal",
            "FILE:11: admin: must be a string or an array of strings",
            "FILE:4: log_format: `xml` is none of text, json",
            "FILE:2: max_pending: `many` is not a whole number",
            "FILE:9: ping_interval: `20` is not a duration such as 500ms, 20s, 5m or 1h",
            "FILE:10: drain_batch = 0: must be from 1 to 1048576; with 0 the server could not work",
            // The default does not fit the value from the file.
            "drain_deadline = 30s: must be longer than 49.9s, the time to close max_connections (500) in batches of \
             drain_batch (0) every drain_batch_interval (100ms)",
        ],
    );
    // Problems of the other sources are found in the same run, and name their source.
    let file = File::new("all-sources", "max_pending = 0\nauth = \"tokens\"");
    let (code, _, problems) =
        run(&["--config", file.path(), "--max-closing", "0"], &[("LOBBYD_DRAIN_BATCH", "0"), ("LOBBYD_SEED", "x")]);
    let rule = "must be from 1 to 1048576; with 0 the server could not work";
    let path = file.path();
    let expected = format!(
        "lobbyd: invalid configuration
  LOBBYD_SEED: seed: `x` is neither a whole number below 2^64 nor `system`
  {path}:1: max_pending = 0: {rule}
  max_closing = 0: {rule}
  LOBBYD_DRAIN_BATCH: drain_batch = 0: {rule}
  drain_deadline = 30s: must be longer than 49.9s, the time to close max_connections (500) in batches of drain_batch (0) every drain_batch_interval (100ms)
  {path}:2: auth = tokens: name the list with --tokens-file
"
    );
    assert_eq!((code, problems.as_str()), (Some(2), expected.as_str()));
}

#[test]
fn syntax_errors_are_refused_with_line_and_column_and_show_no_value() {
    check_refusal(
        "max_pending = 5\nmax_pending = 6\nmax_connections = 1 2",
        &["FILE:2:1: duplicate key", "FILE:3:19: string values must be quoted, expected literal string"],
    );
    // The rules would be applied to the wrong values, but the other sources are read.
    check_refusal("pong_timeout = \"hunter2\nlisten = 5", &["FILE:1:24: invalid basic string, expected `\"`"]);
    let file = File::new("syntax-and-flags", "pong_timeout = hunter2");
    let problems = refused(&["--config", file.path(), "--max-pending", "many", "--pong-timeout", "40s"]);
    assert!(problems.contains("max_pending: `many` is not"), "{problems}");
    assert!(!problems.contains("ping_interval") && !problems.contains("hunter2"), "{problems}");
    // A list of tokens, named by mistake.
    let tokens: String = (0..40).map(|n| format!("hunter2-{n} ann tier=pro\n")).collect();
    let file = File::new("tokens-as-config", &tokens);
    let problems = refused(&["--config", file.path()]);
    assert!(problems.contains(":1:") && problems.contains("more syntax errors"), "{problems}");
    assert!(problems.lines().count() <= 12 && !problems.contains("hunter2"), "{problems}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let folder = Folder::new("no-config");
    let missing = folder.0.join("missing.toml");
    let missing = missing.to_str().expect("UTF-8");
    assert_eq!(
        refused(&["--config", missing]),
        format!("lobbyd: invalid configuration\n  config = {missing}: no such file or directory\n")
    );
    assert!(refused(&["--config", folder.0.to_str().expect("UTF-8")]).contains("it is not a regular file"));
    assert!(refused(&["--config", ""]).contains("config: must not be empty"));
    let file = File::new("not-utf-8", "");
    fs::write(file.path(), b"max_pending = 5\n# \xff").expect("the folder can be written");
    assert!(refused(&["--config", file.path()]).contains(&format!("{}:2: is not UTF-8", file.path())));
    fs::write(file.path(), vec![b'\n'; (1 << 20) + 1]).expect("the folder can be written");
    assert!(refused(&["--config", file.path()]).contains("it is larger than 1048576 bytes"));
    // An empty file, one with a byte order mark, and one with the line ends of Windows are valid.
    for contents in ["", "\u{feff}max_pending = 5", "max_pending = 5\r\n\r\n# x\r\n"] {
        fs::write(file.path(), contents).expect("the folder can be written");
        assert_eq!(run(&["check", "--config", file.path()], &[]).0, Some(0), "{contents:?}");
    }
}

/// So the file means the same in every working directory, and `lobbyd check` checks what the service uses.
#[test]
fn relative_paths_are_relative_to_the_folder_of_the_file() {
    let folder = Folder::new("relative");
    fs::create_dir(folder.0.join("conf")).expect("the folder can be written");
    fs::write(folder.0.join("conf/tokens"), "secret-1 ann").expect("the folder can be written");
    let file = folder.0.join("conf/lobbyd.toml");
    fs::write(
        &file,
        "auth = \"tokens\"\ntokens_file = \"tokens\"\njournal = \"../session\"\nadmin_token_file = \"off\"\n\
         listen = [\"127.0.0.1:0\", \"unix:members.sock\"]\nadmin = \"unix:admin.sock, unix:/run/admin.sock\"",
    )
    .expect("the folder can be written");
    let output = Command::new(PROGRAM)
        .args(["config", "--effective", "--config", "conf/lobbyd.toml"])
        .current_dir(&folder.0)
        .output()
        .expect("the program was built");
    let values = String::from_utf8(output.stdout).expect("UTF-8");
    check_value(&values, "tokens_file", "\"conf/tokens\" # conf/lobbyd.toml:2");
    check_value(&values, "journal", "\"conf/../session\" # conf/lobbyd.toml:3");
    check_value(&values, "admin_token_file", "\"off\" # conf/lobbyd.toml:4");
    check_value(&values, "listen", "[\"127.0.0.1:0\", \"unix:conf/members.sock\"] # conf/lobbyd.toml:5");
    check_value(&values, "admin", "[\"unix:conf/admin.sock\", \"unix:/run/admin.sock\"] # conf/lobbyd.toml:6");
    // From another directory.
    assert_eq!(run(&["check", "--config", file.to_str().expect("UTF-8")], &[]).0, Some(0));
    // A flag is relative to the working directory.
    let output = Command::new(PROGRAM)
        .args(["check", "--config", "conf/lobbyd.toml", "--tokens-file", "tokens"])
        .current_dir(&folder.0)
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tokens_file = tokens: no such file"), "{output:?}");
}

/// A secret that was written instead of the name of its file. Either command names the option and the line.
#[test]
fn problems_of_paths_in_the_file_show_no_value() {
    let secret = "s3cr3t-token-value";
    let folder = Folder::new("secret-as-path");
    let path = folder.0.join("lobbyd.toml");
    let file = path.to_str().expect("UTF-8");
    let listen = "listen = \"127.0.0.1:0\"\n";
    for (option, more, why) in [
        ("admin_token_file", "admin = \"127.0.0.1:0\"", "no such file or directory"),
        ("tokens_file", "auth = \"tokens\"", "no such file or directory"),
        ("tokens_file", "", "is read only with auth = tokens"),
        ("jwt_secret_file", "", "is read only with auth = jwt"),
        #[cfg(feature = "jwt")]
        ("jwt_secret_file", "auth = \"jwt\"", "no such file or directory"),
        #[cfg(feature = "jwt")]
        ("jwt_jwks_file", "auth = \"jwt\"", "no such file or directory"),
        ("journal", "", "no such file or directory"),
        ("journal", "", "must name a file, not a folder"),
    ] {
        let value = match (option, why) {
            (_, "must name a file, not a folder") => format!("{secret}/"),
            ("journal", _) => format!("{secret}/x"),
            _ => secret.to_owned(),
        };
        fs::write(&path, format!("{listen}{option} = \"{value}\"\n{more}")).expect("the folder can be written");
        for arguments in [&["--config", file][..], &["check", "--config", file]] {
            let problems = refused(arguments);
            assert!(problems.contains(&format!("{file}:2: {option}: {why}")), "{problems}");
            assert!(!problems.contains("s3cr3t"), "{problems}");
        }
        // A flag is shown.
        let flag = format!("--{}", option.replace('_', "-"));
        let variable = format!("LOBBYD_{}", option.to_uppercase());
        let (_, _, problems) = run(&["check", "--config", file, &flag, "other/"], &[]);
        assert!(!problems.contains("s3cr3t") && !problems.contains("lobbyd.toml:2"), "{problems}");
        let (_, _, problems) = run(&["check", "--config", file], &[(&variable, "other/")]);
        assert!(problems.contains(&format!("{variable}: {option}")), "{problems}");
    }
    // An option without effect is a warning.
    fs::write(&path, format!("{listen}admin_token_file = \"{secret}\"")).expect("the folder can be written");
    let (code, _, warnings) = run(&["check", "--config", file], &[]);
    assert_eq!((code, &*warnings), (Some(0), "warning: admin_token_file: has no effect while admin is off\n"));
    let mut program = Program::start(PROGRAM, &["--config", file]);
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    assert!(!program.log_lines.concat().contains("s3cr3t"), "{:?}", program.log_lines);
    // The journal of another server.
    let journal = folder.0.join(secret);
    let _other = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--journal", journal.to_str().expect("UTF-8")]);
    fs::write(&path, format!("{listen}journal = \"{secret}\"")).expect("the folder can be written");
    let problems = refused(&["--config", file]);
    assert!(problems.contains(&format!("{file}:2: journal: another server writes it")), "{problems}");
    assert!(!problems.contains("s3cr3t"), "{problems}");
}

#[test]
fn a_printed_file_has_absolute_paths_and_can_be_moved() {
    let folder = Folder::new("printed");
    for name in ["from", "to"] {
        fs::create_dir(folder.0.join(name)).expect("the folder can be written");
    }
    fs::write(folder.0.join("from/tokens"), "secret-1 ann").expect("the folder can be written");
    fs::write(folder.0.join("from/token"), "0123456789abcdef").expect("the folder can be written");
    let printed = Command::new(PROGRAM)
        .args(["config", "--auth", "tokens", "--tokens-file", "tokens", "--journal", "./session"])
        .args(["--listen", "127.0.0.1:0,unix:m.sock", "--admin", "unix:a.sock", "--admin-token-file", "token"])
        .current_dir(folder.0.join("from"))
        .output()
        .expect("the program was built");
    let printed = String::from_utf8(printed.stdout).expect("UTF-8");
    let from = folder.0.join("from");
    let from = from.to_str().expect("UTF-8");
    check_value(&printed, "tokens_file", &format!("\"{from}/tokens\""));
    check_value(&printed, "journal", &format!("\"{from}/session\""));
    check_value(&printed, "admin_token_file", &format!("\"{from}/token\""));
    check_value(&printed, "listen", &format!("[\"127.0.0.1:0\", \"unix:{from}/m.sock\"]"));
    check_value(&printed, "admin", &format!("[\"unix:{from}/a.sock\"]"));
    check_value(&printed, "#jwt_key_file", "\"off\"");
    let moved = folder.0.join("to/lobbyd.toml");
    fs::write(&moved, &printed).expect("the folder can be written");
    let moved = moved.to_str().expect("UTF-8");
    let (code, output, problems) = run(&["check", "--config", moved], &[]);
    assert_eq!((code, &*problems), (Some(0), ""), "{output}");
    // The printed file of a file is the same.
    assert_eq!(run(&["config", "--config", moved], &[]).1, printed);
}

#[test]
fn shortened_keys_get_a_suggestion() {
    check_refusal(
        "admin_token = \"a\"\njwt_secret = \"b\"\ntokens = \"c\"\nmax = 1\nport = 1",
        &[
            "FILE:1: the key admin_token is not known; do you mean admin_token_file?",
            "FILE:2: the key jwt_secret is not known; do you mean jwt_secret_file?",
            "FILE:3: the key tokens is not known; do you mean tokens_file?",
            "FILE:4: the key max is not known",
            "FILE:5: the key port is not known",
        ],
    );
}
