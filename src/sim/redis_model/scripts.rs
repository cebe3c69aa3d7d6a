//! The scripts, in Rust.

use super::log::{Log, StoredNode, StoredState};
use crate::cluster::resp::decimal;
use crate::cluster::scripts::{Hash, Script};

/// Words of a reply.
type Reply = Vec<Vec<u8>>;

/// One call of a script.
pub(super) struct Call<'a> {
    log: &'a mut Log,
    keys: &'a [&'a [u8]],
    /// `ARGV[4]` and those after it.
    arguments: &'a [&'a [u8]],
    now: u64,
    /// The clock of Redis, whatever time the call passes.
    redis_now: u64,
    lease: u64,
    kept: (usize, usize),
    run: &'a str,
    published: Vec<Vec<u8>>,
}

fn number(text: &[u8]) -> u64 {
    decimal(text).expect("the caller passes a decimal number")
}

/// Reads how many entries, and how many bytes of them, are kept.
fn kept(text: &[u8]) -> (usize, usize) {
    let mut numbers = text.split(|byte| *byte == b' ').map(|text| number(text) as usize);
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn words(words: &[&[u8]]) -> Reply {
    words.iter().map(|word| word.to_vec()).collect()
}

impl<'a> Call<'a> {
    pub(super) fn new(
        log: &'a mut Log,
        keys: &'a [&'a [u8]],
        arguments: &'a [&'a [u8]],
        redis_now: u64,
        run: &'a str,
    ) -> Call<'a> {
        Call {
            now: decimal(arguments[0]).unwrap_or(redis_now),
            redis_now,
            lease: number(arguments[1]),
            kept: kept(arguments[2]),
            arguments: &arguments[3..],
            log,
            keys,
            run,
            published: Vec::new(),
        }
    }

    /// Returns the reply, and what is published.
    pub(super) fn run(mut self, script: Script) -> (Reply, Vec<Vec<u8>>) {
        let reply = match script {
            Script::Hello => Ok(self.hello()),
            Script::Attach => self.attach(),
            Script::Append => self.append(),
            Script::Heartbeat => self.heartbeat(),
            Script::Leave => self.leave(),
            Script::Since => self.since(),
            Script::Restore => Ok(self.restore()),
            Script::StatePut => Ok(self.state_put()),
            Script::StateGet => self.state_get(),
        };
        (reply.unwrap_or_else(|refusal| refusal), self.published)
    }

    // ---- the prelude ----

    fn add(&mut self, entry: Vec<u8>) {
        let log = &mut *self.log;
        log.index += 1;
        log.hash = log.hash.chained(&entry);
        let message = [&text(log.index)[..], &log.hash.0, &entry].join(&b' ');
        log.items.push_back((log.hash, entry));
        let mut bytes: usize = log.items.iter().map(|(_, entry)| entry.len()).sum();
        while let Some((_, first)) = log.items.front()
            && (log.items.len() > self.kept.0 || bytes - first.len() > self.kept.1)
        {
            bytes -= first.len();
            log.items.pop_front();
        }
        self.published.push(message);
    }

    fn end_node(&mut self, node: u64) {
        self.log.nodes.remove(&node);
        self.add(format!("E {} {node}", self.now).into_bytes());
    }

    fn is_stalled(&self) -> bool {
        self.now < self.log.seen || self.now - self.log.seen > self.lease / 2
    }

    fn renew_all(&mut self) {
        let lease = self.now + self.lease;
        self.log.nodes.values_mut().for_each(|node| node.lease = lease);
    }

    fn reap(&mut self) {
        let is_stalled = self.is_stalled();
        self.log.seen = self.now;
        if is_stalled {
            return self.renew_all();
        }
        let now = self.now;
        let expired: Vec<u64> =
            self.log.nodes.iter().filter(|(_, node)| node.lease < now).map(|(node, _)| *node).collect();
        expired.into_iter().for_each(|node| self.end_node(node));
    }

    fn check_position(&self, index: &[u8], hash: &[u8]) -> Result<(), Reply> {
        let (log, index) = (&*self.log, number(index));
        if index > log.index {
            return Err(words(&[b"AHEAD", &text(log.index), &log.hash.0]));
        }
        if index == log.index {
            return if hash == log.hash.0 { Ok(()) } else { Err(words(&[b"FORK"])) };
        }
        let (item_hash, entry) = log.item(index + 1).ok_or_else(|| words(&[b"TRIMMED"]))?;
        let is_chained = Hash::parse(hash).is_some_and(|hash| hash.chained(entry) == *item_hash);
        if is_chained { Ok(()) } else { Err(words(&[b"FORK"])) }
    }

    fn check_attached(&self) -> Result<u64, Reply> {
        let node = number(self.arguments[0]);
        if self.log.nodes.contains_key(&node) { Ok(node) } else { Err(words(&[b"GONE"])) }
    }

    fn frozen_for(&self) -> u64 {
        let left = self.log.frozen.saturating_sub(self.now);
        if left <= self.lease { left } else { 0 }
    }

    fn check_frozen(&mut self) -> Result<(), Reply> {
        let (now, seen) = (self.now, self.log.seen);
        if self.frozen_for() == 0 && seen < self.log.frozen && now.saturating_sub(seen) > self.lease / 4 {
            self.log.frozen = now + self.lease / 6;
            self.log.seen = now;
        }
        match self.frozen_for() {
            0 => Ok(()),
            left => Err(words(&[b"FROZEN", &text(left)])),
        }
    }

    fn check_guarded(&self) -> Result<(), Reply> {
        match self.log.guarded.saturating_sub(self.now) {
            left if left > 0 && left <= self.lease => Err(words(&[b"GUARDED", &text(left)])),
            _ => Ok(()),
        }
    }

    /// Checks position and membership of the caller. Returns its incarnation.
    fn check_caller(&self) -> Result<u64, Reply> {
        self.check_position(self.arguments[1], self.arguments[2])?;
        self.check_attached()
    }

    // ---- the scripts ----

    fn hello(&mut self) -> Reply {
        let run = if self.arguments[1].is_empty() { self.run.as_bytes() } else { self.arguments[1] };
        if self.log.run.as_deref() != Some(run) {
            self.log.run = Some(run.to_vec());
            let mut span = number(self.arguments[0]);
            if self.log.index > 0 {
                span *= 3;
            }
            self.log.guarded = self.now + self.lease;
            self.log.frozen = self.now + span;
            self.log.seen = self.now;
            self.renew_all();
        }
        words(&[b"OK", &text(self.frozen_for()), &text(self.log.index)])
    }

    fn attach(&mut self) -> Result<Reply, Reply> {
        let (name, fingerprint) = (self.arguments[0], self.arguments[1]);
        if let Some(known) = self.arguments.get(3).and_then(|index| decimal(index)) {
            let is_later = |(incarnation, node): (&u64, &StoredNode)| *incarnation > known && is_same(&node.name, name);
            if self.log.nodes.iter().any(is_later) {
                return Err(words(&[b"STALE"]));
            }
        }
        self.check_frozen()?;
        if self.log.index > 0 || self.arguments.get(2) == Some(&&b"1"[..]) {
            self.check_guarded()?;
        }
        let is_stalled = self.is_stalled();
        let is_living =
            |node: &&StoredNode| !is_same(&node.name, name) && node.is_ready && (node.lease >= self.now || is_stalled);
        let is_first = !self.log.nodes.values().any(|node| is_living(&node));
        if let (false, Some(known)) = (is_first, &self.log.fingerprint)
            && known != fingerprint
        {
            return Err(words(&[b"FINGERPRINT", known]));
        }
        self.reap();
        let earlier: Vec<u64> = self
            .log
            .nodes
            .iter()
            .filter(|(_, node)| is_first || is_same(&node.name, name))
            .map(|(node, _)| *node)
            .collect();
        earlier.into_iter().for_each(|node| self.end_node(node));
        if self.log.index == 0 {
            self.log.items.clear();
        }
        let mut begin = (self.log.index, self.log.hash);
        if is_first {
            self.log.fingerprint = Some(fingerprint.to_vec());
            self.log.guarded = 0;
            self.add(format!("F {}", self.now).into_bytes());
        }
        let node = self.log.index + 1;
        self.add([format!("A {} {node} ", self.now).as_bytes(), name].concat());
        let stored = StoredNode { lease: self.now + self.lease, batch: 0, is_ready: is_first, name: name.to_vec() };
        self.log.nodes.insert(node, stored);
        if !is_first {
            begin = (self.log.index, self.log.hash);
        }
        let is_first_word: &[u8] = if is_first { b"1" } else { b"0" };
        let mut reply = words(&[b"OK", &text(node), &text(begin.0), &begin.1.0, is_first_word]);
        if !is_first {
            for (incarnation, stored) in &self.log.nodes {
                reply.extend([text(*incarnation), text(stored.batch), stored.name.clone()]);
            }
        }
        self.log.states.remove(&[self.keys[3], &text(node)].concat());
        Ok(reply)
    }

    fn append(&mut self) -> Result<Reply, Reply> {
        let node = self.check_caller()?;
        self.check_frozen()?;
        let batch = number(self.arguments[3]);
        let last = self.log.nodes[&node].batch;
        if batch <= last {
            return Err(words(&[b"DUPLICATE"]));
        }
        if batch > last + 1 {
            return Err(words(&[b"MISSING", &text(last)]));
        }
        if self.is_stalled() {
            self.renew_all();
        }
        self.log.seen = self.now;
        self.add([format!("O {} {node} {batch} ", self.now).as_bytes(), self.arguments[4]].concat());
        let lease = self.now + self.lease;
        if let Some(stored) = self.log.nodes.get_mut(&node) {
            (stored.batch, stored.lease, stored.is_ready) = (batch, lease, true);
        }
        Ok(words(&[b"OK", &text(self.log.index)]))
    }

    fn heartbeat(&mut self) -> Result<Reply, Reply> {
        let node = self.check_caller()?;
        let lease = self.now + self.lease;
        if let Some(stored) = self.log.nodes.get_mut(&node) {
            stored.lease = lease;
            stored.is_ready |= self.arguments[4] == b"1";
        }
        self.reap();
        self.published.push([&b"P"[..], self.arguments[0], self.arguments[3]].join(&b' '));
        Ok(words(&[b"OK", &text(self.log.index)]))
    }

    fn leave(&mut self) -> Result<Reply, Reply> {
        let node = self.check_caller()?;
        self.check_frozen()?;
        self.end_node(node);
        Ok(words(&[b"OK"]))
    }

    fn since(&mut self) -> Result<Reply, Reply> {
        self.check_caller()?;
        let (known, most) = (number(self.arguments[1]), number(self.arguments[3]) as usize);
        let mut reply = words(&[b"OK", &text(self.log.index)]);
        let mut bytes = 0;
        for index in known + 1..=self.log.index {
            let (hash, entry) = self.log.item(index).ok_or_else(|| words(&[b"TRIMMED"]))?;
            reply.extend([hash.0.to_vec(), entry.clone()]);
            bytes += entry.len() + 64;
            if bytes >= most {
                break;
            }
        }
        Ok(reply)
    }

    fn restore(&mut self) -> Reply {
        let (base, hash) = (number(self.arguments[0]), Hash::parse(self.arguments[1]).expect("a hash"));
        let (nodes, rest) = self.arguments[3..].split_at(3 * number(self.arguments[2]) as usize);
        let lease = self.now + self.lease;
        if self.log.index == 0 {
            self.log.items.clear();
            self.log.nodes.clear();
            (self.log.index, self.log.hash, self.log.fingerprint) = (base, hash, Some(rest[0].to_vec()));
            self.log.guarded = lease;
            for node in nodes.chunks(3) {
                let stored = StoredNode { lease, batch: number(node[1]), is_ready: true, name: node[2].to_vec() };
                self.log.nodes.insert(number(node[0]), stored);
            }
        } else if (self.log.index, self.log.hash) != (base, hash) {
            return words(&[b"AGAIN"]);
        }
        self.log.seen = self.now;
        for entry in &rest[1..] {
            self.add(entry.to_vec());
            self.fold(entry, lease);
        }
        words(&[b"OK", &text(self.log.index)])
    }

    /// Changes the nodes as an entry did when it was appended.
    fn fold(&mut self, entry: &[u8], lease: u64) {
        let mut words = entry.splitn(4, |byte| *byte == b' ');
        let (kind, _, node, rest) = (words.next(), words.next(), words.next(), words.next().unwrap_or_default());
        let nodes = &mut self.log.nodes;
        let node = node.and_then(decimal).unwrap_or(0);
        match kind {
            Some(b"F") => nodes.clear(),
            Some(b"A") => {
                nodes.insert(node, StoredNode { lease, batch: 0, is_ready: false, name: rest.to_vec() });
            }
            Some(b"E") => {
                nodes.remove(&node);
            }
            _ => {
                let batch = rest.split(|byte| *byte == b' ').next().and_then(decimal).unwrap_or(0);
                if let Some(stored) = nodes.get_mut(&node) {
                    (stored.batch, stored.lease, stored.is_ready) = (batch, lease, true);
                }
            }
        }
    }

    fn state_put(&mut self) -> Reply {
        let [node, from, index, part, parts, bytes] = *self.arguments else { panic!("state_put has six arguments") };
        if !self.log.nodes.contains_key(&number(node)) {
            return words(&[b"GONE"]);
        }
        let key = self.keys[3].to_vec();
        self.forget_expired(&key);
        if part == b"0" {
            let state = StoredState {
                from: from.to_vec(),
                index: index.to_vec(),
                parts: parts.to_vec(),
                fields: Default::default(),
                expires: 0,
            };
            self.log.states.insert(key.clone(), state);
        }
        let Some(state) = self.log.states.get_mut(&key).filter(|state| state.from == from) else {
            return words(&[b"GONE"]);
        };
        state.fields.insert(part.to_vec(), bytes.to_vec());
        state.expires = self.redis_now + 2 * self.lease;
        words(&[b"OK"])
    }

    fn state_get(&mut self) -> Result<Reply, Reply> {
        let node = self.check_attached()?;
        let key = self.keys[3].to_vec();
        self.forget_expired(&key);
        let Log { states, nodes, .. } = &mut *self.log;
        let found = states.get(&key).and_then(|state| Some((state, state.fields.get(self.arguments[1])?)));
        let Some((state, part)) = found else { return Ok(words(&[b"NONE"])) };
        if let Some(stored) = nodes.get_mut(&node) {
            stored.is_ready |= number(self.arguments[1]) + 1 == number(&state.parts);
        }
        Ok(words(&[b"OK", &state.from, &state.index, &state.parts, part]))
    }

    fn forget_expired(&mut self, key: &[u8]) {
        if self.log.states.get(key).is_some_and(|state| state.expires <= self.redis_now) {
            self.log.states.remove(key);
        }
    }
}

/// Whether two nodes have the same name. A URL may follow it.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let name = |text: &[u8]| text.split(|&byte| byte == b' ').next().map(<[u8]>::to_vec);
    name(one) == name(other)
}
