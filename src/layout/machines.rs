//! Machines: the layout of very many machines at once.
//!
//! # Design
//!
//! The waste rule needs only the number of CPUs in each group, so a machine is a few numbers, and no table of CPUs is
//! built. Points are independent of each other; they are computed in parallel and the order of the results is that of
//! the points.
//!
//! ```text
//! point: possible and online CPUs, nodes, sizes, atom, page --> plan --> row
//! ```
//!
//! # Units
//!
//! Bytes, units, CPUs.
//!
//! # Invariants
//!
//! N1 a row equals what [`LayoutInput::build`] gives for [`Point::topology`]. N2 the same for any number of threads.
//!
//! # Cost
//!
//! A point is linear in nodes times divisors of an allocation: below a microsecond for usual machines.
//!
//! # Source
//!
//! Specification 30 sections 3 to 6.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::ConfigError;
use crate::layout::groups::LayoutInput;
use crate::layout::topology::{Topology, MAX_CPUS};
use crate::units::{round_up, WordSize};
use crate::variant::LayoutRules;

/// One machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Possible CPUs.
    pub nr_cpus: u32,
    /// CPUs that are online; the rest has memory all the same.
    pub nr_online: u32,
    /// Nodes that the possible CPUs are spread over; the first ones have one CPU more where it does not divide.
    pub nr_nodes: u32,
    /// Static section, bytes.
    pub static_size: u64,
    /// Reserved area, bytes.
    pub reserved_size: u64,
    /// Least dynamic size, bytes.
    pub dyn_size: u64,
    /// Atom, bytes.
    pub atom_size: u64,
    /// Page, bytes.
    pub page_size: u64,
}

/// What came out for a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Dynamic size with padding, bytes.
    pub dyn_size: u64,
    /// Unit, bytes.
    pub unit_size: u64,
    /// Allocation, bytes.
    pub alloc_size: u64,
    /// Units per allocation.
    pub upa: u64,
    /// Units, holes counted.
    pub nr_units: u64,
    /// Units without a CPU.
    pub nr_holes: u64,
    /// Bytes of the first chunk that stay in use.
    pub kept: u64,
    /// Of these, bytes of CPUs that are not online.
    pub offline: u64,
    /// Address space of all groups of a later chunk, bytes.
    pub chunk: u64,
    /// Of these, bytes of holes.
    pub holes: u64,
}

impl Point {
    fn check(&self) -> Result<(), ConfigError> {
        let bad = |name, given: u32, limit: String| Err(ConfigError::new(name, given, limit));
        if !(1..=MAX_CPUS).contains(&self.nr_cpus) {
            return bad("nr_cpus", self.nr_cpus, format!("must be from 1 to {MAX_CPUS}"));
        }
        if self.nr_online > self.nr_cpus {
            return bad("nr_online", self.nr_online, format!("must be at most the {} possible CPUs", self.nr_cpus));
        }
        if !(1..=self.nr_cpus).contains(&self.nr_nodes) {
            return bad("nr_nodes", self.nr_nodes, format!("must be from 1 to the {} possible CPUs", self.nr_cpus));
        }
        Ok(())
    }

    /// CPUs of each node.
    pub fn counts(&self) -> Vec<u64> {
        let (each, more) = (self.nr_cpus / self.nr_nodes.max(1), self.nr_cpus % self.nr_nodes.max(1));
        (0..self.nr_nodes).map(|node| u64::from(each) + u64::from(node < more)).collect()
    }

    /// The same machine, CPU by CPU.
    pub fn topology(&self) -> Result<Topology, ConfigError> {
        self.check()?;
        Topology::from_nodes(&self.counts().iter().map(|&count| count as u32).collect::<Vec<_>>())
    }

    /// The layout of this machine.
    pub fn row(&self, rules: &LayoutRules, word: WordSize) -> Result<Row, ConfigError> {
        self.check()?;
        let topology = Topology::flat(1)?;
        let input = LayoutInput {
            static_size: self.static_size,
            reserved_size: self.reserved_size,
            dyn_size: self.dyn_size,
            atom_size: self.atom_size,
            page_size: self.page_size,
            min_unit_size: round_up(rules.min_unit_size, self.page_size.max(1)),
            topology: &topology,
            rules,
            word,
        };
        let plan = input.plan(&self.counts())?;
        let nr_units = plan.taken().allocs * plan.upa;
        let nr_holes = nr_units - u64::from(self.nr_cpus);
        let size_sum = plan.sizes.size_sum;
        Ok(Row {
            dyn_size: plan.sizes.dyn_size,
            unit_size: plan.unit_size(),
            alloc_size: plan.alloc_size,
            upa: plan.upa,
            nr_units,
            nr_holes,
            kept: u64::from(self.nr_cpus) * size_sum,
            offline: u64::from(self.nr_cpus - self.nr_online) * size_sum,
            chunk: nr_units * plan.unit_size(),
            holes: nr_holes * plan.unit_size(),
        })
    }
}

/// The rows of all points, in order. `None` if `stop` was set before the end.
pub fn sweep(
    points: &[Point],
    rules: &LayoutRules,
    word: WordSize,
    stop: &AtomicBool,
) -> Option<Vec<Result<Row, ConfigError>>> {
    let row = |point: &Point| (!stop.load(Ordering::Relaxed)).then(|| point.row(rules, word));
    points.par_iter().with_min_len(32).map(row).collect()
}

#[cfg(test)]
mod tests;
