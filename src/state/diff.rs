//! What differs between two states, readably.
//!
//! # Design
//!
//! Chunks are matched by base address, lists are compared as sequences of base addresses, so
//! the order in which two states store their chunks does not matter. A map that differs is
//! reported as its first differing bit and their number. The list of differences is bounded.

use std::fmt;

use super::{ChunkState, State, MD_FIELDS};

/// One field that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where, for example `chunk 0xffffe8ffffc00000: md_blocks[3].scan_hint`.
    pub path: String,
    /// The value in the left state; `-` where it has none.
    pub left: String,
    /// The value in the right state.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} != {}", self.path, self.left, self.right)
    }
}

/// How to compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiffOptions {
    /// Most differences to report.
    pub limit: usize,
    /// Skip what only one side records: statistics, group tables, CPU maps.
    pub ignore_missing: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self { limit: 50, ignore_missing: true }
    }
}

impl State {
    /// What differs from `other`, with the default options; empty if nothing does.
    pub fn diff(&self, other: &State) -> Vec<Difference> {
        self.diff_with(other, DiffOptions::default())
    }

    /// What differs from `other`. Keys that the model has no use for are not compared.
    pub fn diff_with(&self, other: &State, options: DiffOptions) -> Vec<Difference> {
        let mut diff = Diff { found: Vec::new(), options };
        globals(&mut diff, self, other);
        lists(&mut diff, self, other);
        chunks(&mut diff, self, other);
        diff.found
    }
}

struct Diff {
    found: Vec<Difference>,
    options: DiffOptions,
}

impl Diff {
    fn full(&self) -> bool {
        self.found.len() >= self.options.limit
    }

    fn report(&mut self, path: impl Into<String>, left: impl ToString, right: impl ToString) {
        if !self.full() {
            self.found.push(Difference { path: path.into(), left: left.to_string(), right: right.to_string() });
        }
    }

    fn value<T: PartialEq + ToString>(&mut self, path: &str, left: T, right: T) {
        if left != right {
            self.report(path, left, right);
        }
    }

    fn optional<T: PartialEq + ToString>(&mut self, path: &str, left: Option<T>, right: Option<T>) {
        match (left, right) {
            (Some(left), Some(right)) => self.value(path, left, right),
            (None, None) => {}
            _ if self.options.ignore_missing => {}
            (Some(left), None) => self.report(path, left, "-"),
            (None, Some(right)) => self.report(path, "-", right),
        }
    }

    /// A list; an empty one counts as not recorded.
    fn list<T: PartialEq + fmt::Debug>(&mut self, path: &str, left: &[T], right: &[T]) {
        if left == right || self.options.ignore_missing && (left.is_empty() || right.is_empty()) {
            return;
        }
        let at = left.iter().zip(right).position(|(a, b)| a != b).unwrap_or(left.len().min(right.len()));
        let show = |list: &[T]| list.get(at).map_or("-".to_string(), |value| format!("{value:?}"));
        self.report(format!("{path}[{at}]"), show(left), show(right));
    }
}

fn globals(diff: &mut Diff, left: &State, right: &State) {
    macro_rules! compare {
        ($how:ident: $($name:literal $field:ident),+ $(,)?) => {
            $(diff.$how($name, left.$field, right.$field);)+
        };
    }
    compare!(value:
        "unit_pages" unit_pages, "unit_size" unit_size, "min_alloc_size" min_alloc_size,
        "block_size" block_size, "nr_units" nr_units, "nr_slots" nr_slots, "free_slot" free_slot,
        "base_addr" base_addr, "per_cpu_start" per_cpu_start, "static_size" static_size,
        "nr_empty_pop_pages" nr_empty_pop_pages, "nr_populated" nr_populated,
        "atomic_failed" atomic_failed, "async_enabled" async_enabled,
        "balance_pending" balance_pending,
    );
    compare!(optional:
        "atom_size" atom_size, "sidelined_slot" sidelined_slot,
        "to_depopulate_slot" to_depopulate_slot, "low_unit_cpu" low_unit_cpu,
        "high_unit_cpu" high_unit_cpu, "nr_cpu_ids" nr_cpu_ids,
    );
    diff.list("group_offsets", &left.group_offsets, &right.group_offsets);
    diff.list("group_sizes", &left.group_sizes, &right.group_sizes);
    diff.list("unit_map", &left.unit_map, &right.unit_map);
    diff.list("unit_offsets", &left.unit_offsets, &right.unit_offsets);
    match (&left.stats, &right.stats) {
        (Some(left), Some(right)) => {
            macro_rules! counters {
                ($($name:literal $field:ident),+ $(,)?) => {
                    $(diff.value($name, left.$field, right.$field);)+
                };
            }
            counters!(
                "stats.nr_alloc" nr_alloc, "stats.nr_dealloc" nr_dealloc,
                "stats.nr_cur_alloc" nr_cur_alloc, "stats.nr_max_alloc" nr_max_alloc,
                "stats.nr_chunks" nr_chunks, "stats.nr_max_chunks" nr_max_chunks,
                "stats.min_alloc_size" min_alloc_size, "stats.max_alloc_size" max_alloc_size,
            );
        }
        (None, None) => {}
        _ if diff.options.ignore_missing => {}
        (left, _) => {
            let show = |there: bool| if there { "recorded" } else { "-" };
            diff.report("stats", show(left.is_some()), show(left.is_none()));
        }
    }
    let base = |state: &State, index: Option<usize>| match index.and_then(|index| state.chunks.get(index)) {
        Some(chunk) => format!("{:#x}", chunk.base_addr),
        None => "-".into(),
    };
    diff.value("first_chunk", base(left, left.first_chunk), base(right, right.first_chunk));
    diff.value("reserved_chunk", base(left, left.reserved_chunk), base(right, right.reserved_chunk));
}

fn lists(diff: &mut Diff, left: &State, right: &State) {
    let show = |state: &State, slot: usize| {
        let list = state.slots.get(slot).map_or(&[][..], Vec::as_slice);
        let bases = list.iter().map(|&index| state.chunks.get(index).map_or(0, |chunk| chunk.base_addr));
        bases.map(|base| format!("{base:#x}")).collect::<Vec<String>>()
    };
    for slot in 0..left.slots.len().max(right.slots.len()) {
        let (left, right) = (show(left, slot), show(right, slot));
        if left != right {
            diff.report(format!("slots[{slot}]"), shorten(&left), shorten(&right));
        }
    }
}

/// A list of addresses, its middle left out where it is long.
fn shorten(list: &[String]) -> String {
    match list.len() {
        0..=8 => format!("[{}]", list.join(" ")),
        n => format!("[{} ... {n} chunks]", list[..8].join(" ")),
    }
}

fn chunks(diff: &mut Diff, left: &State, right: &State) {
    let key = |state: &State, index: usize| (state.chunks[index].base_addr, state.reserved_chunk == Some(index));
    let sorted = |state: &State| {
        let mut keys: Vec<_> = (0..state.chunks.len()).map(|index| (key(state, index), index)).collect();
        keys.sort_unstable();
        keys
    };
    let (ours, theirs) = (sorted(left), sorted(right));
    let (mut i, mut j) = (0, 0);
    while (i < ours.len() || j < theirs.len()) && !diff.full() {
        let order = match (ours.get(i), theirs.get(j)) {
            (Some(a), Some(b)) => a.0.cmp(&b.0),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        match order {
            std::cmp::Ordering::Less => {
                diff.report(format!("chunk {:#x}", ours[i].0 .0), "there", "-");
                i += 1;
            }
            std::cmp::Ordering::Greater => {
                diff.report(format!("chunk {:#x}", theirs[j].0 .0), "-", "there");
                j += 1;
            }
            std::cmp::Ordering::Equal => {
                chunk(diff, &left.chunks[ours[i].1], &right.chunks[theirs[j].1], ours[i].0 .1);
                i += 1;
                j += 1;
            }
        }
    }
}

fn chunk(diff: &mut Diff, left: &ChunkState, right: &ChunkState, reserved: bool) {
    let name = format!("{} {:#x}", if reserved { "reserved chunk" } else { "chunk" }, left.base_addr);
    macro_rules! compare {
        ($how:ident: $($field:ident),+ $(,)?) => {
            $(diff.$how(&format!("{name}: {}", stringify!($field)), left.$field, right.$field);)+
        };
    }
    compare!(value: free_bytes, start_offset, end_offset, nr_pages, nr_populated,
        nr_empty_pop_pages, immutable, isolated);
    compare!(optional: nr_alloc, max_alloc_size);
    bits(diff, &format!("{name}: alloc_map"), &left.alloc_map, &right.alloc_map);
    bits(diff, &format!("{name}: bound_map"), &left.bound_map, &right.bound_map);
    bits(diff, &format!("{name}: populated"), &left.populated, &right.populated);
    let rows = [(None, left.chunk_md, right.chunk_md)];
    let blocks = left.md_blocks.iter().zip(&right.md_blocks).enumerate();
    for (row, a, b) in rows.into_iter().chain(blocks.map(|(row, (&a, &b))| (Some(row), a, b))) {
        for (column, field) in MD_FIELDS.iter().enumerate() {
            if a[column] != b[column] {
                let place = row.map_or("chunk_md".to_string(), |row| format!("md_blocks[{row}]"));
                diff.report(format!("{name}: {place}.{field}"), a[column], b[column]);
            }
        }
    }
    diff.value(&format!("{name}: md_blocks rows"), left.md_blocks.len(), right.md_blocks.len());
}

fn bits(diff: &mut Diff, path: &str, left: &[u64], right: &[u64]) {
    if left.len() != right.len() {
        diff.report(path, format!("{} words", left.len()), format!("{} words", right.len()));
        return;
    }
    let total: u32 = left.iter().zip(right).map(|(a, b)| (a ^ b).count_ones()).sum();
    if let Some(word) = left.iter().zip(right).position(|(a, b)| a != b) {
        let bit = (left[word] ^ right[word]).trailing_zeros();
        let show = |words: &[u64]| if words[word] >> bit & 1 == 1 { "set" } else { "clear" };
        let first = word * 64 + bit as usize;
        diff.report(format!("{path} bit {first}, first of {total}"), show(left), show(right));
    }
}
