//! Golden layouts: every case of the files in the clone, and of the shared collection where it is present.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use percpu::testing::golden_layout::{run_case, run_init};
use serde_json::Value;

/// Files of the clone.
const CLONE: &str = "tests/data/golden";
/// The full collection, beside a checkout of the repository.
const SHARED: &str = "../shared/golden";
/// The generations that have chunks, and so a first chunk.
const GENERATIONS: [&str; 6] = ["areamap-4.x", "rfc-v1", "linux-4.19", "linux-5.4", "linux-6.1", "linux-6.12"];

fn files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for generation in GENERATIONS {
        let Ok(entries) = fs::read_dir(root.join(generation)) else { continue };
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.retain(|file| file.to_string_lossy().ends_with(".jsonl.gz"));
    files.sort();
    files
}

/// Cases and differences of one file; a trace has one case, its `init` line.
fn run_file(file: &Path, differences: &mut Vec<String>) -> Option<((String, String), usize)> {
    let mut lines = BufReader::new(GzDecoder::new(File::open(file).unwrap())).lines();
    let header: Value = serde_json::from_str(&lines.next()?.unwrap()).unwrap();
    let generation = header["generation"].as_str()?.to_string();
    let kind = header["kind"].as_str()?.to_string();
    let mut cases = 0;
    for line in lines {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let found = match kind.as_str() {
            "layout-build" | "layout-setup" => run_case(&generation, &kind, &header, &line),
            "trace" => run_init(&header, &line),
            _ => break,
        };
        cases += 1;
        let case = file.display();
        differences.extend(found.into_iter().map(|text| format!("{case}, case {cases}: {text}")));
        if kind == "trace" {
            break;
        }
    }
    Some(((generation, kind), cases))
}

fn run_all(root: &str) -> BTreeMap<(String, String), usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut differences = Vec::new();
    let mut counts = BTreeMap::new();
    for file in files(&root) {
        if let Some((key, cases)) = run_file(&file, &mut differences) {
            *counts.entry(key).or_insert(0) += cases;
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(20)].join("\n")
    );
    counts
}

#[test]
fn layouts_of_the_clone() {
    let counts = run_all(CLONE);
    for generation in GENERATIONS {
        for kind in ["layout-build", "layout-setup"] {
            assert!(counts.get(&(generation.into(), kind.into())).is_some_and(|&n| n > 0), "{generation} {kind}");
        }
    }
}

#[test]
fn layouts_and_trace_starts_of_the_full_collection() {
    for ((generation, kind), cases) in run_all(SHARED) {
        println!("{generation:12} {kind:13} {cases:5} cases, 0 differences");
    }
}
