//! A journal. The first byte selects its kind: the bytes are the whole journal; or they are entries, which are put into
//! segments and blocks with correct checks; or they drive a session of the engine, which is recorded and then changed.

use lobbyd::apps::Relay;
use lobbyd::journal::{BUILD, Fault, Replay, ReplayFailure, Step, Summary};

use super::{Input, START, engine};

const MAGIC: &[u8] = b"lobbyd journal 3\n";
const BLOCK_HEADER: usize = 12;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 3 {
        0 => drop(replay(input.0)),
        1 => drop(replay(&entries(&mut input))),
        _ => session(&mut input),
    }
}

/// Replays a journal to its end or to its first fault.
fn replay(journal: &[u8]) -> Result<Summary, ReplayFailure> {
    let replayed = replay_all(journal);
    if let Err(failure) = &replayed {
        let shown = failure.to_string();
        assert!(!shown.is_empty() && !shown.contains(char::is_control), "{shown:?}");
        assert!(!matches!(failure.fault, Fault::Io(_)), "memory can be read");
    }
    replayed
}

fn replay_all(journal: &[u8]) -> Result<Summary, ReplayFailure> {
    let mut replay = Replay::open(journal, Relay::default(), true)?;
    replay.trace_events();
    // Every step consumes at least one byte of the journal.
    for _ in 0..=journal.len() {
        let step = replay.step();
        for event in replay.events() {
            let shown = event.to_string();
            assert!(!shown.contains(char::is_control), "{shown:?}");
        }
        if step? == Step::End {
            let state = replay.state();
            assert!(!state.contains(|c: char| c.is_control() && c != '\n'), "{state:?}");
            return Ok(replay.summary());
        }
    }
    panic!("the replay does not end");
}

// ---- entries ----

/// Builds a journal from the input, with correct checks.
fn entries(input: &mut Input<'_>) -> Vec<u8> {
    let mut written = Written::default();
    let mut segments = 0;
    while !input.0.is_empty() {
        let n = usize::from(input.byte()) << 8 | usize::from(input.byte());
        if n == 0 || segments == 0 {
            segments += 1;
            let payload = segment(segments, written.chain, input);
            written.segment(&payload);
        } else {
            written.block(input.take(n));
        }
    }
    written.journal
}

const CONFIGURATIONS: [&str; 8] = [
    "tick_hz=60\n",
    "flush=tick\n",
    "max_connections=2\nseat_grace=1s\nhistory_bytes=300\ndirect_bytes=100\n",
    "max_per_lobby=1\n",
    "duplicate_login=allow\nmax_per_user=2\n",
    "messages_per_second=1\nmessage_burst=1\nmax_rate_strikes=1\n",
    "max_outbound_bytes=6000\noutbound_high_mark=600\noutbound_low_mark=200\nmax_message_bytes=300\n",
    "attempts_per_minute=1\nattempt_burst=1\nmax_pending=1\nmax_closing=1\n",
];

/// The first block of a segment.
fn segment(number: u64, chain: u32, input: &mut Input<'_>) -> Vec<u8> {
    let (bits, more) = (input.byte(), input.byte());
    let mut config: Vec<u8> = Vec::new();
    for (bit, lines) in CONFIGURATIONS.iter().enumerate().filter(|(bit, _)| bits & 1 << bit != 0) {
        // `flush=tick` requires ticks.
        if bit != 1 || bits & 1 != 0 {
            config.extend_from_slice(lines.as_bytes());
        }
    }
    if more & 1 != 0 {
        let n = input.byte().into();
        config.extend_from_slice(input.take(n));
    }
    let mut payload = vec![1];
    for number in [1, number, chain.into(), START.unix_micros, START.seed, 0] {
        put_number(&mut payload, number);
    }
    for text in [BUILD.as_bytes(), b"an application", &config] {
        put_number(&mut payload, text.len() as u64);
        payload.extend_from_slice(text);
    }
    payload.push(u8::from(more & 2 != 0));
    if more & 2 != 0 {
        let n = input.byte().into();
        payload.extend_from_slice(input.take(n));
    }
    // The edition of the answers; without it, it is the first.
    if more & 12 != 0 {
        payload.push(more >> 2 & 3);
    }
    payload
}

pub fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

// ---- a session ----

/// A recorded session replays without a difference. A changed one fails or replays, and never panics.
fn session(input: &mut Input<'_>) {
    let changes: Vec<[u8; 4]> =
        (0..input.below(4)).map(|_| [input.byte(), input.byte(), input.byte(), input.byte()]).collect();
    let Some(recorded) = engine::record(input) else { return };
    let summary = (recorded.replay)(&recorded.journal).expect("nothing differs");
    assert_eq!((summary.torn, summary.is_open_ended), (None, false));
    assert_eq!(summary.stats, recorded.stats);
    if changes.is_empty() {
        return;
    }
    let mut blocks = blocks_of(&recorded.journal);
    changes.iter().for_each(|change| apply(*change, &mut blocks));
    if let Err(failure) = (recorded.replay)(&written(&blocks)) {
        assert!(!failure.to_string().is_empty());
        assert!(matches!(failure.fault, Fault::Broken { .. } | Fault::Diverged(_) | Fault::Closure), "{failure}");
    }
}

/// Changes a block after the first.
fn apply([kind, block, at, byte]: [u8; 4], blocks: &mut Vec<Vec<u8>>) {
    if blocks.len() < 2 {
        return;
    }
    let index = 1 + usize::from(block) % (blocks.len() - 1);
    let block = &mut blocks[index];
    let at = (usize::from(at) | usize::from(kind >> 3) << 8) % block.len();
    match kind % 8 {
        0 => drop(blocks.remove(index)),
        1 => blocks.insert(index, blocks[index].clone()),
        2 => block.truncate(at.max(1)),
        3 => block.insert(at, byte),
        4 if block.len() > 1 => drop(block.remove(at)),
        5 => block[at] = block[at].wrapping_add(1),
        6 => block[at] ^= byte,
        _ => block[at] = byte,
    }
}

// ---- journal format ----

/// The payloads of a journal of one segment.
pub fn blocks_of(journal: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &journal[MAGIC.len()..];
    let mut blocks = Vec::new();
    while let Some((header, more)) = rest.split_first_chunk::<BLOCK_HEADER>() {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        blocks.push(more[..length].to_vec());
        rest = &more[length..];
    }
    blocks
}

/// A segment with these payloads.
pub fn written(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut written = Written::default();
    let (first, others) = blocks.split_first().expect("a segment has a first block");
    written.segment(first);
    others.iter().for_each(|block| written.block(block));
    written.journal
}

/// A journal with correct checks.
#[derive(Default)]
struct Written {
    journal: Vec<u8>,
    chain: u32,
}

impl Written {
    fn segment(&mut self, payload: &[u8]) {
        self.journal.extend_from_slice(MAGIC);
        self.chain = 0;
        self.block(payload);
    }

    fn block(&mut self, payload: &[u8]) {
        let length = (payload.len() as u32).to_le_bytes();
        self.journal.extend_from_slice(&length);
        self.journal.extend_from_slice(&crc32(self.chain, &length).to_le_bytes());
        self.chain = crc32(self.chain, payload);
        self.journal.extend_from_slice(&self.chain.to_le_bytes());
        self.journal.extend_from_slice(payload);
    }
}

/// CRC-32 as in IEEE 802.3, continued from `before`.
pub fn crc32(before: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!before, |crc, &byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}
