//! Writing the maps and hints of a chunk down, and reading them back.

use super::BitSpace;
use crate::block::Block;
use crate::engine::saved::bulk::{Section, Writer};
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::units::Pages;

impl BitSpace {
    pub(super) fn to_saved(&self, out: &mut Writer) {
        out.words(&self.alloc_map);
        out.words(&self.bound_map);
        let row = |b: &Block| [b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free, 0];
        out.rows(self.blocks.len(), self.blocks.iter().map(|block| row(block).map(|number| number as u32)));
        let hints = [self.contig_hint, self.contig_hint_start, self.nr_empty_pop_pages];
        hints.into_iter().for_each(|number| out.word(i64::from(number) as u64));
        [self.free_bits, self.first_free_block, self.hidden].into_iter().for_each(|number| out.word(number.into()));
    }

    /// `verify` compares the rest with the maps.
    pub(super) fn from_saved(g: &Geometry, saved: &mut Section<'_>, pages: Pages) -> Result<Self, StateError> {
        let mut space = Self::blank(g, pages);
        let bits = space.nr_bits;
        space.alloc_map = saved.map("alloc_map", bits)?;
        space.bound_map = saved.map("bound_map", bits + 1)?;
        let in_block = 0..=g.block_bits() as i32;
        for (block, row) in space.blocks.iter_mut().zip(saved.rows::<6>("blocks", pages.0 as usize)?) {
            let row @ [contig_hint, contig_hint_start, left_free, right_free, first_free, filling] =
                row.map(|number| number as i32);
            saved.check(row.iter().all(|number| in_block.contains(number)) && filling == 0, "blocks")?;
            *block = Block { contig_hint, contig_hint_start, left_free, right_free, first_free, ..*block };
        }
        space.contig_hint = saved.word_to("contig_hint", bits.into())? as i32;
        space.contig_hint_start = saved.word_to("contig_hint_start", bits.into())? as i32;
        // A page is counted at most once when it is populated, on top of those that a refresh has found.
        space.nr_empty_pop_pages = saved.signed_to("nr_empty_pop_pages", 4 * i64::from(pages.0))? as i32;
        space.free_bits = saved.word_to("free_bits", bits.into())? as u32;
        space.first_free_block = saved.word_to("first_free_block", bits.into())? as u32;
        space.hidden = saved.word_to("hidden", bits.into())? as u32;
        Ok(space)
    }
}
