use super::*;
use crate::layout::{FirstChunkRequest, Topology};
use crate::testing::random::Random;
use crate::units::WordSize;
use crate::variant::Preset;

const ALL: [Search; 3] = [Search::BusyAreas, Search::FreeBlocks, Search::Declarative];

fn space(search: Search, busy: &[(u64, u64)]) -> VmallocSpace {
    let mut space = VmallocSpace::new(search, 0x10000, 0x20000, 0x1000).unwrap();
    busy.iter().for_each(|&(start, end)| space.occupy(start..end).unwrap());
    space
}

fn set(offsets: &[u64], sizes: &[u64]) -> AreaSet {
    AreaSet::new(offsets, sizes, 0x1000, 0x1000).unwrap()
}

fn base(space: &mut VmallocSpace, set: &AreaSet) -> Option<u64> {
    let found = space.alloc(set).ok().map(|placed| placed.base);
    space.verify().unwrap();
    found
}

/// Specification 32 section 5: only the older walk forgets the room above its hint.
#[test]
fn the_hint_hides_room() {
    let areas = set(&[0, 0x4000], &[0x1000, 0x1000]);
    for (search, second) in
        [(Search::BusyAreas, 0x18000), (Search::FreeBlocks, 0x1b000), (Search::Declarative, 0x1b000)]
    {
        let mut space = space(search, &[(0x1a000, 0x1d000)]);
        space.lazy_free = false;
        assert_eq!(base(&mut space, &areas), Some(0x19000), "{search:?}");
        assert_eq!(space.hint(), 0x1d000);
        space.release_range(0x1a000).unwrap();
        assert_eq!(space.hint(), 0x1d000);
        assert_eq!(base(&mut space, &areas), Some(second), "{search:?}");
    }
}

/// Specification 32 section 9, the machine with two nodes.
#[test]
fn two_groups_on_x86_64() {
    let areas = AreaSet::new(&[0, 0x8_0000_0000], &[0x20_0000, 0x20_0000], 0x20_0000, 4096).unwrap();
    assert_eq!(areas.span(), 0x8_0020_0000);
    let upper = 0xffff_e8ff_ff80_0000..0xffff_e8ff_ffb0_5000;
    let lower = 0xffff_e8f7_ff90_0000..0xffff_e8f7_ffb0_1000;
    for search in ALL {
        for obstacle in [&upper, &lower] {
            let mut space = VmallocSpace::x86_64(search);
            assert_eq!(space.bounds().1, 0xffff_e8ff_ffff_ffff);
            assert_eq!(base(&mut space, &areas), Some(0xffff_e8f7_ffc0_0000), "{search:?}");
            assert!(space.is_live(&(0xffff_e8ff_ffc0_0000..0xffff_e8ff_ffe0_0000)), "not at the very top");
            space.occupy(obstacle.clone()).unwrap();
            assert_eq!(base(&mut space, &areas), Some(0xffff_e8f7_ff60_0000), "{search:?} {obstacle:x?}");
        }
        let mut space = VmallocSpace::x86_64(search);
        base(&mut space, &areas);
        space.occupy(lower.clone()).unwrap();
        base(&mut space, &areas);
        assert_eq!(space.hint(), 0xffff_e8ff_ff60_0000);
        // Without the obstacle the skipped room is found again, but not by the walk with the hint.
        space.lazy_free = false;
        space.release_range(lower.start).unwrap();
        let third = if search == Search::BusyAreas { 0xffff_e8f7_ff40_0000 } else { 0xffff_e8f7_ffa0_0000 };
        assert_eq!(base(&mut space, &areas), Some(third), "{search:?}");
    }
}

/// Specification 32 section 9: group 0 is the higher one.
#[test]
fn the_base_is_that_of_the_lowest_group() {
    for search in ALL {
        let mut space = space(search, &[(0x1d000, 0x1e000)]);
        let areas = set(&[0x3000, 0], &[0x2000, 0x1000]);
        assert_eq!(base(&mut space, &areas), Some(0x1b000), "{search:?}");
        assert!(space.is_live(&(0x1e000..0x20000)) && space.is_live(&(0x1b000..0x1c000)));
    }
}

#[test]
fn lazy_ranges_are_in_the_way_until_a_purge() {
    for search in ALL {
        let mut space = space(search, &[]);
        let areas = set(&[0], &[0x8000]);
        let all: Vec<_> = (0..2).map(|_| base(&mut space, &areas).unwrap()).collect();
        assert_eq!(all, [0x18000, 0x10000]);
        assert_eq!(space.alloc(&areas), Err(Refusal::NoRoom));
        space.release(&areas, 0x18000).unwrap();
        assert_eq!((space.lazy_pages(), space.find_base(&areas)), (8, None));
        assert!(space.release(&areas, 0x18000).is_err(), "it is lazy already");
        let placed = space.alloc(&areas).unwrap();
        assert_eq!((placed.base, placed.purged, space.lazy_pages()), (0x18000, true, 0), "{search:?}");
        // One purge in a call: the second search fails for good.
        assert_eq!(space.alloc(&areas), Err(Refusal::NoRoom));
        space.lazy_threshold = Some(7);
        space.release(&areas, 0x10000).unwrap();
        assert_eq!((space.lazy_pages(), base(&mut space, &areas)), (0, Some(0x10000)), "{search:?}");
    }
}

#[test]
fn chunks_that_come_and_go_take_no_memory() {
    let areas = AreaSet::new(&[0, 0x40_0000], &[0x20_0000, 0x20_0000], 0x20_0000, 4096).unwrap();
    let mut space = VmallocSpace::x86_64(Search::FreeBlocks);
    for _ in 0..10_000 {
        let placed = space.alloc(&areas).unwrap();
        space.release(&areas, placed.base).unwrap();
    }
    space.verify().unwrap();
    assert_eq!(space.lazy_pages(), 10_000 * 1024);
    assert!(space.busy().count() < 4, "{:x?}", space.busy().collect::<Vec<_>>());
}

#[test]
fn faults_leave_nothing_behind() {
    let areas = set(&[0, 0x4000], &[0x1000, 0x1000]);
    for search in ALL {
        for (fault, calls, expected) in [
            (Fault::Objects, 1, Err(Refusal::Fault)),
            (Fault::Split(1), 1, Ok(true)),
            (Fault::Split(0), 2, Err(Refusal::NoRoom)),
            (Fault::Shadow(1), 1, Err(Refusal::Fault)),
            (Fault::Shadow(2), 1, Ok(false)),
        ] {
            let mut space = space(search, &[(0x1a000, 0x1d000)]);
            if search == Search::BusyAreas && fault != Fault::Objects {
                assert!(space.inject(fault, calls).is_err());
                continue;
            }
            let before = space.clone();
            space.inject(fault, calls).unwrap();
            let got = space.alloc(&areas).map(|placed| placed.purged);
            assert_eq!(got, expected, "{search:?} {fault:?}");
            if got.is_err() {
                assert_eq!(space, before);
            }
        }
    }
}

#[test]
fn too_far_apart_is_no_matter_of_room() {
    for search in ALL {
        let mut space = space(search, &[]);
        assert_eq!(space.alloc(&set(&[0, 0x10000], &[0x1000, 0x1000])), Err(Refusal::TooFarApart));
        assert!(space.alloc(&set(&[0, 0xf000], &[0x1000, 0x1000])).is_ok());
        let atom = 1 << 20;
        let large = AreaSet::new(&[0], &[atom], atom, 4096).unwrap();
        assert_eq!(space.alloc(&large), Err(Refusal::TooFarApart), "no aligned address at all");
        assert_eq!(space.find_base(&large), None);
    }
}

#[test]
fn a_machine_has_its_own_space() {
    let rules = Preset::by_release("6.12").unwrap().layout;
    let request = FirstChunkRequest::new(Topology::flat(2).unwrap(), rules, 1000);
    assert_eq!(request.vmalloc_space(Search::FreeBlocks), Ok(VmallocSpace::x86_64(Search::FreeBlocks)));
    let narrow = request.clone().on_word(WordSize::Bits32).vmalloc_space(Search::FreeBlocks).unwrap();
    assert_eq!(narrow.bounds(), (0xf800_0000, 0xff7f_ffff));
    for (vmalloc_start, vmalloc_total) in [(1 << 32, 0), (u64::MAX, 2), (0, 1 << 20)] {
        let request = FirstChunkRequest { vmalloc_start, vmalloc_total, ..request.clone() };
        assert!(request.vmalloc_space(Search::FreeBlocks).is_err());
    }
}

#[test]
fn nonsense_is_named() {
    let top = 1 << 63;
    for (offsets, sizes, align, parameter) in [
        (&[][..], &[][..], 0x1000, "offsets"),
        (&[0, 0x1000], &[0x1000], 0x1000, "offsets"),
        (&[0], &[0x1000], 0x800, "align"),
        (&[0], &[0x3000], 0x3000, "align"),
        (&[0], &[0x1000], 0, "align"),
        (&[0x800], &[0x1000], 0x1000, "offsets"),
        (&[0], &[0x1800], 0x1000, "sizes"),
        (&[0, 0x1000], &[0x1000, 0], 0x1000, "sizes"),
        (&[0, 0x1000], &[0x2000, 0x1000], 0x1000, "offsets"),
        (&[0x1000, 0x1000], &[0x1000, 0x1000], 0x1000, "offsets"),
        (&[top], &[top], 0x1000, "offsets"),
    ] {
        assert_eq!(AreaSet::new(offsets, sizes, align, 0x1000).unwrap_err().parameter, parameter, "{offsets:x?}");
    }
    for (start, end, page, parameter) in
        [(0, 5, 4096, "vmalloc_start"), (5, 5, 4096, "vmalloc_start"), (5, 6, 0, "page_size")]
    {
        assert_eq!(VmallocSpace::new(Search::FreeBlocks, start, end, page).unwrap_err().parameter, parameter);
    }
    let mut space = space(Search::FreeBlocks, &[(0x18000, 0x19000)]);
    let before = space.clone();
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..5, 7..7, 9..7, 0x17fff..0x18001, 0x18fff..0x20000, 0x18000..0x19000, 5..u64::MAX] {
        assert!(space.occupy(range.clone()).is_err(), "{range:x?}");
    }
    let areas = set(&[0, 0x2000], &[0x1000, 0x1000]);
    for base in [0x18000, 0x16000, 0, u64::MAX - 0x1000] {
        assert!(space.occupy_set(&areas, base).is_err(), "{base:#x}");
        assert!(space.release(&areas, base).is_err(), "{base:#x}");
    }
    assert!(space.release_range(0x18001).is_err());
    assert_eq!(space, before);
    // The whole address space, and ranges at its ends.
    let mut space = VmallocSpace::new(Search::FreeBlocks, 1, u64::MAX, 4096).unwrap();
    space.occupy(u64::MAX - 0x1800..u64::MAX).unwrap();
    assert_eq!(base(&mut space, &areas), Some(u64::MAX - 0x4fff));
}

/// Specification 32 section 3 read literally: every base from the top, every busy range. The walk along busy areas
/// stays below the first one that ends above its hint.
fn exhaustive(space: &VmallocSpace, set: &AreaSet) -> Option<u64> {
    let busy: Vec<_> = space.busy().map(|(range, _)| range).collect();
    let (start, end) = space.bounds();
    let capped = busy.iter().find(|range| space.search == Search::BusyAreas && range.end > space.hint());
    let end = capped.map_or(end, |range| range.start.min(end));
    let (vs, ve) = (start.next_multiple_of(set.align()), end - end % set.align());
    let mut base = ve.checked_sub(set.span())?;
    while base >= vs {
        let ranges = set.ranges(base).unwrap();
        if !ranges.iter().any(|a| busy.iter().any(|b| a.start < b.end && b.start < a.end)) {
            return Some(base);
        }
        base = base.checked_sub(set.align())?;
    }
    None
}

fn random_set(random: &mut Random) -> AreaSet {
    let align = 0x1000 << random.below(3);
    let mut areas = Vec::new();
    let mut at = align * (random.below(3) / 2);
    for _ in 0..1 + random.below(4) {
        let size = align * (1 + random.below(3));
        areas.push((at, size));
        at += size + align * random.below(4);
    }
    for i in (1..areas.len()).rev() {
        areas.swap(i, random.below(i as u64 + 1) as usize);
    }
    let (offsets, sizes): (Vec<u64>, Vec<u64>) = areas.into_iter().unzip();
    AreaSet::new(&offsets, &sizes, align, 0x1000).unwrap()
}

/// A space of at most 64 pages; its ends and the obstacles have any address, also outside.
fn random_space(random: &mut Random, search: Search) -> VmallocSpace {
    let start = 0x4000 + random.below(0x4000);
    let mut space = VmallocSpace::new(search, start, start + 1 + random.below(0x40000), 0x1000).unwrap();
    for _ in 0..random.below(10) {
        let at = 1 + random.below(0x50000);
        let length = if random.one_in(3) { 0x1000 } else { 1 + random.below(0x5000) };
        // Some touch each other or a border of a page.
        let at = if random.one_in(2) { at.next_multiple_of(0x1000) } else { at };
        let _ = space.occupy(at..at + length);
    }
    space
}

#[test]
fn fresh_walks_agree_with_the_exhaustive_search() {
    let (mut found, mut none) = (0, 0);
    for seed in 0..100_000 {
        let random = &mut Random::new(seed);
        let mut space = random_space(random, Search::Declarative);
        let set = random_set(random);
        let expected = exhaustive(&space, &set);
        match expected {
            Some(_) => found += 1,
            None => none += 1,
        }
        for search in ALL {
            space.search = search;
            assert_eq!(space.find_base(&set), expected, "{search:?}, seed {seed}: {set:x?} in {space:x?}");
        }
    }
    assert!(found > 25_000 && none > 25_000, "{found} found, {none} not");
}

/// Sequences of allocations, frees and purges, lazy ranges in the way.
#[test]
fn sequences_follow_the_rule() {
    for seed in 0..3000 {
        let random = &mut Random::new(seed);
        let set = random_set(random);
        for search in ALL {
            let random = &mut Random::new(seed);
            let mut space = random_space(random, search);
            space.lazy_free = !random.one_in(4);
            space.lazy_threshold = random.one_in(4).then(|| random.below(20));
            let mut live = Vec::new();
            for _ in 0..30 {
                match random.below(8) {
                    0..4 => {
                        let mut purged = space.clone();
                        purged.purge();
                        let expected = exhaustive(&space, &set).or_else(|| exhaustive(&purged, &set));
                        let got = space.alloc(&set).ok();
                        if let Some(placed) = got {
                            live.push(placed.base);
                        }
                        assert_eq!(got.map(|placed| placed.base), expected, "{search:?}, seed {seed}");
                    }
                    4..7 if !live.is_empty() => {
                        let base = live.swap_remove(random.below(live.len() as u64) as usize);
                        space.release(&set, base).unwrap();
                    }
                    7 => {
                        space.purge();
                    }
                    _ => {}
                }
                space.verify().unwrap();
            }
        }
    }
}
