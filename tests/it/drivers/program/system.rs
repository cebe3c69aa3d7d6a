//! The program and its system: signals, descriptors, file sizes, and a log that cannot be written.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use lobbyd::sim::wire::{self, Received};

use super::{PROGRAM, Process, Program, connect, try_connect};
use crate::common::files::File;
use crate::common::sockets::BlockingClient;

#[test]
fn sigterm_says_goodbye_and_exits_0() {
    let mut program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--app", "verbatim"]);
    let mut client = BlockingClient::connect(program.address, "/ws/a?token=ann", &[]);
    program.signal("-TERM");
    assert_eq!(client.next(), Received::Close(1001, "server_shutdown".into()));
    drop(client);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_and_a_bad_configuration_does_not_start() {
    let mut program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--close-timeout", "25s"]);
    let mut client = BlockingClient::connect(program.address, "/ws/a?token=ann", &[]);
    program.signal("-INT");
    // This client never answers the close frame, so the server waits for it.
    while !matches!(client.next(), Received::Close(1001, _)) {}
    program.signal("-INT");
    assert_eq!(program.exit_code(), Some(3), "one connection was cut off");
    let log = program.log_lines.join("\n");
    let words = [
        "stopping: the connections are drained; a second signal cuts them off",
        "draining: connections=1 within 30s",
        "stopping at once, at the second signal",
        "cut off connections=1: the server stops at once",
        "drained in ",
    ];
    let places = words.map(|words| log.find(words).unwrap_or_else(|| panic!("{words}: {log}")));
    assert!(places.is_sorted(), "{log}");

    let refused = Command::new(PROGRAM)
        .args(["--max-pending", "many", "--pong-timeout", "1h"])
        .output()
        .expect("the program was built");
    let output = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(2));
    assert!(output.contains("max_pending") && output.contains("pong_timeout = 1h"), "{output}");
}

/// If the reader of the log goes away, members must not be affected.
#[test]
fn a_log_that_cannot_be_written_does_not_stop_the_server() {
    let program = Program::start(PROGRAM, &["--listen", "127.0.0.1:0", "--log", "debug"]);
    let Program { mut process, address, log, .. } = program;
    drop(log);
    for user in ["ann", "bob"] {
        BlockingClient::connect(address, &format!("/ws/a?token={user}"), &[]);
    }
    process.signal("-TERM");
    assert_eq!(process.exit_code(), Some(0));
}

/// The process is stopped by a debugger, or with its machine, for longer than any timeout. Input that arrived meanwhile is
/// read before any connection is closed.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_was_stopped_closes_no_connection() {
    let timeouts = ["--ping-interval", "4s", "--pong-timeout", "3900ms", "--handshake-timeout", "4s"];
    let limits = ["--max-per-lobby", "100", "--events-per-turn", "7", "--accept-per-turn", "7"];
    let program = Program::start(PROGRAM, &[&["--listen", "127.0.0.1:0"], &timeouts[..], &limits].concat());
    let mut members: Vec<_> = (0..40).map(|user| connect(&program, &format!("u{user}"))).collect();
    for (member, _) in &mut members {
        while !matches!(member.next(), Received::Ping(_)) {}
    }
    let mut late_client = BlockingClient::open(program.address);
    program.signal("-STOP");
    // The kernel has room for this input.
    late_client.send(&wire::upgrade_request("/ws/b?token=new", &[]));
    for (member, _) in &mut members {
        member.send(&wire::frame(wire::Opcode::PONG, true, b"", [1, 2, 3, 4]));
    }
    // A stopped process sends nothing, so this read takes the whole timeout.
    late_client.stream.set_read_timeout(Some(Duration::from_millis(4500))).expect("a socket takes it");
    let silence = loop {
        match late_client.stream.read(&mut [0]).map_err(|error| error.kind()) {
            // By a signal that another test sends to this process: a read with a timeout is not restarted.
            Err(ErrorKind::Interrupted) => {}
            result => break result,
        }
    };
    assert_eq!(silence, Err(ErrorKind::WouldBlock));
    program.signal("-CONT");
    late_client.stream.set_read_timeout(None).expect("a socket takes it");
    late_client.expect_upgrade();
    for (member, _) in &mut members {
        member.send(&wire::text(r#"{"type":"ping","ref":"still here"}"#));
        loop {
            match member.next() {
                Received::Text(text) if text.contains("still here") => break,
                Received::Text(text) => assert!(!text.contains("goodbye"), "{text}"),
                received => assert!(matches!(received, Received::Ping(_)), "{received:?}"),
            }
        }
    }
}

/// The limit of open files of a process: the soft and the hard one.
#[cfg(target_os = "linux")]
fn open_files(program: &Program) -> [String; 2] {
    let limits = fs::read_to_string(format!("/proc/{}/limits", program.process.0.id())).expect("the process runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("each process has this limit");
    let mut words = line.split_whitespace().skip(3).map(String::from);
    [(); 2].map(|()| words.next().expect("a limit"))
}

#[cfg(target_os = "linux")]
#[test]
fn the_limit_of_open_files_is_raised_and_a_low_one_is_warned_about() {
    let start = |limits: &str, arguments: &[&str]| {
        let limited = format!("ulimit {limits} && exec \"$0\" \"$@\"");
        Program::start("sh", &[&["-c", &limited, PROGRAM, "--listen", "127.0.0.1:0"], arguments].concat())
    };
    let warned = |program: &Program| -> Vec<String> {
        program.log_lines.iter().filter(|line| line.contains("limit of open files")).cloned().collect()
    };
    let sockets =
        ["--max-connections=50", "--max-pending=10", "--max-overflow=0", "--max-closing=10", "--accept-per-turn=1"];
    let program = start("-S -n 64", &sockets);
    let [soft, hard] = open_files(&program);
    assert!(soft == hard && soft != "64", "{soft} {hard}");
    assert_eq!(warned(&program), <[String; 0]>::default());

    // 71 sockets, 35 descriptors of the process.
    let program = start("-n 104", &sockets);
    assert_eq!(open_files(&program), ["104", "104"]);
    let [line] = &warned(&program)[..] else { panic!("one warning: {:?}", program.log_lines) };
    assert!(line.contains(" WARN ") && line.contains("is 104, but the configuration needs 106"), "{line}");
    assert_eq!(warned(&start("-n 106", &sockets)), <[String; 0]>::default());

    let program = start("-n 104", &["--max-connections", "unlimited"]);
    let [line] = &warned(&program)[..] else { panic!("one line: {:?}", program.log_lines) };
    assert!(line.contains(" INFO ") && line.contains("max_connections is unlimited"), "{line}");
    assert!(line.contains("open files, 104,") && line.ends_with(" 69 connections"), "{line}");
}

#[cfg(target_os = "linux")]
fn stats(operator: &mut BufReader<TcpStream>) -> serde_json::Value {
    get(operator, "/stats")
}

/// Returns the body of the answer, on a connection that stays open. A new connection would need a descriptor.
#[cfg(target_os = "linux")]
fn get(operator: &mut BufReader<TcpStream>, path: &str) -> serde_json::Value {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    operator.get_mut().write_all(request.as_bytes()).expect("the server reads");
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

    assert_eq!(
        (&output["status"], &get(&mut operator, "/health/ready")["status"]),
        (&"shedding".into(), &"shedding".into())
    );

    // Members are served, even when the journal rotates to another file.
    for member in &mut members {
        let text = "x".repeat(2000);
        member.send(&wire::text(&text));
        assert_eq!(member.next(), Received::Text(text));
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
    let warned: Vec<_> = program.log_lines.iter().filter(|line| line.contains("ulimit -n")).collect();
    assert_eq!(warned.len(), 2, "once at the start and once when it happens, with the remedy: {warned:?}");
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

/// Sends 100 messages of 2000 bytes to an echo server whose files are limited in size. Returns the number of echoes.
#[cfg(unix)]
fn echoes_with_limited_files(program: &mut Program) -> usize {
    let mut client = try_connect(program, 1).expect("there is room");
    let text = "x".repeat(2000);
    for echoed in 0..100 {
        if client.stream.write_all(&wire::text(&text)).is_err() {
            return echoed;
        }
        match client.poll() {
            Some(received) => assert_eq!(received, Received::Text(text.clone())),
            None => return echoed,
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
    let mut process = Process(Command::new("sh").args(arguments).spawn().expect("the shell can be started"));
    let address = loop {
        let output = fs::read_to_string(log.path()).expect("the log is UTF-8");
        if let Some((_, rest)) = output.split_once("listening on ")
            && let Some((address, _)) = rest.split_once('\n')
        {
            break address.parse::<SocketAddr>().expect("an address");
        }
        assert!(process.0.try_wait().expect("the child's state is known").is_none(), "it has ended: {output}");
        std::thread::yield_now();
    };
    for user in 0..50 {
        BlockingClient::connect(address, &format!("/ws/a?token=u{user}"), &[]);
    }
    let length = fs::metadata(log.path()).expect("the file exists").len();
    assert!(length > 0 && length.is_multiple_of(512), "the log has reached its limit: {length}");
    process.signal("-TERM");
    assert_eq!(process.exit_code(), Some(0));
}

/// Reads the answer to a health check from a socket file.
#[cfg(unix)]
fn live(path: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("the server listens");
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server ends the connection");
    answer
}

/// Every address is logged. A killed server leaves its socket file, and the next one replaces it.
#[cfg(unix)]
#[test]
fn several_addresses_are_logged_and_a_socket_file_outlasts_no_server() {
    let folder = crate::common::files::Folder::new("program-socket");
    let path = folder.0.join("lobbyd.sock").to_str().expect("UTF-8").to_owned();
    let admin = format!("127.0.0.1:0,unix:{path}.admin");
    let listen = format!("127.0.0.1:0,unix:{path}");
    let arguments = ["--listen", &listen, "--admin", &admin, "--log", "debug"];
    let mut killed = Program::start(PROGRAM, &arguments);
    killed.wait_for(&format!("admin API on unix:{path}.admin"));
    let log = killed.log_lines.join("\n");
    let start = format!("allowed_origin=own listen={},unix:{path} admin=127.0.0.1:", killed.address);
    for words in [&start, &format!("listening on unix:{path}"), "admin API on http://127.0.0.1:"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(live(&path).starts_with("HTTP/1.1 200 "));
    killed.wait_for("peer=unix accepted");
    assert!(super::start::refused(&arguments).contains("another server listens on it and has locked"));
    killed.signal("-KILL");
    assert_eq!(killed.exit_code(), None);
    assert!(fs::exists(&path).expect("the folder can be read"));

    let mut program = Program::start(PROGRAM, &arguments);
    assert!(live(&path).starts_with("HTTP/1.1 200 "));
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    for path in [&path, &format!("{path}.admin")] {
        assert!(!fs::exists(path).expect("the folder can be read"), "{path}");
    }
}
