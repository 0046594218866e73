//! Explain: why a layout came out as it did, and what else would change it.
//!
//! # Design
//!
//! Nothing here decides anything: the figures are read off the plan, the record and the first chunk.
//!
//! ```text
//! plan        each number of units per allocation: allocations, holes, verdict
//! record      each group: units, bytes asked for, kept and given back
//! request     distance of the groups against three quarters of the vmalloc space
//! mappings    TLB entries of one CPU's part; bytes that are mapped twice
//! otherwise   the same machine with other atoms; with some CPUs more or fewer
//! ```
//!
//! # Units
//!
//! Bytes; TLB entries are those that cover the used part of one CPU's first unit.
//!
//! # Invariants
//!
//! X1 for an embedded chunk, bytes kept + bytes given back = bytes asked for, in each group.
//!
//! # Cost
//!
//! Linear in units, times the number of alternatives.
//!
//! # Source
//!
//! Specification 30 sections 3 to 6; 31 sections 6, 7 and 10.

use crate::error::{ConfigError, LayoutError};
use crate::layout::first_chunk::FirstChunk;
use crate::layout::groups::{counts, group_cpus, Plan};
use crate::layout::request::{Backend, FirstChunkRequest, Kind};
use crate::layout::topology::Distance;
use crate::variant::BootAllocators;

/// The share of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShare {
    /// Node of the group's first CPU.
    pub node: u32,
    /// CPUs.
    pub nr_cpus: u64,
    /// Units, holes counted.
    pub nr_units: u64,
    /// Bytes that were asked from the boot allocator.
    pub asked: u64,
    /// Bytes that stay in use.
    pub kept: u64,
    /// Bytes of holes that were given back.
    pub holes: u64,
    /// Bytes behind the served part of units that were given back.
    pub tails: u64,
}

/// One way to map the first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// `embed`, `page` or `lpage`.
    pub name: &'static str,
    /// Entries that cover the used part of one CPU's unit.
    pub tlb_entries: u64,
    /// Of these, entries that exist only for per-CPU memory.
    pub extra_tlb_entries: u64,
    /// Bytes of all CPUs that have a second mapping besides the linear one.
    pub doubly_mapped: u64,
    /// Of these, bytes that belong to somebody else: a change of their attributes must find both mappings.
    pub doubly_mapped_foreign: u64,
    /// Bytes of memory in use.
    pub kept: u64,
}

/// The layout on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Otherwise {
    /// Atom, bytes.
    pub atom_size: u64,
    /// CPUs.
    pub nr_cpus: u64,
    /// Unit, bytes.
    pub unit_size: u64,
    /// Units, holes counted.
    pub nr_units: u64,
    /// Holes.
    pub nr_holes: u64,
}

/// Why the units may or may not be used in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// From the lowest group to the end of the highest.
    pub max_distance: u64,
    /// The largest distance that is accepted.
    pub limit: u64,
    /// The vmalloc space.
    pub vmalloc_total: u64,
}

/// Everything that can be said about a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which allocator was asked for.
    pub asked: &'static str,
    /// Which one made the first chunk.
    pub used: &'static str,
    /// Steps A, B and D of embedding; `None` where units are not computed so (UP, given units, 2.6.30).
    pub plan: Option<Plan>,
    /// Holes that are accepted.
    pub waste_limit: u64,
    /// Bytes that rounding to a page added to the dynamic part.
    pub dyn_padding: u64,
    /// Bytes that the early minimum or an earlier rule added.
    pub dyn_raised: u64,
    /// Bytes of a unit behind the served part.
    pub unit_tail: u64,
    /// The groups of the first chunk.
    pub groups: Vec<GroupShare>,
    /// The distance, where groups lie at addresses of their own.
    pub reach: Option<Reach>,
    /// What each way to map it costs.
    pub mappings: Vec<Mapping>,
    /// Other atoms, the rest as it is.
    pub atoms: Vec<Otherwise>,
    /// Some CPUs more or fewer in the last group, the rest as it is.
    pub cpus: Vec<Otherwise>,
    /// Address space of every later chunk.
    pub later_span: u64,
    /// Of that, bytes in areas of its own.
    pub later_areas: u64,
}

/// Atoms that are tried, those that are multiples of the page.
const ATOMS: [u64; 8] = [4 << 10, 16 << 10, 64 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20, 32 << 20];

impl Explanation {
    /// Explains the chunk that `request` led to.
    pub fn of(request: &FirstChunkRequest, chunk: &FirstChunk) -> Result<Self, LayoutError> {
        let info = &chunk.info;
        let size_sum = info.size_sum();
        let computed = matches!(request.kind, Kind::Auto | Kind::Embed | Kind::Page | Kind::LargePage)
            && request.rules.allocators != BootAllocators::ByCpuId;
        let groups = counts(&group_cpus(&request.topology, request.rules.grouping));
        let input = request.layout_input();
        let plan = computed.then(|| input.plan(&groups)).transpose()?;
        let wanted = if used(chunk) == "page" { 0 } else { info.dyn_size.min(request.dyn_size) };
        let raised = request.rules.early_size.saturating_sub(wanted).min(info.dyn_size - wanted.min(info.dyn_size));
        let mut explanation = Self {
            asked: request.kind.name(),
            used: if request.kind == Kind::Up { "up" } else { used(chunk) },
            waste_limit: u64::from(request.topology.nr_possible() / 3),
            dyn_padding: info.dyn_size.saturating_sub(wanted).saturating_sub(raised),
            dyn_raised: raised,
            unit_tail: info.unit_size - size_sum,
            groups: shares(request, chunk),
            reach: reach(request, chunk),
            mappings: Vec::new(),
            atoms: Vec::new(),
            cpus: Vec::new(),
            later_span: chunk.span(),
            later_areas: chunk.group_sizes.iter().sum(),
            plan,
        };
        if computed {
            explanation.mappings = mappings(request, &explanation)?;
            (explanation.atoms, explanation.cpus) = (other_atoms(request, &groups), other_cpus(request, &groups));
        }
        Ok(explanation)
    }

    /// Bytes that stay in use, of all groups.
    pub fn kept(&self) -> u64 {
        self.groups.iter().map(|group| group.kept).sum()
    }

    /// Bytes that were asked for, of all groups.
    pub fn asked_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.asked).sum()
    }
}

/// Which allocator made a chunk.
pub fn used(chunk: &FirstChunk) -> &'static str {
    match chunk {
        FirstChunk { large_pages: Some(_), .. } => "lpage",
        FirstChunk { linear: true, .. } => "embed",
        _ => "page",
    }
}

fn shares(request: &FirstChunkRequest, chunk: &FirstChunk) -> Vec<GroupShare> {
    let (unit_size, size_sum) = (chunk.info.unit_size, chunk.info.size_sum());
    let in_place = chunk.linear || chunk.large_pages.is_some();
    let share = |group: &crate::layout::Group| {
        let nr_units = u64::from(group.nr_units);
        let nr_cpus = group.cpu_map.iter().flatten().count() as u64;
        let holes = (nr_units - nr_cpus) * unit_size;
        let first = group.cpu_map.iter().flatten().next();
        // Pages are taken one by one, and only for CPUs; all of a unit's are.
        let (asked, kept) = match (in_place, chunk.mapped_pages) {
            (true, _) => (nr_units * unit_size, nr_cpus * size_sum),
            (false, None) => (nr_cpus * unit_size, nr_cpus * unit_size),
            (false, Some(pages)) => {
                let bytes = nr_cpus * u64::from(pages) * chunk.page_size;
                (bytes, bytes)
            }
        };
        GroupShare {
            node: first.map_or(0, |&cpu| request.topology.node(cpu)),
            nr_cpus,
            nr_units,
            asked,
            kept,
            holes: if in_place { holes } else { 0 },
            tails: if in_place { nr_cpus * (unit_size - size_sum) } else { 0 },
        }
    };
    chunk.info.groups.iter().map(share).collect()
}

fn reach(request: &FirstChunkRequest, chunk: &FirstChunk) -> Option<Reach> {
    if request.kind == Kind::Up || request.rules.allocators != BootAllocators::Groups || used(chunk) != "embed" {
        return None;
    }
    let farthest = chunk.group_offsets.iter().zip(&chunk.group_sizes).max_by_key(|(offset, _)| **offset)?;
    let end = if request.rules.distance_of_unit { chunk.info.unit_size } else { *farthest.1 };
    Some(Reach {
        max_distance: farthest.0 + end,
        limit: request.word.wrap(request.vmalloc_total.wrapping_mul(3)) / 4,
        vmalloc_total: request.vmalloc_total,
    })
}

fn mappings(request: &FirstChunkRequest, explanation: &Explanation) -> Result<Vec<Mapping>, ConfigError> {
    let Some(plan) = &explanation.plan else { return Ok(Vec::new()) };
    let nr_cpus = u64::from(request.topology.nr_possible());
    let page = request.page_size;
    let entries = |bytes: u64, each: u64| bytes.div_ceil(each).max(1);
    let size_sum = plan.sizes.size_sum;
    let embed = Mapping {
        name: "embed",
        tlb_entries: entries(size_sum, request.atom_size),
        extra_tlb_entries: 0,
        doubly_mapped: 0,
        doubly_mapped_foreign: 0,
        kept: nr_cpus * size_sum,
    };
    let paged = request.page_alloc_info()?;
    let page = Mapping {
        name: "page",
        tlb_entries: entries(paged.size_sum(), page),
        extra_tlb_entries: entries(paged.size_sum(), page),
        doubly_mapped: nr_cpus * paged.unit_size,
        doubly_mapped_foreign: 0,
        kept: nr_cpus * paged.unit_size,
    };
    // Slices without a used unit have no large page; by the waste rule there are none.
    let remapped = plan.taken().allocs * plan.alloc_size;
    let lpage = Mapping {
        name: "lpage",
        tlb_entries: entries(size_sum, request.atom_size),
        extra_tlb_entries: entries(size_sum, request.atom_size),
        doubly_mapped: remapped,
        doubly_mapped_foreign: remapped - nr_cpus * size_sum,
        kept: nr_cpus * size_sum,
    };
    Ok(vec![embed, page, lpage])
}

fn otherwise(request: &FirstChunkRequest, atom_size: u64, groups: &[u64]) -> Option<Otherwise> {
    let request = FirstChunkRequest { atom_size, ..request.clone() };
    let plan = request.layout_input().plan(groups).ok()?;
    let nr_units = plan.taken().allocs * plan.upa;
    let nr_cpus = groups.iter().sum();
    Some(Otherwise { atom_size, nr_cpus, unit_size: plan.unit_size(), nr_units, nr_holes: nr_units - nr_cpus })
}

fn other_atoms(request: &FirstChunkRequest, groups: &[u64]) -> Vec<Otherwise> {
    let mut atoms: Vec<u64> = ATOMS.into_iter().filter(|atom| atom % request.page_size == 0).collect();
    atoms.push(request.atom_size);
    atoms.sort_unstable();
    atoms.dedup();
    atoms.into_iter().filter_map(|atom| otherwise(request, atom, groups)).collect()
}

/// From two CPUs fewer to as many more as fill an allocation.
fn other_cpus(request: &FirstChunkRequest, groups: &[u64]) -> Vec<Otherwise> {
    let Some((&last, others)) = groups.split_last() else { return Vec::new() };
    let near = (last.saturating_sub(2).max(1)..=last + 4).chain([last + 8, last * 2]);
    let mut counts: Vec<u64> = near.collect();
    counts.sort_unstable();
    counts.dedup();
    let with = |last: u64| others.iter().copied().chain([last]).collect::<Vec<u64>>();
    counts.into_iter().filter_map(|last| otherwise(request, request.atom_size, &with(last))).collect()
}

/// What decides about the groups, in words for people: `no distances`, `same node`, `table`.
pub fn distance_name(distance: &Distance) -> &'static str {
    match distance {
        Distance::None => "no distances",
        Distance::SameNode => "same node",
        Distance::Nodes(_) | Distance::Cpus(_) => "table",
    }
}

/// `vmalloc` or `kernel memory`.
pub const fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Vmalloc => "vmalloc",
        Backend::KernelMemory => "kernel memory",
    }
}

#[cfg(test)]
mod tests;
