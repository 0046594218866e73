use proptest::prelude::*;

use super::*;
use crate::backend::Supply;
use crate::cost::{Costs, Counting};
use crate::engine::early::Entry;
use crate::engine::Engine;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::testing::naive::area_array::ArrayEngine;
use crate::testing::shadow::{check, ops, small_setup, Op};

fn geometry(unit: u64) -> Geometry {
    Geometry::new(Bytes(64), Bytes(2), Bytes(64), Bytes(unit), 1).unwrap()
}

/// A map and a page map with `pages` populated, with one operation a call.
struct Bench {
    g: Geometry,
    map: AreaMap,
    pages: PageMap,
}

impl Bench {
    fn new(unit: u64, populated: &[u32]) -> Self {
        let g = geometry(unit);
        let mut pages = PageMap::new(g.unit_pages(), false);
        populated.iter().for_each(|page| pages.mark(*page, page + 1, true));
        Self { g, map: AreaMap::new(&g), pages }
    }

    fn alloc(&mut self, size: u32, align: u32) -> Option<(u32, u32)> {
        self.serve(Task { size, align, atomic: false })
    }

    fn atomic(&mut self, size: u32, align: u32) -> Option<(u32, u32)> {
        self.serve(Task { size, align, atomic: true })
    }

    fn serve(&mut self, task: Task) -> Option<(u32, u32)> {
        self.map.alloc(&self.g, &self.pages, &task, &mut Off).map(|area| (area.off, area.pages))
    }

    fn free(&mut self, off: u32) -> (u32, u32) {
        let area = self.map.free(&self.g, &self.pages, off, &mut Off);
        (area.off, area.pages)
    }

    /// The map as in the specification, `*` = in use, and free size, contig hint, first free.
    fn shows(&self) -> (String, u32, u32, u32) {
        let entry = |e: &u32| format!("{}{}", e & !IN_USE, if e & IN_USE != 0 { "*" } else { "" });
        let (map, [_, first_free, free_size, contig_hint], _) = self.map.state();
        let map: Vec<String> = map.iter().map(entry).collect();
        (map.join(" "), free_size, contig_hint, first_free)
    }

    #[track_caller]
    fn expect(&self, map: &str, free: u32, contig: u32, first: u32) {
        assert_eq!(self.shows(), (map.to_owned(), free, contig, first));
    }
}

/// Specification 11 section 8, the table.
#[test]
fn table_of_the_specification() {
    let mut b = Bench::new(256, &[]);
    b.expect("0 256*", 256, 256, 0);
    assert_eq!(b.alloc(10, 2), Some((0, 1)));
    b.expect("0* 10 256*", 246, 256, 1);
    assert_eq!(b.alloc(8, 8), Some((16, 0)));
    b.expect("0* 10 16* 24 256*", 238, 256, 1);
    assert_eq!(b.alloc(20, 4), Some((24, 0)));
    b.expect("0* 10 16* 24* 44 256*", 218, 256, 1);
    assert_eq!(b.free(0), (0, 0));
    b.expect("0 16* 24* 44 256*", 228, 256, 0);
    assert_eq!(b.alloc(6, 8), Some((0, 0)));
    b.expect("0* 6 16* 24* 44 256*", 222, 256, 1);
    assert_eq!(b.alloc(64, 64), Some((64, 1)));
    b.expect("0* 6 16* 24* 44 64* 128 256*", 158, 256, 1);
    assert_eq!(b.free(16), (16, 0));
    b.expect("0* 6 24* 44 64* 128 256*", 166, 256, 1);
    assert_eq!(b.free(24), (24, 0));
    b.expect("0* 6 64* 128 256*", 186, 256, 1);
    assert_eq!(b.alloc(4, 2), Some((6, 0)));
    b.expect("0* 6* 10 64* 128 256*", 182, 256, 2);
    assert_eq!(b.alloc(2, 2), Some((10, 0)));
    assert_eq!(b.free(64), (64, 1));
    b.expect("0* 6* 10* 12 256*", 244, 256, 3);
}

#[test]
fn a_small_head_is_glued_to_the_area_before() {
    let mut b = Bench::new(128, &[]);
    assert_eq!(b.alloc(6, 2), Some((0, 1)));
    b.expect("0* 6 128*", 122, 128, 1);
    assert_eq!(b.alloc(8, 8).map(|found| found.0), Some(8));
    assert_eq!(b.shows().0, "0* 8* 16 128*");
    assert_eq!(b.map.free_size, 112);
    assert_eq!(b.map.free(&b.g, &b.pages, 0, &mut Off).size, 8);
    assert_eq!(b.shows().0, "0 8* 16 128*");
    assert_eq!(b.map.free_size, 120);
}

#[test]
fn a_small_tail_is_glued_and_a_scan_to_the_end_is_exact() {
    let mut b = Bench::new(128, &[]);
    assert_eq!(b.alloc(32, 2).map(|found| found.0), Some(0));
    assert_eq!(b.alloc(32, 2).map(|found| found.0), Some(32));
    assert_eq!(b.alloc(32, 2).map(|found| found.0), Some(64));
    b.free(0);
    assert_eq!(b.shows(), ("0 32* 64* 96 128*".to_owned(), 64, 128, 0));
    assert_eq!(b.alloc(40, 2), None);
    assert_eq!(b.map.contig_hint, 32);
    assert_eq!(b.alloc(30, 2).map(|found| found.0), Some(0));
    b.expect("0* 32* 64* 96 128*", 32, 32, 1);
    assert_eq!(b.alloc(32, 2).map(|found| found.0), Some(96));
    b.expect("0* 32* 64* 96* 128*", 0, 0, 4);
    assert!(b.map.is_exhausted());
}

#[test]
fn atomic_requests_stay_on_populated_pages() {
    let mut b = Bench::new(256, &[0, 2]);
    assert_eq!(b.alloc(8, 2).map(|found| found.0), Some(0));
    assert_eq!(b.atomic(60, 2).map(|found| found.0), Some(128));
    assert_eq!(b.shows().0, "0* 8 128* 188 256*");
    assert_eq!(b.atomic(60, 2), None);
    assert_eq!(b.map.contig_hint, 120);
}

/// Specification 11 section 3 step 2: what lies before the first area counts as in use.
#[test]
fn an_atomic_request_can_cut_the_front_of_the_first_area() {
    let mut b = Bench::new(256, &[1]);
    assert_eq!(b.atomic(60, 2).map(|found| found.0), Some(64));
    assert_eq!(b.shows().0, "0 64* 124 256*");
}

#[test]
fn room_grows_by_doubling_and_atomic_requests_queue() {
    let mut map = AreaMap::new(&geometry(32768));
    assert_eq!(map.room(false), Room { queue: false, grow_to: Some(128) });
    assert_eq!(map.room(true), Room { queue: true, grow_to: None });
    map.set_queued(true);
    assert!(!map.room(true).queue, "queued once");
    map.grow(128, &mut Off);
    map.grow(16, &mut Off);
    assert_eq!(map.capacity, 128, "never reduced");
    assert_eq!(map.room(false), Room::default());
}

/// The margins of specification 11 section 7, at their edges.
#[test]
fn room_is_asked_for_below_the_margins() {
    for (used, atomic, queue, grow_to) in [
        (64, false, false, None),
        (65, false, false, Some(256)),
        (96, true, false, None),
        (97, true, true, None),
        (125, true, true, None),
        (126, true, true, Some(256)),
    ] {
        let areas: Vec<u32> = (0..=used).map(|i| (i * 4) | IN_USE).collect();
        let map = AreaMap::with_areas(&areas, 128, 0, false);
        assert_eq!(map.room(atomic), Room { queue, grow_to }, "{used} areas, atomic {atomic}");
    }
}

fn request(size: u64, sleep: Sleep) -> Request {
    Request { sleep, ..Request::new(Bytes(size), Bytes(1)) }
}

/// Nothing extends before late boot: the first attempt is complained about, the failure line
/// follows, and atomic requests go on until the array is full.
#[test]
fn maps_do_not_grow_before_late_boot() {
    let mut setup = small_setup(Generation::AreaMap, 4096, 64, 64, 2048);
    setup.async_enabled = false;
    let mut engine = AreaMapEngine::new(&setup).unwrap();
    engine.backend_mut().journal.enabled = true;
    let reserved = Request { reserved: true, ..request(2, Sleep::Full) };
    while let Outcome::Placed { .. } = engine.alloc(&request(4, Sleep::Full)) {}
    assert_eq!(engine.alloc(&request(4, Sleep::Full)), Outcome::Failed(Reason::MapExtend));
    let Outcome::Placed { .. } = engine.alloc(&request(4, Sleep::Never)) else { panic!("atomic: 3 entries do") };
    let log: Vec<&str> = engine.backend().journal.log.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(log[0], "WARNING (once)");
    assert!(log[1].ends_with("size=4 align=2 atomic=0, failed to extend area map"), "{}", log[1]);
    assert!(log[2].starts_with("percpu: allocation failed"));
    assert!(!engine.balance_pending(), "scheduling is dropped");
    engine.verify().unwrap();

    // The reserved chunk has an array and a reason of its own; 64 bytes cannot fill it.
    engine.existing_mut(ChunkId::RESERVED).space.capacity = 16;
    assert_eq!(engine.alloc(&reserved), Outcome::Failed(Reason::ReservedMap));
    engine.enable_async();
    assert!(matches!(engine.alloc(&reserved), Outcome::Placed { chunk: ChunkId::RESERVED, .. }));
    assert!(matches!(engine.alloc(&request(4, Sleep::Full)), Outcome::Placed { .. }));
    engine.verify().unwrap();
}

/// An atomic request that finds few spare entries queues the chunk; the worker extends it.
#[test]
fn the_worker_serves_the_queue() {
    let mut engine = AreaMapEngine::new(&small_setup(Generation::AreaMap, 1024, 0, 0, 0)).unwrap();
    engine.balance();
    assert!(engine.chunk_ids().len() == 1 && !engine.balance_pending());
    engine.alloc(&request(2, Sleep::Never));
    assert!(engine.balance_pending());
    assert_eq!(engine.growth, [ChunkId(0)]);
    engine.verify().unwrap();
    engine.balance();
    assert!(engine.growth.is_empty());
    assert_eq!(engine.entry(ChunkId(0)).unwrap().space.capacity, 128);
    engine.verify().unwrap();
}

#[test]
fn bad_regions_are_refused() {
    let mut setup = small_setup(Generation::AreaMap, 1024, 62, 0, 512);
    assert!(AreaMapEngine::new(&setup).is_ok());
    let mut fails = |start: u64, size: u64| {
        let boot = setup.boot.as_mut().unwrap();
        (boot.first.start_offset, boot.first.size) = (Bytes(start), Bytes(size));
        AreaMapEngine::new(&setup).unwrap_err().parameter
    };
    assert_eq!(fails(63, 512), "boot.start_offset");
    assert_eq!(fails(62, 511), "boot.size");
    assert_eq!(fails(64, 1024), "boot.size");
    assert_eq!(fails(64, 0), "boot.size");
    assert_eq!(fails(2, u64::MAX), "boot.size");
}

#[test]
fn addresses_before_the_end_of_the_reserved_region_are_reserved() {
    let engine = AreaMapEngine::new(&small_setup(Generation::AreaMap, 1024, 100, 64, 512)).unwrap();
    for (addr, chunk) in [
        (0, Some(ChunkId::RESERVED)),
        (163, Some(ChunkId::RESERVED)),
        (164, Some(ChunkId(0))),
        (1023, Some(ChunkId(0))),
        (1024, None),
    ] {
        assert_eq!(engine.find_chunk(addr), chunk, "address {addr}");
    }
}

#[test]
fn a_failed_population_frees_the_area() {
    let mut engine = AreaMapEngine::new(&small_setup(Generation::AreaMap, 1024, 0, 0, 0)).unwrap();
    engine.backend_mut().page_supply = Supply::of(1);
    assert_eq!(engine.alloc(&request(8, Sleep::Full)), Outcome::Failed(Reason::NoPage));
    let stats = engine.stats();
    assert_eq!((stats.nr_alloc, stats.nr_dealloc, stats.nr_cur_alloc), (1, 1, 0));
    assert_eq!(engine.totals().nr_empty_pop_pages, 0);
    engine.verify().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn serves_legally(ops in ops(512, 64, 120), head in 0..60u64, reserved in 0..3u64, first in 0..4u64) {
        let setup = small_setup(Generation::AreaMap, 512, head * 2, reserved * 34, first * 66);
        prop_assert_eq!(check(Box::new(AreaMapEngine::new(&setup).unwrap()), &ops), Ok(()));
    }

    /// More areas than a new array has room for.
    #[test]
    fn serves_legally_with_growing_maps(ops in ops(4096, 64, 400)) {
        let setup = small_setup(Generation::AreaMap, 4096, 0, 0, 0);
        prop_assert_eq!(check(Box::new(AreaMapEngine::new(&setup).unwrap()), &ops), Ok(()));
    }
}

/// Both in every counter, operation by operation, and in the whole state.
fn same_as_the_array(setup: &Setup, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut fast = AreaMapEngine::new(setup).unwrap();
    let mut slow = ArrayEngine::new(setup).unwrap();
    let mut engines: [&mut dyn Engine; 2] = [&mut fast, &mut slow];
    for engine in &mut engines {
        engine.meter_mut().unwrap().set_counting(Counting::Full);
    }
    let mut live: Vec<(ChunkId, Bytes)> = Vec::new();
    for (step, op) in ops.iter().enumerate() {
        let mut outcomes = Vec::new();
        for engine in &mut engines {
            match op {
                Op::Alloc(request) => outcomes.push(Some(engine.alloc(request))),
                Op::Free(at) if !live.is_empty() => {
                    let (chunk, off) = live[at % live.len()];
                    engine.free(chunk, off, None).unwrap();
                }
                Op::Free(_) => {}
                Op::Balance { always } => {
                    if *always || engine.balance_pending() {
                        engine.balance();
                    }
                }
                Op::Supply { kind, left } => {
                    let supply = left.map_or(Supply::ENDLESS, Supply::of);
                    match kind {
                        0 => engine.backend_mut().page_supply = supply,
                        1 => engine.backend_mut().map_supply = supply,
                        _ => engine.backend_mut().chunk_supply = supply,
                    }
                }
            }
        }
        if let Op::Free(at) = op {
            if !live.is_empty() {
                live.swap_remove(at % live.len());
            }
        }
        if let [fast, slow] = outcomes[..] {
            prop_assert_eq!(fast, slow);
            if let Some(Outcome::Placed { chunk, off }) = fast {
                live.push((chunk, off));
            }
        }
        let [fast, slow] = &engines;
        prop_assert_eq!(fast.costs(), slow.costs(), "step {}: {:?}", step, op);
        prop_assert_eq!(fast.slots(), slow.slots());
        prop_assert_eq!(fast.totals(), slow.totals());
        prop_assert_eq!(fast.balance_pending(), slow.balance_pending());
        for id in fast.chunk_ids() {
            let [fast, slow] = [fast, slow].map(|engine| engine.chunk(id).unwrap());
            prop_assert_eq!(fast.older, slow.older, "step {}", step);
            prop_assert_eq!(&fast.area_map, &slow.area_map, "step {}", step);
            prop_assert_eq!((fast.free_bytes, fast.nr_alloc), (slow.free_bytes, slow.nr_alloc));
            prop_assert_eq!(&fast.populated, &slow.populated, "step {}", step);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn is_the_array(ops in ops(512, 64, 200), head in 0..60u64, reserved in 0..3u64, first in 0..4u64) {
        same_as_the_array(&small_setup(Generation::AreaMap, 512, head * 2, reserved * 34, first * 66), &ops)?;
    }

    /// Several groups of positions, and several levels of the sets.
    #[test]
    fn is_the_array_in_large_chunks(ops in ops(16384, 64, 600)) {
        same_as_the_array(&small_setup(Generation::AreaMap, 16384, 0, 0, 0), &ops)?;
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Many small areas, freed at random: nothing but alignment decides.
    #[test]
    fn is_the_array_when_full_of_gaps(frees in prop::collection::vec(any::<usize>(), 200), align in 1..5u32) {
        let request = |size, shift| Op::Alloc(Request::new(Bytes(size), Bytes(1_u64 << shift)));
        let filling = (0..700).map(|i| request(4 + i % 3 * 2, align));
        let mixed = frees.iter().flat_map(|at| {
            [Op::Free(*at), request(2 + *at as u64 % 9, *at as u32 % 6), Op::Free(at / 7), request(6, align)]
        });
        let ops: Vec<Op> = filling.chain(mixed).collect();
        same_as_the_array(&small_setup(Generation::AreaMap, 4096, 0, 0, 0), &ops)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Runs of equal requests are what single requests give: places, state, work.
    #[test]
    fn runs_are_single_requests(
        steps in prop::collection::vec((1u64..200, 0u32..7, 1u32..80, any::<usize>(), 0..4u8), 1..60), head in 0..3u64,
    ) {
        let setup = small_setup(Generation::AreaMap, 4096, head * 66, 0, 3000);
        let (mut single, mut runs) = (AreaMapEngine::new(&setup).unwrap(), AreaMapEngine::new(&setup).unwrap());
        let mut live = Vec::new();
        for (size, shift, count, at, kind) in steps {
            let sleep = if kind == 3 { Sleep::Never } else { Sleep::Full };
            let align = Bytes(1 << shift);
            let request = Request { sleep, ..Request::new(Bytes(size), align) };
            let mut left = count;
            while left > 0 {
                let outcome = runs.alloc(&request);
                let mut expected = vec![outcome];
                if let Outcome::Placed { chunk, off } = outcome {
                    let (step, more) = runs.alloc_behind(&request, chunk, off, left - 1);
                    expected.extend((1..=u64::from(more)).map(|i| Outcome::Placed { chunk, off: off + Bytes(i * step.0) }));
                }
                left -= expected.len() as u32;
                for outcome in expected {
                    prop_assert_eq!(single.alloc(&request), outcome);
                    if let Outcome::Placed { chunk, off } = outcome {
                        live.push((chunk, off));
                    }
                }
                if runs.balance_pending() {
                    runs.balance();
                    single.balance();
                }
                prop_assert_eq!(runs.costs(), single.costs());
            }
            prop_assert_eq!(format!("{runs:?}"), format!("{single:?}"));
            for i in 0..at % 20 {
                if !live.is_empty() {
                    let (chunk, off) = live.swap_remove((at / 20 + i) % live.len());
                    runs.free(chunk, off, None).unwrap();
                    single.free(chunk, off, None).unwrap();
                }
            }
        }
        runs.verify().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Frees in stretches are what single frees give: state, lists, work. The worker runs where it is scheduled.
    #[test]
    fn stretches_of_frees_are_single_frees(
        sizes in prop::collection::vec((1u64..300, 0u32..7), 1..400), order in 0..4u8, picks in prop::collection::vec(any::<usize>(), 400),
        head in 0..3u64, eager: bool, totals: bool,
    ) {
        let setup = small_setup(Generation::AreaMap, 4096, head * 66, 0, 3000);
        let mut single = AreaMapEngine::new(&setup).unwrap();
        let counting = if totals { Counting::Totals } else { Counting::Off };
        single.meter_mut().unwrap().set_counting(counting);
        let mut live = Vec::new();
        for (size, shift) in sizes {
            let request = Request::new(Bytes(size), Bytes(1 << shift));
            if let Outcome::Placed { chunk, off } = single.alloc(&request) {
                live.push(single.chunk_base(chunk) + off.0);
            }
        }
        match order {
            0 => {}
            1 => live.reverse(),
            2 => live = [0, 1].into_iter().flat_map(|odd| live.iter().copied().skip(odd).step_by(2)).collect(),
            _ => (1..live.len()).rev().for_each(|i| live.swap(i, picks[i] % (i + 1))),
        }
        // Some of them twice, and what lies nowhere.
        live.insert(live.len() / 2, live[0]);
        live.push(u64::MAX);
        // Where the worker runs at once, it has nothing to do when a stretch begins.
        if eager && single.balance_pending() {
            single.balance();
        }
        let mut stretches = single.clone();
        let mut at = 0;
        while at < live.len() {
            let count = stretches.free_some(&live[at..(at + 1 + picks[at % 400] % 50).min(live.len())]);
            for addr in &live[at..at + count] {
                let chunk = single.find_chunk(*addr).unwrap();
                prop_assert!(!eager || !single.balance_pending());
                single.free(chunk, Bytes(*addr - single.chunk_base(chunk)), None).unwrap();
            }
            at += count;
            prop_assert_eq!(format!("{stretches:?}"), format!("{single:?}"));
            prop_assert_eq!(stretches.costs(), single.costs());
            if eager && single.balance_pending() {
                stretches.balance();
                single.balance();
            }
            if count == 0 {
                let chunk = single.find_chunk(live[at]);
                let freed = chunk.map(|chunk| single.free(chunk, Bytes(live[at] - single.chunk_base(chunk)), None));
                prop_assert!(!matches!(freed, Some(Ok(_))), "{:#x} could be freed", live[at]);
                at += 1;
            }
        }
        stretches.verify().unwrap();
        prop_assert_eq!(stretches.stats().nr_cur_alloc, 0);
    }

    /// What is written depends on the state alone, not on how fine the granules are; what is changed in it is named.
    #[test]
    fn sets_are_written_by_what_they_hold(
        starts in prop::collection::btree_set(1u32..1024, 1..300), shift in 0..8u32, free in prop::collection::vec(any::<bool>(), 301),
        mutation in 0..8u8, by in 1u32..5,
    ) {
        let entries: Vec<u32> = std::iter::once(0).chain(starts).map(|start| start << 1 << shift).collect();
        let mut map: Vec<u32> = Vec::new();
        for (entry, free) in entries.iter().zip(free) {
            let merged = map.last().is_some_and(|last| last & IN_USE == 0);
            map.push(entry | if free && !merged { 0 } else { IN_USE });
        }
        let unit = 1024 << 1 << shift;
        map.push(unit | IN_USE);
        let size = |i: usize| (map[i + 1] & !IN_USE) - (map[i] & !IN_USE);
        let sizes: Vec<u32> = (0..map.len() - 1).filter(|i| map[*i] & IN_USE == 0).map(size).collect();
        let g = Geometry::new(Bytes(64), Bytes(2), Bytes(64), Bytes(unit.into()), 1).unwrap();
        let mut coarse = AreaMap::with_areas(&map, 2048, sizes.iter().sum(), false);
        coarse.contig_hint = sizes.iter().copied().max().unwrap_or(0);
        let mut fine = coarse.clone();
        fine.areas.refine_for_test();
        prop_assert_eq!(fine.areas.canonical(), coarse.areas.canonical());
        prop_assert_eq!(&fine, &coarse);
        let (shift, starts, free) = coarse.areas.canonical();
        let again = Areas::of_sets(unit, shift, &starts, &free, coarse.contig_hint).unwrap();
        prop_assert_eq!(AreaMap { areas: again, ..coarse.clone() }, coarse.clone());

        let mut entry = Entry::<AreaMap>::for_test(&g, coarse, (map.len() - 1 - sizes.len()) as u32);
        prop_assert_eq!(entry.space.verify_areas(&g, &entry), Ok(()));
        let space = &mut entry.space;
        match mutation {
            0 => space.free_size += 2 * by,
            1 if !sizes.is_empty() => space.contig_hint -= by.min(space.contig_hint),
            1 => space.free_size += by,
            2 => space.first_free = unit + by,
            3 => space.first_free = space.areas.next_free(0).map_or(unit + 1, |first| first.end),
            4 => space.capacity = map.len() as u32 - by,
            5 => entry.nr_alloc += by,
            6 => entry.start_offset = by,
            _ => space.has_reserved = true,
        }
        prop_assert!(entry.space.verify_areas(&g, &entry).is_err(), "mutation {mutation}");
        prop_assert!(entry.space.find_violation(&g, &entry).is_err(), "mutation {mutation}");
    }
}

#[test]
fn requests_in_order_are_served_as_runs() {
    let mut engine = AreaMapEngine::new(&small_setup(Generation::AreaMap, 4096, 0, 0, 0)).unwrap();
    engine.balance();
    let four = request(4, Sleep::Full);
    let mut served = 0;
    let mut calls = 0;
    while served < 500 {
        let Outcome::Placed { chunk, off } = engine.alloc(&four) else { panic!("there is room") };
        served += 1 + engine.alloc_behind(&four, chunk, off, 499 - served.min(499)).1;
        calls += 1;
        if engine.balance_pending() {
            engine.balance();
        }
    }
    assert!(calls < 100, "{calls} calls for {served} requests");
    engine.verify().unwrap();
}

/// Specification 11 section 8, the table, with the work of each step counted by hand.
#[test]
fn costs_of_the_table() {
    let mut b = Bench::new(256, &[]);
    let cost = |scanned: u64, moved: u64| Costs { entries_scanned: scanned, entries_moved: moved, ..Costs::ZERO };
    for (size, align, want) in [
        // The only area is split: the end marker moves.
        (10, 2, cost(1, 1)),
        // The second area is scanned from, cut in front and behind: again the end marker.
        (8, 8, cost(1, 1)),
        // Two free areas, the first too small, one in use between them.
        (20, 4, cost(3, 1)),
    ] {
        let mut costs = Costs::ZERO;
        b.map.alloc(&b.g, &b.pages, &Task { size, align, atomic: false }, &mut costs).unwrap();
        assert_eq!(costs, want);
    }
    b.expect("0* 10 16* 24* 44 256*", 218, 256, 1);
    // Merged with the area behind, with that before, with both: what is behind moves.
    for (off, want) in [(0, cost(0, 4)), (16, cost(0, 3)), (24, cost(0, 1))] {
        let mut costs = Costs::ZERO;
        b.map.free(&b.g, &b.pages, off, &mut costs);
        assert_eq!(costs, want, "free({off})");
    }
    b.expect("0 256*", 256, 256, 0);
    // The whole map is scanned in vain.
    let mut costs = Costs::ZERO;
    assert!(b.map.alloc(&b.g, &b.pages, &Task { size: 258, align: 2, atomic: false }, &mut costs).is_none());
    assert_eq!(costs, Costs { entries_scanned: 1, chunk_refreshes: 1, ..Costs::ZERO });
}
