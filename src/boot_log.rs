//! Boot log: the lines that the per-CPU set-up prints, written and parsed.
//!
//! # Design
//!
//! The kernel describes its first chunk in a summary line and a dump of the layout. Both
//! are exact texts, and the dump holds nearly the whole record, so this module works in
//! both directions:
//!
//! ```text
//! percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u262144        Summary
//! pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152          BootRecord, head
//! pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- --  BootRecord, cells
//!              |  one cell = one allocation: units of group 0, holes as dashes
//! ```
//!
//! [`BootRecord`] is what the text carries: sizes, and the CPUs of each group. The page size, the groups'
//! addresses, the distances and the wanted dynamic size cannot be recovered. [`BootLog`] is what one log
//! shows; every part is optional, because people quote logs in part.
//!
//! # Units
//!
//! Bytes, as printed. Pages only in [`Summary::pages`].
//!
//! # Invariants
//!
//! L1 *round trip*: parsing what was written gives the record back. L2 *cells*: every group has a whole number
//! of allocations.
//!
//! # Cost
//!
//! Linear in the text.
//!
//! # Source
//!
//! Specification 40 sections 1 to 4 and 7. Every row of the version table is written and parsed, except the
//! dumps of the large-page allocator of 2009, which was never in a release with groups.

use std::fmt;

/// Emergency: the machine stops.
pub const EMERG: u8 = 0;
/// Critical.
pub const CRIT: u8 = 2;
/// Warning.
pub const WARNING: u8 = 4;
/// Information.
pub const INFO: u8 = 6;
/// Debug.
pub const DEBUG: u8 = 7;

/// One line of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogLine {
    /// Level: 0 emergency to 7 debug.
    pub level: u8,
    /// The text with its prefix, without a line end.
    pub text: String,
}

impl LogLine {
    /// A line of the given level.
    pub fn new(level: u8, text: impl Into<String>) -> Self {
        Self { level, text: text.into() }
    }
}

/// As in `dmesg -r`: `<level>text`.
impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>{}", self.level, self.text)
    }
}

/// How the summary line looked, by period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SummaryForm {
    /// 2.6.30.
    V2_6_30,
    /// 2.6.31.
    V2_6_31,
    /// 2.6.32 to about 4.5: prefix `PERCPU: `, address printed.
    V2_6_32,
    /// 4.6 to 5.1: prefix `percpu: `, address printed (hashed from 4.15).
    V4_6,
    /// 5.2 to today: no address.
    #[default]
    V5_2,
}

impl SummaryForm {
    /// All forms, oldest first.
    pub const ALL: [Self; 5] = [Self::V2_6_30, Self::V2_6_31, Self::V2_6_32, Self::V4_6, Self::V5_2];

    /// The prefix of the allocator's own messages.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::V2_6_30 | Self::V2_6_31 | Self::V2_6_32 => "PERCPU: ",
            Self::V4_6 | Self::V5_2 => "percpu: ",
        }
    }

    /// The form of a release such as `6.12`, `4.19.0-6-amd64` or `2.6.35-22`; `None` if it is no number or
    /// older than 2.6.30.
    pub fn of_release(release: &str) -> Option<Self> {
        let version = release_number(release)?;
        Some(match version {
            v if v < (2, 6, 30) => return None,
            (2, 6, 30) => Self::V2_6_30,
            (2, 6, 31) => Self::V2_6_31,
            v if v < (4, 6, 0) => Self::V2_6_32,
            v if v < (5, 2, 0) => Self::V4_6,
            _ => Self::V5_2,
        })
    }

    /// The form that golden data or logs show by what is printed: the prefix, and whether there is an address.
    fn of_text(upper: bool, pointer: bool) -> Self {
        match (upper, pointer) {
            (true, _) => Self::V2_6_32,
            (false, true) => Self::V4_6,
            (false, false) => Self::V5_2,
        }
    }
}

/// The first three numbers of a release; missing ones are 0.
pub fn release_number(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(['.', '-', '+', '~', '_']).map_while(|part| part.parse::<u32>().ok());
    let major = numbers.next()?;
    Some((major, numbers.next()?, numbers.next().unwrap_or(0)))
}

/// Which allocator made the first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SummaryKind {
    /// One block per group, used in place.
    Embed,
    /// Mapped page by page.
    Page,
    /// Remapped large pages (2009 only).
    LargePage,
}

/// The summary line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which allocator.
    pub kind: SummaryKind,
    /// Pages per CPU; 0 where the line has none (large pages).
    pub pages: u64,
    /// The `K` of the page line: page size in KiB.
    pub page_kib: Option<u64>,
    /// The address as printed: `ffff88083fc00000`, `(____ptrval____)`, ...; with the blanks that pad it.
    pub pointer: Option<String>,
    /// Static size, bytes.
    pub static_size: u64,
    /// Reserved size, bytes; the lines of 2.6.30 lack it.
    pub reserved_size: Option<u64>,
    /// Dynamic size, bytes.
    pub dyn_size: Option<u64>,
    /// Unit size, bytes; page lines lack it.
    pub unit_size: Option<u64>,
}

impl Summary {
    /// The line with its prefix. Parts that the form does not print are left out; numbers that it prints but
    /// the summary lacks are 0, a lacking address is `(____ptrval____)`.
    pub fn text(&self, form: SummaryForm) -> String {
        let prefix = form.prefix();
        let pointer = self.pointer.as_deref().unwrap_or("(____ptrval____)");
        let at = if form == SummaryForm::V5_2 { String::new() } else { format!("@{pointer} ") };
        let (pages, s) = (self.pages, self.static_size);
        let r = self.reserved_size.unwrap_or(0);
        let d = self.dyn_size.unwrap_or(0);
        let u = self.unit_size.unwrap_or(0);
        let kib = self.page_kib.unwrap_or(4);
        use SummaryForm as F;
        use SummaryKind as K;
        match (form, self.kind) {
            (F::V2_6_30, K::Embed) => {
                format!("{prefix}Embedded {pages} pages at {pointer}, static data {s} bytes")
            }
            (F::V2_6_30, K::Page) => format!("{prefix}Allocated {pages} 4k pages, static data {s} bytes"),
            (F::V2_6_30, K::LargePage) => {
                format!("{prefix}Remapped at {pointer} with large pages, static data {s} bytes")
            }
            (F::V2_6_31, K::Page) => format!("{prefix}{pages} 4k pages/cpu {at}s{s} r{r}"),
            (_, K::LargePage) => format!("{prefix}large pages {at}s{s} r{r} d{d} u{u}"),
            (_, K::Embed) => format!("{prefix}Embedded {pages} pages/cpu {at}s{s} r{r} d{d} u{u}"),
            (_, K::Page) => format!("{prefix}{pages} {kib}K pages/cpu {at}s{s} r{r} d{d}"),
        }
    }

    /// Reads a line whose time and level were stripped; `None` if it is no summary.
    pub fn parse(line: &str) -> Option<(SummaryForm, Summary)> {
        let line = line.trim_end();
        let (upper, body) = match line.strip_prefix("PERCPU: ") {
            Some(body) => (true, body),
            None => (false, line.strip_prefix("percpu: ")?),
        };
        let mut summary = Summary {
            kind: SummaryKind::Embed,
            pages: 0,
            page_kib: None,
            pointer: None,
            static_size: 0,
            reserved_size: None,
            dyn_size: None,
            unit_size: None,
        };
        if let Some((front, bytes)) = body.split_once(", static data ") {
            // The three lines of 2.6.30.
            summary.static_size = bytes.strip_suffix(" bytes")?.parse().ok()?;
            if let Some(rest) = front.strip_prefix("Embedded ") {
                let (pages, pointer) = rest.split_once(" pages at ")?;
                summary.pages = pages.parse().ok()?;
                summary.pointer = Some(pointer.to_string());
            } else if let Some(rest) = front.strip_prefix("Allocated ") {
                summary.kind = SummaryKind::Page;
                summary.page_kib = Some(4);
                summary.pages = rest.strip_suffix(" 4k pages")?.parse().ok()?;
            } else {
                summary.kind = SummaryKind::LargePage;
                summary.pointer =
                    Some(front.strip_prefix("Remapped at ")?.strip_suffix(" with large pages")?.to_string());
            }
            return Some((SummaryForm::V2_6_30, summary));
        }
        let mut form = None;
        let rest = if let Some(rest) = body.strip_prefix("large pages ") {
            summary.kind = SummaryKind::LargePage;
            form = Some(SummaryForm::V2_6_31);
            rest
        } else {
            let (head, rest) = body.split_once(" pages/cpu ")?;
            if let Some(pages) = head.strip_prefix("Embedded ") {
                summary.pages = pages.parse().ok()?;
            } else {
                let (pages, kib) = head.split_once(' ')?;
                summary.kind = SummaryKind::Page;
                summary.pages = pages.parse().ok()?;
                let number = kib.strip_suffix(['K', 'k'])?;
                summary.page_kib = Some(number.parse().ok()?);
                if kib.ends_with('k') {
                    form = Some(SummaryForm::V2_6_31);
                }
            }
            rest
        };
        let rest = match rest.strip_prefix('@') {
            Some(rest) => {
                // `%p` may be padded with blanks on the left: `@        (ptrval) s...`.
                let blanks = rest.len() - rest.trim_start().len();
                let (pointer, rest) = rest.split_at_checked(blanks + rest.trim_start().find(' ')?)?;
                summary.pointer = Some(pointer.to_string());
                rest
            }
            None => rest,
        };
        let mut seen_static = false;
        for word in rest.split_ascii_whitespace() {
            let value = word.get(1..)?.parse::<u64>().ok()?;
            match word.as_bytes()[0] {
                b's' => {
                    summary.static_size = value;
                    seen_static = true;
                }
                b'r' => summary.reserved_size = Some(value),
                b'd' => summary.dyn_size = Some(value),
                b'u' => summary.unit_size = Some(value),
                _ => return None,
            }
        }
        let form = form.unwrap_or(SummaryForm::of_text(upper, summary.pointer.is_some()));
        seen_static.then_some((form, summary))
    }
}

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
        let head = format!(
            "pcpu-alloc: s{} r{} d{} u{} alloc={}*{}",
            self.static_size, self.reserved_size, self.dyn_size, self.unit_size, factor, self.atom_size
        );
        let mut lines = vec![head];
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
fn digits(count: usize) -> usize {
    count.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// `setup_percpu: NR_CPUS:... ` as x86 prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupLine {
    /// CPUs that the kernel was built for.
    pub nr_cpus: u64,
    /// Bits of a CPU mask in use.
    pub nr_cpumask_bits: u64,
    /// Highest possible CPU id + 1.
    pub nr_cpu_ids: u64,
    /// Highest possible node + 1.
    pub nr_node_ids: u64,
}

impl SetupLine {
    /// The line with its prefix.
    pub fn text(&self) -> String {
        format!(
            "setup_percpu: NR_CPUS:{} nr_cpumask_bits:{} nr_cpu_ids:{} nr_node_ids:{}",
            self.nr_cpus, self.nr_cpumask_bits, self.nr_cpu_ids, self.nr_node_ids
        )
    }

    /// Reads the line, with or without its prefix (2.6.32 had none).
    pub fn parse(line: &str) -> Option<Self> {
        let body = line.strip_prefix("setup_percpu: ").unwrap_or(line);
        let mut values = [0; 4];
        let mut words = body.split_ascii_whitespace();
        for (value, name) in values.iter_mut().zip(["NR_CPUS:", "nr_cpumask_bits:", "nr_cpu_ids:", "nr_node_ids:"]) {
            *value = words.next()?.strip_prefix(name)?.parse().ok()?;
        }
        let [nr_cpus, nr_cpumask_bits, nr_cpu_ids, nr_node_ids] = values;
        Some(Self { nr_cpus, nr_cpumask_bits, nr_cpu_ids, nr_node_ids })
    }
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

/// What one log shows of the set-up; everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootLog {
    /// The `setup_percpu:` line.
    pub setup: Option<SetupLine>,
    /// The summary and the period that its form belongs to.
    pub summary: Option<(SummaryForm, Summary)>,
    /// The head line of the dump.
    pub head: Option<DumpHead>,
    /// The cells of the dump, in order: group and units.
    pub cells: Vec<(u32, Vec<Option<u32>>)>,
    /// The errno for which the embedding allocator was given up.
    pub fallback: Option<i32>,
    /// Distance and space of a `max_distance` message, bytes.
    pub max_distance: Option<(u64, u64)>,
    /// All lines of the set-up, stripped, in order, trailing blanks kept.
    pub lines: Vec<String>,
}

impl BootLog {
    /// Reads a log of any length; lines that are not of the set-up are passed over.
    pub fn parse(text: &str) -> Self {
        Self::from_lines(text.lines())
    }

    /// As [`Self::parse`], line by line.
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut log = Self::default();
        for raw in lines {
            let line = strip_line(raw);
            let line = line.as_ref();
            if let Some(setup) = SetupLine::parse(line) {
                log.setup = Some(setup);
            } else if let Some(summary) = Summary::parse(line) {
                log.summary = Some(summary);
            } else if let Some(head) = DumpHead::parse(line) {
                log.head = Some(head);
                // Kernel: a failed check dumps the layout a second time; the last dump counts.
                log.cells.clear();
            } else if let Some(cells) = parse_row(line) {
                log.cells.extend(cells);
            } else if let Some(errno) = parse_fallback(line) {
                log.fallback = Some(errno);
            } else if let Some(distance) = parse_max_distance(line) {
                log.max_distance = Some(distance);
            } else if !["percpu: ", "PERCPU: ", "setup_percpu: "].iter().any(|prefix| line.starts_with(prefix)) {
                continue;
            }
            log.lines.push(line.to_string());
        }
        log
    }

    /// The CPUs of each group, cells of a group joined; `None` without a dump or if the cells differ in length
    /// or skip a group.
    pub fn groups(&self) -> Option<Vec<Vec<Option<u32>>>> {
        let per_cell = self.cells.first()?.1.len();
        let mut groups: Vec<Vec<Option<u32>>> = Vec::new();
        for (group, units) in &self.cells {
            let index = usize::try_from(*group).ok()?;
            if index > groups.len() || units.len() != per_cell {
                return None;
            }
            if index == groups.len() {
                groups.push(Vec::new());
            }
            groups[index].extend(units);
        }
        Some(groups)
    }

    /// The record, if head and cells are there and agree.
    pub fn record(&self) -> Option<BootRecord> {
        let head = self.head?;
        let record = BootRecord {
            static_size: head.static_size,
            reserved_size: head.reserved_size,
            dyn_size: head.dyn_size,
            unit_size: head.unit_size,
            atom_size: head.atom_size,
            alloc_size: head.alloc_factor.checked_mul(head.atom_size)?,
            groups: self.groups()?,
        };
        let per_cell = self.cells.first()?.1.len() as u64;
        (record.units_per_alloc() == per_cell).then_some(record)
    }
}

/// The cells of a dump row.
fn parse_row(line: &str) -> Option<Vec<(u32, Vec<Option<u32>>)>> {
    let body = line.strip_prefix("pcpu-alloc: ")?;
    let mut cells: Vec<(u32, Vec<Option<u32>>)> = Vec::new();
    for word in body.split_ascii_whitespace() {
        if let Some(group) = word.strip_prefix('[') {
            cells.push((group.strip_suffix(']')?.parse().ok()?, Vec::new()));
        } else {
            let units = &mut cells.last_mut()?.1;
            units.push(if word.bytes().all(|b| b == b'-') { None } else { Some(word.parse().ok()?) });
        }
    }
    (!cells.is_empty()).then_some(cells)
}

fn parse_fallback(line: &str) -> Option<i32> {
    let (_, rest) = line.split_once(" allocator failed (")?;
    let (errno, rest) = rest.split_once("), falling back to ")?;
    ["page size", "4k"].contains(&rest.trim_end()).then(|| errno.parse().ok())?
}

fn parse_max_distance(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once("max_distance=0x")?;
    let (distance, rest) = rest.split_once(" too large for vmalloc space 0x")?;
    Some((u64::from_str_radix(distance, 16).ok()?, u64::from_str_radix(rest.trim_end(), 16).ok()?))
}

/// Takes off what carriers put in front of a line: mail quoting, level, syslog header, time, caller; undoes
/// quoted-printable `=3D`.
pub fn strip_line(raw: &str) -> std::borrow::Cow<'_, str> {
    let mut line = raw.trim_end_matches(['\r', '\n']);
    while let Some(rest) = line.strip_prefix('>') {
        line = rest.trim_start();
    }
    line = line.trim_start();
    if let Some((level, rest)) = line.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        if !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit()) {
            line = rest;
        }
    }
    if let Some((_, rest)) = line.split_once("kernel: ") {
        line = rest;
    }
    // Time and caller; the cells of a dump are never at the start of a line.
    while let Some((inside, rest)) = line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let plain = inside.trim();
        let mark = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'T' | b'C');
        if plain.is_empty() || !plain.bytes().all(mark) {
            break;
        }
        line = rest;
    }
    line = line.trim_start();
    if line.contains("=3D") {
        line.replace("=3D", "=").into()
    } else {
        line.into()
    }
}

/// The texts of single messages, without the prefix unless noted.
pub mod message {
    /// A set-up check failed.
    pub fn failed_to_initialize(condition: &str) -> String {
        format!("failed to initialize, {condition}")
    }

    /// The mask of possible CPUs, `nr_cpu_ids` bits, most significant word first.
    pub fn cpu_possible_mask(possible: &[u32], nr_cpu_ids: u32) -> String {
        let bits = nr_cpu_ids.max(1) as usize;
        let mut words = vec![0u32; bits.div_ceil(32)];
        for &cpu in possible {
            if let Some(word) = words.get_mut(cpu as usize / 32) {
                *word |= 1 << (cpu % 32);
            }
        }
        let first_bits = if bits % 32 == 0 { 32 } else { bits % 32 };
        let width = first_bits.div_ceil(4);
        let mut text = String::from("cpu_possible_mask=");
        for (index, word) in words.iter().rev().enumerate() {
            if index == 0 {
                text.push_str(&format!("{word:0width$x}"));
            } else {
                text.push_str(&format!(",{word:08x}"));
            }
        }
        text
    }

    /// The groups are further apart than three quarters of the vmalloc space. Bytes.
    pub fn max_distance(distance: u64, vmalloc_total: u64) -> String {
        format!("max_distance={distance:#x} too large for vmalloc space {vmalloc_total:#x}")
    }

    /// No page for a CPU.
    pub fn failed_to_allocate_page(page_size: u64, cpu: u32) -> String {
        format!("failed to allocate {}K page for cpu{cpu}", page_size >> 10)
    }

    /// The boot parameter names no allocator.
    pub fn unknown_allocator(value: &str) -> String {
        format!("unknown allocator {value} specified")
    }

    /// Embedding failed; printed by the architecture with its own prefix.
    pub fn falling_back(name: &str, errno: i32) -> String {
        format!("{name} allocator failed ({errno}), falling back to page size")
    }

    /// The kernel-memory backend cannot serve several groups.
    pub const MORE_THAN_ONE_GROUP: &str = "can't handle more than one group";

    /// The kernel-memory backend rounds a chunk up to a power of two of pages.
    pub fn wasting(pages: u64) -> String {
        format!("wasting {pages} pages per chunk")
    }

    /// A CPU's node has no memory.
    pub fn no_node(cpu: u32, node: u32) -> String {
        format!("cpu {cpu} has no node {node} or node-local memory")
    }

    /// The request itself is impossible; never prefixed. Bytes, after rounding.
    pub fn illegal_size(size: u64, align: u64) -> String {
        format!("illegal size ({size}) or align ({align}) for percpu allocation")
    }

    /// A request failed. Bytes, after rounding.
    pub fn allocation_failed(size: u64, align: u64, atomic: bool, reason: &str) -> String {
        format!("allocation failed, size={size} align={align} atomic={}, {reason}", u8::from(atomic))
    }

    /// The form of 2.6.34, which knew no atomic requests.
    pub fn allocation_failed_2_6(size: u64, align: u64, reason: &str) -> String {
        format!("allocation failed, size={size} align={align}, {reason}")
    }

    /// Printed after the tenth failure.
    pub const LIMIT_REACHED: &str = "limit reached, disable warning";
}

/// A parsed `allocation failed` message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureLine {
    /// Size, bytes, after rounding.
    pub size: u64,
    /// Alignment, bytes, after rounding.
    pub align: u64,
    /// Whether the request could not sleep; not printed before 3.18.
    pub atomic: Option<bool>,
    /// The kernel's reason.
    pub reason: String,
}

impl FailureLine {
    /// Reads the message anywhere in a line.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("allocation failed, size=")?;
        let (numbers, reason) = rest.split_once(", ")?;
        let mut words = numbers.split(' ');
        let size = words.next()?.parse().ok()?;
        let align = words.next()?.strip_prefix("align=")?.parse().ok()?;
        let atomic = match words.next() {
            None => None,
            Some("atomic=0") => Some(false),
            Some("atomic=1") => Some(true),
            Some(_) => return None,
        };
        Some(Self { size, align, atomic, reason: reason.trim_end().to_string() })
    }
}

#[cfg(test)]
mod tests;
