//! The result of a run: what went wrong and what to do about it, the table, and the JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::plan::Plan;
use super::tally::Tally;
use crate::program::failure::escaped;

/// Share of the due messages that must be sent.
const REACHED: f64 = 0.99;
/// The generator is its own limit if a thread is busy for more than this share of the time,
const BUSY: f64 = 0.85;
/// or if one of a hundred messages is later than this, in microseconds, without anything else that held it back.
const LATE_MICROS: u64 = 20_000;
/// With more messages per second than this, a member may have as many without an answer as it is allowed to.
const MANY_PER_MEMBER: f64 = 10.0;
/// Most refused tokens that are named.
const SHOWN: usize = 10;
/// Columns of the distributions.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Why a run has failed, one sentence each.
pub(super) fn problems(plan: &Plan, tally: &Tally) -> Vec<String> {
    let count = &tally.count;
    let mut problems: Vec<String> = refused_tokens(plan, tally).into_iter().collect();
    for (number, what) in [
        (count.lost, "messages were lost: acknowledged, and not received by a member that stayed"),
        (count.doubled, "messages were received twice"),
        (count.out_of_order, "messages were received out of order"),
        (
            count.unrecovered,
            "messages were missed by members whose connection broke, and that could not recover them: raise history_frames \
             and history_bytes of the server",
        ),
        (count.unanswered, "requests were never answered"),
        (count.unknown, "messages were received that no member of this run has sent"),
        (count.gone, "members did not join, or were closed for good"),
    ] {
        if number > 0 {
            problems.push(format!("{number} {what}"));
        }
    }
    for (code, number) in &tally.refused {
        problems.push(format!("{number} messages were refused with {}{}", escaped(code), refusal_advice(code)));
    }
    if (count.sent as f64) < REACHED * count.due as f64 {
        let cause =
            if plan.total_rate / plan.members as f64 > MANY_PER_MEMBER { ": do answers take too long?" } else { "" };
        problems.push(format!("{} of {} messages were sent: the rate was not reached{cause}", count.sent, count.due));
    }
    problems
}

/// Which tokens were refused, as a sentence. The notes say why.
fn refused_tokens(plan: &Plan, tally: &Tally) -> Option<String> {
    let mut refused = tally.refused_tokens.clone();
    refused.sort_unstable();
    let shown: Vec<String> = refused.iter().take(SHOWN).map(|&member| plan.origin_of_token(member)).collect();
    let more = match refused.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!refused.is_empty()).then(|| {
        format!(
            "{} of {} tokens were refused, so no member has talked: {}{more}",
            refused.len(),
            plan.members,
            shown.join(", ")
        )
    })
}

/// How connections ended or were refused, one sentence each. That alone is no failure: members come back.
pub(super) fn notes(tally: &Tally) -> Vec<String> {
    let statuses = tally.statuses.iter().map(|(&status, number)| {
        format!("{number} connections were answered with HTTP status {status}{}", status_advice(status))
    });
    let posts = tally.post_statuses.iter().map(|(&status, number)| {
        format!("{number} POSTs were answered with HTTP status {status}{}", post_advice(status))
    });
    let closed = tally.closed.iter().map(|((code, reason), number)| {
        format!("{number} connections were closed with {code} {}{}", escaped(reason), close_advice(*code, reason))
    });
    let failed = tally
        .failed
        .iter()
        .map(|(error, number)| format!("{number} connections failed: {}{}", escaped(error), failure_advice(error)));
    statuses.chain(posts).chain(closed).chain(failed).collect()
}

/// Whether the generator itself was the limit, as a sentence.
pub(super) fn own_limit(tally: &Tally) -> Option<String> {
    let late = tally.lateness.value_at_quantile(0.99);
    let why = if tally.busiest > BUSY {
        format!("a thread was busy for {:.0} % of the time", tally.busiest * 100.0)
    } else if late > LATE_MICROS {
        format!("1 % of its messages were more than {} ms late", late / 1000)
    } else {
        return None;
    };
    Some(format!(
        "the generator itself was the limit: {why}; use more --threads or another machine, and distrust the latencies"
    ))
}

fn status_advice(status: u16) -> &'static str {
    match status {
        404 | 426 => ": is this the members' port of a lobbyd, or of its proxy?",
        429 => ": attempts_per_minute of the server; lower --ramp, or use several --source",
        503 => ": the server drains, or max_pending sockets wait for a seat; lower --ramp or --handshakes",
        _ => "",
    }
}

fn post_advice(status: u16) -> &'static str {
    match status {
        404 => ": the event stream had ended, or another server has it",
        413 => ": lower --bytes, or raise max_message_bytes of the server",
        429 => ": bytes_per_second of the server, of which each POST takes 256; lower --rate or --bytes",
        503 => ": the server drains, or has no room for their connections: raise max_pending",
        _ => "",
    }
}

fn close_advice(code: u16, reason: &str) -> &'static str {
    match (code, reason) {
        (_, "server_full") => ": raise max_connections of the server",
        (_, "lobby_full") => ": raise max_per_lobby of the server, or lower --per-lobby",
        (_, "lobby_limit") => ": raise max_lobbies of the server, or use larger lobbies",
        (_, "ip_limit") => ": raise max_per_ip of the server, or use several --source",
        (_, "user_limit") | (4004, _) => ": two members have the same user; give each a token of its own",
        (4001, _) => ": the tokens are not accepted; use --token or --token-file",
        (4009, _) => ": more messages than messages_per_second or bytes_per_second of the server; lower --rate",
        (4102, _) => {
            ": the server could not send as fast as the lobby talks; is the generator or the network the limit?"
        }
        (4201, _) => {
            ": nothing was heard for ping_interval and pong_timeout; is the generator or the network the limit?"
        }
        (4005, _) => ": does the server speak another version of the protocol?",
        (1001, _) => ": the server was stopped",
        (1006, _) => ": the server or a proxy has dropped them, or has ended",
        (1009, _) => ": lower --bytes, or raise max_message_bytes of the server",
        _ => "",
    }
}

fn refusal_advice(code: &str) -> &'static str {
    match code {
        "rate_limited" => ": messages_per_second or bytes_per_second of the server; lower --rate or --bytes",
        "unavailable" => ": the node cannot reach its cluster",
        "bad_message" => ": does the application take broadcasts? `relay` does",
        _ => "",
    }
}

fn failure_advice(error: &str) -> &'static str {
    let error = error.to_lowercase();
    if error.contains("refused") {
        return ": no server listens there";
    }
    if error.contains("too many open files") {
        return ": raise the limit of open files (ulimit -n)";
    }
    if error.contains("cannot assign") || error.contains("address in use") {
        return ": no port is free; use several --source";
    }
    ""
}

fn quantiles(histogram: &Histogram<u64>) -> impl Iterator<Item = (&'static str, u64)> {
    let at = |(name, quantile)| (name, histogram.value_at_quantile(quantile));
    QUANTILES.into_iter().map(at).chain([("max", histogram.max())])
}

/// Returns the distributions with their names.
fn distributions(tally: &Tally) -> [(&'static str, &Histogram<u64>); 4] {
    [
        ("connect", &tally.connect),
        ("ack", &tally.ack),
        ("delivery", &tally.delivery),
        ("generator late", &tally.lateness),
    ]
}

pub(super) fn table(plan: &Plan, tally: &Tally) -> String {
    let (count, mut text) = (&tally.count, String::new());
    let per_second = |number: u64| number as f64 / plan.seconds as f64;
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<16}{value}\n"));
    line(
        "members",
        format!(
            "{} of {} joined, {} resumed, {} joined again",
            count.joined, plan.members, count.resumed, count.rejoined
        ),
    );
    if plan.sse_percent > 0 {
        line("event streams", format!("{} members, {} POSTs", plan.event_streams(), count.posts));
    }
    line("sent", format!("{} of {} due, {:.0}/s", count.sent, count.due, per_second(count.sent)));
    line("acknowledged", count.acked.to_string());
    line("delivered", format!("{}, {:.0}/s", count.delivered, per_second(count.delivered)));
    line("lost", format!("{}, doubled {}, out of order {}", count.lost, count.doubled, count.out_of_order));
    line("generator", format!("busiest thread {:.0} %", tally.busiest * 100.0));
    let _ = write!(text, "\n{:<16}", "milliseconds");
    for name in QUANTILES.iter().map(|(name, _)| *name).chain(["max", "count"]) {
        let _ = write!(text, "{name:>12}");
    }
    for (name, histogram) in distributions(tally) {
        let _ = write!(text, "\n{name:<16}");
        for (_, micros) in quantiles(histogram) {
            let _ = write!(text, "{:>12.2}", micros as f64 / 1000.0);
        }
        let _ = write!(text, "{:>12}", histogram.len());
    }
    text.push_str("\n\n");
    if let Some(limit) = own_limit(tally) {
        let _ = writeln!(text, "{limit}");
    }
    let mut list = |title: &str, sentences: &[String]| {
        let _ = writeln!(text, "{title}");
        for sentence in sentences {
            let _ = writeln!(text, "  {sentence}");
        }
    };
    let (problems, notes) = (problems(plan, tally), notes(tally));
    match problems.is_empty() {
        true => list("ok: nothing was lost, and the rate was reached", &[]),
        false => list("failed:", &problems),
    }
    if !notes.is_empty() {
        list("connections:", &notes);
    }
    text
}

pub(super) fn json(plan: &Plan, tally: &Tally) -> String {
    let problems = problems(plan, tally);
    let count = &tally.count;
    let latencies: Map<String, Value> = distributions(tally)
        .into_iter()
        .map(|(name, histogram)| {
            let mut values: Map<String, Value> =
                quantiles(histogram).map(|(name, micros)| (name.to_owned(), micros.into())).collect();
            values.insert("count".into(), histogram.len().into());
            (name.replace(' ', "_"), values.into())
        })
        .collect();
    let named = |code: u16, reason: &str, number: u64| json!({"code": code, "reason": reason, "count": number});
    let closed: Vec<Value> =
        tally.closed.iter().map(|((code, reason), &number)| named(*code, reason, number)).collect();
    let by_status = |statuses: &BTreeMap<u16, u64>| -> Map<String, Value> {
        statuses.iter().map(|(status, &number)| (status.to_string(), number.into())).collect()
    };
    let report = json!({
        "ok": problems.is_empty(),
        "problems": problems,
        "notes": notes(tally),
        "generator_limit": own_limit(tally),
        "plan": {
            "members": plan.members, "per_lobby": plan.per_lobby, "messages_per_second": plan.total_rate,
            "seconds": plan.seconds, "bytes": plan.bytes, "event_streams": plan.event_streams(),
        },
        "joined": count.joined, "resumed": count.resumed, "rejoined": count.rejoined,
        "due": count.due, "sent": count.sent, "acked": count.acked, "delivered": count.delivered,
        "lost": count.lost, "doubled": count.doubled, "out_of_order": count.out_of_order,
        "refused_tokens": tally.refused_tokens.len(), "unrecovered": count.unrecovered, "unanswered": count.unanswered, "unknown": count.unknown,
        "refused": tally.refused, "closed": closed, "statuses": by_status(&tally.statuses),
        "posts": count.posts, "post_statuses": by_status(&tally.post_statuses), "failed": tally.failed,
        "busiest_thread": (tally.busiest * 1000.0).round() / 1000.0,
        "micros": latencies,
    });
    format!("{report}\n")
}
