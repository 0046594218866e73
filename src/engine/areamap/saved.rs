//! Writing the areas of a chunk down, and reading them back.
//!
//! As the array if that is short, else as sets at the coarsest granule that the areas allow: what is written depends
//! on the areas alone.

use super::{AreaMap, Areas, GRANULE, IN_USE};
use crate::engine::saved::bulk::{Section, Writer};
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::units::Pages;

/// No array ever needs more entries: an area for each granule of the largest unit, and room to grow.
const MAX_CAPACITY: u64 = 1 << 30;

impl AreaMap {
    pub(super) fn to_saved(&self, out: &mut Writer) {
        let numbers = [self.capacity, self.first_free, self.free_size, self.contig_hint, self.used() + 1];
        numbers.into_iter().for_each(|number| out.word(number.into()));
        [self.has_reserved, self.queued].into_iter().for_each(|flag| out.word(flag.into()));
        let (shift, starts, free) = self.areas.canonical();
        if is_short(self.used() as usize + 1, self.areas.end(), shift) {
            out.word(0);
            let map = self.entries();
            out.rows(map.len(), map.iter().map(|entry| [*entry]));
        } else {
            out.word(shift.into());
            out.word(self.areas.end().into());
            out.words(&starts);
            out.words(&free);
        }
    }

    /// `verify` compares the rest with the areas.
    pub(super) fn from_saved(g: &Geometry, saved: &mut Section<'_>, pages: Pages) -> Result<Self, StateError> {
        let unit = g.unit_size().0;
        let capacity = saved.word_to("map_alloc", MAX_CAPACITY)? as u32;
        let first_free = saved.word_to("first_free", unit)? as u32;
        let free_size = saved.word_to("free_size", unit)? as u32;
        let contig_hint = saved.word_to("contig_hint", unit)? as u32;
        let len = saved.word_to("map", unit + 1)? as usize;
        let (has_reserved, queued) = (saved.flag("has_reserved")?, saved.flag("queued")?);
        let shift = saved.word_to("shift", 16)? as u32;
        saved.check(len >= 2 && pages == g.unit_pages(), "map")?;
        let areas =
            if shift == 0 { read_array(saved, len, unit)? } else { read_sets(saved, shift, unit, contig_hint)? };
        saved.check(areas.used() as usize + 1 == len, "map")?;
        saved.check(!has_reserved || !areas.is_free(0), "has_reserved")?;
        Ok(Self { areas, capacity, first_free, free_size, contig_hint, exact: false, has_reserved, queued })
    }
}

/// Whether the array of so many entries takes less than the two sets.
fn is_short(entries: usize, end: u32, shift: u32) -> bool {
    entries * 16 < (end >> shift) as usize
}

fn read_array(saved: &mut Section<'_>, len: usize, unit: u64) -> Result<Areas, StateError> {
    let map = saved.rows::<1>("map", len)?.map(|[entry]| (entry & !IN_USE, entry & IN_USE != 0));
    let map: Vec<(u32, bool)> = map.collect();
    // What the sets of positions can hold at all; `verify` judges the rest.
    let rising = map.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let (end, end_in_use) = map[len - 1];
    let even = map.iter().all(|(start, _)| start % GRANULE == 0);
    saved.check(rising && map[0].0 == 0 && end_in_use && u64::from(end) <= unit && even, "map")?;
    Ok(Areas::of(&map))
}

fn read_sets(saved: &mut Section<'_>, shift: u32, unit: u64, largest: u32) -> Result<Areas, StateError> {
    let end = saved.word_to("end", unit)? as u32;
    let bits = (end >> shift) + 1;
    let (starts, free) = (saved.map("starts", bits)?, saved.map("free", bits)?);
    let areas = Areas::of_sets(end, shift, &starts, &free, largest);
    areas.ok_or_else(|| saved.error("starts", "and free ones are no areas"))
}
