//! Writing the maps and hints of a chunk down, and reading them back.

use serde_json::{json, Value};

use super::BitSpace;
use crate::block::Block;
use crate::engine::saved::Fields;
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::units::Pages;

impl BitSpace {
    pub(super) fn to_saved(&self) -> Value {
        let row = |b: &Block| [b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free];
        json!({
            "alloc_map": self.alloc_map,
            "bound_map": self.bound_map,
            "blocks": self.blocks.iter().map(row).collect::<Vec<_>>(),
            "free_bits": self.free_bits,
            "contig_hint": self.contig_hint,
            "contig_hint_start": self.contig_hint_start,
            "first_free_block": self.first_free_block,
            "nr_empty_pop_pages": self.nr_empty_pop_pages,
            "hidden": self.hidden,
        })
    }

    /// `verify` compares the rest with the maps.
    pub(super) fn from_saved(g: &Geometry, saved: &Fields<'_>, pages: Pages) -> Result<Self, StateError> {
        let mut space = Self::blank(g, pages);
        let bits = space.nr_bits;
        space.alloc_map = saved.words("alloc_map", bits)?;
        space.bound_map = saved.words("bound_map", bits + 1)?;
        let rows = saved.list("blocks")?;
        saved.check(rows.len() == space.blocks.len(), "blocks")?;
        for (block, row) in space.blocks.iter_mut().zip(rows) {
            let in_block = |n: &i64| (0..=i64::from(g.block_bits())).contains(n);
            let number = |value: &serde_json::Value| value.as_i64().filter(in_block).map(|n| n as i32);
            let row: Option<Vec<i32>> = row.as_array().and_then(|row| row.iter().map(number).collect());
            let Some(&[contig_hint, contig_hint_start, left_free, right_free, first_free]) = row.as_deref() else {
                return Err(saved.bad("blocks"));
            };
            *block = Block { contig_hint, contig_hint_start, left_free, right_free, first_free, ..*block };
        }
        let in_map = |name: &str| saved.number_to(name, u64::from(bits));
        space.free_bits = in_map("free_bits")? as u32;
        space.contig_hint = in_map("contig_hint")? as i32;
        space.contig_hint_start = in_map("contig_hint_start")? as i32;
        space.first_free_block = in_map("first_free_block")? as u32;
        space.hidden = in_map("hidden")? as u32;
        // A page is counted at most once when it is populated, on top of those that a refresh has found.
        space.nr_empty_pop_pages = saved.signed_to("nr_empty_pop_pages", 4 * i64::from(pages.0))? as i32;
        Ok(space)
    }
}
