//! A batch leaves exactly what single calls leave: answers, every hint, list order, counters, the worker's turns; and costs as much.
#![cfg(feature = "testing")]

use std::collections::HashSet;

use percpu::allocator::{Allocator, Balance, BatchError};
use percpu::backend::Supply;
use percpu::engine::linux::Linux;
use percpu::engine::Setup;
use percpu::geometry::Geometry;
use percpu::request::{Request, Sleep};
use percpu::testing::differential::{random_setup, GENERATIONS};
use percpu::testing::random::Random;
use percpu::units::Bytes;
use percpu::variant::Preset;
use rayon::prelude::*;

/// One that does batches and one that does single calls.
struct Pair {
    batch: Allocator,
    single: Allocator,
    live: Vec<u64>,
}

impl Pair {
    fn random(random: &mut Random) -> Self {
        let generation = GENERATIONS[random.below(3) as usize];
        let preset = Preset::of_generation(generation);
        let balance = match random.below(4) {
            0 => Balance::Manual,
            1 => Balance::Every(2 + random.below(50) as u32),
            _ => Balance::Eager,
        };
        let mut setup = random_setup(random, generation, true);
        if random.one_in(2) {
            // The sizes of most machines, in small chunks.
            let unit = Bytes(4096 * (1 + random.below(16)));
            let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), unit, 1).unwrap();
            setup = Setup::bare(preset, setup.rules, geometry);
        }
        let mut batch = Allocator::bare(preset, setup.geometry, balance).unwrap();
        batch.set_engine(Box::new(Linux::new(&setup)));
        Pair { single: batch.clone(), batch, live: Vec::new() }
    }

    fn alloc(&mut self, requests: &[Request]) {
        let placed = self.batch.alloc_many(requests.iter().copied(), &mut || true).unwrap();
        for (request, placed) in requests.iter().zip(&placed) {
            let single = self.single.alloc(request);
            assert_eq!(*placed, single, "{request:?}");
            if single.ptr != 0 {
                self.live.push(single.ptr);
            }
        }
        self.compare(&format!("{} requests, first {:?}", requests.len(), requests.first()));
    }

    fn free(&mut self, ptrs: &[u64]) {
        self.batch.free_many(ptrs, None, &mut || true).unwrap();
        ptrs.iter().for_each(|ptr| self.single.free(*ptr, None).unwrap());
        self.compare(&format!("{} frees", ptrs.len()));
    }

    fn compare(&self, what: &str) {
        let (batch, single) = (format!("{:?}", self.batch), format!("{:?}", self.single));
        if batch != single {
            let same = batch.bytes().zip(single.bytes()).take_while(|(a, b)| a == b).count();
            let around = same.saturating_sub(300)..(same + 120).min(batch.len()).min(single.len());
            panic!("{what}:\nbatch  {}\nsingle {}", &batch[around.clone()], &single[around]);
        }
        assert_eq!(self.batch.costs(), self.single.costs(), "{what}");
        self.batch.engine().verify().unwrap();
    }
}

/// Up to 2 to the power of `top`, small ones as often as large ones.
fn by_powers(random: &mut Random, top: u64) -> u64 {
    let power = random.below(top);
    1 + random.below(1 << power)
}

/// Equal requests in a row, most of them small, so that runs are long.
fn random_requests(random: &mut Random, g: &Geometry) -> Vec<Request> {
    let m = g.min_alloc_size().0;
    let mut requests = Vec::new();
    for _ in 0..1 + random.below(4) {
        let bits = by_powers(random, 9);
        let size = (bits * m).min(g.max_request().0);
        let align = (m << random.below(8)).min(g.page_size().0);
        let align = if random.one_in(3) { size.next_power_of_two().min(g.page_size().0) } else { align };
        let mut request = Request::new(Bytes(size), Bytes(align));
        request.sleep = if random.one_in(5) { Sleep::Never } else { Sleep::Full };
        request.reserved = random.one_in(10);
        requests.extend(std::iter::repeat_n(request, by_powers(random, 9) as usize));
    }
    requests
}

/// A part of what is live, in an order that batches really have.
fn random_frees(random: &mut Random, live: &mut Vec<u64>) -> Vec<u64> {
    live.sort_unstable();
    let from = random.below(live.len() as u64 + 1) as usize;
    let len = random.below((live.len() - from) as u64 + 1) as usize;
    let mut frees: Vec<u64> = match random.below(4) {
        0 => {
            let step = 2 + random.below(3) as usize;
            live[from..from + len].iter().copied().step_by(step).collect()
        }
        _ => live[from..from + len].to_vec(),
    };
    match random.below(4) {
        0 => frees.reverse(),
        1 => {
            for i in (1..frees.len()).rev() {
                frees.swap(i, random.below(i as u64 + 1) as usize);
            }
        }
        _ => {}
    }
    let freed: HashSet<u64> = frees.iter().copied().collect();
    live.retain(|ptr| !freed.contains(ptr));
    frees
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut pair = Pair::random(&mut random);
    let geometry = *pair.batch.engine().geometry();
    for _ in 0..30 {
        if random.one_in(12) {
            let mut some = |n| if random.one_in(2) { Supply::ENDLESS } else { Supply::of(random.below(n)) };
            let (pages, maps, chunks) = (some(40), some(40), some(3));
            for a in [&mut pair.batch, &mut pair.single] {
                let backend = a.engine_mut().backend_mut();
                (backend.page_supply, backend.map_supply, backend.chunk_supply) = (pages, maps, chunks);
            }
        }
        if random.one_in(12) {
            pair.batch.run_balance();
            pair.single.run_balance();
        }
        if pair.live.len() < 6000 && random.below(5) < 3 {
            let requests = random_requests(&mut random, &geometry);
            pair.alloc(&requests);
        } else {
            let frees = random_frees(&mut random, &mut pair.live);
            pair.free(&frees);
        }
    }
}

/// Runs a test with a seed, which is said where it fails.
fn with_seed(test: fn(u64), seed: u64) {
    if let Err(panic) = std::panic::catch_unwind(|| test(seed)) {
        eprintln!("seed {seed}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn batches_equal_single_calls() {
    let cases: u64 = std::env::var("BATCH_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let seed = |case: u64| case.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    (0..cases).into_par_iter().for_each(|case| with_seed(run, seed(case)));
}

/// Equal areas that fill blocks, freed in ascending order from the first of a chunk, or from the first behind a few that stay or are
/// freed before; now and then a stretch in one chunk, then one in another.
fn run_in_order(seed: u64) {
    let mut random = Random::new(seed);
    let mut pair = Pair::random(&mut random);
    let g = *pair.batch.engine().geometry();
    for _ in 0..6 {
        let per_block = 1 << random.below(7);
        let size = Bytes((g.block_size().0 / per_block).max(g.min_alloc_size().0));
        let count = 1 + random.below(4 * g.unit_size().0 / size.0).min(3000) as usize;
        pair.alloc(&vec![Request::new(size, Bytes(size.0.min(g.page_size().0))); count]);
        pair.live.sort_unstable();
        if random.one_in(3) {
            for _ in 0..1 + random.below(3) {
                if !pair.live.is_empty() {
                    let at = random.below(pair.live.len() as u64) as usize;
                    let ptr = pair.live.remove(at);
                    pair.free(&[ptr]);
                }
            }
        }
        let kept = if random.one_in(3) { random.below(pair.live.len() as u64 + 1) as usize } else { 0 };
        let left = pair.live.split_off(kept);
        let turns = if random.one_in(2) { g.unit_size().0 } else { u64::MAX };
        let mut chunks: Vec<Vec<u64>> = left.chunk_by(|a, b| a / turns == b / turns).map(<[u64]>::to_vec).collect();
        while !chunks.is_empty() {
            let at = random.below(chunks.len() as u64) as usize;
            let left = &mut chunks[at];
            let part = if random.one_in(4) { left.len() } else { by_powers(&mut random, 10) as usize };
            let rest = left.split_off(part.min(left.len()));
            pair.free(&std::mem::replace(left, rest));
            chunks.retain(|left| !left.is_empty());
            if random.one_in(4) {
                pair.batch.run_balance();
                pair.single.run_balance();
            }
        }
    }
}

#[test]
fn frees_in_order_equal_single_calls() {
    (1..=200).into_par_iter().for_each(|seed| with_seed(run_in_order, seed));
}

/// Orders of which some are few ascending runs, with one area twice somewhere.
fn run_with_one_twice(seed: u64) {
    let mut random = Random::new(seed);
    let mut pair = Pair::random(&mut random);
    let geometry = *pair.batch.engine().geometry();
    for _ in 0..3 {
        pair.alloc(&random_requests(&mut random, &geometry));
    }
    for _ in 0..20 {
        pair.live.sort_unstable();
        let every = |n: usize| pair.live.iter().copied().step_by(n);
        let mut frees: Vec<u64> = match random.below(4) {
            0 => random_frees(&mut random, &mut pair.live.clone()),
            1 => every(2).skip(random.below(9) as usize).chain(every(3)).collect(),
            _ => {
                let runs = 1 + random.below(5) as usize;
                let some = random.below(pair.live.len() as u64 + 1) as usize;
                (0..runs).flat_map(|run| pair.live.iter().skip(run).step_by(runs)).copied().take(some).collect()
            }
        };
        let mut seen = HashSet::new();
        if !frees.is_empty() && frees.iter().all(|ptr| seen.insert(*ptr)) {
            let twice = frees[random.below(frees.len() as u64) as usize];
            frees.insert(random.below(frees.len() as u64 + 1) as usize, twice);
        }
        seen.clear();
        let Some(second) = frees.iter().position(|ptr| !seen.insert(*ptr)) else { continue };
        match pair.batch.free_many(&frees, None, &mut || true) {
            Err(BatchError::Element(index, error)) => {
                assert_eq!(index, second, "{frees:x?}");
                assert!(error.to_string().contains("twice"), "{error}");
            }
            other => panic!("{other:?} for {frees:x?}, of which {second} is there twice"),
        }
        pair.compare("a batch that was refused");
    }
}

#[test]
fn an_area_twice_is_refused_in_any_order() {
    (1..=100).into_par_iter().for_each(|seed| with_seed(run_with_one_twice, seed));
}
