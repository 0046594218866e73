//! Boot memory: where the blocks of the first chunk come from.
//!
//! # Design
//!
//! The layout does not care where its groups lie; the caller injects a [`BootMemory`]. Three are built in: one
//! after the other ([`Contiguous`]), from the top of the CPU's node as the kernel's early allocator does
//! ([`TopDown`]), and lists of given addresses ([`GivenAddresses`], [`GivenGroups`]). [`Recorded`] keeps the lists of what was
//! asked and given back.
//!
//! # Units
//!
//! Bytes; addresses are plain `u64`.
//!
//! # Invariants
//!
//! M1 blocks of one memory never overlap, except that given addresses are the caller's word.
//!
//! # Cost
//!
//! Constant a block; pages of a CPU are one step, however many.
//!
//! # Source
//!
//! Specification 31 sections 6 and 6.1, 7 step 4.

/// A source of boot memory.
pub trait BootMemory {
    /// A block of `size` bytes aligned to `align`, near `cpu` on `node`; `None` when there is no room.
    fn alloc(&mut self, cpu: u32, node: u32, size: u64, align: u64) -> Option<u64>;

    /// Takes `size` bytes (perhaps 0) at `address` back.
    fn free(&mut self, address: u64, size: u64) {
        let _ = (address, size);
    }

    /// `nr_pages` single pages for `cpu`; false when they run out before.
    fn alloc_pages(&mut self, cpu: u32, node: u32, nr_pages: u64, page_size: u64) -> bool {
        let _ = (cpu, node, nr_pages, page_size);
        true
    }
}

/// Blocks one after the other, upwards.
#[derive(Clone, Debug)]
pub struct Contiguous {
    next: u64,
}

impl Contiguous {
    /// From `start` upwards.
    pub fn new(start: u64) -> Self {
        Self { next: start }
    }
}

impl BootMemory for Contiguous {
    fn alloc(&mut self, _cpu: u32, _node: u32, size: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(align)?;
        self.next = start.checked_add(size)?;
        Some(start)
    }
}

/// The given addresses in the order of requests; then there is no more memory. For pages, one address a page.
#[derive(Clone, Debug)]
pub struct GivenAddresses {
    addresses: std::collections::VecDeque<u64>,
}

impl GivenAddresses {
    /// Serves `addresses` in order.
    pub fn new(addresses: impl IntoIterator<Item = u64>) -> Self {
        Self { addresses: addresses.into_iter().collect() }
    }
}

impl BootMemory for GivenAddresses {
    fn alloc(&mut self, _cpu: u32, _node: u32, _size: u64, _align: u64) -> Option<u64> {
        self.addresses.pop_front()
    }

    fn alloc_pages(&mut self, _cpu: u32, _node: u32, nr_pages: u64, _page_size: u64) -> bool {
        let had = self.addresses.len();
        let taken = usize::try_from(nr_pages).unwrap_or(usize::MAX).min(had);
        self.addresses.drain(..taken);
        taken as u64 == nr_pages
    }
}

/// Blocks at given addresses, in the order of requests; single pages without end.
#[derive(Clone, Debug)]
pub struct GivenGroups(GivenAddresses);

impl GivenGroups {
    /// Serves `addresses` in order.
    pub fn new(addresses: impl IntoIterator<Item = u64>) -> Self {
        Self(GivenAddresses::new(addresses))
    }
}

impl BootMemory for GivenGroups {
    fn alloc(&mut self, cpu: u32, node: u32, size: u64, align: u64) -> Option<u64> {
        self.0.alloc(cpu, node, size, align)
    }
}

/// No block can be had, but single pages can: a machine whose memory is short of whole atoms.
#[derive(Clone, Copy, Debug, Default)]
pub struct PagesOnly;

impl BootMemory for PagesOnly {
    fn alloc(&mut self, _cpu: u32, _node: u32, _size: u64, _align: u64) -> Option<u64> {
        None
    }
}

/// The highest aligned start in the CPU's node, else in any node by descending address.
#[derive(Clone, Debug)]
pub struct TopDown {
    /// Free ranges `[start, end)` of each node.
    nodes: Vec<Vec<(u64, u64)>>,
}

impl TopDown {
    /// Free ranges `[start, end)` by node.
    pub fn new(nodes: Vec<Vec<(u64, u64)>>) -> Self {
        Self { nodes }
    }

    /// The highest start that fits a range.
    fn highest(ranges: &[(u64, u64)], size: u64, align: u64) -> Option<(usize, u64)> {
        let fit = |&(start, end): &(u64, u64)| {
            let at = end.checked_sub(size)?;
            let at = at - at % align;
            (at >= start).then_some(at)
        };
        ranges.iter().enumerate().filter_map(|(i, range)| Some((i, fit(range)?))).max_by_key(|&(_, at)| at)
    }
}

impl BootMemory for TopDown {
    fn alloc(&mut self, _cpu: u32, node: u32, size: u64, align: u64) -> Option<u64> {
        let own = self.nodes.get(node as usize).and_then(|ranges| Self::highest(ranges, size, align));
        let (node, (range, at)) = match own {
            Some(found) => (node as usize, found),
            None => self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(n, ranges)| Some((n, Self::highest(ranges, size, align)?)))
                .max_by_key(|&(_, (_, at))| at)?,
        };
        let (_, end) = self.nodes[node][range];
        self.nodes[node][range].1 = at;
        self.nodes[node].push((at + size, end));
        Some(at)
    }
}

/// Passes everything on and keeps the lists.
#[derive(Clone, Debug)]
pub struct Recorded<M> {
    /// The memory behind.
    pub memory: M,
    /// Blocks obtained: address and bytes, in order.
    pub allocated: Vec<(u64, u64)>,
    /// Parts given back: address and bytes, in order, those of 0 bytes included.
    pub freed: Vec<(u64, u64)>,
}

impl<M: BootMemory> Recorded<M> {
    /// Records what `memory` does.
    pub fn new(memory: M) -> Self {
        Self { memory, allocated: Vec::new(), freed: Vec::new() }
    }
}

impl<M: BootMemory> BootMemory for Recorded<M> {
    fn alloc(&mut self, cpu: u32, node: u32, size: u64, align: u64) -> Option<u64> {
        let address = self.memory.alloc(cpu, node, size, align)?;
        self.allocated.push((address, size));
        Some(address)
    }

    fn free(&mut self, address: u64, size: u64) {
        self.freed.push((address, size));
        self.memory.free(address, size);
    }

    fn alloc_pages(&mut self, cpu: u32, node: u32, nr_pages: u64, page_size: u64) -> bool {
        self.memory.alloc_pages(cpu, node, nr_pages, page_size)
    }
}

impl<M: BootMemory + ?Sized> BootMemory for Box<M> {
    fn alloc(&mut self, cpu: u32, node: u32, size: u64, align: u64) -> Option<u64> {
        (**self).alloc(cpu, node, size, align)
    }

    fn free(&mut self, address: u64, size: u64) {
        (**self).free(address, size);
    }

    fn alloc_pages(&mut self, cpu: u32, node: u32, nr_pages: u64, page_size: u64) -> bool {
        (**self).alloc_pages(cpu, node, nr_pages, page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_down_prefers_the_own_node_and_never_overlaps() {
        let mut memory = TopDown::new(vec![vec![(0x1000, 0x5800)], vec![(0x8000, 0xa000)]]);
        assert_eq!(memory.alloc(0, 0, 0x2000, 0x1000), Some(0x3000));
        assert_eq!(memory.alloc(0, 0, 0x800, 0x800), Some(0x5000));
        assert_eq!(memory.alloc(1, 1, 0x2000, 0x1000), Some(0x8000));
        assert_eq!(memory.alloc(1, 1, 0x1000, 0x1000), Some(0x2000), "node 1 is full");
        assert_eq!(memory.alloc(9, 7, 0x1000, 0x1000), Some(0x1000), "an unknown node");
        assert_eq!(memory.alloc(0, 0, 0x1000, 0x1000), None);
        assert_eq!(memory.alloc(0, 0, u64::MAX, 0x1000), None);
    }

    #[test]
    fn contiguous_ends_at_the_top_of_the_address_space() {
        let mut memory = Contiguous::new(u64::MAX - 0x1fff);
        assert_eq!(memory.alloc(0, 0, 0x1000, 0x1000), Some(u64::MAX - 0x1fff));
        assert_eq!(memory.alloc(0, 0, 0x2000, 0x1000), None);
    }
}
