//! Complete states of an allocator as plain data: recorded files, snapshots.
//!
//! # Design
//!
//! A [`State`] is everything a state file holds, and nothing that could be computed from it:
//! maps, every hint with its stale values, the order of every list, counters. It belongs to
//! no engine. Files are JSON ([`State::from_json`], [`State::to_json`]); keys that the model
//! has no use for are kept and written back.
//!
//! ```text
//!   slots[0]  -> 7                 indices into chunks, head of the list first
//!   slots[12] -> 0 -> 3
//!   chunks[0]    alloc_map  0110 1...   md_blocks[0]  md_blocks[1] ...   chunk_md
//! ```
//!
//! # Units
//!
//! Sizes, offsets and addresses in bytes; map positions and hints in bits, one bit for each
//! `min_alloc_size` bytes, block-relative in `md_blocks` and chunk-relative in `chunk_md`;
//! populations in pages.
//!
//! # Invariants
//!
//! Checked by [`State::validate`], which names the path of what breaks one:
//! V1 lengths of maps, lists and rows fit the sizes; no bit beyond a map.
//! V2 every chunk but the reserved one is in exactly one list, the reserved one in none.
//! V3 `free_bytes` and `nr_populated` count their maps; the hidden ends are in use.
//! V4 hints, and the runs they denote, lie within their block or chunk.
//! V5 lifetime counters agree with each other and with the chunks.
//! V6 where there are sidelined chunks (5.14 and later): empty populated pages, per chunk and
//! in total, count the maps; a chunk is isolated if and only if its list says so.
//!
//! # Cost
//!
//! All operations are linear in the size of the maps.
//!
//! # Source
//!
//! README of the recordings, "State files"; specification 00, 21 section 1, 22, 50 section 1.

mod bulk;
mod capture;
mod diff;
mod json;

pub use diff::{DiffOptions, Difference};
pub use json::parse;

use serde_json::{Map, Value};

use crate::bitmap;
use crate::error::StateError;
use crate::geometry::MAX_UNIT_SIZE;

/// Columns of a row of hints.
pub const MD_FIELDS: [&str; 8] = [
    "scan_hint",
    "scan_hint_start",
    "contig_hint",
    "contig_hint_start",
    "left_free",
    "right_free",
    "first_free",
    "nr_bits",
];

/// One row of hints in bits, columns as in [`MD_FIELDS`].
pub type Hints = [i32; 8];

/// Positions of the columns of [`Hints`].
pub mod md {
    /// Length of the smaller free run before the largest.
    pub const SCAN_HINT: usize = 0;
    /// Its start.
    pub const SCAN_HINT_START: usize = 1;
    /// Length of the largest known free run.
    pub const CONTIG_HINT: usize = 2;
    /// Its start.
    pub const CONTIG_HINT_START: usize = 3;
    /// Length of the free run at the start.
    pub const LEFT_FREE: usize = 4;
    /// Length of the free run at the end.
    pub const RIGHT_FREE: usize = 5;
    /// No bit before this one is free.
    pub const FIRST_FREE: usize = 6;
    /// Bits described.
    pub const NR_BITS: usize = 7;
}

/// Lifetime counters (specification 22 section 1). Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatsCounters {
    /// Areas handed out.
    pub nr_alloc: u64,
    /// Areas taken back.
    pub nr_dealloc: u64,
    /// Live areas.
    pub nr_cur_alloc: u64,
    /// Most live areas at any time.
    pub nr_max_alloc: u64,
    /// Chunks, the reserved one not counted.
    pub nr_chunks: u32,
    /// Most chunks at any time.
    pub nr_max_chunks: u32,
    /// Smallest request; starts as the unit size.
    pub min_alloc_size: u64,
    /// Largest request.
    pub max_alloc_size: u64,
}

/// One chunk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkState {
    /// Address of the first page of the first unit, bytes.
    pub base_addr: u64,
    /// Free bytes of one unit.
    pub free_bytes: u32,
    /// Bytes at the front of the map that belong to the region before.
    pub start_offset: u32,
    /// Bytes at the end of the map that belong to the region after.
    pub end_offset: u32,
    /// Pages of one unit.
    pub nr_pages: u32,
    /// Populated pages.
    pub nr_populated: u32,
    /// Populated pages without an allocation. Not exact before 5.2.
    pub nr_empty_pop_pages: i32,
    /// Never populated or depopulated: a boot-time chunk.
    pub immutable: bool,
    /// Taken out of the searched lists for depopulation.
    pub isolated: bool,
    /// Live areas, where the kernel keeps statistics.
    pub nr_alloc: Option<u64>,
    /// Largest request ever, bytes, where the kernel keeps statistics.
    pub max_alloc_size: Option<u64>,
    /// The chunk's own hints.
    pub chunk_md: Hints,
    /// Hints of each block.
    pub md_blocks: Vec<Hints>,
    /// Bit per granule, 1 = in use; bit i is bit `i % 64` of word `i / 64`.
    pub alloc_map: Vec<u64>,
    /// As `alloc_map` and one bit more: 1 = an area starts here or the one before ends here.
    pub bound_map: Vec<u64>,
    /// Bit per page.
    pub populated: Vec<u64>,
    /// Other keys of the file, written back as they were.
    pub other: Map<String, Value>,
}

/// A complete state. Plain data: every field may be changed, [`State::validate`] tells whether
/// it still makes sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Pages of a unit.
    pub unit_pages: u32,
    /// Bytes of a unit.
    pub unit_size: u64,
    /// Bytes per bit of a map; 4 in every kernel, written only where it differs.
    pub min_alloc_size: u64,
    /// Bytes that a row of `md_blocks` describes; a page in every kernel, written only where it differs.
    pub block_size: u64,
    /// Units of a chunk, holes counted.
    pub nr_units: u32,
    /// Allocation granularity of chunks in address space, bytes; not in one-CPU kernels.
    pub atom_size: Option<u64>,
    /// Number of lists.
    pub nr_slots: u32,
    /// List of the fully free chunks.
    pub free_slot: u32,
    /// List of the sidelined chunks (5.14 and later).
    pub sidelined_slot: Option<u32>,
    /// List of the chunks to be depopulated (5.14 and later).
    pub to_depopulate_slot: Option<u32>,
    /// CPU with the lowest unit address.
    pub low_unit_cpu: Option<u32>,
    /// CPU with the highest unit address.
    pub high_unit_cpu: Option<u32>,
    /// Start of each group from the base address, bytes; empty where not recorded.
    pub group_offsets: Vec<u64>,
    /// Length of each group, bytes; empty where not recorded.
    pub group_sizes: Vec<u64>,
    /// Unit of each CPU; empty where not recorded.
    pub unit_map: Vec<Option<u32>>,
    /// Offset of each CPU's unit from the base address, bytes.
    pub unit_offsets: Vec<u64>,
    /// Address of the first chunk's lowest group, `pcpu_base_addr`.
    pub base_addr: u64,
    /// Link address of the static per-CPU section.
    pub per_cpu_start: u64,
    /// Bytes of the static section as linked.
    pub static_size: u64,
    /// Number of CPU ids.
    pub nr_cpu_ids: Option<u32>,
    /// Empty populated pages of all chunks but the reserved one and, since 5.14, the isolated ones.
    pub nr_empty_pop_pages: i32,
    /// Populated pages of a unit over all chunks, the static region's counted.
    pub nr_populated: i64,
    /// An atomic request failed since the last run of the worker.
    pub atomic_failed: bool,
    /// The worker may be scheduled.
    pub async_enabled: bool,
    /// The worker is scheduled.
    pub balance_pending: bool,
    /// Lifetime counters, where the kernel keeps them.
    pub stats: Option<StatsCounters>,
    /// Index of the first chunk.
    pub first_chunk: Option<usize>,
    /// Index of the reserved chunk.
    pub reserved_chunk: Option<usize>,
    /// For each list the indices of its chunks, head first.
    pub slots: Vec<Vec<usize>>,
    /// The chunks, in no particular order.
    pub chunks: Vec<ChunkState>,
    /// Other variables of the file, written back as they were.
    pub other_globals: Map<String, Value>,
    /// Other top-level keys of the file, written back as they were.
    pub other: Map<String, Value>,
}

/// Largest atom size that is taken, bytes.
pub const MAX_ATOM: u64 = 1 << 40;

impl State {
    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.unit_size / u64::from(self.unit_pages.max(1))
    }

    /// Bits of the map of `chunk`.
    pub fn nr_bits(&self, chunk: &ChunkState) -> usize {
        (u64::from(chunk.nr_pages) * self.page_size() / self.min_alloc_size.max(1)) as usize
    }

    /// For each chunk the list that holds it.
    pub fn slot_table(&self) -> Vec<Option<usize>> {
        let mut table = vec![None; self.chunks.len()];
        for (slot, list) in self.slots.iter().enumerate() {
            for &index in list {
                if let Some(entry) = table.get_mut(index) {
                    *entry = Some(slot);
                }
            }
        }
        table
    }

    /// The index of the chunk with this base address; not the reserved one's where both boot
    /// chunks share a page.
    pub fn chunk_at(&self, base_addr: u64) -> Option<usize> {
        let at = |(_, chunk): &(usize, &ChunkState)| chunk.base_addr == base_addr;
        let mut found = self.chunks.iter().enumerate().filter(at).map(|(index, _)| index);
        let first = found.next()?;
        Some(if Some(first) == self.reserved_chunk { found.next().unwrap_or(first) } else { first })
    }

    /// Checks V1 to V6.
    pub fn validate(&self) -> Result<(), StateError> {
        self.validate_sizes()?;
        self.validate_globals()?;
        self.validate_lists()?;
        let slots = self.slot_table();
        for (index, &slot) in slots.iter().enumerate() {
            self.validate_chunk(index, slot)?;
        }
        self.validate_totals()
    }

    /// The sizes that everything else is measured with.
    fn validate_sizes(&self) -> Result<(), StateError> {
        let page = self.page_size();
        check(
            self.unit_pages > 0 && self.unit_size % u64::from(self.unit_pages) == 0 && page.is_power_of_two(),
            "globals.pcpu_unit_pages",
            || format!("{} pages do not divide a unit of {} bytes into pages", self.unit_pages, self.unit_size),
        )?;
        check((16..=1 << 20).contains(&page) && self.unit_size <= MAX_UNIT_SIZE, "globals.pcpu_unit_size", || {
            format!("{} bytes in pages of {page}: outside the limits", self.unit_size)
        })?;
        check(self.min_alloc_size.is_power_of_two() && self.min_alloc_size <= page, "globals.min_alloc_size", || {
            format!("{} must be a power of two up to the page size", self.min_alloc_size)
        })?;
        check(
            self.block_size.is_power_of_two()
                && self.block_size >= self.min_alloc_size
                && self.block_size <= MAX_UNIT_SIZE,
            "globals.block_size",
            || format!("{} must be a power of two from {}", self.block_size, self.min_alloc_size),
        )?;
        check((1..=1 << 20).contains(&self.nr_units), "globals.pcpu_nr_units", || {
            format!("{} must be from 1 to 1048576", self.nr_units)
        })
    }

    fn validate_globals(&self) -> Result<(), StateError> {
        check(self.slots.len() == self.nr_slots as usize, "slots", || {
            format!("{} lists, but nr_slots is {}", self.slots.len(), self.nr_slots)
        })?;
        let named = [
            ("globals.pcpu_free_slot", Some(self.free_slot)),
            ("globals.pcpu_sidelined_slot", self.sidelined_slot),
            ("globals.pcpu_to_depopulate_slot", self.to_depopulate_slot),
        ];
        for (i, &(path, slot)) in named.iter().enumerate() {
            let Some(slot) = slot else { continue };
            check(slot < self.nr_slots, path, || format!("{slot} is not below nr_slots={}", self.nr_slots))?;
            let twice = named[..i].iter().any(|&(_, other)| other == Some(slot));
            check(!twice, path, || format!("list {slot} has two names"))?;
        }
        check(self.sidelined_slot.is_some() == self.to_depopulate_slot.is_some(), named[1].0, || {
            "sidelined and to_depopulate come together".into()
        })?;
        let atom = self.atom_size.unwrap_or(self.page_size());
        check(
            atom.is_power_of_two() && atom >= self.page_size() && atom <= MAX_ATOM,
            "globals.pcpu_atom_size",
            || format!("{atom} must be a power of two from the page size to 2^40"),
        )?;
        let most = i64::from(self.unit_pages) * (self.chunks.len() as i64 + 1);
        check((0..=most).contains(&self.nr_populated), "globals.pcpu_nr_populated", || {
            format!("{} pages in {} chunks of {}", self.nr_populated, self.chunks.len(), self.unit_pages)
        })?;
        check(self.group_offsets.len() == self.group_sizes.len(), "globals.pcpu_group_sizes", || {
            format!("{} sizes for {} groups", self.group_sizes.len(), self.group_offsets.len())
        })?;
        if let Some(nr_cpu_ids) = self.nr_cpu_ids {
            let lengths = [
                ("globals.pcpu_unit_map", self.unit_map.len()),
                ("globals.pcpu_unit_offsets", self.unit_offsets.len()),
            ];
            for (path, length) in lengths {
                check(length == nr_cpu_ids as usize, path, || {
                    format!("{length} entries, but nr_cpu_ids is {nr_cpu_ids}")
                })?;
            }
        }
        for (cpu, unit) in self.unit_map.iter().enumerate() {
            check(unit.is_none_or(|unit| unit < self.nr_units), format!("globals.pcpu_unit_map[{cpu}]"), || {
                format!("unit {} of {}", unit.unwrap_or(0), self.nr_units)
            })?;
        }
        Ok(())
    }

    /// V2.
    fn validate_lists(&self) -> Result<(), StateError> {
        let named = [("first_chunk_index", self.first_chunk), ("reserved_chunk_index", self.reserved_chunk)];
        for (name, index) in named {
            let path = format!("globals.{name}");
            let Some(index) = index else { continue };
            check(index < self.chunks.len(), &path, || format!("{index} of {} chunks", self.chunks.len()))?;
            check(self.chunks[index].immutable, &path, || format!("chunk {index} is not immutable"))?;
        }
        check(
            self.first_chunk.is_none() || self.first_chunk != self.reserved_chunk,
            "globals.reserved_chunk_index",
            || "the first chunk cannot be the reserved one".into(),
        )?;
        let mut seen = vec![false; self.chunks.len()];
        for (slot, list) in self.slots.iter().enumerate() {
            for (position, &index) in list.iter().enumerate() {
                let path = || format!("slots[{slot}][{position}]");
                check(index < self.chunks.len(), path(), || format!("{index} of {} chunks", self.chunks.len()))?;
                check(Some(index) != self.reserved_chunk, path(), || "the reserved chunk is on no list".into())?;
                check(!seen[index], path(), || format!("chunk {index} is in two places"))?;
                seen[index] = true;
            }
        }
        let lost = (0..seen.len()).find(|&index| !seen[index] && Some(index) != self.reserved_chunk);
        check(lost.is_none(), format!("chunks[{}]", lost.unwrap_or(0)), || "is on no list".into())?;
        let reserved = self.reserved_chunk.map(|index| self.chunks[index].base_addr);
        let mut bases: Vec<(u64, usize)> = self.chunks.iter().enumerate().map(|(i, c)| (c.base_addr, i)).collect();
        bases.sort_unstable();
        for pair in bases.windows(2) {
            let boot = Some(pair[0].0) == reserved
                && pair.iter().all(|&(_, i)| Some(i) == self.first_chunk || Some(i) == self.reserved_chunk);
            check(pair[0].0 != pair[1].0 || boot, format!("chunks[{}].base_addr", pair[1].1), || {
                format!("{:#x} is the address of chunk {} too", pair[1].0, pair[0].1)
            })?;
        }
        Ok(())
    }

    /// V1, V3, V4, V6 for one chunk.
    fn validate_chunk(&self, index: usize, slot: Option<usize>) -> Result<(), StateError> {
        let chunk = &self.chunks[index];
        let path = |field: &str| format!("chunks[{index}].{field}");
        let page = self.page_size();
        check(chunk.nr_pages > 0 && chunk.nr_pages <= self.unit_pages, path("nr_pages"), || {
            format!("{} of a unit of {}", chunk.nr_pages, self.unit_pages)
        })?;
        check(chunk.immutable || chunk.nr_pages == self.unit_pages, path("nr_pages"), || {
            format!("{}, but only a boot-time chunk is shorter than the unit of {}", chunk.nr_pages, self.unit_pages)
        })?;
        let (nr_bits, nr_pages) = (self.nr_bits(chunk), chunk.nr_pages as usize);
        let maps = [
            ("alloc_map", &chunk.alloc_map, nr_bits),
            ("bound_map", &chunk.bound_map, nr_bits + 1),
            ("populated", &chunk.populated, nr_pages),
        ];
        for (name, words, bits) in maps {
            check(words.len() == bits.div_ceil(64), path(name), || format!("{} words for {bits} bits", words.len()))?;
            let beyond = bits % 64 != 0 && words[bits / 64] >> (bits % 64) != 0;
            check(!beyond, path(name), || format!("bits set beyond the last of {bits}"))?;
        }
        let used = count(&chunk.alloc_map, 0, nr_bits);
        let free = (nr_bits - used) as u64 * self.min_alloc_size;
        check(u64::from(chunk.free_bytes) == free, path("free_bytes"), || {
            format!("{}, but the map has {free} bytes free", chunk.free_bytes)
        })?;
        let (start, end) = (u64::from(chunk.start_offset), u64::from(chunk.end_offset));
        let size = u64::from(chunk.nr_pages) * page;
        for (name, offset) in [("start_offset", start), ("end_offset", end)] {
            check(offset % self.min_alloc_size == 0 && start + end <= size, path(name), || {
                format!("{offset} bytes hidden of {size}")
            })?;
        }
        let (head, tail) = ((start / self.min_alloc_size) as usize, (end / self.min_alloc_size) as usize);
        let hidden = count(&chunk.alloc_map, 0, head) + count(&chunk.alloc_map, nr_bits - tail, nr_bits);
        check(hidden == head + tail, path("alloc_map"), || "the hidden ends are not all in use".into())?;
        let populated = count(&chunk.populated, 0, nr_pages);
        check(chunk.nr_populated as usize == populated, path("nr_populated"), || {
            format!("{}, but the map has {populated} pages", chunk.nr_populated)
        })?;
        self.validate_hints(index, size, nr_bits)?;
        if self.sidelined_slot.is_some() {
            let page_bits = nr_bits / nr_pages;
            let empty = |&page: &usize| {
                let end = ((page + 1) * page_bits) as u32;
                bitmap::test(&chunk.populated, page as u32)
                    && bitmap::next_set(&chunk.alloc_map, end, (page * page_bits) as u32) >= end
            };
            let empty = (0..nr_pages).filter(empty).count();
            check(i64::from(chunk.nr_empty_pop_pages) == empty as i64, path("nr_empty_pop_pages"), || {
                format!("{}, but the maps have {empty}", chunk.nr_empty_pop_pages)
            })?;
            let slot = slot.map(|slot| slot as u32);
            let aside = slot.is_some() && (slot == self.sidelined_slot || slot == self.to_depopulate_slot);
            check(chunk.isolated == aside, path("isolated"), || {
                format!("{}, but the chunk is in list {slot:?}", chunk.isolated)
            })?;
        }
        Ok(())
    }

    /// V4.
    fn validate_hints(&self, index: usize, size: u64, nr_bits: usize) -> Result<(), StateError> {
        let chunk = &self.chunks[index];
        let blocks = size.div_ceil(self.block_size) as usize;
        let path = |row: Option<usize>, column: usize| match row {
            Some(row) => format!("chunks[{index}].md_blocks[{row}].{}", MD_FIELDS[column]),
            None => format!("chunks[{index}].chunk_md.{}", MD_FIELDS[column]),
        };
        check(chunk.md_blocks.len() == blocks, format!("chunks[{index}].md_blocks"), || {
            format!("{} rows for {blocks} blocks", chunk.md_blocks.len())
        })?;
        let block_bits = (self.block_size / self.min_alloc_size) as usize;
        let rows = chunk.md_blocks.iter().enumerate().map(|(row, hints)| (Some(row), hints, block_bits));
        for (row, hints, bits) in rows.chain([(None, &chunk.chunk_md, nr_bits)]) {
            // Nearly every row is sound, and a path takes longer to write than a row to read.
            let ends = [md::CONTIG_HINT, md::SCAN_HINT].map(|len| i64::from(hints[len]) + i64::from(hints[len + 1]));
            if hints[md::NR_BITS] as i64 == bits as i64
                && ends.iter().all(|end| *end <= bits as i64)
                && hints.iter().all(|value| (0..=bits as i64).contains(&i64::from(*value)))
            {
                continue;
            }
            check(hints[md::NR_BITS] as i64 == bits as i64, path(row, md::NR_BITS), || {
                format!("{}, must be {bits}", hints[md::NR_BITS])
            })?;
            for (len, start) in [(md::CONTIG_HINT, md::CONTIG_HINT_START), (md::SCAN_HINT, md::SCAN_HINT_START)] {
                let end = i64::from(hints[len]) + i64::from(hints[start]);
                // To 5.1 the chunk's own hint may denote what is not there.
                let sound = row.is_some() || self.sidelined_slot.is_some();
                check(!sound || hints[len] <= 0 || end <= bits as i64, path(row, len), || {
                    format!("{} bits from {} end behind the last of {bits}", hints[len], hints[start])
                })?;
            }
            for (column, &value) in hints.iter().enumerate() {
                check(value >= 0 && value as usize <= bits, path(row, column), || format!("{value} of {bits} bits"))?;
            }
        }
        Ok(())
    }

    /// V5 and the total of V6.
    fn validate_totals(&self) -> Result<(), StateError> {
        if self.sidelined_slot.is_some() {
            let counts = |(index, chunk): &(usize, &ChunkState)| Some(*index) != self.reserved_chunk && !chunk.isolated;
            let chunks = self.chunks.iter().enumerate().filter(counts);
            let empty: i64 = chunks.map(|(_, chunk)| i64::from(chunk.nr_empty_pop_pages)).sum();
            check(i64::from(self.nr_empty_pop_pages) == empty, "globals.pcpu_nr_empty_pop_pages", || {
                format!("{}, but the chunks have {empty}", self.nr_empty_pop_pages)
            })?;
        }
        let populated: i64 = self.chunks.iter().map(|chunk| i64::from(chunk.nr_populated)).sum();
        let least = if self.first_chunk.is_some() { 0 } else { populated };
        check(self.nr_populated >= least, "globals.pcpu_nr_populated", || {
            format!("{}, but the chunks have {populated}", self.nr_populated)
        })?;
        let Some(stats) = &self.stats else { return Ok(()) };
        let live = stats.nr_alloc.wrapping_sub(stats.nr_dealloc);
        check(stats.nr_cur_alloc == live, "globals.pcpu_stats.nr_cur_alloc", || {
            format!("{}, but nr_alloc - nr_dealloc is {live}", stats.nr_cur_alloc)
        })?;
        let chunks = self.chunks.len() - usize::from(self.reserved_chunk.is_some());
        check(stats.nr_chunks as usize == chunks, "globals.pcpu_stats.nr_chunks", || {
            format!("{}, but there are {chunks}", stats.nr_chunks)
        })?;
        let areas: Option<Vec<u64>> = self.chunks.iter().map(|chunk| chunk.nr_alloc).collect();
        if let Some(areas) = areas {
            let areas = areas.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
            check(stats.nr_cur_alloc == areas, "globals.pcpu_stats.nr_cur_alloc", || {
                format!("{}, but the chunks have {areas}", stats.nr_cur_alloc)
            })?;
        }
        Ok(())
    }
}

fn check(holds: bool, path: impl Into<String>, message: impl FnOnce() -> String) -> Result<(), StateError> {
    if holds {
        Ok(())
    } else {
        Err(StateError::new(path, message()))
    }
}

/// Set bits of `start..end`.
fn count(words: &[u64], start: usize, end: usize) -> usize {
    bitmap::count_set(words, start as u32, end as u32) as usize
}

#[cfg(test)]
mod tests;
