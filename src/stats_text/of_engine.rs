//! The statistics of a running engine, without a detour over a state.

use super::{
    fragmentation, fragmentation_of_areas, ChunkLabel, ChunkStats, MapView, PercpuStats, StatsForm, StatsGlobals,
    StatsSizes,
};
use crate::chunk::Role;
use crate::engine::{ChunkView, Engine, Older};
use crate::geometry::Geometry;
use crate::request::ChunkId;
use crate::variant::Generation;

impl PercpuStats {
    /// The content of the text for an engine; sizes of the layout come from outside. `None` for what had
    /// no such file, as the proposal of 2008.
    pub fn of_engine(engine: &dyn Engine, sizes: StatsSizes) -> Option<PercpuStats> {
        let form = match engine.generation() {
            Generation::AreaMap => StatsForm::AreaMap,
            Generation::RfcV1 => StatsForm::RfcV1,
            generation if generation.rules().is_some() => StatsForm::Linux,
            _ => return None,
        };
        let stats = engine.stats();
        let globals = StatsGlobals {
            nr_alloc: stats.nr_alloc,
            nr_dealloc: stats.nr_dealloc,
            nr_cur_alloc: stats.nr_cur_alloc,
            nr_max_alloc: stats.nr_max_alloc,
            nr_chunks: u64::from(stats.nr_chunks),
            nr_max_chunks: u64::from(stats.nr_max_chunks),
            min_alloc_size: stats.min_alloc_size.0,
            max_alloc_size: stats.max_alloc_size.0,
            empty_pop_pages: engine.totals().nr_empty_pop_pages as u64,
        };
        let numbers = engine.slot_numbers();
        let label = |view: &ChunkView<'_>, slot: Option<u32>| match view.role {
            Role::Reserved => ChunkLabel::Reserved,
            Role::First => ChunkLabel::First,
            Role::Dynamic if slot.is_some() && slot == numbers.to_depopulate => ChunkLabel::ToDepopulate,
            Role::Dynamic if slot.is_some() && slot == numbers.sidelined => ChunkLabel::Sidelined,
            Role::Dynamic => ChunkLabel::Plain,
        };
        let listed = engine.slots().into_iter().flatten();
        let reserved = engine.chunk(ChunkId::RESERVED).is_some().then_some(ChunkId::RESERVED);
        let chunks = reserved.into_iter().chain(listed).filter_map(|id| engine.chunk(id));
        let geometry = engine.geometry();
        let chunks = chunks.map(|view| chunk_stats(&view, label(&view, view.slot), geometry)).collect();
        Some(PercpuStats { form, sizes, globals, chunks })
    }
}

fn chunk_stats(view: &ChunkView<'_>, label: ChunkLabel, geometry: &Geometry) -> ChunkStats {
    let granule = geometry.min_alloc_size().0;
    let map = |start: u64, end: u64| MapView {
        alloc: &view.alloc_map,
        bound: view.bound_map.as_deref().unwrap_or_default(),
        nr_bits: geometry.pages_to_bits(view.nr_pages).0 as usize,
        start: start as usize,
        end: end as usize,
        granule,
    };
    let (first_bit, contig_bytes, frag) = match (view.older, view.hints) {
        (Some(Older::AreaMap { contig_hint, has_reserved, .. }), _) => {
            let areas: Vec<i32> =
                view.area_map.as_deref().unwrap_or_default().iter().map(|entry| *entry as i32).collect();
            (0, contig_hint.0, fragmentation_of_areas(&areas, has_reserved))
        }
        (Some(Older::RfcV1 { contig_hint, first_free_block, has_reserved, .. }), _) => {
            // Kernel: the walk starts at the bit whose number is the reserved offset in bytes (13 section 8).
            let start = if has_reserved { view.start_offset.0 } else { 0 };
            (i64::from(first_free_block), u64::from(contig_hint.0) * granule, fragmentation(map(start, 0)))
        }
        (_, hints) => {
            let (first, contig) = hints.map_or((0, 0), |hints| (hints.first_free, hints.contig_hint));
            let frag = fragmentation(map(view.start_offset.0 / granule, view.end_offset.0 / granule));
            (i64::from(first), contig as u64 * granule, frag)
        }
    };
    ChunkStats {
        label,
        nr_alloc: i64::from(view.nr_alloc),
        max_alloc_size: view.max_alloc_size.0 as i64,
        empty_pop_pages: i64::from(view.nr_empty_pop_pages.unwrap_or(0)),
        first_bit,
        free_bytes: view.free_bytes.0 as i64,
        contig_bytes: contig_bytes as i64,
        frag,
        memcg_aware: false,
    }
}
