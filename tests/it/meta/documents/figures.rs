//! Tables of the guide agree with files of the repository: recorded instruction counts, and the alerts.

use std::collections::{BTreeMap, BTreeSet};

use super::{quoted, read, root, rows, section};

/// The rows of the guide's table of instructions, each with its scenario in `benches/instructions.txt`.
const INSTRUCTIONS: &[(&str, &str)] = &[
    ("one message to 9 others", "w1"),
    ("four messages to 9 others", "w4"),
    ("8 members that all send", "all"),
    ("four messages to 999 others", "big"),
    ("one JSON message to 9 others", "json"),
    ("one JSON message to 999 others", "json-999"),
    ("one JSON message to one member, through its outbox", "direct"),
];

#[test]
fn instructions_of_the_guide_are_the_recorded_ones() {
    let recorded = read(&root().join("benches/instructions.txt"));
    let recorded = recorded.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [scenario, _turn, delivery] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        (scenario, delivery)
    });
    let recorded: BTreeMap<&str, &str> = recorded.collect();
    let table = section("<!-- instructions");
    let rows = rows(&table);
    assert_eq!(
        rows.iter().map(|row| row[0]).collect::<Vec<_>>(),
        INSTRUCTIONS.iter().map(|(row, _)| *row).collect::<Vec<_>>()
    );
    for (row, (_, scenario)) in rows.iter().zip(INSTRUCTIONS) {
        let shown = row[1].split(' ').next().expect("a cell is not empty").replace(',', "");
        let recorded: f64 = recorded[scenario].parse().expect("a scenario with deliveries");
        assert_eq!(shown, recorded.round().to_string(), "{}", row[0]);
    }
}

#[test]
fn the_guide_says_what_to_do_about_each_alert() {
    let rules = read(&root().join("examples/deploy/prometheus-rules.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect();
    let table = section("<!-- alerts");
    let rows = rows(&table);
    let listed: Vec<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(listed.len(), alerts.len(), "each alert has one row");
    let sorted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(sorted(&listed), sorted(&alerts));
}
