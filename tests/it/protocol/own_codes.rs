//! An application's own close and error codes, and the data of identities: on the wire, in statistics, journals and
//! simulations.

use lobbyd::admin::AdminConns;
use lobbyd::apps::CatchPanics;
use lobbyd::codes::{CloseCode, ErrorCode};
use lobbyd::journal::{self, RotateHint};
use lobbyd::sim::{Player, Simulator, wire};
use lobbyd::{
    App, Authorization, CloseReason, Config, Context, Identity, LeaveReason, Member, Message, Protocol, Random, Reject,
    Request,
};
use serde_json::json;

use crate::common::scenario::World;
use crate::common::segments::Segments;
use crate::journal::site::Site;

const NOT_INVITED: CloseReason = CloseReason::app(4400, "not_invited");
const LOST: CloseReason = CloseReason::app(4401, "lost");
const PAUSED: CloseReason = CloseReason::app(4500, "paused");
const NEXT_ROUND: CloseReason = CloseReason::app(4699, "next_round");
const NOT_YOUR_TURN: Reject = Reject::app("not_your_turn");
const TOO_POOR: Reject = Reject::app("too_poor");

/// A duel. The query parameter `role` becomes the data of the identity, and the user `eve` is not invited.
#[derive(Default)]
struct Duel<const JSON: bool> {
    joins: Vec<String>,
    leaves: Vec<LeaveReason>,
}

impl<const JSON: bool> App for Duel<JSON> {
    const PROTOCOL: Protocol = if JSON { Protocol::Json } else { Protocol::Raw };

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        match request.token() {
            Some("eve") => Authorization::Refuse(NOT_INVITED),
            Some("late") => Authorization::Pending { user: None },
            Some(user) => Authorization::Allow(match request.query("role") {
                Some(role) => Identity::new(user).data(role.as_bytes()),
                None => Identity::new(user),
            }),
            None => Authorization::Refuse(CloseReason::Unauthorized),
        }
    }

    fn on_join(&mut self, _: &mut Context<'_>, member: &Member) {
        self.joins.push(format!("{} {}", member.user(), role(member)));
    }

    fn on_rejoin(&mut self, _: &mut Context<'_>, member: &Member) {
        self.joins.push(format!("{} again {}", member.user(), role(member)));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        match message {
            Message::Json { kind: "role", .. } => {
                cx.broadcast_message(from, &format!("{:?}", role(from)));
            }
            Message::Json { kind: "move", .. } => cx.reject(NOT_YOUR_TURN, "wait for the other player"),
            Message::Json { kind: "buy", .. } => cx.reject(TOO_POOR, "it costs 5"),
            Message::Json { kind: "lose", .. } | Message::Text("lose") => cx.close(from.conn(), LOST),
            Message::Json { kind: "pause", .. } => drop(cx.close_lobby(from.lobby(), PAUSED)),
            Message::Json { kind: "next", .. } => drop(cx.close_user(from.user(), NEXT_ROUND)),
            _ => {}
        }
    }

    fn on_leave(&mut self, _: &mut Context<'_>, _: &Member, reason: LeaveReason) {
        self.leaves.push(reason);
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

fn role(member: &Member) -> String {
    member.data().map_or("none".into(), |data| String::from_utf8_lossy(data).into_owned())
}

#[test]
fn clients_receive_the_applications_codes() {
    let mut world = World::new(Config::default(), Duel::<true>::default());
    world.run(
        r#"
        ann, bob join chess
        ann > {"type":"move","ref":1}
        ann < error ref=1 code=not_your_turn
        bob > {"type":"lose"}
        bob < goodbye code=4401 reason=lost reconnect=false, close 4401 lost
        ann < presence_diff -bob:kicked
        ann > {"type":"next"}
        ann < goodbye code=4699 reason=next_round reconnect=true, close 4699 next_round
        cid > connect chess
        cid < upgrade, welcome, presence_state
        cid > {"type":"pause"}
        cid < goodbye code=4500 reason=paused reconnect=true, close 4500 paused
        eve > connect chess
        eve < upgrade, goodbye code=4400 reason=not_invited reconnect=false, close 4400 not_invited
        "#,
    );
    assert_eq!(world.engine.app().leaves, [LeaveReason::Kicked; 3]);
    let mut world = World::new(Config::default(), Duel::<false>::default());
    world.run("ann > connect chess\nann < upgrade\nann > text lose\nann < close 4401 lost");
}

#[test]
fn the_applications_codes_are_counted_one_by_one() {
    let mut world = World::new(Config::default(), CatchPanics::new(Duel::<true>::default()));
    for user in ["ann", "bob", "eve"] {
        let sees = if user == "eve" { "goodbye, close 4400 not_invited" } else { "welcome, presence_state" };
        world.run(&format!("{user} > connect {user}\n{user} < upgrade, {sees}"));
    }
    world.run(
        r#"
        ann > {"type":"buy"}
        ann < error code=too_poor
        ann > {"type":"move"}
        ann < error code=not_your_turn
        ann > {"type":"move"}
        ann < error code=not_your_turn
        ann > {"type":"lose"}
        ann < goodbye, close 4401 lost
        bob > {"type":"lose"}
        bob < goodbye, close 4401 lost
        "#,
    );
    let stats = world.engine.stats();
    let counters = &stats.counters;
    assert_eq!(counters.closes().collect::<Vec<_>>(), [(NOT_INVITED, 1), (LOST, 2)]);
    assert_eq!(counters.rejects().collect::<Vec<_>>(), [(NOT_YOUR_TURN, 2), (TOO_POOR, 1)]);
    assert_eq!((counters.closed(LOST), counters.closed(PAUSED), counters.closed_in_all()), (2, 0, 3));
    assert_eq!((counters.rejected(TOO_POOR), counters.rejected(Reject::NotAllowed)), (1, 0));
    let line = stats.line();
    let end = "closed.4400_not_invited=1 closed.4401_lost=2 error.not_your_turn=2 error.too_poor=1";
    assert!(line.ends_with(end), "{line}");
    let mut operators = AdminConns::new(&Config::default(), None);
    let operator = operators.handle_accept(world.now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    operators.handle_bytes(operator, b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n");
    operators.work(world.now, &mut world.engine);
    let answer = str::from_utf8(operators.pending(operator)).expect("JSON is UTF-8");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["closed"], json!({"4400_not_invited": 1, "4401_lost": 2}));
    assert_eq!(body["errors"], json!({"not_your_turn": 2, "too_poor": 1}));
}

#[test]
fn codes_from_a_configuration_are_checked() {
    assert_eq!(CloseCode::new(4401, "lost").map(CloseReason::App), Some(LOST));
    assert_eq!(ErrorCode::new("too_poor").map(Reject::App), Some(TOO_POOR));
    for (number, word) in [(4399, "lost"), (4700, "lost"), (1000, "lost"), (4400, ""), (4400, "Lost")] {
        assert_eq!(CloseCode::new(number, word), None, "{number} {word}");
    }
}

/// A newer connection brings its own data. A pending authorization is answered with data.
#[test]
fn data_reaches_the_application_with_each_member() {
    let mut world = World::new(Config::default(), Duel::<true>::default());
    world.run(
        r#"
        ann > get /ws/chess?token=ann&role=white
        ann < upgrade, welcome, presence_state
        bob > get /ws/chess?token=bob
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        ann > {"type":"role"}
        bob < message from=ann data="white"
        ann2 > get /ws/chess?token=ann&role=black
        ann2 < upgrade, welcome, presence_state
        ann < goodbye, close 4004 replaced
        ann2 > {"type":"role"}
        bob < message from=ann data="black"
        late > connect chess
        late < nothing
        "#,
    );
    let identity = Identity::new("cid").data(*b"watcher");
    world.authorize("late", Authorization::Allow(identity));
    world.steps("late < upgrade, welcome, presence_state");
    assert_eq!(world.engine.app().joins, ["ann white", "bob none", "ann again black", "cid watcher"]);
    world.engine.check();
}

#[test]
fn codes_and_data_are_replayed_from_the_beginning_and_from_a_checkpoint() {
    let mut site = Site::with(Config::default(), Duel::<true>::default(), Segments::new(|_| RotateHint::WhenEmpty));
    for _ in 0..2 {
        let ann = site.connect("/ws/chess?token=ann&role=a-role-of-ann", &[]);
        let late = site.connect("/ws/chess?token=late", &[]);
        site.connect("/ws/chess?token=eve", &[]);
        site.turn();
        site.engine.handle_authorized(site.now, late, Authorization::Allow(Identity::new("bob").data(*b"\x00\xff")));
        for kind in ["role", "move", "lose"] {
            site.bytes(ann, &wire::text(&format!("{{\"type\":\"{kind}\",\"ref\":1}}")));
        }
        site.turn();
        let again = site.connect("/ws/chess?token=late", &[]);
        site.turn();
        site.engine.handle_authorized(site.now, again, Authorization::Refuse(PAUSED));
        site.turn();
        for conn in std::mem::take(&mut site.conns) {
            site.engine.handle_hangup(site.now, conn);
        }
        site.turn();
        site.turn();
    }
    let stats = site.engine.stats();
    assert_eq!(stats.counters.closes().filter(|(reason, _)| reason.code() >= 4400).count(), 3);
    let Segments { segments, .. } = journal::finish(&mut site.engine).expect("it was recorded");
    let joined = segments.concat();
    assert!(joined.windows(13).any(|window| window == b"a-role-of-ann"), "the data is recorded");
    let mut starts = 0;
    for first in 0..segments.len() {
        match journal::replay(&*segments[first..].concat(), Duel::<true>::default()) {
            Ok(summary) => {
                assert_eq!(summary.stats, stats, "from segment {first}");
                starts += 1;
            }
            Err(failure) => panic!("from segment {first}: {failure}"),
        }
    }
    assert!(starts > 1, "{} segments", segments.len());
}

/// A model client of the duel.
struct Duellist;

impl Player for Duellist {
    fn act(&mut self, random: &mut Random) -> Option<String> {
        let kinds = ["role", "move", "buy", "lose", "pause", "next"];
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        random.percent(30).then(|| format!("{{\"type\":\"{kind}\",\"ref\":{}}}", random.below(1000)))
    }
}

#[test]
fn a_game_with_codes_of_its_own_can_be_simulated_and_replayed() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let simulator = Simulator::new(seed, Config::default(), Duel::<true>::default());
        let report = simulator.players(|_, _| Box::new(Duellist)).replayed_with(Duel::default).run(400);
        let report = report.unwrap_or_else(|failure| panic!("{failure}"));
        seen.extend(report.closes().map(|(reason, _)| reason.code()));
    }
    assert!([4401, 4500, 4699].iter().all(|code| seen.contains(code)), "{seen:?}");
}
