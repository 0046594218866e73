//! Damaged and contradictory traces: a replay ends without a panic, and the allocator after it is whole.

#![cfg(feature = "testing")]

use std::path::{Path, PathBuf};

use percpu::engine::linux::Linux;
use percpu::engine::{Engine, Setup};
use percpu::geometry::Geometry;
use percpu::replay::{predict, Options, Replay};
use percpu::state::State;
use percpu::testing::damage;
use percpu::trace::{read_trace, Kind, Trace};
use percpu::units::Bytes;
use percpu::variant::Preset;

/// Two chunks of the traces below.
const A: &str = "ffffe8ffff200000";
const B: &str = "ffffe8ffff400000";
const UNIT: u64 = 64 << 10;

fn preset() -> &'static Preset {
    Preset::by_release("6.12").unwrap()
}

fn fresh() -> Linux {
    let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(UNIT), 1).unwrap();
    Linux::new(&Setup::bare(preset(), preset().generation.rules().unwrap(), geometry))
}

/// A trace of these events; `alloc BASE OFF SIZE ATOMIC`, `free BASE OFF`, `create BASE` and so on.
fn trace_of(events: &[impl AsRef<str>]) -> Trace {
    let mut text = String::new();
    for (number, event) in events.iter().map(AsRef::as_ref).enumerate() {
        let words: Vec<&str> = event.split(' ').collect();
        let line = match words[..] {
            ["alloc", base, off, size, atomic] => format!(
                "percpu_alloc_percpu: reserved=0 is_atomic={atomic} size={size} align=8 base_addr={base} off={off} ptr=0000607fc085a000"
            ),
            ["fail", size, atomic] => format!("percpu_alloc_percpu_fail: reserved=0 is_atomic={atomic} size={size} align=8"),
            ["free", base, off] => format!("percpu_free_percpu: base_addr={base} off={off} ptr=0000607fc085a000"),
            ["create", base] => format!("percpu_create_chunk: base_addr={base}"),
            ["destroy", base] => format!("percpu_destroy_chunk: base_addr={base}"),
            ["populated" | "depopulated", base, first, end] => {
                format!("{}: (x+0x0/0x1) base=0x{base} first={first} end={end}", words[0])
            }
            ["area", base, bits, start] => {
                format!("alloc_area: (x+0x0/0x1) base=0x{base} bits={bits} align_bits=2 start={start}")
            }
            ["area_ret", off] => format!("alloc_area_ret: (x+0x0/0x1 <- y) bit_off_x4={off}"),
            ["balance_begin"] => "balance_begin: (x+0x0/0x1)".into(),
            ["balance_free", empty] => format!("balance_free: (x+0x0/0x1) empty_only={empty}"),
            ["balance_end"] => "balance_end: (x+0x0/0x1 <- y)".into(),
            _ => panic!("{event}"),
        };
        text += &format!("  x-1 [000] ..... 1.{number:06}: {line}\n");
    }
    let trace = read_trace(text.as_bytes()).unwrap();
    assert_eq!(trace.len(), events.len(), "{text}");
    trace
}

/// Replays, also up to every event, and looks at every allocator that comes out.
fn replayed(trace: &Trace, start: &Linux) -> Replay {
    let options = Options { verify_every: 1, ..Options::default() };
    let replay = predict(trace, start.clone(), &options).unwrap();
    replay.engine.verify().unwrap();
    for event in 0..=trace.len() {
        replay.at(trace, event, &mut |_| true).verify().unwrap();
    }
    for events in 0..trace.len() {
        predict(&trace.slice(0..events), start.clone(), &options).unwrap().engine.verify().unwrap();
    }
    replay
}

#[test]
fn a_chunk_goes_that_a_request_was_started_in() {
    let events = [format!("create {A}"), format!("destroy {A}"), format!("alloc {B} 0 8 0")];
    let replay = replayed(&trace_of(&events), &fresh());
    // Chunk A goes with what was given to the request, which then finds no place as recorded.
    assert!(replay.totals.diverged >= 2, "{:?}", replay.totals);
    assert_eq!((replay.engine.stats().nr_chunks, replay.engine.stats().nr_cur_alloc), (0, 0));
}

#[test]
fn an_atomic_area_lies_on_pages_that_were_not_seen_to_be_populated() {
    let events = [
        format!("create {A}"),
        format!("populated {A} 0 1"),
        format!("alloc {A} 0 64 0"),
        format!("alloc {A} 8000 400 1"),
        format!("free {A} 8000"),
    ];
    let replay = replayed(&trace_of(&events), &fresh());
    let t = replay.totals;
    assert_eq!((t.diverged, t.unexplained, t.frees), (1, 1, 1), "{t:?}");
    assert_eq!(replay.engine.totals().nr_populated, Some(3));
}

#[test]
fn two_requests_wait_for_one_page() {
    let events = [
        format!("create {A}"),
        format!("area {A} 16 0"),
        "area_ret 0".into(),
        format!("area {A} 16 16"),
        "area_ret 64".into(),
        format!("populated {A} 0 1"),
        format!("alloc {A} 0 64 0"),
        format!("populated {A} 0 1"),
        format!("alloc {A} 64 64 0"),
    ];
    let replay = replayed(&trace_of(&events), &fresh());
    assert_eq!((replay.totals.diverged, replay.totals.allocs), (0, 2), "{:?}", replay.totals);
    assert_eq!(replay.engine.totals().nr_populated, Some(1));
}

#[test]
fn an_area_is_freed_before_its_line() {
    let events = [
        format!("create {A}"),
        format!("area {A} 16 0"),
        "area_ret 0".into(),
        format!("free {A} 0"),
        format!("populated {A} 0 1"),
        format!("alloc {A} 0 64 0"),
    ];
    let replay = replayed(&trace_of(&events), &fresh());
    assert_eq!((replay.totals.allocs, replay.totals.frees), (1, 1), "{:?}", replay.totals);
    assert_eq!(replay.engine.stats().nr_cur_alloc, 1);
}

#[test]
fn pages_in_use_are_not_given_back() {
    let events = [
        format!("create {A}"),
        format!("populated {A} 0 2"),
        format!("alloc {A} 0 8000 0"),
        format!("depopulated {A} 0 1"),
        format!("depopulated {A} 5 90"),
        format!("populated {A} 14 90"),
    ];
    let replay = replayed(&trace_of(&events), &fresh());
    assert_eq!((replay.totals.diverged, replay.totals.unexplained), (1, 3), "{:?}", replay.totals);
    assert_eq!(replay.engine.totals().nr_populated, Some(4));
}

#[test]
fn a_chunk_inside_another_one_is_not_made() {
    let inside = format!("{:x}", u64::from_str_radix(A, 16).unwrap() + UNIT / 2);
    let events = [
        format!("create {A}"),
        format!("alloc {A} 0 8 0"),
        format!("create {inside}"),
        format!("alloc {inside} 0 8 0"),
        "create ffffffffffff8000".into(),
    ];
    let replay = replayed(&trace_of(&events), &fresh());
    assert_eq!(replay.engine.stats().nr_chunks, 1);
    assert!(replay.totals.diverged >= 3, "{:?}", replay.totals);
}

/// Later chunks of the allocator itself do not lie where the trace put one.
#[test]
fn the_allocator_goes_on_beside_recorded_addresses() {
    let base = format!("{:x}", (1_u64 << 30) + 0x8000);
    let events = [format!("create {base}"), format!("alloc {base} 0 8 0")];
    let mut engine = replayed(&trace_of(&events), &fresh()).engine;
    for _ in 0..8 {
        engine.alloc(&percpu::request::Request::new(Bytes(UNIT / 2), Bytes(8)));
    }
    assert!(engine.stats().nr_chunks > 2);
    engine.verify().unwrap();
}

fn recording(run: &str) -> (PathBuf, Linux) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recordings").join(run);
    let state = State::from_json(&std::fs::read(dir.join("state-a.json.gz")).unwrap()).unwrap();
    (dir, state.restore(preset()).unwrap())
}

/// What a user with a plain capture and a state has: the kernel's own events, from which much is missing.
#[test]
fn plain_events_of_recordings_replay_on_their_state() {
    for run in ["cg-up", "drain-612-4cpu", "cg-own-2+2", "netns-612-3+1", "netns-own0-4cpu", "fork-612-4cpu"] {
        let (dir, start) = recording(run);
        let trace = read_trace(&std::fs::read(dir.join("trace.txt.gz")).unwrap()).unwrap();
        let plain: Vec<u32> = (0..trace.len() as u32)
            .filter(|event| (trace.columns().kind[*event as usize] as u8) < Kind::Populated as u8)
            .collect();
        let replay = predict(&trace.take(&plain), start, &Options { verify_every: 100, ..Options::default() }).unwrap();
        replay.engine.verify().unwrap_or_else(|violation| panic!("{run}: {violation}"));
        assert_eq!(replay.totals.events, plain.len() as u64);
    }
}

/// A run of the worker that the end of the trace cuts off is put back: the allocator is at rest, and the worker does
/// the rest when it is let.
#[test]
fn a_trace_ends_while_the_worker_runs() {
    let mut cut = 0;
    for (run, file) in [("drain-612-4cpu", "trace-ext.txt.gz"), ("cg-up", "trace.txt.gz")] {
        let (dir, start) = recording(run);
        let trace = read_trace(&std::fs::read(dir.join(file)).unwrap()).unwrap();
        let inside = |kind: &Kind| matches!(kind, Kind::BalanceFree | Kind::Depopulated | Kind::Destroy);
        let kinds = trace.columns().kind;
        let ends: Vec<usize> = (0..trace.len()).filter(|event| inside(&kinds[*event])).take(40).collect();
        let replay = predict(&trace, start, &Options::default()).unwrap();
        assert_eq!(replay.totals.diverged, 0);
        for end in ends {
            let mut engine = replay.at(&trace, end + 1, &mut |_| true);
            engine.verify().unwrap_or_else(|violation| panic!("{run} after event {end}: {violation}"));
            cut += u32::from(engine.balance_pending());
            engine.balance();
            engine.verify().unwrap();
        }
    }
    assert!(cut > 30, "{cut}");
}

#[test]
fn damaged_traces_end_in_a_whole_allocator() {
    let (tally, finding) = damage::run_cases(2026, 0, 400);
    if let Some(finding) = finding {
        panic!("case {}, {} bytes: {}", finding.index, finding.bytes.len(), finding.what);
    }
    assert!(tally.cases == 400 && tally.diverged > 1000 && tally.unexplained > 500, "{tally:?}");
}
