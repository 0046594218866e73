//! What an allocator holds at one moment.
//!
//! # Design
//!
//! ```text
//! populated  |<------------------------------------------------>|   times units = memory
//! handed out |<------------------------->|      free, populated
//! ```
//!
//! Served regions only: what a boot chunk hides before and behind its region is none of its business.
//!
//! Metadata are the maps and records that grow with the memory of a chunk: allocation and boundary map, one
//! record a block, the map of populated pages; in the area map the array as long as it is. The fixed record of a
//! chunk, alike in all generations, is left out. It exists once, not once a unit.
//!
//! # Units
//!
//! Bytes and pages of one unit, unless the name says otherwise.
//!
//! # Source
//!
//! Specification 10 section 1, 11 section 1, 12, 13 for what is kept.

use crate::engine::{ChunkView, Engine, Older};
use crate::variant::Generation;

/// Bytes of a block's record: five numbers before 5.2, eight since.
const RECORD: [u64; 2] = [20, 32];
/// Bytes of an entry of the area map.
const ENTRY: u64 = 4;
/// Bytes of a map's word.
const WORD: u64 = 8;

/// What is held at one moment, without what the allocator cannot know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// Live areas as they lie in the maps, rounding included.
    pub handed_out: u64,
    /// Bytes of the served regions that are backed by memory.
    pub populated: u64,
    /// Chunks.
    pub nr_chunks: u64,
    /// Bytes of maps and records; `None` where nobody knows.
    pub metadata: Option<u64>,
}

impl Moment {
    /// What `engine` holds now.
    pub fn of(engine: &dyn Engine) -> Self {
        let page = engine.geometry().page_size().0;
        let mut moment = Moment { nr_chunks: u64::from(engine.stats().nr_chunks), ..Self::default() };
        let mut bytes = 0;
        for id in engine.chunk_ids() {
            let Some(view) = engine.chunk(id) else { continue };
            let hidden = view.start_offset.0 + view.end_offset.0;
            let served = (u64::from(view.nr_pages.0) * page).saturating_sub(hidden);
            let live = served.saturating_sub(view.free_bytes.0);
            moment.handed_out += live;
            moment.populated += (u64::from(view.nr_populated.0) * page).saturating_sub(hidden).clamp(0, served);
            bytes += metadata(engine.generation(), &view);
        }
        moment.metadata = Some(bytes);
        if engine.generation() == Generation::CpuAlloc2008 {
            // It has no chunks to count: its one area is what others call a chunk.
            moment.nr_chunks = 1;
        }
        moment
    }

    /// Share of the populated bytes that is not handed out.
    pub fn fragmentation(&self) -> Option<f64> {
        (self.populated > 0).then(|| self.populated.saturating_sub(self.handed_out) as f64 / self.populated as f64)
    }
}

/// Bytes of maps and records of a chunk.
fn metadata(generation: Generation, view: &ChunkView<'_>) -> u64 {
    let map = |words: usize| words as u64 * WORD;
    let populated = map(view.populated.len());
    match view.older {
        Some(Older::AreaMap { map_alloc, .. }) => u64::from(map_alloc) * ENTRY + populated,
        // Its pages are there from the beginning, so that it needs no map of them.
        Some(Older::CpuAlloc { .. }) => map(view.alloc_map.len()),
        Some(Older::RfcV1 { .. }) | None => {
            let new = matches!(generation, Generation::Linux52 | Generation::Linux514);
            let blocks = view.blocks.as_ref().map_or(0, |blocks| blocks.len() as u64);
            let bounds = view.bound_map.as_ref().map_or(0, |words| words.len());
            map(view.alloc_map.len()) + map(bounds) + blocks * RECORD[usize::from(new)] + populated
        }
    }
}
