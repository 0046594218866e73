//! Exact work counters, equal on every machine.
//!
//! # Design
//!
//! Engines count the work of the *modelled* algorithm while they place: what the kernel's code of that
//! generation would read, visit and move, whatever structure does it here. `docs/design.md` section 6
//! defines every counter to the last unit, by the positions that a search begins and ends at, so that
//! nobody has to walk in order to count.
//!
//! ```text
//! engine code, generic over C: Counter
//!   Off      nothing: every call is empty and vanishes
//!   Costs    the cheap counters                       Counting::Totals, the default
//!   Full     these, and those that need a search      Counting::Full
//!            or a set of what was touched
//! ```
//!
//! An engine holds a [`Meter`]. At the entry of an operation `counted!` lends its
//! counter to the code of the operation, compiled once for each of the three. What one operation has cost
//! is the difference of [`Meter::costs`] after and before it.
//!
//! A counter goes down either as `&mut` (the engines before 4.14) or as a shared reference to a cell, which is a
//! [`Counter`] by itself, can be copied, and rides on the [`Mode`](crate::chunk::Mode) (the Linux engines).
//!
//! # Units
//!
//! As [`TABLE`] says, which Python, the documentation and column names are made from. Positions are indices
//! of a [`Part`]'s elements.
//!
//! # Cost
//!
//! `Off` none. `Totals` some additions for each search. `Full` a sort of the stretches an operation has
//! touched, and a search of each chunk that was rejected or not looked at.
//!
//! # Source
//!
//! The definitions are this project's own; the algorithms that they measure are specification 10 to 13, 20, 21.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// Bits of a map word.
pub const WORD_BITS: u32 = 64;
/// Bytes of a cache line of the model.
pub const LINE_BYTES: u32 = 64;

/// What the documentation says of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// Name of the field, of the column and of the entry in Python.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// What is counted, in one line.
    pub text: &'static str,
    /// Counted under [`Counting::Full`] only.
    pub full_only: bool,
}

macro_rules! counters {
    ($($name:ident, $unit:literal, $full:literal, $text:literal;)*) => {
        /// Totals of every counter.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Costs {
            $(#[doc = concat!($text, ".")] pub $name: u64,)*
        }

        /// Every counter, in the order of [`Costs::values`].
        pub const TABLE: &[About] =
            &[$(About { name: stringify!($name), unit: $unit, text: $text, full_only: $full },)*];

        impl Costs {
            /// Nothing was done.
            pub const ZERO: Costs = Costs { $($name: 0,)* };

            /// The numbers, in the order of [`TABLE`].
            pub fn values(&self) -> [u64; TABLE.len()] {
                [$(self.$name,)*]
            }
        }

        impl AddAssign for Costs {
            fn add_assign(&mut self, other: Costs) {
                $(self.$name += other.$name;)*
            }
        }

        impl Sub for Costs {
            type Output = Costs;

            /// What came between two totals.
            fn sub(self, before: Costs) -> Costs {
                Costs { $($name: self.$name - before.$name,)* }
            }
        }
    };
}

counters! {
    words_read, "words", false, "64-bit words of maps that searches go over";
    blocks_visited, "blocks", false, "block records that walks over blocks look at";
    chunks_visited, "chunks", false, "chunks that requests look at";
    chunks_rejected_with_fit, "chunks", true, "chunks that requests reject although a place for them exists there";
    chunks_unseen_with_fit, "chunks", true, "chunks on lists that requests do not go over although a place for them exists there";
    block_refreshes, "refreshes", false, "times that the hints of a block are recomputed from its map";
    chunk_refreshes, "refreshes", false, "times that the hint of a chunk is recomputed from its blocks";
    hints_broken, "hints", false, "hints of blocks and chunks that allocations make untrue";
    entries_scanned, "entries", false, "entries of area maps that requests look at";
    entries_moved, "entries", false, "entries of area maps that change their place";
    cache_lines, "lines", true, "distinct lines of 64 bytes of maps and metadata touched by an operation";
    pages_populated, "pages", false, "pages of one unit that get memory";
    page_mappings, "pages", false, "pages mapped, over all units";
    cleared_bytes, "bytes", false, "bytes cleared for requests, over all units";
    chunks_created, "chunks", false, "chunks made";
}

impl Add for Costs {
    type Output = Costs;

    fn add(mut self, other: Costs) -> Costs {
        self += other;
        self
    }
}

impl Costs {
    /// The same without the counters that only [`Counting::Full`] has.
    pub fn without_full(mut self) -> Costs {
        self.chunks_rejected_with_fit = 0;
        self.chunks_unseen_with_fit = 0;
        self.cache_lines = 0;
        self
    }
}

/// Something of a chunk that lies in memory, beginning at a cache line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// The chunk's own record: one line.
    Record,
    /// Set = allocated: a bit a granule.
    AllocMap,
    /// Area boundaries: a bit a granule.
    BoundMap,
    /// Populated pages: a bit a page.
    Populated,
    /// Block records of 32 bytes.
    Blocks,
    /// Entries of 4 bytes of an area map.
    AreaMap,
}

impl Part {
    /// Elements on a cache line.
    pub const fn per_line(self) -> u32 {
        match self {
            Part::Record => 1,
            Part::AllocMap | Part::BoundMap | Part::Populated => LINE_BYTES * 8,
            Part::Blocks => LINE_BYTES / 32,
            Part::AreaMap => LINE_BYTES / 4,
        }
    }
}

/// Counts, or does not.
pub trait Counter {
    /// False: every call is empty.
    const ON: bool;
    /// Whether the counters are kept that [`About::full_only`] marks.
    const FULL: bool;

    /// Adds something.
    fn count(&mut self, add: impl FnOnce(&mut Costs));

    /// What follows concerns this chunk, whose record is touched.
    fn enter(&mut self, _chunk: u32) {}

    /// The elements `first..end` of a part are read or written.
    fn touch(&mut self, _part: Part, _first: u32, _end: u32) {}

    /// The operation is over.
    fn finish(&mut self) {}

    /// What searches have cost so far, to count it again later. Nothing where nothing is counted.
    #[inline(always)]
    fn searched(&self) -> Searched {
        Searched::default()
    }

    /// The same searches are made so many times more.
    #[inline(always)]
    fn repeat(&mut self, searched: Searched, times: u32) {
        let times = u64::from(times);
        self.count(|costs| {
            costs.words_read += searched.words * times;
            costs.blocks_visited += searched.blocks * times;
            costs.chunks_visited += searched.chunks * times;
        });
    }

    /// A search goes over the bits `first..end` of a map.
    #[inline(always)]
    fn search(&mut self, part: Part, first: u32, end: u32) {
        self.count(|costs| costs.words_read += u64::from(words_of(first, end)));
        self.touch(part, first, end);
    }

    /// A walk looks at the block records `first..end`.
    #[inline(always)]
    fn walk_blocks(&mut self, first: u32, end: u32) {
        self.count(|costs| costs.blocks_visited += u64::from(end.saturating_sub(first)));
        self.touch(Part::Blocks, first, end);
    }
}

/// What searches cost that find nothing, or do not change anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Searched {
    words: u64,
    blocks: u64,
    chunks: u64,
}

impl Searched {
    #[inline(always)]
    fn of(costs: &Costs) -> Self {
        Self { words: costs.words_read, blocks: costs.blocks_visited, chunks: costs.chunks_visited }
    }
}

impl AddAssign for Searched {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        self.words += other.words;
        self.blocks += other.blocks;
        self.chunks += other.chunks;
    }
}

impl Sub for Searched {
    type Output = Searched;

    #[inline(always)]
    fn sub(self, before: Self) -> Self {
        Self {
            words: self.words - before.words,
            blocks: self.blocks - before.blocks,
            chunks: self.chunks - before.chunks,
        }
    }
}

/// Words that hold the bits `first..end`; 0 if there are none.
#[inline(always)]
pub const fn words_of(first: u32, end: u32) -> u32 {
    if first >= end {
        return 0;
    }
    (end - 1) / WORD_BITS - first / WORD_BITS + 1
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Off;

impl Counter for Off {
    const ON: bool = false;
    const FULL: bool = false;

    #[inline(always)]
    fn count(&mut self, _: impl FnOnce(&mut Costs)) {}
}

impl Counter for Costs {
    const ON: bool = true;
    const FULL: bool = false;

    #[inline(always)]
    fn count(&mut self, add: impl FnOnce(&mut Costs)) {
        add(self);
    }
}

/// The same, handed down by value. Compiles to an addition in memory.
impl Counter for &Cell<Costs> {
    const ON: bool = true;
    const FULL: bool = false;

    #[inline(always)]
    fn count(&mut self, add: impl FnOnce(&mut Costs)) {
        let mut costs = self.get();
        add(&mut costs);
        self.set(costs);
    }

    #[inline(always)]
    fn searched(&self) -> Searched {
        Searched::of(&self.get())
    }
}

/// A stretch of lines: chunk, part, first line and the line behind.
type Stretch = (u32, Part, u32, u32);

/// Counts everything.
#[derive(Clone, Debug, Default)]
pub struct Full {
    costs: Costs,
    chunk: u32,
    touched: Vec<Stretch>,
}

impl Counter for Full {
    const ON: bool = true;
    const FULL: bool = true;

    #[inline]
    fn count(&mut self, add: impl FnOnce(&mut Costs)) {
        add(&mut self.costs);
    }

    fn enter(&mut self, chunk: u32) {
        self.chunk = chunk;
        self.touch(Part::Record, 0, 1);
    }

    fn touch(&mut self, part: Part, first: u32, end: u32) {
        if first < end {
            let lines = part.per_line();
            self.touched.push((self.chunk, part, first / lines, (end - 1) / lines + 1));
        }
    }

    fn finish(&mut self) {
        self.touched.sort_unstable();
        let mut last = None;
        for (chunk, part, first, end) in self.touched.drain(..) {
            // Lines below `known` were counted.
            let known = match last {
                Some((c, p, known)) if (c, p) == (chunk, part) => known,
                _ => 0,
            };
            self.costs.cache_lines += u64::from(end.saturating_sub(first.max(known)));
            last = Some((chunk, part, end.max(known)));
        }
    }
}

/// The same, handed down by value.
impl Counter for &RefCell<Box<Full>> {
    const ON: bool = true;
    const FULL: bool = true;

    fn count(&mut self, add: impl FnOnce(&mut Costs)) {
        self.borrow_mut().count(add);
    }

    fn enter(&mut self, chunk: u32) {
        self.borrow_mut().enter(chunk);
    }

    fn touch(&mut self, part: Part, first: u32, end: u32) {
        self.borrow_mut().touch(part, first, end);
    }

    fn finish(&mut self) {
        self.borrow_mut().finish();
    }

    fn searched(&self) -> Searched {
        Searched::of(&self.borrow().costs)
    }
}

/// What an engine counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Counting {
    /// Nothing.
    Off,
    /// Every counter that needs no work of its own.
    #[default]
    Totals,
    /// Every counter.
    Full,
}

/// The counters of an engine, and which of them run.
///
/// They are no part of the engine's state: no comparison and no snapshot sees them, and their `Debug`
/// text is always the same.
#[derive(Clone)]
pub struct Meter {
    counting: Counting,
    /// Absent while an operation runs.
    full: Option<Box<Full>>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { counting: Counting::default(), full: Some(Box::default()) }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

impl Meter {
    /// What is counted.
    #[inline]
    pub fn counting(&self) -> Counting {
        self.counting
    }

    /// Sets what is counted from now on; what was counted stays.
    pub fn set_counting(&mut self, counting: Counting) {
        self.counting = counting;
    }

    /// What was counted so far.
    pub fn costs(&self) -> Costs {
        self.full.as_ref().map_or(Costs::ZERO, |full| full.costs)
    }

    /// Sets what was counted so far.
    pub fn set_costs(&mut self, costs: Costs) {
        self.lend().costs = costs;
    }

    fn lend(&mut self) -> &mut Full {
        self.full.get_or_insert_default()
    }

    /// Takes the counter out, for the time of an operation.
    #[inline]
    pub fn take(&mut self) -> Box<Full> {
        self.full.take().unwrap_or_default()
    }

    /// Puts it back.
    #[inline]
    pub fn put(&mut self, full: Box<Full>) {
        self.full = Some(full);
    }
}

impl Full {
    /// As the counter of [`Counting::Totals`].
    #[inline]
    pub fn totals(&mut self) -> &mut Costs {
        &mut self.costs
    }
}

/// Runs `$body` with `$counter` as the counter that `$meter`, a place of type [`Meter`], asks for: a
/// `&mut impl Counter` of a different type in each of three copies.
macro_rules! counted {
    ($meter:expr, $counter:ident => $body:expr) => {
        match $meter.counting() {
            $crate::cost::Counting::Off => {
                let $counter = &mut $crate::cost::Off;
                $body
            }
            $crate::cost::Counting::Totals => {
                let mut full = $meter.take();
                let $counter = full.totals();
                let result = $body;
                $meter.put(full);
                result
            }
            $crate::cost::Counting::Full => {
                let mut full = $meter.take();
                let $counter = &mut *full;
                let result = $body;
                $crate::cost::Counter::finish($counter);
                $meter.put(full);
                result
            }
        }
    };
}
pub(crate) use counted;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_by_first_and_last_bit() {
        for first in 0..200_u32 {
            for end in 0..300_u32 {
                let words: std::collections::BTreeSet<u32> = (first..end).map(|bit| bit / 64).collect();
                assert_eq!(words_of(first, end), words.len() as u32, "{first}..{end}");
            }
        }
    }

    #[test]
    fn lines_count_once_an_operation() {
        let mut full = Full::default();
        full.enter(3);
        full.touch(Part::AllocMap, 0, 513);
        full.touch(Part::AllocMap, 511, 512);
        full.touch(Part::AllocMap, 5000, 5000);
        full.touch(Part::BoundMap, 0, 1);
        full.enter(4);
        full.touch(Part::AllocMap, 600, 601);
        full.walk_blocks(1, 4);
        full.enter(3);
        full.finish();
        // Two records, two and one lines of alloc_map, one of bound_map, blocks 1 to 3 on two lines.
        assert_eq!(full.costs.cache_lines, 2 + 3 + 1 + 2);
        full.enter(3);
        full.finish();
        assert_eq!(full.costs.cache_lines, 9);
        assert_eq!(full.costs.blocks_visited, 3);
    }

    #[test]
    fn names_are_those_of_the_fields() {
        let costs = Costs { chunks_created: 7, words_read: 1, ..Costs::ZERO };
        let named = TABLE.iter().zip(costs.values()).map(|(about, value)| (about.name, value));
        let named: Vec<_> = named.filter(|(_, value)| *value > 0).collect();
        assert_eq!(named, [("words_read", 1), ("chunks_created", 7)]);
        assert_eq!((costs + costs) - costs, costs);
        assert!(TABLE.iter().filter(|about| about.full_only).count() == 3);
    }

    #[test]
    fn a_meter_counts_what_it_is_told_to() {
        struct Engine {
            meter: Meter,
        }
        impl Engine {
            fn work(&mut self) -> u32 {
                counted!(self.meter, counter => Self::inner(counter))
            }
            fn inner<C: Counter>(counter: &mut C) -> u32 {
                counter.enter(0);
                counter.search(Part::AllocMap, 60, 70);
                u32::from(C::ON) + u32::from(C::FULL)
            }
        }
        let mut engine = Engine { meter: Meter::default() };
        for (counting, instance, words, lines) in
            [(Counting::Off, 0, 0, 0), (Counting::Totals, 1, 2, 0), (Counting::Full, 2, 4, 2)]
        {
            engine.meter.set_counting(counting);
            assert_eq!(engine.work(), instance);
            let costs = engine.meter.costs();
            assert_eq!((costs.words_read, costs.cache_lines), (words, lines));
        }
    }
}
