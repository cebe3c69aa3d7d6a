//! Replays that differ from the recorded session, applications that panic, and disks that are full.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::OnJournalError;
use lobbyd::journal::{self, Fault, Sink};
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire;
use lobbyd::{App, Authorization, CloseReason, Config, Context, Frame, Member, Message, Protocol, Request};

use super::site::{Site, replay};

/// Behaves differently depending on a number, as a nondeterministic application would from process to process.
pub struct Nondeterministic(pub u8);

impl App for Nondeterministic {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        match message {
            Message::Text("mood") => cx.broadcast_to_lobby(
                from.lobby(),
                lobbyd::Exclude::None,
                &Frame::text(if self.0 == 0 { "good" } else { "evil" }),
            ),
            Message::Text("more") if self.0 == 1 => cx.send_to_user(from.user(), &Frame::text("more")),
            Message::Text("less") if self.0 == 0 => cx.send_to_user(from.user(), &Frame::text("less")),
            Message::Text("less") => lobbyd::sending::Sent::default(),
            _ => cx.broadcast_from(from, &Frame::text("as ever")),
        };
    }
}

#[test]
fn the_first_difference_is_named_by_turn_connection_and_byte() {
    #[track_caller]
    fn check(word: &str, named: bool, words: &str) {
        let mut site = Site::new(Config::default(), Nondeterministic(0));
        let users = ["ann", "bob"].map(|user| site.connect(&format!("/ws/a?token={user}"), &[]));
        site.turn();
        for word in ["other", word, "other"] {
            site.bytes(users[1], &wire::text(word));
            site.turn();
        }
        let journal = site.journal();
        assert_eq!(journal::replay(&*journal, Nondeterministic(0)).expect("nothing differs").turn, 4);
        let failure = journal::replay(&*journal, Nondeterministic(1)).expect_err("something differs");
        assert_eq!(failure.summary.as_ref().map(|summary| summary.turn), Some(3), "{failure}");
        let Fault::Diverged(divergence) = &failure.fault else { panic!("{failure}") };
        assert!(failure.to_string().contains(words), "{failure}");
        if named {
            // The 101, then the text `as ever` in its frame.
            let answer = 166 + 2 + 7;
            assert_eq!((divergence.conn, divergence.byte), (Some(users[0]), answer), "{failure}");
        }
    }
    check("mood", true, r"6 bytes, which begin with \x81\x04evil");
    check("more", false, "which begin with");
    check("less", false, "nothing more is sent");
}

#[test]
fn a_closure_of_the_embedder_ends_a_replay() {
    let check = |act: fn(&mut Site<Relay>)| {
        let mut site = Site::new(Config::default(), Relay::default());
        site.connect("/ws/a?token=ann", &[]);
        site.turn();
        act(&mut site);
        site.turn();
        let failure = replay(&site.journal()).expect_err("the closure is not recorded");
        assert!(matches!(failure.fault, Fault::Closure), "{failure}");
        assert!(failure.to_string().starts_with("turn 1 at 0.010000s: the embedding program"), "{failure}");
    };
    check(|site| {
        site.engine.act(site.now, |_, cx| cx.close_user("ann", CloseReason::Kicked));
    });
    check(|site| {
        site.engine.app_mut();
    });
}

/// Panics on the token `nobody` and on the message `boom`.
struct Fragile;

impl App for Fragile {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        assert_ne!(request.token(), Some("nobody"), "as the token requires");
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, message: Message<'_>) {
        assert_ne!(message, Message::Text("boom"));
    }
}

#[test]
fn the_input_that_caused_a_panic_is_last_in_the_journal() {
    for (token, word) in [("ann", "boom"), ("nobody", "well")] {
        let stored = Rc::default();
        let mut site = Site::with(
            Config::default(),
            Fragile,
            Disk { left: usize::MAX, is_full: false, stored: Rc::clone(&stored) },
        );
        let panics = AssertUnwindSafe(|| {
            let conn = site.connect(&format!("/ws/a?token={token}"), &[]);
            site.turn();
            site.bytes(conn, &wire::text(word));
        });
        assert!(panic::catch_unwind(panics).is_err());
        drop(site);
        let replay = AssertUnwindSafe(|| journal::replay(&**stored.borrow(), Fragile));
        match panic::catch_unwind(replay) {
            // The replay panics at the same input, where it can be debugged.
            Err(_) => assert_eq!(word, "boom"),
            // The replay does not call `authorize`, and the decision was not recorded.
            Ok(summary) => {
                let summary = summary.expect("nothing differs");
                assert_eq!((word, summary.is_open_ended, summary.stats.pending), ("well", true, 1));
            }
        }
    }
}

/// A disk that stores a number of bytes and then fails for ever.
struct Disk {
    left: usize,
    is_full: bool,
    stored: Rc<std::cell::RefCell<Vec<u8>>>,
}

impl Sink for Disk {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let bytes = [block, rest].concat();
        if bytes.len() <= self.left {
            self.left -= bytes.len();
            self.stored.borrow_mut().extend_from_slice(&bytes);
            return Ok(());
        }
        // The write that fills the disk is stored in part.
        let accepted = if std::mem::replace(&mut self.is_full, true) { 0 } else { self.left.clamp(1, bytes.len() - 1) };
        self.left = 0;
        self.stored.borrow_mut().extend_from_slice(&bytes[..accepted]);
        Err(io::ErrorKind::StorageFull.into())
    }
}

#[test]
fn a_full_disk_stops_unrecorded_output_or_ends_the_journal() {
    for on_error in [OnJournalError::Stop, OnJournalError::Continue] {
        let config = Config { journal_on_error: on_error, ..Config::default() };
        let stored = Rc::default();
        let mut site =
            Site::with(config, Verbatim::default(), Disk { left: 8000, is_full: false, stored: Rc::clone(&stored) });
        let ann = site.connect("/ws/a?token=ann", &[]);
        let bob = site.connect("/ws/a?token=bob", &[]);
        site.turn();
        let mut before = site.engine.stats().counters.bytes_out;
        let mut refused = 0;
        for _ in 0..100 {
            site.bytes(ann, &wire::text(&"x".repeat(100)));
            let mut sockets = MemorySockets::default();
            refused += u32::from(site.engine.flush(&mut sockets).is_err());
            before += sockets.take_writes().iter().map(|write| write.bytes.len() as u64).sum::<u64>();
        }
        assert!(site.engine.ending(bob).is_none(), "the member stays connected");
        let recording = site.engine.recording().expect("the session is recorded");
        assert!(recording.has_failed);
        match on_error {
            OnJournalError::Stop => assert!(refused > 10),
            OnJournalError::Continue => assert_eq!((refused, before), (0, site.engine.stats().counters.bytes_out)),
        }
        let stored = stored.borrow();
        let summary = journal::replay(&**stored, Verbatim::default()).expect("the stored part is valid");
        assert!(summary.torn.is_some() && summary.confirmed > 5, "{summary:?}");
    }
}
