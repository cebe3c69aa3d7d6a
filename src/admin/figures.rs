//! The figures about a server: the one list from which both `GET /stats` and `GET /metrics` are written. Each has a key
//! in the JSON object and a metric.
//!
//! The structs of the engine are taken apart without `..`, so a figure that is added to one of them must be added here.

use std::borrow::Cow;
use std::fmt::Display;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::exposition::{Kind, seconds};
use crate::base::close::{CloseReason, Reject};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::recording::Recording;
use crate::engine::state::cluster::ClusterStats;
use crate::engine::state::counters::Counters;
use crate::engine::state::drain::DrainTotals;
use crate::engine::state::stats::Stats;
use crate::engine::state::ticks::{ClockView, TickStats};

/// Figures with their keys, in order: a JSON object.
#[derive(Debug)]
pub(super) struct Figures(pub(super) Vec<(Cow<'static, str>, Node)>);

#[derive(Debug)]
pub(super) enum Node {
    Figure(Value, Metric),
    Group(Shown, Figures),
    /// A group of a part that is off. It has no metrics.
    Off,
}

/// How a group is shown in the JSON object. Its metrics are always complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Whole,
    /// Without the counts that are 0.
    Occurred,
    /// As `null`: it does not apply now.
    Null,
}

/// A figure in the JSON object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Word(&'static str),
    Count(u64),
    Decimal(f64),
    Flag(bool),
    /// No limit.
    Unlimited,
}

/// A figure as a metric.
#[derive(Debug)]
pub(super) enum Metric {
    Own {
        name: &'static str,
        kind: Kind,
        help: &'static str,
        labels: Vec<(&'static str, String)>,
        sample: f64,
    },
    /// A histogram of `metrics.rs` shows the figure: as its sum or count, or as the values of which it is a quantile.
    InHistogram,
}

impl Figures {
    fn new<const N: usize>(entries: [(&'static str, Node); N]) -> Figures {
        Figures(entries.into_iter().map(|(key, node)| (Cow::Borrowed(key), node)).collect())
    }

    fn extend(&mut self, more: Figures) {
        self.0.extend(more.0);
    }

    /// Calls `each` with every metric.
    pub(super) fn for_each_metric(&self, each: &mut impl FnMut(&Metric)) {
        for (_, node) in &self.0 {
            match node {
                Node::Figure(_, metric) => each(metric),
                Node::Group(_, figures) => figures.for_each_metric(each),
                Node::Off => {}
            }
        }
    }
}

// ---- the list ----

/// All figures about a server.
pub(super) fn figures<A: App>(engine: &Engine<A>, now: Time) -> Figures {
    let Stats {
        total_connections,
        away,
        max_connections,
        capacity_percent,
        active_lobbies,
        pending,
        closing,
        list_watchers,
        ticks,
        cluster,
        counters,
    } = engine.stats();
    let (is_draining, uptime, status) = (engine.is_draining(), now.as_micros(), engine.readiness().word());
    let max = max_connections.map_or(Value::Unlimited, |max| Value::Count(max.into()));
    let named = counters.views().into_iter().map(|view| (view.name.into(), counter(view.metric, view.doc, view.value)));
    let drain = engine.drain_totals();
    let mut figures = Figures::new([
        ("status", gauge("lobbyd_draining", "1 while the server drains.", Value::Word(status), is_draining.into())),
        (
            "uptime_ms",
            gauge("lobbyd_uptime_seconds", "Time since the start.", Value::Count(uptime / 1000), seconds(uptime)),
        ),
        ("total_connections", size("lobbyd_connections", "Connections that have a seat.", total_connections)),
        ("away", size("lobbyd_away_members", "Members whose connection was lost and whose seat is kept.", away)),
        (
            "max_connections",
            gauge(
                "lobbyd_max_connections",
                "Limit of connections that have a seat.",
                max,
                max_connections.map_or(f64::INFINITY, f64::from),
            ),
        ),
        (
            "capacity_percent",
            gauge(
                "lobbyd_capacity_ratio",
                "Taken seats, as a share of the limit. 0 when unlimited.",
                Value::Decimal(capacity_percent),
                capacity_percent / 100.0,
            ),
        ),
        ("active_lobbies", size("lobbyd_lobbies", "Lobbies that exist.", active_lobbies)),
        (
            "pending",
            size(
                "lobbyd_pending_connections",
                "Connections that have no seat yet, also those beyond `max_pending` whose request is still read.",
                pending,
            ),
        ),
        ("closing", size("lobbyd_closing_connections", "Connections that are closing.", closing)),
        ("list_watchers", size("lobbyd_list_watchers", "Connections that follow the list of lobbies.", list_watchers)),
        ("ticks", ticks.as_ref().map_or(Node::Off, |ticks| Node::Group(Shown::Whole, tick_figures(ticks)))),
        ("counters", Node::Group(Shown::Whole, Figures(named.collect()))),
        ("closed", Node::Group(Shown::Occurred, close_figures(&counters))),
        ("errors", Node::Group(Shown::Occurred, refusal_figures(&counters))),
        (
            "drain",
            Node::Group(
                if drain.is_some() { Shown::Whole } else { Shown::Null },
                drain_figures(drain.unwrap_or_default()),
            ),
        ),
    ]);
    if let Some(cluster) = cluster {
        figures.extend(Figures::new([("cluster", Node::Group(Shown::Whole, cluster_figures(cluster)))]));
    }
    if let Some(recording) = &engine.recording() {
        figures.extend(Figures::new([("journal", Node::Group(Shown::Whole, journal_figures(recording)))]));
    }
    figures
}

fn tick_figures(stats: &TickStats) -> Figures {
    let TickStats { hz, clock, ran, caught_up, skipped, refused, inbox_bytes, late_p50, late_p99, late_max } = *stats;
    let max = "Largest lateness of a tick.";
    let late = Figures::new([
        ("p50", in_histogram(late_p50)),
        ("p99", in_histogram(late_p99)),
        ("max", gauge("lobbyd_tick_lateness_max_seconds", max, Value::Count(late_max), seconds(late_max))),
    ]);
    let hertz =
        gauge("lobbyd_tick_rate_hertz", "Ticks per second at normal speed.", Value::Count(hz.into()), hz.into());
    let mut figures = Figures::new([("hz", hertz)]);
    figures.extend(clock_figures(clock));
    figures.extend(Figures::new([
        ("ran", counter("lobbyd_ticks_run_total", "Ticks that have run.", ran)),
        (
            "caught_up",
            counter("lobbyd_ticks_caught_up_total", "Ticks that ran when the next one was already due.", caught_up),
        ),
        ("skipped", counter("lobbyd_ticks_skipped_total", "Ticks that were skipped.", skipped)),
        ("late_us", Node::Group(Shown::Whole, late)),
        ("inbox_bytes", size("lobbyd_inbox_bytes", "Bytes of the messages that wait for the next tick.", inbox_bytes)),
        (
            "inbox_refused",
            counter(
                "lobbyd_inbox_refused_messages_total",
                "Messages refused because the inbox of their connection was full.",
                refused,
            ),
        ),
    ]));
    figures
}

/// The figures of the game clock.
pub(super) fn clock_figures(ClockView { tick, paused, slowdown }: ClockView) -> Figures {
    Figures::new([
        ("tick", gauge("lobbyd_tick_number", "Number of the last tick.", Value::Count(tick), tick as f64)),
        (
            "paused",
            gauge("lobbyd_clock_paused", "1 while the game clock is paused.", Value::Flag(paused), paused.into()),
        ),
        (
            "slowdown",
            gauge(
                "lobbyd_clock_slowdown_ratio",
                "Factor by which the game clock is slowed.",
                Value::Count(slowdown.into()),
                slowdown.into(),
            ),
        ),
    ])
}

fn close_figures(counters: &Counters) -> Figures {
    let figure = |(reason, count): (CloseReason, u64)| {
        let labels = vec![("code", reason.code().to_string()), ("reason", reason.word().to_owned())];
        let help = "Connections closed, by reason. Code 1006: no close frame; code 0: never a WebSocket.";
        (reason.count_name().into_owned().into(), labelled("lobbyd_closes_total", help, labels, count))
    };
    Figures(counters.all_closes().map(figure).collect())
}

fn refusal_figures(counters: &Counters) -> Figures {
    let figure = |(reject, count): (Reject, u64)| {
        let labels = vec![("code", reject.word().to_owned())];
        let help = "Requests refused on connections that stay open, by code.";
        (reject.word().to_owned().into(), labelled("lobbyd_refusals_total", help, labels, count))
    };
    Figures(counters.all_rejects().map(figure).collect())
}

/// The figures of a drain.
pub(super) fn drain_figures(totals: DrainTotals) -> Figures {
    let DrainTotals { closed, flushed_bytes, dropped_bytes, forced, elapsed } = totals;
    Figures::new([
        ("closed", counter("lobbyd_drain_closed_connections_total", "Connections closed by the drain.", closed)),
        ("flushed_bytes", counter("lobbyd_drain_flushed_bytes_total", "Bytes written by the drain.", flushed_bytes)),
        (
            "dropped_bytes",
            counter("lobbyd_drain_dropped_bytes_total", "Queued bytes that the drain has dropped.", dropped_bytes),
        ),
        ("forced", counter("lobbyd_drain_forced_connections_total", "Connections that the drain has cut off.", forced)),
        (
            "elapsed_ms",
            gauge(
                "lobbyd_drain_duration_seconds",
                "Time since the drain began, or from its beginning to its end.",
                Value::Count(elapsed.as_millis() as u64),
                elapsed.as_secs_f64(),
            ),
        ),
    ])
}

/// The figures of a node of a cluster.
fn cluster_figures(stats: ClusterStats) -> Figures {
    let ClusterStats { is_attached, is_reachable, nodes, connections, index, entries, bytes } = stats;
    let flag = |name, help, value: bool| gauge(name, help, Value::Flag(value), value.into());
    let (attached, reachable) = ("1 while this node is attached to the cluster.", "1 while Redis answers this node.");
    Figures::new([
        ("attached", flag("lobbyd_cluster_attached", attached, is_attached)),
        ("reachable", flag("lobbyd_cluster_reachable", reachable, is_reachable)),
        ("nodes", size("lobbyd_cluster_nodes", "Nodes that are attached to the cluster, as this one knows.", nodes)),
        (
            "connections",
            size("lobbyd_cluster_node_connections", "Connections of this node that have a seat.", connections),
        ),
        (
            "index",
            gauge(
                "lobbyd_cluster_log_index",
                "Index of the last entry of the log that this node has executed.",
                Value::Count(index),
                index as f64,
            ),
        ),
        (
            "entries",
            counter("lobbyd_cluster_entries_total", "Entries of the log that this node has executed.", entries),
        ),
        ("bytes", counter("lobbyd_cluster_operation_bytes_total", "Bytes of the operations in these entries.", bytes)),
    ])
}

fn journal_figures(recording: &Recording) -> Figures {
    let Recording { bytes, writes, micros, slowest_micros, has_failed, durations: _, sizes: _ } = *recording;
    Figures::new([
        ("bytes", in_histogram(bytes)),
        ("writes", in_histogram(writes)),
        ("micros", in_histogram(micros)),
        (
            "slowest_micros",
            gauge(
                "lobbyd_journal_slowest_write_seconds",
                "Duration of the slowest write of the journal.",
                Value::Count(slowest_micros),
                seconds(slowest_micros),
            ),
        ),
        (
            "failed",
            gauge(
                "lobbyd_journal_failed",
                "1 when an error has ended the recording.",
                Value::Flag(has_failed),
                has_failed.into(),
            ),
        ),
    ])
}

// ---- kinds of figures ----

fn gauge(name: &'static str, help: &'static str, value: Value, sample: f64) -> Node {
    Node::Figure(value, Metric::Own { name, kind: Kind::Gauge, help, labels: Vec::new(), sample })
}

/// A gauge that is the same number in JSON.
fn size(name: &'static str, help: &'static str, value: usize) -> Node {
    gauge(name, help, Value::Count(value as u64), value as f64)
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Node {
    labelled(name, help, Vec::new(), value)
}

fn in_histogram(value: u64) -> Node {
    Node::Figure(Value::Count(value), Metric::InHistogram)
}

fn labelled(name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: u64) -> Node {
    let sample = value as f64;
    Node::Figure(Value::Count(value), Metric::Own { name, kind: Kind::Counter, help: help.trim(), labels, sample })
}

// ---- JSON ----

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, Shown::Whole, serializer)
    }
}

fn serialize<S: Serializer>(
    entries: &[(Cow<'static, str>, Node)],
    shown: Shown,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(None)?;
    for (key, node) in entries {
        if shown != Shown::Occurred || !matches!(node, Node::Figure(Value::Count(0), _)) {
            object.serialize_entry(key, node)?;
        }
    }
    object.end()
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Figure(Value::Word(word), _) => serializer.serialize_str(word),
            Node::Figure(Value::Count(count), _) => serializer.serialize_u64(*count),
            Node::Figure(Value::Decimal(number), _) => as_displayed(number, serializer),
            Node::Figure(Value::Flag(flag), _) => serializer.serialize_bool(*flag),
            Node::Figure(Value::Unlimited, _) | Node::Group(Shown::Null, _) | Node::Off => serializer.serialize_unit(),
            Node::Group(shown, figures) => serialize(&figures.0, *shown, serializer),
        }
    }
}

/// Writes a number as it is displayed: 5 and not 5.0.
pub(super) fn as_displayed<S: Serializer>(number: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(number.to_string()).expect("a number is displayed as in JSON").serialize(serializer)
}
