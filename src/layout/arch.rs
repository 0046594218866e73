//! What architectures ask for: atom, reserved and dynamic size, distances, choice of the allocator.
//!
//! # Design
//!
//! [`ARCH_PRESETS`] is a table: a row for each architecture, kind of machine and span of releases. A [`Machine`]
//! names the row it belongs to and becomes a [`FirstChunkRequest`], in which everything may still be changed.
//!
//! ```text
//! arch, variant, release --> row --> atom, reserved, dynamic, distance, page or embed
//! release, word, build   --> constants (LayoutRules)                       --> FirstChunkRequest
//! ```
//!
//! Where an architecture has several kinds of machines the row's `variant` tells them apart; the first row is taken
//! where none is named.
//!
//! # Units
//!
//! Bytes. Releases are `(major, minor, patch)`; `until` is excluded.
//!
//! # Source
//!
//! Specification 31 sections 8 to 8.2 and 10; rows of 2.6.30 and 2.6.31 are those of x86, the only one with these
//! allocators. Vmalloc spaces are not in that table: a request has the x86-64 one, or that
//! of a typical x86-32 machine.

use crate::boot_log::{release_number, SummaryForm, INFO};
use crate::error::ConfigError;
use crate::layout::request::{FirstChunkRequest, Kind, PointerText};
use crate::layout::topology::{Distance, Topology};
use crate::units::WordSize;
use crate::variant::{Build, LayoutRules};

/// A release number.
pub type Release = (u32, u32, u32);

/// How large an atom is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atom {
    /// A page.
    Page,
    /// So many bytes.
    Bytes(u64),
    /// What one entry of the middle page table maps: a page of 8-byte entries, a page each.
    Pmd,
    /// Bytes without and with physical address extension; a page if the CPU has no large pages.
    LargePage(u64, u64),
    /// So many bytes; a page if the direct mapping uses 4 KiB pages.
    LinearMap(u64),
}

impl Atom {
    /// In words: `page`, `2 MiB`, `PMD`, ...
    pub fn describe(self) -> String {
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        match self {
            Atom::Page => "page".to_string(),
            Atom::Bytes(bytes) => mib(bytes),
            Atom::Pmd => "PMD".to_string(),
            Atom::LargePage(plain, pae) if plain == pae => format!("{}, page without large pages", mib(plain)),
            Atom::LargePage(plain, pae) => format!("{}, {} with PAE, page without large pages", mib(plain), mib(pae)),
            Atom::LinearMap(bytes) => format!("{}, page if the linear map has 4 KiB pages", mib(bytes)),
        }
    }
}

/// Which distances the layout is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distances {
    /// None: one group.
    None,
    /// 10 within a node, else 20.
    SameNode,
    /// The machine's own table; without one as [`Distances::SameNode`].
    Table,
}

impl Distances {
    /// `none`, `same node` or `table`.
    pub const fn name(self) -> &'static str {
        match self {
            Distances::None => "none",
            Distances::SameNode => "same node",
            Distances::Table => "table",
        }
    }
}

/// What `auto` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Automatic {
    /// Embed, then page.
    Embed,
    /// Page if CPUs live on at least two online nodes.
    PageOnNodes,
    /// Page if there are at least so many node ids.
    PageFromNodeIds(u32),
    /// The architecture's own record: one unit of so many bytes per CPU, all of it used.
    OwnUnit(u64),
}

impl Automatic {
    /// In words.
    pub fn describe(self) -> String {
        match self {
            Automatic::Embed => "embed, then page".to_string(),
            Automatic::PageOnNodes => "page on two or more nodes, else embed".to_string(),
            Automatic::PageFromNodeIds(least) => format!("page from {least} node ids on, else embed"),
            Automatic::OwnUnit(bytes) => format!("units of {} KiB", bytes >> 10),
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchPreset {
    /// Names of the architecture.
    pub arch: &'static [&'static str],
    /// The kind of machine, where an architecture has several.
    pub variant: &'static str,
    /// First release.
    pub since: Release,
    /// First release that is different.
    pub until: Release,
    /// The machine word.
    pub word: WordSize,
    /// Page sizes; empty = any.
    pub page_sizes: &'static [u64],
    /// The atom.
    pub atom: Atom,
    /// There is a reserved region of the module reserve; else the module reserve is added to the dynamic size.
    pub reserved: bool,
    /// Distances.
    pub distances: Distances,
    /// First release with the page allocator, if any has it.
    pub page_since: Option<Release>,
    /// What `auto` stands for.
    pub automatic: Automatic,
    /// Prefix of the architecture's own messages.
    pub prefix: &'static str,
}

const FIRST: Release = (2, 6, 32);
const NEVER: Release = (u32::MAX, 0, 0);

/// A row that most others differ from in a few fields.
const GENERIC: ArchPreset = ArchPreset {
    arch: &[],
    variant: "",
    since: FIRST,
    until: NEVER,
    word: WordSize::Bits64,
    page_sizes: &[],
    atom: Atom::Page,
    reserved: true,
    distances: Distances::None,
    page_since: None,
    automatic: Automatic::Embed,
    prefix: "PERCPU: ",
};

const X86: ArchPreset = ArchPreset {
    since: (2, 6, 30),
    page_sizes: &[4096],
    distances: Distances::SameNode,
    page_since: Some((2, 6, 30)),
    prefix: "setup_percpu: ",
    ..GENERIC
};
const X86_64: ArchPreset = ArchPreset { arch: &["x86_64", "amd64"], ..X86 };
const X86_32: ArchPreset =
    ArchPreset { arch: &["i386", "i486", "i586", "i686"], word: WordSize::Bits32, reserved: false, ..X86 };
const ARM64: ArchPreset = ArchPreset { arch: &["arm64", "aarch64"], ..GENERIC };
const RISCV64: ArchPreset = ArchPreset { arch: &["riscv64"], ..GENERIC };
const PPC64: ArchPreset = ArchPreset {
    arch: &["ppc64", "ppc64le"],
    atom: Atom::Bytes(1 << 20),
    reserved: false,
    distances: Distances::SameNode,
    page_since: Some(FIRST),
    ..GENERIC
};

/// The table of specification 31 section 8.
pub const ARCH_PRESETS: &[ArchPreset] = &[
    ArchPreset { until: (3, 5, 0), atom: Atom::LargePage(2 << 20, 2 << 20), ..X86_64 },
    ArchPreset { since: (3, 5, 0), atom: Atom::Bytes(2 << 20), ..X86_64 },
    ArchPreset { until: (3, 5, 0), atom: Atom::LargePage(4 << 20, 2 << 20), ..X86_32 },
    ArchPreset { since: (3, 5, 0), automatic: Automatic::PageOnNodes, ..X86_32 },
    ArchPreset { variant: "numa", distances: Distances::Table, page_since: Some((5, 16, 0)), ..ARM64 },
    ArchPreset { variant: "flat", ..ARM64 },
    ArchPreset { variant: "numa", since: (5, 12, 0), distances: Distances::Table, ..RISCV64 },
    ArchPreset { variant: "flat", ..RISCV64 },
    ArchPreset { variant: "hash", atom: Atom::LinearMap(1 << 20), page_since: Some((5, 15, 0)), ..PPC64 },
    ArchPreset { variant: "radix", until: (5, 14, 0), ..PPC64 },
    ArchPreset { variant: "radix", since: (5, 14, 0), atom: Atom::Page, ..PPC64 },
    ArchPreset { variant: "book3e", ..PPC64 },
    ArchPreset {
        arch: &["sparc64"],
        page_sizes: &[8192],
        atom: Atom::Bytes(4 << 20),
        distances: Distances::SameNode,
        page_since: Some(FIRST),
        ..GENERIC
    },
    ArchPreset { arch: &["mips64"], variant: "flat", ..GENERIC },
    ArchPreset { arch: &["mips64"], variant: "loongson", distances: Distances::Table, ..GENERIC },
    ArchPreset {
        arch: &["loongarch64"],
        since: (5, 19, 0),
        atom: Atom::Pmd,
        distances: Distances::SameNode,
        page_since: Some(FIRST),
        automatic: Automatic::PageFromNodeIds(8),
        ..GENERIC
    },
    ArchPreset { arch: &["ia64"], distances: Distances::SameNode, automatic: Automatic::OwnUnit(64 << 10), ..GENERIC },
    ArchPreset { arch: &["s390x", "alpha"], ..GENERIC },
    ArchPreset {
        arch: &["arm", "mips", "ppc", "riscv32", "m68k", "sh", "xtensa", "arc", "csky", "openrisc", "microblaze"],
        word: WordSize::Bits32,
        ..GENERIC
    },
];

/// What an architecture preset is asked for.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Architecture, as `uname -m` or the kernel's directory name says.
    pub arch: String,
    /// Kind of machine; `None` = the first of the architecture.
    pub variant: Option<String>,
    /// Kernel release, such as `6.12` or `3.16.0-4-powerpc64le`.
    pub kernel: String,
    /// Page, bytes.
    pub page_size: u64,
    /// CPUs, nodes and distances.
    pub topology: Topology,
    /// Static section of the image, bytes.
    pub static_size: u64,
    /// Build options.
    pub build: Build,
    /// The boot parameter `percpu_alloc=`: auto, embed, page, or lpage before 2.6.32.
    pub kind: Kind,
    /// The kernel knows several CPUs.
    pub smp: bool,
    /// The CPU has large pages (x86 before 3.5).
    pub large_pages: bool,
    /// Physical address extension (x86-32 before 3.5).
    pub pae: bool,
    /// The direct mapping uses 4 KiB pages (ppc64 hash).
    pub linear_4k: bool,
    /// Nodes that are not online.
    pub offline_nodes: Vec<u32>,
}

impl Machine {
    /// A machine with the usual options.
    pub fn new(arch: &str, kernel: &str, page_size: u64, topology: Topology, static_size: u64) -> Self {
        Self {
            arch: arch.to_string(),
            variant: None,
            kernel: kernel.to_string(),
            page_size,
            topology,
            static_size,
            build: Build::default(),
            kind: Kind::Auto,
            smp: true,
            large_pages: true,
            pae: false,
            linear_4k: false,
            offline_nodes: Vec::new(),
        }
    }

    /// The row of the table.
    pub fn preset(&self) -> Result<&'static ArchPreset, ConfigError> {
        let release = self.release()?;
        let named = |row: &&ArchPreset| row.arch.contains(&self.arch.as_str());
        if !ARCH_PRESETS.iter().any(|row| named(&row)) {
            return Err(ConfigError::new("arch", &self.arch, "is not in the table of architectures"));
        }
        let wanted = |row: &&ArchPreset| self.variant.as_deref().is_none_or(|variant| row.variant == variant);
        let dated = |row: &&ArchPreset| (row.since..row.until).contains(&release);
        ARCH_PRESETS.iter().filter(named).filter(wanted).find(dated).ok_or_else(|| {
            let variant = self.variant.as_deref().unwrap_or("any");
            ConfigError::new("variant", variant, format!("of {} is not known for kernel {}", self.arch, self.kernel))
        })
    }

    /// Everything that the first chunk is made from.
    pub fn request(&self) -> Result<FirstChunkRequest, ConfigError> {
        let release = self.release()?;
        let row = self.preset()?;
        if !row.page_sizes.is_empty() && !row.page_sizes.contains(&self.page_size) {
            let limit = format!("must be one of {:?} on {}", row.page_sizes, self.arch);
            return Err(ConfigError::new("page_size", self.page_size, limit));
        }
        if self.build.dyn_shift == 13 && self.page_size == 4096 {
            return Err(ConfigError::new("dyn_shift", 13, "needs a page size other than 4096"));
        }
        let rules = LayoutRules::of_release(release, row.word, self.build)?;
        let topology = self.topology_for(row)?;
        let mut request = FirstChunkRequest::new(topology, rules, self.static_size).on_word(row.word);
        request.page_size = self.page_size;
        request.atom_size = self.atom(row);
        if !row.reserved {
            (request.reserved_size, request.dyn_size) = (0, rules.module_reserve + rules.dyn_reserve);
        }
        request.large_pages = self.large_pages;
        if release < (3, 0, 0) {
            request.dump_level = INFO;
        }
        request.page_allocator = row.page_since.is_some_and(|since| since <= release);
        request.arch_prefix = row.prefix.to_string();
        request.form = SummaryForm::of_number(release).unwrap_or_default();
        request.pointer = if release < (4, 15, 0) { PointerText::Padded } else { PointerText::Hidden };
        request.kind = self.kind_for(row)?;
        if self.smp && matches!(self.kind, Kind::Page | Kind::LargePage) && request.kind != self.kind {
            request.unknown_allocator = Some(self.kind.name().to_string());
        }
        if let Kind::Explicit { unit_size } = request.kind {
            request.dyn_size = self.own_dynamic_size(unit_size, request.reserved_size)?;
        }
        Ok(request)
    }

    fn release(&self) -> Result<Release, ConfigError> {
        release_number(&self.kernel).ok_or_else(|| ConfigError::new("kernel", &self.kernel, "is no release number"))
    }

    fn atom(&self, row: &ArchPreset) -> u64 {
        match row.atom {
            Atom::LargePage(..) if !self.large_pages => self.page_size,
            Atom::LinearMap(_) if self.linear_4k => self.page_size,
            Atom::Page => self.page_size,
            Atom::Bytes(bytes) | Atom::LinearMap(bytes) => bytes,
            Atom::Pmd => (self.page_size / 8).saturating_mul(self.page_size),
            Atom::LargePage(plain, extended) => {
                if self.pae {
                    extended
                } else {
                    plain
                }
            }
        }
    }

    fn topology_for(&self, row: &ArchPreset) -> Result<Topology, ConfigError> {
        let topology = self.topology.clone();
        match (row.distances, topology.distance_kind()) {
            (Distances::None, _) => Ok(topology.without_distance()),
            (Distances::Table, Distance::Nodes(_)) => Ok(topology),
            _ => topology.with_distance(Distance::SameNode),
        }
    }

    fn kind_for(&self, row: &ArchPreset) -> Result<Kind, ConfigError> {
        if !self.smp {
            return Ok(Kind::Up);
        }
        if let Automatic::OwnUnit(unit_size) = row.automatic {
            self.check_node_order()?;
            return Ok(Kind::Explicit { unit_size });
        }
        let page = match (self.kind, row.automatic) {
            (Kind::Auto, Automatic::PageOnNodes) => self.spans_nodes(),
            (Kind::Auto, Automatic::PageFromNodeIds(least)) => self.nr_node_ids() >= least,
            (Kind::Auto | Kind::Embed | Kind::LargePage, _) => false,
            // Kernel: without the page allocator the name is unknown, and `auto` stays.
            (Kind::Page, _) => self.release()? >= row.page_since.unwrap_or(NEVER),
            (Kind::Explicit { .. } | Kind::Up, _) => {
                return Err(ConfigError::new("kind", self.kind.name(), "must be auto, embed, page or lpage"))
            }
        };
        Ok(match self.kind {
            Kind::Embed => Kind::Embed,
            Kind::LargePage if self.release()? < FIRST => Kind::LargePage,
            _ if page => Kind::Page,
            _ => Kind::Auto,
        })
    }

    /// Kernel: a CPU without an online node makes the walk forget the node before, so that two nodes with such a
    /// CPU between them are not noticed (specification 31 section 8).
    fn spans_nodes(&self) -> bool {
        let mut last = None;
        self.topology.possible().iter().any(|&cpu| {
            let node = Some(self.topology.node(cpu)).filter(|node| !self.offline_nodes.contains(node));
            let differs = node.is_some() && last.is_some() && node != last;
            last = node;
            differs
        })
    }

    /// Highest node of a possible CPU, and one.
    fn nr_node_ids(&self) -> u32 {
        let nodes = self.topology.possible().iter().map(|&cpu| self.topology.node(cpu));
        nodes.max().map_or(0, |node| node.saturating_add(1))
    }

    /// The architecture orders groups by node, the layout by first CPU: only where both agree it is modelled.
    fn check_node_order(&self) -> Result<(), ConfigError> {
        let mut seen = Vec::new();
        for node in self.topology.possible().iter().map(|&cpu| self.topology.node(cpu)) {
            if !seen.contains(&node) {
                seen.push(node);
            }
        }
        if seen.is_sorted() {
            return Ok(());
        }
        Err(ConfigError::new("topology", format!("first CPUs on nodes {seen:?}"), "must have them in order of nodes"))
    }

    /// The rest of a unit that is used to the last byte.
    fn own_dynamic_size(&self, unit_size: u64, reserved_size: u64) -> Result<u64, ConfigError> {
        let taken = self.static_size.saturating_add(reserved_size);
        unit_size.checked_sub(taken).ok_or_else(|| {
            // Kernel: panic "percpu area overflow static=<n> reserved=<n>".
            let limit = format!("percpu area overflow static={} reserved={reserved_size}", self.static_size);
            ConfigError::new("static_size", self.static_size, limit)
        })
    }
}

#[cfg(test)]
mod tests;
