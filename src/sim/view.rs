//! What a member knows of its lobby, built only from what it was sent.
//!
//! It holds the server to the protocol: welcome first, presence before any change of it, no gap in `seq` that the
//! member's own messages do not explain, answers in the order of the questions, and the same words under the same
//! `seq` for everybody. Knows no bytes, no time, and nothing of the engine.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::shared_state::SharedState;
use crate::number::integer;

/// A question or message of the client's own, in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) what: Question,
    pub(super) reference: Option<u32>,
    /// The number of a broadcast, or of a message to the application.
    pub(super) k: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Broadcast,
    App,
    Direct,
    Presence,
    Ping,
    Malformed,
    /// A `health_pong` that cannot be read: an error, which is charged as a `health_pong`.
    BadPong,
    Leave,
}

/// What was said means something to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// The page is asked whether it is alive.
    HealthPing(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) user: Box<str>,
    pub(super) conn: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was said yet.
    New,
    /// The welcome has come; who is there is not known.
    Welcomed,
    Settled,
    /// The server has said goodbye: nothing may follow.
    Over,
}

#[derive(Debug)]
pub(super) struct View {
    number: u32,
    stage: Stage,
    pub(super) conn: Box<str>,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    /// How many more messages of one's own there may have been since, if they were not refused in silence.
    slack: u64,
    /// Who is there, in join order; `None` when only the number is told.
    pub(super) members: Option<Vec<Named>>,
    count: u64,
    expected: VecDeque<Expected>,
    /// With ticks on those that are only served with the next; they are answered in their own order.
    kept: VecDeque<Expected>,
    pub(super) has_ticks: bool,
    /// Whether `presence_state` has come for the question at the front.
    front_answered: bool,
    /// Whether a state was taken for the answer to a question that may have been refused in silence.
    spare_state: bool,
    /// Answers that cost a message, refusals, and those of the refusals that name no `ref`.
    pub(super) served: u64,
    pub(super) refusals: u64,
    pub(super) unasked: u64,
    /// The last refusal: its `ref`, and how many milliseconds to wait.
    pub(super) refusal: Option<(Option<u32>, u64)>,
    /// The `ref` of its `leave`, and whether that was refused.
    pub(super) leaving: Option<u32>,
    pub(super) stays_after_all: bool,
    /// Under each key the last value of those of which only the latest matters.
    pub(super) latest: [u64; 3],
    /// The last message of the operator's.
    operator: u32,
    /// Messages of others that were left out.
    gaps: Vec<(u32, u32)>,
    /// The last message heard of each link.
    heard: Vec<(u32, u32)>,
    heard_directly: Vec<(u32, u32)>,
    heard_binary: Vec<(u32, u32)>,
    last_nonce: u64,
    pub(super) goodbye: Option<(u16, String)>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Spoken<'a> {
    #[serde(borrow)]
    conn: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lobby: Option<Cow<'a, str>>,
    protocol: Option<u64>,
    epoch: Option<u64>,
    seq: Option<u64>,
    count: Option<u64>,
    #[serde(borrow)]
    users: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    joins: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    leaves: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    timestamp: Option<u64>,
    retry_after_ms: Option<u64>,
    key: Option<u64>,
    value: Option<u64>,
}

/// What an operator puts into a message: the how manieth it is.
#[derive(Deserialize)]
struct Operated {
    op: u32,
}

#[derive(Deserialize)]
struct UserState<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    conn: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

impl UserState<'_> {
    fn named(&self) -> Named {
        Named { user: self.user.as_ref().into(), conn: self.conn.as_ref().into() }
    }
}

/// What the model clients put into every message: who says it, and the how manieth it is.
#[derive(Deserialize)]
pub(super) struct Token {
    l: u32,
    k: u32,
}

impl View {
    pub(super) fn new(number: u32) -> View {
        View {
            number,
            stage: Stage::New,
            conn: "".into(),
            epoch: 0,
            seq: 0,
            slack: 0,
            members: None,
            count: 0,
            expected: VecDeque::new(),
            kept: VecDeque::new(),
            has_ticks: false,
            front_answered: false,
            spare_state: false,
            served: 0,
            refusals: 0,
            unasked: 0,
            refusal: None,
            leaving: None,
            latest: [0; 3],
            operator: 0,
            stays_after_all: false,
            gaps: Vec::new(),
            heard: Vec::new(),
            heard_directly: Vec::new(),
            heard_binary: Vec::new(),
            last_nonce: 0,
            goodbye: None,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.stage == Stage::Settled
    }

    /// A question or a message was sent.
    pub(super) fn expect(&mut self, expected: Expected) {
        if self.keeps(expected.what) { self.kept.push_back(expected) } else { self.expected.push_back(expected) }
    }

    /// Whether a question waits for a tick.
    fn keeps(&self, what: Question) -> bool {
        self.has_ticks && matches!(what, Question::Broadcast | Question::App | Question::Direct)
    }

    /// The first question that has no answer.
    pub(super) fn unanswered(&self) -> Option<&Expected> {
        self.expected.front().or(self.kept.front())
    }

    /// How many members there are, as far as is known.
    pub(super) fn count_known(&self) -> u64 {
        self.members.as_ref().map_or(self.count, |members| members.len() as u64)
    }

    /// The number of the last message heard from `link`.
    pub(super) fn last_heard(&self, link: u32) -> Option<u32> {
        self.heard.iter().find(|(from, _)| *from == link).map(|(_, k)| *k)
    }

    /// A text of the server. `me` and `lobby` are what the client asked for.
    pub(super) fn hear(
        &mut self,
        text: &str,
        me: &str,
        lobby: &str,
        strict: bool,
        common: &mut SharedState,
    ) -> Result<Heard, String> {
        let Kind { kind } = serde_json::from_str(text).map_err(|error| format!("not JSON ({error}): {text}"))?;
        if self.stage == Stage::Over {
            return Err(format!("after the goodbye: {text}"));
        }
        if self.stage == Stage::New && kind != "welcome" && kind != "goodbye" {
            return Err(format!("before the welcome: {text}"));
        }
        let known = [
            "welcome",
            "presence_state",
            "presence_diff",
            "message",
            "direct",
            "ack",
            "error",
            "pong",
            "health_ping",
            "goodbye",
            "latest",
        ];
        if !known.contains(&&*kind) {
            return Ok(Heard::Nothing);
        }
        let spoken: Spoken<'_> = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        self.take(&kind, spoken, text, me, lobby, strict, common).map_err(|why| format!("{why}: {text}"))
    }

    #[expect(clippy::too_many_arguments, reason = "one table of the protocol")]
    fn take(
        &mut self,
        kind: &str,
        spoken: Spoken<'_>,
        text: &str,
        me: &str,
        lobby: &str,
        strict: bool,
        common: &mut SharedState,
    ) -> Result<Heard, String> {
        match kind {
            "welcome" => {
                require(self.stage == Stage::New, "a second welcome")?;
                require(spoken.protocol == Some(1), "another protocol")?;
                require(spoken.user.as_deref() == Some(me), "the welcome of another user")?;
                require(spoken.lobby.as_deref() == Some(lobby), "the welcome of another lobby")?;
                self.conn = field(spoken.conn)?.as_ref().into();
                self.epoch = field(spoken.epoch)?;
                self.seq = field(spoken.seq)?;
                self.stage = Stage::Welcomed;
            }
            "presence_state" => self.take_state(&spoken, strict, common)?,
            "presence_diff" => {
                require(self.stage == Stage::Settled, "a diff before the state")?;
                let seq = field(spoken.seq)?;
                self.reach(seq, strict, common)?;
                common.tell(self.epoch, seq, text)?;
                let members = self.members.as_mut().ok_or("a diff to whom only a number was told")?;
                for gone in &field(spoken.leaves)? {
                    require(gone.reason.is_some(), "a leave without a reason")?;
                    let at = members.iter().position(|there| *there.conn == *gone.conn && *there.user == *gone.user);
                    members.remove(at.ok_or("somebody left who was not there")?);
                }
                for came in &field(spoken.joins)? {
                    require(members.iter().all(|there| *there.conn != *came.conn), "somebody joined who was there")?;
                    members.push(came.named());
                }
                require(members.iter().any(|there| there.conn == self.conn), "oneself left")?;
            }
            "message" => {
                require(self.stage == Stage::Settled, "a message before the presence")?;
                let seq = field(spoken.seq)?;
                self.reach(seq, strict, common)?;
                common.tell(self.epoch, seq, text)?;
                let Some(from) = spoken.from else {
                    let Operated { op } = operated(&spoken.data).ok_or("from nobody, and not the operator's")?;
                    require(op > self.operator, "the operator's messages are not in order")?;
                    self.operator = op;
                    common.messages += 1;
                    let sent = common.published.iter().find(|(k, _)| *k == op);
                    require(sent.is_none_or(|sent| sent.1 == seq), "the operator was told another seq")?;
                    return Ok(Heard::Nothing);
                };
                if let Some(members) = &self.members {
                    require(members.iter().any(|there| *there.user == *from), "from somebody who is not there")?;
                }
                if let Some(token) = token(&spoken.data) {
                    common.messages += 1;
                    let owner = common.owners.get(token.l as usize).ok_or("from no client there ever was")?;
                    require(common.users[*owner] == *from, "under another's name")?;
                    if common.relays {
                        let gaps = common.limited.then_some(&mut self.gaps);
                        follow(&mut self.heard, &token, true, gaps)?;
                        common.spread((token.l, token.k))?;
                    }
                }
            }
            "direct" => {
                require(self.stage == Stage::Settled, "a direct before the presence")?;
                if let Some(token) = token(&spoken.data) {
                    common.messages += 1;
                    let owner = common.owners.get(token.l as usize).ok_or("from no client there ever was")?;
                    require(common.users[*owner] == *field(spoken.from)?, "under another's name")?;
                    follow(&mut self.heard_directly, &token, false, None)?;
                }
            }
            "ack" | "error" | "pong" if strict => self.take_answer(kind, &spoken, common)?,
            "latest" => self.take_latest(field(spoken.key)?, field(spoken.value)?)?,
            "error" if self.leaving.is_some() => {
                let is_refused = spoken.code.is_some_and(|code| code.get() == "\"rate_limited\"");
                let reference = spoken.reference.and_then(|raw| read_number(raw.get()));
                self.stays_after_all |= is_refused && reference.is_some() && reference == self.leaving.map(u64::from);
            }
            "health_ping" => {
                let nonce = field(spoken.timestamp)?;
                require(nonce > self.last_nonce && nonce < 1 << 53, "a nonce that is not larger than the last")?;
                self.last_nonce = nonce;
                return Ok(Heard::HealthPing(nonce));
            }
            "goodbye" => {
                let code = field(spoken.code)?.get().parse().map_err(|_| "a code that is none")?;
                self.goodbye = Some((code, field(spoken.reason)?.into_owned()));
                self.stage = Stage::Over;
            }
            _ => {}
        }
        Ok(Heard::Nothing)
    }

    fn take_latest(&mut self, key: u64, value: u64) -> Result<(), String> {
        let last = self.latest.get_mut(key as usize).ok_or("a key that there is not")?;
        require(value > *last, "an older value after a newer one")?;
        *last = value;
        Ok(())
    }

    fn take_state(&mut self, spoken: &Spoken<'_>, strict: bool, common: &SharedState) -> Result<(), String> {
        let seq = spoken.seq.ok_or("no seq")?;
        let was_listed = self.members.is_some();
        self.members = spoken.users.as_ref().map(|users| users.iter().map(UserState::named).collect());
        self.count = match &self.members {
            Some(members) => members.len() as u64,
            None => spoken.count.ok_or("neither users nor count")?,
        };
        if let Some(members) = &self.members {
            require(members.iter().any(|there| there.conn == self.conn), "oneself is not in it")?;
        }
        if self.stage == Stage::Welcomed {
            require(seq == self.seq || seq == self.seq + 1, "the state is not that of the welcome")?;
            self.seq = seq;
            self.stage = Stage::Settled;
            return Ok(());
        }
        while strict && self.seq + self.slack < seq && self.skip_silent(self.has_ticks, common) {}
        if strict || seq < self.seq {
            require((self.seq..=self.seq + self.slack).contains(&seq), "a state of another seq")?;
        }
        (self.seq, self.slack) = (seq, 0);
        if strict && was_listed == self.members.is_some() {
            let asks = |front: &Expected| front.what == Question::Presence;
            while !self.expected.front().is_some_and(asks) && self.skip_silent(false, common) {}
            let front = self.expected.front().filter(|front| asks(front) && !self.front_answered);
            match front.ok_or("a state that nobody asked for")?.reference {
                None => {
                    self.expected.pop_front();
                    self.spare_state = common.limited;
                    self.served += 1;
                }
                Some(_) => self.front_answered = true,
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, kind: &str, spoken: &Spoken<'_>, common: &mut SharedState) -> Result<(), String> {
        let reference: Option<u32> = match spoken.reference {
            None => None,
            Some(raw) => {
                let number = read_number(raw.get()).and_then(|number| u32::try_from(number).ok());
                Some(number.ok_or("a ref that was never used, or is not written as it was")?)
            }
        };
        let code = spoken.code.map(|raw| raw.get().trim_matches('"'));
        if code == Some("rate_limited") {
            return self.take_refusal(reference, spoken.retry_after_ms, common);
        }
        // Without a ref, an error is the answer to the first that it can be the answer to.
        let answers = |front: &Expected| {
            front.reference == reference
                && match (kind, front.what) {
                    ("pong", what) => what == Question::Ping,
                    ("error", Question::Malformed | Question::BadPong) => code == Some("bad_message"),
                    ("error", Question::Direct) => code == Some("user_not_found"),
                    ("error", _) => false,
                    (_, Question::Ping | Question::Malformed | Question::BadPong) => false,
                    (_, _) => true,
                }
        };
        let is_kept = match (kind, reference) {
            ("pong", _) => false,
            (_, None) => self.has_ticks && code == Some("user_not_found"),
            (_, reference) => self.kept.iter().any(|kept| kept.reference == reference),
        };
        while !self.queue(is_kept).front().is_some_and(answers) {
            require(self.skip_silent(is_kept, common), "an answer to nothing, or out of order")?;
        }
        let front = self.queue(is_kept).pop_front().expect("the loop has found it");
        self.served += u64::from(front.what != Question::BadPong);
        if common.limited && matches!(front.what, Question::Broadcast | Question::App) {
            common.acked.insert((self.number, front.k));
        }
        match front.what {
            Question::Broadcast | Question::App => {
                let seq = field(spoken.seq)?;
                let next = self.seq + 1..=self.seq + self.slack + 1;
                require(next.contains(&seq), "an ack whose seq is not the next")?;
                (self.seq, self.slack) = (seq, 0);
            }
            Question::Presence => {
                if !std::mem::take(&mut self.front_answered) {
                    // It was taken for the answer to a question without a `ref`, which was refused in silence.
                    require(std::mem::take(&mut self.spare_state), "an ack before the state")?;
                    self.served -= 1;
                }
            }
            Question::Direct | Question::Ping | Question::Malformed | Question::BadPong | Question::Leave => {
                require(spoken.seq.is_none(), "a seq for what takes none")?;
            }
        }
        Ok(())
    }

    /// A message was more than the rate.
    fn take_refusal(
        &mut self,
        reference: Option<u32>,
        retry_after_ms: Option<u64>,
        common: &mut SharedState,
    ) -> Result<(), String> {
        let wait = field(retry_after_ms)?;
        require(wait > 0, "refused, and may try again at once")?;
        require(common.limited, "refused, and there is no rate")?;
        self.refusals += 1;
        self.refusal = Some((reference, wait));
        if reference.is_none() {
            self.unasked += 1;
            return Ok(());
        }
        require(!common.is_calm, "refused in the calm")?;
        // What is refused at once overtakes what waits for its tick.
        let front = match self.kept.iter().position(|kept| kept.reference == reference) {
            Some(at) => self.kept.remove(at),
            None => {
                while self.expected.front().is_some_and(|front| front.reference != reference) {
                    require(self.skip_silent(false, common), "a refusal out of order")?;
                }
                require(!self.front_answered, "served and refused")?;
                self.expected.pop_front()
            }
        };
        let front = front.ok_or("a refusal of nothing that was said")?;
        match front.what {
            Question::Broadcast | Question::App => {
                let told = (self.number, front.k);
                require(!common.spread.contains(&told), "refused, and somebody has heard it")?;
                common.refused.insert(told);
            }
            Question::Leave => self.stays_after_all = true,
            Question::Direct | Question::Presence | Question::Ping | Question::Malformed | Question::BadPong => {}
        }
        Ok(())
    }

    /// A message, by client and number, that was sent on to everybody and has not come.
    pub(super) fn missed(&self, common: &SharedState) -> Option<(u32, u32)> {
        self.gaps.iter().copied().find(|gap| common.acked.contains(gap))
    }

    /// `seq` is told; what lies between can only be the member's own.
    fn reach(&mut self, seq: u64, strict: bool, common: &SharedState) -> Result<(), String> {
        require(seq > self.seq, "a seq that was told before")?;
        while strict && self.seq + self.slack + 1 < seq {
            require(self.skip_silent(self.has_ticks, common), "a gap in seq")?;
        }
        (self.seq, self.slack) = (seq, 0);
        Ok(())
    }

    /// Takes the first question to have been served, if that may go without an answer.
    ///
    /// Under a rate anything without a `ref` may have been refused in silence.
    fn skip_silent(&mut self, is_kept: bool, common: &SharedState) -> bool {
        let Some(front) = self.queue(is_kept).front().copied().filter(|front| front.reference.is_none()) else {
            return false;
        };
        match front.what {
            Question::Broadcast | Question::App if common.limited => self.slack += 1,
            Question::Broadcast | Question::App => self.seq += 1,
            Question::Direct => {}
            _ if common.limited => {}
            _ => return false,
        }
        self.queue(is_kept).pop_front();
        true
    }

    fn queue(&mut self, is_kept: bool) -> &mut VecDeque<Expected> {
        if is_kept { &mut self.kept } else { &mut self.expected }
    }

    pub(super) fn skip_all_silent(&mut self, common: &SharedState) {
        for is_kept in [false, true] {
            while self.skip_silent(is_kept, common) {}
        }
    }

    /// A message of an application that says nothing itself, or a binary one: twice the number of eight digits.
    pub(super) fn hear_raw(&mut self, bytes: &[u8], common: &mut SharedState) -> Result<(), String> {
        if let Some((key, value)) = raw_latest(bytes) {
            return self.take_latest(key, value);
        }
        let Some(token) = raw_token(bytes) else { return Ok(()) };
        common.messages += 1;
        require((token.l as usize) < common.owners.len(), "from no client there ever was")?;
        if common.relays { follow(&mut self.heard_binary, &token, !common.limited, None) } else { Ok(()) }
    }

    pub(super) fn last_raw(&self, link: u32) -> Option<u32> {
        self.heard_binary.iter().find(|(from, _)| *from == link).map(|(_, k)| *k)
    }
}

/// A number as a client of some language writes it: many write every number as a double.
pub(super) fn write_number(number: u64) -> String {
    let digits = number.to_string();
    let (first, rest) = digits.split_at(1);
    match number % 5 {
        0 => digits,
        1 => format!("{digits}.0"),
        2 => format!("{first}.{rest}0e{}", rest.len()),
        3 => format!("{digits}00E-2"),
        _ => format!("{digits}.000e+00"),
    }
}

/// The number that [`write_number`] writes like this.
fn read_number(text: &str) -> Option<u64> {
    let number = integer(text).and_then(|number| u64::try_from(number).ok())?;
    (write_number(number) == text).then_some(number)
}

/// The text that [`View::hear_raw`] reads.
pub(super) fn raw_message(link: u32, k: u32, padding: usize) -> String {
    format!("{link:08}{k:08}{}", ".".repeat(padding))
}

fn raw_token(bytes: &[u8]) -> Option<Token> {
    let digits = |range| str::from_utf8(bytes.get(range)?).ok()?.parse().ok();
    Some(Token { l: digits(0..8)?, k: digits(8..16)? })
}

/// A letter, a digit for the key, and twelve of the value.
fn raw_latest(bytes: &[u8]) -> Option<(u64, u64)> {
    let digits = |range| str::from_utf8(bytes.get(range)?).ok()?.parse().ok();
    if bytes.first() == Some(&b'L') { Some((digits(1..2)?, digits(2..14)?)) } else { None }
}

fn operated(data: &Option<&RawValue>) -> Option<Operated> {
    serde_json::from_str(data.as_ref()?.get()).ok()
}

fn token(data: &Option<&RawValue>) -> Option<Token> {
    serde_json::from_str(data.as_ref()?.get()).ok()
}

/// The next message of a link has come: nothing may be lost between two, and nothing come twice.
fn follow(
    heard: &mut Vec<(u32, u32)>,
    token: &Token,
    without_gaps: bool,
    gaps: Option<&mut Vec<(u32, u32)>>,
) -> Result<(), String> {
    match heard.iter_mut().find(|(from, _)| *from == token.l) {
        None => heard.push((token.l, token.k)),
        Some((_, last)) => {
            let follows = if let Some(gaps) = gaps {
                gaps.extend((*last + 1..token.k).map(|k| (token.l, k)));
                token.k > *last
            } else if without_gaps {
                token.k == *last + 1
            } else {
                token.k > *last
            };
            if !follows {
                return Err(format!("message {} of client #{} after its {last}", token.k, token.l));
            }
            *last = token.k;
        }
    }
    Ok(())
}

fn field<T>(field: Option<T>) -> Result<T, String> {
    field.ok_or_else(|| "a field is missing".into())
}

fn require(holds: bool, violation: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(violation.into()) }
}
