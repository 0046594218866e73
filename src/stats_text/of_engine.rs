//! The statistics of a running engine, without a detour over a state.

use super::{fragmentation, ChunkLabel, ChunkStats, MapView, PercpuStats, StatsForm, StatsGlobals, StatsSizes};
use crate::chunk::Role;
use crate::engine::{ChunkView, Engine};
use crate::request::ChunkId;

impl PercpuStats {
    /// The content of the text for an engine; sizes of the layout come from outside.
    pub fn of_engine(engine: &dyn Engine, sizes: StatsSizes) -> PercpuStats {
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
        let granule = engine.geometry().min_alloc_size().0;
        let chunks = chunks.map(|view| chunk_stats(&view, label(&view, view.slot), granule)).collect();
        PercpuStats { form: StatsForm::Linux, sizes, globals, chunks }
    }
}

fn chunk_stats(view: &ChunkView<'_>, label: ChunkLabel, granule: u64) -> ChunkStats {
    let bound = view.bound_map.as_deref().unwrap_or_default();
    let map = MapView {
        alloc: &view.alloc_map,
        bound,
        nr_bits: view.hints.map_or(0, |hints| hints.nr_bits as usize),
        start: (view.start_offset.0 / granule) as usize,
        end: (view.end_offset.0 / granule) as usize,
        granule,
    };
    ChunkStats {
        label,
        nr_alloc: i64::from(view.nr_alloc),
        max_alloc_size: view.max_alloc_size.0 as i64,
        empty_pop_pages: i64::from(view.nr_empty_pop_pages.unwrap_or(0)),
        first_bit: view.hints.map_or(0, |hints| i64::from(hints.first_free)),
        free_bytes: view.free_bytes.0 as i64,
        contig_bytes: view.hints.map_or(0, |hints| i64::from(hints.contig_hint)) * granule as i64,
        frag: fragmentation(map),
        memcg_aware: false,
    }
}
