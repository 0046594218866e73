//! Rescanning a chunk.
//!
//! Source: specification 90 section 3.

use super::BitSpace;
use crate::bitmap;
use crate::chunk::Role;
use crate::engine::early::Entry;
use crate::error::{ensure_invariant, Violation};
use crate::geometry::Geometry;

impl BitSpace {
    /// Compares what is kept with the map.
    pub(super) fn verify_space(&self, g: &Geometry, entry: &Entry<Self>) -> Result<(), Violation> {
        for index in 0..self.blocks.len() {
            self.verify_block(g, index)?;
        }
        let clear = self.nr_bits - bitmap::count_set(&self.alloc_map, 0, self.nr_bits);
        ensure_invariant!(
            self.free_bits == clear,
            "C1-free-bytes",
            "free_bits {} but {clear} bits are clear",
            self.free_bits
        );
        let hidden = bitmap::next_zero(&self.alloc_map, self.hidden, 0);
        ensure_invariant!(
            self.nr_bits == entry.pages.nr_pages() * g.page_bits() && hidden >= self.hidden,
            "C2-hidden-ends",
            "{} bits, {} hidden",
            self.nr_bits,
            self.hidden
        );
        ensure_invariant!(
            self.hidden < g.page_bits()
                && (self.hidden == 0 || entry.role != Role::Dynamic)
                && u64::from(self.hidden) == u64::from(entry.start_offset) / g.min_alloc_size().0
                && entry.end_offset == 0,
            "R2-no-ends",
            "{} hidden bits, {} bytes in front and {} behind",
            self.hidden,
            entry.start_offset,
            entry.end_offset
        );
        for (start, end) in bitmap::set_runs(&self.alloc_map, 0, self.nr_bits) {
            ensure_invariant!(
                bitmap::test(&self.bound_map, start) && bitmap::test(&self.bound_map, end),
                "C3-bounds",
                "allocated stretch {start}..{end} without boundaries"
            );
        }
        let areas = self.areas();
        ensure_invariant!(
            areas.len() == entry.nr_alloc as usize,
            "C4-nr-alloc",
            "nr_alloc {} but {} live areas",
            entry.nr_alloc,
            areas.len()
        );
        let range = 0..=self.nr_bits as i32;
        ensure_invariant!(
            range.contains(&self.contig_hint) && range.contains(&self.contig_hint_start),
            "C16-contig-bits",
            "{}@{} in {} bits",
            self.contig_hint,
            self.contig_hint_start,
            self.nr_bits
        );
        let below = self.blocks.iter().position(|block| block.contig_hint != 0).unwrap_or(self.blocks.len());
        ensure_invariant!(
            self.first_free_block as usize <= below,
            "R1-first-free-block",
            "first_free_block {} but block {below} has room",
            self.first_free_block
        );
        Ok(())
    }

    fn verify_block(&self, g: &Geometry, index: usize) -> Result<(), Violation> {
        let (bits, block) = (g.block_bits(), &self.blocks[index]);
        let size = bits as i32;
        let base = index as u32 * bits;
        let runs = bitmap::clear_runs(&self.alloc_map, base, base + bits);
        let runs: Vec<(i32, i32)> = runs.map(|(s, e)| ((s - base) as i32, (e - base) as i32)).collect();
        let left = runs.first().filter(|run| run.0 == 0).map_or(0, |run| run.1);
        let right = runs.last().filter(|run| run.1 == size).map_or(0, |run| size - run.0);
        let longest = runs.iter().map(|(s, e)| e - s).max().unwrap_or(0);
        let run = (block.contig_hint_start, block.contig_hint_start + block.contig_hint);
        let first = runs.first().map(|run| run.0);
        let first_free = first.is_some_and(|first| first == block.first_free)
            || (first.is_none() && (0..=size).contains(&block.first_free));
        for (holds, invariant) in [
            (block.left_free == left, "B1-left-free"),
            (block.right_free == right, "B2-right-free"),
            (first_free, "B3-first-free"),
            (block.contig_hint == longest, "B4-contig-hint"),
            (longest == 0 || runs.contains(&run), "B5-contig-range"),
            ((block.contig_hint == 0) == runs.is_empty(), "B7-contig-zero"),
        ] {
            ensure_invariant!(holds, invariant, "block {index} {block:?}: free runs {runs:?}");
        }
        Ok(())
    }
}
