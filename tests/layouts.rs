//! Golden layouts: every case of the files in the clone, and of the shared collection where it is present.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use percpu::testing::boots::{initial_state, public_boot, recorded_boot, Totals, Verdict};
use percpu::testing::golden_layout::{first_chunk_of_header, run_case, run_init, run_question};
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

#[test]
fn questions_about_the_first_chunk() {
    let mut asked = 0;
    for root in [CLONE, SHARED] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        for file in files(&root).iter().filter(|file| file.to_string_lossy().contains("addr-")) {
            let mut lines = BufReader::new(GzDecoder::new(File::open(file).unwrap())).lines();
            let header = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            let chunk = first_chunk_of_header(&header).unwrap().first_chunk.unwrap();
            for line in lines.map(Result::unwrap).filter(|line| line.starts_with("[\"Q\"")) {
                let line = serde_json::from_str(&line).unwrap();
                assert_eq!(run_question(&chunk, &line), Vec::<String>::new(), "{}", file.display());
                asked += 1;
            }
        }
    }
    println!("{asked} questions, 0 differences");
    assert!(asked > 0);
}

/// The recordings of real kernels, beside a checkout of the repository.
const KERNEL: &str = "../shared/kernel";

#[test]
fn states_of_real_kernels_right_after_the_set_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(KERNEL).join("initial");
    let mut states = 0;
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let text = std::io::read_to_string(GzDecoder::new(File::open(entry.path()).unwrap())).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(initial_state(&state), Vec::<String>::new(), "{}", entry.path().display());
        states += 1;
    }
    println!("{states} states, 0 differences");
}

/// The lines of a file beside the checkout; none if it is absent.
fn entries(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(KERNEL).join(name);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn boots_of_real_machines() {
    let mut totals = Totals::default();
    for (name, run) in [("layouts.jsonl", recorded_boot as fn(&Value) -> Verdict), ("dmesg-corpus.jsonl", public_boot)]
    {
        for entry in entries(name) {
            let verdict = run(&entry);
            assert!(!matches!(verdict, Verdict::Different(_)), "{name} {}: {verdict:?}", entry["id"]);
            totals.add(&verdict);
        }
    }
    println!("{}", totals.line());
}

/// One digit changed anywhere in the lines of a recorded boot must be noticed.
#[test]
fn a_changed_digit_is_a_difference() {
    let boot = serde_json::json!({
        "kernel": "6.12.117",
        "boot_params": "",
        "cpu_to_node": [0, 0, 0, 1, 1, 1, 1, 1],
        "dmesg": [
            "[    0.093413] setup_percpu: NR_CPUS:256 nr_cpumask_bits:8 nr_cpu_ids:8 nr_node_ids:2",
            "[    0.093412] percpu: Embedded 57 pages/cpu s193304 r8192 d31976 u1048576",
            "[    0.094773] pcpu-alloc: s193304 r8192 d31976 u1048576 alloc=1*2097152",
            "[    0.095834] pcpu-alloc: [0] 0 1 [0] 2 - [1] 3 4 [1] 5 6 ",
            "[    0.095835] pcpu-alloc: [1] 7 - ",
        ],
        "groups": [{"group": 0, "units": [0, 1, 2, null]}, {"group": 1, "units": [3, 4, 5, 6, 7, null]}],
    });
    assert_eq!(recorded_boot(&boot), Verdict::Recomputed);
    let mut changed = 0;
    for index in 1..5 {
        let line = boot["dmesg"][index].as_str().unwrap();
        let start = line.find(']').unwrap();
        for (at, digit) in line.char_indices().filter(|(at, c)| *at > start && c.is_ascii_digit()) {
            // Static and reserved size are input where the dump prints them.
            let word = line[..at].rfind([' ', 's', 'r']).map(|from| &line[from..=from]);
            if index == 2 && matches!(word, Some("s" | "r")) {
                continue;
            }
            let mut copy = boot.clone();
            let other = if digit == '1' { "2" } else { "1" };
            copy["dmesg"][index] = Value::from(format!("{}{other}{}", &line[..at], &line[at + 1..]));
            assert!(matches!(recorded_boot(&copy), Verdict::Different(_)), "{}", copy["dmesg"][index]);
            changed += 1;
        }
    }
    assert!(changed > 40);
}
