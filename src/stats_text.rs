//! The debugfs text `percpu_stats`, written and parsed.
//!
//! # Design
//!
//! [`PercpuStats`] is the content of one text as plain data. [`PercpuStats::to_text`] writes
//! it in the form of its kernel, [`read_percpu_stats`] parses any form, and
//! [`PercpuStats::of_state`] computes it from a [`State`]. What has to be computed, the five
//! figures of fragmentation, is a function over map words ([`fragmentation`]) or over an area
//! map ([`fragmentation_of_areas`]), for engines to call on their own maps.
//!
//! ```text
//!   State, engine --> PercpuStats <--> text
//! ```
//!
//! # Units
//!
//! Bytes, except `first_bit` (bits) and `empty_pop_pages` (pages).
//!
//! # Cost
//!
//! The walk is linear in map words plus areas, and sorts the areas.
//!
//! # Source
//!
//! Specification 40 section 5 (text), 22 sections 3 to 5 and 13 section 8 (figures). Kernel
//! (4.14 on, 40 section 5.1): the last bit of the served region is left out of the walk, so an
//! area that ends there is reported one granule short, or not at all.

use std::fmt::Write;

mod of_engine;

use crate::bitmap;
use crate::error::{StateError, TraceError};
use crate::state::{md, State};

/// Which kernel's rows and widths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StatsForm {
    /// 4.13: area maps, wider name columns.
    AreaMap,
    /// The posting of July 2017.
    RfcV1,
    /// 4.14 to 5.8, and 5.14 on.
    #[default]
    Linux,
    /// 5.9 to 5.13 with memory cgroups: a last row `memcg_aware`.
    LinuxMemcg,
}

impl StatsForm {
    /// The form for programs: `areamap`, `rfc-v1`, `linux` or `linux-memcg`.
    pub const fn name(self) -> &'static str {
        match self {
            StatsForm::AreaMap => "areamap",
            StatsForm::RfcV1 => "rfc-v1",
            StatsForm::Linux => "linux",
            StatsForm::LinuxMemcg => "linux-memcg",
        }
    }

    /// Width of names and numbers in the info and chunk rows.
    const fn row_widths(self) -> (usize, usize) {
        match self {
            StatsForm::AreaMap => (24, 8),
            _ => (20, 12),
        }
    }

    /// Width of names and numbers in the global rows.
    const fn global_widths(self) -> (usize, usize) {
        match self {
            StatsForm::AreaMap => (18, 14),
            _ => (20, 12),
        }
    }

    /// Names of the chunk rows that differ: first free, free bytes, largest free run.
    const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            StatsForm::AreaMap => ("", "free_size", "contig_hint"),
            StatsForm::RfcV1 => ("first_free_block", "free_size", "contig_hint"),
            _ => ("first_bit", "free_bytes", "contig_bytes"),
        }
    }
}

/// The first-chunk layout as the text reports it. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatsSizes {
    /// One CPU's share of a chunk.
    pub unit_size: u64,
    /// Static variables.
    pub static_size: u64,
    /// Reserved for modules.
    pub reserved_size: u64,
    /// Dynamic part of the first chunk.
    pub dyn_size: u64,
    /// Allocation granularity of chunks.
    pub atom_size: u64,
    /// Bytes obtained at a time for units.
    pub alloc_size: u64,
}

/// The counters of the middle section.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatsGlobals {
    /// Areas handed out.
    pub nr_alloc: u64,
    /// Areas taken back.
    pub nr_dealloc: u64,
    /// Live areas.
    pub nr_cur_alloc: u64,
    /// Most live areas at any time.
    pub nr_max_alloc: u64,
    /// Chunks, the reserved one not counted.
    pub nr_chunks: u64,
    /// Most chunks at any time.
    pub nr_max_chunks: u64,
    /// Smallest request, bytes.
    pub min_alloc_size: u64,
    /// Largest request, bytes.
    pub max_alloc_size: u64,
    /// Empty populated pages; not in 4.13.
    pub empty_pop_pages: u64,
}

/// The marker line of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChunkLabel {
    /// The reserved chunk.
    Reserved,
    /// The first chunk, wherever it is listed.
    First,
    /// An ordinary chunk.
    #[default]
    Plain,
    /// On the list of chunks to be depopulated (5.14 on).
    ToDepopulate,
    /// Sidelined (5.14 on).
    Sidelined,
}

impl ChunkLabel {
    const ALL: [ChunkLabel; 5] =
        [ChunkLabel::Reserved, ChunkLabel::First, ChunkLabel::Plain, ChunkLabel::ToDepopulate, ChunkLabel::Sidelined];

    /// The label for programs: `reserved`, `first`, `plain`, `to_depopulate` or `sidelined`.
    pub const fn name(self) -> &'static str {
        match self {
            ChunkLabel::Reserved => "reserved",
            ChunkLabel::First => "first",
            ChunkLabel::Plain => "plain",
            ChunkLabel::ToDepopulate => "to_depopulate",
            ChunkLabel::Sidelined => "sidelined",
        }
    }

    /// The line, as the kernel prints it: one of them has no colon.
    pub const fn text(self) -> &'static str {
        match self {
            ChunkLabel::Reserved => "Chunk: <- Reserved Chunk",
            ChunkLabel::First => "Chunk: <- First Chunk",
            ChunkLabel::Plain => "Chunk:",
            ChunkLabel::ToDepopulate => "Chunk (to_depopulate)",
            ChunkLabel::Sidelined => "Chunk (sidelined):",
        }
    }
}

/// The figures of fragmentation of one chunk. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fragmentation {
    /// All holes before the last area.
    pub sum_frag: i64,
    /// The largest of them.
    pub max_frag: i64,
    /// The smallest area.
    pub cur_min_alloc: i64,
    /// The lower median of the areas.
    pub cur_med_alloc: i64,
    /// The largest area.
    pub cur_max_alloc: i64,
}

/// The rows of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChunkStats {
    /// Marker line.
    pub label: ChunkLabel,
    /// Live areas.
    pub nr_alloc: i64,
    /// Largest request ever, bytes.
    pub max_alloc_size: i64,
    /// Populated pages without an area; not in 4.13.
    pub empty_pop_pages: i64,
    /// First bit that may be free; in rfc-v1 the block of it; not in 4.13.
    pub first_bit: i64,
    /// Free bytes.
    pub free_bytes: i64,
    /// Largest known free run, bytes.
    pub contig_bytes: i64,
    /// Holes and areas.
    pub frag: Fragmentation,
    /// Memory-cgroup accounted; 5.9 to 5.13 only.
    pub memcg_aware: bool,
}

/// The content of one `percpu_stats` text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PercpuStats {
    /// The kernel's form of the text.
    pub form: StatsForm,
    /// The layout.
    pub sizes: StatsSizes,
    /// The counters.
    pub globals: StatsGlobals,
    /// The chunks in the order of the text: the reserved one, then list by list.
    pub chunks: Vec<ChunkStats>,
}

const TITLE: &str = "Percpu Memory Statistics";
const SECTIONS: [&str; 3] = ["Allocation Info:", "Global Stats:", "Per Chunk Stats:"];
const RULE: &str = "----------------------------------------";

impl PercpuStats {
    /// The text, byte for byte as the kernel writes it.
    pub fn to_text(&self) -> String {
        let mut out = format!("{TITLE}\n");
        let info = self.info_rows().map(|(name, value)| (name, i128::from(value)));
        section(&mut out, SECTIONS[0], info, self.form.row_widths());
        let globals = self.global_rows().into_iter().map(|(name, value)| (name, i128::from(value)));
        section(&mut out, SECTIONS[1], globals, self.form.global_widths());
        let _ = writeln!(out, "{}\n{RULE}", SECTIONS[2]);
        for chunk in &self.chunks {
            let _ = writeln!(out, "{}", chunk.label.text());
            let rows = chunk_rows(chunk, self.form).into_iter().map(|(name, value)| (name, i128::from(value)));
            write_rows(&mut out, rows, self.form.row_widths());
        }
        out
    }

    /// The layout under the kernel's names. Bytes.
    pub fn info_rows(&self) -> [(&'static str, u64); 6] {
        let s = &self.sizes;
        [
            ("unit_size", s.unit_size),
            ("static_size", s.static_size),
            ("reserved_size", s.reserved_size),
            ("dyn_size", s.dyn_size),
            ("atom_size", s.atom_size),
            ("alloc_size", s.alloc_size),
        ]
    }

    /// The counters that this form has, under the kernel's names.
    pub fn global_rows(&self) -> Vec<(&'static str, u64)> {
        let g = &self.globals;
        let mut rows = vec![
            ("nr_alloc", g.nr_alloc),
            ("nr_dealloc", g.nr_dealloc),
            ("nr_cur_alloc", g.nr_cur_alloc),
            ("nr_max_alloc", g.nr_max_alloc),
            ("nr_chunks", g.nr_chunks),
            ("nr_max_chunks", g.nr_max_chunks),
            ("min_alloc_size", g.min_alloc_size),
            ("max_alloc_size", g.max_alloc_size),
        ];
        if self.form != StatsForm::AreaMap {
            rows.push(("empty_pop_pages", g.empty_pop_pages));
        }
        rows
    }

    /// The text's content for a state with statistics, in the form of 4.14 and later.
    pub fn of_state(state: &State, sizes: StatsSizes) -> Result<PercpuStats, StateError> {
        let missing = |path: String| StateError::new(path, "is missing: the state has no statistics");
        let stats = state.stats.ok_or_else(|| missing("globals.pcpu_stats".into()))?;
        let empty = u64::try_from(state.nr_empty_pop_pages)
            .map_err(|_| StateError::new("globals.pcpu_nr_empty_pop_pages", "is negative"))?;
        let globals = StatsGlobals {
            nr_alloc: stats.nr_alloc,
            nr_dealloc: stats.nr_dealloc,
            nr_cur_alloc: stats.nr_cur_alloc,
            nr_max_alloc: stats.nr_max_alloc,
            nr_chunks: u64::from(stats.nr_chunks),
            nr_max_chunks: u64::from(stats.nr_max_chunks),
            min_alloc_size: stats.min_alloc_size,
            max_alloc_size: stats.max_alloc_size,
            empty_pop_pages: empty,
        };
        let row = |index: usize, label: ChunkLabel| {
            let chunk = &state.chunks[index];
            let counter = |name: &str, value: Option<u64>| {
                let value = value.and_then(|value| i64::try_from(value).ok());
                value.ok_or_else(|| missing(format!("chunks[{index}].{name}")))
            };
            let granule = state.min_alloc_size;
            let map = MapView {
                alloc: &chunk.alloc_map,
                bound: &chunk.bound_map,
                nr_bits: state.nr_bits(chunk),
                start: (u64::from(chunk.start_offset) / granule) as usize,
                end: (u64::from(chunk.end_offset) / granule) as usize,
                granule,
            };
            Ok(ChunkStats {
                label,
                nr_alloc: counter("nr_alloc", chunk.nr_alloc)?,
                max_alloc_size: counter("max_alloc_size", chunk.max_alloc_size)?,
                empty_pop_pages: i64::from(chunk.nr_empty_pop_pages),
                first_bit: i64::from(chunk.chunk_md[md::FIRST_FREE]),
                free_bytes: i64::from(chunk.free_bytes),
                contig_bytes: i64::from(chunk.chunk_md[md::CONTIG_HINT]) * granule as i64,
                frag: fragmentation(map),
                memcg_aware: false,
            })
        };
        let mut chunks = Vec::with_capacity(state.chunks.len());
        if let Some(index) = state.reserved_chunk {
            chunks.push(row(index, ChunkLabel::Reserved)?);
        }
        for (slot, list) in state.slots.iter().enumerate() {
            let slot = Some(slot as u32);
            for &index in list {
                let label = if Some(index) == state.first_chunk {
                    ChunkLabel::First
                } else if slot == state.to_depopulate_slot {
                    ChunkLabel::ToDepopulate
                } else if slot == state.sidelined_slot {
                    ChunkLabel::Sidelined
                } else {
                    ChunkLabel::Plain
                };
                chunks.push(row(index, label)?);
            }
        }
        Ok(PercpuStats { form: StatsForm::Linux, sizes, globals, chunks })
    }
}

/// The rows of a chunk in the order of the text.
fn chunk_rows(chunk: &ChunkStats, form: StatsForm) -> Vec<(&'static str, i64)> {
    let (first, free, contig) = form.names();
    let mut rows = vec![("nr_alloc", chunk.nr_alloc), ("max_alloc_size", chunk.max_alloc_size)];
    if form != StatsForm::AreaMap {
        rows.extend([("empty_pop_pages", chunk.empty_pop_pages), (first, chunk.first_bit)]);
    }
    rows.extend([
        (free, chunk.free_bytes),
        (contig, chunk.contig_bytes),
        ("sum_frag", chunk.frag.sum_frag),
        ("max_frag", chunk.frag.max_frag),
        ("cur_min_alloc", chunk.frag.cur_min_alloc),
        ("cur_med_alloc", chunk.frag.cur_med_alloc),
        ("cur_max_alloc", chunk.frag.cur_max_alloc),
    ]);
    if form == StatsForm::LinuxMemcg {
        rows.push(("memcg_aware", i64::from(chunk.memcg_aware)));
    }
    rows
}

fn section(out: &mut String, name: &str, rows: impl IntoIterator<Item = (&'static str, i128)>, widths: (usize, usize)) {
    let _ = writeln!(out, "{name}\n{RULE}");
    write_rows(out, rows, widths);
}

/// Rows and the empty line behind them.
fn write_rows(
    out: &mut String,
    rows: impl IntoIterator<Item = (&'static str, i128)>,
    (name_width, width): (usize, usize),
) {
    for (name, value) in rows {
        let _ = writeln!(out, "  {name:name_width$}: {value:width$}");
    }
    out.push('\n');
}

/// Parses a `percpu_stats` text of any kernel. Blanks may have been lost or added at the ends
/// of lines; rows must all be there.
pub fn read_percpu_stats(text: &str) -> Result<PercpuStats, TraceError> {
    let mut parser = Parser::new(text)?;
    parser.expect(TITLE)?;
    parser.heading(SECTIONS[0])?;
    let mut stats = PercpuStats::default();
    for (name, field) in [
        ("unit_size", &mut stats.sizes.unit_size),
        ("static_size", &mut stats.sizes.static_size),
        ("reserved_size", &mut stats.sizes.reserved_size),
        ("dyn_size", &mut stats.sizes.dyn_size),
        ("atom_size", &mut stats.sizes.atom_size),
        ("alloc_size", &mut stats.sizes.alloc_size),
    ] {
        *field = parser.row(name)?;
    }
    parser.heading(SECTIONS[1])?;
    for (name, field) in [
        ("nr_alloc", &mut stats.globals.nr_alloc),
        ("nr_dealloc", &mut stats.globals.nr_dealloc),
        ("nr_cur_alloc", &mut stats.globals.nr_cur_alloc),
        ("nr_max_alloc", &mut stats.globals.nr_max_alloc),
        ("nr_chunks", &mut stats.globals.nr_chunks),
        ("nr_max_chunks", &mut stats.globals.nr_max_chunks),
        ("min_alloc_size", &mut stats.globals.min_alloc_size),
        ("max_alloc_size", &mut stats.globals.max_alloc_size),
    ] {
        *field = parser.row(name)?;
    }
    if parser.peek_name() == Some("empty_pop_pages") {
        stats.globals.empty_pop_pages = parser.row("empty_pop_pages")?;
    } else {
        stats.form = StatsForm::AreaMap;
    }
    parser.heading(SECTIONS[2])?;
    while let Some((number, line)) = parser.next() {
        let label = ChunkLabel::ALL.into_iter().find(|label| label.text() == line);
        let label = label.ok_or_else(|| TraceError::at(number, "expected a chunk", line))?;
        let chunk = parser.chunk(label, &mut stats.form, stats.chunks.is_empty())?;
        stats.chunks.push(chunk);
    }
    Ok(stats)
}

/// The lines of a text without empty ones.
struct Parser<'a> {
    lines: Vec<(u64, &'a str)>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, TraceError> {
        let lines = text.lines().enumerate().map(|(i, line)| (i as u64 + 1, line.trim()));
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
        if lines.is_empty() {
            return Err(TraceError::new("an empty text instead of percpu_stats"));
        }
        Ok(Self { lines, next: 0 })
    }

    fn next(&mut self) -> Option<(u64, &'a str)> {
        let line = self.lines.get(self.next).copied();
        self.next += usize::from(line.is_some());
        line
    }

    fn need(&mut self, what: &str) -> Result<(u64, &'a str), TraceError> {
        self.next().ok_or_else(|| TraceError::new(format!("the text ends where {what:?} is expected")))
    }

    fn expect(&mut self, text: &str) -> Result<(), TraceError> {
        let (number, line) = self.need(text)?;
        if line != text {
            return Err(TraceError::at(number, format!("expected {text:?}"), line));
        }
        Ok(())
    }

    /// A section's name and the rule below it.
    fn heading(&mut self, name: &str) -> Result<(), TraceError> {
        self.expect(name)?;
        self.expect(RULE)
    }

    /// The name of the row that comes next.
    fn peek_name(&self) -> Option<&'a str> {
        let (_, line) = self.lines.get(self.next)?;
        Some(line.split_once(':')?.0.trim_end())
    }

    /// The value of the row `name`, which must come next.
    fn row<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, TraceError> {
        let (number, line) = self.need(name)?;
        let value = line.split_once(':').filter(|(given, _)| given.trim_end() == name);
        let (_, value) = value.ok_or_else(|| TraceError::at(number, format!("expected the row {name:?}"), line))?;
        value.trim().parse().map_err(|_| TraceError::at(number, format!("{name}: not a number"), line))
    }

    /// The rows of a chunk; those of the `first` decide the form of the text.
    fn chunk(&mut self, label: ChunkLabel, form: &mut StatsForm, first: bool) -> Result<ChunkStats, TraceError> {
        let mut chunk = ChunkStats { label, nr_alloc: self.row("nr_alloc")?, ..ChunkStats::default() };
        chunk.max_alloc_size = self.row("max_alloc_size")?;
        if *form != StatsForm::AreaMap {
            chunk.empty_pop_pages = self.row("empty_pop_pages")?;
            if first && self.peek_name() == Some(StatsForm::RfcV1.names().0) {
                *form = StatsForm::RfcV1;
            }
            chunk.first_bit = self.row(form.names().0)?;
        }
        chunk.free_bytes = self.row(form.names().1)?;
        chunk.contig_bytes = self.row(form.names().2)?;
        chunk.frag.sum_frag = self.row("sum_frag")?;
        chunk.frag.max_frag = self.row("max_frag")?;
        chunk.frag.cur_min_alloc = self.row("cur_min_alloc")?;
        chunk.frag.cur_med_alloc = self.row("cur_med_alloc")?;
        chunk.frag.cur_max_alloc = self.row("cur_max_alloc")?;
        if first && *form == StatsForm::Linux && self.peek_name() == Some("memcg_aware") {
            *form = StatsForm::LinuxMemcg;
        }
        if *form == StatsForm::LinuxMemcg {
            chunk.memcg_aware = self.row::<u8>("memcg_aware")? != 0;
        }
        Ok(chunk)
    }
}

/// The maps of a chunk, for the walk over its areas.
#[derive(Clone, Copy, Debug)]
pub struct MapView<'a> {
    /// Bit per granule, 1 = in use.
    pub alloc: &'a [u64],
    /// Bit per granule and one more, 1 = an area starts here or the one before ends here.
    pub bound: &'a [u64],
    /// Bits of the map.
    pub nr_bits: usize,
    /// Bits hidden before the served region; where the walk starts. Kernel (rfc-v1, 13 section
    /// 8): bit number *reserved offset in bytes*.
    pub start: usize,
    /// Bits hidden after the served region; 0 in rfc-v1.
    pub end: usize,
    /// Bytes per bit.
    pub granule: u64,
}

/// The walk of specification 22 section 4 over a bitmap chunk.
///
/// # Panics
///
/// If the maps are shorter than `nr_bits` (`bound` needs no bit for the end).
pub fn fragmentation(map: MapView<'_>) -> Fragmentation {
    let Some(window) = map.nr_bits.checked_sub(map.end + 1) else { return Fragmentation::default() };
    let highest = bitmap::last_set(map.alloc, 0, window as u32).map_or(window, |bit| bit as usize);
    let last = if bitmap::test(map.alloc, highest as u32) { highest + 1 } else { 0 };
    let mut areas = Vec::new();
    let mut pos = map.start;
    while pos < last {
        let used = bitmap::test(map.alloc, pos as u32);
        let end = bitmap::next_set(if used { map.bound } else { map.alloc }, last as u32, pos as u32 + 1) as usize;
        let bytes = ((end - pos) as u64 * map.granule) as i64;
        areas.push(if used { bytes } else { -bytes });
        pos = end;
    }
    figures(areas)
}

/// The figures of a 4.13 chunk (specification 22 section 5). `map` holds the start offsets of
/// the areas in bytes, bit 0 set where one is in use, and the end marker.
pub fn fragmentation_of_areas(map: &[i32], has_reserved: bool) -> Fragmentation {
    let areas = map.len().saturating_sub(1);
    let first = usize::from(has_reserved);
    let Some(last) = (first..areas).rev().find(|&i| map[i] & 1 == 1) else { return Fragmentation::default() };
    let length = |i: usize| {
        let bytes = i64::from(map[i + 1] & !1) - i64::from(map[i] & !1);
        if map[i] & 1 == 1 {
            bytes
        } else {
            -bytes
        }
    };
    figures((first..=last).map(length).collect())
}

/// Sorts and sums areas (positive) and holes (negative).
fn figures(mut areas: Vec<i64>) -> Fragmentation {
    if areas.is_empty() {
        return Fragmentation::default();
    }
    areas.sort_unstable();
    let holes = areas.partition_point(|&bytes| bytes < 0);
    let n = areas.len();
    Fragmentation {
        sum_frag: -areas[..holes].iter().sum::<i64>(),
        max_frag: if holes > 0 { -areas[0] } else { 0 },
        // A list of holes only cannot end before its last area; be safe all the same.
        cur_min_alloc: areas[holes.min(n - 1)],
        cur_med_alloc: areas[(holes + n - 1) / 2],
        cur_max_alloc: areas[n - 1],
    }
}

#[cfg(test)]
mod tests;
