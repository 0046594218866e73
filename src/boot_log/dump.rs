//! The layout dump: head line and cells, and the dump of the large-page allocator of 2009.
//!
//! # Design
//!
//! ```text
//! pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152          head
//! pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- --  cells, one an allocation
//!
//! pcpu-lpage: sta/res/dyn=30000/8192/20480 unit=131072 lpage=2097152
//! pcpu-lpage: 00 01 02 03 | 04 05 -- --                             one large page between bars (2.6.31)
//! ```
//!
//! # Units
//!
//! Bytes; rows in units.
//!
//! # Invariants
//!
//! L2 *cells*: every group has a whole number of allocations.
//!
//! # Source
//!
//! Specification 40 section 3.

/// A layout as far as the dump carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRecord {
    /// Static size, bytes.
    pub static_size: u64,
    /// Reserved size, bytes.
    pub reserved_size: u64,
    /// Dynamic size, bytes.
    pub dyn_size: u64,
    /// Unit size, bytes.
    pub unit_size: u64,
    /// Atom, bytes.
    pub atom_size: u64,
    /// Allocation, bytes; what the line prints is `alloc_size / atom_size`.
    pub alloc_size: u64,
    /// The CPU of each unit of each group; `None` is a hole.
    pub groups: Vec<Vec<Option<u32>>>,
}

impl BootRecord {
    /// Units of one allocation; at least 1.
    pub fn units_per_alloc(&self) -> u64 {
        self.alloc_size.checked_div(self.unit_size).unwrap_or(1).max(1)
    }

    /// The dump: the head line and the rows, each with its prefix. Rows end in a blank, as the kernel's do.
    pub fn lines(&self) -> Vec<String> {
        let factor = self.alloc_size.checked_div(self.atom_size).unwrap_or(0);
        let head = DumpHead {
            static_size: self.static_size,
            reserved_size: self.reserved_size,
            dyn_size: self.dyn_size,
            unit_size: self.unit_size,
            alloc_factor: factor,
            atom_size: self.atom_size,
        };
        let mut lines = vec![head.text()];
        lines.extend(dump_rows(&self.groups, usize::try_from(self.units_per_alloc()).unwrap_or(usize::MAX)));
        lines
    }
}

/// The rows of the dump for groups whose allocations have `units_per_alloc` units.
pub fn dump_rows(groups: &[Vec<Option<u32>>], units_per_alloc: usize) -> Vec<String> {
    let k = units_per_alloc.max(1);
    let nr_possible = groups.iter().flatten().flatten().count();
    let group_digits = digits(groups.len());
    let cpu_digits = digits(nr_possible);
    let hole = "-".repeat(cpu_digits.min(8));
    let cell = k.saturating_mul(cpu_digits + 1).saturating_add(group_digits + 3);
    // Kernel: as many allocations a line as fit 60 characters, rounded down to a power of two.
    let fitting = (60 / cell).max(1);
    let per_line = 1 << fitting.ilog2();
    let mut rows = Vec::new();
    let mut row = String::new();
    for (alloc, (group, units)) in
        groups.iter().enumerate().flat_map(|(g, units)| units.chunks(k).map(move |c| (g, c))).enumerate()
    {
        if alloc % per_line == 0 {
            if alloc > 0 {
                rows.push(std::mem::take(&mut row));
            }
            row.push_str("pcpu-alloc: ");
        }
        row.push_str(&format!("[{group:0group_digits$}] "));
        for unit in units {
            match unit {
                Some(cpu) => row.push_str(&format!("{cpu:0cpu_digits$} ")),
                None => {
                    row.push_str(&hole);
                    row.push(' ');
                }
            }
        }
    }
    if !row.is_empty() {
        rows.push(row);
    }
    rows
}

/// Decimal digits of a count.
pub(super) fn digits(count: usize) -> usize {
    count.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The head line of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpHead {
    /// Static size, bytes.
    pub static_size: u64,
    /// Reserved size, bytes.
    pub reserved_size: u64,
    /// Dynamic size, bytes.
    pub dyn_size: u64,
    /// Unit size, bytes.
    pub unit_size: u64,
    /// Atoms of one allocation.
    pub alloc_factor: u64,
    /// Atom, bytes.
    pub atom_size: u64,
}

impl DumpHead {
    /// The head line with its prefix.
    pub fn text(&self) -> String {
        format!(
            "pcpu-alloc: s{} r{} d{} u{} alloc={}*{}",
            self.static_size, self.reserved_size, self.dyn_size, self.unit_size, self.alloc_factor, self.atom_size
        )
    }

    /// Reads the head line, time and level stripped.
    pub fn parse(line: &str) -> Option<Self> {
        let body = line.trim_end().strip_prefix("pcpu-alloc: s")?;
        let (numbers, alloc) = body.split_once(" alloc=")?;
        let (factor, atom) = alloc.split_once('*')?;
        let mut words = numbers.split(' ');
        let static_size = words.next()?.parse().ok()?;
        let reserved_size = words.next()?.strip_prefix('r')?.parse().ok()?;
        let dyn_size = words.next()?.strip_prefix('d')?.parse().ok()?;
        let unit_size = words.next()?.strip_prefix('u')?.parse().ok()?;
        if words.next().is_some() {
            return None;
        }
        let alloc_factor = factor.parse().ok()?;
        Some(Self { static_size, reserved_size, dyn_size, unit_size, alloc_factor, atom_size: atom.parse().ok()? })
    }
}

/// The layout dump of the large-page allocator of 2.6.31.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargePageDump {
    /// Static size, bytes.
    pub static_size: u64,
    /// Reserved size, bytes.
    pub reserved_size: u64,
    /// Dynamic size, bytes.
    pub dyn_size: u64,
    /// Unit size, bytes.
    pub unit_size: u64,
    /// Large page, bytes.
    pub lpage_size: u64,
    /// The CPU of each unit; `None` is a hole.
    pub units: Vec<Option<u32>>,
}

const LPAGE: &str = "pcpu-lpage: ";

impl LargePageDump {
    /// Units of one large page; at least 1.
    pub fn units_per_lpage(&self) -> usize {
        usize::try_from(self.lpage_size.checked_div(self.unit_size).unwrap_or(1).max(1)).unwrap_or(usize::MAX)
    }

    /// The head line and the rows. Each unit is followed by a blank.
    pub fn lines(&self) -> Vec<String> {
        let head = format!(
            "{LPAGE}sta/res/dyn={}/{}/{} unit={} lpage={}",
            self.static_size, self.reserved_size, self.dyn_size, self.unit_size, self.lpage_size
        );
        let width = digits(self.units.len());
        let per_page = self.units_per_lpage();
        let cell = per_page.saturating_mul(width + 1).saturating_add(2);
        let per_line = 1usize << (60 / cell).max(1).ilog2();
        let mut lines = vec![head];
        let mut row = String::new();
        for (page, units) in self.units.chunks(per_page).enumerate() {
            if page % per_line == 0 {
                if page > 0 {
                    lines.push(std::mem::take(&mut row));
                }
                row.push_str(LPAGE);
            } else {
                row.push_str("| ");
            }
            for unit in units {
                match unit {
                    Some(cpu) => row.push_str(&format!("{cpu:0width$} ")),
                    None => row.push_str(&format!("{} ", "-".repeat(width))),
                }
            }
        }
        if !row.is_empty() {
            lines.push(row);
        }
        lines
    }

    /// The head line, without units.
    pub fn parse_head(line: &str) -> Option<Self> {
        let body = line.trim_end().strip_prefix(LPAGE)?.strip_prefix("sta/res/dyn=")?;
        let (sizes, rest) = body.split_once(" unit=")?;
        let (unit_size, lpage_size) = rest.split_once(" lpage=")?;
        let mut sizes = sizes.split('/').map(|size| size.parse().ok());
        let mut size = || sizes.next().flatten();
        let (static_size, reserved_size, dyn_size) = (size()?, size()?, size()?);
        let (unit_size, lpage_size) = (unit_size.parse().ok()?, lpage_size.parse().ok()?);
        Some(Self { static_size, reserved_size, dyn_size, unit_size, lpage_size, units: Vec::new() })
    }

    /// The units of a row.
    pub fn parse_row(line: &str) -> Option<Vec<Option<u32>>> {
        let words = line.strip_prefix(LPAGE)?.split_ascii_whitespace().filter(|word| *word != "|");
        words.map(parse_unit).collect()
    }
}

/// A CPU, or dashes for a hole.
pub(super) fn parse_unit(word: &str) -> Option<Option<u32>> {
    if !word.is_empty() && word.bytes().all(|b| b == b'-') {
        return Some(None);
    }
    word.parse().ok().map(Some)
}
