//! An arena game. The server computes all positions and hits, 60 times a second, and sends them to all members 20 times a
//! second.
//!
//!     cargo run --example arena
//!
//! Then open the address that it prints in two windows: each is a player. Every field of the configuration is a flag, as
//! with the program itself, such as `--listen 127.0.0.1:9010` or `--journal FILE`. `--replay FILE` replays the last session
//! of that journal, prints its timeline, and checks the game after every input. On SIGTERM and SIGINT all members get a
//! goodbye, and the program ends.
//!
//! The game is deterministic: it reads no clock, draws no randomness of its own and walks no `HashMap`. Its state depends
//! only on the inputs of each tick, so a replay reproduces it.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::thread;

use lobbyd::config::{Flush, ListenAddress};
use lobbyd::net::{Server, Timeline, print_replay};
use lobbyd::ticks::Tick;
use lobbyd::{
    App, Authorization, Config, Context, Exclude, Frame, LeaveReason, Member, Message, Protocol, Random, Reject,
    Request, SeatId,
};
use log::LevelFilter;
use serde::{Deserialize, Serialize};
use simple_logger::SimpleLogger;

const PAGE: &str = include_str!("arena.html");

const WIDTH: i32 = 800;
const HEIGHT: i32 = 480;
/// Distance that a player moves in one tick.
const STEP: i32 = 4;
/// Largest distance, on each axis, at which a shot hits.
const REACH: i32 = 80;
/// Ticks between two shots of one player.
const RELOAD: u32 = 30;
/// Ticks between two snapshots.
const SNAPSHOT_TICKS: u64 = 3;

/// Keys that a member holds down until its next input: `{"type":"input","dx":1,"dy":0,"fire":false}`.
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
    /// The newest input. It is applied once per tick, so sending more inputs makes no player faster.
    #[serde(skip)]
    input: Input,
    /// Stays the same when a newer connection takes the seat over.
    #[serde(skip)]
    seat: SeatId,
}

/// The complete visible state of a lobby. A client that missed snapshots, or that reconnects, needs only the next one.
#[derive(Serialize)]
struct Snapshot<'a> {
    r#type: &'a str,
    tick: u64,
    players: &'a [Player],
}

/// The players of each lobby, in join order.
#[derive(Default)]
struct Arena {
    lobbies: BTreeMap<String, Vec<Player>>,
}

impl App for Arena {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let (user, seat, input) = (member.user().to_owned(), member.seat(), Input::default());
        let mut player = Player { user, x: 0, y: 0, score: 0, reload: 0, input, seat };
        player.respawn(cx.random());
        self.lobbies.entry(member.lobby().to_owned()).or_default().push(player);
    }

    /// The keys that were held in the older window do not count any more. The next snapshot brings the state.
    fn on_rejoin(&mut self, _: &mut Context<'_>, member: &Member) {
        self.player(member).input = Input::default();
    }

    /// Nobody holds the keys of a player whose connection is lost. It comes back to its place in the arena.
    fn on_away(&mut self, _: &mut Context<'_>, member: &Member, _: LeaveReason) {
        self.player(member).input = Input::default();
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let Message::Json { kind: "input", text } = message else {
            return cx.reject(Reject::BadMessage, "the arena takes inputs");
        };
        let Ok(input) = serde_json::from_str(text) else {
            return cx.reject(Reject::BadMessage, "an input has dx, dy and fire");
        };
        self.player(from).input = input;
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        for (lobby, players) in &mut self.lobbies {
            for at in 0..players.len() {
                play(players, at, cx.random());
            }
            if tick.number().is_multiple_of(SNAPSHOT_TICKS) {
                let snapshot = Snapshot { r#type: "snapshot", tick: tick.number(), players };
                let frame = Frame::json(&snapshot).expect("names and numbers are JSON");
                cx.broadcast_latest(lobby, Exclude::None, 0, &frame);
            }
        }
    }

    fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, _: LeaveReason) {
        let players = self.lobbies.get_mut(member.lobby()).expect("on_join added the member");
        players.retain(|player| player.seat != member.seat());
        if players.is_empty() {
            self.lobbies.remove(member.lobby());
        }
    }
}

/// Computes one tick of one player.
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
        let Player { x: other_x, y: other_y, .. } = players[other];
        if other != at && (other_x - x).abs() <= REACH && (other_y - y).abs() <= REACH {
            players[at].score += 1;
            players[other].respawn(random);
        }
    }
}

impl Player {
    fn respawn(&mut self, random: &mut Random) {
        self.x = random.below(WIDTH as u64) as i32;
        self.y = random.below(HEIGHT as u64) as i32;
    }
}

impl Arena {
    fn player(&mut self, member: &Member) -> &mut Player {
        let players = self.lobbies.get_mut(member.lobby()).into_iter().flatten();
        players.into_iter().find(|player| player.seat == member.seat()).expect("on_join added the member")
    }

    /// Checks the game's invariants.
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
    (field.ok_or(format!("there is no {flag}"))?.set)(config, value).map_err(|error| format!("{flag}: {error}"))
}

/// Answers every request with the page: enough for an example.
fn serve(page: &TcpListener) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    );
    for mut browser in page.incoming().flatten() {
        let answer = answer.clone();
        // Browsers open spare connections and send no request on them yet. They must not block the others.
        thread::spawn(move || browser.read(&mut [0; 4096]).and_then(|_| browser.write_all(answer.as_bytes())));
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut config = config();
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} takes a value"))?;
        if flag == "--replay" {
            print_replay(value.as_ref(), Arena::default(), Arena::check, &Timeline::default(), io::stdout())?;
            return Ok(());
        }
        set(&mut config, &flag, &value)?;
    }
    // Logs each connect and close.
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    // The page is served from another port than the WebSocket server, so its origin must be allowed.
    let ip = match config.listen.addresses() {
        [ListenAddress::Ip(address)] => address.ip(),
        _ => return Err("--listen takes one IP address and a port".into()),
    };
    let page = TcpListener::bind((ip, 0))?;
    let origin = format!("http://{}", page.local_addr()?);
    config.allowed_origin.listed.push(origin.clone());
    // The page loads `lobby.js` from the server.
    config.serve_client = true;
    let mut server = Server::bind(config, Arena::default())?;
    #[cfg(unix)]
    server.listen_to_signals()?;
    let address = server.local_addr()?;
    println!("listening on {address}");
    println!("open {origin}/?server={address} in two windows");
    thread::spawn(move || serve(&page));
    server.run()?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arena: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use lobbyd::sim::{Failure, Plan, Player, Report, Simulator, shrink};

    use super::*;

    /// A player that presses random keys.
    struct RandomKeys;

    impl Player for RandomKeys {
        fn act(&mut self, random: &mut Random) -> Option<String> {
            let (dx, dy, fire) = (random.below(5) as i32 - 2, random.below(5) as i32 - 2, random.percent(50));
            Some(format!(r#"{{"type":"input","dx":{dx},"dy":{dy},"fire":{fire}}}"#))
        }
    }

    fn simulate<A: App + 'static>(plan: &Plan, app: A, arena: fn(&A) -> &Arena) -> Result<Report, Box<Failure>> {
        Simulator::new(plan.seed, config(), app)
            .max_clients(plan.clients)
            .without(&plan.without)
            .players(|_, _| Box::new(RandomKeys))
            .check_app(move |app| arena(app).check())
            .run(plan.steps)
    }

    #[test]
    fn the_arena_holds() {
        for plan in Plan::seeds(0..100, 300, std::env::var("LOBBYD_PLAN").ok()) {
            let result = simulate(&plan, Arena::default(), |arena| arena);
            result.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    /// The arena with a typical bug: players whose connection dropped are not removed.
    struct Forgetful(Arena);

    impl App for Forgetful {
        const PROTOCOL: Protocol = Arena::PROTOCOL;
        fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            self.0.authorize(cx, request)
        }
        fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
            self.0.on_join(cx, member);
        }
        fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
            self.0.on_rejoin(cx, member);
        }
        fn on_away(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
            self.0.on_away(cx, member, reason);
        }
        fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
            self.0.on_message(cx, from, message);
        }
        fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
            self.0.on_tick(cx, tick);
        }
        fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
            if reason != LeaveReason::Dropped {
                self.0.on_leave(cx, member, reason);
            }
        }
    }

    #[test]
    fn the_simulator_finds_players_that_are_not_removed() {
        let run = |plan: &Plan| simulate(plan, Forgetful(Arena::default()), |app| &app.0);
        let failure = (0..300).find_map(|seed| run(&Plan::new(seed, 300)).err()).expect("some seed finds it");
        assert!(failure.violation().contains("plays twice in"), "{failure}");
        let small = shrink(failure.clone(), run);
        assert!(small.plan().steps < failure.plan().steps && small.plan().clients < failure.plan().clients, "{small}");
        assert_eq!(run(small.plan()).expect_err("it fails again").to_string(), small.to_string());
        println!("{small}");
    }
}
