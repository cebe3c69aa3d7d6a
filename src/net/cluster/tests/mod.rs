//! Links that talk to a real `redis-server`, which each test starts for itself.

mod rig;

use std::time::Duration;

use self::rig::{Cluster, Node, Redis, has_redis};
use crate::cluster::link::LinkConfig;
use crate::net::clock::Clock;

#[test]
fn all_nodes_get_all_operations_in_one_order() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start("order", &["a", "b"]);
    for i in 0..500 {
        cluster.append(i % 2, format!("operation {i}"));
        let now = cluster.clock.now();
        cluster.nodes[i % 2].turn(now, &cluster.redis);
    }
    cluster.run_until_executed(500);
    cluster.nodes.push(Node::new("c"));
    cluster.run_until_executed(500);
    cluster.append(2, "of the new node");
    cluster.append(1, "");
    cluster.run_until_executed(502);
}

#[test]
fn operations_survive_broken_connections_exactly_once() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start("cut", &["a", "b"]);
    for i in 0..300 {
        cluster.append(i % 2, format!("operation {i}"));
        let now = cluster.clock.now();
        cluster.nodes[i % 2].turn(now, &cluster.redis);
        if i % 50 == 49 {
            cluster.nodes[i / 50 % 2].cut(now);
        }
    }
    cluster.run_until_executed(300);
    assert_eq!(cluster.nodes.iter().map(|node| node.detached).sum::<u32>(), 0);
}

#[test]
fn a_redis_that_has_lost_everything_is_restored() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start("blank", &["a", "b"]);
    (0..100).for_each(|i| cluster.append(i % 2, format!("operation {i}")));
    cluster.run_until_executed(100);
    cluster.redis.kill();
    cluster.run_until("the loss is noticed", |nodes| nodes.iter().all(|node| !node.is_reachable));
    (0..100).for_each(|i| cluster.append(i % 2, format!("later operation {i}")));
    cluster.redis.spawn();
    cluster.run_until_executed(200);
    assert_eq!(cluster.nodes.iter().map(|node| node.detached).sum::<u32>(), 0);
}

#[test]
fn scripts_that_redis_has_forgotten_are_loaded_again() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start("flush", &["a", "b"]);
    cluster.redis.call(&["SCRIPT", "FLUSH"]);
    (0..100).for_each(|i| cluster.append(i % 2, format!("operation {i}")));
    cluster.run_until_executed(100);
}

#[test]
fn a_node_that_is_silent_ends_and_comes_back_under_a_new_incarnation() {
    if !has_redis() {
        return;
    }
    // The test waits for the end of the lease.
    let mut cluster = Cluster::with_lease("silent", &["a", "b"], Duration::from_secs(3));
    let lost = cluster.nodes[1].node;
    let mut silent = cluster.nodes.remove(1);
    cluster.run_until("its lease expires", |nodes| nodes[0].nodes.len() == 1);
    let now = cluster.clock.now();
    silent.append(now, "too late");
    cluster.nodes.push(silent);
    cluster.run_until("it is detached", |nodes| nodes[1].detached == 1);
    cluster.run_until("it is attached", |nodes| nodes[1].node > lost);
    cluster.append(1, "in time");
    cluster.run_until_executed(1);
}

#[test]
fn a_node_that_leaves_ends_at_once() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start("leave", &["a", "b"]);
    cluster.append(1, "a last word");
    let now = cluster.clock.now();
    cluster.nodes[1].link.leave(now);
    cluster.run_until("it has left", |nodes| nodes[1].link.has_left() && nodes[0].nodes.len() == 1);
    assert_eq!(cluster.nodes[0].executed, ["a last word"]);
}

#[test]
fn a_node_with_another_configuration_is_refused() {
    if !has_redis() {
        return;
    }
    let mut cluster = Cluster::start("differs", &["a"]);
    let other = Node::new("b");
    let config = LinkConfig { fingerprint: "a=2\n".to_owned(), ..other.link.config().clone() };
    cluster.nodes.push(other.with(config));
    let expected = "the configuration differs from that of the cluster: here a=2; there a=1";
    assert_eq!(cluster.first_problem_of(1), expected);
}

#[test]
fn a_node_logs_in_and_selects_its_database() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start("login", &["--requirepass", "secret"]);
    let mut cluster = Cluster { redis, nodes: Vec::new(), clock: Clock::start(0).0 };
    let login = |user: Option<&str>, password: Option<&str>| {
        let node = Node::new("a");
        let (user, password) = (user.map(str::to_owned), password.map(str::to_owned));
        let config = LinkConfig { database: 3, user, password, ..node.link.config().clone() };
        node.with(config)
    };
    for (password, answer) in [(None, "NOAUTH"), (Some("wrong"), "WRONGPASS")] {
        cluster.nodes = vec![login(None, password)];
        let problem = cluster.first_problem_of(0);
        assert!(problem.contains(answer), "{problem}");
    }
    cluster.nodes = vec![login(None, Some("secret"))];
    cluster.run_until("the node is attached", |nodes| nodes[0].node.is_some());
    cluster.append(0, "one operation");
    cluster.run_until_executed(1);
    let keys = cluster.redis.call_all(&[&["AUTH", "secret"], &["SELECT", "3"], &["EXISTS", "{test}:3:log"]]);
    assert_eq!(keys, ":1\r\n");
}

#[test]
fn the_access_control_list_of_the_guide_is_enough() {
    if !has_redis() {
        return;
    }
    let guide = include_str!("../../../guide/cluster.md");
    let rule = guide.lines().find(|line| line.starts_with("ACL SETUSER ")).expect("the guide has the rule");
    let redis =
        Redis::start("acl", &["--user", "default", "off", "--user", "admin", "on", ">admin", "~*", "&*", "+@all"]);
    let mut cluster = Cluster { redis, nodes: Vec::new(), clock: Clock::start(0).0 };
    let words: Vec<&str> = rule.split(' ').collect();
    assert_eq!(cluster.redis.call_all(&[&["AUTH", "admin", "admin"], &words]), "+OK\r\n");
    let (user, password) = (words[2].to_owned(), words[4].trim_start_matches('>').to_owned());
    for name in ["a", "b"] {
        let node = Node::new(name);
        let (user, password) = (Some(user.clone()), Some(password.clone()));
        let namespace = "lobbyd".to_owned();
        let config = LinkConfig { namespace, user, password, ..node.link.config().clone() };
        cluster.nodes.push(node.with(config));
        cluster.run_until("the nodes are attached", |nodes| nodes.iter().all(|node| node.node.is_some()));
    }
    (0..100).for_each(|i| cluster.append(i % 2, format!("operation {i}")));
    cluster.run_until_executed(100);
    let now = cluster.clock.now();
    cluster.nodes[1].link.leave(now);
    cluster.run_until("it has left", |nodes| nodes[1].link.has_left() && nodes[0].nodes.len() == 1);
}
