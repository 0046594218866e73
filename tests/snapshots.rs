//! Snapshots of every engine: restored allocators are equal and go on equally; damaged bytes are refused.
#![cfg(feature = "testing")]

use percpu::allocator::{Allocator, Balance, NULL};
use percpu::backend::Supply;
use percpu::engine::saved::bulk::{seal, with_head, Reader};
use percpu::geometry::Geometry;
use percpu::layout::vm_areas::Search;
use percpu::layout::{FirstChunkRequest, Topology, VmallocSpace};
use percpu::request::{Request, Sleep};
use percpu::testing::random::Random;
use percpu::units::Bytes;
use percpu::variant::{Generation, Preset};
use serde_json::{json, Value};

/// Where chunks come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    /// No first chunk.
    Bare,
    /// On a first chunk, one after the other.
    Machine,
    /// On a first chunk, in the kernel's address space.
    Vmalloc,
}

fn machine(generation: Generation, home: Home, balance: Balance) -> Allocator {
    let preset = Preset::of_generation(generation);
    if home != Home::Bare {
        let topology = Topology::from_nodes(&[2, 1]).unwrap();
        let mut request = FirstChunkRequest::new(topology, preset.layout, 98_392);
        request.reserved_size = 8192;
        let chunk = request.build().unwrap();
        return if home == Home::Machine {
            Allocator::with_layout(preset, &chunk, balance).unwrap()
        } else {
            Allocator::with_vmalloc(preset, &chunk, balance, VmallocSpace::x86_64(Search::FreeBlocks)).unwrap()
        };
    }
    let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
    Allocator::bare(preset, g, balance).unwrap()
}

/// Random operations; what is live, as pointer and size, goes along.
fn operate(a: &mut Allocator, random: &mut Random, live: &mut Vec<(u64, u64)>, steps: usize) {
    for _ in 0..steps {
        match random.below(20) {
            0 => a.run_balance(),
            1 => {
                let pages = random.below(30);
                let supply = if random.one_in(2) { Supply::of(pages) } else { Supply::ENDLESS };
                a.engine_mut().backend_mut().page_supply = supply;
            }
            2..=11 => {
                let top = 1 << random.below(15);
                let request = Request {
                    sleep: if random.one_in(4) { Sleep::Never } else { Sleep::Full },
                    reserved: random.one_in(8),
                    ..Request::new(Bytes(1 + random.below(top)), Bytes(1 << random.below(9)))
                };
                let placed = a.alloc(&request);
                if placed.ptr != NULL {
                    live.push((placed.ptr, request.size.0));
                }
            }
            _ if live.is_empty() => {}
            _ => {
                let (ptr, size) = live.swap_remove(random.below(live.len() as u64) as usize);
                a.free(ptr, Some(Bytes(size))).unwrap();
            }
        }
    }
}

fn text(a: &Allocator) -> String {
    format!("{:?}", a.engine())
}

fn every_machine() -> impl Iterator<Item = (String, Allocator)> {
    let policies = [Balance::Eager, Balance::Manual, Balance::Every(3)];
    let homes = [Home::Bare, Home::Machine, Home::Vmalloc];
    let cases = Generation::ALL.into_iter().flat_map(move |generation| homes.map(|home| (generation, home)));
    // Each home meets each policy.
    cases.enumerate().map(move |(n, (generation, home))| {
        let policy = policies[(n + n / 3) % 3];
        (format!("{generation}, {home:?}, {policy:?}"), machine(generation, home, policy))
    })
}

#[test]
fn a_restored_allocator_is_equal_and_goes_on_equally() {
    for (name, fresh) in every_machine() {
        for seed in 0..6 {
            let (mut a, mut random, mut live) = (fresh.clone(), Random::new(seed), Vec::new());
            operate(&mut a, &mut random, &mut live, 150 * seed as usize);
            let bytes = a.snapshot().unwrap();
            let mut b = Allocator::from_snapshot(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(b.snapshot().unwrap(), bytes, "{name}");
            assert_eq!(text(&b), text(&a), "{name}");
            assert_eq!((b.stats(), b.address()), (a.stats(), a.address()), "{name}");
            let (mut other_random, mut other_live) = (random.clone(), live.clone());
            operate(&mut a, &mut random, &mut live, 1000);
            operate(&mut b, &mut other_random, &mut other_live, 1000);
            assert_eq!(live, other_live, "{name}");
            assert_eq!(text(&b), text(&a), "{name}");
            b.engine().verify().unwrap();
        }
    }
}

/// Every place in a JSON value, by pointer.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            out.push(format!("{at}/{key}"));
            places(value, &format!("{at}/{key}"), out);
        }),
        // Of a long list the first, the middle and the last.
        Value::Array(list) => {
            let mut some = vec![0, list.len() / 2, list.len().saturating_sub(1)];
            some.dedup();
            some.iter().filter_map(|i| Some((i, list.get(*i)?))).for_each(|(i, value)| {
                out.push(format!("{at}/{i}"));
                places(value, &format!("{at}/{i}"), out);
            });
        }
        _ => {}
    }
}

#[test]
fn damage_at_every_key_is_refused() {
    let wrong = [json!([1, {"a": -3}]), json!({}), json!("x"), json!(1.5)];
    let subtle = [
        json!(null),
        json!(-7),
        json!(0),
        json!(1),
        json!(5),
        json!(true),
        json!(u64::MAX),
        json!(1u64 << 31),
        json!([]),
    ];
    for (name, mut a) in every_machine() {
        let (mut random, mut live) = (Random::new(11), Vec::new());
        operate(&mut a, &mut random, &mut live, 300);
        let bytes = a.snapshot().unwrap();
        let (whole, _) = Reader::open(&bytes).unwrap();
        let mut all = Vec::new();
        places(&whole, "", &mut all);
        // A state file has keys that the model has no use for.
        for place in all.iter().filter(|place| !place.starts_with("/state/")) {
            let damaged = |value: &Value| {
                let mut damaged = whole.clone();
                *damaged.pointer_mut(place).unwrap() = value.clone();
                Allocator::from_snapshot(&with_head(&bytes, &damaged))
            };
            for value in &wrong {
                assert!(damaged(value).is_err(), "{name}: {place} = {value}");
            }
            for value in &subtle {
                // What is accepted must work.
                let Ok(mut b) = damaged(value) else { continue };
                b.engine().verify().unwrap();
                b.stats();
                operate(&mut b, &mut Random::new(5), &mut Vec::new(), 60);
            }
            let (parent, key) = place.rsplit_once('/').unwrap();
            let mut missing = whole.clone();
            if let Some(Value::Object(map)) = missing.pointer_mut(parent) {
                map.remove(key);
                let missing = with_head(&bytes, &missing);
                assert!(Allocator::from_snapshot(&missing).is_err(), "{name}: no {place}");
            }
        }
    }
}

/// Words of the sections changed, and the checksums made right: what is accepted must work.
#[test]
fn damaged_words_are_refused_or_do_no_harm() {
    for (name, mut a) in every_machine() {
        let (mut random, mut live) = (Random::new(3), Vec::new());
        operate(&mut a, &mut random, &mut live, 200);
        let bytes = a.snapshot().unwrap();
        let head = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
        let mut refused = 0;
        for round in 0..400 {
            let mut damaged = bytes.clone();
            // The beginnings of sections have most of what is not a map.
            let word = if round % 2 == 0 { 4 + random.below(24) } else { 4 + random.below(head as u64 / 8 - 4) };
            let at = word as usize * 8;
            let old = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let new = match random.below(6) {
                0 => 0,
                1 => u64::MAX,
                2 => old.wrapping_add(1),
                3 => old.wrapping_sub(1),
                4 => old ^ 1 << random.below(64),
                _ => random.below(1 << 33),
            };
            damaged[at..at + 8].copy_from_slice(&new.to_le_bytes());
            assert!(
                new == old || Allocator::from_snapshot(&damaged).is_err(),
                "{name}: word {word} = {new:#x}, unsealed"
            );
            seal(&mut damaged);
            let Ok(mut b) = Allocator::from_snapshot(&damaged) else {
                refused += 1;
                continue;
            };
            // Hints of a state are taken as they are, and judged by `verify` alone.
            if b.engine().as_linux().is_none() {
                b.engine().verify().unwrap_or_else(|error| panic!("{name}: word {word} = {new:#x}: {error}"));
            }
            let again = b.snapshot().unwrap();
            assert_eq!(Allocator::from_snapshot(&again).unwrap().snapshot().unwrap(), again, "{name}");
            b.stats();
            if b.engine().verify().is_ok() {
                operate(&mut b, &mut Random::new(5), &mut Vec::new(), 20);
            }
        }
        assert!(refused > 100, "{name}: {refused}");
    }
}

#[test]
fn cut_and_foreign_bytes_are_refused() {
    for (name, mut a) in every_machine() {
        operate(&mut a, &mut Random::new(2), &mut Vec::new(), 100);
        let bytes = a.snapshot().unwrap();
        for len in [0, 1, bytes.len() / 3, bytes.len() - 1] {
            assert!(Allocator::from_snapshot(&bytes[..len]).is_err(), "{name}");
        }
        // The engine of one generation is none of another.
        for generation in Generation::ALL.into_iter().filter(|other| *other != a.engine().generation()) {
            let (mut whole, _) = Reader::open(&bytes).unwrap();
            whole["kernel"] = json!(Preset::of_generation(generation).release);
            let linux = |generation: Generation| generation.rules().is_some();
            if linux(generation) && linux(a.engine().generation()) {
                continue;
            }
            assert!(Allocator::from_snapshot(&with_head(&bytes, &whole)).is_err(), "{name} as {generation}");
        }
    }
}
