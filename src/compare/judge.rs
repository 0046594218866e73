//! The judge: whether what an engine from outside answers is legal.
//!
//! # Design
//!
//! An engine from outside manages one space of offsets, which is cut into chunks:
//!
//! ```text
//! offset 0            unit_size            2 unit_size
//!        | chunk 0         | chunk 1             | ...
//! ```
//!
//! The judge keeps the live areas in a tree and says no to an answer that overlaps one of them, is not aligned,
//! or crosses the end of a chunk. Beside that it counts what such an engine would hold: a page is populated
//! while a live area touches it, a chunk exists while it has one.
//!
//! # Units
//!
//! Bytes; pages and chunks by index.
//!
//! # Cost
//!
//! Logarithmic in the number of live areas, and linear in the pages of an area.

use std::collections::{BTreeMap, HashMap};

use crate::geometry::Geometry;
use crate::units::Bytes;

/// Chunks that an engine may use: offsets stay below 2^50 with the largest unit.
const MAX_CHUNKS: u64 = 1 << 20;

/// The live areas of an engine from outside.
#[derive(Clone, Debug)]
pub struct Judge {
    geometry: Geometry,
    /// Start and end of each live area.
    areas: BTreeMap<u64, u64>,
    /// Live areas that touch a page.
    pages: HashMap<u64, u32>,
    /// Live areas in a chunk.
    chunks: HashMap<u64, u32>,
    handed_out: u64,
    max_chunks: u64,
    chunks_made: u64,
}

impl Judge {
    /// A judge of an empty space.
    pub fn new(geometry: Geometry) -> Self {
        let (areas, pages, chunks) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Self { geometry, areas, pages, chunks, handed_out: 0, max_chunks: 0, chunks_made: 0 }
    }

    /// The sizes that the space has.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Takes an area, or says why the answer is illegal.
    pub fn take(&mut self, off: u64, size: Bytes, align: Bytes) -> Result<(), String> {
        let unit = self.geometry.unit_size().0;
        // An area of no bytes still has a place of its own.
        let len = size.0.max(1);
        let what = format!("alloc({}, {}) returned {off}", size.0, align.0);
        if align.0 > 0 && off % align.0 != 0 {
            return Err(format!("{what}, which is not a multiple of {}", align.0));
        }
        let chunk = off / unit;
        if chunk >= MAX_CHUNKS {
            return Err(format!("{what}: only {MAX_CHUNKS} chunks of {unit} bytes are allowed"));
        }
        let Some(end) = off.checked_add(len).filter(|end| (end - 1) / unit == chunk) else {
            return Err(format!("{what}, which crosses the end of a chunk of {unit} bytes"));
        };
        if let Some((start, other)) = self.areas.range(..end).next_back().filter(|(_, other)| **other > off) {
            return Err(format!("{what}, which overlaps the live area from {start} to {other}"));
        }
        self.areas.insert(off, end);
        for page in self.pages_of(off, end) {
            *self.pages.entry(page).or_default() += 1;
        }
        let areas = self.chunks.entry(chunk).or_default();
        *areas += 1;
        self.chunks_made += u64::from(*areas == 1);
        self.handed_out += end - off;
        self.max_chunks = self.max_chunks.max(self.chunks.len() as u64);
        Ok(())
    }

    /// Gives the area at an offset back; false if there is none.
    pub fn give_back(&mut self, off: u64) -> bool {
        let Some(end) = self.areas.remove(&off) else { return false };
        for page in self.pages_of(off, end) {
            release(&mut self.pages, page);
        }
        release(&mut self.chunks, off / self.geometry.unit_size().0);
        self.handed_out -= end - off;
        true
    }

    fn pages_of(&self, off: u64, end: u64) -> std::ops::RangeInclusive<u64> {
        let page = self.geometry.page_size().0;
        off / page..=(end - 1) / page
    }

    /// Live areas.
    pub fn live(&self) -> usize {
        self.areas.len()
    }

    /// Bytes of the live areas.
    pub fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// Bytes of one unit under the live areas, in whole pages.
    pub fn populated(&self) -> u64 {
        self.pages.len() as u64 * self.geometry.page_size().0
    }

    /// Chunks with a live area.
    pub fn nr_chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// How often a chunk got its first area.
    pub fn chunks_made(&self) -> u64 {
        self.chunks_made
    }

    /// Most chunks with a live area at any time.
    pub fn max_chunks(&self) -> u64 {
        self.max_chunks
    }
}

/// Counts one down, and forgets what is at 0.
fn release(counts: &mut HashMap<u64, u32>, key: u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
