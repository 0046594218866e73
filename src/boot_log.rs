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
//! Specification 40 sections 1 to 4 and 7. Every row of the version tables is written and parsed.

use std::fmt;

mod dump;
pub mod message;
mod summary;

pub use dump::{dump_rows, BootRecord, DumpHead, LargePageDump};
pub use message::{FailureLine, Message};
pub use summary::{release_number, Summary, SummaryForm, SummaryKind};

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

/// Prefixes of the allocator's and the architecture's messages.
const PREFIXES: [&str; 3] = ["percpu: ", "PERCPU: ", "setup_percpu: "];

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
    /// The dump of the large-page allocator of 2009.
    pub lpage: Option<LargePageDump>,
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// The errno for which the first choice was given up.
    pub fallback: Option<i32>,
    /// Distance and space of a `max_distance` message, bytes.
    pub max_distance: Option<(u64, u64)>,
    /// The release that the first line of a log names.
    pub release: Option<String>,
    /// The boot parameter `percpu_alloc=`.
    pub parameter: Option<String>,
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
            } else if let Some(head) = LargePageDump::parse_head(line) {
                log.lpage = Some(head);
            } else if let (Some(dump), Some(units)) = (&mut log.lpage, LargePageDump::parse_row(line)) {
                dump.units.extend(units);
            } else if let Some(message) = PREFIXES.iter().find_map(|prefix| Message::parse(line.strip_prefix(prefix)?))
            {
                match &message {
                    Message::FallingBack { errno, .. } => log.fallback = Some(*errno),
                    Message::MaxDistance { distance, vmalloc_total } => {
                        log.max_distance = Some((*distance, *vmalloc_total));
                    }
                    _ => {}
                }
                log.messages.push(message);
            } else if !PREFIXES.iter().any(|prefix| line.starts_with(prefix)) {
                log.about_the_kernel(line);
                continue;
            }
            log.lines.push(line.to_string());
        }
        log
    }

    /// Lines that are not of the set-up but say which kernel it was.
    fn about_the_kernel(&mut self, line: &str) {
        if let Some(release) = line.strip_prefix("Linux version ").and_then(|rest| rest.split(' ').next()) {
            self.release = Some(release.to_string());
        } else if let Some((_, command_line)) = line.split_once("ommand line: ") {
            let mut words = command_line.split_ascii_whitespace();
            let value = words.rfind(|word| word.starts_with("percpu_alloc="));
            self.parameter = value.map(|word| word["percpu_alloc=".len()..].to_string()).or(self.parameter.take());
        }
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
            units.push(dump::parse_unit(word)?);
        }
    }
    (!cells.is_empty()).then_some(cells)
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

#[cfg(test)]
mod tests;
