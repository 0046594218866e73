//! The first-chunk allocators of 2.6.30 and 2.6.31: large pages, one block, single pages.
//!
//! # Design
//!
//! Before there were groups, all units of a chunk lay one behind the other. Three allocators tried to give every
//! CPU memory of its own node all the same, and this is what each had to pay:
//!
//! ```text
//! lpage  large pages of each node, mapped a second time side by side    TLB entries; two mappings of one page
//! embed  one block for all CPUs                                         no memory of the own node
//! 4k     single pages of each node, mapped side by side                 a TLB entry a page
//!
//! linear map   ...[page of node 0  used|tail]......[page of node 1  used|tail]...
//!                        \                  \            |
//! vmalloc           [unit 0 used|tail][unit 1 used|tail]          the tails go back to the boot allocator, so
//!                                                                 they are mapped twice: a change of attributes
//!                                                                 must find the other mapping
//! ```
//!
//! Sparse embedding (2.6.32) gave memory of the own node without any second mapping, and the large-page allocator was
//! removed; its price is that address space must be as wide as the distance between nodes.
//!
//! # Units
//!
//! Bytes. The large page is the atom of the request.
//!
//! # Invariants
//!
//! H1 unit number times unit size is the offset of a unit (2.6.30: the unit number is the CPU id).
//! H2 [`LargePages::pages`] ascends by linear address and holds one entry for each slice with a used unit.
//!
//! # Cost
//!
//! Linear in units and slices.
//!
//! # Source
//!
//! Specification 31 section 10, 30 section 9, 40 sections 2 and 3. Where the text is silent: the large-page
//! allocator of 2.6.31 has the limits of 2.6.30, and the line that single pages take over is printed once.

use crate::boot_log::{LargePageDump, LogLine, Message, Summary, SummaryKind, INFO};
use crate::error::{ConfigError, LayoutError};
use crate::geometry::MAX_UNIT_SIZE;
use crate::layout::first_chunk::{check_groups, set_up, FirstChunk};
use crate::layout::groups::{counts, group_cpus, AllocInfo, Group, Sizes};
use crate::layout::memory::BootMemory;
use crate::layout::request::{failed, FirstChunkRequest, Kind, EINVAL, ENOMEM};
use crate::layout::topology::Distance;
use crate::units::round_up;
use crate::variant::BootAllocators;

/// Large pages that are mapped in the linear map and once more in vmalloc space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargePages {
    /// Bytes of one.
    pub size: u64,
    /// Linear and mapped address of each, ascending by the linear one.
    pub pages: Vec<(u64, u64)>,
    /// Bytes that were given back to the boot allocator and still have both mappings.
    pub doubly_mapped: u64,
    /// Bytes in use, from the start of a page (2.6.30, one unit a page).
    used: Option<u64>,
}

impl LargePages {
    /// The other mapping of a linear address, if it has one.
    pub fn alias(&self, address: u64) -> Option<u64> {
        let index = self.pages.partition_point(|&(linear, _)| linear <= address).checked_sub(1)?;
        let (linear, mapped) = self.pages[index];
        let offset = address - linear;
        (offset < self.size).then(|| mapped + offset)
    }

    /// Whether a change of attributes at this linear address is one that 2.6.30 warns about: the byte is used.
    pub fn warns(&self, address: u64) -> bool {
        let index = self.pages.partition_point(|&(linear, _)| linear <= address).checked_sub(1);
        index.zip(self.used).is_some_and(|(index, used)| address - self.pages[index].0 < used)
    }
}

/// Chooses among the three and runs them.
pub(crate) fn first_chunk(
    request: &FirstChunkRequest,
    memory: &mut dyn BootMemory,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let unit_size = request.layout_input().sizes()?.min_unit_size;
    if unit_size > MAX_UNIT_SIZE {
        return Err(ConfigError::new("unit_size", unit_size, format!("must be at most {MAX_UNIT_SIZE}")).into());
    }
    let tried = match request.kind {
        Kind::Page => None,
        Kind::LargePage => Some(large_pages(request, memory, log)),
        Kind::Embed => Some(one_block(request, memory, log)),
        _ => Some(match large_pages(request, memory, log) {
            Err(LayoutError::Failed { errno: EINVAL | ENOMEM, .. }) => match one_place_is_near(request) {
                true => one_block(request, memory, log),
                false => Err(failed("one block is not near every CPU", EINVAL)),
            },
            other => other,
        }),
    };
    match tried {
        None => single_pages(request, memory, log),
        Some(Err(LayoutError::Failed { errno, .. })) if request.fallback => {
            let message = Message::FallingBack { name: request.kind.name().to_string(), errno };
            let text = format!("{}{}", request.arch_prefix, message.text(request.form));
            log.push(LogLine::new(message.level(), text));
            single_pages(request, memory, log)
        }
        Some(result) => result,
    }
}

/// Unless asked for by name, one block is taken only without NUMA and with large pages.
fn one_place_is_near(request: &FirstChunkRequest) -> bool {
    request.large_pages && nr_nodes(request) < 2
}

fn nr_nodes(request: &FirstChunkRequest) -> usize {
    let topology = &request.topology;
    let mut nodes: Vec<u32> = topology.possible().iter().map(|&cpu| topology.node(cpu)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.len()
}

fn say(request: &FirstChunkRequest, log: &mut Vec<LogLine>, message: &Message) {
    log.push(LogLine::new(message.level(), format!("{}{}", request.form.prefix(), message.text(request.form))));
}

fn summary(request: &FirstChunkRequest, kind: SummaryKind, pages: u64, base: u64, info: &AllocInfo) -> LogLine {
    let summary = Summary {
        kind,
        pages,
        page_kib: Some(request.page_size >> 10),
        pointer: Some(request.pointer_text(base)),
        static_size: info.static_size,
        reserved_size: Some(info.reserved_size),
        dyn_size: Some(info.dyn_size),
        unit_size: Some(info.unit_size),
    };
    LogLine::new(INFO, summary.text(request.form))
}

/// The record of units that lie one behind the other.
fn side_by_side(
    request: &FirstChunkRequest,
    sizes: &Sizes,
    unit_size: u64,
    alloc_size: u64,
    units: Vec<Option<u32>>,
) -> AllocInfo {
    AllocInfo {
        static_size: request.static_size,
        reserved_size: sizes.reserved_size,
        dyn_size: sizes.dyn_size,
        unit_size,
        atom_size: request.atom_size,
        alloc_size,
        groups: vec![Group { nr_units: units.len() as u32, base_offset: 0, cpu_map: units }],
    }
}

/// Unit number = CPU id.
fn by_cpu_id(request: &FirstChunkRequest) -> Vec<Option<u32>> {
    let topology = &request.topology;
    (0..topology.nr_cpu_ids()).map(|cpu| topology.is_possible(cpu).then_some(cpu)).collect()
}

/// `embed` before groups: one block; whole units of impossible ids and the tails of the others are given back.
fn one_block(
    request: &FirstChunkRequest,
    memory: &mut dyn BootMemory,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let sizes = request.layout_input().sizes()?;
    let unit_size = sizes.min_unit_size;
    let units = by_cpu_id(request);
    let size = unit_size * units.len() as u64;
    let first = request.topology.possible()[0];
    let Some(base) = memory.alloc(first, request.topology.node(first), size, request.page_size) else {
        say(request, log, &Message::NoBlock { size });
        return Err(failed("no block for all units", ENOMEM));
    };
    check_groups(&[(base, size)], request.word)?;
    for (unit, at) in units.iter().zip((base..).step_by(unit_size as usize)) {
        match unit {
            Some(_) => memory.free(at + sizes.size_sum, unit_size - sizes.size_sum),
            None => memory.free(at, unit_size),
        }
    }
    let mut info = side_by_side(request, &sizes, unit_size, unit_size, units);
    info.atom_size = request.page_size;
    log.push(summary(request, SummaryKind::Embed, sizes.size_sum / request.page_size, base, &info));
    set_up(request, info, base, true, log)
}

/// `4k`: each page on its own; the dynamic part is what the unit leaves.
fn single_pages(
    request: &FirstChunkRequest,
    memory: &mut dyn BootMemory,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let page = request.page_size;
    let taken = request.static_size + request.reserved_size;
    let unit_size = round_up(taken.max(request.min_unit_size()), page);
    let sizes = Sizes {
        reserved_size: request.reserved_size,
        dyn_size: unit_size - taken,
        size_sum: unit_size,
        min_unit_size: unit_size,
    };
    let early = request.rules.allocators == BootAllocators::ByCpuId;
    let mapped = if early { request.static_size.div_ceil(page) } else { unit_size / page };
    for &cpu in request.topology.possible() {
        if !memory.alloc_pages(cpu, request.topology.node(cpu), mapped, page) {
            say(request, log, &Message::NoPage { page_kib: page >> 10, cpu });
            return Err(failed("no memory for the pages of the first chunk", ENOMEM));
        }
    }
    let units = by_cpu_id(request);
    let size = unit_size * units.len() as u64;
    let base = mapped_at(request, size, page)?;
    let mut info = side_by_side(request, &sizes, unit_size, unit_size, units);
    info.atom_size = page;
    log.push(summary(request, SummaryKind::Page, unit_size / page, base, &info));
    let mut chunk = set_up(request, info, base, false, log)?;
    chunk.vm_area = Some((base, size));
    chunk.mapped_pages = early.then_some(mapped as u32);
    Ok(chunk)
}

/// The first early area of the vmalloc space.
fn mapped_at(request: &FirstChunkRequest, size: u64, align: u64) -> Result<u64, ConfigError> {
    let address = request.vmalloc_start.checked_next_multiple_of(align);
    let fits = |address: &u64| address.checked_add(size).is_some_and(|end| end <= request.word.max());
    address.filter(fits).ok_or_else(|| {
        let limit = format!("must leave {size} bytes below the end of the address space");
        ConfigError::new("vmalloc_start", format!("{:#x}", request.vmalloc_start), limit)
    })
}

/// `lpage`: large pages of each CPU's node, mapped once more side by side.
fn large_pages(
    request: &FirstChunkRequest,
    memory: &mut dyn BootMemory,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let lpage = request.atom_size;
    if !request.large_pages {
        return Err(failed("the CPU has no large pages", EINVAL));
    }
    if nr_nodes(request) < 2 && request.kind != Kind::LargePage {
        return Err(failed("large pages are for machines with nodes", EINVAL));
    }
    let sizes = request.layout_input().sizes()?;
    let early = request.rules.allocators == BootAllocators::ByCpuId;
    let (unit_size, alloc_size, units) = match early {
        true if sizes.size_sum > lpage => {
            say(request, log, &Message::LargerThanLargePage);
            return Err(failed("a unit is larger than a large page", EINVAL));
        }
        true => (lpage, lpage, by_cpu_id(request)),
        false => unit_map(request)?,
    };
    let per_slice = (lpage / unit_size).max(1) as usize;
    let slices_per_unit = (unit_size / lpage).max(1);
    let used: Vec<u32> = units.chunks(per_slice).filter_map(|slice| slice.iter().flatten().next().copied()).collect();
    let chunk_size = used.len() as u64 * slices_per_unit * lpage;
    if u128::from(chunk_size) * 100 > u128::from(request.vmalloc_total) * u128::from(request.remap_percent) {
        say(request, log, &Message::ChunkTooLarge { mib: chunk_size >> 20 });
        return Err(failed("a chunk would take too much of the vmalloc space", EINVAL));
    }
    let size = unit_size * units.len() as u64;
    let base = mapped_at(request, size, unit_size)?;
    let mut pages = Vec::new();
    for (slice, members) in units.chunks(per_slice).enumerate() {
        let Some(cpu) = members.iter().flatten().next().copied() else { continue };
        for part in 0..slices_per_unit {
            let Some(linear) = memory.alloc(cpu, request.topology.node(cpu), lpage, lpage) else {
                say(request, log, &Message::NoLargePage { cpu });
                for &(linear, _) in &pages {
                    memory.free(linear, lpage);
                }
                return Err(failed("no large page for a CPU", ENOMEM));
            };
            pages.push((linear, base + (slice as u64 * slices_per_unit + part) * lpage));
        }
    }
    check_groups(&pages.iter().map(|&(linear, _)| (linear, lpage)).collect::<Vec<_>>(), request.word)?;
    let mut given_back = 0;
    for (unit, at) in units.iter().zip((base..).step_by(unit_size as usize)) {
        let start = if unit.is_some() { at + sizes.size_sum } else { at };
        given_back += free_mapped(&pages, lpage, start..at + unit_size, memory);
    }
    pages.sort_unstable();
    let info = side_by_side(request, &sizes, unit_size, alloc_size, units);
    log.push(summary(request, SummaryKind::LargePage, 0, base, &info));
    if !early {
        let dump = LargePageDump {
            static_size: info.static_size,
            reserved_size: info.reserved_size,
            dyn_size: info.dyn_size,
            unit_size,
            lpage_size: lpage,
            units: info.groups[0].cpu_map.clone(),
        };
        log.extend(dump.lines().into_iter().map(|text| LogLine::new(request.dump_level, text)));
    }
    let mut chunk = set_up(request, info, base, false, log)?;
    chunk.vm_area = Some((base, size));
    let used = early.then_some(sizes.size_sum);
    chunk.large_pages = Some(LargePages { size: lpage, pages, doubly_mapped: given_back, used });
    Ok(chunk)
}

/// Gives the linear pages behind a mapped range back, split at large-page borders; the bytes. Slices without a used
/// unit have no page.
fn free_mapped(pages: &[(u64, u64)], lpage: u64, range: std::ops::Range<u64>, memory: &mut dyn BootMemory) -> u64 {
    let mut freed = 0;
    // Pages are in the order of their mapped addresses here.
    let from = pages.partition_point(|&(_, mapped)| mapped + lpage <= range.start);
    for &(linear, mapped) in pages[from..].iter().take_while(|&&(_, mapped)| mapped < range.end) {
        let (start, end) = (range.start.max(mapped), range.end.min(mapped + lpage));
        if start < end {
            memory.free(linear + (start - mapped), end - start);
            freed += end - start;
        }
    }
    freed
}

/// `pcpu_lpage_build_unit_map`: unit size, allocation size, and the CPU of each unit.
#[allow(clippy::type_complexity)]
fn unit_map(request: &FirstChunkRequest) -> Result<(u64, u64, Vec<Option<u32>>), ConfigError> {
    if *request.topology.distance_kind() == Distance::None {
        return Err(ConfigError::new("topology", "no distances", "must have distances for the large-page allocator"));
    }
    let groups = group_cpus(&request.topology, request.rules.grouping);
    let plan = request.layout_input().plan(&counts(&groups))?;
    let mut units = Vec::new();
    for group in groups {
        units.extend(group.into_iter().map(Some));
        units.resize(round_up(units.len() as u64, plan.upa) as usize, None);
    }
    Ok((plan.unit_size(), plan.alloc_size, units))
}

#[cfg(test)]
mod tests;
