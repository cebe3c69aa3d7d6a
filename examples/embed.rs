//! A game that owns its loop: 30 frames a second, with turns of the lobby server between them.
//!
//!     cargo run --example embed -- --listen 127.0.0.1:9001
//!
//! Then connect with `ws://127.0.0.1:9001/ws/arena?token=ann` and send `left` or `right`. On SIGTERM and SIGINT all members
//! are closed with 1001, and the program ends.
//!
//! The game acts on its lobby through [`Server::act`], which a journal cannot record. `fixed_step.rs` shows a loop that
//! can be recorded and replayed.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lobbyd::config::Limit;
use lobbyd::net::{Server, Status};
use lobbyd::{App, Authorization, Config, Context, Exclude, Frame, LeaveReason, Member, Message, Protocol, Request};
use log::LevelFilter;
use simple_logger::SimpleLogger;

/// Positions of all players on a line. Members send `left` and `right`; each frame sends the positions to all members.
#[derive(Default)]
struct Arena {
    players: Vec<(Member, i32)>,
}

impl App for Arena {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let position = cx.random().below(100) as i32;
        self.players.push((member.clone(), position));
    }

    fn on_rejoin(&mut self, _: &mut Context<'_>, member: &Member) {
        let player = self.players.iter_mut().find(|(player, _)| player.seat() == member.seat());
        // Same seat, newer connection.
        player.expect("on_join added the member").0 = member.clone();
    }

    fn on_message(&mut self, _: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let player = self.players.iter_mut().find(|(player, _)| player.seat() == from.seat());
        let (_, position) = player.expect("on_join added the sender");
        *position += match message {
            Message::Text("left") => -1,
            Message::Text("right") => 1,
            _ => 0,
        };
    }

    fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, _: LeaveReason) {
        self.players.retain(|(player, _)| player.seat() != member.seat());
    }
}

const FRAME: Duration = Duration::from_millis(33);

#[allow(clippy::disallowed_methods, reason = "the loop of a game reads the clock")]
fn run() -> Result<(), Box<dyn Error>> {
    let mut config = Config { max_per_lobby: Limit::at_most(64), ..Config::default() };
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [] => {}
        [flag, address] if flag == "--listen" => config.listen = address.parse()?,
        _ => return Err("the arguments are: [--listen ADDRESS:PORT]".into()),
    }
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    let mut server = Server::bind(config, Arena::default())?;
    #[cfg(unix)]
    server.listen_to_signals()?;
    println!("listening on {}", server.local_addr()?);
    let mut next_frame = Instant::now() + FRAME;
    // A turn waits for the sockets, at most until the next frame is due.
    while let Status::Running = server.turn(Some(next_frame.saturating_duration_since(Instant::now())))? {
        // A turn also ends when a socket has input.
        if Instant::now() < next_frame {
            continue;
        }
        next_frame = Instant::now() + FRAME;
        server.act(|arena, cx| {
            let positions: Vec<String> =
                arena.players.iter().map(|(member, position)| format!("{}={position}", member.user())).collect();
            cx.broadcast_to_lobby("arena", Exclude::None, &Frame::text(&positions.join(" ")));
        });
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}
