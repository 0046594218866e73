//! Readers and writers against what real kernels wrote: traces, states, statistics.
//!
//! The data are those of the repository. With `PERCPU_SHARED=<directory>` the complete
//! collection is used instead: `<directory>/kernel` and `<directory>/golden`. Run with
//! `--nocapture` to see the figures.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use percpu::state::State;
use percpu::stats_text::{
    fragmentation, fragmentation_of_areas, read_percpu_stats, ChunkLabel, ChunkStats, MapView, PercpuStats, StatsForm,
    StatsGlobals, StatsSizes,
};
use percpu::trace::{ftrace_text, read_trace, read_trace_from, Alloc, Clock, Event, Kind, Limits, Trace};
use proptest::prelude::*;
use serde_json::Value;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn shared() -> Option<PathBuf> {
    std::env::var_os("PERCPU_SHARED").map(PathBuf::from)
}

/// The directories of all recorded runs.
fn runs() -> Vec<PathBuf> {
    let root = shared().map_or(data().join("recordings"), |shared| shared.join("kernel/traces"));
    let runs = files(&root, |_| true);
    assert!(runs.len() >= 8, "{}: where are the recordings?", root.display());
    runs
}

/// The entries of a directory whose name satisfies `wanted`, sorted.
fn files(directory: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| wanted(&name(path)));
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn traces(run: &Path) -> Vec<PathBuf> {
    files(run, |name| name.starts_with("trace"))
}

fn states(run: &Path) -> Vec<PathBuf> {
    files(run, |name| name.starts_with("state-"))
}

fn load_trace(path: &Path) -> Trace {
    let bytes = fs::read(path).unwrap();
    read_trace(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn load_state(path: &Path) -> State {
    State::from_json(&fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn meta(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("meta.json")).unwrap()).unwrap()
}

fn gunzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn event_counts_are_those_of_the_recorder() {
    let (mut files, mut events) = (0, 0);
    for run in runs() {
        let meta = meta(&run);
        let counts = &meta["counts"];
        for path in traces(&run) {
            let trace = load_trace(&path);
            let found = trace.counts();
            let names = [
                ("alloc", Kind::Alloc),
                ("free", Kind::Free),
                ("fail", Kind::AllocFail),
                ("create", Kind::Create),
                ("destroy", Kind::Destroy),
                ("populated", Kind::Populated),
                ("depopulated", Kind::Depopulated),
                ("percpu_alloc_percpu", Kind::Alloc),
                ("percpu_free_percpu", Kind::Free),
                ("tracing_mark_write", Kind::Marker),
            ];
            for (key, kind) in names {
                if let Some(count) = counts[key].as_u64() {
                    assert_eq!(found.of(kind), count, "{}: {key}", path.display());
                }
            }
            // The probes in lock order may have been recorded and left out of this file: two for each
            // allocation and, in most runs, one for each free.
            let [allocs, frees] = [Kind::Alloc, Kind::Free].map(|kind| found.of(kind));
            if let Some(other) = counts["other"].as_u64().filter(|&other| other != found.other()) {
                let left_out = [2 * allocs, 2 * allocs + frees].map(|left_out| found.other() + left_out);
                assert!(left_out.contains(&other), "{}: {} of {other} other", path.display(), found.other());
                assert_eq!((name(&path).as_str(), found.of(Kind::AllocArea)), ("trace.txt.gz", 0));
            }
            assert_eq!((trace.skipped_lines(), trace.lost_events()), (0, 0), "{}", path.display());
            assert!(!trace.hashed());
            let columns = name(&path).contains("cols");
            assert_eq!(trace.clock(), if columns { Clock::Counter } else { Clock::Microseconds });
            files += 1;
            events += trace.len();
        }
    }
    println!("{files} trace files, {events} events: all counts equal");
}

#[test]
fn the_lock_order_file_has_the_events_of_the_plain_one() {
    for run in runs() {
        let path = run.join("trace-ext.txt.gz");
        if !path.exists() {
            continue;
        }
        let (plain, full) = (load_trace(&run.join("trace.txt.gz")), load_trace(&path));
        let probe = |kind| matches!(kind, Kind::AllocArea | Kind::AllocAreaRet | Kind::FreeArea);
        let rest = full.records().filter(|record| !probe(record.event.kind()));
        let differs = plain.records().zip(rest).find(|(a, b)| (a.event, a.cpu, a.time) != (b.event, b.cpu, b.time));
        assert!(differs.is_none(), "{}: {differs:?}", run.display());
    }
}

#[test]
fn what_was_recorded_can_be_written_and_read_back() {
    for run in runs() {
        for path in traces(&run) {
            let trace = load_trace(&path);
            let again = read_trace(ftrace_text(&trace).as_bytes()).unwrap();
            if let Some(difference) = trace.first_difference(&again) {
                panic!("{}: {difference:?}", path.display());
            }
        }
    }
}

/// `ptr = base_addr + off - pcpu_base_addr + per_cpu_start`, and `base_addr + off` without SMP.
#[test]
fn pointers_follow_from_base_and_offset() {
    let mut checked = 0;
    for run in runs() {
        let Some(path) = states(&run).into_iter().next() else { continue };
        let state = load_state(&path);
        let up = state.group_offsets.is_empty();
        let shift = if up { 0 } else { state.per_cpu_start.wrapping_sub(state.base_addr) };
        for path in traces(&run) {
            for record in load_trace(&path).records() {
                let (base, off, ptr) = match record.event {
                    Event::Alloc(Alloc { base, off, ptr, .. }) => (base, off, ptr),
                    Event::Free { base, off, ptr } => (base, off, ptr),
                    _ => continue,
                };
                let Some(ptr) = ptr else { continue };
                let expected = base.unwrap().addr.wrapping_add(off.0).wrapping_add(shift);
                assert_eq!(ptr, expected, "{} line {}", path.display(), record.line);
                checked += 1;
            }
        }
    }
    println!("{checked} pointers");
    assert!(checked > 0);
}

#[test]
fn all_states_load_and_are_written_back() {
    let mut paths: Vec<PathBuf> = runs().iter().flat_map(|run| states(run)).collect();
    if let Some(shared) = shared() {
        paths.extend(files(&shared.join("kernel/initial"), |_| true));
    }
    let mut before: Option<(PathBuf, State)> = None;
    for path in &paths {
        let state = load_state(path);
        let given: Value = serde_json::from_slice(&gunzip(path)).unwrap();
        let written: Value = serde_json::from_str(&state.to_json()).unwrap();
        assert!(written == given, "{}", path.display());
        assert_eq!(State::from_json(state.to_json().as_bytes()).unwrap(), state);
        assert_eq!(state.diff(&state), []);
        if let Some((_, before)) = before.filter(|(directory, _)| Some(directory.as_path()) == path.parent()) {
            // Initial states of different machines may agree.
            let initial = path.parent().is_some_and(|directory| directory.ends_with("initial"));
            assert!(initial || !state.diff(&before).is_empty(), "{}: the same as the state before", path.display());
        }
        before = path.parent().map(|directory| (directory.to_path_buf(), state));
    }
    println!("{} states loaded and written back", paths.len());
}

/// The layout as `meta.json` has it from the boot lines.
fn sizes(meta: &Value) -> StatsSizes {
    let line = &meta["layout"]["pcpu_alloc"];
    let size = |name: &str| line[name].as_u64().unwrap();
    StatsSizes {
        unit_size: size("unit"),
        static_size: size("static"),
        reserved_size: size("reserved"),
        dyn_size: size("dyn"),
        atom_size: size("atom"),
        alloc_size: size("atom") * size("alloc_factor"),
    }
}

#[test]
fn the_kernels_statistics_follow_from_its_states() {
    let mut texts = 0;
    for run in runs() {
        for path in files(&run, |name| name.starts_with("percpu_stats-")) {
            let state = name(&path).replace("percpu_stats", "state").replace(".txt", ".json.gz");
            let state = run.join(state);
            if !state.exists() {
                continue;
            }
            let stats = PercpuStats::of_state(&load_state(&state), sizes(&meta(&run))).unwrap();
            assert_eq!(stats.to_text(), fs::read_to_string(&path).unwrap(), "{}", path.display());
            texts += 1;
        }
    }
    println!("{texts} statistics texts reproduced from states");
    assert!(texts >= 6);
}

#[test]
fn real_statistics_texts_parse_and_print_the_same() {
    let mut directories = runs();
    directories.push(data().join("head-pinning-618"));
    let texts: Vec<PathBuf> =
        directories.iter().flat_map(|run| files(run, |name| name.starts_with("percpu_stats"))).collect();
    for path in &texts {
        let text = fs::read_to_string(path).unwrap();
        let stats = read_percpu_stats(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(stats.to_text(), text, "{}", path.display());
        assert_eq!(stats.form, StatsForm::Linux);
        let areas: i64 = stats.chunks.iter().map(|chunk| chunk.nr_alloc).sum();
        assert_eq!(areas as u64, stats.globals.nr_cur_alloc);
    }
    println!("{} statistics texts parsed and printed", texts.len());
}

#[test]
fn captures_of_one_machine_in_all_formats() {
    let load = |name: &str| load_trace(&data().join("captures").join(name));
    let counts = |trace: &Trace| [Kind::Alloc, Kind::Free].map(|kind| trace.counts().of(kind));

    let perf = load("perf-script.txt.gz");
    let nanoseconds = load("perf-script-ns.txt.gz");
    assert_eq!(counts(&perf), [201, 203]);
    assert_eq!((perf.clock(), nanoseconds.clock()), (Clock::Microseconds, Clock::Nanoseconds));
    assert_eq!(perf.len(), nanoseconds.len());
    for (a, b) in perf.records().zip(nanoseconds.records()) {
        assert_eq!((a.event, a.cpu, a.time), (b.event, b.cpu, b.time / 1000 * 1000));
    }

    let bpftrace = load("bpftrace.txt.gz");
    assert_eq!(counts(&bpftrace), [419, 425]);
    assert!(bpftrace.columns().time.is_sorted());

    let hashed = load("ftrace-hashed.txt.gz");
    assert!(hashed.hashed() && !perf.hashed() && !bpftrace.hashed());
    assert_eq!(hashed.len(), 2544);
    for trace in [&perf, &nanoseconds, &bpftrace, &hashed] {
        assert_eq!((trace.skipped_lines(), trace.lost_events()), (0, 0));
        assert!(read_trace(ftrace_text(trace).as_bytes()).unwrap() == *trace);
    }
}

/// The statistics text in the golden data comes right before a dump of the state.
#[test]
fn golden_statistics_follow_from_golden_states() {
    let root = shared().unwrap_or(data()).join("golden");
    let mut texts = 0;
    let generations = [
        ("areamap-4.x", StatsForm::AreaMap),
        ("rfc-v1", StatsForm::RfcV1),
        ("linux-4.19", StatsForm::Linux),
        ("linux-5.4", StatsForm::Linux),
        ("linux-6.1", StatsForm::Linux),
        ("linux-6.12", StatsForm::Linux),
    ];
    for (generation, form) in generations {
        let directory = root.join(generation);
        if !directory.exists() {
            continue;
        }
        for path in files(&directory, |name| name.ends_with(".jsonl.gz")) {
            let text = String::from_utf8(gunzip(&path)).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let Some(at) = lines.iter().position(|line| line.starts_with("[\"S\"")) else { continue };
            let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
            let setup = &parse(lines[1])[2];
            let printed = parse(lines[at]);
            let printed: String =
                printed[1].as_array().unwrap().iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect();
            let read = read_percpu_stats(&printed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!((read.form, read.to_text()), (form, printed), "{}", path.display());
            let dump = parse(lines[at + 1]);
            assert_eq!(dump[0], "s");
            let computed = golden_stats(&dump[1], setup, form, read.sizes);
            assert_eq!(computed.to_text(), read.to_text(), "{}", path.display());
            texts += 1;
        }
    }
    println!("{texts} golden statistics texts reproduced");
}

fn golden_stats(state: &Value, setup: &Value, form: StatsForm, sizes: StatsSizes) -> PercpuStats {
    let int = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("{value}"));
    let count = |name: &str| state["stats"][name].as_u64().unwrap();
    let page = setup["unit_size"].as_i64().unwrap() / int(&setup["unit_pages"]);
    let chunks = state["chunks"].as_array().unwrap().iter().map(|chunk| {
        let label = match (&chunk["id"], int(&chunk["slot"])) {
            (id, _) if *id == "R" => ChunkLabel::Reserved,
            (id, _) if *id == 0 => ChunkLabel::First,
            (_, slot) if setup["sidelined_slot"] == slot => ChunkLabel::Sidelined,
            (_, slot) if setup["to_depopulate_slot"] == slot => ChunkLabel::ToDepopulate,
            _ => ChunkLabel::Plain,
        };
        let mut stats = ChunkStats {
            label,
            nr_alloc: int(&chunk["nr_alloc"]),
            max_alloc_size: int(&chunk["max_alloc_size"]),
            ..ChunkStats::default()
        };
        if form == StatsForm::AreaMap {
            let map: Vec<i32> = chunk["map"].as_array().unwrap().iter().map(|area| int(area) as i32).collect();
            stats.free_bytes = int(&chunk["free_size"]);
            stats.contig_bytes = int(&chunk["contig_hint"]);
            stats.frag = fragmentation_of_areas(&map, int(&chunk["has_reserved"]) != 0);
            return stats;
        }
        let nr_bits = (int(&chunk["nr_pages"]) * page / 4) as usize;
        let map = |name: &str, bits: usize| {
            let hex = chunk[name].as_str().unwrap().as_bytes();
            let mut words = vec![0u64; bits.div_ceil(64)];
            for (i, pair) in hex.chunks(2).enumerate() {
                let byte = u64::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                words[i / 8] |= byte << (i % 8 * 8);
            }
            words
        };
        let (alloc, bound) = (map("alloc_map", nr_bits), map("bound_map", nr_bits + 1));
        stats.empty_pop_pages = int(&chunk["nr_empty_pop_pages"]);
        let (start, end) = match form {
            StatsForm::RfcV1 => {
                stats.first_bit = int(&chunk["first_free_block"]);
                stats.free_bytes = int(&chunk["free_bits"]) * 4;
                stats.contig_bytes = int(&chunk["contig_hint"]) * 4;
                let region = if label == ChunkLabel::Reserved { "reserved" } else { "first" };
                let shift = if int(&chunk["has_reserved"]) != 0 { int(&setup[region]["reserved_offset"]) } else { 0 };
                (shift, 0)
            }
            _ => {
                let (first, contig) = match chunk.get("chunk_md") {
                    Some(hints) => (int(&hints[6]), int(&hints[2])),
                    None => (int(&chunk["first_bit"]), int(&chunk["contig_bits"])),
                };
                stats.first_bit = first;
                stats.free_bytes = int(&chunk["free_bytes"]);
                stats.contig_bytes = contig * 4;
                (int(&chunk["start_offset"]) / 4, int(&chunk["end_offset"]) / 4)
            }
        };
        let (start, end) = (start as usize, end as usize);
        stats.frag = fragmentation(MapView { alloc: &alloc, bound: &bound, nr_bits, start, end, granule: 4 });
        stats
    });
    PercpuStats {
        form,
        sizes,
        globals: StatsGlobals {
            nr_alloc: count("nr_alloc"),
            nr_dealloc: count("nr_dealloc"),
            nr_cur_alloc: count("nr_cur_alloc"),
            nr_max_alloc: count("nr_max_alloc"),
            nr_chunks: count("nr_chunks"),
            nr_max_chunks: count("nr_max_chunks"),
            min_alloc_size: count("min_alloc_size"),
            max_alloc_size: count("max_alloc_size"),
            empty_pop_pages: state["nr_empty_pop_pages"].as_u64().unwrap_or(0),
        },
        chunks: chunks.collect(),
    }
}

#[test]
fn truncated_files_are_errors() {
    let run = data().join("recordings/reserved-612");
    let trace = fs::read(run.join("trace.txt.gz")).unwrap();
    let state = fs::read(run.join("state-a.json.gz")).unwrap();
    for percent in [1, 10, 50, 90, 99] {
        let error = read_trace(&trace[..trace.len() * percent / 100]).unwrap_err();
        assert!(error.line.is_some(), "{error}");
        assert!(State::from_json(&state[..state.len() * percent / 100]).is_err());
    }
    let columns = gunzip(&data().join("recordings/million-612-2cpu/trace-cols.csv.gz"));
    let half = memchr::memchr_iter(b'\n', &columns).find(|&end| end > columns.len() / 2).unwrap();
    assert!(read_trace(&columns[..half]).unwrap_err().message.contains("truncated"));
    // Uncompressed text that ends in the middle of a field.
    let text = gunzip(&run.join("trace.txt.gz"));
    let line = text.windows(5).position(|window| window == b" ptr=").unwrap();
    let error = read_trace(&text[..line + 9]).unwrap_err();
    assert_eq!((error.line, error.message.contains("pointer")), (Some(5), true), "{error}");
}

/// The first lines of every format.
fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for path in ["recordings/reserved-612/trace-ext.txt.gz", "recordings/cg-up/trace.txt.gz"] {
        samples.push(gunzip(&data().join(path)));
    }
    samples.push(gunzip(&data().join("recordings/million-612-2cpu/trace-cols.csv.gz")));
    samples.extend(files(&data().join("captures"), |name| name.ends_with(".gz")).iter().map(|path| gunzip(path)));
    for sample in &mut samples {
        let lines = memchr::memchr_iter(b'\n', sample).nth(40).unwrap();
        sample.truncate(lines + 1);
    }
    samples
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damage to real files: an error with its place, or a trace that can be written and read.
    #[test]
    fn damaged_recordings_never_panic(
        sample in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        thread_local!(static SAMPLES: Vec<Vec<u8>> = samples());
        let mut text = SAMPLES.with(|samples| sample.get(samples).clone());
        for (place, byte, edit) in edits {
            let at = place.index(text.len());
            match edit {
                0 => text[at] = byte,
                1 => text[at] = b"0123456789 =[]:,-\n(."[usize::from(byte) % 20],
                2 => { text.remove(at); }
                _ => text.insert(at, byte),
            }
        }
        match read_trace_from(&text[..], Limits { events: 100_000 }) {
            Ok(trace) => {
                let again = read_trace(ftrace_text(&trace).as_bytes()).unwrap();
                prop_assert!(again == trace, "{:?}", again.first_difference(&trace));
            }
            Err(error) => prop_assert!(error.line.is_some() == error.text.is_some(), "{}", error),
        }
    }

    /// Damage to a state file: an error, or a state that is as valid when written and read.
    #[test]
    fn damaged_states_never_panic(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        thread_local!(static STATE: Vec<u8> = gunzip(&data().join("recordings/cg-up/state-m1.json.gz")));
        let mut text = STATE.with(Vec::clone);
        for (place, byte) in edits {
            let at = place.index(text.len());
            text[at] = b"0123456789abcdef,[]{}:\"- "[usize::from(byte) % 25];
        }
        if let Ok(state) = State::from_json(&text) {
            prop_assert_eq!(State::from_json(state.to_json().as_bytes()).unwrap(), state);
        }
    }
}

/// Chunk indices of a slice agree with the whole; markers cut a recording into its steps.
#[test]
fn slices_between_markers() {
    let trace = load_trace(&data().join("recordings/drain-612-4cpu/trace.txt.gz"));
    let marks: Vec<usize> =
        trace.records().filter(|record| record.event.kind() == Kind::Marker).map(|record| record.index).collect();
    assert_eq!(marks.len(), 5);
    let mut pieces: HashMap<u64, u32> = HashMap::new();
    let mut total = 0;
    let ends = marks.iter().copied().chain([trace.len()]);
    let starts = std::iter::once(0).chain(marks.iter().copied());
    for (start, end) in starts.zip(ends) {
        let part = trace.slice(start..end);
        total += part.len();
        for (record, original) in part.records().zip(start..) {
            assert_eq!(record.event, trace.event(original));
            if let Some(base) = record.event.base() {
                assert_eq!(*pieces.entry(base.addr).or_insert(base.index), base.index);
            }
        }
    }
    assert_eq!(total, trace.len());
}
