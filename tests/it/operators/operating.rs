//! The guide's transcripts for operators, replayed against a real server, and the operators' sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::net::{Error, Server, Status};
use lobbyd::sim::wire::{self, Received};
use lobbyd::ticks::ClockCommand;

use crate::common::files::File;
use crate::common::files::Folder;
use crate::common::scrape::Scrape;
use crate::common::sockets::{Client, SHORT, TURNS, on_free_port};
use crate::meta::documents;

/// Fields that differ from run to run.
const VARYING: &[&str] = &[
    "uptime_ms",
    "epoch",
    "peer",
    "idle_ms",
    "reserved_ms",
    "latency_ms",
    "bytes_in",
    "bytes_out",
    "flushed_bytes",
    "closed",
    "tick",
];

/// Adds a free port for operators.
fn with_admin(config: Config) -> Config {
    Config { admin: Some("127.0.0.1:0".parse().expect("an address")), ..config }
}

/// A server in this thread, with the members ann and bob in the lobby `chess`.
struct Site {
    server: Server<Relay>,
    members: Vec<Client>,
    stopped: Option<lobbyd::stats::DrainTotals>,
}

impl Site {
    fn new() -> Site {
        Site::configured(on_free_port())
    }

    fn configured(config: Config) -> Site {
        let server = Server::bind(with_admin(config), Relay::default()).expect("free ports");
        let mut site = Site { server, members: Vec::new(), stopped: None };
        for name in ["ann", "bob"] {
            let mut member = Client::connect(site.server.local_addr().expect("the server listens"), "chess", name);
            while !matches!(member.next(&mut site.server), Received::Text(text) if text.contains("presence_state")) {}
            site.members.push(member);
        }
        site
    }

    fn admin(&self) -> SocketAddr {
        self.server.admin_addr().expect("admin is on")
    }

    /// Runs one turn of the server. The members answer health pings, and close when the server closes.
    fn turn(&mut self) {
        if self.stopped.is_none()
            && let Status::Stopped(totals) = self.server.turn(SHORT).expect("the turn succeeds")
        {
            self.stopped = Some(totals);
        }
        for member in &mut self.members {
            while let Some(received) = member.poll() {
                match received {
                    Received::Text(text) => {
                        let message: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                        if message["type"] == "health_ping" {
                            let pong = format!(r#"{{"type":"health_pong","timestamp":{}}}"#, message["timestamp"]);
                            member.send(&wire::text(&pong));
                        }
                    }
                    Received::Close(code, _) => member.send(&wire::close(code, "")),
                    _ => {}
                }
            }
        }
        self.members.retain(|member| !member.ended);
    }

    /// Sends a whole request and returns the whole answer.
    #[track_caller]
    fn exchange(&mut self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.admin()).expect("the server listens");
        stream.set_nonblocking(true).expect("a socket can be set non-blocking");
        stream.write_all(request.as_bytes()).expect("the socket takes a small request");
        let (mut answer, mut bytes) = (Vec::new(), [0; 65536]);
        for _ in 0..TURNS {
            match stream.read(&mut bytes) {
                Ok(0) => return String::from_utf8(answer).expect("UTF-8"),
                Ok(n) => answer.extend_from_slice(&bytes[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            self.turn();
        }
        panic!("no answer to {request}");
    }

    /// Performs the request of a `curl` command with these arguments and returns the body that it prints.
    #[track_caller]
    fn curl(&mut self, arguments: &[String]) -> String {
        let (mut method, mut lines, mut body, mut target) = ("GET", String::new(), String::new(), String::new());
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("a value follows").clone();
            match &**argument {
                "-H" => lines += &format!("{}\r\n", value()),
                "-d" | "--json" => {
                    let kind = if argument == "-d" { "x-www-form-urlencoded" } else { "json" };
                    (method, body) = ("POST", value());
                    lines += &format!("Content-Type: application/{kind}\r\nContent-Length: {}\r\n", body.len());
                }
                url => target = url.strip_prefix("localhost:9002").expect("the admin address").to_owned(),
            }
        }
        let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost:9002\r\nConnection: close\r\n{lines}\r\n");
        let answer = self.exchange(&(head + &body));
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }
}

/// Splits a command line as a shell does, as far as the guide needs it: at white space outside of `'`.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, piece) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    words
}

/// Removes the values that differ from run to run.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for key in VARYING {
        let quoted = format!("\"{key}\":");
        let mut rest = text.as_str();
        let mut done = String::new();
        while let Some(at) = rest.find(&quoted) {
            let (before, value) = rest.split_at(at + quoted.len());
            done += before;
            // The content of objects is kept.
            rest = match value.as_bytes().first() {
                Some(b'{') => value,
                Some(b'"') => &value[2 + value[1..].find('"').expect("a string ends")..],
                _ => &value[value.find([',', '}']).expect("a number ends")..],
            };
        }
        text = done + rest;
    }
    text
}

#[test]
fn the_guide_shows_what_an_operator_sees() {
    let mut site = Site::new();
    replay("<!-- curl", &mut site);
    // The transcript ends with the drain.
    for _ in 0..TURNS {
        if site.stopped.is_some() {
            break;
        }
        site.turn();
    }
    let totals = site.stopped.expect("all connections are closed");
    assert_eq!((totals.forced, totals.dropped_bytes), (0, 0));
}

#[test]
fn the_guide_shows_how_the_clock_is_set() {
    let mut site = Site::configured(Config { tick_hz: Some(60), ..on_free_port() });
    replay("<!-- clock", &mut site);
    // Another thread can set the clock too.
    let handle = site.server.handle();
    handle.clock(ClockCommand::Slow(7)).expect("the queue has room");
    handle.clock(ClockCommand::Pause).expect("the queue has room");
    handle.clock(ClockCommand::Step(1001)).expect("the queue has room");
    (0..3).for_each(|_| site.turn());
    let clock = site.server.engine().stats().ticks.expect("ticks are on").clock;
    assert_eq!((clock.paused, clock.slowdown), (true, 7));
}

#[test]
fn the_guide_shows_how_a_match_is_made() {
    let mut site = Site::configured(Config { lobby_control: true, ..on_free_port() });
    replay("<!-- match", &mut site);
}

/// Compares a transcript of the guide with the answers of the server.
#[track_caller]
fn replay(marker: &str, site: &mut Site) {
    let shown = documents::section(marker);
    let mut seen = String::new();
    for line in shown.lines() {
        if let Some(command) = line.strip_prefix("$ curl ") {
            let answer = site.curl(&words(command));
            seen += &format!("$ curl {command}\n{answer}");
        } else if line.is_empty() || line.starts_with("```") || line.starts_with('#') {
            seen += &format!("{line}\n");
        }
    }
    if normal(&shown) != normal(&seen) {
        documents::check(marker, &seen);
    }
}

#[test]
fn operators_and_members_do_not_disturb_each_other() {
    let mut site = Site::new();
    // More operator connections than are allowed, none of which sends a request.
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(site.admin()).expect("the server listens")).collect();
    (0..20).for_each(|_| site.turn());
    for n in 0..50 {
        let page = site.exchange("GET /lobbies/chess HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(page.contains(r#""user":"bob""#), "{page}");
        let text = wire::text(&format!(r#"{{"type":"broadcast","data":{n}}}"#));
        site.members[0].send(&text);
        let message = site.members[1].json(&mut site.server);
        assert_eq!((&message["from"], &message["data"]), (&"ann".into(), &n.into()));
    }
    drop(idle);
    site.server.engine().check();
}

/// A supervisor may ask for the drain first and send SIGTERM soon after. This must not drop any connection.
#[test]
fn a_signal_after_an_operators_drain_counts_as_the_first() {
    let mut site = Site::configured(Config { close_timeout: Duration::from_secs(25), ..on_free_port() });
    // A member that never answers. Another member would have left before the signals.
    let silent = site.members.pop().expect("bob");
    let request =
        "POST /drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n";
    assert!(site.exchange(request).starts_with("HTTP/1.1 202 "));
    let handle = site.server.handle();
    handle.stop();
    (0..5).for_each(|_| site.turn());
    assert_eq!(site.stopped, None);
    handle.stop();
    (0..5).for_each(|_| site.turn());
    assert_eq!(site.stopped.map(|totals| totals.forced), Some(1));
    drop(silent);
}

/// Scrapes the server on a connection of its own.
#[track_caller]
fn scrape(site: &mut Site) -> Scrape {
    let answer = site.exchange("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    Scrape::parse(answer.split_once("\r\n\r\n").expect("a head").1)
}

/// The duration of turns does not contain the waits: those of this test are up to 5 ms long.
#[test]
fn scrapes_show_the_loop() {
    let mut site = Site::new();
    let before = scrape(&mut site);
    (0..100).for_each(|_| site.turn());
    let after = scrape(&mut site);
    after.check_follows(&before);
    let (sum, count) = after.sum_and_count("lobbyd_turn_seconds");
    assert!(count >= 100.0 && sum > 0.0, "{sum} {count}");
    let uptime = after.get("lobbyd_uptime_seconds");
    let (earlier, _) = before.sum_and_count("lobbyd_turn_seconds");
    let waited = uptime - before.get("lobbyd_uptime_seconds");
    assert!(waited > 0.4 && sum - earlier < waited * 0.9, "{waited} {sum} {earlier}");
}

#[cfg(target_os = "linux")]
#[test]
fn scrapes_show_the_process() {
    let mut site = Site::new();
    let before = scrape(&mut site);
    // The time of a new file is now.
    let file = File::new("now", "");
    let now = std::fs::metadata(file.path()).expect("it is new").modified().expect("a time");
    let now = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let started = before.get("process_start_time_seconds");
    // The other tests of this process may have begun long before.
    assert!((now - 86_400.0..now + 5.0).contains(&started), "{started}, and now it is about {now}");
    let again = scrape(&mut site).get("process_start_time_seconds");
    assert!((again - started).abs() < 0.02, "{started}, then {again}: it is no duration");
    assert!(before.get("process_cpu_seconds_total") > 0.0);
    let (resident, whole) = (before.get("process_resident_memory_bytes"), before.get("process_virtual_memory_bytes"));
    assert!(resident > 1e6 && resident < whole, "{resident} {whole}");
    assert!(before.get("process_max_fds") >= 256.0);
    if let Some(open) = before.samples.get("process_open_fds") {
        assert!(*open >= 8.0, "{open}: the server and its clients have eight sockets");
    }
}

/// Each metric that any server shows.
#[test]
fn documents_list_the_metrics() {
    // Other systems show no figures of the process, and Linux before 6.2 not the number of descriptors.
    if !std::fs::metadata("/proc/self/fd").is_ok_and(|fds| fds.len() > 0) {
        return;
    }
    let folder = Folder::new("metrics");
    let proxy_protocol = Some("192.0.2.1".parse().expect("an address"));
    let config = Config { tick_hz: Some(100), journal: Some(folder.journal()), proxy_protocol, ..on_free_port() };
    let scrape = scrape(&mut Site::configured(config));
    let rows = scrape.families.iter().map(|family| {
        let (name, kind, help, labels) = (&family.name, &family.kind, &family.help, &family.labels);
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        format!("| `{name}{labels}` | {kind} | {} |\n", help.trim_end_matches('.'))
    });
    // The alerts and the dashboard name no other metric, except for those that the guide lists of a cluster, TLS and the
    // hook. `tests/clients/run --metrics` looks for the first in a node, `operators_are_served_with_tls` and
    // `the_guide_lists_the_metrics_of_the_hook` for the others.
    let guide = include_str!("../../../src/guide/metrics.md");
    let elsewhere = guide.lines().filter_map(|row| {
        let [_, name, kind, _, _] = row.trim().split('|').map(str::trim).collect::<Vec<_>>()[..] else { return None };
        let name = name.trim_matches('`').split('{').next()?;
        let parts = ["lobbyd_cluster_", "lobbyd_tls_", "lobbyd_hook_", "lobbyd_jwks_"];
        parts.iter().any(|part| name.starts_with(part)).then_some((name, kind))
    });
    let here = scrape.families.iter().map(|family| (&*family.name, &*family.kind));
    let known: Vec<(&str, &str)> = here.chain(elsewhere).collect();
    for file in ["grafana-dashboard.json", "prometheus-rules.yml", "prometheus-rules-test.yml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy").join(file);
        let text = std::fs::read_to_string(path).expect("the file is part of the package");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> =
            words.filter(|word| word.starts_with("lobbyd_") || word.starts_with("process_")).collect();
        let is_known = |word: &str| {
            known.iter().any(|(name, kind)| match word.strip_prefix(name) {
                Some("") => *kind != "histogram",
                Some(suffix) => *kind == "histogram" && ["_bucket", "_sum", "_count"].contains(&suffix),
                None => false,
            })
        };
        assert!(named.len() > 10, "{file}");
        for word in named {
            assert!(is_known(word), "{file}: there is no metric {word}");
        }
    }
    documents::check(
        "<!-- metrics",
        &("| metric | type | meaning |\n| --- | --- | --- |\n".to_owned() + &rows.collect::<String>()),
    );
}

#[test]
fn a_token_file_is_read_at_the_start() {
    let folder = Folder::new("admin-token");
    let path = folder.0.join("token");
    let config = Config { admin_token_file: Some(path.clone()), ..with_admin(on_free_port()) };
    let refusal = |config: &Config| match Server::bind(config.clone(), Relay::default()).err() {
        Some(error @ Error::Token(..)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refusal(&config).contains("no such file or directory"));
    std::fs::write(&path, "short\n").expect("the file can be written");
    assert!(refusal(&config).contains("at least 16 characters"));
    std::fs::write(&path, "0123456789abcdef\n").expect("the file can be written");
    let server = Server::bind(config, Relay::default()).expect("a token");
    let mut site = Site { server, members: Vec::new(), stopped: None };
    let ask = |line: &str| format!("GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}\r\n");
    assert!(site.exchange(&ask("")).starts_with("HTTP/1.1 401 "));
    assert!(site.exchange(&ask("Authorization: Bearer 0123456789abcdef\r\n")).starts_with("HTTP/1.1 200 "));
}
