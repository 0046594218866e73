//! What is measured: something that places objects and takes them back.

use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use percpu::allocator::{Allocator, Balance};
use percpu::cost::{Costs, Counting};
use percpu::geometry::Geometry;
use percpu::request::Request;
use percpu::testing::random::Random;
use percpu::units::Bytes;
use percpu::variant::Preset;

/// In which order objects are freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As they were allocated.
    Ascending,
    /// The even ones, then the odd ones.
    Alternate,
    /// Backwards.
    Reverse,
    /// Shuffled.
    Random,
}

impl Order {
    const ALL: [Order; 4] = [Order::Ascending, Order::Alternate, Order::Reverse, Order::Random];

    /// A name for columns.
    pub fn name(self) -> &'static str {
        match self {
            Order::Ascending => "in-order",
            Order::Alternate => "alternate",
            Order::Reverse => "reverse",
            Order::Random => "random",
        }
    }

    /// The order of that name.
    pub fn by_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|order| order.name() == name).expect("in-order, alternate, reverse or random")
    }

    /// The indices of `n` objects.
    pub fn of(self, n: usize) -> Vec<usize> {
        match self {
            Order::Ascending => (0..n).collect(),
            Order::Alternate => (0..n).step_by(2).chain((1..n).step_by(2)).collect(),
            Order::Reverse => (0..n).rev().collect(),
            Order::Random => {
                let mut list: Vec<usize> = (0..n).collect();
                let mut random = Random::new(1);
                for i in (1..n).rev() {
                    list.swap(i, random.below(i as u64 + 1) as usize);
                }
                list
            }
        }
    }
}

/// Places objects.
pub trait Placer {
    /// Places `n` objects and appends their handles; how many could be placed before `until`.
    fn place(&mut self, size: u32, align: u32, n: usize, until: Instant, places: &mut Vec<u64>) -> usize;

    /// Takes objects back; how many before `until`.
    fn take_back(&mut self, size: u32, align: u32, handles: &[u64], until: Instant) -> usize;
}

/// Long enough for every case that is not meant to be cut off.
pub fn never() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// What callgrind counts for allocations.
#[inline(never)]
pub fn measured_alloc(placer: &mut impl Placer, size: u32, align: u32, n: usize, places: &mut Vec<u64>) -> usize {
    placer.place(size, align, n, never(), places)
}

/// What callgrind counts for frees.
#[inline(never)]
pub fn measured_free(placer: &mut impl Placer, size: u32, align: u32, handles: &[u64]) -> usize {
    placer.take_back(size, align, handles, never())
}

/// An allocator of this crate through its batch calls.
pub struct Batch {
    allocator: Allocator,
}

impl Batch {
    /// An empty one with one unit of 256 KiB, or for the proposal of 2008 with room for everything.
    pub fn new(release: &str, size: u32, n: usize, counting: Counting) -> Self {
        let unit = match release {
            "2008" => (u64::from(size.max(8)) * n as u64).next_multiple_of(4096),
            _ => 256 << 10,
        };
        Self::with_unit(release, unit, counting)
    }

    /// The same with a unit size.
    pub fn with_unit(release: &str, unit: u64, counting: Counting) -> Self {
        let preset = Preset::by_release(release).expect("a known release");
        let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(unit), 1).expect("kernel sizes");
        let mut allocator = Allocator::bare(preset, geometry, Balance::Eager).expect("a legal set-up");
        if let Some(meter) = allocator.engine_mut().meter_mut() {
            meter.set_counting(counting);
        }
        Self { allocator }
    }

    /// What was counted.
    pub fn costs(&self) -> Option<Costs> {
        self.allocator.engine().costs()
    }
}

impl Placer for Batch {
    fn place(&mut self, size: u32, align: u32, n: usize, _: Instant, places: &mut Vec<u64>) -> usize {
        let request = Request::new(Bytes(size.into()), Bytes(align.into()));
        let requests = std::iter::repeat_n(request, n);
        let placed = self.allocator.alloc_many(requests, &mut || true).expect("nobody interrupts");
        places.extend(placed.iter().map(|placement| placement.ptr).filter(|ptr| *ptr != 0));
        places.len()
    }

    fn take_back(&mut self, size: u32, _: u32, handles: &[u64], _: Instant) -> usize {
        self.allocator.free_many(handles, Some(&[size.into()]), &mut || true).expect("they are live");
        handles.len()
    }
}

/// Nanoseconds of the thread for an allocation and a free, best of `repeat` runs, and the objects of the slowest
/// of them. What else runs on the machine takes no time of the thread, though it takes its cache.
pub fn time<P: Placer>(
    make: impl Fn() -> P,
    (size, align, order): (u32, u32, Order),
    n: usize,
    repeat: usize,
    limit: Duration,
) -> (f64, f64, usize) {
    let order = order.of(n);
    let (mut alloc_ns, mut free_ns, mut least) = (f64::INFINITY, f64::INFINITY, n);
    for _ in 0..repeat {
        let mut placer = make();
        let mut places = Vec::with_capacity(n);
        let begin = ThreadTime::now();
        let placed = placer.place(size, align, n, Instant::now() + limit, &mut places);
        alloc_ns = alloc_ns.min(begin.elapsed().as_nanos() as f64 / placed.max(1) as f64);
        let handles: Vec<u64> = order.iter().filter_map(|index| places.get(*index)).copied().collect();
        let begin = ThreadTime::now();
        let freed = placer.take_back(size, align, &handles, Instant::now() + limit);
        free_ns = free_ns.min(begin.elapsed().as_nanos() as f64 / freed.max(1) as f64);
        least = least.min(placed).min(freed);
    }
    (alloc_ns, free_ns, least)
}
