//! Links of several nodes with the model of Redis: connections break, nodes die, and Redis is restarted, stopped, or replaced by
//! an older copy.

use std::ops::Deref;
use std::time::Duration;

use super::redis_link::{Network, RedisLink};
use super::redis_model::{RedisCopy, RedisModel};
use crate::base::random::Random;
use crate::base::time::Time;
use crate::cluster::executed::Executed;
use crate::cluster::link::LinkConfig;
use crate::cluster::log::{ClusterOutput, Incarnation};

const LEASE: Duration = Duration::from_secs(6);
const STEP: Duration = Duration::from_millis(10);
const UNIX: u64 = 1_700_000_000_000_000;

/// A node whose state is the list of operations that were executed.
struct Node {
    name: String,
    config: LinkConfig,
    redis: RedisLink,
    /// Nothing happens in this process until then.
    stalled_until: Time,
    machine: Executed,
    problems: Vec<String>,
}

impl Deref for Node {
    type Target = Executed;

    fn deref(&self) -> &Executed {
        &self.machine
    }
}

fn config(name: &str, seed: u64) -> LinkConfig {
    LinkConfig {
        node: name.to_owned(),
        namespace: "test".to_owned(),
        database: 0,
        user: None,
        password: None,
        fingerprint: "a=1\n".to_owned(),
        lease: LEASE,
        log_entries: 400,
        log_bytes: 1 << 20,
        queue_bytes: 1 << 16,
        state_bytes: 1 << 22,
        seed,
    }
}

impl Node {
    fn new(config: LinkConfig) -> Node {
        Node {
            name: config.node.clone(),
            redis: RedisLink::new(config.clone()),
            config,
            stalled_until: Time::ZERO,
            machine: Executed::default(),
            problems: Vec::new(),
        }
    }

    fn turn(&mut self, now: Time, redis: &mut RedisModel, network: Network, chunk: usize) {
        if let Some(rest) = self.redis.turn(now, redis, network, chunk) {
            redis.disconnect(rest.client);
        }
        while let Some(input) = self.redis.link.poll_input() {
            if let Some(output) = self.machine.handle(input.as_input()) {
                self.redis.link.push(now, output);
            }
        }
        self.problems.extend(self.redis.link.poll_problem());
    }

    fn push(&mut self, now: Time) {
        if let Some(node) = self.node.filter(|_| !self.redis.link.is_congested()) {
            self.machine.pushed += 1;
            let text = format!("{}/{node}/{}", self.name, self.pushed);
            self.redis.link.push(now, ClusterOutput::Append(text.into_bytes()));
        }
    }
}

struct World {
    redis: RedisModel,
    nodes: Vec<Node>,
    now: Time,
    random: Random,
    /// Redis does nothing until then.
    redis_stalled_until: Time,
    redis_down_until: Time,
    copies: Vec<(Time, RedisCopy)>,
    runs: u32,
}

impl World {
    fn new(seed: u64, count: usize) -> World {
        let mut world = World {
            redis: RedisModel::new("run 0"),
            nodes: Vec::new(),
            now: Time::ZERO,
            random: Random::new(seed),
            redis_stalled_until: Time::ZERO,
            redis_down_until: Time::ZERO,
            copies: Vec::new(),
            runs: 0,
        };
        for number in 0..count {
            world.nodes.push(Node::new(config(&format!("n{number}"), seed + number as u64)));
            world.run_until("a node is attached", |nodes| nodes.iter().all(|node| node.node.is_some()));
        }
        world
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        let now = self.now;
        self.redis.set_time(UNIX + now.as_micros());
        for node in &mut self.nodes {
            let chunk = if self.random.percent(90) { usize::MAX } else { 1 + self.random.below(300) as usize };
            if now >= self.redis_stalled_until {
                node.redis.serve(&mut self.redis, chunk);
            }
            if now >= node.stalled_until {
                let network = if now < self.redis_down_until { Network::Refuses } else { Network::Works };
                node.turn(now, &mut self.redis, network, chunk);
            }
        }
    }

    #[track_caller]
    fn run_until(&mut self, what: &str, mut is_done: impl FnMut(&[Node]) -> bool) {
        let end = self.now + Duration::from_secs(120);
        while !is_done(&self.nodes) {
            let problems: Vec<_> = self.nodes.iter().map(|node| node.problems.last()).collect();
            assert!(self.now < end, "not in time: {what}: {problems:?}");
            self.step();
        }
    }

    /// Ends what disturbs, and waits until all nodes have the same.
    fn settle(&mut self) {
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.stalled_until = now);
        (self.redis_stalled_until, self.redis_down_until) = (now, now);
        for _ in 0..2000 {
            self.step();
        }
        self.run_until("all are attached", |nodes| nodes.iter().all(|node| node.node.is_some() && node.is_reachable));
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.push(now));
        self.run_until("all have the same", |nodes| {
            let last = |node: &Node| format!("{}/{}/{}", node.name, node.node.expect("attached"), node.pushed);
            let all: Vec<String> = nodes.iter().map(last).collect();
            nodes.iter().all(|node| all.iter().all(|last| node.executed.contains(last)))
        });
        for node in &self.nodes[1..] {
            assert_eq!(node.executed, self.nodes[0].executed);
            assert_eq!(node.nodes, self.nodes[0].nodes);
        }
    }

    /// The operations of each incarnation were executed once, in order, without gaps.
    fn check_order(&self) {
        let mut counts = std::collections::BTreeMap::new();
        for operation in &self.nodes[0].executed {
            let (incarnation, number) = operation.rsplit_once('/').expect("an operation of this test");
            let count = counts.entry(incarnation.to_owned()).or_insert(0);
            *count += 1;
            assert_eq!(number, count.to_string(), "{operation}");
        }
        for node in &self.nodes {
            let own = format!("{}/{}", node.name, node.node.expect("attached"));
            assert_eq!(counts.get(&own), Some(&node.pushed), "all operations of {own} were executed");
        }
    }

    /// No node has lost its place.
    #[track_caller]
    fn check_all_attached(&self, seed: u64) {
        for node in &self.nodes {
            assert_eq!(node.detached, 0, "seed {seed}: {:?}", node.problems);
        }
    }

    /// Short disturbances: none lasts for half a lease, and a copy of Redis is at most a second old.
    fn disturb_briefly(&mut self) {
        let (now, at) = (self.now, self.random.below(self.nodes.len() as u64) as usize);
        let short = Duration::from_millis(self.random.below(800));
        match self.random.below(1200) {
            0..6 => self.nodes[at].redis.cut(now, &mut self.redis),
            6..9 => self.nodes[at].stalled_until = now + short,
            9 => self.redis_stalled_until = now + short,
            10 => {
                let script_flush = b"*2\r\n$6\r\nSCRIPT\r\n$5\r\nFLUSH\r\n";
                let client = self.redis.connect();
                self.redis.receive(client, script_flush);
                self.redis.disconnect(client);
            }
            11 => self.redis.forget_subscriptions(),
            12 => {
                let pushes_first = self.random.percent(50);
                self.redis.set_pushes_first(pushes_first);
            }
            13..40 => self.copies.push((now, self.redis.copy())),
            _ => {}
        }
    }

    fn fail_over(&mut self, most: Duration) {
        self.copies.retain(|(at, _)| self.now - *at <= most);
        let copy = self.copies.first().map(|(_, copy)| copy.clone());
        self.copies.clear();
        self.runs += 1;
        self.redis.restart(&format!("run {}", self.runs), copy);
        self.redis_down_until = self.now + Duration::from_millis(self.random.below(1500));
        self.redis.set_pushes_first(self.runs.is_multiple_of(2));
    }

    fn disturb_badly(&mut self) {
        let (now, at) = (self.now, self.random.below(self.nodes.len() as u64) as usize);
        match self.random.below(2000) {
            0..3 => self.nodes[at].stalled_until = now + Duration::from_millis(self.random.below(15_000)),
            3 => self.redis_stalled_until = now + Duration::from_millis(self.random.below(15_000)),
            4 => self.redis_down_until = now + Duration::from_millis(self.random.below(15_000)),
            5 => {
                // The process dies and starts again.
                self.nodes[at].redis.cut(now, &mut self.redis);
                let config = self.nodes[at].config.clone();
                self.nodes[at] = Node::new(config);
            }
            6 => {
                let most = Duration::from_millis(self.random.below(20_000));
                self.fail_over(most);
            }
            _ => {}
        }
    }

    fn work(&mut self) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        if self.random.percent(30) && self.now >= self.nodes[at].stalled_until {
            let now = self.now;
            self.nodes[at].push(now);
        }
        self.step();
    }
}

#[test]
fn brief_disturbances_lose_nothing_and_detach_nobody() {
    for seed in 0..8 {
        let mut world = World::new(seed, 3);
        for _ in 0..6000 {
            world.disturb_briefly();
            world.work();
        }
        world.settle();
        world.check_order();
        world.check_all_attached(seed);
    }
}

#[test]
fn a_failover_that_loses_a_tail_loses_nothing_for_the_nodes() {
    for seed in 0..8 {
        let mut world = World::new(seed, 3);
        for step in 0..6000 {
            if step % 1000 == 999 {
                world.fail_over(Duration::from_secs(1));
            }
            if world.random.percent(5) {
                let copy = world.redis.copy();
                world.copies.push((world.now, copy));
            }
            world.work();
        }
        world.settle();
        world.check_order();
        world.check_all_attached(seed);
    }
}

#[test]
fn after_any_disturbance_all_nodes_have_the_same_and_nothing_twice() {
    let mut detached = 0;
    for seed in 0..24 {
        let mut world = World::new(seed, 3);
        for _ in 0..6000 {
            world.disturb_briefly();
            world.disturb_badly();
            world.work();
        }
        world.settle();
        world.check_order();
        detached += world.nodes.iter().map(|node| node.detached).sum::<u32>();
    }
    assert!(detached > 0, "some disturbances last longer than a lease");
}

#[test]
fn more_than_the_queue_gives_up_the_place() {
    let mut world = World::new(1, 2);
    world.redis_stalled_until = Time::NEVER;
    let now = world.now;
    while !world.nodes[0].redis.link.is_congested() {
        world.nodes[0].push(now);
    }
    assert_eq!(world.nodes[0].detached, 0);
    let half = "x".repeat(1 << 15).into_bytes();
    world.nodes[0].redis.link.push(now, ClusterOutput::Append(half));
    world.step();
    assert_eq!(world.nodes[0].detached, 1);
    world.settle();
}

#[test]
fn a_state_beyond_its_bound_is_not_passed_on() {
    let mut world = World::new(1, 1);
    let now = world.now;
    let bytes = vec![0; (1 << 22) + 1];
    world.nodes[0].redis.link.push(now, ClusterOutput::State { node: Incarnation(9), index: 1, bytes });
    let problem = world.nodes[0].redis.link.poll_problem().expect("it is reported");
    assert!(problem.contains("cluster_state_bytes"), "{problem}");
}

#[test]
fn what_arrives_late_of_an_earlier_connection_ends_no_place() {
    for steps in 0..40 {
        let mut world = World::new(1, 1);
        world.nodes.push(Node::new(config("other", 7)));
        for _ in 0..steps {
            world.step();
        }
        let now = world.now;
        let rest = world.nodes[1].redis.disconnect(now);
        world.run_until("it is attached", |nodes| nodes[1].node.is_some());
        if let Some(rest) = rest {
            world.redis.receive(rest.client, &rest.to_redis);
            world.redis.disconnect(rest.client);
        }
        world.settle();
        assert_eq!(world.nodes[1].detached, 0, "after {steps} steps: {:?}", world.nodes[1].problems);
    }
}

/// Both are the second entry of a log, and the first one knows no entry before its own.
#[test]
fn a_node_that_has_founded_a_lost_log_is_not_taken_for_the_one_that_has_founded_another() {
    let mut world = World::new(1, 1);
    assert_eq!((world.nodes[0].node, world.nodes[0].index), (Some(Incarnation(2)), 0), "it knows no entry yet");
    world.redis.restart("run 1", Some(RedisCopy::blank()));
    world.nodes[0].stalled_until = world.now + Duration::from_secs(2);
    world.nodes.push(Node::new(config("other", 7)));
    world.run_until("the other one has founded a log", |nodes| nodes[1].node == Some(Incarnation(2)));
    world.settle();
    assert_ne!(world.nodes[0].node, world.nodes[1].node);
    assert_eq!((world.nodes[0].detached, world.nodes[1].detached), (1, 0));
}

#[test]
fn a_node_that_refuses_the_state_attaches_again_after_a_while() {
    let mut world = World::new(1, 2);
    let now = world.now;
    let refused = world.nodes[1].node;
    world.nodes[1].redis.link.refuse_state(now);
    world.step();
    assert_eq!((world.nodes[1].node, world.nodes[1].detached), (None, 1));
    world.run_until("it has another place", |nodes| nodes[1].node.is_some());
    assert!(world.nodes[1].node > refused && world.now > now + Duration::from_secs(4));
    world.settle();
}

#[test]
fn what_is_no_longer_kept_cannot_be_restored() {
    let mut world = World::new(1, 2);
    let copy = world.redis.copy();
    for _ in 0..500 {
        let now = world.now;
        world.nodes[0].push(now);
        world.step();
    }
    world.runs += 1;
    world.redis.restart("run 1", Some(copy));
    world.settle();
    assert!(world.nodes.iter().all(|node| node.detached > 0), "the copy is older than what the nodes keep");
    world.check_order();
}

#[test]
fn a_node_that_attaches_gets_a_state_of_many_parts() {
    let mut world = World::new(1, 2);
    for number in 0..50 {
        let now = world.now;
        let text = format!("{number}{}", "x".repeat(20_000)).into_bytes();
        world.nodes[0].redis.link.push(now, ClusterOutput::Append(text));
        (0..5).for_each(|_| world.step());
    }
    world.nodes.push(Node::new(config("late", 9)));
    world.run_until("it is attached", |nodes| nodes[2].node.is_some());
    world.run_until("it has all", |nodes| nodes[2].executed.len() == 50);
    assert_eq!(world.nodes[2].executed, world.nodes[0].executed);
}
