//! Servers that do not keep to the protocol: each run ends, in bounded memory, and its report says what was wrong.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use serde_json::Value;

use super::super::faulty_proxy::frame;
use super::super::{PROGRAM, command};
use super::{check_sentence, counts};

const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
const WELCOME: &str = r#"{"type":"welcome","conn":"s1","epoch":1,"away_ms":30000}"#;
const LIST: &str = r#"{"type":"presence_state","seq":1,"users":[]}"#;
const HEALTH_PING: &str = r#"{"type":"health_ping","timestamp":4503599627370496}"#;

/// What a server sends after a request with this head.
type Script = fn(&mut TcpStream, &str) -> io::Result<()>;

fn lying_server(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    // The threads end with their connections, and that of the listener with the process.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let head = read_head(&mut stream)?;
                script(&mut stream, &head)?;
                // Until the member ends the connection.
                io::copy(&mut stream, &mut io::sink())
            });
        }
    });
    address
}

/// Reads no byte behind the head.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8(head).expect("a head is ASCII"))
}

/// Sends the bytes again and again, and reads nothing, until the member ends the connection.
fn flood(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let bytes = bytes.repeat((64 << 10) / bytes.len() + 1);
    loop {
        stream.write_all(&bytes)?;
    }
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

fn event(text: &str) -> String {
    format!("data: {text}\n\n")
}

/// Runs the generator with two members, and returns its report and its exit code. A run that takes a minute of CPU time, or
/// 500 MB of address space with the program in it, is killed.
#[track_caller]
fn report(script: Script, arguments: &str) -> (Value, Option<i32>) {
    let limited = r#"ulimit -t 60; ulimit -v 500000; exec "$0" load "$@""#;
    let url = format!("ws://{}", lying_server(script));
    let arguments = format!("--json --members 2 --per-lobby 2 {arguments}");
    let output = command("sh").args(["-c", limited, PROGRAM, &url]).args(arguments.split(' ')).output();
    let output = output.expect("the program was built");
    let report = serde_json::from_slice(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    (report.unwrap_or_else(|error| panic!("{error}: {}: {problems}", output.status)), output.status.code())
}

#[test]
fn a_message_without_an_end_ends_the_connection() {
    let (report, code) = report(
        |stream, head| {
            if head.starts_with("GET /ws/") {
                stream.write_all(UPGRADED.as_bytes())?;
                stream.write_all(&[&[0x81, 127], &(1_u64 << 50).to_be_bytes()[..]].concat())?;
            } else {
                stream.write_all(format!("{STREAM}data: ").as_bytes())?;
            }
            flood(stream, b"x")
        },
        "--sse=50 --seconds 1",
    );
    assert_eq!((counts(&report, &["joined"]), code), (vec![0], Some(2)), "{report:#}");
    check_sentence(&report, "problems", "2 members did not join");
    check_sentence(&report, "notes", "the server broke the protocol: a message of more than 16 MiB");
    check_sentence(&report, "notes", "an event of more than 16 MiB");
}

#[test]
fn a_head_without_an_end_ends_the_connection() {
    let (report, code) = report(
        |stream, _| {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n")?;
            flood(stream, b"X: y\r\n")
        },
        "--sse=50 --seconds 1",
    );
    assert_eq!((counts(&report, &["joined"]), code), (vec![0], Some(2)), "{report:#}");
    check_sentence(&report, "notes", "the server broke the protocol: a head without an end");
    check_sentence(&report, "notes", "the server broke HTTP: a head without an end");
}

/// There is always more to read, and the server reads nothing but POSTs, which it does not answer.
#[test]
fn a_flood_does_not_prevent_the_end_of_a_run() {
    let (report, code) = report(
        |stream, head| {
            if head.starts_with("POST ") {
                return Ok(());
            }
            if head.starts_with("GET /sse/") {
                stream.write_all(format!("{STREAM}{}{}", event(WELCOME), event(LIST)).as_bytes())?;
                return flood(stream, event(HEALTH_PING).as_bytes());
            }
            stream.write_all(&[UPGRADED.as_bytes(), &text(WELCOME), &text(LIST)].concat())?;
            let error = |number: u64| text(&format!(r#"{{"type":"error","code":"{number}{}"}}"#, "x".repeat(1000)));
            let (ping, pong, health_ping) = (frame(0x89, &[b'x'; 125]), frame(0x8a, b""), text(HEALTH_PING));
            for number in 0.. {
                let few = [ping.repeat(20), pong.repeat(20), health_ping.repeat(20), error(number)];
                stream.write_all(&few.concat())?;
            }
            Ok(())
        },
        "--sse=50 --seconds 1",
    );
    assert_eq!((counts(&report, &["joined"]), code), (vec![2], Some(1)), "{report:#}");
    check_sentence(&report, "problems", "requests were never answered");
    check_sentence(&report, "problems", "messages were refused with other");
    assert_eq!(report["refused"].as_object().expect("by code").len(), 65);
}

/// A second welcome, more requests settled than were sent, and a wait without an end.
#[test]
fn impossible_numbers_and_a_second_welcome_are_reported() {
    let (report, code) = report(
        |stream, head| {
            let is_back = head.contains("&epoch=");
            let welcome = match is_back {
                true => WELCOME.replace('}', r#","resumed":true,"recovered":true,"done":18446744073709551615}"#),
                false => WELCOME.to_owned(),
            };
            stream.write_all(&[UPGRADED.as_bytes(), &text(&welcome), &text(LIST)].concat())?;
            // A message of the member.
            stream.read_exact(&mut [0; 16])?;
            if !is_back {
                return stream.write_all(&text(WELCOME));
            }
            let goodbye = r#"{"type":"goodbye","code":1001,"reconnect":true,"retry_after_ms":18446744073709551615}"#;
            stream.write_all(&[text(goodbye), frame(0x88, b"\x03\xe9")].concat())
        },
        "--rate 10 --seconds 2",
    );
    assert_eq!((counts(&report, &["joined", "resumed"]), code), (vec![2, 2], Some(1)), "{report:#}");
    check_sentence(&report, "problems", "2 members did not join, or were closed for good");
    check_sentence(&report, "notes", "2 connections failed: the server has welcomed a connection twice");
    check_sentence(&report, "notes", "2 connections were closed with 1001");
}
