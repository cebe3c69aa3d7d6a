//! The log as JSON: one object per line, whatever happens.

use lobbyd::sim::wire;
use serde_json::{Map, Value};

use super::{PROGRAM, Program, command, connect};
use crate::common::files::File;
use crate::common::sockets::BlockingClient;

/// Reads a log line. Checks the fields that every line has.
#[track_caller]
fn read(line: &str) -> Map<String, Value> {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else { panic!("not a JSON object: {line}") };
    let text = |name: &str| object[name].as_str().unwrap_or_else(|| panic!("{name} is not a string: {line}"));
    let ts = text("ts");
    let shape: String = ts.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{line}");
    assert!(["error", "warn", "info", "debug", "trace"].contains(&text("level")), "{line}");
    assert!(!text("target").is_empty() && object.contains_key("message"), "{line}");
    object
}

#[test]
fn every_line_of_the_log_is_an_object() {
    let list = File::new("json-tokens", "secret-1 ann\nsecret-2 b\u{202e}\"o\\b\n");
    let arguments = ["--listen", "127.0.0.1:0", "--auth", "tokens", "--tokens-file", list.path(), "--log", "trace"];
    let child = command(PROGRAM)
        .args(arguments)
        .args(["--log-format", "json", "--journal-sync", "on"])
        .env("LOBBYD_\u{1}\"", "said-in-confidence")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut program = Program::of(child.expect("the program was built"));
    let (mut ann, _) = connect(&program, "secret-1");
    let (bob, welcome) = connect(&program, "secret-2");
    let bobs_name = welcome["user"].clone();
    connect(&program, "secret-3");
    ann.send(&wire::text("said-in-confidence"));
    ann.next_text();
    let mut page = BlockingClient::open(program.address);
    page.send(&wire::upgrade_request("/ws/a?token=secret-1", &["Origin: http://\"user=\"eve\" lobby=evil"]));
    page.expect_upgrade();
    program.signal("-HUP");
    program.wait_for("tokens read");
    program.signal("-TERM");
    drop((ann, bob, page));
    assert_eq!(program.exit_code(), Some(0));
    let lines: Vec<Map<String, Value>> = program.log_lines.iter().map(|line| read(line)).collect();
    let of = |words: &str| -> Vec<&Map<String, Value>> {
        lines.iter().filter(|line| line["message"].as_str().expect("a string").starts_with(words)).collect()
    };
    let joined = of("joined");
    assert_eq!(joined.len(), 2, "{joined:?}");
    assert_eq!(
        (&joined[0]["user"], &joined[0]["lobby"], &joined[0]["level"]),
        (&"ann".into(), &"a".into(), &"info".into())
    );
    assert_eq!(joined[1]["user"], bobs_name, "the name as the protocol has it");
    assert!(joined[0]["peer"].as_str().expect("an address").starts_with("127.0.0.1:"), "{joined:?}");
    let closed = of("closed: ");
    let closed = closed.iter().find(|line| line.get("user") == Some(&bobs_name)).expect("the close is logged");
    assert_eq!((&closed["conn"], &closed["lobby"]), (&joined[1]["conn"], &"a".into()));
    assert_eq!(of("stopped; ").len(), 1);
    assert!(of("journal_sync = on: has no effect")[0]["level"] == "warn");
    // A client chooses no field.
    let refused = of("a page of the origin");
    assert!(refused.len() == 1 && refused[0].get("user").is_none() && refused[0].get("lobby").is_none(), "{refused:?}");
    let all = program.log_lines.concat();
    assert!(!all.contains("secret-") && !all.contains("said-in-confidence") && all.is_ascii(), "{all}");
}

/// Also before the logger exists, and whatever the log level is.
#[test]
fn a_refused_start_is_reported_as_json_too() {
    let output = command(PROGRAM)
        .args(["--log-format", "json", "--log", "off", "--max-pending", "0", "--max-closing", "many"])
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(2));
    let problems = String::from_utf8(output.stderr).expect("UTF-8");
    let lines: Vec<Map<String, Value>> = problems.lines().map(read).collect();
    let messages: Vec<&Value> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(
        messages,
        [
            "invalid configuration: max_closing: `many` is not a whole number",
            "invalid configuration: max_pending = 0: must be from 1 to 1048576; with 0 the server could not work"
        ]
    );
    assert!(lines.iter().all(|line| line["level"] == "error"));
    // The address is in use.
    let first = Program::start(PROGRAM, &["--listen", "127.0.0.1:0"]);
    let output = command(PROGRAM)
        .args(["--log-format", "json", "--listen", &first.address.to_string()])
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(2));
    let problems = String::from_utf8(output.stderr).expect("UTF-8");
    let last = problems.lines().map(read).next_back().expect("a line");
    assert!(last["message"].as_str().expect("a string").starts_with("cannot listen on 127.0.0.1:"), "{problems}");
}
