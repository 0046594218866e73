//! Other allocators, as published, placing the same sizes.
//!
//! Two place in a space of numbers as this crate does (`offset-allocator`, `range-alloc`); three manage memory and keep
//! their records in it (`rlsf`, `talc`, `buddy_system_allocator`), so that they get some. None of them reproduces
//! anything: they may place where they like, keep no hints, no lists in an order, no page counts.
//!
//! A call that does not come back soon is not repeated for ever: every [`Placer`] stops at its deadline.

// The interfaces of three peers are unsafe; what they promise is kept: they own their memory until they are dropped.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Instant;

use offset_allocator::Allocation;
use talc::base::Talc;
use talc::source::Manual;
use talc::DefaultBinning;

use crate::placer::Placer;

/// Operations between two looks at the clock.
const LOOK_EVERY: usize = 64;

fn each(n: usize, until: Instant, mut operate: impl FnMut(usize) -> bool) -> usize {
    for index in 0..n {
        if (index % LOOK_EVERY == 0 && Instant::now() > until) || !operate(index) {
            return index;
        }
    }
    n
}

/// Memory for `n` objects with room for headers and alignment. It was written to, so that it is there.
fn pool(size: u32, align: u32, n: usize) -> Box<[MaybeUninit<u8>]> {
    let each = size.max(align) as usize + 64 + if align > 32 { align as usize } else { 0 };
    vec![MaybeUninit::new(1); each * n + (1 << 20)].into()
}

fn layout(size: u32, align: u32) -> Layout {
    Layout::from_size_align(size as usize, align as usize).expect("a power of two")
}

/// Sebastian Aaltonen's allocator in Rust. Bins by size, no alignment: sizes are multiples of their alignment here, but for 4/8,
/// which asks for 8.
pub struct Offset {
    inner: offset_allocator::Allocator<u32>,
    live: Vec<Allocation<u32>>,
}

impl Offset {
    /// A space for `n` objects.
    pub fn new(size: u32, align: u32, n: usize) -> Self {
        let space = u32::try_from(size.max(align) as usize * (n + 1)).expect("32 bits");
        let inner = offset_allocator::Allocator::with_max_allocs(space, n as u32 + 16);
        Self { inner, live: Vec::with_capacity(n) }
    }
}

impl Placer for Offset {
    fn place(&mut self, size: u32, align: u32, n: usize, until: Instant, places: &mut Vec<u64>) -> usize {
        each(n, until, |index| {
            let found = self.inner.allocate(size.max(align));
            places.extend(found.map(|_| index as u64));
            self.live.extend(found);
            found.is_some()
        })
    }

    fn take_back(&mut self, _: u32, _: u32, handles: &[u64], until: Instant) -> usize {
        each(handles.len(), until, |index| {
            self.inner.free(self.live[handles[index] as usize]);
            true
        })
    }
}

/// gfx-rs: best fit over a list of free ranges.
pub struct Ranges {
    inner: range_alloc::RangeAllocator<u64>,
}

impl Ranges {
    /// A space for `n` objects.
    pub fn new(size: u32, align: u32, n: usize) -> Self {
        Self { inner: range_alloc::RangeAllocator::new(0..u64::from(size.max(align)) * (n as u64 + 1)) }
    }
}

impl Placer for Ranges {
    fn place(&mut self, size: u32, align: u32, n: usize, until: Instant, places: &mut Vec<u64>) -> usize {
        each(n, until, |_| {
            let found = self.inner.allocate_range_aligned(size.into(), align.into());
            places.extend(found.iter().map(|range| range.start));
            found.is_ok()
        })
    }

    fn take_back(&mut self, size: u32, _: u32, handles: &[u64], until: Instant) -> usize {
        each(handles.len(), until, |index| {
            self.inner.free_range(handles[index]..handles[index] + u64::from(size));
            true
        })
    }
}

/// Two-level segregated fit.
pub struct Rlsf {
    inner: rlsf::Tlsf<'static, u32, u32, 28, 32>,
    _pool: Box<[MaybeUninit<u8>]>,
}

impl Rlsf {
    /// With memory for `n` objects.
    pub fn new(size: u32, align: u32, n: usize) -> Self {
        let mut pool = pool(size, align, n);
        let memory = NonNull::slice_from_raw_parts(NonNull::from(&mut *pool).cast::<u8>(), pool.len());
        let mut inner = rlsf::Tlsf::new();
        // SAFETY: the pool lives as long as the allocator, and nobody else uses it.
        unsafe { inner.insert_free_block_ptr(memory) }.expect("a large block");
        Self { inner, _pool: pool }
    }
}

impl Placer for Rlsf {
    fn place(&mut self, size: u32, align: u32, n: usize, until: Instant, places: &mut Vec<u64>) -> usize {
        each(n, until, |_| {
            let found = self.inner.allocate(layout(size, align));
            places.extend(found.map(|ptr| ptr.as_ptr() as u64));
            found.is_some()
        })
    }

    fn take_back(&mut self, _: u32, align: u32, handles: &[u64], until: Instant) -> usize {
        each(handles.len(), until, |index| {
            let ptr = NonNull::new(handles[index] as *mut u8).expect("a place");
            // SAFETY: it was allocated with this alignment and is given back once.
            unsafe { self.inner.deallocate(ptr, align as usize) };
            true
        })
    }
}

/// Dlmalloc-style bins with boundary tags.
pub struct TalcPlacer {
    inner: Talc<Manual, DefaultBinning>,
    _pool: Box<[MaybeUninit<u8>]>,
}

impl TalcPlacer {
    /// With memory for `n` objects.
    pub fn new(size: u32, align: u32, n: usize) -> Self {
        let mut pool = pool(size, align, n);
        let mut inner = Talc::new(Manual);
        // SAFETY: the pool lives as long as the allocator, and nobody else uses it.
        unsafe { inner.claim(pool.as_mut_ptr().cast(), pool.len()) }.expect("a large arena");
        Self { inner, _pool: pool }
    }
}

impl Placer for TalcPlacer {
    fn place(&mut self, size: u32, align: u32, n: usize, until: Instant, places: &mut Vec<u64>) -> usize {
        each(n, until, |_| {
            // SAFETY: the size is not zero.
            let found = unsafe { self.inner.allocate(layout(size, align)) };
            places.extend(found.map(|ptr| ptr.as_ptr() as u64));
            found.is_some()
        })
    }

    fn take_back(&mut self, size: u32, align: u32, handles: &[u64], until: Instant) -> usize {
        each(handles.len(), until, |index| {
            // SAFETY: it was allocated with this layout and is given back once.
            unsafe { self.inner.deallocate(handles[index] as *mut u8, layout(size, align)) };
            true
        })
    }
}

/// Buddies on linked lists: powers of two, and a walk over a list for every merge.
pub struct Buddy {
    inner: buddy_system_allocator::Heap<33>,
    _pool: Box<[MaybeUninit<u8>]>,
}

impl Buddy {
    /// With memory for `n` objects.
    pub fn new(size: u32, align: u32, n: usize) -> Self {
        let mut pool = pool(size, align, n);
        let mut inner = buddy_system_allocator::Heap::new();
        // SAFETY: the pool lives as long as the allocator, and nobody else uses it.
        unsafe { inner.init(pool.as_mut_ptr() as usize, pool.len()) };
        Self { inner, _pool: pool }
    }
}

impl Placer for Buddy {
    fn place(&mut self, size: u32, align: u32, n: usize, until: Instant, places: &mut Vec<u64>) -> usize {
        each(n, until, |_| {
            let found = self.inner.alloc(layout(size, align));
            places.extend(found.iter().map(|ptr| ptr.as_ptr() as u64));
            found.is_ok()
        })
    }

    fn take_back(&mut self, size: u32, align: u32, handles: &[u64], until: Instant) -> usize {
        each(handles.len(), until, |index| {
            let ptr = NonNull::new(handles[index] as *mut u8).expect("a place");
            // SAFETY: it was allocated with this layout and is given back once.
            unsafe { self.inner.dealloc(ptr, layout(size, align)) };
            true
        })
    }
}
