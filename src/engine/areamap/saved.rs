//! Writing the areas of a chunk down, and reading them back.

use super::{AreaMap, GRANULE, IN_USE};
use crate::engine::saved::bulk::{Section, Writer};
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::units::Pages;

/// No array ever needs more entries: an area for each granule of the largest unit, and room to grow.
const MAX_CAPACITY: u64 = 1 << 30;

impl AreaMap {
    pub(super) fn to_saved(&self, out: &mut Writer) {
        let map = self.entries();
        let first_free = self.areas.index(self.first_free);
        let numbers = [map.len() as u32, self.capacity, first_free, self.free_size, self.contig_hint];
        numbers.into_iter().for_each(|number| out.word(number.into()));
        [self.has_reserved, self.queued].into_iter().for_each(|flag| out.word(flag.into()));
        out.rows(map.len(), map.iter().map(|entry| [*entry]));
    }

    /// `verify` compares the rest with the areas.
    pub(super) fn from_saved(g: &Geometry, saved: &mut Section<'_>, pages: Pages) -> Result<Self, StateError> {
        let unit = g.unit_size().0;
        let len = saved.word_to("map", unit + 1)? as usize;
        let capacity = saved.word_to("map_alloc", MAX_CAPACITY)? as u32;
        let first_free = saved.word("first_free")? as usize;
        let free_size = saved.word_to("free_size", unit)? as u32;
        let contig_hint = saved.word_to("contig_hint", unit)? as u32;
        let (has_reserved, queued) = (saved.flag("has_reserved")?, saved.flag("queued")?);
        let map: Vec<u32> = saved.rows::<1>("map", len)?.map(|[entry]| entry).collect();
        saved.check(len >= 2 && pages == g.unit_pages(), "map")?;
        saved.check(first_free < len, "first_free")?;
        // What the sets of positions can hold at all; `verify` judges the rest.
        let rising = map.windows(2).all(|pair| pair[0] & !IN_USE < pair[1] & !IN_USE);
        let end = map[len - 1];
        let ends = (map[0] & !IN_USE == 0) && end & IN_USE != 0 && u64::from(end & !IN_USE) <= unit;
        let even = map.iter().all(|entry| (entry & !IN_USE) % GRANULE == 0);
        saved.check(rising && ends && even, "map")?;
        let space = Self {
            first_free: (map[first_free] & !IN_USE) / GRANULE,
            contig_hint,
            queued,
            ..Self::with_areas(&map, capacity, free_size, has_reserved)
        };
        saved.check(!space.has_reserved || map[0] & IN_USE != 0, "has_reserved")?;
        Ok(space)
    }
}
