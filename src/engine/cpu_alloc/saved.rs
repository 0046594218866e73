//! Writing the area down, and reading it back.

use serde_json::{json, Value};

use super::CpuAlloc;
use crate::bitmap;
use crate::cost::Meter;
use crate::engine::saved::bulk::{Kind, Reader, Writer};
use crate::engine::saved::{self, Fields};
use crate::engine::Setup;
use crate::error::StateError;
use crate::geometry::MAX_UNIT_SIZE;
use crate::units::Bytes;

/// Event counters stay within this.
const MAX_EVENTS: i64 = 1 << 62;

impl CpuAlloc {
    pub(super) fn to_saved(&self, out: &mut Writer) -> Value {
        out.section(Kind::Chunk, |out| out.words(&self.map));
        json!({
            "base_addr": self.base_addr,
            "static_size": self.static_size.0,
            "nr_units": self.nr_units,
            "first_free": self.first_free,
            "cpu_bytes": self.cpu_bytes,
            "miscounted": self.miscounted,
            "max_alloc_size": self.max_alloc_size.0,
            "async_enabled": self.async_enabled,
            "stats": saved::stats(&self.stats),
        })
    }

    pub(super) fn from_saved(setup: &Setup, saved: &Fields<'_>, bulk: &mut Reader<'_>) -> Result<Self, StateError> {
        let geometry = Self::geometry_of(setup);
        let granule = geometry.min_alloc_size().0;
        let nr_units = saved.number_to("nr_units", MAX_UNIT_SIZE / granule)? as u32;
        saved.check(nr_units > 0, "nr_units")?;
        let pages = geometry.bytes_to_pages_ceil(Bytes(u64::from(nr_units) * granule)).0;
        let mut populated = vec![0; bitmap::words_for(pages)];
        bitmap::set_range(&mut populated, 0, pages);
        let stats = saved.stats("stats")?;
        saved.check(stats.nr_cur_alloc <= stats.nr_max_alloc && stats.nr_chunks == 1, "stats")?;
        let mut chunk = bulk.section(Kind::Chunk, "area")?;
        let area = Self {
            geometry,
            base_addr: saved.number_to("base_addr", u64::MAX - MAX_UNIT_SIZE)?,
            static_size: Bytes(saved.number_to("static_size", MAX_UNIT_SIZE)?),
            nr_units,
            map: chunk.map("map", nr_units)?,
            first_free: saved.small("first_free")?,
            cpu_bytes: saved.signed_to("cpu_bytes", MAX_EVENTS)?,
            miscounted: saved.signed_to("miscounted", MAX_EVENTS)?,
            populated: populated.into(),
            max_alloc_size: Bytes(saved.number_to("max_alloc_size", MAX_UNIT_SIZE)?),
            async_enabled: saved.flag("async_enabled")?,
            stats,
            backend: setup.backend.clone(),
            meter: Meter::default(),
        };
        chunk.end()?;
        area.verify().map_err(|violation| saved.error("map", violation.to_string()))?;
        Ok(area)
    }
}
