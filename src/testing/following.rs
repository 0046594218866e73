//! Follows recordings with their start state hidden, and judges the result by the state.
//!
//! # Design
//!
//! ```text
//! trace -----------------> follow --------------> what it knows
//! trace -----------------> one cell a granule --> what can be known      (no states: live captures too)
//! state A + trace -------> one cell a granule --> what is true
//! ```
//!
//! The second and third row are written here from the rules, with arrays and no cleverness. Follow must know what can
//! be known, no more and no less, and nothing that is not true.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::replay::follow::{follow, Cell, Follow, Object, Options, Origin, Outcome, NEVER};
use crate::state::State;
use crate::stats_text::read_percpu_stats;
use crate::trace::{read_trace, Event, Trace};
use crate::units::Bytes;

const GRANULE: u64 = 4;
/// Traces of a recording: each is followed.
const TRACES: [&str; 3] = ["trace-ext.txt.gz", "trace.txt.gz", "trace-cols.csv.gz"];

/// What following one trace has shown.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Run and file.
    pub name: String,
    /// What came of it.
    pub follow: Follow,
    /// Bytes in use at the end and not seen, by the state; `None` without one.
    pub hidden: Option<u64>,
    /// What is wrong; empty if all is right.
    pub wrong: Vec<String>,
}

/// Traces below `dir` that can be followed: of recordings and live captures, sorted.
pub fn find_traces(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(find_traces(&path)?);
        } else if TRACES.contains(&name.as_str()) || dir.ends_with("captures") && name.ends_with(".txt.gz") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Follows one trace and compares it with what can be known and, where there is a state, with what is true.
pub fn check(file: &Path) -> Result<Followed, String> {
    let dir = file.parent().ok_or("no directory")?;
    let name = format!(
        "{}/{}",
        dir.file_name().unwrap_or_default().to_string_lossy(),
        file.file_name().unwrap_or_default().to_string_lossy()
    );
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("{name}: {what}: {error}");
    let bytes = fs::read(file).map_err(|error| fail("read", &error))?;
    let trace = read_trace(&bytes).map_err(|error| fail("trace", &error))?;
    let state = match fs::read(dir.join("state-a.json.gz")) {
        Ok(bytes) => Some(State::from_json(&bytes).map_err(|error| fail("state", &error))?),
        Err(_) => None,
    };
    let unit_size = state.as_ref().map(|state| Bytes(state.unit_size));
    let options = Options { unit_size, ..Options::default() };
    let found = follow(&trace, options.clone(), &mut |_| true).map_err(|error| fail("follow", &error))?;
    let mut wrong = Vec::new();
    if let Some((event, line, outcome)) = found.first_illegal {
        wrong.push(format!(
            "{} illegal events, the first {event} (line {line}): {}",
            found.nr_illegal(),
            outcome.name()
        ));
    }
    compare_known(&trace, &found, &mut wrong);
    let mut hidden = None;
    if let Some(state) = &state {
        hidden = Some(compare_truth(&trace, state, &found, &mut wrong));
        if let Ok(text) = fs::read_to_string(dir.join("percpu_stats-a.txt")) {
            let stats = read_percpu_stats(&text).map_err(|error| fail("percpu_stats-a.txt", &error))?;
            let options = Options { stats: Some(stats), ..options };
            let with = follow(&trace, options, &mut |_| true).map_err(|error| fail("follow", &error))?;
            compare_stats(&trace, state, &with, &mut wrong);
        }
    }
    wrong.iter_mut().for_each(|text| *text = format!("{name}: {text}"));
    Ok(Followed { name, follow: found, hidden, wrong })
}

/// What a naive reader of the trace knows: one cell a granule, and since when the chunk is known whole.
#[derive(Default)]
struct Known {
    cells: Vec<Cell>,
    whole: bool,
}

impl Known {
    fn at(&mut self, granule: usize) -> &mut Cell {
        if self.cells.len() <= granule {
            let blank = if self.whole { Cell::Free } else { Cell::Unknown };
            self.cells.resize(granule + 1, blank);
        }
        &mut self.cells[granule]
    }
}

/// Compares what follow knows at the end with a reader that has one cell a granule.
fn compare_known(trace: &Trace, found: &Follow, wrong: &mut Vec<String>) {
    let mut chunks: BTreeMap<u64, Known> = BTreeMap::new();
    let mut sizes: HashMap<(u64, u64), u64> = HashMap::new();
    for record in trace.records() {
        match record.event {
            Event::Alloc(alloc) => {
                let Some(base) = alloc.base else { continue };
                let chunk = chunks.entry(base.addr).or_default();
                // A place that is placed again was freed without a line.
                let old = sizes.get(&(base.addr, alloc.off.0)).copied().unwrap_or(0);
                for granule in alloc.off.0 / GRANULE..(alloc.off.0 + old).div_ceil(GRANULE) {
                    *chunk.at(granule as usize) = Cell::Free;
                }
                for granule in alloc.off.0 / GRANULE..(alloc.off + alloc.size).0.div_ceil(GRANULE) {
                    *chunk.at(granule as usize) = Cell::Live;
                }
                sizes.insert((base.addr, alloc.off.0), alloc.size.0);
            }
            Event::Free { base: Some(base), off, .. } => {
                let size = sizes.remove(&(base.addr, off.0)).unwrap_or(1);
                let chunk = chunks.entry(base.addr).or_default();
                for granule in off.0 / GRANULE..(off.0 + size).div_ceil(GRANULE) {
                    *chunk.at(granule as usize) = Cell::Free;
                }
            }
            Event::Create { base: Some(base) } => {
                chunks.insert(base.addr, Known { cells: Vec::new(), whole: true });
            }
            Event::Destroy { base: Some(base) } => {
                chunks.remove(&base.addr);
            }
            _ => {}
        }
    }
    for (index, facts) in (0..).zip(&found.chunks).filter(|(_, facts)| facts.destroyed == NEVER) {
        let cells = found.cells(index);
        let Some(naive) = chunks.get_mut(&facts.base) else {
            wrong.push(format!("chunk at {:#x} should not exist", facts.base));
            continue;
        };
        if let Some(at) = (0..cells.len()).find(|at| cells[*at] != *naive.at(*at)) {
            wrong.push(format!("chunk at {:#x}, granule {at}: {:?}, not {:?}", facts.base, cells[at], naive.at(at)));
        }
        let count = |cell: Cell| Bytes(cells.iter().filter(|c| **c == cell).count() as u64 * GRANULE);
        let share = found.shares[index as usize];
        let counted = (count(Cell::Live), count(Cell::Free), count(Cell::Unknown));
        if (share.live, share.free, share.unknown) != counted || share.total.0 != cells.len() as u64 * GRANULE {
            wrong.push(format!("chunk at {:#x}: {share:?}, but counted {counted:?}", facts.base));
        }
        if facts.boot_off.is_none() && share.total != found.unit_size {
            wrong.push(format!("chunk at {:#x}: {} in all", facts.base, share.total));
        }
        chunks.remove(&facts.base);
    }
    if let Some(base) = chunks.keys().next() {
        wrong.push(format!("chunk at {base:#x} is missing"));
    }
}

/// The areas of a state and what a trace makes of them: size by place, in bytes.
struct Truth {
    areas: BTreeMap<(u64, u64), u64>,
    /// Of the start, and never freed since.
    old: BTreeMap<(u64, u64), u64>,
}

impl Truth {
    fn of(state: &State) -> Self {
        let bit = |map: &[u64], at: u64| map[at as usize / 64] >> (at % 64) & 1 == 1;
        let mut areas = BTreeMap::new();
        for chunk in &state.chunks {
            let end = state.nr_bits(chunk) as u64 - u64::from(chunk.end_offset) / GRANULE;
            let mut at = u64::from(chunk.start_offset) / GRANULE;
            while at < end {
                if !bit(&chunk.alloc_map, at) {
                    at += 1;
                    continue;
                }
                let start = at;
                at += 1;
                while at < end && !bit(&chunk.bound_map, at) {
                    at += 1;
                }
                areas.insert((chunk.base_addr, start * GRANULE), (at - start) * GRANULE);
            }
        }
        Self { old: areas.clone(), areas }
    }

    fn step(&mut self, event: &Event<'_>) {
        match *event {
            Event::Alloc(alloc) => {
                let base = alloc.base.map_or(0, |base| base.addr);
                self.areas.insert((base, alloc.off.0), alloc.size.0);
            }
            Event::Free { base: Some(base), off, .. } => {
                self.areas.remove(&(base.addr, off.0));
                self.old.remove(&(base.addr, off.0));
            }
            _ => {}
        }
    }
}

/// Compares what follow knows, at some events and at the end, with what is true. Gives the bytes in use at the end that
/// it has not seen.
fn compare_truth(trace: &Trace, state: &State, found: &Follow, wrong: &mut Vec<String>) -> u64 {
    let mut truth = Truth::of(state);
    let start = truth.areas.clone();
    let stride = (trace.len() / 7).max(1);
    for record in trace.records() {
        if record.index % stride == 0 {
            compare_live(&truth, found, record.index as u64, wrong);
        }
        truth.step(&record.event);
    }
    compare_live(&truth, found, trace.len() as u64, wrong);
    let prior = found.objects.iter().filter(|object| object.origin == Origin::Prior).count();
    if prior != start.len() - truth.old.len() || prior as u64 != found.totals.nr_freed_prior {
        wrong.push(format!("{prior} prior areas learnt; {} were freed", start.len() - truth.old.len()));
    }
    for (index, facts) in (0..).zip(&found.chunks).filter(|(_, facts)| facts.destroyed == NEVER) {
        let cells = found.cells(index);
        let areas = truth.areas.range((facts.base, 0)..=(facts.base, u64::MAX));
        let inside = areas.flat_map(|((_, off), size)| off / GRANULE..(off + size) / GRANULE);
        if let Some(at) = inside.into_iter().find(|at| cells.get(*at as usize) == Some(&Cell::Free)) {
            wrong.push(format!("chunk at {:#x}: granule {at} is live, not free", facts.base));
        }
    }
    truth.old.values().sum()
}

/// Every area that follow takes for live before event `event` must be there, and as long.
fn compare_live(truth: &Truth, found: &Follow, event: u64, wrong: &mut Vec<String>) {
    let live = found.live_after(event);
    let place = |object: &Object| (found.chunks[object.chunk as usize].base, u64::from(object.off) * GRANULE);
    for object in live.iter().map(|index| &found.objects[*index as usize]) {
        let size = truth.areas.get(&place(object)).map(|size| size / GRANULE);
        let fits = match object.origin {
            Origin::Capture => size == Some(u64::from(object.size)),
            _ => size
                .is_some_and(|size| size >= 1 && size <= u64::from(object.max_size) && object.size <= object.max_size),
        };
        if !fits {
            return wrong.push(format!("before event {event}: {object:?}, but there are {size:?} granules"));
        }
    }
    let seen = truth.areas.len() - truth.old.len();
    let old = live.iter().filter(|index| found.objects[**index as usize].origin == Origin::Prior).count();
    if live.len() - old != seen {
        wrong.push(format!("before event {event}: {} areas of the capture, not {seen}", live.len() - old));
    }
}

/// With the statistics of the start: what stays unseen is known exactly in objects and within bounds in bytes.
fn compare_stats(trace: &Trace, state: &State, found: &Follow, wrong: &mut Vec<String>) {
    if found.nr_illegal() > 0 {
        wrong.push(format!("with statistics: {:?}", found.first_illegal));
    }
    let mut truth = Truth::of(state);
    trace.records().for_each(|record| truth.step(&record.event));
    let (objects, bytes) = (truth.old.len() as i64, truth.old.values().sum::<u64>() as i64);
    match found.unseen {
        Some(unseen) => {
            let (least, guessed, most) = unseen.bytes;
            if unseen.objects != objects || !(least..=most).contains(&bytes) || !(least..=most).contains(&guessed) {
                wrong.push(format!("{unseen:?}; hidden are {objects} areas of {bytes} bytes"));
            }
        }
        None => wrong.push("statistics were given, but nothing is said of what is unseen".into()),
    }
    for (index, facts) in (0..).zip(&found.chunks).filter(|(_, facts)| facts.destroyed == NEVER) {
        let cells = found.cells(index);
        let areas = truth.areas.range((facts.base, 0)..=(facts.base, u64::MAX));
        let mut live = vec![false; cells.len()];
        for granule in areas.flat_map(|((_, off), size)| off / GRANULE..(off + size) / GRANULE) {
            if let Some(cell) = live.get_mut(granule as usize) {
                *cell = true;
            }
        }
        let right = |at: &usize| match cells[*at] {
            Cell::Free => !live[*at],
            Cell::Live | Cell::Held => live[*at],
            _ => true,
        };
        if let Some(at) = (0..cells.len()).find(|at| !right(at)) {
            wrong.push(format!("with statistics: chunk at {:#x}, granule {at}: {:?}", facts.base, cells[at]));
        }
    }
}

/// A table, a row a trace.
pub fn table(all: &[Followed]) -> String {
    let mut out = String::from(
        "| trace | events | illegal | prior areas learnt | live areas | live bytes | unknown share | hidden bytes in use |\n|---|---|---|---|---|---|---|---|\n",
    );
    for one in all {
        let share = one.follow.share();
        let unknown = 100.0 * share.unknown.0 as f64 / (share.total.0 as f64).max(1.0);
        let hidden = one.hidden.map_or("-".into(), |bytes| bytes.to_string());
        out += &format!(
            "| {} | {} | {} | {} | {} | {} | {unknown:.1} % | {hidden} |\n",
            one.name,
            one.follow.events,
            one.follow.nr_illegal(),
            one.follow.by_outcome[Outcome::FreedPrior as usize],
            one.follow.totals.nr_live,
            share.live.0,
        );
    }
    out
}

/// The closing line of `make follow`.
pub fn summary(all: &[Followed]) -> String {
    format!(
        "follow: {} traces, {} events, {} illegal, {} wrong",
        all.len(),
        all.iter().map(|one| one.follow.events).sum::<u64>(),
        all.iter().map(|one| one.follow.nr_illegal()).sum::<u64>(),
        all.iter().map(|one| one.wrong.len()).sum::<usize>(),
    )
}
