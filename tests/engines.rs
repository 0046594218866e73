//! The same requests on all six engines: where the places agree, and where they part.
//!
//! Places are compared by the offset in the unit, which every engine has.
#![cfg(feature = "testing")]

use percpu::allocator::{Allocator, Balance};
use percpu::geometry::Geometry;
use percpu::layout::{FirstChunkRequest, Topology};
use percpu::replay::rerun::{rerun, Options};
use percpu::replay::timeline::live_bytes;
use percpu::request::{ChunkId, Outcome, Request};
use percpu::testing::random::Random;
use percpu::trace::{Alloc, Base, Clock, Event, Trace, TraceBuilder};

use percpu::units::Bytes;
use percpu::variant::{Generation, Preset};
use Generation::{AreaMap, CpuAlloc2008, Linux414, Linux514, Linux52, RfcV1};

/// One CPU, one page a unit unless said otherwise, no boot area.
fn bare(generation: Generation, pages: u64) -> Allocator {
    let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(4096 * pages), 1).unwrap();
    Allocator::bare(Preset::of_generation(generation), g, Balance::Manual).unwrap()
}

/// One step of a list.
#[derive(Clone, Copy)]
enum Op {
    Alloc(u64, u64),
    /// Of the n-th request of the list.
    Free(usize),
}
use Op::{Alloc as A, Free as F};

/// The offset in the unit of each request; `None` where it was not served.
fn places(a: &mut Allocator, ops: &[Op]) -> Vec<Option<u64>> {
    let mut served = Vec::new();
    for op in ops {
        match *op {
            A(size, align) => {
                let placed = a.alloc(&Request::new(Bytes(size), Bytes(align)));
                let unit_off = match placed.outcome {
                    Outcome::Placed { chunk, off } => Some(a.unit_off(chunk, off).0),
                    Outcome::Failed(_) => None,
                };
                served.push((placed.ptr, size, unit_off));
            }
            F(n) => a.free(served[n].0, Some(Bytes(served[n].1))).unwrap(),
        }
        a.engine().verify().unwrap();
    }
    served.into_iter().map(|(.., unit_off)| unit_off).collect()
}

/// Who places a list how: the engines named, in the order of [`Generation::ALL`].
fn by_place(pages: u64, ops: &[Op]) -> Vec<(Vec<Generation>, Vec<Option<u64>>)> {
    let mut out: Vec<(Vec<Generation>, Vec<Option<u64>>)> = Vec::new();
    for generation in Generation::ALL {
        let found = places(&mut bare(generation, pages), ops);
        match out.iter_mut().find(|(_, other)| *other == found) {
            Some((who, _)) => who.push(generation),
            None => out.push((vec![generation], found)),
        }
    }
    out
}

fn at(offs: &[u64]) -> Vec<Option<u64>> {
    offs.iter().copied().map(Some).collect()
}

#[test]
fn first_fit_of_whole_granules_is_common_to_all() {
    let ops = [A(64, 8), A(4, 4), A(16, 16), A(8, 8), A(128, 64)];
    let all = Generation::ALL.to_vec();
    assert_eq!(by_place(4, &ops), [(all, at(&[0, 64, 80, 72, 128]))]);
}

/// 11 section 3: the granule of the area map is 2 bytes, that of all others 4.
#[test]
fn two_byte_granules_pack_six_byte_requests_tighter() {
    let rest = vec![CpuAlloc2008, RfcV1, Linux414, Linux52, Linux514];
    let ops = [A(6, 2), A(6, 2), A(6, 2), A(6, 2)];
    assert_eq!(by_place(4, &ops), [(rest, at(&[0, 8, 16, 24])), (vec![AreaMap], at(&[0, 6, 12, 18]))]);
}

/// 11 section 3 step 2: a head of less than 4 bytes is glued to the area before, until that is freed.
#[test]
fn glued_bytes_come_back_with_their_area() {
    let ops = [A(6, 2), A(8, 8), F(0), A(8, 2)];
    let mut a = bare(AreaMap, 4);
    assert_eq!(places(&mut a, &ops), at(&[0, 8, 0]));
    let view = a.engine().chunk(ChunkId(0)).unwrap();
    assert_eq!(&view.area_map.unwrap()[..3], &[1, 8 | 1, 16]);
}

/// 12: no chunk is ever made; what does not fit into the one area fails.
#[test]
fn only_the_proposal_of_2008_cannot_grow() {
    let ops = [A(16384, 4), A(16384, 4)];
    let grow: Vec<_> = Generation::ALL.into_iter().filter(|generation| *generation != CpuAlloc2008).collect();
    assert_eq!(by_place(4, &ops), [(vec![CpuAlloc2008], vec![Some(0), None]), (grow, at(&[0, 0]))]);
}

/// 12: the lowest fit wins, whatever the hints of others promise; 10 section 7.3: since 5.2 a free
/// inside one block that does not empty it never raises the chunk's hint, unless it is block 0.
#[test]
fn since_5_2_a_free_behind_block_0_stays_unknown() {
    let ops = [A(5120, 4), A(1024, 4), F(1), A(3072, 4)];
    let lowest = vec![CpuAlloc2008, AreaMap, RfcV1, Linux414];
    // The newer two go on believing in the 2048 bytes at 6144 and make a chunk.
    assert_eq!(by_place(2, &ops), [(lowest, at(&[0, 5120, 5120])), (vec![Linux52, Linux514], at(&[0, 5120, 0]))]);
    // Inside block 0 the hint is right in all.
    let ops = [A(1024, 4), A(7168, 4), F(0), A(1024, 4)];
    assert_eq!(by_place(2, &ops).len(), 1);
}

/// Random operations on whole granules.
fn random_ops(seed: u64, len: usize, top: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    let (mut ops, mut live, mut made) = (Vec::new(), Vec::new(), 0);
    for step in 0..len {
        // Growing first, then shrinking.
        let grows = if step < len / 2 { 7 } else { 4 };
        if random.below(10) < grows || live.is_empty() {
            let top = top >> random.below(7);
            ops.push(A(4 * (1 + random.below(top)), 4 << random.below(5)));
            live.push(made);
            made += 1;
        } else {
            ops.push(F(live.swap_remove(random.below(live.len() as u64) as usize)));
        }
    }
    ops
}

/// The pairs of generations that place every one of the lists alike.
fn never_parted(balance: Balance, lists: impl Iterator<Item = Vec<Op>>) -> Vec<(Generation, Generation)> {
    let mut together: Vec<(Generation, Generation)> = Vec::new();
    for (i, one) in Generation::ALL.into_iter().enumerate() {
        together.extend(Generation::ALL[i + 1..].iter().map(|other| (one, *other)));
    }
    for ops in lists {
        let found = Generation::ALL.map(|generation| {
            let mut a = bare(generation, 8);
            a.set_balance_policy(balance, 0);
            (generation, places(&mut a, &ops))
        });
        let of = |who: Generation| &found.iter().find(|(generation, _)| *generation == who).expect("all are there").1;
        together.retain(|(one, other)| of(*one) == of(*other));
    }
    together
}

/// In one chunk and whole granules only hints can part two engines. The proposal of 2008 and the area
/// map both take the lowest fit (11 section 3, 12); 5.14 changed nothing inside a chunk (10).
#[test]
fn hints_part_all_but_two_pairs() {
    let lists = (0..150).map(|seed| random_ops(seed, 150, 256));
    assert_eq!(never_parted(Balance::Manual, lists), [(CpuAlloc2008, AreaMap), (Linux52, Linux514)]);
}

/// With chunks that come and go, and a worker, those two pairs part as well, so that no two generations
/// are the same: the area of 2008 does not grow (12), and 5.14 gives the pages of emptied chunks back
/// and passes these chunks over (20 section 8, 21 section 5).
#[test]
fn chunks_and_the_worker_part_the_other_two_pairs() {
    let together = never_parted(Balance::Eager, (0..40).map(|seed| random_ops(seed, 500, 4096)));
    for pair in [(CpuAlloc2008, AreaMap), (Linux52, Linux514)] {
        assert!(!together.contains(&pair), "{pair:?}");
    }
}

fn on_a_machine(generation: Generation) -> Allocator {
    let preset = Preset::of_generation(generation);
    let mut request = FirstChunkRequest::new(Topology::from_nodes(&[2]).unwrap(), preset.layout, 98_304);
    request.reserved_size = 8192;
    Allocator::with_layout(preset, &request.build().unwrap(), Balance::Eager).unwrap()
}

/// A trace as a kernel of 5.14 or later would write it, with a free of an object from before and a
/// request that failed.
fn recorded() -> Trace {
    let mut a = on_a_machine(Linux514);
    let mut trace = TraceBuilder::new(Clock::Counter);
    let (mut random, mut live) = (Random::new(4), Vec::new());
    let mut time = 0;
    let mut push = |event: Event<'_>| {
        time += 1;
        trace.push(time, Some(0), &event).unwrap();
    };
    let base = |a: &Allocator, chunk| Some(Base::new(a.engine().chunk_base(chunk)));
    push(Event::Free { base: base(&a, ChunkId(0)), off: Bytes(16), ptr: None });
    push(Event::AllocFail { size: Bytes(64), align: Bytes(8), reserved: false, atomic: true });
    for _ in 0..2000 {
        if random.below(5) < 3 || live.is_empty() {
            let (size, align) = (Bytes(4 * (1 + random.below(200))), Bytes(8));
            let placed = a.alloc(&Request::new(size, align));
            let Outcome::Placed { chunk, off } = placed.outcome else { panic!("{placed:?}") };
            let (base, ptr) = (base(&a, chunk), Some(placed.ptr));
            let rest = (None, None, None);
            let (bytes_alloc, call_site, gfp_flags) = rest;
            push(Event::Alloc(Alloc {
                size,
                align,
                reserved: false,
                atomic: false,
                base,
                off,
                ptr,
                bytes_alloc,
                call_site,
                gfp_flags,
            }));
            live.push((placed.ptr, base, off));
        } else {
            let (ptr, base, off) = live.swap_remove(random.below(live.len() as u64) as usize);
            push(Event::Free { base, off, ptr: Some(ptr) });
            a.free(ptr, None).unwrap();
        }
    }
    trace.finish()
}

#[test]
fn a_trace_runs_on_every_engine() {
    let trace = recorded();
    for generation in Generation::ALL {
        let options = Options { sample_every: 100, ..Options::default() };
        let result = rerun(&trace, on_a_machine(generation), &options, &mut |_| true).unwrap();
        let t = result.totals;
        assert_eq!((t.events, t.unseen_frees, t.lost_frees), (2002, 1, 0), "{generation}");
        assert_eq!(t.allocs + t.fails, result.requests.len() as u64, "{generation}");
        assert_eq!(t.served_only_here, 1, "{generation}: the boot chunk has room");
        assert_eq!(result.windows.len(), 21, "{generation}");
        let engine = result.allocator.engine();
        engine.verify().unwrap();
        let [areas, bytes, chunks, pages, _] = result.windows.last().unwrap().ranges.map(|range| range.last);
        assert!(bytes > 0 && pages > 0 && chunks > 0, "{generation}");
        assert_eq!(areas as u64, engine.stats().nr_cur_alloc, "{generation}");
        assert_eq!(bytes as u64, live_bytes(engine), "{generation}");
        if generation == CpuAlloc2008 {
            assert!(t.fails > 0 && t.missing_frees > 0, "one area cannot hold it all");
            continue;
        }
        assert_eq!((t.fails, t.missing_frees, t.comparable), (0, 0, t.allocs - 1), "{generation}");
        assert_eq!(engine.stats().nr_cur_alloc, t.allocs - 1 - t.frees, "{generation}");
        // The engine that the trace is of takes every place again, and so does the one that differs from it
        // only in giving pages back; the others part somewhere.
        let same = matches!(generation, Linux52 | Linux514);
        assert_eq!(t.same_place == t.comparable, same, "{generation}: {t:?}");
    }
}

#[test]
fn a_rerun_stops_when_told() {
    let result = rerun(&recorded(), bare(AreaMap, 8), &Options::default(), &mut |_| false).unwrap();
    assert_eq!((result.totals.events, result.requests.len()), (0, 0));
}
