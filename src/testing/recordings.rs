//! Replays recordings of real kernels: start state, trace, states on the way and at the end.
//!
//! # Design
//!
//! A recording is a directory: `meta.json`, a start state, a trace in the best form there is (in
//! lock order, text, columns), states at markers, a state at the end. Every placement is
//! predicted, every state compared in full. Nothing is known here of any single recording.
//!
//! # Source
//!
//! Specification 50; the description of the recordings (`tests/data/README.md`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::boots::preset_for;
use crate::engine::Engine;
use crate::replay::{predict, Options, Totals};
use crate::state::State;
use crate::trace::{read_trace, Kind, Trace};
use crate::variant::Preset;

/// Forms of a trace, best first.
const TRACES: [&str; 3] = ["trace-ext.txt.gz", "trace.txt.gz", "trace-cols.csv.gz"];

/// What the replay of one recording has found.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name of the directory.
    pub name: String,
    /// The file that was replayed; `None` without a start state.
    pub trace: Option<&'static str>,
    /// Counts.
    pub totals: Totals,
    /// Served requests in the trace.
    pub allocs: u64,
    /// Failed requests in the trace.
    pub fails: u64,
    /// States that were reached exactly.
    pub states_equal: u32,
    /// States that were recorded after the start.
    pub states: u32,
    /// Whether the state at the end was reached exactly.
    pub end_equal: bool,
    /// The first divergence and the first differences of states.
    pub shown: Vec<String>,
}

/// Directories below `dir` that hold a recording, sorted.
pub fn find_runs(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut runs = Vec::new();
    if dir.join("meta.json").is_file() {
        runs.push(dir.to_owned());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            runs.extend(find_runs(&path)?);
        }
    }
    runs.sort();
    Ok(runs)
}

/// Replays one recording.
pub fn run(dir: &Path) -> Result<Run, String> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("{name}: {what}: {error}");
    let read = |file: &str| fs::read(dir.join(file)).map_err(|error| fail(file, &error));
    let meta: Value = serde_json::from_slice(&read("meta.json")?).map_err(|error| fail("meta.json", &error))?;
    let mut result = Run {
        name: name.clone(),
        trace: None,
        totals: Totals::default(),
        allocs: 0,
        fails: 0,
        states_equal: 0,
        states: 0,
        end_equal: false,
        shown: Vec::new(),
    };
    let file = TRACES.into_iter().find(|file| dir.join(file).is_file()).ok_or_else(|| format!("{name}: no trace"))?;
    let trace = read_trace(&read(file)?).map_err(|error| fail(file, &error))?;
    count(&trace, &mut result);
    if !dir.join("state-a.json.gz").is_file() {
        return Ok(result);
    }
    result.trace = Some(file);
    let state = |file: &str| State::from_json(&read(file)?).map_err(|error| fail(file, &error));
    let start = state("state-a.json.gz")?;
    let preset = preset_of_run(&meta).ok_or_else(|| format!("{name}: no preset for kernel {}", meta["kernel"]))?;
    let engine = start.restore(preset).map_err(|error| fail("state-a.json.gz", &error))?;
    let options = Options { states_at_markers: true, ..Options::default() };
    let mut replay = predict(&trace, engine, &options).map_err(|error| fail(file, &error))?;
    if !start.async_enabled {
        // Late boot writes no line; a recording of a boot ends after it.
        replay.engine.enable_async();
    }
    result.totals = replay.totals;
    result.shown.extend(replay.first_divergence.iter().map(|first| format!("{name}: {first}")));

    let mut compare = |file: String, found: &State| -> Result<bool, String> {
        if !dir.join(&file).is_file() {
            return Ok(false);
        }
        let differences = state(&file)?.diff(found);
        result.states += 1;
        result.states_equal += u32::from(differences.is_empty());
        result.shown.extend(differences.iter().take(4).map(|found| format!("{name}: {file}: {found}")));
        Ok(differences.is_empty())
    };
    for (marker, found) in replay.states {
        if let Some(point) = marker.strip_prefix("SNAPSHOT_") {
            compare(format!("state-{}.json.gz", point.to_lowercase()), &found.on_machine(&start))?;
        }
    }
    result.end_equal = compare("state-b.json.gz".into(), &State::capture(&replay.engine).on_machine(&start))?;
    Ok(result)
}

fn count(trace: &Trace, result: &mut Run) {
    let counts = trace.counts();
    result.totals.events = trace.len() as u64;
    result.allocs = counts.of(Kind::Alloc);
    result.fails = counts.of(Kind::AllocFail);
}

/// The preset of the kernel that a recording names.
fn preset_of_run(meta: &Value) -> Option<&'static Preset> {
    preset_for(meta["kernel"].as_str()?)
}

/// The closing line of `make recordings`.
pub fn summary(runs: &[Run]) -> String {
    let sum = |field: fn(&Run) -> u64| runs.iter().map(field).sum::<u64>();
    format!(
        "recordings: {} runs, {} events, {} predicted, {} diverged, {} end states equal",
        runs.len(),
        sum(|run| run.totals.events),
        sum(|run| run.totals.allocs + run.totals.fails),
        sum(|run| run.totals.diverged),
        sum(|run| u64::from(run.end_equal)),
    )
}

/// The table of `docs/fidelity.md`, a row a run.
pub fn table(runs: &[Run]) -> String {
    let mut out = String::from(
        "| run | trace | events | allocations predicted | failures predicted | late lines | background explained | diverged | states equal |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let t = &run.totals;
        out += &match run.trace {
            Some(trace) => format!(
                "| {} | {} | {} | {}/{} | {}/{} | {} | {}/{} | {} | {}/{} |\n",
                run.name,
                trace.split('.').next().unwrap_or(trace),
                t.events,
                t.allocs,
                run.allocs,
                t.fails,
                run.fails,
                t.late,
                t.background,
                t.background + t.unexplained,
                t.diverged,
                run.states_equal,
                run.states,
            ),
            None => format!("| {} | no start state | {} | - | - | - | - | - | - |\n", run.name, t.events),
        };
    }
    out
}
