//! Nanoseconds per allocation and free of each engine: 1M objects, one unit of 256 KiB, worker run
//! when scheduled; the cases of the published comparison.
//!
//! `cargo bench --bench engine [-- OBJECTS]` prints a table; times are wall time of one thread.

use std::time::Instant;

use percpu::engine::linux::Linux;
use percpu::engine::{Engine, Setup};
use percpu::geometry::Geometry;
use percpu::request::{ChunkId, Outcome, Request};
use percpu::units::Bytes;
use percpu::variant::Preset;

/// In which order objects are freed.
#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Alternate,
    Reverse,
    Random,
}

fn order(order: Order, n: usize) -> Vec<usize> {
    match order {
        Order::Ascending => (0..n).collect(),
        Order::Alternate => (0..n).step_by(2).chain((1..n).step_by(2)).collect(),
        Order::Reverse => (0..n).rev().collect(),
        Order::Random => {
            let mut list: Vec<usize> = (0..n).collect();
            let mut x = 0x9e37_79b9_7f4a_7c15_u64;
            for i in (1..n).rev() {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                list.swap(i, (x % (i as u64 + 1)) as usize);
            }
            list
        }
    }
}

fn run(release: &str, size: u64, align: u64, frees: Order, n: usize) -> (f64, f64) {
    let preset = Preset::by_release(release).expect("a known release");
    let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(256 << 10), 1).expect("kernel sizes");
    let rules = preset.generation.rules().expect("a Linux generation");
    let mut engine = Linux::new(&Setup::bare(preset, rules, geometry));
    let request = Request::new(Bytes(size), Bytes(align));
    let mut places: Vec<(ChunkId, Bytes)> = Vec::with_capacity(n);
    let frees = order(frees, n);
    let start = Instant::now();
    for _ in 0..n {
        match engine.alloc(&request) {
            Outcome::Placed { chunk, off } => places.push((chunk, off)),
            Outcome::Failed(reason) => panic!("{reason:?}"),
        }
        if engine.balance_pending() {
            engine.balance();
        }
    }
    let alloc = start.elapsed().as_nanos() as f64 / n as f64;
    let start = Instant::now();
    for index in frees {
        let (chunk, off) = places[index];
        engine.free(chunk, off, None).expect("it is live");
        if engine.balance_pending() {
            engine.balance();
        }
    }
    let free = start.elapsed().as_nanos() as f64 / n as f64;
    (alloc, free)
}

fn main() {
    let n = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let cases = [
        (4, 4, Order::Ascending),
        (16, 16, Order::Ascending),
        (64, 64, Order::Ascending),
        (64, 64, Order::Alternate),
        (64, 64, Order::Reverse),
        (64, 64, Order::Random),
        (256, 256, Order::Alternate),
        (1024, 1024, Order::Ascending),
        (1024, 1024, Order::Alternate),
        (4, 8, Order::Ascending),
    ];
    println!("{n} objects; ns per allocation / free");
    for (size, align, frees) in cases {
        print!("{size:>5}/{align:<5}{:<10}", format!("{frees:?}"));
        for release in ["4.19", "5.4", "6.12"] {
            let (alloc, free) = run(release, size, align, frees, n);
            print!("  {release}: {alloc:>7.1} / {free:<7.1}");
        }
        println!();
    }
}
