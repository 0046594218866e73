//! Every measured case but those of Python: engines, growth, mixes, recorded requests, peers.
//!
//! ```text
//! cargo bench --bench cases --features testing -- time [SECTION...]           CSV on standard output
//! cargo bench --bench cases --features testing -- list                       the cases of `one`
//! cargo bench --bench cases --features testing -- one NAME SIZE/ALIGN ORDER N COUNTING   for callgrind
//! ```
//!
//! Sections: `growth`, `chunks`, `mix`, `trace`, `peers`. `benches/bench.py` runs them and keeps the record;
//! `benches/instructions.py` runs `one` under callgrind, where [`placer::measured_alloc`] and
//! [`placer::measured_free`] are what is counted.

mod peers;
mod placer;
mod sections;

use std::time::Duration;

use cpu_time::ThreadTime;
use percpu::cost::Counting;
use placer::{measured_alloc, measured_free, Batch, Order};

/// A case of the published table.
pub struct Case {
    /// Bytes.
    pub size: u32,
    /// Bytes.
    pub align: u32,
    /// Order of the frees.
    pub order: Order,
}

/// The cases of the published table.
pub const TABLE: [Case; 9] = [
    Case { size: 4, align: 4, order: Order::Ascending },
    Case { size: 16, align: 16, order: Order::Ascending },
    Case { size: 64, align: 64, order: Order::Ascending },
    Case { size: 64, align: 64, order: Order::Alternate },
    Case { size: 64, align: 64, order: Order::Random },
    Case { size: 256, align: 256, order: Order::Alternate },
    Case { size: 1024, align: 1024, order: Order::Ascending },
    Case { size: 1024, align: 1024, order: Order::Alternate },
    Case { size: 4, align: 8, order: Order::Ascending },
];

/// Presets that are measured, by release; one for each engine.
pub const PRESETS: [&str; 6] = ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.12"];

fn counting(name: &str) -> Counting {
    match name {
        "off" => Counting::Off,
        "totals" => Counting::Totals,
        "full" => Counting::Full,
        _ => panic!("counting is off, totals or full, not {name}"),
    }
}

fn one(arguments: &[String]) {
    let [name, case, order, n, how] = arguments else { panic!("one NAME SIZE/ALIGN ORDER N COUNTING") };
    let (size, align) = case.split_once('/').expect("SIZE/ALIGN");
    let (size, align) = (size.parse().expect("a size"), align.parse().expect("an alignment"));
    let n: usize = n.parse().expect("a number of objects");
    let mut placer = Batch::new(name, size, n, counting(how));
    let order = Order::by_name(order).of(n);
    let mut places = Vec::with_capacity(n);
    let begin = ThreadTime::now();
    let placed = measured_alloc(&mut placer, size, align, n, &mut places);
    let alloc = begin.elapsed();
    assert_eq!(placed, n, "not everything was placed");
    let handles: Vec<u64> = order.iter().map(|index| places[*index]).collect();
    let begin = ThreadTime::now();
    measured_free(&mut placer, size, align, &handles);
    let each = |time: Duration| time.as_nanos() as f64 / n as f64;
    println!("alloc {:.1} ns, free {:.1} ns, {:?}", each(alloc), each(begin.elapsed()), placer.costs());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("list") => {
            for preset in PRESETS {
                for Case { size, align, order } in &TABLE {
                    println!("{preset} {size}/{align} {}", order.name());
                }
            }
        }
        Some("one") => one(&arguments[1..]),
        Some("time") => sections::run(&arguments[1..]),
        _ => sections::run(&[]),
    }
}
