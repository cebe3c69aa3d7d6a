//! Deterministic simulation of the whole server with injected faults. This crate's tests use it, and so can the tests
//! of an application.
//!
//! A [`Simulator`] drives the real [`Engine`](crate::Engine) with model clients and without sockets. It injects faults:
//!
//! - Network: input arrives late and in small pieces; writes are short, blocked, or fail.
//! - Clients: they vanish, reset in the middle of a frame, log in twice, flood, read slowly or never, and send
//!   malformed frames.
//! - Sessions: clients lose their connection and come back, in every way that the protocol allows, and some that it does
//!   not. Only the built-in model clients have sessions.
//! - Time: the monotonic clock jumps forward, and the wall clock is set.
//!
//! All invariants are checked after every step. After the last step the faults stop. Then the state that each client
//! built from the frames it received must equal the state of the server.
//!
//! A seed determines the whole run, bit for bit, on every machine. Each run leaves some [`Behaviour`]s out and draws
//! the frequency of the others (swarm testing). [`Simulator::swarm`] also draws the configuration.
//!
//! # Testing an application
//!
//! This game keeps a score for each member. It does not remove the score when a member leaves, and the simulator finds
//! a seed that shows it:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use lobbyd::sim::{Player, Simulator};
//! use lobbyd::{App, Authorization, Config, Context, Member, Message, Random, Request, Protocol};
//!
//! #[derive(Default)]
//! struct Dice {
//!     scores: BTreeMap<String, u64>,
//!     present: u64,
//! }
//!
//! impl App for Dice {
//!     const PROTOCOL: Protocol = Protocol::Json;
//!
//!     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
//!         Authorization::token_is_user(request)
//!     }
//!
//!     fn on_join(&mut self, _: &mut Context<'_>, member: &Member) {
//!         self.present += 1;
//!         self.scores.insert(member.user().to_owned(), 0);
//!     }
//!
//!     fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
//!         let points = 1 + cx.random().below(6);
//!         *self.scores.get_mut(from.user()).expect("members have a score") += points;
//!         cx.broadcast_message(from, &format!("{{\"points\":{points}}}"));
//!     }
//!
//!     fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, _: lobbyd::LeaveReason) {
//!         self.present -= 1;
//!         // The bug: `self.scores.remove(member.user())` is missing.
//!         let _ = member;
//!     }
//! }
//!
//! /// A model client of the game.
//! struct Thrower;
//!
//! impl Player for Thrower {
//!     fn act(&mut self, random: &mut Random) -> Option<String> {
//!         random.percent(50).then(|| r#"{"type":"throw"}"#.to_owned())
//!     }
//! }
//!
//! let simulator = |seed| {
//!     Simulator::new(seed, Config::default(), Dice::default())
//!         .players(|_, _| Box::new(Thrower))
//!         .check_app(|dice| match dice.scores.len() as u64 {
//!             scores if scores <= dice.present => Ok(()),
//!             scores => Err(format!("{scores} scores for {} members", dice.present)),
//!         })
//! };
//! let failure = (0..100).find_map(|seed| simulator(seed).run(1000).err()).expect("some seed finds the bug");
//! assert!(failure.violation().contains("scores for"), "{failure}");
//! ```
//!
//! # The report of a failure
//!
//! A [`Failure`] displays:
//!
//! - the seed, the step, the violation and what was expected;
//! - the clients concerned: the one of the last event, and all connections of the users that the violation names. So the
//!   text of an application's invariant should name its user;
//! - the last events of these clients, and of the others in their lobbies, with the text of each frame. A frame is shown
//!   when its last byte arrives at the server, or is written by it;
//! - the last messages that these clients sent, when they sent them;
//! - the command that repeats the run. For the test of an application it sets the variable `LOBBYD_PLAN`, which the test
//!   passes to [`Plan::seeds`].
//!
//! ```text
//! seed 0 failed at step 90: the application's invariant: user10 plays twice in chess
//! expected: check_app() returns Ok after every step
//! clients concerned: #2 user10, ended; #7 user10 in chess
//! the last events (> arrived at the server, < written by the server):
//!   step 22     0.016666s #2      > text {"type":"input","dx":-1,"dy":2,"fire":false}
//!   step 24     0.016666s #2      < close 1002 protocol_error
//!   step 39     0.077962s #2      dropped
//!   step 82     0.266666s #7      connects conn=5.8 user=user10 lobby=chess
//!   …
//! what the clients concerned sent last, when they sent it:
//!   step 19     0.010113s #2      text {"type":"input","dx":-1,"dy":2,"fire":false}
//!   step 82     0.266666s #7      GET /ws/chess HTTP/1.1
//! repeat it with: LOBBYD_PLAN='seed=0 steps=89 clients=6' cargo test
//! ```

mod actions;
mod admin_port;
mod agreement;
mod app;
mod application;
mod client;
mod closes;
mod cluster;
mod commands;
mod decoder;
mod deflate;
mod driver;
mod final_phase;
mod invariants;
#[cfg(test)]
mod links;
mod memory;
mod models;
#[cfg(test)]
mod nodes;
mod record;
mod redis_link;
mod redis_model;
mod refusals;
mod report;
mod run;
mod server;
mod shrink;
mod simulate;
mod steps;
mod swarm;
mod time;
mod transcript;
pub mod wire;
mod world;

pub use self::client::player::Player;
pub use self::cluster::simulate_cluster;
pub use self::memory::{MemorySocket, MemorySockets, MemoryWrite};
pub use self::redis_model::{RedisCopy, RedisModel};
pub use self::report::{BadPlan, Failure, Plan, Report};
pub use self::run::Simulator;
pub use self::shrink::shrink;
pub use self::simulate::{simulate, simulate_journaled};
pub use self::swarm::behaviour::Behaviour;
