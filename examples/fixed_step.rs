//! A game that owns its loop and has a fixed step: 50 steps a second, with turns of the lobby server in between.
//!
//!     cargo run --example fixed_step
//!     python3 -m websockets 'ws://127.0.0.1:9001/ws/hall?token=ann'
//!
//! Each member has a ball between two walls. `left` and `right` push it. After every step each lobby gets the positions.
//!
//! A step is a command to the game, so a journal records it among the other inputs, and a replay repeats it exactly.
//! `--journal FILE` records, `--replay FILE` replays the last session. A game without a loop of its own needs none of this:
//! it sets `tick_hz`.

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lobbyd::net::{Server, Status, Timeline, print_replay};
use lobbyd::{App, Authorization, Config, Context, Exclude, Frame, LeaveReason, Member, Message, Protocol, Request};
use log::LevelFilter;
use simple_logger::SimpleLogger;

/// Time between two steps.
const STEP: Duration = Duration::from_millis(20);
/// Most steps that are made up for after a delay. Earlier ones are skipped: a game that is too slow for its steps would
/// otherwise never reach the sockets again.
const MAX_LATE_STEPS: u32 = 5;
/// The command that makes the game advance by one step.
const COMMAND: &[u8] = b"step";
const WIDTH: i32 = 1000;

struct Ball {
    member: Member,
    at: i32,
    speed: i32,
}

/// The balls of all lobbies, in join order.
#[derive(Default)]
struct Balls {
    balls: Vec<Ball>,
    steps: u64,
}

impl App for Balls {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let at = cx.random().below(WIDTH as u64) as i32;
        self.balls.push(Ball { member: member.clone(), at, speed: 0 });
    }

    /// The seat is the same, the connection is a newer one.
    fn on_rejoin(&mut self, _: &mut Context<'_>, member: &Member) {
        self.ball(member).member = member.clone();
    }

    fn on_message(&mut self, _: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let push = match message {
            Message::Text("left") => -1,
            Message::Text("right") => 1,
            _ => 0,
        };
        let ball = self.ball(from);
        ball.speed = (ball.speed + push).clamp(-20, 20);
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        if command == COMMAND {
            self.step();
            self.send_positions(cx);
        }
    }

    fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, _: LeaveReason) {
        self.balls.retain(|ball| ball.member.seat() != member.seat());
    }
}

impl Balls {
    /// Advances the game by one step. It depends on the state only, and reads no clock.
    fn step(&mut self) {
        self.steps += 1;
        for Ball { at, speed, .. } in &mut self.balls {
            *at += *speed;
            if !(0..=WIDTH).contains(at) {
                *at = (*at).clamp(0, WIDTH);
                *speed = -*speed;
            }
        }
    }

    fn send_positions(&self, cx: &mut Context<'_>) {
        let mut lobbies: Vec<&str> = self.balls.iter().map(|ball| ball.member.lobby()).collect();
        lobbies.sort_unstable();
        lobbies.dedup();
        for lobby in lobbies {
            let balls = self.balls.iter().filter(|ball| ball.member.lobby() == lobby);
            let positions: Vec<String> = balls.map(|ball| format!("{}={}", ball.member.user(), ball.at)).collect();
            let text = format!("{} {}", self.steps, positions.join(" "));
            cx.broadcast_latest(lobby, Exclude::None, 0, &Frame::text(&text));
        }
    }

    fn ball(&mut self, member: &Member) -> &mut Ball {
        let ball = self.balls.iter_mut().find(|ball| ball.member.seat() == member.seat());
        ball.expect("on_join added the member")
    }

    /// Checks the game's invariants.
    fn check(&self) -> Result<(), String> {
        match self.balls.iter().find(|ball| !(0..=WIDTH).contains(&ball.at)) {
            Some(ball) => Err(format!("the ball of {} is outside, at {}", ball.member.user(), ball.at)),
            None => Ok(()),
        }
    }
}

/// The loop of the game.
#[allow(clippy::disallowed_methods, reason = "the loop of a game reads the clock; the game does not")]
fn play(server: &mut Server<Balls>) -> Result<(), Box<dyn Error>> {
    let handle = server.handle();
    let mut next = Instant::now() + STEP;
    loop {
        let now = Instant::now();
        if now > next + (MAX_LATE_STEPS - 1) * STEP {
            next = now - (MAX_LATE_STEPS - 1) * STEP;
        }
        while next <= now {
            handle.send(COMMAND)?;
            next += STEP;
        }
        // Other work of the program goes here. It reads the game through server.engine().app().
        if let Status::Stopped(_) = server.turn(Some(next - now))? {
            return Ok(());
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} takes a value"))?;
        if flag == "--replay" {
            print_replay(value.as_ref(), Balls::default(), Balls::check, &Timeline::default(), io::stdout())?;
            return Ok(());
        }
        let field = Config::FIELDS.iter().find(|field| field.flag() == flag.trim_start_matches('-'));
        let field = field.ok_or(format!("there is no {flag}"))?;
        (field.set)(&mut config, &value).map_err(|error| format!("{flag}: {error}"))?;
    }
    // Logs each connect and close.
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    let mut server = Server::bind(config, Balls::default())?;
    #[cfg(unix)]
    server.listen_to_signals()?;
    println!("listening on {}", server.local_addr()?);
    play(&mut server)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fixed_step: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use lobbyd::Random;
    use lobbyd::sim::{Failure, Plan, Player, Report, Simulator};

    use super::*;

    /// A client that pushes its ball at random, and checks the order of the steps.
    #[derive(Default)]
    struct Pusher {
        step: u64,
    }

    impl Player for Pusher {
        fn act(&mut self, random: &mut Random) -> Option<String> {
            Some(if random.percent(50) { "left" } else { "right" }.to_owned())
        }

        fn heard(&mut self, text: &str) -> Result<(), String> {
            let step = text.split(' ').next().and_then(|step| step.parse().ok());
            self.step = step.filter(|&step| step > self.step).ok_or("a step out of order")?;
            Ok(())
        }
    }

    fn simulate(plan: &Plan, check: fn(&Balls) -> Result<(), String>) -> Result<Report, Box<Failure>> {
        Simulator::new(plan.seed, Config::default(), Balls::default())
            .max_clients(plan.clients)
            .without(&plan.without)
            .players(|_, _| Box::new(Pusher::default()))
            .command_every(STEP, COMMAND)
            .check_app(check)
            .replayed_with(Balls::default)
            .run(plan.steps)
    }

    #[test]
    fn the_balls_stay_inside_and_every_run_replays_exactly() {
        for plan in Plan::seeds(0..40, 300, std::env::var("LOBBYD_PLAN").ok()) {
            simulate(&plan, Balls::check).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    #[test]
    fn the_simulator_steps_the_game() {
        let check = |balls: &Balls| if balls.steps < 50 { Ok(()) } else { Err("50 steps".into()) };
        let failure = (0..20).find_map(|seed| simulate(&Plan::new(seed, 300), check).err()).expect("steps are made");
        assert!(failure.violation().ends_with("50 steps"), "{failure}");
    }
}
