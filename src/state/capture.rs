//! From an engine to a state and back.
//!
//! A capture takes everything as it is. A restore recomputes nothing. It checks shapes, maps,
//! lists and counts first, so that nothing later can go wrong; hints are taken as they are, because a
//! kernel's may be stale in ways that no rule excludes. `Linux::verify` judges them too.
//!
//! Source: specification 50 section 1.

use std::mem::take;

use super::{md, ChunkState, Hints, State, StatsCounters};
use crate::backend::Backend;
use crate::block::Block;
use crate::chunk::{Chunk, Context, Role};
use crate::engine::linux::Linux;
use crate::engine::{Engine, Setup, Stats};
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::request::ChunkId;
use crate::units::Bytes;
use crate::variant::Preset;

impl From<Block> for Hints {
    fn from(block: Block) -> Self {
        let mut row = [0; 8];
        row[md::SCAN_HINT] = block.scan_hint;
        row[md::SCAN_HINT_START] = block.scan_hint_start;
        row[md::CONTIG_HINT] = block.contig_hint;
        row[md::CONTIG_HINT_START] = block.contig_hint_start;
        row[md::LEFT_FREE] = block.left_free;
        row[md::RIGHT_FREE] = block.right_free;
        row[md::FIRST_FREE] = block.first_free;
        row[md::NR_BITS] = block.nr_bits;
        row
    }
}

fn block(row: &Hints) -> Block {
    Block {
        scan_hint: row[md::SCAN_HINT],
        scan_hint_start: row[md::SCAN_HINT_START],
        contig_hint: row[md::CONTIG_HINT],
        contig_hint_start: row[md::CONTIG_HINT_START],
        left_free: row[md::LEFT_FREE],
        right_free: row[md::RIGHT_FREE],
        first_free: row[md::FIRST_FREE],
        nr_bits: row[md::NR_BITS],
    }
}

impl State {
    /// The state of an engine. What an engine does not know (groups, CPUs, static size) is empty.
    pub fn capture(linux: &Linux) -> State {
        let chunk = |id| chunk_state(linux.chunk(id).expect("listed by chunk_ids"));
        let totals = Self::capture_totals(linux);
        State { chunks: linux.chunk_ids().map(chunk).collect(), slots: slots_of(linux), ..totals }
    }

    /// The same without chunks and lists.
    pub(crate) fn capture_totals(linux: &Linux) -> State {
        let geometry = linux.ctx.geometry;
        let ids: Vec<ChunkId> = linux.chunk_ids().collect();
        let index_of = |id: ChunkId| ids.binary_search(&id).ok();
        let totals = linux.totals();
        let stats = Engine::stats(linux);
        let numbers = linux.numbers;
        State {
            unit_pages: geometry.unit_pages().0,
            unit_size: geometry.unit_size().0,
            min_alloc_size: geometry.min_alloc_size().0,
            block_size: geometry.block_size().0,
            nr_units: geometry.nr_units(),
            atom_size: None,
            nr_slots: numbers.nr_slots,
            free_slot: numbers.free,
            sidelined_slot: numbers.sidelined,
            to_depopulate_slot: numbers.to_depopulate,
            low_unit_cpu: None,
            high_unit_cpu: None,
            group_offsets: Vec::new(),
            group_sizes: Vec::new(),
            unit_map: Vec::new(),
            unit_offsets: Vec::new(),
            base_addr: linux.boot_base,
            per_cpu_start: 0,
            static_size: 0,
            nr_cpu_ids: None,
            nr_empty_pop_pages: linux.nr_empty_pop_pages,
            nr_populated: i64::from(linux.nr_populated),
            atomic_failed: totals.atomic_failed,
            async_enabled: totals.async_enabled,
            balance_pending: linux.balance_pending(),
            stats: Some(StatsCounters {
                nr_alloc: stats.nr_alloc,
                nr_dealloc: stats.nr_dealloc,
                nr_cur_alloc: stats.nr_cur_alloc,
                nr_max_alloc: stats.nr_max_alloc,
                nr_chunks: stats.nr_chunks,
                nr_max_chunks: stats.nr_max_chunks,
                min_alloc_size: stats.min_alloc_size.0,
                max_alloc_size: stats.max_alloc_size.0,
            }),
            first_chunk: linux.first.and_then(index_of),
            reserved_chunk: index_of(ChunkId::RESERVED),
            slots: Vec::new(),
            chunks: Vec::new(),
            other_globals: serde_json::Map::new(),
            other: serde_json::Map::new(),
        }
    }

    /// The same state with the facts about the machine, which no operation changes, from `machine`.
    pub fn on_machine(self, machine: &State) -> State {
        State {
            atom_size: machine.atom_size,
            low_unit_cpu: machine.low_unit_cpu,
            high_unit_cpu: machine.high_unit_cpu,
            group_offsets: machine.group_offsets.clone(),
            group_sizes: machine.group_sizes.clone(),
            unit_map: machine.unit_map.clone(),
            unit_offsets: machine.unit_offsets.clone(),
            base_addr: machine.base_addr,
            per_cpu_start: machine.per_cpu_start,
            static_size: machine.static_size,
            nr_cpu_ids: machine.nr_cpu_ids,
            ..self
        }
    }

    /// An engine in this state, by the rules of `preset`.
    ///
    /// The first chunk gets number 0, the others follow in the order of the state. Without an atom
    /// size the state is of a one-CPU kernel, whose chunks are contiguous memory. Where the state has
    /// no statistics they begin with the live areas.
    pub fn restore(&self, preset: &Preset) -> Result<Linux, StateError> {
        self.clone().restore_taking(preset)
    }

    /// The same; maps and hints are taken out of the state.
    pub(crate) fn restore_taking(&mut self, preset: &Preset) -> Result<Linux, StateError> {
        self.validate()?;
        let rules = preset.generation.rules().ok_or_else(|| {
            StateError::new("globals", format!("a state of this form is not of {}", preset.generation))
        })?;
        let geometry = Geometry::new(
            Bytes(self.page_size()),
            Bytes(self.min_alloc_size),
            Bytes(self.block_size),
            Bytes(self.unit_size),
            self.nr_units,
        )
        .map_err(|error| StateError::new("globals", error.to_string()))?;
        let ctx = Context { geometry, rules };
        let setup = Setup {
            geometry,
            rules,
            warn_atomic: preset.warn_atomic,
            async_enabled: self.async_enabled,
            boot: None,
            backend: self.backend(preset),
        };
        let mut linux = Linux::empty(&setup, ctx);
        let numbers = linux.numbers;
        let recorded = (self.nr_slots, self.free_slot, self.sidelined_slot, self.to_depopulate_slot);
        let wanted = (numbers.nr_slots, numbers.free, numbers.sidelined, numbers.to_depopulate);
        if recorded != wanted {
            let text =
                format!("{recorded:?} (lists, free, sidelined, to_depopulate), but {wanted:?} follows from the unit");
            return Err(StateError::new("globals.pcpu_nr_slots", text));
        }
        let order = self.first_chunk.into_iter().chain((0..self.chunks.len()).filter(|i| Some(*i) != self.first_chunk));
        let mut ids = vec![ChunkId::RESERVED; self.chunks.len()];
        let mut number = 0;
        for index in order {
            let role = match Some(index) {
                i if i == self.first_chunk => Role::First,
                i if i == self.reserved_chunk => Role::Reserved,
                _ => Role::Dynamic,
            };
            let chunk = restored_chunk(&mut self.chunks[index], role, &ctx);
            if role == Role::Reserved {
                linux.reserved = Some(Box::new(chunk));
                continue;
            }
            ids[index] = ChunkId(number);
            linux.insert_chunk(ids[index], chunk);
            number += 1;
        }
        for (slot, list) in self.slots.iter().enumerate() {
            list.iter().for_each(|index| linux.slots.push_back(slot as u32, ids[*index]));
        }
        self.restore_totals(&mut linux, self.first_chunk.map(|index| ids[index]))?;
        linux.verify_accounts().map_err(|violation| StateError::new("state", violation.to_string()))?;
        Ok(linux)
    }

    fn backend(&self, preset: &Preset) -> Backend {
        let span = self.group_offsets.iter().zip(&self.group_sizes).map(|(o, s)| o.saturating_add(*s)).max();
        let atom = self.atom_size.filter(|atom| *atom > 0).unwrap_or(self.page_size());
        let cpus = self.unit_map.iter().flatten().count() as u32;
        let mut backend = Backend::new(cpus.max(1), self.page_size(), atom, span.unwrap_or(self.unit_size));
        backend.contiguous = self.atom_size.is_none();
        backend.unmap_nothing = preset.unmap_nothing;
        let dynamic = self.chunks.iter().filter(|chunk| !chunk.immutable);
        let pages: u64 = dynamic.map(|chunk| u64::from(chunk.nr_populated)).sum();
        backend.backing_pages = pages * u64::from(cpus.max(1));
        backend
    }

    fn restore_totals(&self, linux: &mut Linux, first: Option<ChunkId>) -> Result<(), StateError> {
        linux.first = first;
        let boot = self.first_chunk.or(self.reserved_chunk).is_some();
        linux.boot_base = if boot { self.base_addr } else { 0 };
        for index in self.first_chunk.into_iter().chain(self.reserved_chunk) {
            let base = self.chunks[index].base_addr;
            if base.checked_sub(self.base_addr).is_none_or(|off| off >= self.unit_size) {
                let text = format!("{base:#x} is not in the unit at pcpu_base_addr={:#x}", self.base_addr);
                return Err(StateError::new(format!("chunks[{index}].base_addr"), text));
            }
        }
        linux.nr_empty_pop_pages = self.nr_empty_pop_pages;
        let dynamic: i64 =
            self.chunks.iter().filter(|chunk| !chunk.immutable).map(|chunk| i64::from(chunk.nr_populated)).sum();
        let populated = u32::try_from(self.nr_populated).ok().zip(u32::try_from(self.nr_populated - dynamic).ok());
        let Some((all, boot)) = populated else {
            let text = format!("{}, but later chunks alone have {dynamic}", self.nr_populated);
            return Err(StateError::new("globals.pcpu_nr_populated", text));
        };
        linux.nr_populated = all;
        linux.boot_populated = boot;
        linux.atomic_failed = self.atomic_failed;
        linux.balance_pending = self.balance_pending;
        let live: u64 = linux.chunk_ids().filter_map(|id| linux.chunk(id)).map(|c| u64::from(c.nr_alloc)).sum();
        let largest = linux.chunk_ids().filter_map(|id| linux.chunk(id)).map(Chunk::max_alloc_size).max();
        let nr_chunks = self.chunks.len() as u32 - u32::from(self.reserved_chunk.is_some());
        linux.stats = match &self.stats {
            Some(stats) => Stats {
                nr_alloc: stats.nr_alloc,
                nr_dealloc: stats.nr_dealloc,
                nr_cur_alloc: stats.nr_cur_alloc,
                nr_max_alloc: stats.nr_max_alloc,
                nr_chunks: stats.nr_chunks,
                nr_max_chunks: stats.nr_max_chunks,
                min_alloc_size: Bytes(stats.min_alloc_size),
                max_alloc_size: Bytes(stats.max_alloc_size),
            },
            None => Stats {
                nr_alloc: live,
                nr_dealloc: 0,
                nr_cur_alloc: live,
                nr_max_alloc: live,
                nr_chunks,
                nr_max_chunks: nr_chunks,
                min_alloc_size: largest.filter(|size| size.0 > 0).unwrap_or(Bytes(self.unit_size)),
                max_alloc_size: largest.unwrap_or_default(),
            },
        };
        Ok(())
    }
}

fn chunk_state(chunk: &Chunk) -> ChunkState {
    ChunkState {
        base_addr: chunk.base_addr,
        free_bytes: chunk.free_bytes,
        start_offset: chunk.start_offset,
        end_offset: chunk.end_offset,
        nr_pages: chunk.nr_pages,
        nr_populated: chunk.nr_populated,
        nr_empty_pop_pages: chunk.nr_empty_pop_pages,
        immutable: chunk.immutable(),
        isolated: chunk.isolated,
        nr_alloc: Some(u64::from(chunk.nr_alloc)),
        max_alloc_size: Some(u64::from(chunk.max_alloc_size)),
        chunk_md: chunk.md.into(),
        md_blocks: chunk.blocks.iter().map(|block| (*block).into()).collect(),
        alloc_map: chunk.alloc_map.to_vec(),
        bound_map: chunk.bound_map.to_vec(),
        populated: chunk.populated.to_vec(),
        other: serde_json::Map::new(),
    }
}

/// For each list the places of its chunks among `Linux::chunk_ids`.
pub(super) fn slots_of(linux: &Linux) -> Vec<Vec<usize>> {
    let ids: Vec<ChunkId> = linux.chunk_ids().collect();
    let lists = linux.slots().iter_lists();
    lists.map(|list| list.filter_map(|id| ids.binary_search(&id).ok()).collect()).collect()
}

fn restored_chunk(state: &mut ChunkState, role: Role, ctx: &Context) -> Chunk {
    let blocks: Box<[Block]> = take(&mut state.md_blocks).iter().map(block).collect();
    let mut chunk = Chunk {
        base_addr: state.base_addr,
        role,
        free_bytes: state.free_bytes,
        alloc_map: take(&mut state.alloc_map).into(),
        bound_map: take(&mut state.bound_map).into(),
        whole: Chunk::whole_of(&blocks),
        blocks,
        md: block(&state.chunk_md),
        populated: take(&mut state.populated).into(),
        nr_pages: state.nr_pages,
        nr_populated: state.nr_populated,
        nr_empty_pop_pages: state.nr_empty_pop_pages,
        start_offset: state.start_offset,
        end_offset: state.end_offset,
        isolated: state.isolated,
        nr_alloc: 0,
        max_alloc_size: 0,
    };
    chunk.nr_alloc = chunk.count_areas(ctx);
    chunk.max_alloc_size = match state.max_alloc_size {
        Some(size) => size as u32,
        None => {
            let largest = chunk.areas(ctx).iter().map(|(start, end)| end - start).max().unwrap_or(0);
            ctx.geometry.bits_to_bytes(crate::units::Bits(largest)).0 as u32
        }
    };
    chunk
}
