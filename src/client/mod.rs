//! A client of a lobby: for games, bots and load tests in Rust.
//!
//! A `Lobby` has a socket, and is what most programs need. A [`Session`] is the same without I/O, for programs that have
//! their own network, and for tests. Both have the words and the behaviour of the browser client, `lobby.js`: they come back
//! to their seat after a lost connection, execute each request at most once, and say if they missed a message. The
//! [guide](crate::guide::clients#rust) describes them, and has a bot.
//!
//! # Without I/O
//!
//! A [`Session`] opens no socket and reads no clock. A driver does that:
//!
//! 1. It reports what has happened with `handle_…`, with the time and the [`AttemptId`] of the connection. What is reported
//!    of a connection that the session has given up is ignored.
//! 2. After each call of a method it does what [`Session::poll_action`] says, until that returns `None`.
//! 3. At the time of [`Session::poll_timeout`] it calls [`Session::handle_timeout`].
//!
//! The application calls methods such as [`Session::request`], polls events, and reads what is known. This dialogue is driven
//! by hand:
//!
#![cfg_attr(feature = "client", doc = "```")]
#![cfg_attr(not(feature = "client"), doc = "```ignore")]
//! use std::time::Duration;
//!
//! use lobbyd::client::{Action, Event, Of, Options, Outgoing, Session, State};
//! use lobbyd::{Random, Time};
//! use serde_json::json;
//!
//! /// The messages of the game.
//! #[derive(Debug, PartialEq, serde::Deserialize)]
//! #[serde(tag = "type", rename_all = "snake_case")]
//! enum Says {
//!     Move { to: String },
//!     Chat { data: String },
//! }
//!
//! let mut random = Random::new(7);
//! let mut lobby = Session::new("ws://game.example/ws/chess", Options::default(), move || random.next_u64())?;
//! let mut now = Time::ZERO;
//! lobby.connect(now);
//! let Some(Action::Connect(attempt)) = lobby.poll_action() else { panic!() };
//! assert_eq!((attempt.host(), attempt.port(), attempt.is_secure()), ("game.example", 80, false));
//! assert!(attempt.target().starts_with("/ws/chess?session="));
//! assert_eq!(attempt.subprotocols(Some("ann")), ["lobby.v1.json", "base64url.bearer.lobby.YW5u"]);
//!
//! // The connection is open, and the server speaks.
//! let id = attempt.id();
//! lobby.handle_text(now, id, r#"{"type":"welcome","conn":"s1","user":"ann","lobby":"chess","epoch":7,"resumed":false,
//!     "recovered":false,"server_time":1700000000000,"away_ms":30000,"done":0,"refused":"0","n":0,"control":true}"#);
//! lobby.handle_text(now, id, r#"{"type":"presence_state","seq":2,"users":[
//!     {"user":"ann","conn":"s1"},{"user":"bob","conn":"s2","data":{"team":"red"}}]}"#);
//! lobby.handle_text(now, id, r#"{"type":"lobby_state","seq":2,"host":"s1","data":{"round":1},"settings":{"max":8}}"#);
//! assert_eq!((lobby.state(), lobby.code(), lobby.data()["round"].as_u64()), (State::Open, Some("chess"), Some(1)));
//! let members: Vec<&str> = lobby.members().map(|who| who.user()).collect();
//! assert_eq!((members, lobby.host() == lobby.me()), (vec!["ann", "bob"], true));
//! while lobby.poll_event().is_some() {}
//!
//! // A message of another member.
//! lobby.handle_text(now, id, r#"{"type":"message","from":"bob","seq":3,"data":{"type":"move","to":"e5","ref":1}}"#);
//! let Some(Event::Message(message)) = lobby.poll_event() else { panic!() };
//! assert_eq!((message.from.as_deref(), message.kind.as_deref()), (Some("bob"), Some("move")));
//! assert_eq!(message.data::<Says>().unwrap(), Says::Move { to: "e5".to_owned() });
//!
//! // Requests are acknowledged.
//! while lobby.poll_action().is_some() {} // a ping
//! let chat = lobby.request(now, "chat", "hello")?;
//! let text = r#"{"type":"chat","data":"hello","ref":1}"#.to_owned();
//! assert_eq!(lobby.poll_action(), Some(Action::Send(id, Outgoing::Text(text))));
//! lobby.set(now, Of::Me, json!({"ready": true}))?;
//! lobby.handle_text(now, id, r#"{"type":"ack","ref":1,"seq":4}"#);
//! let Some(Event::Settled { id: settled, result }) = lobby.poll_event() else { panic!() };
//! assert_eq!((settled, result?.seq()), (chat, Some(4)));
//!
//! // The connection is lost. The next attempt names the position.
//! lobby.handle_closed(now, id, 1006, "");
//! assert_eq!(lobby.state(), State::Waiting);
//! now = lobby.poll_timeout().expect("the next attempt");
//! lobby.handle_timeout(now);
//! let Some(Action::Connect(attempt)) = lobby.poll_action() else { panic!() };
//! assert!(attempt.target().ends_with("&epoch=7&seq=4&n=0"));
//! # Ok::<(), lobbyd::client::LobbyError>(())
//! ```
//!
//! # The list of lobbies
//!
//! [`Session::list`] follows the list of lobbies that can be joined. The list can also be asked for once:
//!
#![cfg_attr(feature = "client", doc = "```")]
#![cfg_attr(not(feature = "client"), doc = "```ignore")]
//! use lobbyd::client::{Filters, find_address, read_found};
//!
//! let duels = Filters { pool: Some("duel".to_owned()), ..Filters::default() };
//! let address = find_address("wss://game.example/ws/~lobbies", &duels, None)?;
//! assert_eq!(address, "https://game.example/lobbies?pool=duel");
//!
//! // What an HTTP client gets there:
//! let body = r#"{"lobbies":[{"code":"bcdfg","name":"Friday","tags":{},"members":1,"max":2,"has_password":false}],"next":null}"#;
//! let found = read_found(200, body)?;
//! assert_eq!((found.lobbies[0].code.as_str(), found.next), ("bcdfg", None));
//! # Ok::<(), lobbyd::client::LobbyError>(())
//! ```
//!
//! # Bounds
//!
//! Whatever a server sends, a session does not panic, and its memory has a bound:
//!
//! - A message may have [`Options::max_frame_bytes`]. Parsed, the data of lobby control in it may take some 30 times as much.
//! - What is known of a lobby, or of the list of lobbies, takes at most 16 MiB and what one message adds. A server that sends
//!   more is left for good: the code 1009, `too_large`.
//! - Events take at most 4 MiB and what one message adds: see [`Session::poll_event`].
//! - At most 64 requests are not settled. They have 64 KiB together, unless it is a single one. No volatile message is sent
//!   while more than 64 KiB wait to be written.

mod action;
mod address;
mod backoff;
mod commands;
mod connecting;
mod error;
mod event;
mod fields;
mod limits;
mod list;
// With sockets: for programs only. The simulator has its own network.
#[cfg(feature = "client")]
mod net;
mod options;
mod ordered;
mod pacing;
mod payload;
mod queue;
mod receiving;
mod requests;
mod round_trips;
mod session;
mod timers;
mod view;
mod weight;
mod welcome;

pub use self::action::{Action, Attempt, AttemptId, Outgoing};
pub use self::address::{Filters, find_address};
pub use self::commands::Of;
pub use self::error::LobbyError;
pub use self::event::{Ack, Closed, Event, LobbyMember, LobbyMessage, RequestId, Seat, State};
pub use self::list::{Found, ListedLobby, read_found};
#[cfg(feature = "client")]
pub use self::net::{Lobby, LobbyOptions, LobbyToken, Stream, Traced, Trust};
pub use self::options::Options;
pub use self::session::Session;
pub use self::welcome::Welcome;
