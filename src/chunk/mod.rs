//! One chunk: allocation map, boundaries, hints, populated pages.
//!
//! # Design
//!
//! ```text
//! alloc_map  XXXX....XXXXXX..........   set = allocated
//! bound_map  B...B...B.....B.........   an area starts here, or the one before ends here
//! blocks     |  hints  |  hints  |...   one record per stretch of block_bits
//! md         |  hints of the whole  |   the chunk-wide record
//! populated  |    1    |    0    |...   one bit a page, the same in every unit
//! ```
//!
//! Frees leave `bound_map` alone, so it means something only at and inside live areas.
//! `search` finds without changing anything, `update` commits and keeps hints and page
//! counts; both follow the kernel literally, also where it is not what one would write.
//!
//! # Units
//!
//! Bits of `min_alloc_size` bytes from the chunk's base; pages where named. Signed 32-bit
//! as in the kernel.
//!
//! # Invariants
//!
//! Listed in `docs/design.md` and checked by [`Chunk::verify`].
//!
//! # Cost
//!
//! An allocation reads the hints from the first useful block on, then at most
//! `block_bits` bits of the map; a free reads two words of each map. Refreshing the
//! chunk-wide hint walks all blocks. Memory: 2 bits per granule, 32 bytes per block.
//!
//! # Source
//!
//! Specification 10.

mod count;
pub(crate) mod mode;
pub(crate) mod run;
mod search;
#[cfg(test)]
mod tests;
mod update;
mod verify;

use crate::bitmap;
use crate::block::Block;
use crate::geometry::Geometry;
use crate::units::{round_up, Bits, Bytes, Pages};
use crate::variant::Rules;
pub use mode::Mode;

/// What every operation on a chunk needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Sizes.
    pub geometry: Geometry,
    /// Behaviour flags.
    pub rules: Rules,
}

/// What a chunk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The chunk of the boot area that serves dynamic requests.
    First,
    /// The chunk of the boot area that serves reserved requests.
    Reserved,
    /// Made later.
    Dynamic,
}

/// One space of offsets, backed by one unit for each CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Simulated address of the chunk's base in unit zero.
    pub(crate) base_addr: u64,
    pub(crate) role: Role,
    /// Free bytes. Exact.
    pub(crate) free_bytes: u32,
    pub(crate) alloc_map: Box<[u64]>,
    /// One bit more than `alloc_map`, for the very end.
    pub(crate) bound_map: Box<[u64]>,
    pub(crate) blocks: Box<[Block]>,
    /// One bit a block: its left edge run is the whole block. Every wholly free block has it.
    pub(crate) whole: Box<[u64]>,
    /// Chunk-wide hints. Before 5.2 only contig and `first_free` are kept.
    pub(crate) md: Block,
    pub(crate) populated: Box<[u64]>,
    pub(crate) nr_pages: u32,
    pub(crate) nr_populated: u32,
    /// Populated pages without an allocated bit. Negative for a moment between an area's
    /// allocation and its population.
    pub(crate) nr_empty_pop_pages: i32,
    /// Bytes hidden before the served region.
    pub(crate) start_offset: u32,
    /// Bytes hidden behind it.
    pub(crate) end_offset: u32,
    /// Taken out of the active lists for depopulation.
    pub(crate) isolated: bool,
    pub(crate) nr_alloc: u32,
    pub(crate) max_alloc_size: u32,
}

impl Chunk {
    /// A chunk of one whole unit, free and without pages.
    pub fn new(ctx: &Context, base_addr: u64) -> Self {
        let pages = ctx.geometry.unit_pages();
        Self::blank(ctx, base_addr, Role::Dynamic, pages)
    }

    fn blank(ctx: &Context, base_addr: u64, role: Role, pages: Pages) -> Self {
        let nr_bits = ctx.geometry.pages_to_bits(pages).0;
        let block_bits = ctx.geometry.block_bits();
        let mut md = Block::free(nr_bits as i32);
        if !ctx.rules.scan_hints {
            (md.left_free, md.right_free) = (0, 0);
        }
        Self {
            base_addr,
            role,
            free_bytes: ctx.geometry.pages_to_bytes(pages).0 as u32,
            alloc_map: vec![0; bitmap::words_for(nr_bits)].into(),
            bound_map: vec![0; bitmap::words_for(nr_bits + 1)].into(),
            blocks: vec![Block::free(block_bits as i32); (nr_bits / block_bits) as usize].into(),
            whole: Self::all_whole(nr_bits / block_bits),
            md,
            populated: vec![0; bitmap::words_for(pages.0)].into(),
            nr_pages: pages.0,
            nr_populated: 0,
            nr_empty_pop_pages: 0,
            start_offset: 0,
            end_offset: 0,
            isolated: false,
            nr_alloc: 0,
            max_alloc_size: 0,
        }
    }

    /// The map of blocks for `nr_blocks` free ones.
    fn all_whole(nr_blocks: u32) -> Box<[u64]> {
        let mut whole = vec![0; bitmap::words_for(nr_blocks)];
        bitmap::set_range(&mut whole, 0, nr_blocks);
        whole.into()
    }

    /// The map of blocks, from their hints.
    pub(crate) fn whole_of(blocks: &[Block]) -> Box<[u64]> {
        let mut whole = vec![0; bitmap::words_for(blocks.len() as u32)];
        let found = (0u32..).zip(blocks).filter(|(_, block)| block.left_free == block.nr_bits);
        found.for_each(|(index, _)| bitmap::set(&mut whole, index));
        whole.into()
    }

    /// A chunk of the boot area: `size` bytes served from `start_offset` on, the rest of its
    /// pages hidden as areas that are never freed. All pages populated.
    ///
    /// Specification 10 section 2, 31 section 5.
    pub fn boot(ctx: &Context, base_addr: u64, role: Role, start_offset: Bytes, size: Bytes) -> Self {
        let g = &ctx.geometry;
        let region = Bytes(round_up(start_offset.0 + size.0, g.chunk_align().0));
        let pages = g.bytes_to_pages_floor(region);
        let mut chunk = Self::blank(ctx, base_addr, role, pages);
        let end_offset = region - start_offset - size;
        chunk.start_offset = start_offset.0 as u32;
        chunk.end_offset = end_offset.0 as u32;
        chunk.free_bytes = size.0 as u32;
        bitmap::set_range(&mut chunk.populated, 0, pages.0);
        chunk.nr_populated = pages.0;
        let head = g.bytes_to_bits(start_offset).0;
        let tail = g.bytes_to_bits(end_offset).0;
        let nr_bits = chunk.nr_bits().0;
        if ctx.rules.exact_empty_pages {
            chunk.nr_empty_pop_pages = pages.0 as i32;
        } else {
            chunk.nr_empty_pop_pages = chunk.populated_pages_within(ctx, head, nr_bits - tail) as i32;
        }
        if !ctx.rules.scan_hints {
            chunk.md.contig_hint = g.bytes_to_bits(size).0 as i32;
        }
        if head > 0 {
            bitmap::set_range(&mut chunk.alloc_map, 0, head);
            bitmap::set(&mut chunk.bound_map, 0);
            bitmap::set(&mut chunk.bound_map, head);
            chunk.md.first_free = head as i32;
            chunk.update_hints_alloc(ctx, 0, head);
        }
        if tail > 0 {
            bitmap::set_range(&mut chunk.alloc_map, nr_bits - tail, nr_bits);
            bitmap::set(&mut chunk.bound_map, nr_bits - tail);
            bitmap::set(&mut chunk.bound_map, nr_bits);
            chunk.update_hints_alloc(ctx, nr_bits - tail, tail);
        }
        if chunk.counts_pages_by_maps(ctx) {
            chunk.nr_empty_pop_pages = (0..pages.0).filter(|page| chunk.page_is_free(ctx, *page)).count() as i32;
        }
        chunk
    }

    /// Simulated address of the chunk's base in unit zero.
    pub fn base_addr(&self) -> u64 {
        self.base_addr
    }

    /// What the chunk is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Bits of the map.
    #[inline]
    pub fn nr_bits(&self) -> Bits {
        Bits(self.md.nr_bits as u32)
    }

    /// Pages of the map.
    pub fn nr_pages(&self) -> Pages {
        Pages(self.nr_pages)
    }

    /// Free bytes.
    pub fn free_bytes(&self) -> Bytes {
        Bytes(u64::from(self.free_bytes))
    }

    /// Chunk-wide hints, in bits.
    pub fn hints(&self) -> &Block {
        &self.md
    }

    /// Hints of each block, in bits relative to the block.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The allocation map: one bit a granule, set = allocated.
    pub fn alloc_map(&self) -> &[u64] {
        &self.alloc_map
    }

    /// The boundary map: as the allocation map with one bit more.
    pub fn bound_map(&self) -> &[u64] {
        &self.bound_map
    }

    /// The populated map: one bit a page.
    pub fn populated(&self) -> &[u64] {
        &self.populated
    }

    /// Populated pages of each unit.
    pub fn nr_populated(&self) -> Pages {
        Pages(self.nr_populated)
    }

    /// Populated pages without an allocated bit, as the allocator counts them.
    pub fn nr_empty_pop_pages(&self) -> i32 {
        self.nr_empty_pop_pages
    }

    /// Bytes hidden before the served region.
    pub fn start_offset(&self) -> Bytes {
        Bytes(u64::from(self.start_offset))
    }

    /// Bytes hidden behind the served region.
    pub fn end_offset(&self) -> Bytes {
        Bytes(u64::from(self.end_offset))
    }

    /// True if pages are never populated or given back: the boot chunks.
    pub fn immutable(&self) -> bool {
        self.role != Role::Dynamic
    }

    /// Taken out of the active lists for depopulation.
    pub fn isolated(&self) -> bool {
        self.isolated
    }

    /// Live areas.
    pub fn nr_alloc(&self) -> u32 {
        self.nr_alloc
    }

    /// Largest request ever served, in bytes.
    pub fn max_alloc_size(&self) -> Bytes {
        Bytes(u64::from(self.max_alloc_size))
    }

    /// The live area that contains bit `bit`, as `[start, end)`; hidden ends are not areas.
    pub fn area_at(&self, ctx: &Context, bit: u32) -> Option<(u32, u32)> {
        let served = self.served(ctx);
        if !served.contains(&bit) || !bitmap::test(&self.alloc_map, bit) {
            return None;
        }
        let start = bitmap::last_set(&self.bound_map, served.start, bit + 1)?;
        Some((start, self.area_end(start)))
    }

    /// The end of the live area that starts at `start`.
    #[inline]
    pub(crate) fn area_end(&self, start: u32) -> u32 {
        bitmap::next_set(&self.bound_map, self.nr_bits().0, start + 1)
    }

    /// True if a live area starts at bit `start`.
    #[inline]
    pub fn is_area_start<M: Mode>(&self, m: M, start: u32) -> bool {
        let from = self.start_offset >> m.granule_shift();
        let end = self.nr_bits().0 - (self.end_offset >> m.granule_shift());
        (from..end).contains(&start) && bitmap::test(&self.alloc_map, start) && bitmap::test(&self.bound_map, start)
    }

    /// Reads what a free at bit `bit` in block `block` will need, so that the processor has begun to fetch it.
    #[inline]
    pub(crate) fn touch(&self, bit: u32, block: usize) {
        std::hint::black_box((self.alloc_map[(bit / bitmap::WORD_BITS) as usize], self.blocks[block].contig_hint));
    }

    /// The served bits, without the hidden ends.
    #[inline]
    pub fn served(&self, ctx: &Context) -> std::ops::Range<u32> {
        let g = &ctx.geometry;
        g.bytes_to_bits(self.start_offset()).0..self.nr_bits().0 - g.bytes_to_bits(self.end_offset()).0
    }

    /// Live areas in ascending order, as `[start, end)` in bits.
    pub fn areas(&self, ctx: &Context) -> Vec<(u32, u32)> {
        let served = self.served(ctx);
        let mut areas = Vec::with_capacity(self.nr_alloc as usize);
        let mut pos = served.start;
        loop {
            let start = bitmap::next_set(&self.alloc_map, served.end, pos);
            if start >= served.end {
                return areas;
            }
            let end = self.area_end(start);
            areas.push((start, end));
            pos = end;
        }
    }

    /// How many live areas there are, if their boundaries are right.
    pub(crate) fn count_areas(&self, ctx: &Context) -> u32 {
        let served = self.served(ctx);
        bitmap::count_both_within(&self.alloc_map, &self.bound_map, served.start, served.end)
    }

    /// True if every page of a range is populated.
    #[inline(always)]
    pub fn is_populated(&self, pages: std::ops::Range<u32>) -> bool {
        bitmap::next_zero(&self.populated, pages.end, pages.start) >= pages.end
    }

    /// The first maximal unpopulated range of pages in `[from, to)`.
    #[inline]
    pub fn unpopulated_range(&self, from: u32, to: u32) -> Option<(u32, u32)> {
        bitmap::clear_runs(&self.populated, from, to).next()
    }

    /// The first maximal populated range of pages in `[from, nr_pages)`.
    pub fn populated_range(&self, from: u32) -> Option<(u32, u32)> {
        bitmap::set_runs(&self.populated, from, self.nr_pages).next()
    }

    /// Number of populated pages that lie wholly inside the bits `[from, to)`.
    pub(crate) fn populated_pages_within<M: Mode>(&self, m: M, from: u32, to: u32) -> u32 {
        let bits = m.page_bits();
        bitmap::count_set(&self.populated, from.div_ceil(bits), to / bits)
    }

    /// True if page `page` has no allocated bit, read off its block's hint where that is one.
    #[inline]
    pub(crate) fn page_is_empty<M: Mode>(&self, m: M, page: u32) -> bool {
        if m.block_is_page() {
            self.blocks[page as usize].is_free()
        } else {
            self.page_is_free(m, page)
        }
    }

    /// True if page `page` has no allocated bit.
    #[inline]
    pub(crate) fn page_is_free<M: Mode>(&self, m: M, page: u32) -> bool {
        let bits = m.page_bits();
        let end = (page + 1) * bits;
        bitmap::next_set(&self.alloc_map, end, page * bits) >= end
    }
}
