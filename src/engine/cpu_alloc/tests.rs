use proptest::prelude::*;

use super::*;
use crate::cost::{Costs, Counting};
use crate::engine::{BootChunks, BootRegion};
use crate::testing::shadow::{check, ops, small_setup};

fn engine(unit: u64) -> CpuAlloc {
    CpuAlloc::new(&small_setup(Generation::CpuAlloc2008, unit, 0, 0, unit)).unwrap()
}

impl CpuAlloc {
    /// A request for `size` bytes at `align`, answered in units.
    fn ask(&mut self, size: u64, align: u64) -> Option<u64> {
        match self.alloc(&Request::new(Bytes(size), Bytes(align))) {
            Outcome::Placed { off, .. } => Some(off.0 / 4),
            Outcome::Failed(reason) => {
                assert_eq!(reason, Reason::NoRoom);
                None
            }
        }
    }

    /// The map up to the last used unit, X = used.
    fn used(&self) -> String {
        let units = (0..self.nr_units).map(|unit| if bitmap::test(&self.map, unit) { 'X' } else { '.' });
        units.collect::<String>().trim_end_matches('.').to_owned()
    }
}

/// Specification 12, the table of examples.
#[test]
fn table_of_the_specification() {
    let mut e = engine(64);
    for (size, align, want, used, first_free) in
        [(10, 4, Some(0), "XXX", 3), (8, 16, Some(4), "XXX.XX", 3), (4, 4, Some(3), "XXXXXX", 4)]
    {
        assert_eq!(e.ask(size, align), want);
        assert_eq!((e.used().as_str(), e.first_free), (used, first_free));
    }
    assert_eq!(e.free(AREA, Bytes(0), Some(Bytes(10))), Ok(Bytes(12)));
    assert_eq!((e.used().as_str(), e.first_free), ("...XXX", 0));
    for (size, want, used, first_free) in
        [(16, Some(6), "...XXXXXXX", 0), (12, Some(0), "XXXXXXXXXX", 3), (28, None, "XXXXXXXXXX", 10)]
    {
        assert_eq!(e.ask(size, 4), want);
        assert_eq!((e.used().as_str(), e.first_free), (used, first_free));
        e.verify().unwrap();
    }
}

#[test]
fn size_zero_is_a_place_that_leads_nowhere() {
    let mut e = engine(64);
    let before = format!("{e:?}");
    assert_eq!(e.alloc(&Request::new(Bytes(0), Bytes(4))), Outcome::ZERO_SIZE);
    let Outcome::Placed { chunk, off } = Outcome::ZERO_SIZE else { panic!("a place") };
    assert!(e.chunk(chunk).is_none());
    assert_eq!(e.free(chunk, off, None), Ok(Bytes(0)));
    assert_eq!(format!("{e:?}"), before);
}

#[test]
fn frees_look_at_two_bits() {
    let mut e = engine(64);
    for _ in 0..4 {
        e.ask(8, 4);
    }
    let free = |e: &mut CpuAlloc, off: u64, size: Option<u64>| e.free(AREA, Bytes(off), size.map(Bytes)).is_ok();
    let before = format!("{e:?}");
    for (off, size) in [(0, None), (64, Some(4)), (32, Some(4)), (0, Some(36)), (0, Some(u64::MAX)), (0, Some(0))] {
        assert!(!free(&mut e, off, size), "{size:?} at {off}");
        assert_eq!(format!("{e:?}"), before, "a refusal leaves no trace");
    }
    assert!(free(&mut e, 8, Some(8)));
    assert!(free(&mut e, 0, Some(32)), "wrong, but both ends are set");
    assert_eq!((e.cpu_bytes, e.miscounted), (-8, 8));
    assert!(e.used().is_empty());
    e.verify().unwrap();
}

#[test]
fn size_zero_at_a_real_pointer_clears_nothing() {
    let mut e = engine(64);
    e.ask(4, 4);
    e.ask(4, 4);
    assert_eq!(e.first_free, 2);
    assert_eq!(e.free(AREA, Bytes(4), Some(Bytes(0))), Ok(Bytes(0)));
    assert_eq!((e.used().as_str(), e.first_free), ("XX", 1));
}

#[test]
fn alignments_need_not_be_powers_of_two() {
    let mut e = engine(256);
    e.backend_mut().journal.enabled = true;
    assert_eq!(e.ask(4, 4), Some(0));
    assert_eq!(e.ask(4, 12), Some(3));
    assert_eq!(e.ask(4, 0), Some(1));
    assert!(e.backend().journal.log.is_empty());
    assert_eq!(e.ask(4, 128), Some(32));
    assert_eq!(e.ask(4, u64::MAX), None);
    assert_eq!(e.backend().journal.log.len(), 2, "alignment above the page of 64 bytes");
    assert_eq!(e.ask(u64::MAX, 4), None);
}

#[test]
fn the_area_lies_behind_the_static_data() {
    let mut setup = small_setup(Generation::CpuAlloc2008, 256, 0, 0, 256);
    let first = BootRegion { base_addr: 4096, start_offset: Bytes(100), size: Bytes(130) };
    setup.boot = Some(BootChunks { base_addr: 4096, first, reserved: None, nr_populated: Pages(4) });
    let e = CpuAlloc::new(&setup).unwrap();
    assert_eq!(e.nr_units(), 32, "2 bytes are lost");
    assert_eq!([4195, 4196, 4323, 4324].map(|addr| e.find_chunk(addr)), [None, Some(AREA), Some(AREA), None]);
    let view = e.chunk(AREA).unwrap();
    assert_eq!((view.unit_off, view.free_bytes, view.nr_pages), (Bytes(100), Bytes(128), Pages(2)));
}

/// The proposal's own loop: one unit at a time.
fn step_by_step(e: &CpuAlloc, units: u64, step: u64) -> (Option<u32>, u32) {
    let (mut first_free, mut start, mut first) = (e.first_free, e.first_free, true);
    loop {
        start = bitmap::next_zero(&e.map, e.nr_units, start);
        if start >= e.nr_units {
            return (None, first_free);
        }
        if first {
            first_free = start;
        }
        let end = bitmap::next_set(&e.map, e.nr_units, start + 1);
        if u64::from(start) % step == 0 && u64::from(end) >= u64::from(start) + units {
            let behind = start + units as u32;
            return (Some(start), if first { behind } else { first_free });
        }
        (start, first) = (start + 1, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn serves_legally(ops in ops(256, 64, 100)) {
        prop_assert_eq!(check(Box::new(engine(256)), &ops), Ok(()));
    }

    #[test]
    fn whole_runs_give_what_single_steps_give(
        sizes in prop::collection::vec((1..40u64, 0..24u64, any::<bool>()), 1..60)
    ) {
        let mut e = engine(256);
        let mut live = Vec::new();
        for (size, align, free) in sizes {
            let (want, first_free) = step_by_step(&e, size.div_ceil(4), (align / 4).max(1));
            let got = e.ask(size, align);
            prop_assert_eq!((got, e.first_free), (want.map(u64::from), first_free));
            live.extend(got.map(|pos| (pos * 4, size)));
            if free && !live.is_empty() {
                let (off, size) = live.swap_remove(live.len() / 2);
                prop_assert!(e.free(AREA, Bytes(off), Some(Bytes(size))).is_ok());
            }
            e.verify().unwrap();
        }
    }
}

/// Specification 12, step by step over plain booleans; a set of the words and lines looked at.
struct Steps {
    map: Vec<bool>,
    first_free: usize,
    costs: Costs,
    lines: std::collections::BTreeSet<usize>,
}

impl Steps {
    fn search(&mut self, value: bool, from: usize) -> usize {
        let size = self.map.len();
        let found = (from..size).find(|unit| self.map[*unit] == value).unwrap_or(size);
        let looked = from..(found + 1).min(size);
        let words: std::collections::BTreeSet<usize> = looked.clone().map(|unit| unit / 64).collect();
        self.costs.words_read += words.len() as u64;
        self.lines.extend(looked.map(|unit| 1 + unit / 512));
        found
    }

    fn end(&mut self) {
        self.costs.cache_lines += std::mem::take(&mut self.lines).len() as u64;
    }

    fn alloc(&mut self, units: usize, step: usize) -> Option<usize> {
        self.costs.chunks_visited += 1;
        self.lines.insert(0);
        let mut start = self.first_free;
        let mut first = true;
        let found = loop {
            start = self.search(false, start);
            if start >= self.map.len() {
                break None;
            }
            if first {
                self.first_free = start;
            }
            if start % step == 0 && self.search(true, start + 1) >= start + units {
                break Some(start);
            }
            start += 1;
            first = false;
        };
        if let Some(start) = found {
            if first {
                self.first_free = start + units;
            }
            self.map[start..start + units].fill(true);
            self.lines.extend((start..start + units).map(|unit| 1 + unit / 512));
        }
        self.end();
        found
    }

    fn free(&mut self, start: usize, units: usize) {
        self.lines.insert(0);
        self.costs.words_read += 2;
        self.lines.extend((start..start + units).map(|unit| 1 + unit / 512));
        self.map[start..start + units].fill(false);
        self.first_free = self.first_free.min(start);
        self.end();
    }
}

proptest! {
    #[test]
    fn costs_are_those_of_stepping_unit_by_unit(
        ops in prop::collection::vec((any::<bool>(), 1u64..400, 1u64..40, any::<usize>()), 1..120), pages in 1u64..100,
    ) {
        let mut e = engine(pages * 64);
        e.meter.set_counting(Counting::Full);
        let map = vec![false; e.nr_units as usize];
        let mut steps = Steps { map, first_free: 0, costs: Costs::ZERO, lines: Default::default() };
        let mut live = Vec::new();
        for (alloc, size, step, at) in ops {
            if alloc || live.is_empty() {
                let found = steps.alloc(size.div_ceil(4) as usize, step as usize);
                prop_assert_eq!(e.ask(size, step * 4), found.map(|unit| unit as u64));
                live.extend(found.map(|start| (start, size)));
            } else {
                let (start, size) = live.swap_remove(at % live.len());
                steps.free(start, size.div_ceil(4) as usize);
                e.free(AREA, Bytes(start as u64 * 4), Some(Bytes(size))).unwrap();
            }
            prop_assert_eq!(e.meter.costs(), steps.costs);
        }
    }
}
