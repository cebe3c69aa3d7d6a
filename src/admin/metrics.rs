//! `GET /metrics`: the figures about the server, and its histograms, for Prometheus.
//!
//! Writing them costs the same with any number of connections, lobbies and users: nothing is counted on request, and no
//! name of a lobby or user is a label.

use super::exposition::{Exposition, Kind, MEDIA_TYPE};
use super::figures::{Metric, figures};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::recording::Recording;
use crate::engine::state::measurements::Measurements;
use crate::engine::state::readiness::Readiness;
use crate::http::response::JsonResponse;

/// The driver's part of `GET /metrics`, such as the duration of turns. `()` has none.
///
/// The engine knows neither the clock nor the process, so these figures come from the owner of both. They are asked for
/// only when they are to be shown.
///
/// ```
/// use lobbyd::admin::{AdminConns, DriverMetrics, Exposition};
/// use lobbyd::apps::Relay;
/// use lobbyd::driver::Start;
/// use lobbyd::stats::Distribution;
/// use lobbyd::{Config, Engine, Time};
///
/// /// Measures the turns of a program's own loop.
/// struct Turns(Distribution);
///
/// impl DriverMetrics for Turns {
///     fn write_metrics(&mut self, metrics: &mut Exposition) {
///         metrics.histogram("lobbyd_turn_seconds", "Duration of turns of the loop.", &self.0);
///     }
/// }
///
/// let mut turns = Turns(Distribution::of_durations());
/// let mut engine =
///     Engine::new(Config::default().check().unwrap(), Start { unix_micros: 0, seed: 1 }, Relay::default());
/// let mut admin = AdminConns::new(engine.config(), None);
///
/// turns.0.record(120); // microseconds
/// let client = admin.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// admin.handle_bytes(client, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
/// admin.work_with(Time::ZERO, &mut engine, &mut turns);
/// let answer = String::from_utf8(admin.pending(client).to_vec()).unwrap();
/// assert!(answer.contains("\nlobbyd_turn_seconds_sum 0.00012\n"));
/// ```
pub trait DriverMetrics {
    /// Appends the driver's metrics, each under a name of its own. Called once for each answer.
    fn write_metrics(&mut self, metrics: &mut Exposition);
}

impl DriverMetrics for () {
    fn write_metrics(&mut self, _: &mut Exposition) {}
}

/// The answer to `GET /metrics`.
pub(super) fn answer<A: App>(engine: &Engine<A>, now: Time, driver: &mut dyn DriverMetrics) -> JsonResponse {
    let mut text = text(engine, now, driver);
    // The response adds the last line feed.
    text.truncate(text.trim_end_matches('\n').len());
    JsonResponse::text(MEDIA_TYPE, text)
}

fn text<A: App>(engine: &Engine<A>, now: Time, driver: &mut dyn DriverMetrics) -> String {
    let mut metrics = Exposition::default();
    metrics.labelled("lobbyd_build_info", Kind::Gauge, "1, with the version as a label.");
    metrics.sample("lobbyd_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let is_ready = engine.readiness() == Readiness::Ready;
    metrics.gauge("lobbyd_ready", "1 while `GET /health/ready` is answered with 200.", is_ready.into());
    write_figures(&mut metrics, engine, now);
    write_histograms(&mut metrics, engine);
    driver.write_metrics(&mut metrics);
    metrics.into_text()
}

fn write_figures<A: App>(metrics: &mut Exposition, engine: &Engine<A>, now: Time) {
    let mut last = "";
    figures(engine, now).for_each_metric(&mut |metric| {
        // Figures in histograms are written with them.
        let Metric::Own { name, kind, help, labels, sample } = metric else { return };
        // Figures with the same name follow each other.
        if last != *name {
            metrics.labelled(name, *kind, help);
            last = name;
        }
        let labels: Vec<(&str, &str)> = labels.iter().map(|(label, value)| (*label, &**value)).collect();
        metrics.sample(name, &labels, *sample);
    });
}

fn write_histograms<A: App>(metrics: &mut Exposition, engine: &Engine<A>) {
    let Measurements { lagging, blocked_bytes, ping_latency, health_latency, tick_lateness } = engine.measurements();
    let help = "Members that cannot keep up: their sockets take no more, or much is queued for them.";
    metrics.gauge("lobbyd_lagging_connections", help, lagging as f64);
    let help = "Limit of the bytes queued for a connection.";
    metrics.gauge("lobbyd_max_outbound_bytes", help, engine.config().max_outbound_bytes.0 as f64);
    let help = "Bytes left in the queue of a connection, each time that its socket took less than was queued.";
    metrics.histogram("lobbyd_blocked_queue_bytes", help, &blocked_bytes);
    let help = "Time from a ping to an idle connection until its next bytes arrive, usually the pong.";
    metrics.histogram("lobbyd_ping_latency_seconds", help, &ping_latency);
    metrics.histogram("lobbyd_health_latency_seconds", "Time from a health check to its answer.", &health_latency);
    if let Some(lateness) = tick_lateness {
        let help = "Lateness of the ticks, without stepped ticks.";
        metrics.histogram("lobbyd_tick_lateness_seconds", help, &lateness);
    }
    if let Some(Recording { durations, sizes, .. }) = engine.recording() {
        metrics.histogram("lobbyd_journal_write_seconds", "Duration of writes of the journal.", &durations);
        metrics.histogram("lobbyd_journal_write_bytes", "Bytes that each write added to the journal.", &sizes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::time::Duration;

    use serde_json::Value as Json;

    use super::super::figures::{Figures, Node, Shown, Value};
    use super::*;
    use crate::apps::Relay;
    use crate::base::close::CloseReason;
    use crate::config::Config;
    use crate::engine::driver::Start;
    use crate::journal::{Sink, record};
    use crate::sim::{MemorySockets, wire};

    /// A sink whose writes take 7 ms.
    struct Slow(Recording);

    impl Sink for Slow {
        fn begin(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
            self.0.add_write(Some(block.len() + rest.len()), 7000);
            Ok(())
        }

        fn recording(&self) -> Recording {
            self.0
        }
    }

    /// A recorded server with ticks that drains, and had a member that was kicked and a request that was refused.
    fn busy() -> (Engine<Relay>, Time) {
        let config = Config { tick_hz: Some(100), ..Config::default() }.check().expect("the configuration is valid");
        let start = Start { unix_micros: 1 << 40, seed: 1 };
        let (mut engine, mut sockets) = (Engine::new(config, start, Relay::default()), MemorySockets::default());
        record(&mut engine, start, Slow(Recording::default())).expect("the sink takes everything");
        for user in ["ann", "bob", "cid"] {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
            engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(&format!("/ws/chess?token={user}"), &[]));
            engine.handle_bytes(Time::ZERO, conn, &wire::text("rubbish"));
            let kick = |cx: &mut crate::engine::app::Context<'_>| cx.close(conn, CloseReason::app(4444, "out_of_time"));
            if user == "cid" {
                engine.act(Time::ZERO, |_, cx| kick(cx));
            }
        }
        let now = Time::ZERO + Duration::from_micros(123_456_789);
        engine.end_turn(now, &mut sockets).expect("the sink takes everything");
        engine.handle_drain(now);
        engine.end_turn(now, &mut sockets).expect("the sink takes everything");
        (engine, now)
    }

    /// The value of each sample by its name and labels.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| line.rsplit_once(' ').expect("a value"));
        pairs.map(|(key, value)| (key.to_owned(), value.parse().expect("a number"))).collect()
    }

    /// A sample that shows a figure of a histogram.
    fn sample_in_histogram(path: &str) -> &'static str {
        match path {
            "ticks.late_us.p50" | "ticks.late_us.p99" => "lobbyd_tick_lateness_seconds_bucket{le=\"+Inf\"}",
            "journal.bytes" => "lobbyd_journal_write_bytes_sum",
            "journal.writes" => "lobbyd_journal_write_seconds_count",
            "journal.micros" => "lobbyd_journal_write_seconds_sum",
            _ => panic!("{path}: which histogram shows it?"),
        }
    }

    /// Checks each figure, and removes it from `json`.
    fn check(figures: &Figures, shown: Shown, path: &str, json: &mut Json, samples: &BTreeMap<String, f64>) {
        for (key, node) in &figures.0 {
            let path = format!("{path}{}{key}", if path.is_empty() { "" } else { "." });
            let json = json.as_object_mut().expect("a group is an object");
            let mut value = json.remove(&**key).unwrap_or_default();
            match node {
                Node::Off => panic!("{path} is off, so it is not tested"),
                Node::Group(shown, figures) => {
                    check(figures, *shown, &path, &mut value, samples);
                    assert_eq!(value, serde_json::json!({}), "{path}: these figures are in no list");
                }
                Node::Figure(in_json, metric) => {
                    let key = match metric {
                        Metric::InHistogram => sample_in_histogram(&path).to_owned(),
                        Metric::Own { name, labels, .. } if labels.is_empty() => (*name).to_owned(),
                        Metric::Own { name, labels, .. } => {
                            let labels = labels.iter().map(|(label, value)| format!("{label}=\"{value}\""));
                            format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","))
                        }
                    };
                    let sample = *samples.get(&key).unwrap_or_else(|| panic!("{path}: there is no {key}"));
                    let is_hidden = shown == Shown::Occurred && matches!(in_json, Value::Count(0));
                    let unit = match key.split('{').next().and_then(|name| name.rsplit_once('_')) {
                        _ if path.ends_with("_ms") => 1e-3,
                        _ if path == "capacity_percent" => 1e-2,
                        Some((_, "seconds")) => 1e-6,
                        _ if key.ends_with("_seconds_sum") => 1e-6,
                        _ => 1.0,
                    };
                    let expected = match &value {
                        Json::Number(number) => number.as_f64().expect("a number") * unit,
                        Json::Bool(flag) => f64::from(*flag),
                        Json::String(word) => f64::from(word == "draining"),
                        _ if is_hidden => 0.0,
                        other => panic!("{path} is {other}"),
                    };
                    let is_quantile = path.starts_with("ticks.late_us.p");
                    assert!(is_quantile || (sample - expected).abs() < 1e-3, "{path} is {expected}, {key} is {sample}");
                }
            }
        }
    }

    #[test]
    fn every_figure_of_stats_is_in_metrics() {
        let (engine, now) = busy();
        let mut json = serde_json::to_value(figures(&engine, now)).expect("the body of GET /stats");
        let samples = samples(&text(&engine, now, &mut ()));
        assert_eq!((&json["closed"]["4444_out_of_time"], &json["errors"]["bad_message"]), (&1.into(), &3.into()));
        assert!(json["drain"]["closed"].is_number() && json["ticks"]["late_us"]["max"].as_u64() > Some(0));
        check(&figures(&engine, now), Shown::Whole, "", &mut json, &samples);
        assert_eq!(json, serde_json::json!({}), "these figures are in no list");
    }
}
