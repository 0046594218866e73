//! Writing the areas of a chunk down, and reading them back.

use serde_json::{json, Value};

use super::{AreaMap, IN_USE};
use crate::engine::saved::Fields;
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::units::Pages;

/// No array ever needs more entries: an area for each granule of the largest unit, and room to grow.
const MAX_CAPACITY: u64 = 1 << 30;

impl AreaMap {
    pub(super) fn to_saved(&self) -> Value {
        json!({
            "map": self.map,
            "map_alloc": self.capacity,
            "first_free": self.first_free,
            "free_size": self.free_size,
            "contig_hint": self.contig_hint,
            "has_reserved": self.has_reserved,
            "queued": self.queued,
        })
    }

    /// `verify` compares the rest with the areas.
    pub(super) fn from_saved(g: &Geometry, saved: &Fields<'_>, pages: Pages) -> Result<Self, StateError> {
        let unit = g.unit_size().0;
        let map = saved.numbers_to("map", unit | u64::from(IN_USE))?;
        saved.check(map.len() >= 2 && pages == g.unit_pages(), "map")?;
        let space = Self {
            map: map.into_iter().map(|entry| entry as u32).collect(),
            capacity: saved.number_to("map_alloc", MAX_CAPACITY)? as u32,
            first_free: saved.small("first_free")?,
            free_size: saved.small("free_size")?,
            contig_hint: saved.number_to("contig_hint", unit)? as u32,
            has_reserved: saved.flag("has_reserved")?,
            queued: saved.flag("queued")?,
        };
        saved.check(!space.has_reserved || space.in_use(0), "has_reserved")?;
        Ok(space)
    }
}
