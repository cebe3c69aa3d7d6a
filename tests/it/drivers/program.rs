//! The program itself: arguments, signals, exit codes and log. It listens on 127.0.0.1, port 0.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use lobbyd::sim::wire::{self, Reader, Received};

use crate::scenario::blocking;

/// A running program on a free port. It is killed at the end of the test, whether the test passes or fails.
struct Program {
    child: Child,
    address: SocketAddr,
    log: Lines<BufReader<ChildStderr>>,
    /// The log lines read so far.
    log_lines: Vec<String>,
}

/// A command without the environment variables that configure the tests.
fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_remove("LOBBYD_SEEDS").env_remove("LOBBYD_BLESS");
    command
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Program {
        let child = command(path).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        Program::of(child.expect("the program was built"))
    }

    /// Wraps a child that was started with its standard error on a pipe.
    fn of(mut child: Child) -> Program {
        let log = BufReader::new(child.stderr.take().expect("the stream is piped")).lines();
        let nowhere = ([0, 0, 0, 0], 0).into();
        let mut program = Program { child, address: nowhere, log, log_lines: Vec::new() };
        let line = program.wait_for("listening on ");
        let (_, address) = line.split_once("listening on ").expect("the line contains the address");
        program.address = address.parse().expect("an address");
        program
    }

    /// Reads the log until a line contains `words`.
    #[track_caller]
    fn wait_for(&mut self, words: &str) -> String {
        for line in self.log.by_ref() {
            let line = line.expect("the log is UTF-8");
            self.log_lines.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
        panic!("the log never contains {words}, but {:?}", self.log_lines);
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill can be started").success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.log_lines.extend(self.log.by_ref().map(|line| line.expect("the log is UTF-8")));
        self.child.wait().expect("the child can be waited for").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_says_goodbye_and_exits_0() {
    let mut program = Program::start(env!("CARGO_BIN_EXE_lobbyd"), &["--listen", "127.0.0.1:0", "--app", "verbatim"]);
    let mut stream = TcpStream::connect(program.address).expect("the server listens");
    stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[])).expect("the server reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    program.signal("-TERM");
    assert_eq!(blocking(&mut stream, &mut reader), Received::Close(1001, "server_shutdown".into()));
    drop(stream);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_and_a_bad_configuration_does_not_start() {
    let mut program = Program::start(env!("CARGO_BIN_EXE_lobbyd"), &["--listen", "127.0.0.1:0"]);
    let mut stream = TcpStream::connect(program.address).expect("the server listens");
    stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[])).expect("the server reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    program.signal("-INT");
    // This client never answers the close frame, so the server waits for it.
    while !matches!(blocking(&mut stream, &mut reader), Received::Close(1001, _)) {}
    program.signal("-INT");
    assert_eq!(program.exit_code(), Some(3), "one connection was cut off");

    let refused = Command::new(env!("CARGO_BIN_EXE_lobbyd"))
        .args(["--max-pending", "many", "--pong-timeout", "1h"])
        .output()
        .expect("the program was built");
    let output = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(2));
    assert!(output.contains("max_pending") && output.contains("pong_timeout = 1h"), "{output}");
}

// ---- authorization ----

const PROGRAM: &str = env!("CARGO_BIN_EXE_lobbyd");

/// A file that exists while the test runs.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, contents: &str) -> File {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::write(&path, contents).expect("the folder can be written");
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Connects with a token. Returns the first message, a `welcome` or a `goodbye`.
fn connect(program: &Program, token: &str) -> (TcpStream, Reader, serde_json::Value) {
    let mut stream = TcpStream::connect(program.address).expect("the server listens");
    let line = format!("Authorization: Bearer {token}");
    stream.write_all(&wire::upgrade_request("/ws/a", &[&line])).expect("the server reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    let Received::Text(first) = blocking(&mut stream, &mut reader) else { panic!("the relay speaks JSON") };
    (stream, reader, serde_json::from_str(&first).expect("JSON"))
}

#[track_caller]
fn check_token(program: &Program, token: &str, user: Option<&str>) {
    let (_, _, first) = connect(program, token);
    match user {
        Some(user) => assert_eq!((&first["type"], &first["user"]), (&"welcome".into(), &user.into()), "{first}"),
        None => assert_eq!((&first["type"], &first["code"]), (&"goodbye".into(), &4001.into()), "{first}"),
    }
}

#[test]
fn the_list_of_tokens_is_read_again_on_sighup() {
    let list = File::new("tokens", "# who\nsecret-1 ann\nsecret-2 bob\n");
    let arguments = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list.path()];
    // Log at the most verbose level.
    let all = ["--log", "trace,tungstenite=trace,tungstenite::protocol=trace"];
    let mut program = Program::start(PROGRAM, &[&arguments[..], &all].concat());
    let (mut stream, mut reader, first) = connect(&program, "secret-1");
    assert_eq!(first["user"], "ann");
    check_token(&program, "secret-2", Some("bob"));
    check_token(&program, "secret-3", None);
    check_token(&program, "ann", None);

    fs::write(list.path(), "secret-2 robert\nsecret-3 cid").expect("the file can be written");
    program.signal("-HUP");
    program.wait_for("2 tokens read");
    check_token(&program, "secret-1", None);
    check_token(&program, "secret-2", Some("robert"));
    check_token(&program, "secret-3", Some("cid"));

    // An invalid list, or a missing one, changes nothing.
    fs::write(list.path(), "secret-4 dan\nsecret-5").expect("the file can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("line 2: a token is followed by its user"));
    check_token(&program, "secret-4", None);
    check_token(&program, "secret-3", Some("cid"));
    fs::remove_file(list.path()).expect("the file exists");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains(list.path()));
    check_token(&program, "secret-3", Some("cid"));

    // Members that are already connected are not affected.
    stream.write_all(&wire::text(r#"{"type":"ping","ref":"said-in-confidence"}"#)).expect("the server reads");
    while !matches!(blocking(&mut stream, &mut reader), Received::Text(text) if text.contains("said-in-confidence")) {}
    drop(stream);
    program.wait_for("user=\"ann\" lobby=a");
    program.signal("-TERM");
    program.signal("-TERM");
    assert!(matches!(program.exit_code(), Some(0 | 3)));
    for line in &program.log_lines {
        assert!(!line.contains("secret-") && !line.contains("said-in-confidence"), "{line}");
    }
    assert!(program.log_lines.iter().any(|line| line.contains("TRACE")), "trace records are logged");
}

/// Runs the program with arguments it must refuse. Returns its error output.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
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
        "token_grace has no effect: only the tokens of auth = tokens expire",
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

/// Opening a FIFO blocks until it has a writer, and would block the whole server.
#[cfg(unix)]
#[test]
fn a_token_list_must_be_a_regular_file_of_bounded_size() {
    let list = File::new("irregular", "secret-1 ann");
    let arguments = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list.path()];
    let mut program = Program::start(PROGRAM, &arguments);
    check_token(&program, "secret-1", Some("ann"));

    let fifo = File::new("fifo", "");
    fs::remove_file(fifo.path()).expect("the file exists");
    assert!(Command::new("mkfifo").arg(fifo.path()).status().expect("mkfifo can be started").success());
    let tokens = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file"];
    assert!(refused(&[&tokens[..], &[fifo.path()]].concat()).contains("it is not a regular file"));
    assert!(refused(&[&tokens[..], &["/dev/zero"]].concat()).contains("it is not a regular file"));
    let folder = env!("CARGO_TARGET_TMPDIR");
    assert!(refused(&[&tokens[..], &[folder]].concat()).contains("it is not a regular file"));
    let operators = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token-file"];
    assert!(refused(&[&operators[..], &[fifo.path()]].concat()).contains("it is not a regular file"));
    let large = File::new("large", &"x".repeat(5000));
    assert!(refused(&[&operators[..], &[large.path()]].concat()).contains("it is larger than 4096 bytes"));
    let replayed = Command::new(PROGRAM).args(["replay", fifo.path()]).output().expect("the program was built");
    assert_eq!(replayed.status.code(), Some(2));

    // The same on SIGHUP: the server continues with the old tokens.
    fs::rename(fifo.path(), list.path()).expect("the folder can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("it is not a regular file"));
    check_token(&program, "secret-1", Some("ann"));
    fs::remove_file(list.path()).expect("the file exists");
    let mut contents = "secret-2 bob\n".to_owned();
    contents.push_str(&"#".repeat(16 << 20));
    fs::write(list.path(), contents).expect("the file can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("it is larger than 16777216 bytes"));
    check_token(&program, "secret-2", None);
    fs::write(list.path(), "\u{feff}secret-3 cid").expect("the file can be written");
    program.signal("-HUP");
    assert!(program.wait_for("the old tokens stay in force").contains("byte order mark"));
}

#[test]
fn rates_and_origins_are_set_by_flags() {
    let origins = ["--allowed-origin", "https://game.example"];
    let rates = ["--attempts-per-minute", "1", "--attempt-burst", "2"];
    let mut program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"][..], &origins[..], &rates[..]].concat());
    let output = ["https://game.example", "https://evil.example", "https://game.example"].map(|origin| {
        let mut stream = TcpStream::connect(program.address).expect("the server listens");
        let line = format!("Origin: {origin}");
        stream.write_all(&wire::upgrade_request("/ws/a?token=ann", &[&line])).expect("the server reads");
        let mut reader = Reader::default();
        [(); 2].map(|()| format!("{:?}", blocking(&mut stream, &mut reader))).concat()
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
    let mut stream = TcpStream::connect(program.address).expect("the server listens");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut reader = Reader::default();
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    let Received::Text(first) = blocking(&mut stream, &mut reader) else { panic!("the relay speaks JSON") };
    first
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

/// If the reader of the log goes away, members must not be affected.
#[test]
fn a_log_that_cannot_be_written_does_not_stop_the_server() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lobbyd"))
        .args(["--listen", "127.0.0.1:0", "--log", "debug"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut log = BufReader::new(child.stderr.take().expect("the stream is piped"));
    let mut line = String::new();
    while !line.contains("listening on ") {
        line.clear();
        assert!(log.read_line(&mut line).expect("the log is UTF-8") > 0, "the address is logged");
    }
    let address: SocketAddr =
        line.split_once("listening on ").expect("the line contains the address").1.trim().parse().expect("an address");
    drop(log);
    for user in ["ann", "bob"] {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.write_all(&wire::upgrade_request(&format!("/ws/a?token={user}"), &[])).expect("the server reads");
        assert!(
            matches!(blocking(&mut stream, &mut Reader::default()), Received::Answer(101, _)),
            "{user} is admitted"
        );
    }
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(kill.expect("kill can be started").success());
    assert_eq!(child.wait().expect("the child can be waited for").code(), Some(0));
}

// ---- a stopped process ----

/// The process is stopped by a debugger, or with its machine, for longer than any timeout. Input that arrived meanwhile is
/// read before any connection is closed.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_was_stopped_closes_no_connection() {
    let timeouts = ["--ping-interval", "1s", "--pong-timeout", "900ms", "--handshake-timeout", "1s"];
    let limits = ["--max-per-lobby", "100", "--events-per-turn", "7", "--accept-per-turn", "7"];
    let program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"], &timeouts[..], &limits].concat());
    let mut members: Vec<_> = (0..40).map(|user| connect(&program, &format!("u{user}"))).collect();
    for (stream, reader, _) in &mut members {
        while !matches!(blocking(stream, reader), Received::Ping(_)) {}
    }
    let mut late_client = TcpStream::connect(program.address).expect("the server listens");
    program.signal("-STOP");
    late_client.write_all(&wire::upgrade_request("/ws/b?token=new", &[])).expect("the kernel has room for it");
    for (stream, ..) in &mut members {
        stream
            .write_all(&wire::frame(wire::Opcode::PONG, true, b"", [1, 2, 3, 4]))
            .expect("the kernel has room for it");
    }
    // A stopped process sends nothing, so this read takes the whole timeout.
    late_client.set_read_timeout(Some(Duration::from_millis(2500))).expect("a socket takes it");
    assert!(late_client.read(&mut [0]).is_err());
    program.signal("-CONT");
    late_client.set_read_timeout(None).expect("a socket takes it");
    assert!(matches!(blocking(&mut late_client, &mut Reader::default()), Received::Answer(101, _)));
    for (stream, reader, _) in &mut members {
        stream.write_all(&wire::text(r#"{"type":"ping","ref":"still here"}"#)).expect("the server reads");
        loop {
            match blocking(stream, reader) {
                Received::Text(text) if text.contains("still here") => break,
                Received::Text(text) => assert!(!text.contains("goodbye"), "{text}"),
                received => assert!(matches!(received, Received::Ping(_)), "{received:?}"),
            }
        }
    }
}

// ---- no descriptor left ----

/// Returns the body of `GET /stats`, on a connection that stays open. A new connection would need a descriptor.
fn stats(operator: &mut BufReader<TcpStream>) -> serde_json::Value {
    operator.get_mut().write_all(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
    let (mut length, mut line) = (0, String::new());
    while line != "\r\n" {
        line.clear();
        operator.read_line(&mut line).expect("the server answers");
        length = line.strip_prefix("Content-Length: ").map_or(length, |n| n.trim().parse().expect("a number"));
    }
    let mut body = vec![0; length];
    operator.read_exact(&mut body).expect("the server answers");
    serde_json::from_slice(&body).expect("JSON")
}

/// Opens a connection that is either upgraded or dropped without an answer.
fn try_connect(program: &Program, user: usize) -> Option<(TcpStream, Reader)> {
    let mut stream = TcpStream::connect(program.address).expect("the backlog has room");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes it");
    // The connection may be dropped already.
    let _ = stream.write_all(&wire::upgrade_request(&format!("/ws/a?token=u{user}"), &[]));
    let (mut reader, mut bytes) = (Reader::default(), [0; 4096]);
    match stream.read(&mut bytes) {
        Ok(n) if n > 0 => reader.push(&bytes[..n]),
        _ => return None,
    }
    assert!(matches!(blocking(&mut stream, &mut reader), Received::Answer(101, _)));
    Some((stream, reader))
}

#[cfg(target_os = "linux")]
#[test]
fn without_descriptors_connections_are_shed_and_members_are_served() {
    let folder = File::new("no-descriptors", "");
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--app", "echo", "--max-per-lobby", "100"];
    let journal = ["--journal", folder.path(), "--journal-max-bytes", "16KiB"];
    let limited = ["-c", "ulimit -n 40 && exec \"$0\" \"$@\"", PROGRAM];
    let mut program = Program::start("sh", &[&limited[..], &arguments, &journal].concat());
    let output = program.wait_for("admin API on http://");
    let (_, admin) = output.split_once("http://").expect("the line contains the address");
    let mut operator = BufReader::new(TcpStream::connect(admin).expect("the server listens"));
    assert_eq!(stats(&mut operator)["counters"]["accepted"], 0);

    let mut members = Vec::new();
    let mut shed = 0;
    for user in 0..100 {
        match try_connect(&program, user) {
            Some(member) => members.push(member),
            None => shed += 1,
        }
    }
    let room = members.len();
    assert!((10..40).contains(&room), "{room} were admitted");
    let output = stats(&mut operator);
    assert_eq!(
        (&output["counters"]["accepted"], &output["counters"]["shed"]),
        (&room.into(), &shed.into()),
        "{output}"
    );

    // Members are served, even when the journal rotates to another file.
    for (stream, reader) in &mut members {
        let text = "x".repeat(2000);
        stream.write_all(&wire::text(&text)).expect("the server reads");
        assert_eq!(blocking(stream, reader), Received::Text(text));
    }

    // As many connections are accepted as have closed, and no more.
    members.drain(..5);
    while stats(&mut operator)["total_connections"] != room - 5 {}
    for user in 100..105 {
        members.push(try_connect(&program, user).expect("there is a descriptor"));
    }
    assert!(try_connect(&program, 105).is_none());
    let output = stats(&mut operator);
    assert_eq!(
        (&output["counters"]["accepted"], &output["counters"]["shed"]),
        (&(room + 5).into(), &(shed + 1).into())
    );

    program.signal("-TERM");
    drop((members, operator));
    assert_eq!(program.exit_code(), Some(0));
    let warned = program.log_lines.iter().filter(|line| line.contains("ulimit -n")).count();
    assert_eq!(warned, 1, "the warning is logged once, with its remedy");
    remove_segments(folder.path());
}

fn remove_segments(path: &str) {
    let _ = fs::remove_file(format!("{path}.lock"));
    for number in 1.. {
        if fs::remove_file(format!("{path}.{number:06}")).is_err() {
            assert!(number > 3, "there were several");
            return;
        }
    }
}

// ---- file size limits ----

/// Sends 100 messages of 2000 bytes to an echo server whose files are limited in size. Returns the number of echoes.
#[cfg(unix)]
fn echoes_with_limited_files(program: &mut Program) -> usize {
    let (mut stream, mut reader) = try_connect(program, 1).expect("there is room");
    let text = "x".repeat(2000);
    for echoed in 0..100 {
        let mut bytes = [0; 4096];
        if stream.write_all(&wire::text(&text)).is_err() {
            return echoed;
        }
        loop {
            match reader.next().expect("the server keeps to the protocol") {
                Some(received) => break assert_eq!(received, Received::Text(text.clone())),
                None => match stream.read(&mut bytes) {
                    Ok(n) if n > 0 => reader.push(&bytes[..n]),
                    _ => return echoed,
                },
            }
        }
    }
    100
}

/// The kernel signals the limit with SIGXFSZ, which by default ends a process. The server treats it as a full disk.
#[cfg(unix)]
#[test]
fn a_file_size_limit_is_treated_as_a_full_disk() {
    let folder = File::new("limited-files", "");
    let limited = ["-c", "ulimit -f 40 && exec \"$0\" \"$@\"", PROGRAM];
    let arguments = ["--listen", "127.0.0.1:0", "--app", "echo", "--bytes-per-second", "unlimited"];
    let journal = ["--journal", folder.path(), "--journal-on-error"];
    for (policy, code) in [("stop", 1), ("continue", 0)] {
        let mut program = Program::start("sh", &[&limited[..], &arguments, &journal, &[policy]].concat());
        let echoed = echoes_with_limited_files(&mut program);
        if policy == "stop" {
            assert!((5..50).contains(&echoed), "{echoed} messages were served");
        } else {
            assert_eq!(echoed, 100, "the server continues without a journal");
            program.signal("-TERM");
        }
        assert_eq!(program.exit_code(), Some(code), "{:?}", program.log_lines);
        let output = program.log_lines.iter().filter(|line| line.contains("the journal cannot be written: ")).count();
        assert_eq!(output, 1, "{:?}", program.log_lines);
    }
    // The records written before the error end with a whole block.
    for number in [1, 2] {
        let journal = format!("{}.{number:06}", folder.path());
        let replayed = Command::new(PROGRAM).args(["replay", &journal]).output().expect("the program was built");
        let output = String::from_utf8_lossy(&replayed.stdout).into_owned();
        assert!(replayed.status.success() && !output.contains("torn"), "{output}");
        fs::remove_file(journal).expect("the file exists");
    }
    let _ = fs::remove_file(format!("{}.lock", folder.path()));
}

/// The log may be a file that has reached its size limit.
#[cfg(unix)]
#[test]
fn a_file_size_limit_of_the_log_does_not_stop_the_server() {
    let log = File::new("limited-log", "");
    let command = format!("ulimit -f 4 && exec \"$0\" \"$@\" 2>'{}'", log.path());
    let arguments = ["-c", &command, PROGRAM, "--listen", "127.0.0.1:0", "--app", "echo", "--log", "debug"];
    let mut child = Command::new("sh").args(arguments).spawn().expect("the shell can be started");
    let address = loop {
        let output = fs::read_to_string(log.path()).expect("the log is UTF-8");
        if let Some((_, rest)) = output.split_once("listening on ")
            && let Some((address, _)) = rest.split_once('\n')
        {
            break address.parse::<SocketAddr>().expect("an address");
        }
        assert!(child.try_wait().expect("the child's state is known").is_none(), "it has ended: {output}");
        std::thread::yield_now();
    };
    for user in 0..50 {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.write_all(&wire::upgrade_request(&format!("/ws/a?token=u{user}"), &[])).expect("the server reads");
        assert!(
            matches!(blocking(&mut stream, &mut Reader::default()), Received::Answer(101, _)),
            "{user} is admitted"
        );
    }
    let length = fs::metadata(log.path()).expect("the file exists").len();
    assert!(length > 0 && length.is_multiple_of(512), "the log has reached its limit: {length}");
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(kill.expect("kill can be started").success());
    assert_eq!(child.wait().expect("the child can be waited for").code(), Some(0));
}
