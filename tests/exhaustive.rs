//! Every input over small words, against loops that nobody can get wrong.
//!
//! What holds for all maps of a few bits at every place in a word, and across the border of two, holds for the shifts
//! and masks that all maps are made of.
#![cfg(feature = "testing")]

use percpu::bitmap;
use percpu::chunk::{Chunk, Context};
use percpu::engine::linux::Linux;
use percpu::engine::{Engine, Setup};
use percpu::geometry::Geometry;
use percpu::layout::{LayoutInput, Topology};
use percpu::request::{ChunkId, Outcome, Request};
use percpu::testing::naive::Naive;
use percpu::units::{Bytes, WordSize};
use percpu::variant::{Generation, LayoutRules, Preset, Rules};

/// Bits of a map.
const BITS: u32 = 10;
/// Where a map begins: in a word, and so that it goes over a border.
const PLACES: [u32; 4] = [0, 3, 58, 64 - BITS];

/// A map at bit `place` of three words, its bits as a list, and everything around set or clear.
fn embedded(map: u32, place: u32, around: bool) -> (Vec<u64>, Vec<bool>) {
    let bits: Vec<bool> = (0..192)
        .map(|bit| if (place..place + BITS).contains(&bit) { map >> (bit - place) & 1 == 1 } else { around })
        .collect();
    (packed(&bits), bits)
}

fn packed(bits: &[bool]) -> Vec<u64> {
    let mut words = vec![0; bits.len().div_ceil(64)];
    for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
        words[at / 64] |= 1 << (at % 64);
    }
    words
}

fn every_map(mut judge: impl FnMut(&[u64], &[bool], u32)) {
    for map in 0..1 << BITS {
        for place in PLACES {
            for around in [false, true] {
                let (words, bits) = embedded(map, place, around);
                judge(&words, &bits, place);
            }
        }
    }
}

#[test]
fn searches_over_every_map() {
    every_map(|words, bits, place| {
        for from in place..=place + BITS {
            for to in from..=place + BITS {
                let mut range = from..to;
                let find = |value: bool| (from..to).find(|bit| bits[*bit as usize] == value).unwrap_or(to);
                assert_eq!(bitmap::next_set(words, to, from), find(true));
                assert_eq!(bitmap::next_zero(words, to, from), find(false));
                assert_eq!(bitmap::last_set(words, from, to), (from..to).rev().find(|bit| bits[*bit as usize]));
                let set = (from..to).filter(|bit| bits[*bit as usize]).count();
                assert_eq!(bitmap::count_set(words, from, to) as usize, set);
                for align in [1, 2, 4, 8] {
                    let first = range.find(|bit| bit % align == 0 && !bits[*bit as usize]).unwrap_or(to);
                    range = from..to;
                    assert_eq!(bitmap::next_aligned_zero(words, to, from, align), first);
                }
            }
        }
    });
}

/// Maximal runs of one value, found by walking.
fn runs(bits: &[bool], from: u32, to: u32, value: bool) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for bit in (from..to).filter(|bit| bits[*bit as usize] == value) {
        match runs.last_mut() {
            Some(last) if last.1 == bit => last.1 = bit + 1,
            _ => runs.push((bit, bit + 1)),
        }
    }
    runs
}

#[test]
fn runs_of_every_map() {
    every_map(|words, bits, place| {
        for (from, to) in [(place, place + BITS), (place + 1, place + BITS - 1), (place, place + 5)] {
            let clear = runs(bits, from, to, false);
            assert_eq!(bitmap::clear_runs(words, from, to).collect::<Vec<_>>(), clear);
            assert_eq!(bitmap::set_runs(words, from, to).collect::<Vec<_>>(), runs(bits, from, to, true));
            let longest = clear.iter().map(|(start, end)| end - start).max().unwrap_or(0);
            assert_eq!(bitmap::longest_clear(words, from, to), longest);
        }
    });
}

#[test]
fn every_range_over_two_borders() {
    let patterns: [fn(usize) -> bool; 3] = [|_| false, |_| true, |bit| bit % 3 == 0];
    for pattern in patterns {
        let bits: Vec<bool> = (0..192).map(pattern).collect();
        for from in 0..=140_u32 {
            for to in from..=140 {
                let expect = |value: &dyn Fn(u32) -> bool| {
                    packed(
                        &(0..192)
                            .map(|bit| if (from..to).contains(&bit) { value(bit) } else { bits[bit as usize] })
                            .collect::<Vec<_>>(),
                    )
                };
                let mut words = packed(&bits);
                bitmap::set_range(&mut words, from, to);
                assert_eq!(words, expect(&|_| true), "{from}..{to}");
                bitmap::clear_range(&mut words, from, to);
                assert_eq!(words, expect(&|_| false), "{from}..{to}");
                if from < to {
                    let mut words = packed(&bits);
                    bitmap::set_bounds(&mut words, from, to);
                    let mut want = bits.clone();
                    (from..=to).for_each(|bit| want[bit as usize] = bit == from || bit == to);
                    assert_eq!(words, packed(&want), "{from}..={to}");
                }
            }
        }
    }
}

#[test]
fn every_short_period() {
    for from in 0..70 {
        for step in 1..=17 {
            for len in 1..=step {
                for count in 0..=6 {
                    let mut words = vec![0; 4];
                    bitmap::set_periodic(&mut words, from, len, step, count);
                    let inside = |bit: u32| bit >= from && (bit - from) / step < count && (bit - from) % step < len;
                    let want: Vec<bool> = (0..256).map(inside).collect();
                    assert_eq!(words, packed(&want), "{count} of {len} bits every {step} from {from}");
                }
            }
        }
    }
}

#[test]
fn windows_at_every_bit() {
    every_map(|words, bits, place| {
        let is_set = |bit: u32| bits.get(bit as usize).is_some_and(|bit| *bit);
        for low in place..place + BITS {
            let window = bitmap::window_from(words, low);
            assert!((0..64).all(|at| (window >> at & 1 == 1) == is_set(low + at)), "the bits from {low} on");
            for high in low..place + BITS {
                let next = (low..high).find(|bit| is_set(*bit)).unwrap_or(high);
                assert_eq!(bitmap::next_set_near(words, high, low), next, "from {low} to {high}");
                let from = (low..high).rev().find(|bit| is_set(*bit)).map_or(low, |bit| bit + 1);
                assert_eq!(bitmap::free_from_near(words, low, high), from, "from {low} to {high}");
            }
        }
    });
}

#[test]
fn areas_with_every_bit_amiss() {
    for (from, step, most) in [(0, 4, 20), (61, 8, 9), (3, 1, 70), (5, 16, 8), (62, 6, 12), (0, 64, 3)] {
        for len in (1..=step.min(16)).chain((step > 16).then_some(step)) {
            let end = from + (most - 1) * step + len;
            let (mut used, mut bound) = (vec![false; 256], vec![false; 256]);
            for start in (0..most).map(|at| from + at * step) {
                (start..start + len).for_each(|bit| used[bit as usize] = true);
                (bound[start as usize], bound[(start + len) as usize]) = (true, true);
            }
            let counted = bitmap::count_areas(&packed(&used), &packed(&bound), from, len, step, most);
            assert_eq!(counted, most, "{most} areas of {len} bits every {step} from {from}");
            for amiss in from + len + 1..=end {
                for map in 0..2 {
                    let mut maps = [used.clone(), bound.clone()];
                    maps[map][amiss as usize] ^= true;
                    let [used, bound] = &maps;
                    let is_area = |at: &u32| {
                        let (start, end) = ((from + at * step) as usize, (from + at * step + len) as usize);
                        used[start] && bound[start] && bound[end] && !bound[start + 1..end].contains(&true)
                    };
                    let real = (0..most).take_while(is_area).count() as u32;
                    let counted = bitmap::count_areas(&packed(used), &packed(bound), from, len, step, most);
                    assert!((real.saturating_sub(1)..=real).contains(&counted) || map == 0 && counted < real);
                    let apart = bitmap::count_apart(&packed(used), from, len, step, most);
                    let gaps = (1..apart).flat_map(|at| from + (at - 1) * step + len..from + at * step);
                    assert!(gaps.into_iter().all(|bit| !used[bit as usize]), "{apart} of {len} bits every {step}");
                }
            }
        }
    }
}

#[test]
fn pairs_of_every_map() {
    for a in 0..1_u64 << 7 {
        for b in 0..1_u64 << 7 {
            for place in [0, 61] {
                let at = |map: u64| [map << place, if place == 0 { 0 } else { map >> (64 - place) }];
                let (a, b) = (at(a), at(b));
                let both = |bit: &u32| a[*bit as usize / 64] & b[*bit as usize / 64] & 1 << (bit % 64) != 0;
                assert_eq!(bitmap::count_both(&a, &b) as usize, (0..128).filter(both).count());
                for high in 0..=70 {
                    assert_eq!(bitmap::last_both(&a, &b, high), (0..high).rev().find(both));
                }
            }
        }
    }
}

/// A map of three blocks of four bits.
fn small(generation: Generation) -> Setup {
    let geometry = Geometry::new(Bytes(16), Bytes(4), Bytes(16), Bytes(48), 1).unwrap();
    Setup::bare(Preset::of_generation(generation), generation.rules().unwrap(), geometry)
}

const GENERATIONS: [Generation; 3] = [Generation::Linux414, Generation::Linux52, Generation::Linux514];

/// Specification 10 section 6.2, step 2, bit by bit.
fn zero_area(map: u32, n: u32, bits: u32, align: u32, start: u32, block: u32) -> Option<u32> {
    let end = (start + bits + block).min(n);
    let clear = |from: u32, to: u32| (from..to).all(|bit| map >> bit & 1 == 0);
    (start..end).find(|at| at % align == 0 && at + bits <= end && clear(*at, at + bits))
}

#[test]
fn zero_areas_of_every_map() {
    let rules = [Rules::LINUX_4_14, Rules::LINUX_5_2, Rules::LINUX_5_14];
    for rules in rules {
        let context = Context { geometry: small(Generation::Linux514).geometry, rules };
        for map in 0..1_u32 << 12 {
            let mut chunk = Chunk::new(&context, 0);
            chunk.mark_populated(&context, 0, 3, false);
            (0..12).filter(|bit| map >> bit & 1 == 1).for_each(|bit| chunk.place(&context, bit, 1));
            assert_eq!(chunk.alloc_map(), [u64::from(map)]);
            for start in 0..12 {
                for bits in 1..=12 {
                    for align in [1, 2, 4] {
                        let mut copy = chunk.clone();
                        let found = copy.alloc_area(&context, bits, align, start, false).map(|off| off.0);
                        assert_eq!(found, zero_area(map, 12, bits, align, start, 4), "{map:b} {bits} {align} {start}");
                        let taken = found.map_or(0, |off| ((1 << bits) - 1) << off);
                        assert_eq!(copy.alloc_map(), [u64::from(map | taken)]);
                    }
                }
            }
        }
    }
}

/// Every map of twelve bits, reached in two ways that leave different hints; then every request, on the engine and on
/// the slow model: place, state and invariants.
#[test]
fn every_request_on_every_map() {
    for generation in GENERATIONS {
        let setup = small(generation);
        for map in 0..1_u32 << 12 {
            for upwards in [false, true] {
                let mut engine = Linux::new(&setup);
                let mut naive = Naive::new(&setup).unwrap();
                let one = Request::new(Bytes(4), Bytes(4));
                for _ in 0..12 {
                    assert_eq!(Engine::alloc(&mut engine, &one), naive.alloc(&one));
                }
                let mut free: Vec<u64> = (0..12).filter(|bit| map >> bit & 1 == 0).collect();
                if !upwards {
                    free.reverse();
                }
                for bit in free {
                    Engine::free(&mut engine, ChunkId(0), Bytes(bit * 4), None).unwrap();
                    naive.free(ChunkId(0), Bytes(bit * 4), None).unwrap();
                }
                for bits in 1..=12 {
                    for align in [1, 2, 4] {
                        let request = Request::new(Bytes(bits * 4), Bytes(align * 4));
                        let (mut engine, mut naive) = (engine.clone(), naive.clone());
                        let (a, b) = (Engine::alloc(&mut engine, &request), naive.alloc(&request));
                        assert_eq!(a, b, "{generation} {map:b} {upwards} {request:?}");
                        assert_eq!(naive.difference(&engine), None, "{generation} {map:b} {upwards} {request:?}");
                        engine.verify().unwrap();
                        if let Outcome::Placed { chunk: ChunkId(0), off } = a {
                            assert_eq!(map >> (off.0 / 4) & ((1 << bits) - 1), 0);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn slots_of_every_size() {
    for size in 1..=1_u64 << 21 {
        let mut highest = 0;
        while size >> highest != 0 {
            highest += 1;
        }
        let slot = if highest - 5 + 2 > 1 { highest - 5 + 2 } else { 1 };
        assert_eq!(i64::from(Geometry::slot_formula(Bytes(size))), slot, "size {size}");
    }
}

/// Specification 30 section 6, as it is written.
fn units_per_alloc(alloc_size: u64, max_upa: u64, counts: &[u64], page: u64) -> u64 {
    let possible: u64 = counts.iter().sum();
    let (mut last_allocs, mut best) = (2_147_483_647, 0);
    let mut upa = max_upa;
    while upa > 0 {
        if alloc_size % upa == 0 && (alloc_size / upa) % page == 0 {
            let (mut allocs, mut wasted) = (0, 0);
            for count in counts {
                let whole = count.div_ceil(upa);
                allocs += whole;
                wasted += whole * upa - count;
            }
            if wasted <= possible / 3 {
                if allocs > last_allocs {
                    break;
                }
                last_allocs = allocs;
                best = upa;
            }
        }
        upa -= 1;
    }
    best
}

#[test]
fn waste_of_every_small_machine() {
    let page = 4096;
    let rules = LayoutRules { early_size: 0, ..Preset::of_generation(Generation::Linux514).layout };
    let topology = Topology::flat(1).unwrap();
    let mut machines: Vec<Vec<u64>> = Vec::new();
    for a in 1..=9 {
        machines.push(vec![a]);
        for b in 1..=9 {
            machines.push(vec![a, b]);
            (1..=6).for_each(|c| machines.push(vec![a, b, c]));
        }
    }
    for pages in 1..=5 {
        for atom in 1..=36 {
            let input = LayoutInput {
                static_size: pages * page - 8,
                reserved_size: 0,
                dyn_size: 0,
                atom_size: atom * page,
                page_size: page,
                min_unit_size: page,
                topology: &topology,
                rules: &rules,
                word: WordSize::Bits64,
            };
            for counts in &machines {
                let plan = input.plan(counts).unwrap();
                let alloc_size = (pages * page).div_ceil(atom * page) * atom * page;
                assert_eq!(plan.alloc_size, alloc_size);
                let best = units_per_alloc(alloc_size, alloc_size / (pages * page), counts, page);
                assert_eq!(plan.upa, best, "{pages} pages a unit, atom of {atom}, {counts:?}");
            }
        }
    }
}
