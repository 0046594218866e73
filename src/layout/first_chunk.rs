//! First chunk: checks, tables and regions.
//!
//! # Design
//!
//! A layout record and a base address become the tables that every later chunk shares, and the regions that the
//! first and the reserved chunk serve. With the regions of 4.14 and later, one unit is
//!
//! ```text
//! unit      |static......|reserved....|dynamic..........................|  tail, given back
//! page      |----|----|----|----|----|----|----|----|----|----|----|----|----|
//! reserved            |hh|~~~~~~~~~~~~|hh|                                 h = hidden, ~ = served
//! first                            |hh|~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~|
//!                     ^ base_addr: rounded down to a page; hidden head = start_offset, hidden tail = end_offset
//! ```
//!
//! The posting of July 2017 pads the reserved region so that only the region next to the static region has a
//! hidden head; before that both chunks start at the unit's base and all of the unit's front is hidden.
//!
//! # Units
//!
//! Bytes; addresses are `u64`, never pointers; `hidden_bits` in granules.
//!
//! # Invariants
//!
//! F1 *order*: the units' addresses are `base_addr + unit_offsets[cpu]`, holes counted in `unit_map`. F2 *region*:
//! `start_offset + size + end_offset` is `nr_pages` pages, a multiple of page and block (before 2017: the unit).
//! F3 *numbers*: an impossible CPU has no unit and offset 0.
//!
//! # Cost
//!
//! Linear in units.
//!
//! # Source
//!
//! Specification 31 sections 1 to 5.2; 13 section 2. For blocks that are no pages: 4.14's own rule, the region is
//! padded to the larger of page and block.

use std::collections::HashSet;

use crate::boot_log::{message, LogLine, CRIT, EMERG, WARNING};
use crate::error::{ConfigError, LayoutError};
use crate::geometry::Geometry;
use crate::layout::groups::AllocInfo;
use crate::layout::history::LargePages;
use crate::layout::request::{Backend, FirstChunkRequest, Kind};
use crate::units::{round_down, round_up, Bytes, WordSize};
use crate::variant::{BootAllocators, LayoutRules, Regions};

/// What one of the boot chunks serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Address of the chunk's byte 0 (`chunk->base_addr`).
    pub base_addr: u64,
    /// Bytes in front of the served ones: they belong to the region before.
    pub start_offset: u64,
    /// Served bytes.
    pub size: u64,
    /// Bytes behind the served ones.
    pub end_offset: u64,
    /// Pages of the chunk; all are populated.
    pub nr_pages: u32,
    /// Granules in front that the chunk hides as an allocation that is never freed. 4.14 and later:
    /// `start_offset / granule`. Posting of July 2017: reserved offset / 4 rounded down (so up to three static
    /// bytes lie in the first served granule), and 0 in a chunk that does not adjoin the static region. Before
    /// 2017: `start_offset / granule`, for information only; the area map counts bytes.
    pub hidden_bits: u32,
}

impl Region {
    /// Whole pages without a hidden byte: `nr_empty_pop_pages` of the fresh chunk.
    pub fn nr_empty_pages(&self, page_size: u64) -> u32 {
        let start = self.start_offset.div_ceil(page_size);
        let end = (self.start_offset + self.size) / page_size;
        end.saturating_sub(start) as u32
    }

    /// First address behind the chunk's pages.
    pub fn end_addr(&self, page_size: u64) -> u64 {
        self.base_addr.wrapping_add(u64::from(self.nr_pages) * page_size)
    }
}

/// The tables of the allocator after the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstChunk {
    /// The layout record.
    pub info: AllocInfo,
    /// Constants of the release.
    pub rules: LayoutRules,
    /// The machine word, in which addresses are computed.
    pub word: WordSize,
    /// Page, bytes.
    pub page_size: u64,
    /// Granule of the allocator, bytes.
    pub min_alloc_size: u64,
    /// Block of the metadata, bytes.
    pub block_size: u64,
    /// `pcpu_base_addr`: all unit offsets count from here.
    pub base_addr: u64,
    /// Unit number of each CPU id, holes counted; `None` for impossible ids.
    pub unit_map: Vec<Option<u32>>,
    /// Byte offset of each CPU id's unit from `base_addr`; 0 for impossible ids.
    pub unit_offsets: Vec<u64>,
    /// Byte offset of each group from `base_addr`.
    pub group_offsets: Vec<u64>,
    /// Bytes of each group.
    pub group_sizes: Vec<u64>,
    /// Units, holes counted.
    pub nr_units: u32,
    /// CPU with the lowest unit address.
    pub low_unit_cpu: u32,
    /// CPU with the highest unit address.
    pub high_unit_cpu: u32,
    /// The region that serves dynamic requests.
    pub first: Region,
    /// The region that serves reserved requests.
    pub reserved: Option<Region>,
    /// Posting of July 2017: `static_size` mod page in bytes, whether or not a region starts there; else 0.
    pub reserved_offset: u64,
    /// The first chunk lies in the direct mapping (embedded, given, UP), not in page-wise mappings.
    pub linear: bool,
    /// A pointer is an address (UP).
    pub identity: bool,
    /// What backs later chunks.
    pub backend: Backend,
    /// Address space that the page allocator took: start and bytes. Later chunks must keep off it.
    pub vm_area: Option<(u64, u64)>,
    /// Large pages that are mapped a second time (2.6.30 and 2.6.31).
    pub large_pages: Option<LargePages>,
    /// Pages of a unit that memory is behind, where it is not all of those that the regions need (`4k` of 2.6.30).
    pub mapped_pages: Option<u32>,
    /// The lines that the set-up printed.
    pub log: Vec<LogLine>,
}

impl FirstChunk {
    /// Number of possible CPUs.
    pub fn possible_cpus(&self) -> u32 {
        self.cpus().count() as u32
    }

    /// Possible CPU ids, ascending.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.unit_map).filter(|(_, unit)| unit.is_some()).map(|(cpu, _)| cpu)
    }

    /// Pages of one unit.
    pub fn unit_pages(&self) -> u32 {
        (self.info.unit_size / self.page_size) as u32
    }

    /// The sizes that the engines compute with.
    pub fn geometry(&self) -> Result<Geometry, ConfigError> {
        Geometry::new(
            Bytes(self.page_size),
            Bytes(self.min_alloc_size),
            Bytes(self.block_size),
            Bytes(self.info.unit_size),
            self.nr_units,
        )
    }

    /// `nr_populated` right after boot: pages of static, reserved and dynamic part of one unit.
    pub fn nr_boot_pages(&self) -> u64 {
        self.info.size_sum() / self.page_size
    }

    /// `nr_empty_pop_pages` right after boot: the reserved chunk never counts.
    pub fn nr_empty_pages(&self) -> u32 {
        self.first.nr_empty_pages(self.page_size)
    }

    /// Number of slot lists.
    pub fn nr_slots(&self) -> u32 {
        Geometry::slot_formula(Bytes(self.info.unit_size)) + self.rules.extra_slots
    }

    /// The slot lists behind the sized ones: sidelined, fully free, to depopulate (5.14 and later).
    pub fn late_slots(&self) -> Option<[u32; 3]> {
        let last = Geometry::slot_formula(Bytes(self.info.unit_size));
        (self.rules.extra_slots == 4).then_some([last + 1, last + 2, last + 3])
    }

    /// Distance from the lowest to the end of the highest group: address space of every later chunk.
    pub fn span(&self) -> u64 {
        self.group_offsets.iter().zip(&self.group_sizes).map(|(offset, size)| offset + size).max().unwrap_or(0)
    }

    /// The kernel's own lines, one a line, without levels.
    pub fn boot_log(&self) -> String {
        self.log.iter().map(|line| line.text.clone() + "\n").collect()
    }

    /// The same chunk with all addresses moved down by `by` (golden data count from an origin).
    pub fn moved_down(mut self, by: u64) -> Self {
        self.base_addr = self.base_addr.wrapping_sub(by);
        self.first.base_addr = self.first.base_addr.wrapping_sub(by);
        if let Some(reserved) = &mut self.reserved {
            reserved.base_addr = reserved.base_addr.wrapping_sub(by);
        }
        if let Some((start, _)) = &mut self.vm_area {
            *start = start.wrapping_sub(by);
        }
        self
    }
}

/// The printed condition of the check that only the posting of July 2017 has; its own words are not known.
pub const RESERVED_END_CONDITION: &str = "[reserved region does not end on a page boundary]";

/// `pcpu_setup_first_chunk`: checks the record, fills the tables, builds the regions, prints the dump.
pub(crate) fn set_up(
    request: &FirstChunkRequest,
    info: AllocInfo,
    base_addr: u64,
    linear: bool,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let mut checks = Checks { request, info: &info, log };
    checks.sizes(base_addr)?;
    checks.backend()?;
    let topology = &request.topology;
    let nr_cpu_ids = topology.nr_declared() as usize;
    let mut unit_map = vec![None; nr_cpu_ids];
    let mut unit_offsets = vec![0; nr_cpu_ids];
    let mut low: Option<(u64, u32)> = None;
    let mut high: Option<(u64, u32)> = None;
    let mut unit = 0;
    for group in &info.groups {
        for (number, (cpu, index)) in (unit..).zip(group.cpu_map.iter().zip(0u64..)) {
            let Some(cpu) = *cpu else { continue };
            if cpu >= topology.nr_cpu_ids() {
                return Err(checks.fail("cpu >= nr_cpu_ids"));
            }
            if !topology.is_possible(cpu) {
                return Err(checks.fail("!cpu_possible(cpu)"));
            }
            if unit_map[cpu as usize].is_some() {
                return Err(checks.fail("unit_map[cpu] != UINT_MAX"));
            }
            let offset = group.base_offset + index * info.unit_size;
            unit_map[cpu as usize] = Some(number);
            unit_offsets[cpu as usize] = offset;
            if low.is_none_or(|(lowest, _)| offset < lowest) {
                low = Some((offset, cpu));
            }
            if high.is_none_or(|(highest, _)| offset > highest) {
                high = Some((offset, cpu));
            }
        }
        unit += group.nr_units;
    }
    if topology.possible().iter().any(|&cpu| unit_map[cpu as usize].is_none()) {
        return Err(checks.fail("unit_map[cpu] == UINT_MAX"));
    }
    if request.rules.allocators == BootAllocators::Groups {
        let level = request.dump_level;
        log.extend(info.boot_record().lines().into_iter().map(|text| LogLine::new(level, text)));
    }
    let (first, reserved) = regions(request, &info, base_addr)?;
    if first.size == 0 || first.nr_pages == 0 {
        // Kernel: only 2.6.32 to 2.6.35 could get here; no engine models a first chunk that serves nothing.
        return Err(ConfigError::new("dyn_size", info.dyn_size, "must leave something to serve").into());
    }
    let reserved_offset =
        if request.rules.regions == Regions::PaddedReserved { info.static_size % request.page_size } else { 0 };
    Ok(FirstChunk {
        rules: request.rules,
        word: request.word,
        page_size: request.page_size,
        min_alloc_size: request.min_alloc_size,
        block_size: request.block_size(),
        base_addr,
        unit_map,
        unit_offsets,
        group_offsets: info.groups.iter().map(|group| group.base_offset).collect(),
        group_sizes: info.groups.iter().map(|group| u64::from(group.nr_units) * info.unit_size).collect(),
        nr_units: unit,
        low_unit_cpu: low.map_or(0, |(_, cpu)| cpu),
        high_unit_cpu: high.map_or(0, |(_, cpu)| cpu),
        first,
        reserved,
        reserved_offset,
        linear,
        identity: request.kind == Kind::Up,
        backend: request.backend(),
        vm_area: None,
        large_pages: None,
        mapped_pages: None,
        log: std::mem::take(log),
        info,
    })
}

struct Checks<'a> {
    request: &'a FirstChunkRequest,
    info: &'a AllocInfo,
    log: &'a mut Vec<LogLine>,
}

impl Checks<'_> {
    /// The emergency dump and the error.
    fn fail(&mut self, condition: &str) -> LayoutError {
        let prefix = self.request.form.prefix();
        let topology = &self.request.topology;
        let mask = message::cpu_possible_mask(topology.possible(), topology.nr_cpu_ids());
        let head = [message::failed_to_initialize(condition), mask].map(|text| format!("{prefix}{text}"));
        let lines = head.into_iter().chain(self.info.boot_record().lines());
        self.log.extend(lines.map(|text| LogLine::new(EMERG, text)));
        LayoutError::Setup { condition: condition.to_string(), log: self.log.iter().map(ToString::to_string).collect() }
    }

    /// Checks 1 to 13 of specification 31 section 2, in the kernel's order.
    fn sizes(&mut self, base_addr: u64) -> Result<(), LayoutError> {
        let (info, request) = (self.info, self.request);
        let rules = &request.rules;
        let (page, block) = (request.page_size, request.block_size());
        let bitmap = rules.regions == Regions::HiddenEnds;
        let reserved_end = info.static_size + info.reserved_size;
        let smp = request.kind != Kind::Up;
        let checks = [
            (info.groups.is_empty(), "ai->nr_groups <= 0"),
            (smp && info.static_size == 0, "!ai->static_size"),
            (base_addr == 0, "!base_addr"),
            (base_addr % page != 0, "offset_in_page(base_addr)"),
            (info.unit_size < info.size_sum(), "ai->unit_size < size_sum"),
            (info.unit_size % page != 0, "offset_in_page(ai->unit_size)"),
            (info.unit_size < request.min_unit_size(), "ai->unit_size < PCPU_MIN_UNIT_SIZE"),
            (bitmap && info.unit_size % block != 0, "!IS_ALIGNED(ai->unit_size, PCPU_BITMAP_BLOCK_SIZE)"),
            (
                rules.regions == Regions::PaddedReserved && info.reserved_size != 0 && reserved_end % page != 0,
                RESERVED_END_CONDITION,
            ),
            (info.dyn_size < rules.early_size, "ai->dyn_size < PERCPU_DYNAMIC_EARLY_SIZE"),
            (bitmap && info.dyn_size == 0, "!ai->dyn_size"),
            (
                bitmap && info.reserved_size % request.min_alloc_size != 0,
                "!IS_ALIGNED(ai->reserved_size, PCPU_MIN_ALLOC_SIZE)",
            ),
        ];
        match checks.iter().find(|(failed, _)| *failed) {
            Some((_, condition)) => Err(self.fail(condition)),
            None => Ok(()),
        }
    }

    /// Check 14: the kernel-memory backend serves one group, in a power of two of pages.
    fn backend(&mut self) -> Result<(), LayoutError> {
        if self.request.backend() == Backend::Vmalloc {
            return Ok(());
        }
        let prefix = self.request.form.prefix();
        if self.info.groups.len() != 1 {
            self.log.push(LogLine::new(CRIT, format!("{prefix}{}", message::MORE_THAN_ONE_GROUP)));
            return Err(self.fail("pcpu_verify_alloc_info(ai) < 0"));
        }
        let nr_pages = u64::from(self.info.nr_units()) * self.info.unit_size / self.request.page_size;
        let wasted = nr_pages.next_power_of_two() - nr_pages;
        if wasted > 0 {
            self.log.push(LogLine::new(WARNING, format!("{prefix}{}", message::wasting(wasted))));
        }
        Ok(())
    }
}

/// The regions of the first and the reserved chunk.
fn regions(
    request: &FirstChunkRequest,
    info: &AllocInfo,
    base_addr: u64,
) -> Result<(Region, Option<Region>), LayoutError> {
    let (page, granule) = (request.page_size, request.min_alloc_size);
    let has_reserved = info.reserved_size != 0;
    match request.rules.regions {
        Regions::HiddenEnds => {
            let static_size = round_up(info.static_size, granule);
            let moved = static_size - info.static_size;
            let Some(dyn_size) = info.dyn_size.checked_sub(moved).filter(|&size| size >= granule) else {
                let limit = format!("must leave a granule of {granule} behind {moved} bytes of static padding");
                return Err(ConfigError::new("dyn_size", info.dyn_size, limit).into());
            };
            // The end may fall inside a granule where sizes are no multiples of a changed granule.
            let dyn_size = round_down(dyn_size, granule);
            let align = page.max(request.block_size());
            let region = |offset, size| hidden_ends(base_addr, offset, size, page, align, granule);
            let reserved = has_reserved.then(|| region(static_size, info.reserved_size));
            Ok((region(static_size + info.reserved_size, dyn_size), reserved))
        }
        Regions::PaddedReserved => {
            let next = info.static_size + info.reserved_size;
            let region = |offset, size| padded(base_addr, offset, size, page, granule);
            if has_reserved {
                // Page aligned by check 9 of that posting, so this one hides nothing.
                Ok((region(next, info.dyn_size), Some(region(info.static_size, info.reserved_size))))
            } else {
                Ok((region(info.static_size, info.dyn_size), None))
            }
        }
        Regions::WholeUnit => {
            let region = |start_offset: u64, size: u64| Region {
                base_addr,
                start_offset,
                size,
                end_offset: info.unit_size - start_offset - size,
                nr_pages: (info.unit_size / page) as u32,
                hidden_bits: (start_offset / granule) as u32,
            };
            let reserved = has_reserved.then(|| region(info.static_size, info.reserved_size));
            Ok((region(info.static_size + info.reserved_size, info.dyn_size), reserved))
        }
    }
}

fn hidden_ends(base_addr: u64, offset: u64, size: u64, page: u64, align: u64, granule: u64) -> Region {
    // The base is page aligned, so rounding the offset is rounding the address.
    let page_offset = round_down(offset, page);
    let start_offset = offset - page_offset;
    let bytes = round_up(start_offset + size, align);
    Region {
        base_addr: base_addr.wrapping_add(page_offset),
        start_offset,
        size,
        end_offset: bytes - start_offset - size,
        nr_pages: (bytes / page) as u32,
        hidden_bits: (start_offset / granule) as u32,
    }
}

fn padded(base_addr: u64, offset: u64, size: u64, page: u64, granule: u64) -> Region {
    let page_offset = round_down(offset, page);
    let hidden = offset - page_offset;
    // Kernel: pages are rounded down, so a partial page at the end is lost.
    let nr_pages = (size + hidden) / page;
    let start_offset = round_down(hidden, granule);
    Region {
        base_addr: base_addr.wrapping_add(page_offset),
        start_offset,
        size: (nr_pages * page).saturating_sub(start_offset),
        end_offset: 0,
        nr_pages: nr_pages as u32,
        hidden_bits: (start_offset / granule) as u32,
    }
}

/// Rejects groups that wrap around the address space or overlap: no memory can be like that.
pub(crate) fn check_groups(addresses: &[(u64, u64)], word: WordSize) -> Result<(), ConfigError> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    let mut seen = HashSet::new();
    let mut end_before = 0;
    for (start, size) in sorted {
        let end = start.checked_add(size).filter(|end| *end <= word.max());
        if end.is_none() || start < end_before || !seen.insert(start) {
            let limit = format!("{size} bytes must neither overlap another group nor wrap around");
            return Err(ConfigError::new("group_addr", format!("{start:#x}"), limit));
        }
        end_before = end.unwrap_or(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
