//! `net::print_replay`: the replay command of a program with its own application.

use std::fs;
use std::io::{self, Write};

use lobbyd::apps::Relay;
use lobbyd::net::{ReplayError, Timeline, print_replay};
use lobbyd::sim::wire;
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request, Time};

use super::site::{Site, session};
use crate::common::files::Folder;

/// Counts its messages.
#[derive(Default)]
struct Count(u64);

impl App for Count {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {
        self.0 += 1;
    }
}

/// A journal in which ann says three things to a [`Count`], one in each turn from the second on.
fn counted() -> Vec<u8> {
    let mut site = Site::new(Config::default(), Count::default());
    let ann = site.connect("/ws/chess?token=ann", &[]);
    site.turn();
    for word in ["one", "two", "three"] {
        site.bytes(ann, &wire::text(word));
        site.turn();
    }
    site.journal()
}

fn print<A: App>(
    name: &str,
    journal: &[u8],
    app: A,
    check: fn(&A) -> Result<(), String>,
    timeline: &Timeline,
) -> (String, Result<(), ReplayError>) {
    let folder = Folder::new(name);
    fs::write(folder.journal(), journal).expect("the folder can be written");
    let mut out = Vec::new();
    let result = print_replay(&folder.journal(), app, check, timeline, &mut out);
    (String::from_utf8(out).expect("UTF-8"), result)
}

#[test]
fn the_timeline_of_an_application_of_ones_own_is_printed() {
    let (text, result) = print("printed", &counted(), Count::default(), |_| Ok(()), &Timeline::default());
    result.expect("nothing differs");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[3], r#"turn 1      0.010000s conn=0.1 user="ann" lobby=chess says one"#);
    assert!(lines.iter().any(|line| line.starts_with("turns confirmed ")), "{text}");
    assert!(lines.last().is_some_and(|line| line.starts_with("times real time")), "{text}");
}

#[test]
fn events_are_selected_and_may_be_left_out() {
    let journal = session();
    let check = |timeline: Timeline, has: &[&str], has_not: &[&str]| {
        let (text, result) = print("selected", &journal, Relay::default(), |_| Ok(()), &timeline);
        result.expect("nothing differs");
        has.iter().for_each(|words| assert!(text.contains(words), "{words} in {text}"));
        has_not.iter().for_each(|words| assert!(!text.contains(words), "{words} not in {text}"));
    };
    let all = Timeline::default();
    check(all.clone(), &["user=\"ann\"", "user=\"bob\""], &[]);
    check(Timeline { user: Some("ann".into()), ..all.clone() }, &["user=\"ann\""], &["user=\"bob\""]);
    check(Timeline { lobby: Some("go".into()), ..all.clone() }, &["turns confirmed"], &["conn="]);
    check(Timeline { events: false, ..all.clone() }, &["turns confirmed"], &["conn="]);
    let first = Timeline { until: Time::from_micros(5000), ..all.clone() };
    check(first, &["0.000000s"], &["0.010000s conn"]);
    check(Timeline { stop_at: Some(2), ..all }, &["lobby chess members=2"], &[]);
}

#[test]
fn a_failed_check_names_its_turn_and_has_its_own_exit_code() {
    let check = |count: &Count| if count.0 < 2 { Ok(()) } else { Err(format!("{} messages", count.0)) };
    let (text, result) = print("checked", &counted(), Count::default(), check, &Timeline::default());
    let error = result.expect_err("the second message violates the check");
    assert!(error.to_string().ends_with("session: turn 2 at 0.020000s: 2 messages"), "{error}");
    assert_eq!((error.exit_code(), error.fault().is_some()), (8, false));
    assert!(text.contains("says two") && !text.contains("says three"), "{text}");
}

#[test]
fn a_journal_that_is_missing_or_of_another_application_is_an_error() {
    let missing =
        print_replay("/nowhere/session".as_ref(), Count::default(), |_| Ok(()), &Timeline::default(), io::sink());
    let error = missing.expect_err("there is no such journal");
    assert!(error.to_string().starts_with("/nowhere/session: ") && error.exit_code() == 2, "{error}");
    let (_, result) = print("another", &session(), Count::default(), |_| Ok(()), &Timeline::default());
    let error = result.expect_err("the relay is another application");
    assert!(error.to_string().contains("it was recorded with lobbyd::apps::relay::Relay, and this is "), "{error}");
    assert_eq!((error.exit_code(), error.fault().is_some()), (7, false));
}

/// Output that cannot be written.
struct Failing(io::ErrorKind);

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
    let folder = Folder::new("unwritable");
    fs::write(folder.journal(), counted()).expect("the folder can be written");
    let print = |kind, check: fn(&Count) -> Result<(), String>| {
        print_replay(&folder.journal(), Count::default(), check, &Timeline::default(), Failing(kind))
    };
    print(io::ErrorKind::BrokenPipe, |_| Ok(())).expect("head closes the pipe");
    let error = print(io::ErrorKind::StorageFull, |_| Ok(())).expect_err("the disk is full");
    assert!(error.to_string().starts_with("the output cannot be written: ") && error.exit_code() == 1, "{error}");
    let error = print(io::ErrorKind::BrokenPipe, |_| Err("wrong".into())).expect_err("the check outweighs the pipe");
    assert_eq!(error.exit_code(), 8, "{error}");
}
