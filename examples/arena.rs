//! An arena. The server alone decides who is where and who hits whom, 60 times a second; everybody sees it 20 times a second.
//!
//!     cargo run --example arena
//!
//! Then open the page that it names in two windows. Every field of the configuration is a flag, as with the program
//! itself: `--listen 127.0.0.1:9010`, or `--journal FILE`, of which `--replay FILE` plays the last session again. Nothing here reads a clock, draws randomness of its own or walks a `HashMap`, so what
//! happens follows from who said what before which tick, and can be had again.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use lobbyd::journal::{Replay, Step};
use lobbyd::net::{Server, open_journal};
use lobbyd::{
    App, Authorization, Config, Context, Exclude, Flush, Frame, LeaveReason, Member, Message, Protocol, Random, Reject,
    Request, SeatId, Tick,
};
use serde::{Deserialize, Serialize};

const PAGE: &str = include_str!("arena.html");

const WIDTH: i32 = 800;
const HEIGHT: i32 = 480;
/// How far a player moves in a tick.
const STEP: i32 = 4;
/// How near another must be to be hit.
const REACH: i32 = 80;
/// Ticks from shot to shot.
const RELOAD: u32 = 30;
/// Every third tick is shown.
const SHOWN: u64 = 3;

/// What a member holds down from now on: `{"type":"input","dx":1,"dy":0,"fire":false}`.
#[derive(Clone, Copy, Default, Deserialize)]
struct Input {
    dx: i32,
    dy: i32,
    fire: bool,
}

#[derive(Serialize)]
struct Player {
    user: String,
    x: i32,
    y: i32,
    score: u32,
    /// Ticks until it can fire again.
    reload: u32,
    /// The newest that was said. It is applied once in a tick, so nobody is faster for saying more.
    #[serde(skip)]
    input: Input,
    /// Stays when a newer connection takes the seat over.
    #[serde(skip)]
    seat: SeatId,
}

/// All there is to see in a lobby: whoever misses one needs only the next, and whoever comes back no more than that.
#[derive(Serialize)]
struct Snapshot<'a> {
    r#type: &'a str,
    tick: u64,
    players: &'a [Player],
}

/// The players of each lobby, in the order in which they joined.
#[derive(Default)]
struct Arena {
    lobbies: BTreeMap<String, Vec<Player>>,
}

impl App for Arena {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, who: &Member) {
        let (user, seat, input) = (who.user().to_owned(), who.seat(), Input::default());
        let mut player = Player { user, x: 0, y: 0, score: 0, reload: 0, input, seat };
        player.place(cx.random());
        self.lobbies.entry(who.lobby().to_owned()).or_default().push(player);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let Message::Json { kind: "input", text } = message else {
            return cx.reject(Reject::BadMessage, "the arena takes inputs");
        };
        let Ok(input) = serde_json::from_str(text) else {
            return cx.reject(Reject::BadMessage, "an input has dx, dy and fire");
        };
        let players = self.lobbies.get_mut(from.lobby()).into_iter().flatten();
        let player = players.into_iter().find(|player| player.seat == from.seat());
        player.expect("whoever speaks has joined").input = input;
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        for (lobby, players) in &mut self.lobbies {
            for at in 0..players.len() {
                play(players, at, cx.random());
            }
            if tick.number().is_multiple_of(SHOWN) {
                let snapshot = Snapshot { r#type: "snapshot", tick: tick.number(), players };
                let frame = Frame::json(&snapshot).expect("names and numbers are JSON");
                cx.broadcast_latest(lobby, Exclude::None, 0, &frame);
            }
        }
    }

    fn on_leave(&mut self, _: &mut Context<'_>, who: &Member, _: LeaveReason) {
        let players = self.lobbies.get_mut(who.lobby()).expect("whoever leaves has joined");
        players.retain(|player| player.seat != who.seat());
        if players.is_empty() {
            self.lobbies.remove(who.lobby());
        }
    }
}

/// One tick of one player.
fn play(players: &mut [Player], at: usize, random: &mut Random) {
    let Player { x, y, input, reload, .. } = &mut players[at];
    *x = (*x + STEP * input.dx.clamp(-1, 1)).clamp(0, WIDTH);
    *y = (*y + STEP * input.dy.clamp(-1, 1)).clamp(0, HEIGHT);
    *reload = reload.saturating_sub(1);
    if !input.fire || *reload > 0 {
        return;
    }
    *reload = RELOAD;
    let (x, y) = (*x, *y);
    for other in 0..players.len() {
        let Player { x: its_x, y: its_y, .. } = players[other];
        if other != at && (its_x - x).abs() <= REACH && (its_y - y).abs() <= REACH {
            players[at].score += 1;
            players[other].place(random);
        }
    }
}

impl Player {
    fn place(&mut self, random: &mut Random) {
        self.x = random.below(WIDTH as u64) as i32;
        self.y = random.below(HEIGHT as u64) as i32;
    }
}

impl Arena {
    /// What must hold, whatever members and networks do.
    fn check(&self) -> Result<(), String> {
        for (lobby, players) in &self.lobbies {
            for (at, Player { user, x, y, .. }) in players.iter().enumerate() {
                if players[..at].iter().any(|other| other.user == *user) {
                    return Err(format!("{user} plays twice in {lobby}"));
                }
                if !(0..=WIDTH).contains(x) || !(0..=HEIGHT).contains(y) {
                    return Err(format!("{user} is outside, at {x}, {y}"));
                }
            }
        }
        Ok(())
    }
}

fn config() -> Config {
    Config { tick_hz: Some(60), flush: Flush::Tick, ..Config::default() }
}

fn set(config: &mut Config, flag: &str, value: &str) -> Result<(), String> {
    let field = Config::FIELDS.iter().find(|field| field.flag() == flag.trim_start_matches('-'));
    (field.ok_or(format!("there is no {flag}"))?.set)(config, value).map_err(|why| format!("{flag}: {why}"))
}

/// Answers every request with the page. That will do for trying out.
fn serve(page: &TcpListener) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    );
    for mut browser in page.incoming().flatten() {
        let answer = answer.clone();
        // Browsers open connections on which they ask nothing yet: those must not hold up the others.
        thread::spawn(move || browser.read(&mut [0; 4096]).and_then(|_| browser.write_all(answer.as_bytes())));
    }
}

/// Plays a recorded session again, and says after which turn something does not hold.
fn replay(path: &str) -> Result<(), Box<dyn Error>> {
    let mut replay = Replay::open(open_journal(Path::new(path))?, Arena::default(), false)?;
    while replay.step()? != Step::End {
        let held = replay.app().check();
        held.map_err(|why| format!("turn {} at {} us: {why}", replay.turn(), replay.now().as_micros()))?;
    }
    let summary = replay.summary();
    println!("{:?} in {} turns, {} of them confirmed", summary.span, summary.turn, summary.confirmed);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = config();
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} takes a value"))?;
        if flag == "--replay" {
            return replay(&value);
        }
        set(&mut config, &flag, &value)?;
    }
    // The page comes from another port than the server's: another origin.
    let page = TcpListener::bind((config.listen.ip(), 0))?;
    let origin = format!("http://{}", page.local_addr()?);
    set(&mut config, "--allowed-origin", &origin)?;
    let mut server = Server::bind(config, Arena::default())?;
    println!("open {origin}/?server={}&lobby=arena&name=ann", server.local_addr()?);
    thread::spawn(move || serve(&page));
    server.run()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use lobbyd::sim::{Failure, Plan, Player, Report, Simulator, shrink};

    use super::*;

    /// Presses keys.
    struct Fingers;

    impl Player for Fingers {
        fn act(&mut self, random: &mut Random) -> Option<String> {
            let (dx, dy, fire) = (random.below(5) as i32 - 2, random.below(5) as i32 - 2, random.percent(50));
            Some(format!(r#"{{"type":"input","dx":{dx},"dy":{dy},"fire":{fire}}}"#))
        }
    }

    fn simulate<A: App + 'static>(plan: &Plan, app: A, arena: fn(&A) -> &Arena) -> Result<Report, Box<Failure>> {
        Simulator::new(plan.seed, config(), app)
            .max_clients(plan.clients)
            .without(&plan.without)
            .players(|_, _| Box::new(Fingers))
            .check_app(move |app| arena(app).check())
            .run(plan.steps)
    }

    #[test]
    fn the_arena_holds() {
        for seed in 0..300 {
            let held = simulate(&Plan::new(seed, 300), Arena::default(), |arena| arena);
            held.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    /// The same with a bug that is easy to have: those who vanish without a goodbye are not removed.
    struct Forgetful(Arena);

    impl App for Forgetful {
        const PROTOCOL: Protocol = Arena::PROTOCOL;
        fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            self.0.authorize(cx, request)
        }
        fn on_join(&mut self, cx: &mut Context<'_>, who: &Member) {
            self.0.on_join(cx, who);
        }
        fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
            self.0.on_message(cx, from, message);
        }
        fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
            self.0.on_tick(cx, tick);
        }
        fn on_leave(&mut self, cx: &mut Context<'_>, who: &Member, why: LeaveReason) {
            if why != LeaveReason::Dropped {
                self.0.on_leave(cx, who, why);
            }
        }
    }

    #[test]
    fn the_simulator_finds_players_who_are_not_removed() {
        let run = |plan: &Plan| simulate(plan, Forgetful(Arena::default()), |app| &app.0);
        let failure = (0..300).find_map(|seed| run(&Plan::new(seed, 300)).err()).expect("some seed finds it");
        assert!(failure.violation().contains("plays twice in"), "{failure}");
        let small = shrink(failure.clone(), run);
        assert!(small.plan().steps < failure.plan().steps && small.plan().clients < failure.plan().clients, "{small}");
        assert_eq!(run(small.plan()).expect_err("it fails again").to_string(), small.to_string());
        println!("{small}");
    }
}
