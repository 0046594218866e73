//! Writing the areas of a chunk down, and reading them back.

use serde_json::{json, Value};

use super::{AreaMap, GRANULE, IN_USE};
use crate::engine::saved::Fields;
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::units::Pages;

/// No array ever needs more entries: an area for each granule of the largest unit, and room to grow.
const MAX_CAPACITY: u64 = 1 << 30;

impl AreaMap {
    pub(super) fn to_saved(&self) -> Value {
        json!({
            "map": self.entries(),
            "map_alloc": self.capacity,
            "first_free": self.areas.index(self.first_free),
            "free_size": self.free_size,
            "contig_hint": self.contig_hint,
            "has_reserved": self.has_reserved,
            "queued": self.queued,
        })
    }

    /// `verify` compares the rest with the areas.
    pub(super) fn from_saved(g: &Geometry, saved: &Fields<'_>, pages: Pages) -> Result<Self, StateError> {
        let unit = g.unit_size().0;
        let map: Vec<u32> =
            saved.numbers_to("map", unit | u64::from(IN_USE))?.into_iter().map(|entry| entry as u32).collect();
        saved.check(map.len() >= 2 && pages == g.unit_pages(), "map")?;
        // What the sets of positions can hold at all; `verify` judges the rest.
        let rising = map.windows(2).all(|pair| pair[0] & !IN_USE < pair[1] & !IN_USE);
        let ends = (map[0] & !IN_USE == 0) && map[map.len() - 1] & IN_USE != 0;
        let even = map.iter().all(|entry| (entry & !IN_USE) % GRANULE == 0);
        saved.check(rising && ends && even, "map")?;
        let first_free = saved.number_to("first_free", map.len() as u64 - 1)? as usize;
        let space = Self {
            first_free: (map[first_free] & !IN_USE) / GRANULE,
            contig_hint: saved.number_to("contig_hint", unit)? as u32,
            queued: saved.flag("queued")?,
            ..Self::with_areas(
                &map,
                saved.number_to("map_alloc", MAX_CAPACITY)? as u32,
                saved.small("free_size")?,
                saved.flag("has_reserved")?,
            )
        };
        saved.check(!space.has_reserved || map[0] & IN_USE != 0, "has_reserved")?;
        Ok(space)
    }
}
