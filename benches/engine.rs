//! Nanoseconds per allocation and free of the Linux engines: 1M objects, one unit of 256 KiB, worker
//! run when scheduled; the cases of the published comparison.
//!
//! `cargo bench --bench engine [-- [OBJECTS] [single] [CASE] [RELEASE]]` prints a table. Batches by
//! default, `single`: one call an object. CASE is like `64/64-random`, RELEASE like `6.12`. Times are wall
//! time of one thread, best of three. For instruction counts run it below callgrind with
//! `--toggle-collect='*alloc_phase*'` or `'*free_phase*'`.

use std::hint::black_box;
use std::time::Instant;

use percpu::allocator::{Allocator, Balance};
use percpu::geometry::Geometry;
use percpu::request::Request;
use percpu::units::Bytes;
use percpu::variant::Preset;

/// Size, alignment, and the order in which objects are freed.
const CASES: [(u64, u64, &str); 12] = [
    (4, 4, "in-order"),
    (16, 16, "in-order"),
    (64, 64, "in-order"),
    (64, 64, "alternate"),
    (64, 64, "reverse"),
    (64, 64, "random"),
    (256, 256, "alternate"),
    (1024, 1024, "in-order"),
    (1024, 1024, "alternate"),
    (1024, 1024, "random"),
    (4, 8, "in-order"),
    (16, 16, "random"),
];

const RELEASES: [&str; 3] = ["4.19", "5.4", "6.12"];

fn order(name: &str, n: usize) -> Vec<usize> {
    match name {
        "in-order" => (0..n).collect(),
        "alternate" => (0..n).step_by(2).chain((1..n).step_by(2)).collect(),
        "reverse" => (0..n).rev().collect(),
        _ => {
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

#[inline(never)]
fn alloc_phase(a: &mut Allocator, request: Request, n: usize, single: bool) -> Vec<u64> {
    if single {
        return (0..n).map(|_| a.alloc(&request).ptr).collect();
    }
    let placed = a.alloc_many(std::iter::repeat_n(request, n), &mut || true);
    placed.expect("not interrupted").iter().map(|placement| placement.ptr).collect()
}

#[inline(never)]
fn free_phase(a: &mut Allocator, ptrs: &[u64], single: bool) {
    if single {
        ptrs.iter().for_each(|ptr| a.free(*ptr, None).expect("it is live"));
    } else {
        a.free_many(ptrs, None, &mut || true).expect("they are live");
    }
}

fn run(release: &str, size: u64, align: u64, frees: &[usize], single: bool) -> (f64, f64) {
    let preset = Preset::by_release(release).expect("a known release");
    let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(256 << 10), 1).expect("kernel sizes");
    let mut a = Allocator::bare(preset, geometry, Balance::Eager).expect("kernel sizes");
    let n = frees.len();
    let start = Instant::now();
    let ptrs = alloc_phase(&mut a, Request::new(Bytes(size), Bytes(align)), n, single);
    let alloc = start.elapsed().as_nanos() as f64 / n as f64;
    let ptrs: Vec<u64> = frees.iter().map(|index| ptrs[*index]).collect();
    let start = Instant::now();
    free_phase(&mut a, &ptrs, single);
    let free = start.elapsed().as_nanos() as f64 / n as f64;
    black_box(&a);
    (alloc, free)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let n = args.iter().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(1_000_000);
    let single = args.iter().any(|arg| arg == "single");
    let wanted: Vec<&String> = args.iter().filter(|arg| arg.contains('/')).collect();
    let releases: Vec<&str> = RELEASES.into_iter().filter(|release| args.iter().any(|arg| arg == release)).collect();
    let releases = if releases.is_empty() { RELEASES.to_vec() } else { releases };
    let repeat = if wanted.is_empty() { 3 } else { 1 };
    println!("{n} objects, {}; ns per allocation / free", if single { "one call each" } else { "batches" });
    for (size, align, frees) in CASES {
        let name = format!("{size}/{align}-{frees}");
        if !wanted.is_empty() && !wanted.contains(&&name) {
            continue;
        }
        print!("{name:<22}");
        let list = order(frees, n);
        for release in &releases {
            let runs: Vec<_> = (0..repeat).map(|_| run(release, size, align, &list, single)).collect();
            let best = |phase: fn(&(f64, f64)) -> f64| runs.iter().map(phase).fold(f64::INFINITY, f64::min);
            print!("  {release}: {:>7.1} / {:<7.1}", best(|run| run.0), best(|run| run.1));
        }
        println!();
    }
}
