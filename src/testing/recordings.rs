//! Replays recordings of real kernels: start state, trace, states on the way and at the end.
//!
//! # Design
//!
//! A recording is a directory: `meta.json`, a start state, a trace in the best form there is (in
//! lock order, text, columns), states at markers, a state at the end. Every placement is
//! predicted, every state compared in full. Nothing is known here of any single recording.
//!
//! Chunk addresses are predicted in a pass of their own over the lines that create and destroy: the replay takes
//! them from the recording. Files `initial/*.json.gz` hold the state of a kernel before its first request: they are
//! computed from sizes, CPUs and release ([`initial_difference`]).
//!
//! # Source
//!
//! Specification 50, sections 5 and 6 for the two; the description of the recordings (`tests/data/README.md`).

use std::fs;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::boots::{initial_chunk, initial_state, preset_for};
use crate::boot_log::release_number;
use crate::engine::linux::Linux;
use crate::engine::{Engine, Setup};
use crate::error::ConfigError;
use crate::layout::vm_areas::Search;
use crate::layout::{AreaSet, VmallocSpace};
use crate::replay::{predict, Options, Totals};
use crate::state::State;
use crate::trace::{read_trace, Event, Kind, Trace};
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
    /// Created chunks whose address was predicted.
    pub bases_predicted: u64,
    /// Created chunks whose address can be predicted: not those of a kernel without SMP.
    pub bases: u64,
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
        bases_predicted: 0,
        bases: 0,
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
    if let Some(places) = ChunkPlaces::new(&start, preset).map_err(|error| fail("state-a.json.gz", &error))? {
        places.follow(&trace, &mut result);
    }
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

/// Where chunks lie and lay.
struct ChunkPlaces {
    space: VmallocSpace,
    areas: AreaSet,
}

impl ChunkPlaces {
    /// The vmalloc space at the start: the first chunk, if it is mapped there, and the chunks present. `None` where
    /// the recording has no groups.
    fn new(start: &State, preset: &Preset) -> Result<Option<Self>, ConfigError> {
        let Some(atom) = start.atom_size.filter(|_| !start.group_offsets.is_empty()) else { return Ok(None) };
        let areas = AreaSet::new(&start.group_offsets, &start.group_sizes, atom, start.page_size())?;
        let mut space = VmallocSpace::x86_64(Search::of_release(release_number(preset.release).unwrap_or_default()));
        let (vmalloc_start, vmalloc_end) = space.bounds();
        if (vmalloc_start..=vmalloc_end).contains(&start.base_addr) {
            space.occupy_set(&areas, start.base_addr)?;
        }
        for chunk in start.chunks.iter().filter(|chunk| !chunk.immutable) {
            space.occupy_set(&areas, chunk.base_addr)?;
        }
        Ok(Some(Self { space, areas }))
    }

    /// Predicts the base of every chunk that is made. What is destroyed stays in the way: nothing is purged.
    fn follow(mut self, trace: &Trace, result: &mut Run) {
        for record in trace.records() {
            match record.event {
                Event::Create { base: Some(base) } => {
                    result.bases += 1;
                    let predicted = self.space.find_base(&self.areas);
                    let equal = predicted == Some(base.addr);
                    result.bases_predicted += u64::from(equal);
                    // The recorded place counts from here on; one that is taken is shown as not predicted.
                    let taken = self.space.occupy_set(&self.areas, base.addr);
                    if !equal || taken.is_err() {
                        let predicted = predicted.map_or("none".to_string(), |base| format!("{base:#x}"));
                        let text = format!("event {}: chunk at {:#x}, predicted {predicted}", record.index, base.addr);
                        result.shown.push(format!("{}: {text}", result.name));
                    }
                }
                Event::Destroy { base: Some(base) } if self.space.release(&self.areas, base.addr).is_err() => {
                    let text = format!("event {}: no chunk at {:#x}", record.index, base.addr);
                    result.shown.push(format!("{}: {text}", result.name));
                }
                _ => {}
            }
        }
    }
}

/// Files `initial/*.json.gz` below `dir`, sorted.
pub fn find_initial(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let inside = dir.file_name().is_some_and(|name| name == "initial");
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(find_initial(&path)?);
        } else if inside && path.to_string_lossy().ends_with(".json.gz") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// [`initial_difference`] of a file; texts begin with its name.
pub fn initial_file_difference(file: &Path) -> Result<Option<String>, String> {
    let named = |text: String| format!("{}: {text}", file.display());
    let bytes = fs::read(file).map_err(|error| named(error.to_string()))?;
    initial_difference(&bytes).map(|found| found.map(named)).map_err(named)
}

/// Sets a machine up and compares it with the state of a real kernel right after its set-up: tables and regions
/// first, then the complete state. `None` if all is equal. The bytes are JSON, compressed or not.
pub fn initial_difference(bytes: &[u8]) -> Result<Option<String>, String> {
    let fail = |error: &dyn std::fmt::Display| error.to_string();
    let recorded = State::from_json(bytes).map_err(|error| fail(&error))?;
    let value: Value = match bytes.first() {
        Some(b'{') => serde_json::from_slice(bytes),
        _ => serde_json::from_reader(MultiGzDecoder::new(bytes)),
    }
    .map_err(|error| fail(&error))?;
    if let Some(difference) = initial_state(&value).first() {
        return Ok(Some(fail(difference)));
    }
    let (preset, chunk) = initial_chunk(&value).map_err(|error| fail(&error))?;
    let rules = preset.generation.rules().ok_or_else(|| fail(&"no rules"))?;
    let mut setup = Setup::of_first_chunk(preset, rules, &chunk).map_err(|error| fail(&error))?;
    // Nothing is scheduled before late boot.
    setup.async_enabled = false;
    let computed = State::capture(&Linux::new(&setup)).on_machine(&recorded);
    Ok(recorded.diff(&computed).first().map(|difference| fail(difference)))
}

/// The line about initial states.
pub fn initial_summary(files: usize, equal: usize) -> String {
    format!("initial states: {files} files, {equal} equal")
}

fn count(trace: &Trace, result: &mut Run) {
    let counts = trace.counts();
    result.totals.events = trace.len() as u64;
    result.allocs = counts.of(Kind::Alloc);
    result.fails = counts.of(Kind::AllocFail);
}

/// The preset of the kernel that a recording names.
pub(super) fn preset_of_run(meta: &Value) -> Option<&'static Preset> {
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
        "| run | trace | events | allocations predicted | failures predicted | late lines | background explained | diverged | chunk addresses predicted | states equal |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let t = &run.totals;
        out += &match run.trace {
            Some(trace) => format!(
                "| {} | {} | {} | {}/{} | {}/{} | {} | {}/{} | {} | {} | {}/{} |\n",
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
                if run.bases > 0 { format!("{}/{}", run.bases_predicted, run.bases) } else { "-".into() },
                run.states_equal,
                run.states,
            ),
            None => format!("| {} | no start state | {} | - | - | - | - | - | - | - |\n", run.name, t.events),
        };
    }
    out
}
