//! The report of a failed simulation, for an application with planted faults.

use std::collections::BTreeMap;

use lobbyd::sim::{Failure, Plan, Player, Report, Simulator};
use lobbyd::{
    App, Authorization, Config, Context, Frame, LeaveReason, Member, Message, Protocol, Random, Request, SeatId,
};

/// The fault of a [`Counter`].
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A member whose connection dropped is not removed.
    Forgets,
    /// The answer to the third message of a member is wrong.
    Miscounts,
    /// The third message of a member panics.
    Panics,
}

/// Answers each message with the number of messages of the member so far.
struct Counter {
    fault: Fault,
    members: BTreeMap<SeatId, (String, u64)>,
}

impl App for Counter {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, _: &mut Context<'_>, member: &Member) {
        self.members.insert(member.seat(), (member.user().to_owned(), 0));
    }

    fn on_rejoin(&mut self, _: &mut Context<'_>, member: &Member) {
        self.members.insert(member.seat(), (member.user().to_owned(), 0));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
        let (_, count) = self.members.get_mut(&from.seat()).expect("on_join added the member");
        *count += 1;
        assert!(self.fault != Fault::Panics || *count < 3, "the test panics on purpose");
        let shown = if self.fault == Fault::Miscounts && *count == 3 { 7 } else { *count };
        cx.send_to_conn(from.conn(), &Frame::text(&format!(r#"{{"type":"count","count":{shown}}}"#)));
    }

    fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        if self.fault != Fault::Forgets || reason != LeaveReason::Dropped {
            self.members.remove(&member.seat());
        }
    }
}

impl Counter {
    fn check(&self) -> Result<(), String> {
        let users: Vec<&String> = self.members.values().map(|(user, _)| user).collect();
        match (1..users.len()).find(|&at| users[..at].contains(&users[at])) {
            Some(at) => Err(format!("{} is there twice", users[at])),
            None => Ok(()),
        }
    }
}

#[derive(Default)]
struct Caller {
    calls: u64,
    counted: u64,
}

impl Player for Caller {
    fn act(&mut self, _: &mut Random) -> Option<String> {
        self.calls += 1;
        Some(format!(r#"{{"type":"call","number":{}}}"#, self.calls))
    }

    fn heard(&mut self, text: &str) -> Result<(), String> {
        if text.contains(r#""type":"count""#) {
            self.counted += 1;
            let expected = format!(r#""count":{}}}"#, self.counted);
            return if text.ends_with(&expected) { Ok(()) } else { Err("a wrong count".into()) };
        }
        Ok(())
    }
}

fn run(plan: &Plan, fault: Fault) -> Result<Report, Box<Failure>> {
    Simulator::new(plan.seed, Config::default(), Counter { fault, members: BTreeMap::new() })
        .max_clients(plan.clients)
        .without(&plan.without)
        .players(|_, _| Box::new(Caller::default()))
        .check_app(Counter::check)
        .run(plan.steps)
}

/// Returns the first failure of a fault, and checks what the reports of all faults have in common.
#[track_caller]
fn failure(fault: Fault) -> (Box<Failure>, String) {
    // From this seed on, the first failure of each fault shows everything that its test looks for.
    let failure =
        (35..100).find_map(|seed| run(&Plan::new(seed, 300), fault).err()).expect("some seed shows the fault");
    let text = failure.to_string();
    let seed = failure.plan().seed;
    assert!(text.starts_with(&format!("seed {seed} failed at step {}: ", failure.step())), "{text}");
    // Masked bytes would be shown as escapes.
    assert!(!text.contains("\\x"), "{text}");
    // The command repeats the run.
    let (_, command) = text.rsplit_once("repeat it with: ").expect("the last line is the command");
    let plan = command.strip_prefix("LOBBYD_PLAN='").and_then(|rest| rest.strip_suffix("' cargo test"));
    let plan: Vec<Plan> = Plan::seeds(0..1, 1, Some(plan.expect("the plan is quoted").to_owned())).collect();
    assert_eq!(plan, [failure.plan().clone()]);
    assert_eq!(run(&plan[0], fault).expect_err("it fails again").to_string(), text);
    (failure, text)
}

/// Returns the lines between two headings.
fn lines<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    text.lines().skip_while(|line| !line.starts_with(from)).skip(1).take_while(|line| !line.starts_with(to)).collect()
}

#[test]
fn without_a_fault_nothing_fails() {
    for seed in 0..20 {
        run(&Plan::new(seed, 300), Fault::None).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn a_violated_invariant_is_shown_with_the_frames_of_the_user_that_it_names() {
    let (failure, text) = failure(Fault::Forgets);
    assert!(text.contains("\nexpected: check_app() returns Ok after every step\n"), "{text}");
    let user =
        failure.violation().strip_prefix("the application's invariant: ").and_then(|rest| rest.split(" is").next());
    let user = user.expect("the violation begins with the user");
    // Both connections of the user are named: the one that dropped, and the newer one.
    let concerned = text.lines().find_map(|line| line.strip_prefix("clients concerned: ")).expect("a line of clients");
    let of_user: Vec<&str> = concerned.split("; ").filter(|client| client.contains(&format!(" {user}"))).collect();
    assert!(of_user.len() >= 2 && of_user.iter().any(|client| client.ends_with(", ended")), "{text}");
    let numbers = of_user.iter().map(|client| client.split(' ').next().expect("it begins with its number"));
    let events = lines(&text, "the last events", "what the clients");
    assert!((20..=40).contains(&events.len()), "{text}");
    for number in numbers {
        let of_number = events.iter().filter(|event| event.split_whitespace().nth(3) == Some(number));
        assert!(of_number.count() > 1, "{number} in {text}");
    }
    let shows = |words: &str| events.iter().any(|event| event.contains(words));
    assert!(shows(" > GET /ws/") && shows(r#" < text {"type":"welcome""#), "{text}");
    assert!(shows(r#" > text {"type":"call","number":"#), "{text}");
}

#[test]
fn a_message_that_the_player_rejects_is_shown_with_what_the_player_sent() {
    let (failure, text) = failure(Fault::Miscounts);
    assert_eq!(failure.violation(), r#"a wrong count: {"type":"count","count":7}"#);
    assert!(text.contains("\nexpected: the player's heard() accepts every text that its client receives\n"), "{text}");
    let sent = lines(&text, "what the clients", "repeat it");
    let has_sent =
        |call: u64| sent.iter().any(|line| line.ends_with(&format!(r#" text {{"type":"call","number":{call}}}"#)));
    assert!(has_sent(3), "{text}");
    assert!(
        lines(&text, "the last events", "what")
            .iter()
            .any(|line| line.contains(r#"< text {"type":"count","count":7}"#))
    );
}

#[test]
fn the_message_that_causes_a_panic_is_shown() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (failure, text) = failure(Fault::Panics);
    std::panic::set_hook(hook);
    assert_eq!(failure.violation(), "panicked: the test panics on purpose");
    assert!(text.contains("\nexpected: neither the application nor the server panics\n"), "{text}");
    let events = lines(&text, "the last events", "what");
    assert!(events.last().is_some_and(|event| event.contains(r#"> text {"type":"call","number":"#)), "{text}");
}
