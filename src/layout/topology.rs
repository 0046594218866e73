//! Topology: which CPUs are possible, where they live, and how far apart they are.
//!
//! # Design
//!
//! ```text
//! cpu id   0  1  2  3  4  5          ids may have gaps: 3 is impossible
//! node     0  0  1  -  1  1
//! distance none | same node 10, else 20 | a table of nodes | a table of CPUs
//! ```
//!
//! Only "near in both directions" matters to the layout; the exact figures are kept for tables that are not
//! symmetric or not transitive, where the grouping rules of the generations differ.
//!
//! # Units
//!
//! Distances are the firmware's: 10 is local. CPU ids and nodes are plain numbers.
//!
//! # Invariants
//!
//! T1 at least one CPU is possible and every id is below [`MAX_CPUS`]; T2 a table of distances covers every
//! possible CPU (or every node that a possible CPU has).
//!
//! # Cost
//!
//! One word a CPU; a table of CPUs has the square of their number, and copies share it.
//!
//! # Source
//!
//! Specification 30 section 2.

use std::sync::Arc;

use crate::error::ConfigError;

/// CPU ids must be below this.
pub const MAX_CPUS: u32 = 65536;
/// The distance of a CPU to itself and to its neighbours.
pub const LOCAL_DISTANCE: u32 = 10;
/// The distance between nodes that a plain two-level model uses.
pub const REMOTE_DISTANCE: u32 = 20;

/// How far apart CPUs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distance {
    /// No distance function is supplied: all CPUs are near each other.
    None,
    /// 10 within a node, 20 between nodes: what x86, sparc64, powerpc and loongarch supply.
    SameNode,
    /// By the nodes of the two CPUs, `[from][to]`: what arm64 and riscv supply.
    Nodes(Vec<Vec<u32>>),
    /// By CPU ids, `[from][to]`.
    Cpus(Vec<Vec<u32>>),
}

/// Possible CPUs, their nodes and distances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Possible CPU ids, ascending.
    possible: Vec<u32>,
    /// Node of each id below `nr_ids`; 0 for impossible ones.
    nodes: Vec<u32>,
    /// Shared, since a table of CPUs may have millions of entries and requests are copied freely.
    distance: Arc<Distance>,
}

impl Topology {
    /// `nr_cpus[n]` CPUs on node n, ids ascending from node to node; distance 10 within a node, else 20.
    pub fn from_nodes(nr_cpus: &[u32]) -> Result<Self, ConfigError> {
        let total: u64 = nr_cpus.iter().map(|&n| u64::from(n)).sum();
        check_count(total)?;
        let nodes = (0u32..).zip(nr_cpus).flat_map(|(node, &n)| std::iter::repeat_n(node, n as usize)).collect();
        Self::from_cpu_nodes(nodes)
    }

    /// CPUs 0, 1, 2, ... on the given nodes; distance 10 within a node, else 20.
    pub fn from_cpu_nodes(nodes: Vec<u32>) -> Result<Self, ConfigError> {
        check_count(nodes.len() as u64)?;
        let possible = (0..nodes.len() as u32).collect();
        Ok(Self { possible, nodes, distance: Arc::new(Distance::SameNode) })
    }

    /// `nr_cpus` CPUs and no distance function.
    pub fn flat(nr_cpus: u32) -> Result<Self, ConfigError> {
        Ok(Self::from_nodes(&[nr_cpus])?.without_distance())
    }

    /// CPUs 0, 1, 2, ... at the distances `[from][to]`. All are put on node 0.
    pub fn from_distances(matrix: Vec<Vec<u32>>) -> Result<Self, ConfigError> {
        let nodes = vec![0; matrix.len()];
        Self::from_cpu_nodes(nodes)?.with_distance(Distance::Cpus(matrix))
    }

    /// Replaces the distances; tables must be square and cover every CPU or node.
    pub fn with_distance(mut self, distance: Distance) -> Result<Self, ConfigError> {
        let needed = match &distance {
            Distance::None | Distance::SameNode => None,
            Distance::Nodes(_) => self.possible.iter().map(|&cpu| self.node(cpu)).max(),
            Distance::Cpus(_) => self.possible.last().copied(),
        };
        if let (Some(needed), Distance::Nodes(table) | Distance::Cpus(table)) = (needed, &distance) {
            if table.len() as u64 <= u64::from(needed) || table.iter().any(|row| row.len() != table.len()) {
                return Err(ConfigError::new(
                    "distances",
                    format!("{} rows", table.len()),
                    format!("must be square with at least {} rows", u64::from(needed) + 1),
                ));
            }
        }
        self.distance = Arc::new(distance);
        Ok(self)
    }

    /// The same CPUs with no distance function.
    pub fn without_distance(mut self) -> Self {
        self.distance = Arc::new(Distance::None);
        self
    }

    /// Removes CPUs from the possible ones; the ids above keep their numbers.
    pub fn with_impossible(mut self, impossible: &[u32]) -> Result<Self, ConfigError> {
        let impossible: std::collections::HashSet<_> = impossible.iter().collect();
        self.possible.retain(|cpu| !impossible.contains(cpu));
        if self.possible.is_empty() {
            return Err(ConfigError::new("topology", "no possible cpu", "must have at least one"));
        }
        Ok(self)
    }

    /// Possible CPU ids, ascending.
    pub fn possible(&self) -> &[u32] {
        &self.possible
    }

    /// Number of possible CPUs.
    pub fn nr_possible(&self) -> u32 {
        self.possible.len() as u32
    }

    /// Highest possible id + 1, `nr_cpu_ids`.
    pub fn nr_cpu_ids(&self) -> u32 {
        self.possible.last().map_or(0, |&cpu| cpu + 1)
    }

    /// Ids that were declared, possible or not: the length of tables by CPU id.
    pub fn nr_declared(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Whether this id is possible.
    pub fn is_possible(&self, cpu: u32) -> bool {
        self.possible.binary_search(&cpu).is_ok()
    }

    /// The node of a CPU; 0 if the id is unknown.
    pub fn node(&self, cpu: u32) -> u32 {
        self.nodes.get(cpu as usize).copied().unwrap_or(0)
    }

    /// The kind of distances.
    pub fn distance_kind(&self) -> &Distance {
        &self.distance
    }

    /// Distance from one possible CPU to another; `None` without a distance function.
    pub fn distance(&self, from: u32, to: u32) -> Option<u32> {
        match &*self.distance {
            Distance::None => None,
            Distance::SameNode if self.node(from) == self.node(to) => Some(LOCAL_DISTANCE),
            Distance::SameNode => Some(REMOTE_DISTANCE),
            Distance::Nodes(table) => Some(table[self.node(from) as usize][self.node(to) as usize]),
            Distance::Cpus(table) => Some(table[from as usize][to as usize]),
        }
    }
}

fn check_count(total: u64) -> Result<(), ConfigError> {
    if total == 0 || total > u64::from(MAX_CPUS) {
        return Err(ConfigError::new("topology", format!("{total} cpus"), format!("must have 1 to {MAX_CPUS}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_number_cpus_in_order() {
        let topology = Topology::from_nodes(&[2, 0, 3]).unwrap();
        assert_eq!((0..5).map(|cpu| topology.node(cpu)).collect::<Vec<_>>(), [0, 0, 2, 2, 2]);
        assert_eq!(topology.distance(0, 1), Some(10));
        assert_eq!(topology.distance(1, 2), Some(20));
        assert_eq!(topology.clone().without_distance().distance(1, 2), None);
        let topology = topology.with_impossible(&[1, 4]).unwrap();
        assert_eq!((topology.possible(), topology.nr_cpu_ids(), topology.nr_declared()), (&[0, 2, 3][..], 4, 5));
    }

    #[test]
    fn nonsense_is_named() {
        for error in [
            Topology::from_nodes(&[]).unwrap_err(),
            Topology::from_nodes(&[u32::MAX, u32::MAX]).unwrap_err(),
            Topology::from_nodes(&[3]).unwrap().with_impossible(&[0, 1, 2]).unwrap_err(),
        ] {
            assert_eq!(error.parameter, "topology");
        }
        let error = Topology::from_distances(vec![vec![10], vec![10, 20]]).unwrap_err();
        assert_eq!(error.to_string(), "distances=2 rows: must be square with at least 2 rows");
        let nodes = Topology::from_nodes(&[1, 1]).unwrap();
        assert!(nodes.clone().with_distance(Distance::Nodes(vec![vec![10]])).is_err());
        let far = nodes.with_distance(Distance::Nodes(vec![vec![10, 21], vec![31, 10]])).unwrap();
        assert_eq!((far.distance(0, 1), far.distance(1, 0)), (Some(21), Some(31)));
    }
}
