//! Request: what a first chunk is made from, and which allocator makes it.
//!
//! # Design
//!
//! One plain struct with the defaults of an x86-64 machine; every field may be changed. [`FirstChunkRequest::set_up`]
//! selects as the kernel does:
//!
//! ```text
//! auto, embed --> embed --ok--> first chunk                        (2.6.30 and 2.6.31: see `history`)
//!                   |
//!                   +--errno--> "falling back to page size" --> page --ok--> first chunk
//! page -----------------------------------------------------------^
//! explicit: the given unit, group after group            up: one unit, pointer = address
//! ```
//!
//! # Units
//!
//! Bytes.
//!
//! # Invariants
//!
//! R1 every size is bounded before it is used: hostile input gives a [`ConfigError`] that names the parameter,
//! never a wrap, a panic or a huge table.
//!
//! # Source
//!
//! Specification 31 sections 8 to 8.2; golden data, `explicit`.

use crate::boot_log::{message, LogLine, SummaryForm, DEBUG, WARNING};
use crate::error::{ConfigError, LayoutError};
use crate::geometry::MAX_UNIT_SIZE;
use crate::layout::embed::embed;
use crate::layout::first_chunk::{set_up, FirstChunk};
use crate::layout::groups::{
    self, check_atom, check_page_size, check_size, check_word, unsigned_dyn, AllocInfo, Group, LayoutInput,
};
use crate::layout::history;
use crate::layout::memory::{BootMemory, Contiguous};
use crate::layout::page::page;
use crate::layout::topology::Topology;
use crate::layout::vm_areas::{Search, VmallocSpace};
use crate::units::{round_up, WordSize};
use crate::variant::{BootAllocators, LayoutRules, DYN_PADDING};

/// No memory.
pub const ENOMEM: i32 = -12;
/// Invalid.
pub const EINVAL: i32 = -22;
/// Start of the x86-64 vmalloc space (4-level page tables, no randomisation).
pub const VMALLOC_START: u64 = 0xffff_c900_0000_0000;
/// Bytes of that space.
pub const VMALLOC_TOTAL: u64 = 1 << 45;
/// Where [`FirstChunkRequest::build`] puts the first group: 1 GiB into the x86-64 direct mapping.
pub const LINEAR_START: u64 = 0xffff_8880_4000_0000;

/// Which allocator makes the first chunk (boot parameter `percpu_alloc=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Embed, and page if that fails.
    #[default]
    Auto,
    /// The same, asked for by name.
    Embed,
    /// Page by page.
    Page,
    /// Large pages mapped a second time (2.6.30 and 2.6.31); the atom is the large page.
    LargePage,
    /// One unit of `unit_size` bytes per possible CPU; groups in order of their first CPU, one after the other,
    /// each start aligned to the atom. Sizes are taken as given.
    Explicit {
        /// Unit, bytes.
        unit_size: u64,
    },
    /// A kernel without SMP: one unit, no static part, pointers are addresses.
    Up,
}

impl Kind {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Auto => "auto",
            Kind::Embed => "embed",
            Kind::Page => "page",
            Kind::LargePage => "lpage",
            Kind::Explicit { .. } => "explicit",
            Kind::Up => "up",
        }
    }
}

/// What backs chunks after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// Pages mapped into congruent vmalloc areas.
    #[default]
    Vmalloc,
    /// Contiguous pages, populated as a whole: UP, or no MMU.
    KernelMemory,
}

/// How an address is printed in forms of the summary line that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PointerText {
    /// 16 hexadecimal digits, 8 of 32-bit words: kernels before 4.15.
    #[default]
    Padded,
    /// `0x` and as many digits as needed: golden data.
    Prefixed,
    /// `(____ptrval____)`: 4.15 and later.
    Hidden,
}

/// [`LINEAR_START`] of 32-bit words: 16 MiB into the x86-32 direct mapping.
pub const LINEAR_START_32: u64 = 0xc100_0000;
/// Start of the vmalloc space of a typical x86-32 machine.
pub const VMALLOC_START_32: u64 = 0xf800_0000;
/// Bytes of that space.
pub const VMALLOC_TOTAL_32: u64 = 120 << 20;

/// Everything that a first chunk is made from.
#[derive(Clone, Debug)]
pub struct FirstChunkRequest {
    /// Which allocator.
    pub kind: Kind,
    /// Static section of the image, bytes.
    pub static_size: u64,
    /// Reserved area, bytes; 0 = none.
    pub reserved_size: u64,
    /// Least dynamic size, bytes.
    pub dyn_size: u64,
    /// Atom, bytes.
    pub atom_size: u64,
    /// Page, bytes.
    pub page_size: u64,
    /// Granule, bytes; 4 in every kernel since 2017.
    pub min_alloc_size: u64,
    /// Block of the metadata, bytes; `None` = the page, as in every kernel.
    pub block_size: Option<u64>,
    /// Smallest unit, bytes; `None` = the release's, rounded up to a page.
    pub min_unit_size: Option<u64>,
    /// CPUs, nodes and distances.
    pub topology: Topology,
    /// Constants of the release.
    pub rules: LayoutRules,
    /// The machine word. Sizes and addresses that overflow it are errors, where the kernel would wrap.
    pub word: WordSize,
    /// Start of the vmalloc space: the page allocator takes its area there.
    pub vmalloc_start: u64,
    /// Bytes of the vmalloc space; 0 without an MMU.
    pub vmalloc_total: u64,
    /// What backs later chunks; UP always uses kernel memory.
    pub backend: Backend,
    /// The page allocator is built in: groups too far apart are an error, not just a warning.
    pub page_allocator: bool,
    /// Fall back to the page allocator when embedding fails.
    pub fallback: bool,
    /// Prefix of the architecture's own messages.
    pub arch_prefix: String,
    /// Base address of an explicit or UP first chunk.
    pub explicit_base: u64,
    /// Form of the summary line and of the prefix.
    pub form: SummaryForm,
    /// How addresses are printed.
    pub pointer: PointerText,
    /// Level of the layout dump: debug, information before 3.0.
    pub dump_level: u8,
    /// The CPU has large pages; without them 2.6.30 and 2.6.31 take single pages unless told otherwise.
    pub large_pages: bool,
    /// What the boot parameter says, if it names no allocator of this kernel.
    pub unknown_allocator: Option<String>,
    /// Percent of the vmalloc space that a chunk of remapped large pages may take (2.6.30 and 2.6.31).
    pub remap_percent: u64,
}

impl FirstChunkRequest {
    /// An x86-64 machine with 4 KiB pages: 2 MiB atom, reserved and dynamic size of the release.
    pub fn new(topology: Topology, rules: LayoutRules, static_size: u64) -> Self {
        Self {
            kind: Kind::Auto,
            static_size,
            reserved_size: rules.module_reserve,
            dyn_size: rules.dyn_reserve,
            atom_size: 2 << 20,
            page_size: 4096,
            min_alloc_size: 4,
            block_size: None,
            min_unit_size: None,
            topology,
            rules,
            word: WordSize::Bits64,
            vmalloc_start: VMALLOC_START,
            vmalloc_total: VMALLOC_TOTAL,
            backend: Backend::Vmalloc,
            page_allocator: true,
            fallback: true,
            arch_prefix: "setup_percpu: ".to_string(),
            explicit_base: LINEAR_START,
            form: SummaryForm::V5_2,
            pointer: PointerText::Padded,
            dump_level: DEBUG,
            large_pages: true,
            unknown_allocator: None,
            remap_percent: 20,
        }
    }

    /// The same on a machine with such words: also sets where the direct mapping and the vmalloc space lie.
    pub fn on_word(mut self, word: WordSize) -> Self {
        (self.vmalloc_start, self.vmalloc_total, self.explicit_base) = match word {
            WordSize::Bits32 => (VMALLOC_START_32, VMALLOC_TOTAL_32, LINEAR_START_32),
            WordSize::Bits64 => (VMALLOC_START, VMALLOC_TOTAL, LINEAR_START),
        };
        self.word = word;
        self
    }

    /// The empty vmalloc space of the machine, for the addresses of later chunks.
    pub fn vmalloc_space(&self, search: Search) -> Result<VmallocSpace, ConfigError> {
        let end = self.vmalloc_total.checked_sub(1).and_then(|last| self.vmalloc_start.checked_add(last));
        let end = end.filter(|&end| end <= self.word.max()).ok_or_else(|| {
            let limit = "must not be 0 and end within the address space";
            ConfigError::new("vmalloc_total", format!("{:#x}", self.vmalloc_total), limit)
        })?;
        VmallocSpace::new(search, self.vmalloc_start, end, self.page_size)
    }

    /// Block of the metadata, bytes.
    pub fn block_size(&self) -> u64 {
        self.block_size.unwrap_or(self.page_size)
    }

    /// Smallest unit, bytes.
    pub fn min_unit_size(&self) -> u64 {
        self.min_unit_size.unwrap_or_else(|| round_up(self.rules.min_unit_size, self.page_size.max(1)))
    }

    /// What backs later chunks.
    pub fn backend(&self) -> Backend {
        if self.kind == Kind::Up {
            Backend::KernelMemory
        } else {
            self.backend
        }
    }

    /// The input of the layout function.
    pub fn layout_input(&self) -> LayoutInput<'_> {
        LayoutInput {
            static_size: self.static_size,
            reserved_size: self.reserved_size,
            dyn_size: self.dyn_size,
            atom_size: self.atom_size,
            page_size: self.page_size,
            min_unit_size: self.min_unit_size(),
            topology: &self.topology,
            rules: &self.rules,
            word: self.word,
        }
    }

    /// The layout that embedding asks for.
    pub fn alloc_info(&self) -> Result<AllocInfo, ConfigError> {
        self.check()?;
        self.layout_input().build()
    }

    /// The layout of the page allocator: atom = page, no wanted dynamic size, one group.
    pub fn page_alloc_info(&self) -> Result<AllocInfo, ConfigError> {
        self.check()?;
        let topology = self.topology.clone().without_distance();
        // Kernel: before there was an early minimum, the padding to a page had to do.
        let dyn_size = if self.rules.signed_dyn { DYN_PADDING } else { 0 };
        LayoutInput { dyn_size, atom_size: self.page_size, topology: &topology, ..self.layout_input() }.build()
    }

    /// Sets the first chunk up with the groups one after the other from [`LINEAR_START`] or [`LINEAR_START_32`].
    pub fn build(&self) -> Result<FirstChunk, LayoutError> {
        self.set_up(&mut Contiguous::new(match self.word {
            WordSize::Bits32 => LINEAR_START_32,
            WordSize::Bits64 => LINEAR_START,
        }))
    }

    /// Sets the first chunk up in the given memory.
    pub fn set_up(&self, memory: &mut dyn BootMemory) -> Result<FirstChunk, LayoutError> {
        self.check()?;
        let mut log = Vec::new();
        if let Some(name) = &self.unknown_allocator {
            let text = message::unknown_allocator(name);
            log.push(LogLine::new(WARNING, format!("{}{text}", self.form.prefix())));
        }
        let result = match self.kind {
            Kind::Auto | Kind::Embed | Kind::Page | Kind::LargePage
                if self.rules.allocators != BootAllocators::Groups =>
            {
                history::first_chunk(self, memory, &mut log)
            }
            Kind::LargePage => {
                return Err(ConfigError::new("first_chunk", "lpage", "was removed with 2.6.32").into());
            }
            Kind::Auto | Kind::Embed => match embed(self, memory, &mut log) {
                Err(LayoutError::Failed { errno, .. }) if self.fallback && self.page_allocator => {
                    let text = message::falling_back(self.kind.name(), errno);
                    log.push(LogLine::new(WARNING, format!("{}{text}", self.arch_prefix)));
                    page(self, memory, &mut log)
                }
                other => other,
            },
            Kind::Page => page(self, memory, &mut log),
            Kind::Explicit { unit_size } => self.explicit(unit_size, &mut log),
            Kind::Up => self.up(&mut log),
        };
        match result {
            Err(LayoutError::Failed { what, errno, .. }) => {
                Err(LayoutError::Failed { what, errno, log: log.iter().map(ToString::to_string).collect() })
            }
            other => other,
        }
    }

    fn explicit(&self, unit_size: u64, log: &mut Vec<LogLine>) -> Result<FirstChunk, LayoutError> {
        if unit_size == 0 || unit_size > MAX_UNIT_SIZE {
            let limit = format!("must be from 1 to {MAX_UNIT_SIZE}");
            return Err(ConfigError::new("unit_size", unit_size, limit).into());
        }
        let mut end = 0;
        let groups = groups::group_cpus(&self.topology, self.rules.grouping).into_iter().map(|cpus| {
            let base_offset = round_up(end, self.atom_size);
            end = base_offset + cpus.len() as u64 * unit_size;
            Group { nr_units: cpus.len() as u32, base_offset, cpu_map: cpus.into_iter().map(Some).collect() }
        });
        let groups = groups.collect();
        self.given(unit_size, groups, end, log)
    }

    fn up(&self, log: &mut Vec<LogLine>) -> Result<FirstChunk, LayoutError> {
        // Kernel: the smallest power of two that holds the minimum unit and the dynamic reserve.
        let unit_size = self.min_unit_size().max(self.rules.dyn_reserve).next_power_of_two();
        if unit_size > MAX_UNIT_SIZE {
            return Err(ConfigError::new("unit_size", unit_size, format!("must be at most {MAX_UNIT_SIZE}")).into());
        }
        let up = Self {
            static_size: 0,
            reserved_size: 0,
            dyn_size: unit_size,
            atom_size: unit_size,
            topology: Topology::flat(1)?,
            ..self.clone()
        };
        let group = Group { nr_units: 1, base_offset: 0, cpu_map: vec![Some(0)] };
        up.given(unit_size, vec![group], unit_size, log)
    }

    /// A record that was not computed from sizes, at `explicit_base`.
    fn given(
        &self,
        unit_size: u64,
        groups: Vec<Group>,
        span: u64,
        log: &mut Vec<LogLine>,
    ) -> Result<FirstChunk, LayoutError> {
        if self.explicit_base.checked_add(span).is_none_or(|end| end > self.word.max()) {
            let limit = format!("must leave {span} bytes below the end of the address space");
            return Err(ConfigError::new("explicit_base", format!("{:#x}", self.explicit_base), limit).into());
        }
        let info = AllocInfo {
            static_size: self.static_size,
            reserved_size: self.reserved_size,
            dyn_size: self.dyn_size,
            unit_size,
            atom_size: self.atom_size,
            alloc_size: unit_size,
            groups,
        };
        set_up(self, info, self.explicit_base, true, log)
    }

    /// An address as the summary line prints it.
    pub(crate) fn pointer_text(&self, address: u64) -> String {
        match self.pointer {
            PointerText::Padded => format!("{address:0width$x}", width = self.word.bits() as usize / 4),
            PointerText::Prefixed => format!("{address:#x}"),
            PointerText::Hidden => "(____ptrval____)".to_string(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_page_size(self.page_size)?;
        for (name, value) in [
            ("static_size", self.static_size),
            ("reserved_size", self.reserved_size),
            ("dyn_size", unsigned_dyn(&self.rules, self.dyn_size)),
            ("min_unit_size", self.min_unit_size()),
            ("early_size", self.rules.early_size),
            ("dyn_reserve", self.rules.dyn_reserve),
        ] {
            check_size(name, value)?;
        }
        check_atom(self.atom_size, self.page_size)?;
        check_word(self.word, "vmalloc_start", self.vmalloc_start)?;
        check_word(self.word, "vmalloc_total", self.vmalloc_total)?;
        let power = |name, value: u64, low: u64, high: u64| {
            if value.is_power_of_two() && (low..=high).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::new(name, value, format!("must be a power of two from {low} to {high}")))
        };
        power("min_alloc_size", self.min_alloc_size, 1, self.page_size)?;
        power("block_size", self.block_size(), self.min_alloc_size, MAX_UNIT_SIZE)
    }
}

/// A failure with an errno; the log is added by the caller.
pub(crate) fn failed(what: &str, errno: i32) -> LayoutError {
    LayoutError::Failed { what: what.to_string(), errno, log: Vec::new() }
}
