//! Replays beyond prediction: without a state, to any event, from the middle on.

#![cfg(feature = "testing")]

use std::path::{Path, PathBuf};

use percpu::allocator::{Allocator, Balance};
use percpu::engine::Engine;
use percpu::geometry::Geometry;
use percpu::replay::closed_world::{closed_world, World};
use percpu::replay::rerun::{rerun, Options as RerunOptions};
use percpu::replay::{predict, Options};
use percpu::state::State;
use percpu::testing::following::{check, find_traces};
use percpu::trace::{read_trace, Alloc, Base, Clock, Event, Kind, Trace, TraceBuilder};
use percpu::units::Bytes;
use percpu::variant::{Generation, Preset};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

fn trace_of(path: &str) -> Trace {
    read_trace(&std::fs::read(data(path)).unwrap()).unwrap()
}

fn state_of(run: &str) -> State {
    State::from_json(&std::fs::read(data(&format!("recordings/{run}/state-a.json.gz"))).unwrap()).unwrap()
}

fn preset(release: &str) -> &'static Preset {
    Preset::by_release(release).unwrap()
}

fn geometry(unit_size: u64) -> Geometry {
    Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit_size), 2).unwrap()
}

#[test]
fn following_agrees_with_the_recorded_states() {
    let files = find_traces(&data("")).unwrap();
    assert!(files.len() >= 12, "{files:?}");
    let mut with_state = 0;
    let mut prior = 0;
    for file in files {
        let followed = check(&file).unwrap();
        assert!(followed.wrong.is_empty(), "{:?}", followed.wrong);
        with_state += u32::from(followed.hidden.is_some_and(|bytes| bytes > 0));
        prior += followed.follow.totals.nr_freed_prior;
    }
    assert!(with_state >= 10 && prior > 0);
}

#[test]
fn any_event_can_be_gone_to() {
    for (run, file) in [("drain-612-4cpu", "trace-ext.txt.gz"), ("cg-up", "trace.txt.gz")] {
        let trace = trace_of(&format!("recordings/{run}/{file}"));
        let start = state_of(run).restore(preset("6.12")).unwrap();
        let options = Options { states_at_markers: true, ..Options::default() };
        let replay = predict(&trace, start.clone(), &options).unwrap();
        let markers: Vec<_> = trace.records().filter(|r| r.event.kind() == Kind::Marker).map(|r| r.index).collect();
        assert_eq!(markers.len(), replay.states.len());
        for (index, (text, state)) in markers.iter().zip(&replay.states) {
            let engine = replay.at(&trace, index + 1, &mut |_| true);
            assert_eq!(state.diff(&State::capture(&engine)), [], "{run} at {text}");
        }
        let end = State::capture(&replay.at(&trace, trace.len(), &mut |_| true));
        assert_eq!(end.diff(&State::capture(&replay.engine)), []);
        assert_eq!(State::capture(&start).diff(&State::capture(&replay.at(&trace, 0, &mut |_| true))), []);
    }
}

/// The timeline's last values are those of the state, also after pages and chunks came and went.
#[test]
fn the_timeline_ends_with_the_state() {
    let trace = trace_of("recordings/drain-612-4cpu/trace-ext.txt.gz");
    let replay =
        predict(&trace, state_of("drain-612-4cpu").restore(preset("6.12")).unwrap(), &Options::default()).unwrap();
    let last = replay.windows.last().unwrap();
    assert_eq!(last.event, trace.len() as u64);
    let live = percpu::replay::timeline::live_bytes(&replay.engine);
    assert_eq!(last.ranges[0].last, replay.engine.stats().nr_cur_alloc as i64);
    assert_eq!(last.ranges[1].last, live as i64);
    assert_eq!(last.ranges[3].last, i64::from(replay.engine.totals().nr_populated.unwrap()));
    let low = replay.windows.iter().map(|window| window.ranges[1].min).min();
    let high = replay.windows.iter().map(|window| window.ranges[1].max).max();
    assert!(low < high);
}

/// A rerun forked from its own middle ends as the rerun itself; so does one that went there.
#[test]
fn a_rerun_forked_from_its_middle_goes_on_as_it_would() {
    let trace = trace_of("recordings/drain-612-4cpu/trace.txt.gz");
    for generation in [Generation::Linux414, Generation::Linux514, Generation::AreaMap, Generation::CpuAlloc2008] {
        let preset = Preset::of_generation(generation);
        let allocator = Allocator::bare(preset, geometry(1 << 20), Balance::Eager).unwrap();
        let options = RerunOptions::default();
        let whole = rerun(&trace, allocator.clone(), &options, &mut |_| true).unwrap();
        let middle = trace.len() / 2;
        let half = rerun(&trace.slice(0..middle), allocator, &options, &mut |_| true).unwrap();
        let there = whole.at(&trace, middle, &mut |_| true).unwrap();
        assert_eq!(format!("{:?}", there.engine()), format!("{:?}", half.allocator.engine()), "{generation}");
        let fork = whole.fork(&trace, middle, None, &options, &mut |_| true).unwrap();
        assert_eq!(format!("{:?}", fork.allocator.engine()), format!("{:?}", whole.allocator.engine()), "{generation}");
        let later: Vec<_> = whole.requests.iter().filter(|r| r.event as usize >= middle).collect();
        assert!(fork.requests.iter().eq(later), "{generation}");
        assert_eq!((fork.totals.events, fork.from), (trace.len() as u64, middle));
    }
}

#[test]
fn a_fork_carries_what_is_live_into_another_engine() {
    let trace = trace_of("recordings/drain-612-4cpu/trace-ext.txt.gz");
    let start = state_of("drain-612-4cpu").restore(preset("6.12")).unwrap();
    let replay = predict(&trace, start, &Options::default()).unwrap();
    let machine =
        || Allocator::bare(preset("6.12"), geometry(state_of("drain-612-4cpu").unit_size), Balance::Eager).unwrap();
    let middle = trace.len() / 2;
    let engine = replay.at(&trace, middle, &mut |_| true);
    let live = engine.stats().nr_cur_alloc;
    let ends = replay.engine.stats().nr_cur_alloc;
    for generation in [Generation::Linux414, Generation::AreaMap, Generation::RfcV1] {
        let target = Allocator::bare(Preset::of_generation(generation), geometry(1 << 20), Balance::Eager).unwrap();
        let fork =
            replay.fork(&trace, middle, machine(), Some(target), &RerunOptions::default(), &mut |_| true).unwrap();
        let t = fork.totals;
        assert_eq!((t.carried + t.not_carried, t.not_carried, t.unseen_frees), (live, 0, 0), "{generation}");
        let live = fork.allocator.engine().stats().nr_cur_alloc;
        assert!(live == ends || t.fails > 0 && live < ends, "{generation}: {live}, {t:?}");
        fork.allocator.engine().verify().unwrap();
    }
    let own = replay.fork(&trace, middle, machine(), None, &RerunOptions::default(), &mut |_| true).unwrap();
    assert_eq!((own.totals.carried, own.totals.unseen_frees), (0, 0));
    assert_eq!(own.allocator.engine().stats().nr_cur_alloc, ends);
}

/// Without a state nearly all placements are predicted; the few others are of a past that the trace does not show.
#[test]
fn a_closed_world_predicts_nearly_all() {
    let mut cases = vec![("captures/ftrace-hashed.txt.gz".to_owned(), 1 << 20)];
    for run in ["netns-612-3+1", "cg-own-2+2", "netns-own0-4cpu"] {
        cases.push((format!("recordings/{run}/trace.txt.gz"), state_of(run).unit_size));
    }
    for (path, unit_size) in cases {
        let whole = trace_of(&path);
        // What a capture has: the kernel's own events.
        let own = |event: &Event<'_>| (event.kind() as u8) < Kind::Populated as u8;
        let mut builder = TraceBuilder::new(whole.clock());
        if whole.hashed() {
            builder = builder.hashed_pointers();
        }
        whole.records().filter(|r| own(&r.event)).for_each(|r| builder.push(r.time, r.cpu, &r.event).unwrap());
        let trace = builder.finish();
        let world = World { preset: preset("6.12"), geometry: geometry(unit_size), stats: None };
        let start = closed_world(&trace, &world).unwrap();
        start.verify().unwrap();
        let replay = predict(&trace, start, &Options::default()).unwrap();
        let allocs = trace.counts().of(Kind::Alloc);
        // Forced placements are none that were predicted.
        let predicted = replay.predictions.iter().filter(|prediction| prediction.equal).count() as u64;
        assert!(predicted * 1000 >= allocs * 985, "{path}: {predicted} of {allocs}");
    }
}

/// Two areas from before the trace lie side by side; later a longer one is placed where both were.
#[test]
fn areas_of_a_closed_world_do_not_reach_into_each_other() {
    let base = Some(Base::new(0xffff_e8ff_ffc0_0000));
    let free = |off| Event::Free { base, off: Bytes(off), ptr: None };
    let alloc = Event::Alloc(Alloc {
        size: Bytes(80),
        align: Bytes(8),
        reserved: false,
        atomic: false,
        base,
        off: Bytes(40),
        ptr: None,
        bytes_alloc: None,
        call_site: None,
        gfp_flags: None,
    });
    let mut builder = TraceBuilder::new(Clock::Counter);
    for (time, event) in [free(40), free(56), alloc].iter().enumerate() {
        builder.push(time as u64, Some(0), event).unwrap();
    }
    let trace = builder.finish();
    let world = World { preset: preset("6.12"), geometry: geometry(1 << 16), stats: None };
    let replay = predict(&trace, closed_world(&trace, &world).unwrap(), &Options::default()).unwrap();
    assert_eq!((replay.totals.frees, replay.totals.allocs, replay.totals.diverged), (2, 1, 0));
}
