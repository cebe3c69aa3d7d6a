//! The bot of the guide, which is `examples/bot.rs`.

use lobbyd::client::{Event, State};
use serde_json::Value;

use super::sockets::{connect, relay, turns};
use crate::common::sockets::{SHORT, on_free_port};

#[path = "../../../examples/bot.rs"]
#[allow(dead_code, reason = "its main function is for users")]
mod example;

#[test]
fn it_answers_until_it_is_told_to_leave() {
    let mut server = relay(on_free_port());
    let address = server.local_addr().expect("the server listens");
    let bot = std::thread::spawn(move || example::bot(&format!("ws://{address}/ws/chess")));
    // The bot is the first member, so that it sees another one join.
    while server.engine().stats().total_connections == 0 {
        server.turn(SHORT).expect("the turn succeeds");
    }
    let mut ann = connect(address, "ann");
    let (mut heard, mut has_asked) = (Vec::new(), 0);
    turns(&mut server, &mut [&mut ann], |lobbies| {
        let ann = &mut *lobbies[0];
        while let Some(event) = ann.poll_event() {
            if let Event::Message(message) = event {
                heard.push(message.data::<Value>().expect("JSON")["data"].clone());
            }
        }
        if ann.state() == State::Open
            && ann.count() == 2
            && has_asked < ["!who", "!bye"].len()
            && heard.len() >= has_asked
        {
            ann.request("chat", ["!who", "!bye"][has_asked]).expect("there is room");
            has_asked += 1;
        }
        bot.is_finished()
    });
    bot.join().expect("it does not panic").expect("it ends without an error");
    assert!(heard.contains(&"Here are bot, ann.".into()), "{heard:?}");
}

#[test]
fn it_fails_with_the_reason_of_the_server() {
    let mut server = relay(on_free_port());
    let address = server.local_addr().expect("the server listens");
    let bot = std::thread::spawn(move || example::bot(&format!("ws://{address}/elsewhere/chess")));
    turns(&mut server, &mut [], |_| bot.is_finished());
    let error = bot.join().expect("it does not panic").expect_err("the server refuses it");
    assert_eq!(error.to_string(), "closed: 4007 bad_lobby_code");
}

#[test]
fn the_guide_shows_it() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let (guide, example) = (read("src/guide/clients.md"), read("examples/bot.rs"));
    let (_, code) = example.split_once("\n\n").expect("a description, and then code");
    assert!(guide.contains(&format!("```rust,ignore\n{code}```\n")), "the guide shows another bot");
}
