//! Groups: from sizes, CPUs and distances to the layout record.
//!
//! # Design
//!
//! A pure function in five steps; no address is involved yet.
//!
//! ```text
//! A sizes      static | reserved | dynamic, padded to a page     -> min_unit_size
//! B max_upa    units that fit one allocation of whole atoms
//! C grouping   CPUs near each other share a group
//! D waste      fewest allocations with at most a third of the CPUs' number in holes -> upa
//! E record     group 0: [0][1][2][-]   group 1: [3][4][5][6]     holes only at a group's end
//! ```
//!
//! # Units
//!
//! Bytes throughout; `upa` is units per allocation.
//!
//! # Invariants
//!
//! I1 *unit*: `unit_size` is a multiple of the page and at least static + reserved + dynamic. I2 *alloc*:
//! `alloc_size` is a multiple of the atom and of the unit. I3 *whole allocations*: each group has a whole number
//! of allocations. I4 *one to one*: every possible CPU has exactly one unit. I5 *waste*: holes are at most a
//! third of the possible CPUs. [`AllocInfo::verify`] checks them.
//!
//! # Cost
//!
//! Grouping by node is linear in CPUs; by tables of distances it is quadratic at most (the kernel's restart
//! loop is cubic; the outcome is the same). The search for `upa` is linear in `max_upa`.
//!
//! # Source
//!
//! Specification 30. Inputs that the kernel would loop or divide by zero on are rejected (section 8).

use std::collections::HashMap;

use crate::boot_log::BootRecord;
use crate::error::{ensure_invariant, ConfigError, Violation};
use crate::geometry::MAX_UNIT_SIZE;
use crate::layout::topology::{Distance, Topology, LOCAL_DISTANCE};
use crate::units::{round_up, WordSize};
use crate::variant::{Grouping, LayoutRules, Regions, DYN_PADDING};

/// Units of CPUs that are near each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Units, holes counted.
    pub nr_units: u32,
    /// Start of the group relative to the first chunk's base address, bytes.
    pub base_offset: u64,
    /// The CPU of each unit; `None` is a hole.
    pub cpu_map: Vec<Option<u32>>,
}

/// The layout record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocInfo {
    /// Size of the image's static section, bytes, not rounded.
    pub static_size: u64,
    /// Reserved size, bytes.
    pub reserved_size: u64,
    /// Dynamic size, bytes: what was wanted plus the padding to a page.
    pub dyn_size: u64,
    /// Bytes of one unit.
    pub unit_size: u64,
    /// Granularity of first-chunk memory and of later address space, bytes.
    pub atom_size: u64,
    /// Bytes of one allocation.
    pub alloc_size: u64,
    /// The groups, in order of their first CPU.
    pub groups: Vec<Group>,
}

/// What the layout function needs.
#[derive(Clone, Copy, Debug)]
pub struct LayoutInput<'a> {
    /// Static section, bytes.
    pub static_size: u64,
    /// Reserved area, bytes; 0 = none.
    pub reserved_size: u64,
    /// Least dynamic size, bytes; raised to the early minimum. Before 2.6.36 also [`DYN_PADDING`].
    pub dyn_size: u64,
    /// Atom, bytes; a multiple of the page.
    pub atom_size: u64,
    /// Page, bytes; a power of two.
    pub page_size: u64,
    /// Smallest unit, bytes (`PCPU_MIN_UNIT_SIZE`).
    pub min_unit_size: u64,
    /// Possible CPUs and their distances.
    pub topology: &'a Topology,
    /// Constants of the release.
    pub rules: &'a LayoutRules,
    /// The machine word: no size or offset may be larger.
    pub word: WordSize,
}

/// `PCPU_MIN_UNIT_SIZE`: 32 KiB rounded up to a page.
pub fn min_unit_size(page_size: u64) -> u64 {
    round_up(32 << 10, page_size.max(1))
}

/// Step A: what each part of a unit gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Reserved size after the rounding of the July 2017 posting, bytes.
    pub reserved_size: u64,
    /// Dynamic size with padding, bytes.
    pub dyn_size: u64,
    /// static + reserved + dynamic, a multiple of the page, bytes.
    pub size_sum: u64,
    /// The unit may not be smaller, bytes.
    pub min_unit_size: u64,
}

impl LayoutInput<'_> {
    fn check(&self) -> Result<(), ConfigError> {
        check_page_size(self.page_size)?;
        for (name, value) in [
            ("static_size", self.static_size),
            ("reserved_size", self.reserved_size),
            ("dyn_size", unsigned_dyn(self.rules, self.dyn_size)),
            ("early_size", self.rules.early_size),
            ("min_unit_size", self.min_unit_size),
        ] {
            check_size(name, value)?;
        }
        check_atom(self.atom_size, self.page_size)
    }

    /// Step A.
    pub fn sizes(&self) -> Result<Sizes, ConfigError> {
        self.check()?;
        let mut reserved_size = self.reserved_size;
        if self.rules.regions == Regions::PaddedReserved && reserved_size != 0 {
            reserved_size = round_up(self.static_size + reserved_size, self.page_size) - self.static_size;
        }
        let wanted = match self.dyn_size {
            DYN_PADDING if self.rules.signed_dyn => 0,
            dyn_size => dyn_size.max(self.rules.early_size),
        };
        let size_sum = round_up(self.static_size + reserved_size + wanted, self.page_size);
        let dyn_size = match self.dyn_size {
            // Kernel: before 2.6.36 the padding is used only if some dynamic size was wanted.
            0 if self.rules.signed_dyn => 0,
            _ => size_sum - self.static_size - reserved_size,
        };
        check_word(self.word, "static_size + reserved_size + dyn_size", size_sum)?;
        Ok(Sizes {
            reserved_size,
            dyn_size,
            size_sum,
            min_unit_size: size_sum.max(self.min_unit_size).max(self.page_size),
        })
    }

    /// Steps A, B and D for groups of so many CPUs.
    pub fn plan(&self, counts: &[u64]) -> Result<Plan, ConfigError> {
        let sizes = self.sizes()?;
        let alloc_size = round_up(sizes.min_unit_size, self.atom_size);
        check_word(self.word, "alloc_size", alloc_size)?;
        let max_upa = (1..=alloc_size / sizes.min_unit_size)
            .rev()
            .find(|&upa| acceptable(alloc_size, upa, self.page_size))
            .unwrap_or(1);
        let mut plan = Plan { sizes, alloc_size, max_upa, upa: 1, candidates: Vec::new() };
        plan.choose_upa(counts, self.page_size);
        if plan.unit_size() > MAX_UNIT_SIZE {
            let limit = format!("must be at most {MAX_UNIT_SIZE}");
            return Err(ConfigError::new("unit_size", plan.unit_size(), limit));
        }
        Ok(plan)
    }

    /// Steps A to E.
    pub fn build(&self) -> Result<AllocInfo, ConfigError> {
        self.check()?;
        let groups = group_cpus(self.topology, self.rules.grouping);
        let plan = self.plan(&counts(&groups))?;
        let unit_size = plan.unit_size();
        let mut base_offset = 0;
        let groups = groups
            .into_iter()
            .map(|cpus| {
                let nr_units = round_up(cpus.len() as u64, plan.upa);
                let mut cpu_map: Vec<_> = cpus.into_iter().map(Some).collect();
                cpu_map.resize(nr_units as usize, None);
                let group = Group { nr_units: nr_units as u32, base_offset, cpu_map };
                base_offset += nr_units * unit_size;
                group
            })
            .collect();
        // Kernel: wraps; then groups would overlap.
        check_word(self.word, "size of all units", base_offset)?;
        Ok(AllocInfo {
            static_size: self.static_size,
            reserved_size: plan.sizes.reserved_size,
            dyn_size: plan.sizes.dyn_size,
            unit_size,
            atom_size: self.atom_size,
            alloc_size: plan.alloc_size,
            groups,
        })
    }

    /// The unit sizes that step D chooses from, largest `upa` first: which one it takes depends on the CPUs.
    pub fn unit_candidates(&self) -> Result<Vec<u64>, ConfigError> {
        let sizes = self.sizes()?;
        let alloc_size = round_up(sizes.min_unit_size, self.atom_size);
        Ok((1..=alloc_size / sizes.min_unit_size)
            .rev()
            .filter(|&upa| acceptable(alloc_size, upa, self.page_size))
            .map(|upa| alloc_size / upa)
            .collect())
    }
}

pub(crate) fn check_page_size(page_size: u64) -> Result<(), ConfigError> {
    if page_size.is_power_of_two() && (64..=1 << 20).contains(&page_size) {
        return Ok(());
    }
    Err(ConfigError::new("page_size", page_size, format!("must be a power of two from 64 to {}", 1 << 20)))
}

pub(crate) fn check_size(name: &'static str, value: u64) -> Result<(), ConfigError> {
    if value <= MAX_UNIT_SIZE {
        return Ok(());
    }
    Err(ConfigError::new(name, value, format!("must be at most {MAX_UNIT_SIZE}")))
}

/// The wanted dynamic size as a number of bytes: a -1 that the release knows is none.
pub(crate) fn unsigned_dyn(rules: &LayoutRules, dyn_size: u64) -> u64 {
    match dyn_size {
        DYN_PADDING if rules.signed_dyn => 0,
        other => other,
    }
}

pub(crate) fn check_word(word: WordSize, name: &'static str, value: u64) -> Result<(), ConfigError> {
    if value <= word.max() {
        return Ok(());
    }
    Err(ConfigError::new(name, format!("{value:#x}"), format!("overflows a word of word_bits={}", word.bits())))
}

pub(crate) fn check_atom(atom_size: u64, page_size: u64) -> Result<(), ConfigError> {
    if atom_size != 0 && atom_size % page_size == 0 && atom_size <= MAX_UNIT_SIZE {
        return Ok(());
    }
    let limit = format!("must be a multiple of the page size {page_size} up to {MAX_UNIT_SIZE}");
    Err(ConfigError::new("atom_size", atom_size, limit))
}

/// Whether an allocation splits into `upa` units of whole pages.
fn acceptable(alloc_size: u64, upa: u64, page_size: u64) -> bool {
    alloc_size % upa == 0 && (alloc_size / upa) % page_size == 0
}

/// Step C: the CPUs of each group, ascending.
pub fn group_cpus(topology: &Topology, grouping: Grouping) -> Vec<Vec<u32>> {
    let possible = topology.possible();
    match topology.distance_kind() {
        Distance::None => vec![possible.to_vec()],
        // "Near" is "same node": both rules give the nodes in order of their first CPU.
        Distance::SameNode => {
            let mut index = HashMap::new();
            let mut groups: Vec<Vec<u32>> = Vec::new();
            for &cpu in possible {
                let group = *index.entry(topology.node(cpu)).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[group].push(cpu);
            }
            groups
        }
        Distance::Nodes(_) | Distance::Cpus(_) => match grouping {
            Grouping::FirstMember => group_by_first(topology),
            Grouping::AllMembers => group_by_all(topology),
        },
    }
}

fn group_by_first(topology: &Topology) -> Vec<Vec<u32>> {
    let local = Some(LOCAL_DISTANCE);
    let mut rest = topology.possible().to_vec();
    let mut groups = Vec::new();
    while let Some(&first) = rest.first() {
        let near = |&cpu: &u32| {
            cpu == first || topology.distance(first, cpu) == local && topology.distance(cpu, first) == local
        };
        let (group, others) = rest.iter().partition(|cpu| near(cpu));
        groups.push(group);
        rest = others;
    }
    groups
}

fn group_by_all(topology: &Topology) -> Vec<Vec<u32>> {
    let far = |from, to| topology.distance(from, to).is_some_and(|distance| distance > LOCAL_DISTANCE);
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for &cpu in topology.possible() {
        match groups.iter_mut().find(|group| group.iter().all(|&t| !far(cpu, t) && !far(t, cpu))) {
            Some(group) => group.push(cpu),
            None => groups.push(vec![cpu]),
        }
    }
    groups
}

/// CPUs of each group.
pub(crate) fn counts(groups: &[Vec<u32>]) -> Vec<u64> {
    groups.iter().map(|group| group.len() as u64).collect()
}

/// What became of a number of units per allocation in step D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too many holes: passed over.
    Wasteful,
    /// Taken for a time: a smaller number needs no more allocations.
    Replaced,
    /// Taken for good.
    Taken,
    /// Needs more allocations than the one taken: the search ends here.
    MoreAllocs,
    /// Not looked at: the search had ended.
    NotReached,
}

impl Verdict {
    /// For programs: `wasteful`, `replaced`, `taken`, `more_allocs` or `not_reached`.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Wasteful => "wasteful",
            Verdict::Replaced => "replaced",
            Verdict::Taken => "taken",
            Verdict::MoreAllocs => "more_allocs",
            Verdict::NotReached => "not_reached",
        }
    }
}

/// A number of units per allocation that step D could choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Units per allocation.
    pub upa: u64,
    /// Allocations of all groups.
    pub allocs: u64,
    /// Units that would be holes.
    pub wasted: u64,
    /// What became of it.
    pub verdict: Verdict,
}

/// Steps A, B and D: everything but which CPU gets which unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Step A.
    pub sizes: Sizes,
    /// Bytes of one allocation.
    pub alloc_size: u64,
    /// The largest number of units per allocation.
    pub max_upa: u64,
    /// The one that was taken.
    pub upa: u64,
    /// All that divide an allocation into whole pages, largest first.
    pub candidates: Vec<Candidate>,
}

impl Plan {
    /// Bytes of one unit.
    pub fn unit_size(&self) -> u64 {
        self.alloc_size / self.upa
    }

    /// The candidate that was taken.
    pub fn taken(&self) -> &Candidate {
        let taken = self.candidates.iter().find(|candidate| candidate.verdict == Verdict::Taken);
        taken.expect("one unit per allocation wastes nothing")
    }

    /// Step D, the waste rule.
    fn choose_upa(&mut self, counts: &[u64], page_size: u64) {
        let limit = counts.iter().sum::<u64>() / 3;
        let mut last_allocs = u64::from(i32::MAX as u32);
        let mut best: Option<usize> = None;
        let mut ended = false;
        for upa in (1..=self.max_upa).rev().filter(|&upa| acceptable(self.alloc_size, upa, page_size)) {
            let allocs = counts.iter().map(|count| count.div_ceil(upa)).sum::<u64>();
            let wasted = counts.iter().map(|count| count.div_ceil(upa) * upa - count).sum::<u64>();
            let verdict = match () {
                () if ended => Verdict::NotReached,
                () if wasted > limit => Verdict::Wasteful,
                () if allocs > last_allocs => {
                    ended = true;
                    Verdict::MoreAllocs
                }
                () => {
                    if let Some(before) = best.replace(self.candidates.len()) {
                        self.candidates[before].verdict = Verdict::Replaced;
                    }
                    last_allocs = allocs;
                    self.upa = upa;
                    Verdict::Taken
                }
            };
            self.candidates.push(Candidate { upa, allocs, wasted, verdict });
        }
    }
}

impl AllocInfo {
    /// static + reserved + dynamic, bytes.
    pub fn size_sum(&self) -> u64 {
        self.static_size.saturating_add(self.reserved_size).saturating_add(self.dyn_size)
    }

    /// Units of all groups, holes counted.
    pub fn nr_units(&self) -> u32 {
        self.groups.iter().map(|group| group.nr_units).sum()
    }

    /// Units per allocation.
    pub fn units_per_alloc(&self) -> u64 {
        self.alloc_size.checked_div(self.unit_size).unwrap_or(1).max(1)
    }

    /// Allocations of all groups.
    pub fn nr_allocs(&self) -> u64 {
        u64::from(self.nr_units()) / self.units_per_alloc()
    }

    /// Possible CPUs: units that are no holes.
    pub fn nr_possible(&self) -> u32 {
        self.groups.iter().flat_map(|group| &group.cpu_map).flatten().count() as u32
    }

    /// Units without a CPU.
    pub fn nr_holes(&self) -> u32 {
        self.nr_units() - self.nr_possible()
    }

    /// What the dump prints.
    pub fn boot_record(&self) -> BootRecord {
        BootRecord {
            static_size: self.static_size,
            reserved_size: self.reserved_size,
            dyn_size: self.dyn_size,
            unit_size: self.unit_size,
            atom_size: self.atom_size,
            alloc_size: self.alloc_size,
            groups: self.groups.iter().map(|group| group.cpu_map.clone()).collect(),
        }
    }

    /// The record behind a parsed dump; groups are put back to back.
    pub fn from_boot_record(record: &BootRecord) -> Self {
        let mut base_offset = 0u64;
        let groups = record.groups.iter().map(|cpu_map| {
            let group = Group { nr_units: cpu_map.len() as u32, base_offset, cpu_map: cpu_map.clone() };
            base_offset = base_offset.saturating_add((cpu_map.len() as u64).saturating_mul(record.unit_size));
            group
        });
        Self {
            static_size: record.static_size,
            reserved_size: record.reserved_size,
            dyn_size: record.dyn_size,
            unit_size: record.unit_size,
            atom_size: record.atom_size,
            alloc_size: record.alloc_size,
            groups: groups.collect(),
        }
    }

    /// Checks I1 to I5 for a record that the layout function made for `topology`.
    pub fn verify(&self, topology: &Topology, page_size: u64) -> Result<(), Violation> {
        let upa = self.units_per_alloc();
        ensure_invariant!(
            self.unit_size % page_size == 0 && self.size_sum() <= self.unit_size,
            "I1 unit",
            "unit_size {} of {} bytes served",
            self.unit_size,
            self.size_sum()
        );
        ensure_invariant!(
            self.alloc_size % self.atom_size == 0 && self.alloc_size == upa * self.unit_size,
            "I2 alloc",
            "alloc_size {} atom_size {} unit_size {}",
            self.alloc_size,
            self.atom_size,
            self.unit_size
        );
        for (index, group) in self.groups.iter().enumerate() {
            ensure_invariant!(
                u64::from(group.nr_units) % upa == 0 && group.cpu_map.len() == group.nr_units as usize,
                "I3 whole allocations",
                "group {index} has {} units, {} entries, upa {upa}",
                group.nr_units,
                group.cpu_map.len()
            );
        }
        let mut cpus: Vec<u32> = self.groups.iter().flat_map(|group| &group.cpu_map).flatten().copied().collect();
        cpus.sort_unstable();
        ensure_invariant!(cpus == topology.possible(), "I4 one to one", "cpus {cpus:?}");
        ensure_invariant!(
            self.nr_holes() <= topology.nr_possible() / 3,
            "I5 waste",
            "{} holes for {} cpus",
            self.nr_holes(),
            topology.nr_possible()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
