//! A game that owns its loop: 30 frames a second, and in each of them one turn of the lobby server.
//!
//!     cargo run --example embed -- 127.0.0.1:9001
//!
//! Then connect with `ws://127.0.0.1:9001/ws/arena?token=ann` and say `left` or `right`.

use std::time::Duration;

use lobbyd::net::{Server, Status};
use lobbyd::{App, Authorization, Config, Context, Exclude, Frame, Limit, Member, Message, Protocol, Request};

/// Where everybody stands on a line. Members say `left` and `right`; every frame everybody is told the positions.
#[derive(Default)]
struct Arena {
    players: Vec<(Member, i32)>,
}

impl App for Arena {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, who: &Member) {
        let place = cx.random().below(100) as i32;
        self.players.push((who.clone(), place));
    }

    fn on_message(&mut self, _: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let player = self.players.iter_mut().find(|(player, _)| player.seat() == from.seat());
        let (_, place) = player.expect("whoever speaks has joined");
        *place += match message {
            Message::Text("left") => -1,
            Message::Text("right") => 1,
            _ => 0,
        };
    }

    fn on_leave(&mut self, _: &mut Context<'_>, who: &Member, _: lobbyd::LeaveReason) {
        self.players.retain(|(player, _)| player.seat() != who.seat());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).unwrap_or("127.0.0.1:9001".into()).parse()?;
    let config = Config { listen, max_per_lobby: Limit::at_most(64), ..Config::default() };
    let mut server = Server::bind(config, Arena::default())?;
    println!("listening on {}", server.local_addr()?);
    // A turn waits for the sockets, but never longer than a frame.
    while let Status::Running = server.turn(Some(Duration::from_millis(33)))? {
        server.act(|arena, cx| {
            let places: Vec<String> = arena.players.iter().map(|(who, at)| format!("{}={at}", who.user())).collect();
            cx.broadcast_to_lobby("arena", Exclude::None, &Frame::text(&places.join(" ")));
        });
    }
    Ok(())
}
