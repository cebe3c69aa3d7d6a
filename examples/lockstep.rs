//! Inputs that state the tick for which they are meant.
//!
//!     cargo run --example lockstep
//!     python3 -m websockets 'ws://127.0.0.1:9001/ws/race?token=ann'
//!
//! A client runs a little ahead of the server: it applies its own input at once, and sends it with the number of the tick
//! in which the server is to apply it: `{"type":"input","tick":41,"dx":1}`. The server applies it in that tick. If it
//! arrives later, it is applied in the next tick. One frame for each tick states the inputs that were applied in it, and
//! how many ticks late each was: a client whose inputs are late sends them earlier. All clients that apply the same frames
//! have the same state, which they get when they join.
//!
//! Every field of the configuration is a flag, such as `--journal FILE`. `--replay FILE` replays the last session of that
//! journal and prints its timeline.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::process::ExitCode;

use lobbyd::config::Flush;
use lobbyd::net::{Server, Timeline, print_replay};
use lobbyd::ticks::Tick;
use lobbyd::{
    App, Authorization, Config, Context, Exclude, Frame, LeaveReason, Member, Message, Protocol, Reject, Request,
    SeatId,
};
use log::LevelFilter;
use serde::{Deserialize, Serialize};
use simple_logger::SimpleLogger;

/// Most ticks that an input may be ahead. Bounds the inputs that wait.
const MAX_AHEAD: u64 = 40;
/// Most ticks that an input may be late. A client cannot change what was long ago.
const MAX_LATE: u64 = 10;

#[derive(Deserialize)]
struct Input {
    tick: u64,
    dx: i32,
}

struct Player {
    user: String,
    seat: SeatId,
    x: i32,
    /// Inputs that wait, by the tick for which they are meant. A newer one for the same tick replaces an older one.
    waiting: BTreeMap<u64, i32>,
    /// Tick of the newest input that was applied. No input for it or an earlier tick is taken any more, so that nobody
    /// moves twice for one tick.
    last_input: u64,
    joined: u64,
    moves: u64,
}

/// An input that was applied.
#[derive(Serialize)]
struct Applied {
    user: String,
    /// The tick for which it was meant.
    meant: u64,
    /// How many ticks later it was applied.
    late: u64,
    x: i32,
}

#[derive(Serialize)]
struct TickFrame {
    r#type: &'static str,
    tick: u64,
    inputs: Vec<Applied>,
}

#[derive(Serialize)]
struct StateFrame<'a> {
    r#type: &'static str,
    tick: u64,
    positions: Vec<(&'a str, i32)>,
}

/// The players of each lobby, in join order.
#[derive(Default)]
struct Race {
    lobbies: BTreeMap<String, Vec<Player>>,
}

impl App for Race {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let (user, seat, joined) = (member.user().to_owned(), member.seat(), cx.tick());
        let player = Player { user, seat, x: 0, waiting: BTreeMap::new(), last_input: joined, joined, moves: 0 };
        self.lobbies.entry(member.lobby().to_owned()).or_default().push(player);
        self.send_state(cx, member);
    }

    /// A newer connection of the player begins anew: inputs that the older one sent ahead are dropped.
    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.player(member).waiting.clear();
        self.send_state(cx, member);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let Message::Json { kind: "input", text } = message else {
            return cx.reject(Reject::BadMessage, "the game takes inputs");
        };
        let Ok(Input { tick, dx }) = serde_json::from_str(text) else {
            return cx.reject(Reject::BadMessage, "an input has tick and dx");
        };
        let now = cx.tick();
        let player = self.player(from);
        if tick <= player.last_input || tick < now.saturating_sub(MAX_LATE) {
            return cx.reject(Reject::BadMessage, format!("the input for tick {tick} is too late in tick {now}"));
        }
        if tick > now + MAX_AHEAD {
            return cx.reject(Reject::BadMessage, format!("the input for tick {tick} is too early in tick {now}"));
        }
        player.waiting.insert(tick, dx.clamp(-1, 1));
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        let tick = tick.number();
        for (lobby, players) in &mut self.lobbies {
            let inputs = players.iter_mut().flat_map(|player| player.apply(tick)).collect();
            let frame = Frame::json(&TickFrame { r#type: "tick", tick, inputs }).expect("names and numbers are JSON");
            cx.broadcast_to_lobby(lobby, Exclude::None, &frame);
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

impl Player {
    /// Applies the inputs that are meant for `tick` or were late for an earlier one.
    fn apply(&mut self, tick: u64) -> Vec<Applied> {
        let mut applied = Vec::new();
        while let Some(input) = self.waiting.first_entry().filter(|input| *input.key() <= tick) {
            let (meant, dx) = input.remove_entry();
            self.x += dx;
            self.last_input = meant;
            self.moves += 1;
            applied.push(Applied { user: self.user.clone(), meant, late: tick - meant, x: self.x });
        }
        applied
    }
}

impl Race {
    fn player(&mut self, member: &Member) -> &mut Player {
        let players = self.lobbies.get_mut(member.lobby()).into_iter().flatten();
        players.into_iter().find(|player| player.seat == member.seat()).expect("on_join added the member")
    }

    fn send_state(&self, cx: &mut Context<'_>, member: &Member) {
        let positions = self.lobbies[member.lobby()].iter().map(|player| (&*player.user, player.x)).collect();
        let state = StateFrame { r#type: "state", tick: cx.tick(), positions };
        cx.send_to_conn(member.conn(), &Frame::json(&state).expect("names and numbers are JSON"));
    }

    /// Checks the game's invariants.
    fn check(&self) -> Result<(), String> {
        for player in self.lobbies.values().flatten() {
            let Player { user, moves, joined, last_input, waiting, .. } = player;
            if *moves > last_input - joined {
                return Err(format!("{user} moved {moves} times from tick {joined} to {last_input}"));
            }
            if waiting.len() as u64 > MAX_AHEAD + MAX_LATE + 1 {
                return Err(format!("{} inputs of {user} wait", waiting.len()));
            }
        }
        Ok(())
    }
}

fn config() -> Config {
    Config { tick_hz: Some(20), flush: Flush::Tick, ..Config::default() }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut config = config();
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} takes a value"))?;
        if flag == "--replay" {
            print_replay(value.as_ref(), Race::default(), Race::check, &Timeline::default(), io::stdout())?;
            return Ok(());
        }
        let field = Config::FIELDS.iter().find(|field| field.flag() == flag.trim_start_matches('-'));
        let field = field.ok_or(format!("there is no {flag}"))?;
        (field.set)(&mut config, &value).map_err(|error| format!("{flag}: {error}"))?;
    }
    // Logs each connect and close.
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    let mut server = Server::bind(config, Race::default())?;
    #[cfg(unix)]
    server.listen_to_signals()?;
    println!("listening on {}", server.local_addr()?);
    server.run()?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockstep: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use lobbyd::driver::Start;
    use lobbyd::sim::wire::{self, Reader, Received};
    use lobbyd::sim::{MemorySockets, Plan, Player, Simulator};
    use lobbyd::{Engine, Random, Time};
    use serde_json::Value;

    use super::*;

    /// A client that sends inputs for the next ticks, and sometimes for past ones.
    #[derive(Default)]
    struct Runner {
        /// The newest tick that it has seen.
        tick: u64,
    }

    impl Player for Runner {
        fn act(&mut self, random: &mut Random) -> Option<String> {
            let (tick, dx) = ((self.tick + random.below(8)).saturating_sub(3), random.below(3) as i32 - 1);
            Some(format!(r#"{{"type":"input","tick":{tick},"dx":{dx}}}"#))
        }

        fn heard(&mut self, text: &str) -> Result<(), String> {
            let frame: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            match frame["type"].as_str() {
                Some("state") => self.tick = frame["tick"].as_u64().ok_or("a state without a tick")?,
                Some("tick") => {
                    let tick = frame["tick"].as_u64().filter(|&tick| tick > self.tick).ok_or("a tick out of order")?;
                    self.tick = tick;
                    for input in frame["inputs"].as_array().ok_or("a tick without inputs")? {
                        let (meant, late) = (input["meant"].as_u64(), input["late"].as_u64());
                        if meant.zip(late).is_none_or(|(meant, late)| meant + late != tick || late > tick) {
                            return Err("the lateness of an input is wrong".into());
                        }
                    }
                }
                _ => {}
            }
            Ok(())
        }
    }

    #[test]
    fn the_race_holds_and_replays_exactly() {
        for plan in Plan::seeds(0..40, 300, std::env::var("LOBBYD_PLAN").ok()) {
            let simulator = Simulator::new(plan.seed, config(), Race::default())
                .max_clients(plan.clients)
                .without(&plan.without)
                .players(|_, _| Box::new(Runner::default()))
                .check_app(Race::check)
                .replayed_with(Race::default);
            simulator.run(plan.steps).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    /// Ann sends each input, all of them between the ticks 2 and 3. Returns the inputs that each tick applied, as
    /// `tick: meant+late`.
    fn applied(ticks: &[u64]) -> Vec<String> {
        let mut engine = Engine::new(
            config().check().expect("the configuration is valid"),
            Start { unix_micros: 0, seed: 1 },
            Race::default(),
        );
        let mut sockets = MemorySockets::default();
        let at = |tick: u64| Time::from_micros(tick * 50_000);
        let ann = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(Time::ZERO, ann, &wire::upgrade_request("/ws/race?token=ann", &[]));
        for tick in 1..=8 {
            engine.end_turn(at(tick), &mut sockets).expect("nothing is recorded");
            for meant in ticks.iter().filter(|_| tick == 2) {
                let input = format!(r#"{{"type":"input","tick":{meant},"dx":1}}"#);
                engine.handle_bytes(at(2), ann, &wire::text(&input));
            }
        }
        let mut reader = Reader::default();
        reader.push(&sockets.written(ann));
        let mut applied = Vec::new();
        while let Some(received) = reader.next().expect("the server keeps the protocol") {
            let Received::Text(text) = received else { continue };
            let frame: Value = serde_json::from_str(&text).expect("the protocol is JSON");
            for input in frame["inputs"].as_array().into_iter().flatten() {
                applied.push(format!("{}: {}+{}", frame["tick"], input["meant"], input["late"]));
            }
        }
        applied
    }

    #[test]
    fn an_input_is_applied_in_its_tick_or_the_next_one() {
        assert_eq!(applied(&[3, 5]), ["3: 3+0", "5: 5+0"]);
        assert_eq!(applied(&[1, 2]), ["3: 1+2", "3: 2+1"]);
        assert_eq!(applied(&[3, 3, 2]), ["3: 2+1", "3: 3+0"], "one move for each tick");
        assert_eq!(applied(&[0, 100, u64::MAX]), [""; 0], "before ann joined, and too early");
    }
}
