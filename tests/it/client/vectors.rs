//! The client passes the conformance vectors for clients.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::transcript::run;

/// Vectors that this client cannot run, each with the reason.
const SKIPPED: &[(&str, &str)] = &[
    ("event-stream", "only pages are in networks that block WebSockets"),
    ("event-stream-ends", "only pages are in networks that block WebSockets"),
    ("event-stream-fails-too", "only pages are in networks that block WebSockets"),
    ("event-stream-given-up", "only pages are in networks that block WebSockets"),
    ("clock-set-back", "its clock cannot be set back"),
    ("leave-in-a-listener", "events are polled: there are no listeners"),
    ("hidden-page", "a program has no timers that a browser stops while it is hidden"),
    ("kept-page", "a program is not kept by a browser after it was left"),
    ("throwing-listener", "events are polled: there are no listeners"),
];

/// Number of vectors that run.
const RUN: usize = 87;

/// Returns the transcripts by their names.
fn vectors() -> Vec<(String, Vec<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder of vectors") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).expect("a vector is readable");
            let vector: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let name = vector["name"].as_str().expect("a vector has a name").to_owned();
            assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(&*name));
            found.push((name, vector["steps"].as_array().expect("a vector has steps").clone()));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

#[test]
fn the_client_passes_the_vectors() {
    let vectors = vectors();
    for (name, _) in SKIPPED {
        assert!(vectors.iter().any(|(other, _)| other == name), "there is no vector {name}");
    }
    let run_ones: Vec<_> =
        vectors.iter().filter(|(name, _)| SKIPPED.iter().all(|(skipped, _)| skipped != name)).collect();
    let failures: Vec<String> =
        run_ones.iter().filter_map(|(name, steps)| Some(format!("{name}: {}", run(steps).err()?))).collect();
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), run_ones.len(), failures.join("\n"));
    assert_eq!(run_ones.len(), RUN, "vectors that run");
}

/// The guide names the vectors of each step. A name that ends with `*` or `…` is the beginning of names.
#[test]
fn the_guide_names_every_vector() {
    let guide =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/client.md")).expect("the guide");
    let (_, steps) = guide.split_once("## Step by step").expect("the section");
    let (steps, _) = steps.split_once("\n## ").expect("the next section");
    let names: Vec<&str> = steps.split('`').skip(1).step_by(2).collect();
    let is_named = |vector: &str| {
        names.iter().any(|name| match name.strip_suffix(['*', '…']) {
            Some(beginning) => vector.starts_with(beginning),
            None => vector == *name,
        })
    };
    let missing: Vec<String> = vectors().into_iter().map(|(name, _)| name).filter(|name| !is_named(name)).collect();
    assert!(missing.is_empty(), "not named in `Step by step`: {missing:?}");
}
