//! `lobbyd cluster`. Its tests need a `redis-server`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use lobbyd::sim::wire;

use super::{PROGRAM, Program, command};
use crate::cluster::redis::has_redis;
use crate::common::sockets::BlockingClient;

/// Starts a cluster. Returns it with the words of each line of its table, without the first line.
fn start(arguments: &[&str]) -> (Program, Vec<Vec<String>>) {
    let child = command(PROGRAM).arg("cluster").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program was built");
    let table = BufReader::new(child.stdout.take().expect("the stream is piped")).lines().skip(1);
    let mut cluster = Program::unread(child);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for line in table {
        rows.push(line.expect("the table is UTF-8").split_whitespace().map(str::to_owned).collect());
        // The line about Redis is the last one.
        if rows.last().is_some_and(|row| row[1] == "listens") {
            return (cluster, rows);
        }
    }
    cluster.exit_code();
    panic!("there is no table, but {:#?}", cluster.log_lines);
}

fn join(members: &str, user: &str) -> BlockingClient {
    let address = members.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("an address");
    let address: SocketAddr = address.parse().expect("an address");
    let mut client = BlockingClient::connect(address, &format!("/ws/a?token={user}"), &[]);
    let welcome = client.next_text();
    assert!(welcome.starts_with(r#"{"type":"welcome""#), "{welcome}");
    client
}

#[track_caller]
fn next(client: &mut BlockingClient, kind: &str) -> serde_json::Value {
    loop {
        let message: serde_json::Value = serde_json::from_str(&client.next_text()).expect("the relay speaks JSON");
        if message["type"] == kind {
            return message;
        }
    }
}

#[test]
fn a_cluster_has_one_lobby_on_all_nodes_and_leaves_nothing_behind() {
    if !has_redis() {
        return;
    }
    let (mut cluster, rows) = start(&["--nodes", "2", "--listen", "127.0.0.1:0", "--history-frames", "17"]);
    assert_eq!((rows.len(), rows[0][0].as_str(), rows[1][0].as_str()), (3, "node-1", "node-2"), "{rows:?}");
    for row in &rows[..2] {
        assert!(row[2].starts_with("http://127.0.0.1:"), "{row:?}");
        assert_eq!(row[3], row[1].replace("ws:", "http:").replace("/ws/{lobby}", "/#lobby=try"));
    }
    assert_eq!(rows[2][..2], ["redis-server", "listens"]);
    let socket = rows[2][3].trim_end_matches(',').strip_prefix("unix:").expect("a socket file");
    assert!(Path::new(socket).exists());
    let (mut ann, mut bob) = (join(&rows[0][1], "ann"), join(&rows[1][1], "bob"));
    next(&mut ann, "presence_diff");
    bob.send(&wire::text(r#"{"type":"broadcast","data":7}"#));
    assert_eq!(next(&mut ann, "message")["data"], 7);
    cluster.signal("-TERM");
    assert_eq!(next(&mut ann, "goodbye")["code"], 1001);
    assert_eq!(next(&mut bob, "goodbye")["code"], 1001);
    drop((ann, bob));
    assert_eq!(cluster.exit_code(), Some(0), "{:#?}", cluster.log_lines);
    let log = &cluster.log_lines;
    let at =
        |words: &str| log.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {log:#?}"));
    assert!(at("node-1 drains") < at("node-1 has ended: exit status: 0"), "{log:#?}");
    assert!(at("node-1 has ended") < at("node-2 drains"), "{log:#?}");
    assert!(
        log.iter().any(|line| line.starts_with("node-2 | ") && line.contains("listening on 127.0.0.1:")),
        "{log:#?}"
    );
    assert!(log.iter().all(|line| !line.contains(" WARN ")), "{log:#?}");
    assert!(!Path::new(socket).parent().expect("its folder").exists());
    for row in &rows {
        let id = row.iter().find_map(|word| word.trim_end_matches('.').parse::<u32>().ok()).expect("an id");
        assert!(
            !Command::new("kill").args(["-0", &id.to_string()]).stderr(Stdio::null()).status().expect("kill").success()
        );
    }
}

#[test]
fn a_node_that_ends_is_reported_and_the_others_go_on() {
    if !has_redis() {
        return;
    }
    let (mut cluster, rows) = start(&["--nodes", "2", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    let kill =
        |row: &[String]| assert!(Command::new("kill").args(["-KILL", &row[4]]).status().expect("kill").success());
    kill(&rows[0]);
    let line = cluster.wait_for("node-1 has ended: signal: 9");
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok_and(|line| line["level"] == "error"), "{line}");
    join(&rows[1][1], "ann");
    kill(&rows[1]);
    assert_eq!(cluster.exit_code(), Some(1), "{:#?}", cluster.log_lines);
    let named = cluster.log_lines.iter().filter(|line| line.starts_with(r#"{"node":"node-2","#));
    assert!(named.count() > 3, "{:#?}", cluster.log_lines);
}

/// The kernel ends the other processes.
#[cfg(target_os = "linux")]
#[test]
fn a_cluster_that_is_killed_leaves_no_processes() {
    if !has_redis() {
        return;
    }
    let (mut cluster, rows) = start(&["--nodes", "2", "--listen", "127.0.0.1:0"]);
    let ids: Vec<String> =
        [&rows[0][4], &rows[1][4], &rows[2][5]].iter().map(|id| id.trim_matches(['.', ',']).to_owned()).collect();
    cluster.signal("-KILL");
    // Its log ends when the last process that writes to it has ended.
    assert_eq!(cluster.exit_code(), None);
    let is_gone = |id: &String| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    };
    while !ids.iter().all(is_gone) {
        std::thread::yield_now();
    }
    let folder = rows[2][3].trim_end_matches("/redis.sock,").trim_start_matches("unix:");
    std::fs::remove_dir_all(folder).expect("its folder is left");
}

/// Runs `lobbyd cluster` with arguments it must refuse.
#[track_caller]
fn check_refused(arguments: &[&str], path: Option<&str>, expected: &str) {
    let mut program = command(PROGRAM);
    path.iter().for_each(|path| {
        program.env("PATH", path);
    });
    let output = program.arg("cluster").args(arguments).output().expect("the program was built");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(expected), "{error}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{error}");
}

#[test]
fn what_cannot_be_a_cluster_is_refused_before_anything_starts() {
    let free = ["--listen", "127.0.0.1:0"];
    check_refused(&free, Some("/nonexistent"), "lobbyd: redis-server: it is not in PATH, nor is valkey-server");
    check_refused(
        &["--cluster", "redis://localhost"],
        None,
        "cluster: lobbyd cluster sets it for each node; leave it out",
    );
    check_refused(
        &["--listen", "unix:/run/lobbyd.sock"],
        None,
        "listen: `unix:/run/lobbyd.sock` is not one host and port",
    );
    check_refused(&["--listen", "127.0.0.1:65534"], None, "the nodes' ports count up beyond 65535");
    check_refused(&["--tick-hz", "20"], None, "tick_hz = 20: must be off with cluster");
    check_refused(&["--nodes", "0"], None, "--nodes: 0 is not in 1..=16");
}
