//! States of real kernels right after the first chunk was set up: computed and compared in full.

#![cfg(feature = "testing")]

use std::fs::File;
use std::path::Path;

use flate2::read::GzDecoder;
use percpu::testing::recordings::{find_initial, initial_difference, initial_file_difference};
use serde_json::Value;

/// Checks the files below a directory beside the manifest; how many there were.
fn check(dir: &str) -> usize {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let files = if dir.is_dir() { find_initial(&dir).unwrap() } else { Vec::new() };
    for file in &files {
        assert_eq!(initial_file_difference(file).unwrap(), None);
    }
    files.len()
}

#[test]
fn states_of_the_clone() {
    assert_eq!(check("tests/data"), 4);
}

/// The full collection, where it is present beside a checkout.
#[test]
fn states_of_the_full_collection() {
    println!("{} states, 0 differences", check("../shared/kernel"));
}

/// One figure of a state changed: the comparison says so, or the state is refused.
#[test]
fn a_changed_figure_is_noticed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/initial/61-3+5.json.gz");
    let state: Value = serde_json::from_reader(GzDecoder::new(File::open(file).unwrap())).unwrap();
    assert_eq!(initial_difference(state.to_string().as_bytes()), Ok(None));
    let mut changed = 0;
    for (object, only_some) in [("/globals", true), ("/chunks/0", false), ("/chunks/1", false), ("/slots", false)] {
        // Link addresses, lock words and struct sizes are facts about the build that nothing depends on.
        let numbers = paths(state.pointer(object).unwrap(), object);
        let compared = |path: &String| {
            !only_some || ["pcpu_nr_", "_slot", "pcpu_unit_", "pcpu_group_", "async"].iter().any(|w| path.contains(w))
        };
        for path in numbers.iter().filter(|path| compared(path)) {
            let mut copy = state.clone();
            let value = copy.pointer_mut(path).unwrap();
            *value = (value.as_u64().unwrap() ^ 1).into();
            assert!(!matches!(initial_difference(copy.to_string().as_bytes()), Ok(None)), "{path}");
            changed += 1;
        }
    }
    assert!(changed > 100, "{changed} figures");
}

/// Paths of all numbers in a value.
fn paths(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Number(_) => vec![path.to_owned()],
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(i, item)| paths(item, &format!("{path}/{i}"))).collect()
        }
        Value::Object(map) => map.iter().flat_map(|(key, item)| paths(item, &format!("{path}/{key}"))).collect(),
        _ => Vec::new(),
    }
}
