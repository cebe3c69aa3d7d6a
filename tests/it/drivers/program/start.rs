//! The start of the program: options, refused configurations and log lines.

use std::fs;

use std::process::{Command, Stdio};

use lobbyd::sim::wire;

use super::{PROGRAM, Program, command};
use crate::common::files::File;
use crate::common::sockets::BlockingClient;

/// Runs the program with arguments it must refuse. Returns its error output.
#[track_caller]
pub fn refused(arguments: &[&str]) -> String {
    let refused = Command::new(PROGRAM).args(arguments).output().expect("the program was built");
    let output = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(2), "{output}");
    output
}

/// Every run also sets `max_pending` to 0, which is always refused: the program never listens, even if the check under test
/// fails.
#[test]
fn open_authorization_is_accepted_on_loopback_only() {
    let never = ["--max-pending", "0", "--listen"];
    let open = "every client could log in as any user on";
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9001", "[::ffff:192.0.2.1]:9001"] {
        let output = refused(&[&never[..], &[address]].concat());
        assert!(output.contains(open) && output.contains("--auth open-to-anybody"), "{address}: {output}");
        assert!(refused(&[&never[..], &[address, "--auth", "open"]].concat()).contains(open));
        assert!(refused(&[&never[..], &[address, "--auth", "open", "--app", "echo"]].concat()).contains(open));
        assert!(!refused(&[&never[..], &[address, "--auth", "open-to-anybody"]].concat()).contains(open));
    }
    for address in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
        assert!(!refused(&[&never[..], &[address]].concat()).contains(open), "{address}");
    }
    // With tokens, any address is accepted.
    let list = File::new("outside", "secret-1 ann");
    let output = refused(&[&never[..], &["0.0.0.0:0", "--auth", "tokens", "--tokens-file", list.path()]].concat());
    assert!(output.contains("max_pending = 0") && !output.contains("auth"), "{output}");
}

#[test]
fn an_unusable_token_list_prevents_the_start() {
    let tokens = ["--listen", "127.0.0.1:0", "--auth", "tokens"];
    assert!(refused(&tokens).contains("auth = tokens: name the list with --tokens-file"));
    let missing = File::new("missing", "");
    fs::remove_file(missing.path()).expect("the file exists");
    assert!(refused(&[&tokens[..], &["--tokens-file", missing.path()]].concat()).contains(missing.path()));
    let list = File::new("wrong", "secret-1\nann secret-2 secret-3\nsecret-4 bob expires=soon");
    let output = refused(&[&tokens[..], &["--tokens-file", list.path(), "--max-pending", "0"]].concat());
    for problem in ["line 1: ", "line 2: ", "line 3: ", "max_pending = 0"] {
        assert!(output.contains(problem), "all problems at once: {output}");
    }
    assert!(!output.contains("secret-"), "{output}");
}

/// An option without effect is refused if it concerns authorization.
#[test]
fn an_unused_token_list_prevents_the_start() {
    let list = File::new("unread", "secret-1 ann");
    let given = ["--listen", "127.0.0.1:0", "--tokens-file", list.path()];
    for auth in [&[][..], &["--auth", "open"], &["--auth", "open-to-anybody"], &["--auth", "open", "--app", "echo"]] {
        let output = refused(&[&given[..], auth].concat());
        let rule = format!("tokens_file = {}: is read only with auth = tokens, and auth is open", list.path());
        assert!(output.contains(&rule) && output.contains("set --auth tokens, or leave --tokens-file out"), "{output}");
    }
    // The same with an environment variable.
    let refused_by_variable = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0"])
        .env("LOBBYD_TOKENS_FILE", list.path())
        .output()
        .expect("the program was built");
    assert_eq!(refused_by_variable.status.code(), Some(2));
    // The echo application has no authorization.
    let output = refused(&[&given[..], &["--auth", "tokens", "--app", "echo"]].concat());
    assert!(output.contains("auth = tokens: app = echo admits every client"), "{output}");
}

#[test]
fn the_start_is_logged_with_the_authorization_settings() {
    let list = File::new("counted", "secret-1 ann\nsecret-2 bob");
    let given = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list.path(), "--app", "verbatim"];
    let program = Program::start(PROGRAM, &given);
    let words =
        format!("lobbyd {} app=verbatim auth=tokens tokens=2 allowed_origin=own listen=", env!("CARGO_PKG_VERSION"));
    let line =
        program.log_lines.iter().find(|line| line.contains(&words)).expect("it is logged before the server listens");
    assert!(line.ends_with(&format!("listen={} admin=off", program.address)), "{line}");
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let line = program
        .log_lines
        .iter()
        .find(|line| line.contains("app=relay auth=open allowed_origin=loopback listen=127.0.0.1:"));
    assert!(
        line.expect("it is logged before the server listens").contains(" admin=127.0.0.1:"),
        "{:?}",
        program.log_lines
    );
    // Behind a proxy, a page of a loopback origin is a page of the visitor's machine.
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--trusted-proxies", "1"]);
    let log = program.log_lines.concat();
    assert!(log.contains("app=relay auth=open allowed_origin=own "), "{log}");
}

/// A proxy is declared for clients of other machines, although the address is a loopback address.
#[test]
fn open_authorization_behind_a_proxy_is_warned_about() {
    let proxy = ["--listen", "127.0.0.1:0", "--trusted-proxies", "1"];
    let warnings = |more: &[&str]| {
        let mut program = Program::start(PROGRAM, &[&proxy[..], more].concat());
        program.signal("-TERM");
        assert_eq!(program.exit_code(), Some(0));
        program.log_lines.iter().filter(|line| line.contains(" WARN ")).cloned().collect::<Vec<_>>()
    };
    let open = warnings(&[]);
    assert!(open.len() == 1 && open[0].contains("auth = open with trusted_proxies = 1: "), "{open:?}");
    assert!(open[0].contains("--auth tokens or --auth jwt, or --auth open-to-anybody"), "{open:?}");
    assert!(warnings(&["--auth", "open-to-anybody"]).is_empty());
    let list = File::new("behind-a-proxy", "secret-1 ann");
    assert!(warnings(&["--auth", "tokens", "--tokens-file", list.path()]).is_empty());
}

#[test]
fn options_and_variables_without_effect_are_warned_about() {
    let given = ["--listen", "127.0.0.1:0", "--app", "verbatim", "--journal-sync", "on", "--presence-max", "3"];
    let more =
        ["--attempt-burst", "7", "--max-catch-up-ticks", "1", "--token-grace", "1s", "--admin-host", "a.example"];
    let child = command(PROGRAM)
        .args(given)
        .args(more)
        // An option set to its default gives no warning: a file of options may be shared by several servers.
        .args(["--max-inbox-bytes", "64KiB"])
        .env("LOBBYD_MAX_CONECTIONS", "said-in-confidence")
        .env("LOBBYD_SERVICE_HOST", "10.0.0.1")
        .env("LOBBYD_AUTH_TIMEOUT", "1s")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let mut program = Program::of(child.expect("the program was built"));
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    let warnings: Vec<&str> =
        program.log_lines.iter().filter_map(|line| line.split_once(" WARN ")).map(|(_, rest)| rest).collect();
    let expected = [
        "auth_timeout has no effect: the built-in applications answer at once",
        "token_grace has no effect: only the tokens of auth = tokens, jwt and hook expire",
        "presence_max has no effect: app = verbatim sends no presence",
        "the variable LOBBYD_MAX_CONECTIONS is not known; do you mean LOBBYD_MAX_CONNECTIONS?",
        "the variable LOBBYD_SERVICE_HOST is not known",
        "admin_host = a.example: has no effect while admin is off",
        "journal_sync = on: has no effect while journal is off",
        "max_catch_up_ticks = 1: has no effect while tick_hz is off",
        "attempt_burst = 7: has no effect while attempts_per_minute is unlimited",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for (warning, words) in warnings.iter().zip(expected) {
        assert!(warning.ends_with(words), "{warning}: {words}");
    }
    assert!(!program.log_lines.concat().contains("said-in-confidence"));
    // The defaults give no warnings.
    let mut program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    assert!(!program.log_lines.iter().any(|line| line.contains(" WARN ")), "{:?}", program.log_lines);
}

#[test]
fn rates_and_origins_are_set_by_flags() {
    let origins = ["--allowed-origin", "https://game.example"];
    let rates = ["--attempts-per-minute", "1", "--attempt-burst", "2"];
    let mut program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"][..], &origins[..], &rates[..]].concat());
    let output = ["https://game.example", "https://evil.example", "https://game.example"].map(|origin| {
        let mut client = BlockingClient::open(program.address);
        client.send(&wire::upgrade_request("/ws/a?token=ann", &[&format!("Origin: {origin}")]));
        [(); 2].map(|()| format!("{:?}", client.next())).concat()
    });
    for (output, words) in output.iter().zip(["welcome", "forbidden_origin", "HTTP/1.1 429 Too Many Requests"]) {
        assert!(output.contains(words), "{output}");
    }
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// The second answer, after the upgrade, to a page of `origin` that calls the server `host`.
fn page(program: &Program, origin: &str, host: &str) -> String {
    let request = wire::upgrade_request("/ws/a?token=ann", &[&format!("Origin: {origin}")]);
    let request =
        String::from_utf8(request).expect("ASCII").replace("Host: localhost\r\n", &format!("Host: {host}\r\n"));
    let mut client = BlockingClient::open(program.address);
    client.send(request.as_bytes());
    client.expect_upgrade();
    client.next_text()
}

#[test]
fn a_page_of_this_machine_may_connect_by_default() {
    let mut program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let host = program.address.to_string();
    for origin in ["http://localhost:5173", "http://127.0.0.1:8000", "https://[::1]:8443", "http://localhost"] {
        assert!(page(&program, origin, &host).contains("welcome"), "{origin}");
    }
    for (origin, host) in [
        ("null", &*host),
        ("https://game.example", &host),
        // As after DNS rebinding.
        ("http://localhost:5173", "evil.example"),
        ("https://game.example", &host),
    ] {
        assert!(page(&program, origin, host).contains("forbidden_origin"), "{origin}");
    }
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    let warnings: Vec<&String> = program.log_lines.iter().filter(|line| line.contains("--allowed-origin")).collect();
    let expected =
        ["the origin null", "the origin https://game.example is refused at 127.0.0.1:", "refused at evil.example"];
    assert_eq!(warnings.len(), expected.len(), "once for each origin: {warnings:?}");
    for (line, words) in warnings.iter().zip(expected) {
        assert!(line.contains(" WARN ") && line.contains(words), "{line}: {words}");
    }

    // With other authorization or configured origins, a page of this machine is refused.
    let list = File::new("pages", "ann ann");
    let tokens = ["--auth", "tokens", "--tokens-file", list.path()];
    let outside = ["--auth", "open-to-anybody"];
    for given in [&["--allowed-origin", "own"][..], &["--allowed-origin", "https://game.example"], &tokens, &outside] {
        let program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"], given].concat());
        let output = page(&program, "http://localhost:5173", &program.address.to_string());
        assert!(output.contains("forbidden_origin"), "{given:?}: {output}");
    }
}
