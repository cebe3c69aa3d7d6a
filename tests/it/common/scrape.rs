//! Reads the answer of `GET /metrics`, and checks what a lenient reader would accept.

use std::collections::{BTreeMap, BTreeSet};

/// A metric with its samples.
#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: String,
    /// Names of the labels, without `le`.
    pub labels: Vec<String>,
}

/// A parsed answer.
#[derive(Debug)]
pub struct Scrape {
    pub families: Vec<Family>,
    /// By name and labels, as they are written.
    pub samples: BTreeMap<String, f64>,
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Splits `a="b",c="d"`. The values contain no escapes.
fn labels(text: &str) -> Vec<(&str, &str)> {
    text.split(',')
        .map(|pair| pair.split_once("=\"").expect("a label"))
        .map(|(name, value)| {
            (name, value.strip_suffix('"').filter(|value| !value.contains(['"', '\\'])).expect("a quoted value"))
        })
        .collect()
}

impl Scrape {
    /// Parses the body of an answer.
    #[track_caller]
    pub fn parse(text: &str) -> Scrape {
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "the last line ends with a line feed");
        let mut scrape = Scrape { families: Vec::new(), samples: BTreeMap::new() };
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# HELP ") {
                let (name, help) = line.split_once(' ').expect("a help text");
                let is_new = !scrape.families.iter().any(|family| family.name == name);
                assert!(is_new && is_name(name) && help.ends_with('.'), "{line}");
                let (name, help) = (name.to_owned(), help.to_owned());
                scrape.families.push(Family { name, kind: String::new(), help, labels: Vec::new() });
            } else if let Some(line) = line.strip_prefix("# TYPE ") {
                let family = scrape.families.last_mut().expect("HELP comes first");
                let (name, kind) = line.split_once(' ').expect("a type");
                assert_eq!((name, &*family.kind), (&*family.name, ""));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                family.kind = kind.to_owned();
            } else {
                scrape.add_sample(line);
            }
        }
        scrape
            .families
            .iter()
            .filter(|family| family.kind == "histogram")
            .for_each(|family| scrape.check(&family.name));
        scrape
    }

    fn add_sample(&mut self, line: &str) {
        let family = self.families.last_mut().expect("TYPE comes first");
        let (key, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}: no number"));
        let (name, pairs) = match key.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect("the labels end"))),
            None => (key, Vec::new()),
        };
        let suffix = name.strip_prefix(&*family.name).unwrap_or_else(|| panic!("{line} is not of {}", family.name));
        match &*family.kind {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{line}: a label occurs twice");
        if suffix == "_bucket" {
            assert_eq!(names, ["le"]);
        } else if family.labels.is_empty() {
            family.labels = names.iter().map(|name| (*name).to_owned()).collect();
        } else {
            assert_eq!(family.labels, names, "{line}: the samples of a metric have the same labels");
        }
        assert!(value >= 0.0, "{line}");
        assert_eq!(self.samples.insert(key.to_owned(), value), None, "{line} occurs twice");
    }

    /// Buckets grow in both bound and count, and end at `+Inf` with the count.
    fn check(&self, name: &str) {
        let prefix = format!("{name}_bucket{{le=\"");
        let buckets = self.samples.iter().filter_map(|(key, count)| {
            let bound = key.strip_prefix(&prefix)?.strip_suffix("\"}").expect("one label");
            Some((bound.parse::<f64>().expect("a bound"), *count))
        });
        let mut buckets: Vec<(f64, f64)> = buckets.collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() > 5 && buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, self.get(&format!("{name}_count")))), "{name}");
        let sum = self.get(&format!("{name}_sum"));
        assert!(sum.is_finite(), "{name}");
    }

    /// The sample with this name and these labels.
    #[track_caller]
    pub fn get(&self, key: &str) -> f64 {
        *self.samples.get(key).unwrap_or_else(|| panic!("there is no {key}"))
    }

    /// Name, sum and count of a histogram.
    #[track_caller]
    pub fn sum_and_count(&self, name: &str) -> (f64, f64) {
        (self.get(&format!("{name}_sum")), self.get(&format!("{name}_count")))
    }

    /// Checks that no counter and no bucket is smaller than in an `earlier` answer, and that none is missing.
    #[track_caller]
    pub fn check_follows(&self, earlier: &Scrape) {
        for family in earlier.families.iter().filter(|family| family.kind != "gauge") {
            for (key, before) in earlier.samples.iter().filter(|(key, _)| key.starts_with(&family.name)) {
                assert!(self.get(key) >= *before, "{key} has fallen from {before}");
            }
        }
    }
}
