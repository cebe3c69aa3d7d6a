//! Metrics as text, in the exposition format of Prometheus, version 0.0.4. Knows the format, not the metrics.

use std::fmt::{Display, Write};

use crate::base::distribution::{Distribution, Unit};

/// The media type of the format.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Kind of a metric, as the format names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number that only grows.
    Counter,
    Gauge,
}

/// Metrics as text, in the exposition format of Prometheus.
///
/// Names follow the conventions of Prometheus: base units (`_seconds`, `_bytes`), and `_total` at the end of counters.
/// Each name is written once.
///
/// ```
/// use lobbyd::admin::Exposition;
/// use lobbyd::stats::Distribution;
///
/// let mut metrics = Exposition::default();
/// metrics.counter("game_rounds_total", "Rounds played.", 17.0);
/// metrics.gauge("game_players", "Players in a round.", 4.0);
/// metrics.histogram("game_round_seconds", "Duration of rounds.", &Distribution::of_durations());
/// assert!(metrics.text().contains("# TYPE game_rounds_total counter\ngame_rounds_total 17\n"));
/// ```
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Appends a number that only grows while the process runs.
    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// Appends a number that may grow and fall.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// Appends a distribution: a bucket for each upper bound, the sum and the count. Durations are written in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, distribution: &Distribution) {
        let number = |value: u64| match distribution.unit() {
            Unit::Micros => seconds(value),
            Unit::Bytes => value as f64,
        };
        self.family(name, "histogram", help);
        for (bound, count) in distribution.cumulative() {
            let bound = Number(bound.map_or(f64::INFINITY, number));
            // Bounds need no escapes.
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        self.sample(&format!("{name}_sum"), &[], number(distribution.sum()));
        self.sample(&format!("{name}_count"), &[], distribution.count() as f64);
    }

    /// Appends numbers that only grow, one for each value of a label.
    pub(crate) fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        self.labelled(name, Kind::Counter, help);
        for &(value, count) in values {
            self.sample(name, &[(label, value)], count as f64);
        }
    }

    /// Begins a metric whose samples may have labels. The [samples](Self::sample) follow.
    pub(crate) fn labelled(&mut self, name: &str, kind: Kind, help: &str) {
        self.family(name, if kind == Kind::Counter { "counter" } else { "gauge" }, help);
    }

    /// Appends one sample of the metric that was begun last. The labels are pairs of a name and a value.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.extend([label, "=\""]);
            self.push_escaped(value, true);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, " {}", Number(value));
    }

    /// Returns the metrics so far: lines, each with its line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let is_valid = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b':');
        debug_assert!(is_valid && !name.is_empty(), "{name:?} is not the name of a metric");
        self.text.extend(["# HELP ", name, " "]);
        self.push_escaped(help, false);
        self.text.extend(["\n# TYPE ", name, " ", kind, "\n"]);
    }

    fn push_escaped(&mut self, text: &str, is_quoted: bool) {
        for c in text.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '"' if is_quoted => self.text.push_str("\\\""),
                _ => self.text.push(c),
            }
        }
    }
}

/// Converts microseconds to seconds.
pub(super) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// A number as the format writes it: as in Go, in which `+Inf` and `NaN` are numbers.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_numbers_are_those_of_go() {
        let mut metrics = Exposition::default();
        metrics.labelled("a", Kind::Gauge, "two\nlines, \"quoted\", and a \\");
        metrics.sample("a", &[("x", "\"\\\n"), ("y", "ä")], 0.5);
        for number in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e21, -0.000_01] {
            metrics.sample("a", &[], number);
        }
        assert_eq!(
            metrics.text(),
            "# HELP a two\\nlines, \"quoted\", and a \\\\\n# TYPE a gauge\na{x=\"\\\"\\\\\\n\",y=\"ä\"} 0.5\n\
             a +Inf\na -Inf\na NaN\na 1000000000000000000000\na -0.00001\n"
        );
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_a_sum_and_a_count() {
        let mut distribution = Distribution::of_durations();
        [9, 10, 11, 2_500_001, 60_000_000].into_iter().for_each(|micros| distribution.record(micros));
        let mut metrics = Exposition::default();
        metrics.histogram("wait_seconds", "Waiting.", &distribution);
        let lines: Vec<&str> = metrics.text().lines().collect();
        assert_eq!(lines[..2], ["# HELP wait_seconds Waiting.", "# TYPE wait_seconds histogram"]);
        assert_eq!(lines[2..4], ["wait_seconds_bucket{le=\"0.00001\"} 2", "wait_seconds_bucket{le=\"0.000025\"} 3"]);
        assert_eq!(
            lines[lines.len() - 5..],
            [
                "wait_seconds_bucket{le=\"5\"} 4",
                "wait_seconds_bucket{le=\"10\"} 4",
                "wait_seconds_bucket{le=\"+Inf\"} 5",
                "wait_seconds_sum 62.500031",
                "wait_seconds_count 5",
            ]
        );
    }
}
