//! What is promised of every reader, of the engines and of layouts, as one function a surface: for fuzzing,
//! and for `cargo test` on inputs that were found by it.
//!
//! # Design
//!
//! A function takes any bytes and panics if a promise is broken: bad input gives an error, and what
//! was accepted can be written and read again as the same. `fuzz/fuzz_targets/` calls one each;
//! `tests/fuzz_regressions.rs` calls them with the files below `fuzz/seeds` and `fuzz/regressions`.
//!
//! # Cost
//!
//! Linear in the input: limits keep small inputs from asking for much.

use crate::allocator::Allocator;
use crate::boot_log::BootLog;
use crate::engine::saved::bulk;
use crate::state::State;
use crate::stats_text::read_percpu_stats;
use crate::testing::{damage, layouts, operations};
use crate::trace::{ftrace_text, read_trace, Limits, ReadOptions, TraceReader};
use crate::variant::PRESETS;

/// A surface: its name and its function.
pub type Surface = (&'static str, fn(&[u8]));

/// Every surface, by the name of its fuzz target and of its directories of inputs.
pub const SURFACES: [Surface; 11] = [
    ("ftrace", trace),
    ("perf", trace),
    ("bpftrace", trace),
    ("columns", trace),
    ("state", state),
    ("snapshot", snapshot),
    ("stats_text", stats_text),
    ("boot_log", boot_log),
    ("operations", operations),
    ("layouts", layouts),
    ("replay", replay),
];

/// Traces of any format: what is accepted can be written and read, block by block it is the same, and
/// where damage is counted nothing is lost that is accepted otherwise.
pub fn trace(bytes: &[u8]) {
    let strict = ReadOptions { limits: Limits { events: 20_000 }, strict: true };
    let reader = |options| TraceReader::new(bytes, options);
    let read = |options| reader(options).and_then(TraceReader::read_all);
    let whole = read(strict);
    let lenient = read(ReadOptions { strict: false, ..strict });
    for trace in [&whole, &lenient].into_iter().flatten() {
        let again = read_trace(ftrace_text(trace).as_bytes()).expect("what was written can be read");
        assert!(again == *trace, "{:?}", again.first_difference(trace));
    }
    let Ok(whole) = whole else { return };
    let lenient = lenient.expect("what was accepted is accepted where damage is counted");
    assert!(lenient == whole && lenient.facts().damaged_lines == 0);
    let mut blocks = reader(strict).expect("what could be read can be read");
    let mut events = 0;
    while let Some(block) = blocks.next_block(7).expect("what was accepted is accepted in blocks") {
        for record in block.records() {
            let expected = whole.get(events).expect("no more events in blocks");
            assert_eq!((record.event, record.time, record.cpu), (expected.event, expected.time, expected.cpu));
            events += 1;
        }
    }
    assert_eq!(events, whole.len());
}

/// State files: what is accepted is the same when written and read, and every preset that takes it
/// makes an engine of it that gives the state back.
pub fn state(bytes: &[u8]) {
    let Ok(state) = State::from_json(bytes) else { return };
    let again = State::from_json(state.to_json().as_bytes()).expect("what was written can be read");
    assert_eq!(again, state);
    for preset in PRESETS {
        if let Ok(engine) = state.restore(preset) {
            let _ = State::capture(&engine);
        }
    }
}

/// Snapshots: what is accepted gives an allocator whose snapshot is accepted. As they are, and with the right checksums,
/// without which damage would hardly ever get past them.
pub fn snapshot(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    bulk::seal(&mut sealed);
    for bytes in [bytes, &sealed] {
        let Ok(allocator) = Allocator::from_snapshot(bytes) else { continue };
        let written = allocator.snapshot().expect("an allocator has a snapshot");
        let again = Allocator::from_snapshot(&written).expect("what was written can be read");
        assert!(again.snapshot().expect("an allocator has a snapshot") == written);
    }
}

/// The text of `percpu_stats`.
pub fn stats_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(stats) = read_percpu_stats(text) {
        let written = stats.to_text();
        let again = read_percpu_stats(&written).expect("what was written can be read");
        assert_eq!(again.to_text(), written);
    }
}

/// Boot logs: never an error, only less that is known.
pub fn boot_log(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let log = BootLog::parse(&text);
    let _ = log.groups();
    if let Some(record) = log.record() {
        let again = BootLog::from_lines(record.lines().iter().map(String::as_str)).record();
        assert_eq!(again, Some(record));
    }
}

/// Bytes read as a machine and operations on it.
pub fn operations(bytes: &[u8]) {
    if let Err(what) = operations::run(bytes, None) {
        panic!("{what}");
    }
}

/// Bytes read as a machine whose first chunk is laid out.
pub fn layouts(bytes: &[u8]) {
    if let Err(what) = layouts::run(bytes) {
        panic!("{what}");
    }
}

/// Bytes read as a trace and damages to it, and replayed in every way.
pub fn replay(bytes: &[u8]) {
    if let Err(what) = damage::run(bytes) {
        panic!("{what}");
    }
}
