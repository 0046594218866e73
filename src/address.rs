//! Addresses: per-CPU pointers and where they lead.
//!
//! # Design
//!
//! Three kinds of values, all plain `u64`:
//!
//! ```text
//! pointer p --(+ delta)--> address A in "unit zero" --(+ unit_offsets[cpu])--> the copy of that cpu
//!           p = A - base_addr + per_cpu_start                     p + per_cpu_offset(cpu)
//! ```
//!
//! On UP pointer and address are the same. An [`AddressMap`] holds the few numbers that this takes; it is made
//! from a [`FirstChunk`], from plain values (a state file, a trace), or without any layout.
//!
//! # Units
//!
//! Bytes; all arithmetic is modulo the machine word, 2^64 or 2^32, as in the kernel.
//!
//! # Invariants
//!
//! A1 *round trip*: pointer to address to pointer is the identity. A2 *copies*: the copies of one pointer on two
//! CPUs are as far apart as their units.
//!
//! # Cost
//!
//! Constant, but linear in CPUs for questions about an address (which unit, static, physical).
//!
//! # Source
//!
//! Specification 33 sections 1, 2, 3.1, 4 and 6. Which chunk owns an address (section 3) is the engines' matter.

use crate::error::ConfigError;
use crate::layout::topology::MAX_CPUS;
use crate::layout::{Backend, FirstChunk};
use crate::units::WordSize;

/// Where memory starts when there is no layout.
pub const NO_LAYOUT_BASE: u64 = 1 << 30;

/// The numbers that translate pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMap {
    /// `pcpu_base_addr`.
    pub base_addr: u64,
    /// `__per_cpu_start`; 0 on x86-64 before 6.15.
    pub per_cpu_start: u64,
    /// Offset of each CPU id's unit from the base; `None` for impossible ids.
    pub unit_offsets: Vec<Option<u64>>,
    /// Unit number of each CPU id, holes counted.
    pub unit_map: Vec<Option<u32>>,
    /// Bytes of a unit.
    pub unit_size: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Bytes of the static section, not rounded; 0 without one.
    pub static_size: u64,
    /// The CPU whose copy counts as canonical.
    pub boot_cpu: u32,
    /// The first chunk lies in the direct mapping.
    pub linear: bool,
    /// A pointer is an address (UP).
    pub identity: bool,
    /// What backs later chunks.
    pub backend: Backend,
    /// The machine word.
    pub word: WordSize,
}

/// A place in the static region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    /// The CPU whose copy it is.
    pub cpu: u32,
    /// Bytes from the start of the static region.
    pub offset: u64,
    /// The same place in the boot CPU's copy.
    pub canonical: u64,
}

/// A place in a unit of a known chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitAddress {
    /// The CPU whose unit it is.
    pub cpu: u32,
    /// Bytes from the unit's start.
    pub offset: u64,
}

/// How an address is turned into a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Physical {
    /// By the direct mapping: the architecture's subtraction.
    Linear,
    /// Through the page that backs it, plus the offset in the page.
    Page,
}

impl Physical {
    /// `linear` or `page`.
    pub const fn name(self) -> &'static str {
        match self {
            Physical::Linear => "linear",
            Physical::Page => "page",
        }
    }
}

impl AddressMap {
    /// The map of a first chunk. The boot CPU is the lowest possible one.
    pub fn from_first_chunk(chunk: &FirstChunk, per_cpu_start: u64) -> Self {
        let offset = |(unit, &offset): (&Option<u32>, &u64)| unit.map(|_| offset);
        Self {
            base_addr: chunk.base_addr,
            per_cpu_start,
            unit_offsets: chunk.unit_map.iter().zip(&chunk.unit_offsets).map(offset).collect(),
            unit_map: chunk.unit_map.clone(),
            unit_size: chunk.info.unit_size,
            page_size: chunk.page_size,
            static_size: chunk.info.static_size,
            boot_cpu: chunk.cpus().next().unwrap_or(0),
            linear: chunk.linear,
            identity: chunk.identity,
            backend: chunk.backend,
            word: chunk.word,
        }
    }

    /// Without a layout: `nr_units` CPUs, units at multiples of `unit_size`, no static region. Pointers are
    /// the addresses in unit zero, from 2^30 on, so that no area has pointer 0.
    pub fn without_layout(nr_units: u32, unit_size: u64, page_size: u64) -> Result<Self, ConfigError> {
        if nr_units == 0 || nr_units > MAX_CPUS {
            return Err(ConfigError::new("nr_units", nr_units, format!("must be from 1 to {MAX_CPUS}")));
        }
        if page_size == 0 {
            return Err(ConfigError::new("page_size", page_size, "must be at least 1"));
        }
        if u64::from(nr_units).checked_mul(unit_size).and_then(|size| size.checked_add(NO_LAYOUT_BASE)).is_none() {
            return Err(ConfigError::new("unit_size", unit_size, "must leave all units in the address space"));
        }
        Ok(Self {
            base_addr: NO_LAYOUT_BASE,
            per_cpu_start: NO_LAYOUT_BASE,
            unit_offsets: (0..nr_units).map(|unit| Some(u64::from(unit) * unit_size)).collect(),
            unit_map: (0..nr_units).map(Some).collect(),
            unit_size,
            page_size,
            static_size: 0,
            boot_cpu: 0,
            // No boot chunk lies in the direct mapping; every chunk is a mapped one.
            linear: false,
            identity: false,
            backend: Backend::Vmalloc,
            word: WordSize::Bits64,
        })
    }

    /// Possible CPUs and the offsets of their units, ascending by CPU.
    pub fn units(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0u32..).zip(&self.unit_offsets).filter_map(|(cpu, offset)| Some((cpu, (*offset)?)))
    }

    /// Address in unit zero to per-CPU pointer.
    pub fn addr_to_ptr(&self, addr: u64) -> u64 {
        if self.identity {
            return addr;
        }
        self.word.wrap(addr.wrapping_sub(self.base_addr).wrapping_add(self.per_cpu_start))
    }

    /// Per-CPU pointer to address in unit zero.
    pub fn ptr_to_addr(&self, ptr: u64) -> u64 {
        if self.identity {
            return ptr;
        }
        self.word.wrap(ptr.wrapping_add(self.base_addr).wrapping_sub(self.per_cpu_start))
    }

    /// `base_addr - per_cpu_start`: what a trace shows as `base_addr + off - ptr`. 0 on UP.
    pub fn delta(&self) -> u64 {
        if self.identity {
            return 0;
        }
        self.word.wrap(self.base_addr.wrapping_sub(self.per_cpu_start))
    }

    /// Offset of a CPU's unit; `None` for an impossible CPU.
    pub fn unit_offset(&self, cpu: u32) -> Option<u64> {
        *self.unit_offsets.get(cpu as usize)?
    }

    /// `per_cpu_offset`: added to a pointer it gives that CPU's copy; `None` for an impossible CPU.
    pub fn per_cpu_offset(&self, cpu: u32) -> Option<u64> {
        let offset = self.unit_offset(cpu)?;
        Some(if self.identity { 0 } else { self.word.wrap(self.delta().wrapping_add(offset)) })
    }

    /// `per_cpu_ptr`: the address of a CPU's copy; `None` for an impossible CPU.
    pub fn per_cpu_ptr(&self, ptr: u64, cpu: u32) -> Option<u64> {
        Some(self.word.wrap(ptr.wrapping_add(self.per_cpu_offset(cpu)?)))
    }

    /// Index of page `page` of a CPU's unit in the array of a chunk's pages; holes leave gaps.
    pub fn page_idx(&self, cpu: u32, page: u32) -> Option<u64> {
        let unit = (*self.unit_map.get(cpu as usize)?)?;
        Some(u64::from(unit) * (self.unit_size / self.page_size) + u64::from(page))
    }

    /// Offset of page `page` of a CPU's unit from the base, bytes.
    pub fn unit_page_offset(&self, cpu: u32, page: u32) -> Option<u64> {
        Some(self.word.wrap(self.unit_offset(cpu)?.wrapping_add(u64::from(page).wrapping_mul(self.page_size))))
    }

    /// Address of page `page` of a chunk for a CPU. Pages count from the *chunk's* base.
    pub fn chunk_addr(&self, chunk_base: u64, cpu: u32, page: u32) -> Option<u64> {
        Some(self.word.wrap(chunk_base.wrapping_add(self.unit_page_offset(cpu, page)?)))
    }

    /// `is_kernel_percpu_address`: the place in the static region, if the address lies in one. Never on UP.
    pub fn static_address(&self, addr: u64) -> Option<StaticAddress> {
        if self.identity {
            return None;
        }
        let UnitAddress { cpu, offset } = self.in_units(addr, self.base_addr, self.static_size)?;
        let boot = self.unit_offset(self.boot_cpu).unwrap_or(0);
        let canonical = self.word.wrap(self.base_addr.wrapping_add(boot).wrapping_add(offset));
        Some(StaticAddress { cpu, offset, canonical })
    }

    /// The unit of a chunk that an address lies in. `unit_base` is the chunk's base, or [`Self::base_addr`] for
    /// the boot chunks, whose own base lies inside the unit.
    pub fn unit_address(&self, addr: u64, unit_base: u64) -> Option<UnitAddress> {
        self.in_units(addr, unit_base, self.unit_size)
    }

    /// `is_module_percpu_address`: the place in a module's area at pointer `area` of `size` bytes. Never on UP.
    pub fn module_address(&self, addr: u64, area: u64, size: u64) -> Option<StaticAddress> {
        if self.identity {
            return None;
        }
        let start = self.ptr_to_addr(area);
        let UnitAddress { cpu, offset } = self.in_units(addr, start, size)?;
        let boot = self.unit_offset(self.boot_cpu).unwrap_or(0);
        let canonical = self.word.wrap(start.wrapping_add(boot).wrapping_add(offset));
        Some(StaticAddress { cpu, offset, canonical })
    }

    /// The first CPU for which `addr` lies in `[start + unit offset, + size)`.
    fn in_units(&self, addr: u64, start: u64, size: u64) -> Option<UnitAddress> {
        self.units().find_map(|(cpu, unit)| {
            let offset = self.word.wrap(addr.wrapping_sub(start.wrapping_add(unit)));
            (offset < size).then_some(UnitAddress { cpu, offset })
        })
    }

    /// `per_cpu_ptr_to_phys`: by which way an address that a CPU may use is translated.
    ///
    /// The kernel first compares with the lowest and highest unit to spare the walk; the outcome is the same. An
    /// address in a unit of the first chunk counts as the first chunk's, also behind the served bytes.
    pub fn physical(&self, addr: u64) -> Physical {
        match self.unit_address(addr, self.base_addr) {
            Some(_) if self.linear => Physical::Linear,
            _ => Physical::Page,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Contiguous, FirstChunkRequest, Kind, TopDown, Topology};
    use crate::variant::{Build, LayoutRules, Preset};

    /// The machine of specification 33 section 7: two nodes of 4 CPUs and 32 GiB.
    fn two_nodes() -> FirstChunk {
        let rules = Preset::by_release("6.1").unwrap().layout;
        let request = FirstChunkRequest::new(Topology::from_nodes(&[4, 4]).unwrap(), rules, 188_416);
        let (start, half) = (0xffff_8880_0000_0000u64, 32 << 30);
        let mut memory = TopDown::new(vec![vec![(start, start + half)], vec![(start + half, start + 2 * half)]]);
        request.set_up(&mut memory).unwrap()
    }

    #[test]
    fn worked_numbers() {
        let chunk = two_nodes();
        assert_eq!(chunk.base_addr, 0xffff_8887_ffe0_0000);
        let map = AddressMap::from_first_chunk(&chunk, 0);
        assert_eq!(map.unit_offset(5), Some(0x8_0008_0000));
        assert_eq!(map.per_cpu_offset(5), Some(0xffff_888f_ffe8_0000));
        assert_eq!(chunk.first.base_addr, map.base_addr + 0x30000);
        let ptr = map.addr_to_ptr(chunk.first.base_addr);
        assert_eq!(ptr, 0x30000);
        assert_eq!(map.per_cpu_ptr(ptr, 5), Some(0xffff_888f_ffeb_0000));
        let second = 0xffff_e8f7_ffc0_0000;
        let ptr = map.addr_to_ptr(second + 0x100);
        assert_eq!(ptr, 0x606f_ffe0_0100);
        assert_eq!(map.ptr_to_addr(ptr), second + 0x100);
        assert_eq!(map.per_cpu_ptr(ptr, 5), Some(0xffff_e8ff_ffc8_0100));
        assert_eq!(map.page_idx(5, 3), Some(643));
        assert_eq!((chunk.low_unit_cpu, chunk.high_unit_cpu), (0, 7));
        assert_eq!(map.chunk_addr(second, 5, 3), Some(second + 0x8_0008_3000));
        assert_eq!(map.per_cpu_ptr(ptr, 8), None);
        assert_eq!(map.unit_offset(u32::MAX), None);
    }

    #[test]
    fn a_real_trace_line() {
        let map = AddressMap { base_addr: 0xffff_8949_1820_0000, ..AddressMap::from_first_chunk(&two_nodes(), 0) };
        assert_eq!(map.addr_to_ptr(0xffff_c711_7fc0_0000 + 402_176), 0x3dc8_67a6_2300);
        assert_eq!(map.delta(), 0xffff_8949_1820_0000);
    }

    #[test]
    fn holes_leave_gaps_in_page_numbers() {
        let rules = Preset::by_release("6.1").unwrap().layout;
        let request = FirstChunkRequest::new(Topology::from_nodes(&[3, 5]).unwrap(), rules, 188_416);
        let map = AddressMap::from_first_chunk(&request.build().unwrap(), 0);
        assert_eq!(map.unit_map[3], Some(4));
        assert_eq!(map.page_idx(3, 0), Some(4 * 256));
    }

    #[test]
    fn static_and_physical() {
        let chunk = two_nodes();
        let map = AddressMap::from_first_chunk(&chunk, 0xffff_ffff_8200_0000);
        let unit = map.base_addr + 0x8_0008_0000;
        let place = map.static_address(unit + 188_415).unwrap();
        assert_eq!((place.cpu, place.offset, place.canonical), (5, 188_415, map.base_addr + 188_415));
        assert_eq!(map.static_address(unit + 188_416), None);
        assert_eq!(map.unit_address(unit + 7, map.base_addr), Some(UnitAddress { cpu: 5, offset: 7 }));
        assert_eq!(map.unit_address(map.base_addr - 1, map.base_addr), None);
        assert_eq!(map.physical(unit + 524_287), Physical::Linear, "behind the served bytes");
        assert_eq!(map.physical(map.base_addr + (1 << 22)), Physical::Page, "between the groups");
        let area = map.addr_to_ptr(chunk.first.base_addr);
        let place = map.module_address(map.per_cpu_ptr(area, 5).unwrap() + 3, area, 4).unwrap();
        assert_eq!((place.cpu, place.offset, place.canonical), (5, 3, chunk.first.base_addr + 3));
        assert_eq!(map.module_address(map.per_cpu_ptr(area, 5).unwrap() + 4, area, 4), None);
        assert_eq!(map.addr_to_ptr(map.ptr_to_addr(17)), 17);
    }

    #[test]
    fn page_first_chunk_is_mapped_and_up_is_identity() {
        let preset = Preset::by_release("6.12").unwrap();
        let mut request = FirstChunkRequest::new(Topology::from_nodes(&[2]).unwrap(), preset.layout, 30_000);
        request.kind = Kind::Page;
        let chunk = request.set_up(&mut Contiguous::new(0)).unwrap();
        assert_eq!(AddressMap::from_first_chunk(&chunk, 0).physical(chunk.base_addr), Physical::Page);
        request.kind = Kind::Up;
        let up = AddressMap::from_first_chunk(&request.build().unwrap(), 5);
        assert_eq!((up.addr_to_ptr(77), up.ptr_to_addr(77), up.per_cpu_ptr(77, 0)), (77, 77, Some(77)));
        assert_eq!((up.static_address(up.base_addr), up.module_address(77, 77, 4), up.delta()), (None, None, 0));
    }

    /// Specification 33: all arithmetic modulo 2^32.
    #[test]
    fn addresses_of_32_bits_wrap() {
        let rules = LayoutRules::of_release((3, 0, 0), WordSize::Bits32, Build::default()).unwrap();
        let request = FirstChunkRequest::new(Topology::from_nodes(&[2]).unwrap(), rules, 26_240);
        let chunk = request.on_word(WordSize::Bits32).build().unwrap();
        let map = AddressMap::from_first_chunk(&chunk, 0xc17f_0000);
        assert_eq!((map.base_addr, map.delta()), (0xc100_0000, 0xff81_0000));
        assert_eq!(map.per_cpu_offset(1), Some(0xff91_0000));
        for addr in [chunk.first.base_addr, 0xf800_0000, 0x1000] {
            let ptr = map.addr_to_ptr(addr + 12);
            assert!(ptr <= u64::from(u32::MAX));
            assert_eq!(map.ptr_to_addr(ptr), addr + 12);
            assert_eq!(map.per_cpu_ptr(ptr, 1), Some(addr + 12 + 0x10_0000));
        }
        let place = map.static_address(0xc110_0000 + 7).unwrap();
        assert_eq!((place.cpu, place.offset, place.canonical), (1, 7, 0xc100_0007));
        assert_eq!(map.per_cpu_ptr(0xc17f_0007, 1), Some(0xc110_0007));
        assert_eq!(map.chunk_addr(0xffff_f000, 1, 1), Some(0x10_0000));
    }

    #[test]
    fn without_a_layout() {
        let map = AddressMap::without_layout(8, 262_144, 4096).unwrap();
        assert_eq!((map.ptr_to_addr(1 << 30), map.addr_to_ptr(1 << 30)), (1 << 30, 1 << 30));
        assert_eq!(map.per_cpu_ptr((1 << 30) + 16, 3), Some((1 << 30) + 3 * 262_144 + 16));
        assert_eq!(map.page_idx(1, 1), Some(65));
        assert!(AddressMap::without_layout(0, 4096, 4096).is_err());
        assert!(AddressMap::without_layout(3, u64::MAX, 4096).is_err());
        assert!(AddressMap::without_layout(3, 4096, 0).is_err());
    }
}
