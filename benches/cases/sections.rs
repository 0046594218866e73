//! The sections of the record, printed as CSV.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use cpu_time::ThreadTime;
use percpu::cost::Counting;
use percpu::engine::{self, Engine, Setup};
use percpu::geometry::Geometry;
use percpu::request::{ChunkId, Outcome, Request};
use percpu::testing::naive::Naive;
use percpu::testing::random::Random;
use percpu::trace::{self, Event};
use percpu::units::Bytes;
use percpu::variant::Preset;

use crate::peers::{Buddy, Offset, Ranges, Rlsf, TalcPlacer};
use crate::placer::{time, Batch, Order};
use crate::{Case, TABLE};

/// Objects a peer places.
const PEER_OBJECTS: usize = 100_000;
/// Longest time of one phase of one peer.
const PEER_LIMIT: Duration = Duration::from_secs(2);

fn row(section: &str, name: &str, case: &str, metric: &str, value: f64, unit: &str) {
    println!("{section},{name},{case},{metric},{value:.3},{unit}");
}

/// Prints the sections that are asked for, or all of them.
pub fn run(wanted: &[String]) {
    const SECTIONS: [(&str, fn()); 5] =
        [("growth", growth), ("chunks", chunks), ("mix", mix), ("trace", traces), ("peers", peers)];
    println!("section,name,case,metric,value,unit");
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|other| other == name) {
            section();
        }
    }
}

/// Live objects of 16/16 freed at random.
fn growth() {
    for release in ["4.13", "4.19", "5.4", "6.12"] {
        for (n, repeat) in [(10_000, 20), (100_000, 5), (1_000_000, 3), (10_000_000, 1)] {
            let make = || Batch::new(release, 16, n, Counting::Off);
            let (alloc, free, _) = time(make, (16, 16, Order::Random), n, repeat, Duration::MAX / 4);
            row("growth", release, &n.to_string(), "alloc", alloc, "ns");
            row("growth", release, &n.to_string(), "free", free, "ns");
        }
    }
}

/// Chunks full of 1024/1024: what one more operation costs with so many of them.
fn chunks() {
    for release in ["4.13", "4.19", "5.4", "6.12"] {
        for nr_chunks in [100, 1000, 10_000] {
            let unit = 32 << 10;
            let n = nr_chunks * (unit as usize / 1024);
            let make = || Batch::with_unit(release, unit, Counting::Off);
            let repeat = if nr_chunks > 1000 { 2 } else { 5 };
            let (alloc, free, _) = time(make, (1024, 1024, Order::Alternate), n, repeat, Duration::MAX / 4);
            row("chunks", release, &nr_chunks.to_string(), "alloc", alloc, "ns");
            row("chunks", release, &nr_chunks.to_string(), "free", free, "ns");
        }
    }
}

/// One operation of a list.
#[derive(Clone, Copy)]
enum Step {
    Alloc {
        size: u32,
        align: u32,
    },
    /// The object that the n-th allocation gave.
    Free(usize),
}

/// Random sizes and alignments about a level of live bytes.
fn mixed_steps(unit: u64, nr_units: u64, percent: u64, n: usize) -> Vec<Step> {
    let mut random = Random::new(percent);
    let full = unit * nr_units * percent / 100;
    let (mut live, mut bytes, mut made) = (Vec::new(), 0, 0);
    let mut steps = Vec::with_capacity(n);
    while steps.len() < n {
        // Below the level always, above it as often as not.
        if bytes < full || live.is_empty() {
            let top = 1 << random.below(9);
            let size = 4 * (1 + random.below(top));
            let align = 4 << random.below(5);
            steps.push(Step::Alloc { size: size as u32, align });
            live.push((made, size));
            (made, bytes) = (made + 1, bytes + size);
        }
        if bytes >= full || random.one_in(4) {
            let (index, size) = live.swap_remove(random.below(live.len() as u64) as usize);
            steps.push(Step::Free(index));
            bytes -= size;
        }
    }
    steps
}

/// Nanoseconds an operation of a list.
fn drive(engine: &mut dyn Engine, steps: &[Step]) -> f64 {
    let mut places: Vec<Option<(ChunkId, Bytes)>> = Vec::with_capacity(steps.len());
    let begin = ThreadTime::now();
    for step in steps {
        match *step {
            Step::Alloc { size, align } => {
                places.push(match engine.alloc(&Request::new(Bytes(size.into()), Bytes(align.into()))) {
                    Outcome::Placed { chunk, off } => Some((chunk, off)),
                    Outcome::Failed(_) => None,
                });
            }
            Step::Free(index) => {
                if let Some((chunk, off)) = places[index] {
                    engine.free(chunk, off, None).expect("it is live");
                }
            }
        }
        if engine.balance_pending() {
            engine.balance();
        }
    }
    begin.elapsed().as_nanos() as f64 / steps.len() as f64
}

/// The engine and the naive model on the same operations, one at a time.
fn against_naive(section: &str, case: &str, unit: u64, steps: &[Step]) {
    for release in ["4.19", "5.4", "6.12"] {
        let preset = Preset::by_release(release).expect("a known release");
        let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit), 1).expect("kernel sizes");
        let rules = preset.generation.rules().expect("a Linux generation");
        let setup = Setup::bare(preset, rules, geometry);
        let fast = (0..5).map(|_| {
            let mut engine = engine::new(preset.generation, &setup).expect("a legal set-up");
            if let Some(meter) = engine.meter_mut() {
                meter.set_counting(Counting::Off);
            }
            drive(&mut *engine, steps)
        });
        let fast = fast.fold(f64::INFINITY, f64::min);
        let slow = drive(&mut Naive::new(&setup).expect("rules of a generation"), steps);
        row(section, release, case, "engine", fast, "ns");
        row(section, release, case, "naive", slow, "ns");
    }
}

fn mix() {
    let unit = 64 << 10;
    for percent in [50, 90] {
        against_naive("mix", &percent.to_string(), unit, &mixed_steps(unit, 4, percent, 20_000));
    }
}

/// The requests and frees of the packaged recordings, on an empty allocator.
fn traces() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/percpu/data/demo");
    for name in ["boot", "workload"] {
        let bytes = std::fs::read(root.join(name).join("trace.txt.gz")).expect("a packaged recording");
        let trace = trace::read_trace(&bytes).expect("a readable trace");
        let mut live = HashMap::new();
        let (mut steps, mut made) = (Vec::new(), 0);
        for index in 0..trace.len() {
            match trace.event(index) {
                Event::Alloc(alloc) => {
                    steps.push(Step::Alloc { size: alloc.size.0 as u32, align: alloc.align.0.max(4) as u32 });
                    live.insert((alloc.base, alloc.off), made);
                    made += 1;
                }
                Event::Free { base, off, .. } => steps.extend(live.remove(&(base, off)).map(Step::Free)),
                _ => {}
            }
        }
        assert!(steps.len() > 100, "{name} has {} operations", steps.len());
        against_naive("trace", name, 256 << 10, &steps);
    }
}

fn peers() {
    for Case { size, align, order } in &TABLE {
        let (size, align, order) = (*size, *align, *order);
        let case = format!("{size}/{align} {}", order.name());
        let put = |name: &str, (alloc, free, least): (f64, f64, usize)| {
            row("peers", name, &case, "alloc", alloc, "ns");
            row("peers", name, &case, "free", free, "ns");
            row("peers", name, &case, "objects", least as f64, "objects");
        };
        let n = PEER_OBJECTS;
        let what = (size, align, order);
        put("percpu 6.12", time(|| Batch::new("6.12", size, n, Counting::Off), what, n, 5, PEER_LIMIT));
        put("percpu areamap", time(|| Batch::new("4.13", size, n, Counting::Off), what, n, 5, PEER_LIMIT));
        put("offset-allocator", time(|| Offset::new(size, align, n), what, n, 5, PEER_LIMIT));
        put("rlsf", time(|| Rlsf::new(size, align, n), what, n, 5, PEER_LIMIT));
        put("talc", time(|| TalcPlacer::new(size, align, n), what, n, 5, PEER_LIMIT));
        put("buddy_system_allocator", time(|| Buddy::new(size, align, n), what, n, 1, PEER_LIMIT));
        put("range-alloc", time(|| Ranges::new(size, align, n), what, n, 1, PEER_LIMIT));
    }
}
