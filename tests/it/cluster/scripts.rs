//! The scripts of a cluster in a real Redis, and the simulator's model of them: the same calls have the same results.

mod bounds;

use std::collections::BTreeMap;

use lobbyd::Random;

use super::pair::{BLANK, Copies, LEASE, Pair, founded};
use super::redis::has_redis;

#[test]
fn a_new_redis_suspends_appends_and_the_first_node_founds_the_log() {
    if !has_redis() {
        return;
    }
    let mut pair = Pair::start("founding");
    pair.check("hello 1000000 run1", "OK 1000000 0");
    pair.now += 1;
    pair.check("hello 1000000 run1", "OK 999999 0");
    pair.check("attach a print", "FROZEN 999999");
    pair.now += 999_999;
    pair.check("attach a print", &format!("OK 2 0 {BLANK} 1"));
    assert_eq!(pair.last_entry(), "2 A 1700000001000000 2 a");
    let first = pair.position();
    let reply = pair.run("attach b print");
    let second = pair.position();
    assert_eq!(reply, format!("OK 3 {second} 0 2 0 a 3 0 b"));
    assert_ne!(first, second);
    pair.check("attach c other", "FINGERPRINT print");
}

#[test]
fn the_time_in_which_redis_is_stopped_does_not_count_as_time_to_restore() {
    if !has_redis() {
        return;
    }
    let mut pair = Pair::start("stopped");
    pair.check("hello 1000000 run1", "OK 1000000 0");
    // It was stopped, and goes on. A node that could restore the log must find its way to it first.
    pair.advance(16);
    pair.check("attach a print", "FROZEN 10000000");
    pair.advance(10);
    pair.check("attach a print", &format!("OK 2 0 {BLANK} 1"));
    let at = pair.position();
    pair.check("hello 1000000 run2", "OK 3000000 2");
    pair.advance(16);
    pair.check(&format!("append 2 {at} 1 one"), "FROZEN 10000000");
    pair.advance(10);
    pair.check(&format!("append 2 {at} 1 one"), "OK 3");
    pair.advance(16);
    pair.check(&format!("append 2 {at} 2 two"), "OK 4");
}

#[test]
fn batches_are_appended_once_and_in_order() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("batches");
    let at = pair.position();
    pair.check(&format!("append 2 {at} 2 early"), "MISSING 0");
    pair.check(&format!("append 2 {at} 1 one"), "OK 3");
    assert_eq!(pair.last_entry(), "3 O 1700000002000000 2 1 one");
    pair.check(&format!("append 2 {at} 1 one"), "DUPLICATE");
    pair.check(&format!("append 2 {at} 2 ''"), "OK 4");
    pair.check(&format!("append 9 {at} 1 unknown"), "GONE");
    pair.check(&format!("append 2 3 {BLANK} 3 x"), "FORK");
    let end = pair.position();
    let hash = &end[2..];
    pair.check(&format!("append 2 9 {BLANK} 3 x"), &format!("AHEAD 4 {hash}"));
}

#[test]
fn a_node_that_is_silent_for_a_lease_ends_unless_all_are_silent() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("leases");
    pair.run("attach b print");
    let at = pair.position();
    for _ in 0..2 {
        pair.advance(25);
        pair.check(&format!("heartbeat 2 {at} 7 1"), "OK 3");
    }
    assert_eq!(pair.last_entry(), "P 7");
    pair.advance(25);
    pair.check(&format!("heartbeat 2 {at} 8 1"), "OK 4");
    assert!(pair.published.iter().any(|message| message.ends_with(b" E 1700000077000000 3")));
    pair.check(&format!("heartbeat 3 {at} 1 1"), "GONE");
    pair.run("attach b print");
    // Nobody is seen for ten leases: Redis was stopped, or could not be reached.
    pair.advance(600);
    let at = pair.position();
    pair.check(&format!("heartbeat 2 {at} 9 1"), "OK 5");
    pair.check(&format!("heartbeat 5 {at} 1 0"), "OK 5");
}

#[test]
fn a_node_that_comes_back_ends_the_one_of_its_name() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("names");
    pair.run("attach b print");
    let reply = pair.run("attach b print");
    assert!(reply.starts_with("OK 5 5 ") && reply.ends_with(" 0 2 0 a 5 0 b"), "{reply}");
    // The only node begins the log anew, with another configuration if it has one.
    let at = pair.position();
    pair.check(&format!("leave 2 {at}"), "OK");
    let at = pair.position();
    pair.check(&format!("leave 5 {at}"), "OK");
    let at = pair.position();
    pair.check("attach c other", &format!("OK 9 {at} 1"));
}

#[test]
fn an_attach_that_was_under_way_for_long_does_not_end_a_later_one() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("stale");
    pair.check("hello 1000000 run1", "OK 0 2");
    let reply = pair.run("attach b print 1 2");
    assert!(reply.starts_with("OK 3 "), "{reply}");
    pair.check("attach b print 1 2", "STALE");
    let reply = pair.run("attach b print 1 3");
    assert!(reply.starts_with("OK 5 "), "{reply}");
}

/// Otherwise nodes that have all lost their place would wait for each other's state forever.
#[test]
fn nodes_without_a_state_end_when_the_log_begins_anew() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("ready");
    pair.run("attach b print");
    let at = pair.position();
    pair.check(&format!("heartbeat 3 {at} 1 0"), "OK 3");
    pair.check(&format!("leave 2 {at}"), "OK");
    let reply = pair.run("attach c print");
    assert!(reply.starts_with("OK 7 5 ") && reply.ends_with(" 1"), "{reply}");
    pair.check(&format!("heartbeat 3 {at} 1 0"), "GONE");
    // With the state, it is not ended.
    pair.run("attach b print");
    pair.check("state_put 8 7 8 0 1 all", "OK");
    pair.check("state_get 8 0", "OK 7 8 1 all");
    let at = pair.position();
    pair.check(&format!("leave 7 {at}"), "OK");
    let reply = pair.run("attach c print");
    assert!(reply.starts_with("OK 10 10 ") && reply.ends_with(" 0 8 0 b 10 0 c"), "{reply}");
}

#[test]
fn since_is_bounded_and_tells_what_is_trimmed() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("since");
    let at = pair.position();
    for batch in 1..=18 {
        pair.check(&format!("append 2 {at} {batch} text"), &format!("OK {}", batch + 2));
    }
    let reply = pair.run(&format!("since 2 {at} 200"));
    assert!(reply.starts_with("OK 20 "), "{reply}");
    assert_eq!(reply.matches(" O ").count(), 3, "{reply}");
    let reply = pair.run(&format!("since 2 0 {BLANK} 1"));
    assert_eq!(reply.matches(" F ").count(), 1, "{reply}");
    pair.run(&format!("append 2 {at} 19 text"));
    pair.check(&format!("since 2 0 {BLANK} 1"), "TRIMMED");
    let reply = pair.run(&format!("since 2 {} 1", pair.position()));
    assert_eq!(reply, "OK 21");
}

#[test]
fn what_a_failover_loses_is_restored_by_a_node_that_has_it() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("restore");
    let copy = pair.copy();
    let at = pair.position();
    pair.check(&format!("append 2 {at} 1 lost"), "OK 3");
    let lost =
        pair.published.last().expect("an entry").splitn(3, |byte| *byte == b' ').nth(2).expect("a text").to_vec();
    let end = pair.position();
    pair.fail_over(&copy);
    pair.check("hello 1000000 run2", "OK 3000000 2");
    pair.check(&format!("append 2 {at} 1 other"), "FROZEN 3000000");
    pair.check(&format!("since 2 {end} 99"), &format!("AHEAD {at}"));
    let (index, hash) = at.split_once(' ').expect("two words");
    let arguments: [&[u8]; 5] = [index.as_bytes(), hash.as_bytes(), b"0", b"print", &lost];
    assert_eq!(pair.call("restore", None, &arguments), ["OK", "3"]);
    assert_eq!(pair.position(), end);
    assert_eq!(pair.call("restore", None, &arguments), ["AGAIN"]);
    pair.advance(3);
    // A node that knows nothing waits longer than those that may know more.
    pair.check("attach b print", "GUARDED 57000000");
    pair.check(&format!("append 2 {end} 1 lost"), "DUPLICATE");
    pair.check(&format!("append 2 {end} 2 next"), "OK 4");
}

#[test]
fn a_log_that_is_lost_as_a_whole_is_restored_from_any_entry() {
    if !has_redis() {
        return;
    }
    let mut pair = Pair::start("blank");
    pair.check("hello 1000000 run1", "OK 1000000 0");
    pair.check(&format!("since 5 70 {BLANK} 9"), &format!("AHEAD 0 {BLANK}"));
    let hash = "0123456789abcdef";
    let arguments: [&[u8]; 9] = [b"70", hash.as_bytes(), b"1", b"5", b"12", b"a", b"print", b"O 1 5 13 x", b"A 2 72 b"];
    assert_eq!(pair.call("restore", None, &arguments), ["OK", "72"]);
    let at = pair.position();
    pair.advance(1);
    pair.check(&format!("append 5 {at} 14 y"), "OK 73");
    pair.check(&format!("append 72 {at} 1 z"), "OK 74");
    pair.check("attach c other", "GUARDED 59000000");
    pair.advance(59);
    pair.check("attach c other", "FINGERPRINT print");
}

#[test]
fn a_state_is_stored_in_parts_of_one_provider() {
    if !has_redis() {
        return;
    }
    let mut pair = founded("state");
    pair.run("attach b print");
    pair.check("state_get 3 0", "NONE");
    pair.check("state_put 3 2 3 0 2 first", "OK");
    pair.check("state_get 3 0", "OK 2 3 2 first");
    pair.check("state_get 3 1", "NONE");
    pair.check("state_put 3 9 3 1 2 other", "GONE");
    pair.check("state_put 3 2 3 1 2 second", "OK");
    pair.check("state_get 3 1", "OK 2 3 2 second");
    pair.check("state_put 4 2 3 0 1 nobody", "GONE");
}

/// Random calls: with what nodes know, knew, or know from a lost log.
struct Chaos {
    pair: Pair,
    random: Random,
    /// Index, hash and text of all entries, also of lost logs.
    entries: Vec<(u64, String, Vec<u8>)>,
    seen: usize,
    incarnations: Vec<u64>,
    copies: Vec<Copies>,
    runs: u32,
}

impl Chaos {
    fn note_published(&mut self) {
        for message in &self.pair.published[self.seen..] {
            let mut words = message.splitn(3, |byte| *byte == b' ');
            let (index, hash) = (words.next().expect("an index"), words.next().expect("a hash"));
            if index != b"P" {
                let index = String::from_utf8_lossy(index).parse().expect("a number");
                let text = words.next().expect("a text").to_vec();
                if text.starts_with(b"A ") {
                    self.incarnations.push(index);
                }
                self.entries.push((index, String::from_utf8_lossy(hash).into_owned(), text));
            }
        }
        self.seen = self.pair.published.len();
    }

    /// Mostly the last entry or one shortly before it.
    fn position(&mut self) -> String {
        let back = match self.random.below(10) {
            0..6 => 0,
            6..8 => self.random.below(4),
            _ => self.random.below(60),
        };
        let at = (self.entries.len() as u64).checked_sub(back + 1);
        at.map_or(format!("0 {BLANK}"), |at| format!("{} {}", self.entries[at as usize].0, self.entries[at as usize].1))
    }

    fn incarnation(&mut self) -> u64 {
        let most = (self.incarnations.len() as u64).min(5);
        match most {
            0 => 1,
            _ => self.incarnations[self.incarnations.len() - 1 - self.random.below(most) as usize],
        }
    }

    fn step(&mut self) -> String {
        let (at, node) = (self.position(), self.incarnation());
        let line = match self.random.below(40) {
            0..6 => {
                self.pair.now += self.random.below(LEASE);
                return String::new();
            }
            6 => {
                self.pair.now -= self.random.below(LEASE / 4);
                return String::new();
            }
            7 => {
                let copy = self.pair.copy();
                self.copies.push(copy);
                return String::new();
            }
            8 => return self.fail_over(),
            9..11 => format!("hello 1000000 run{}", self.runs),
            11..14 => {
                let print = if self.random.percent(90) { "print" } else { "other" };
                let name = ["a", "b", "c", "d"][self.random.below(4) as usize];
                format!("attach {name} {print} {} {}", self.random.below(2), self.random.below(self.seen as u64 + 2))
            }
            14..26 => {
                // The batch that is next, if the node has appended before; else a guess.
                let own = format!(" {node} ");
                let is_own = |text: &[u8]| text.starts_with(b"O ") && String::from_utf8_lossy(text).contains(&own);
                let count = self.entries.iter().filter(|(_, _, text)| is_own(text)).count() as u64;
                let batch = if self.random.percent(80) { count + 1 } else { self.random.below(count + 3) };
                format!("append {node} {at} {batch} text{}", self.random.below(1000))
            }
            26..30 => format!("heartbeat {node} {at} {} {}", self.random.below(100), self.random.below(2)),
            30 => format!("leave {node} {at}"),
            31..33 => format!("since {node} {at} {}", self.random.below(2000)),
            33..37 => return self.restore(),
            37 => format!("state_put {node} {} {} {} 3 part", self.incarnation(), 7, self.random.below(3)),
            _ => format!("state_get {node} {}", self.random.below(3)),
        };
        self.pair.run(&line)
    }

    fn fail_over(&mut self) -> String {
        if self.copies.is_empty() {
            return String::new();
        }
        let at = self.random.below(self.copies.len() as u64) as usize;
        let copy = self.copies.swap_remove(at);
        self.pair.fail_over(&copy);
        self.runs += 1;
        "failover".to_owned()
    }

    /// Gives back a few entries that a node knows, often from a lost log.
    fn restore(&mut self) -> String {
        if self.entries.len() < 8 {
            return String::new();
        }
        let first = self.entries.len() - 1 - self.random.below(7) as usize;
        let first = if self.random.percent(30) { self.random.below(self.entries.len() as u64) as usize } else { first };
        let (index, hash, _) = self.entries[first].clone();
        let last = (first + 1 + self.random.below(4) as usize).min(self.entries.len());
        let texts: Vec<Vec<u8>> =
            self.entries[first + 1..last.max(first + 1)].iter().map(|(.., text)| text.clone()).collect();
        let (index, node) = (index.to_string(), self.incarnation().to_string());
        let mut arguments: Vec<&[u8]> =
            vec![index.as_bytes(), hash.as_bytes(), b"1", node.as_bytes(), b"3", b"a", b"print"];
        arguments.extend(texts.iter().map(|text| &text[..]));
        self.pair.call("restore", None, &arguments).join(" ")
    }
}

#[test]
fn random_calls_have_the_same_results_in_redis_and_in_the_model() {
    if !has_redis() {
        return;
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..4 {
        let mut chaos = Chaos {
            pair: Pair::start(&format!("random{seed}")),
            random: Random::new(seed),
            entries: Vec::new(),
            seen: 0,
            incarnations: Vec::new(),
            copies: Vec::new(),
            runs: 1,
        };
        let blank = chaos.pair.copy();
        for step in 0..1500 {
            let reply = chaos.step();
            *counts.entry(reply.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
            chaos.note_published();
            if step % 500 == 499 {
                chaos.copies.push(blank.clone());
            }
        }
    }
    // Every reply that scripts know has occurred.
    for word in [
        "OK",
        "AHEAD",
        "FORK",
        "TRIMMED",
        "GONE",
        "FROZEN",
        "FINGERPRINT",
        "DUPLICATE",
        "MISSING",
        "AGAIN",
        "NONE",
        "STALE",
    ] {
        assert!(counts.contains_key(word), "{word} has not occurred: {counts:?}");
    }
}
