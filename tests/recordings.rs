//! Recordings of real kernels in `tests/data`: every placement predicted, every state reached.

#![cfg(feature = "testing")]

use std::path::Path;

use percpu::replay::{predict, Divergence, Options};
use percpu::request::Outcome;
use percpu::state::State;
use percpu::testing::recordings::{find_runs, run, summary};
use percpu::trace::{read_trace, Event, Trace, TraceBuilder};
use percpu::units::Bytes;
use percpu::variant::Preset;

fn data() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/recordings"))
}

#[test]
fn every_recording_is_predicted() {
    let runs: Vec<_> = find_runs(data()).unwrap().iter().map(|dir| run(dir).unwrap()).collect();
    assert!(runs.len() >= 8, "{}", summary(&runs));
    for run in &runs {
        assert_eq!(run.totals.diverged, 0, "{:?}", run.shown);
        assert_eq!((run.totals.allocs, run.totals.fails), (run.allocs, run.fails), "{}", run.name);
        assert_eq!(run.totals.unexplained, 0, "{}", run.name);
        assert_eq!(run.states_equal, run.states, "{:?}", run.shown);
        assert_eq!(run.bases_predicted, run.bases, "{:?}", run.shown);
        assert!(run.end_equal && run.allocs > 0, "{}", run.name);
    }
    assert!(runs.iter().map(|run| run.bases).sum::<u64>() > 10, "chunks are made");
}

fn recording(name: &str, trace: &str) -> (State, Trace) {
    let read = |file: &str| std::fs::read(data().join(name).join(file)).unwrap();
    (State::from_json(&read("state-a.json.gz")).unwrap(), read_trace(&read(trace)).unwrap())
}

#[test]
fn every_invariant_holds_on_the_way() {
    let (state, trace) = recording("reserved-612", "trace-ext.txt.gz");
    let engine = state.restore(Preset::by_release("6.12").unwrap()).unwrap();
    let options = Options { verify_every: 1, sample_every: 100, ..Options::default() };
    let replay = predict(&trace, engine, &options).unwrap();
    assert_eq!(replay.totals.diverged, 0);
    assert_eq!(replay.windows.len(), trace.len().div_ceil(100));
}

/// A recording with one allocation moved: the replay says where, and stays with the recording.
#[test]
fn a_wrong_place_is_one_divergence_and_is_explained() {
    let (state, trace) = recording("drain-612-4cpu", "trace-ext.txt.gz");
    let preset = Preset::by_release("6.12").unwrap();
    let honest = predict(&trace, state.restore(preset).unwrap(), &Options::default()).unwrap();
    // An object that nobody frees, moved to where nobody ever is.
    let freed: Vec<_> = trace.records().filter(|r| matches!(r.event, Event::Free { .. })).collect();
    let stays = |event: &Event<'_>, index: usize| match *event {
        Event::Alloc(a) => !freed.iter().any(|free| {
            free.index > index && matches!(free.event, Event::Free { base, off, .. } if base == a.base && off == a.off)
        }),
        _ => false,
    };
    let last = trace.records().rfind(|r| stays(&r.event, r.index)).unwrap().index;
    let Event::Alloc(alloc) = trace.event(last) else { unreachable!() };
    let chunk = honest.engine.chunk_at_base(alloc.base.unwrap().addr).unwrap();
    let chunk = honest.engine.chunk(chunk).unwrap();
    let free = percpu::bitmap::clear_runs(chunk.alloc_map(), 0, chunk.nr_bits().0).last().unwrap();
    let to = Bytes(u64::from(free.1) * 4 - 4096);
    let mut builder = TraceBuilder::new(trace.clock());
    for record in trace.records() {
        let mut event = record.event;
        if let (true, Event::Alloc(alloc)) = (record.index == last, &mut event) {
            alloc.off = to;
        }
        builder.push(record.time, record.cpu, &event).unwrap();
    }
    let moved = predict(&builder.finish(), state.restore(preset).unwrap(), &Options::default()).unwrap();
    assert_eq!(moved.totals.diverged, honest.totals.diverged + 1);
    let Some(Divergence::Request(first)) = moved.first_divergence else { panic!("no request diverged") };
    assert_eq!(first.event, last);
    assert!(first.recorded_chunk.is_some() && first.predicted_chunk.is_some());
    let differing: Vec<_> = moved.predictions.iter().filter(|prediction| !prediction.equal).collect();
    assert!(
        matches!(differing[..], [only] if only.event as usize == last && matches!(only.outcome(), Outcome::Placed { .. }))
    );
    let text = first.to_string();
    for word in ["predicted: chunk", "recorded: chunk", "contig_hint", "search from bit"] {
        assert!(text.contains(word), "{text}");
    }
}

/// A trace that frees what was never allocated, and more: counted, never a panic.
#[test]
fn nonsense_is_counted() {
    let (state, trace) = recording("reserved-612", "trace.txt.gz");
    let preset = Preset::by_release("6.12").unwrap();
    let events: Vec<_> = trace.records().collect();
    for (name, order) in [
        ("backwards", events.iter().rev().collect::<Vec<_>>()),
        ("twice", events.iter().chain(events.iter()).collect()),
        ("frees only", events.iter().filter(|r| matches!(r.event, Event::Free { .. })).collect()),
    ] {
        let mut builder = TraceBuilder::new(trace.clock());
        for record in order {
            builder.push(record.time, record.cpu, &record.event).unwrap();
        }
        let replay = predict(&builder.finish(), state.restore(preset).unwrap(), &Options::default()).unwrap();
        assert!(replay.totals.diverged > 0, "{name}");
        let first = replay.first_divergence.unwrap_or_else(|| panic!("{name}: not explained"));
        assert!(first.to_string().starts_with(&format!("event {}", first.event())), "{name}: {first}");
        replay.engine.verify().unwrap_or_else(|violation| panic!("{name}: {violation}"));
    }
}
