//! What is known of chunks before the first event: the boot area, and what a statistics text says.
//!
//! # Design
//!
//! A statistics text lists chunks without their addresses. A chunk of the text is a candidate for a base of the trace
//! if nothing in the trace speaks against it; where one candidate is left, or all that are left say the same, it is
//! taken, and is none for the others. What a row then tells:
//!
//! ```text
//! |<- first_bit ->|  areas and holes: sum_frag  |<- free_bytes - sum_frag ->|
//!   all in use                                     free (the last granule is not counted, 40 section 5.1)
//! ```
//!
//! # Source
//!
//! Specification 40 section 5.1, 50 section 7.

use std::collections::{HashMap, HashSet};

use super::Options;
use crate::stats_text::{ChunkLabel, ChunkStats, PercpuStats, StatsForm};
use crate::trace::{flag, Kind, Trace};
use crate::units::Bytes;

/// The first chunk in the boot area. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootArea {
    /// From the start of the unit to the chunk's base.
    pub unit_off: Bytes,
    /// From the base to the part that serves requests.
    pub start_offset: Bytes,
    /// Of that part.
    pub size: Bytes,
}

impl BootArea {
    /// The first chunk of a kernel with these sizes: it begins behind static and reserved part, its base at the page.
    pub fn of_sizes(static_size: Bytes, reserved_size: Bytes, dyn_size: Bytes, page_size: Bytes) -> Self {
        let start = static_size + reserved_size;
        let start_offset = Bytes(start.0 % page_size.0);
        Self { unit_off: start - start_offset, start_offset, size: dyn_size }
    }
}

/// What is known of one chunk at the start. Bytes from the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkFact {
    /// Free, from and to.
    pub free: (u64, u64),
    /// In use up to here, as far as requests are served.
    pub used_to: u64,
}

/// What statistics tell of the chunks of a trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatsFacts {
    by_base: HashMap<u64, ChunkFact>,
}

/// What a trace shows of the start of a chunk that was there before.
#[derive(Clone, Debug, Default)]
struct Evidence {
    boot: Option<u64>,
    /// Areas freed that were not placed.
    nr_prior: i64,
    /// Highest byte where one of them begins.
    last_prior: u64,
    /// Lowest byte of an area placed before anything was freed.
    first_free: Option<u64>,
    /// Behind the highest byte of an area.
    end: u64,
}

impl StatsFacts {
    /// The fact about the chunk at `base`.
    pub fn of(&self, base: u64) -> Option<&ChunkFact> {
        self.by_base.get(&base)
    }

    /// Matches the chunks of a text with the bases of a trace that begins where the text was read.
    pub fn learn(trace: &Trace, stats: &PercpuStats, options: &Options) -> Self {
        if !matches!(stats.form, StatsForm::Linux | StatsForm::LinuxMemcg) || options.granule.0 != 4 {
            return Self::default();
        }
        let mut open: Vec<(u64, Evidence)> = evidence(trace).into_iter().collect();
        open.sort_unstable_by_key(|(base, _)| *base);
        let mut rows: Vec<(&ChunkStats, ChunkFact, u64)> = stats
            .chunks
            .iter()
            .filter_map(|row| Some((row, fact(row, stats, options)?, size(row, stats, options))))
            .collect();
        let mut by_base = HashMap::new();
        loop {
            let found = open.iter().enumerate().find_map(|(at, (_, seen))| {
                let mut fitting = (0..rows.len()).filter(|row| fits(seen, &rows[*row], options));
                let first = fitting.next()?;
                fitting.all(|row| rows[row].1 == rows[first].1).then_some((at, first))
            });
            let Some((at, row)) = found else { return Self { by_base } };
            let (base, _) = open.remove(at);
            by_base.insert(base, rows.remove(row).1);
        }
    }
}

/// Where a chunk of the text ends, from its base.
fn size(row: &ChunkStats, stats: &PercpuStats, options: &Options) -> u64 {
    match (row.label, options.boot) {
        (ChunkLabel::First, Some(boot)) => (boot.start_offset + boot.size).0,
        _ => stats.sizes.unit_size,
    }
}

/// What a row tells; `None` for the reserved chunk, and for the first one if it is not known where it lies.
fn fact(row: &ChunkStats, stats: &PercpuStats, options: &Options) -> Option<ChunkFact> {
    if row.label == ChunkLabel::Reserved || row.label == ChunkLabel::First && options.boot.is_none() {
        return None;
    }
    let end = size(row, stats, options);
    let tail = u64::try_from(row.free_bytes - row.frag.sum_frag).ok().filter(|tail| *tail <= end)?;
    let used_to = u64::try_from(row.first_bit).ok()?.checked_mul(4).filter(|used| *used <= end)?;
    // An area in the last granule alone is not seen by the text.
    let free = if row.nr_alloc == 0 { (end - tail, end) } else { (end - tail, (end - 4).max(end - tail)) };
    Some(ChunkFact { free, used_to })
}

/// Whether nothing speaks against a base being this chunk of the text.
fn fits(seen: &Evidence, (row, fact, end): &(&ChunkStats, ChunkFact, u64), options: &Options) -> bool {
    let boot = row.label == ChunkLabel::First;
    match (seen.boot, options.boot) {
        (Some(unit_off), Some(area)) if boot != (unit_off == area.unit_off.0) => return false,
        (Some(_), None) => return false,
        _ => {}
    }
    let kept = |free: u64| free >= fact.used_to;
    seen.end <= *end
        && seen.nr_prior <= row.nr_alloc
        && (seen.nr_prior == 0 || seen.last_prior < fact.free.0)
        && seen.first_free.is_none_or(kept)
}

/// What the trace shows of each base before anything was lost or the chunk went away.
fn evidence(trace: &Trace) -> HashMap<u64, Evidence> {
    let columns = trace.columns();
    let mut all: Vec<Option<Evidence>> = vec![Some(Evidence::default()); trace.bases().len()];
    let mut touched = vec![false; trace.bases().len()];
    let mut gone = vec![false; trace.bases().len()];
    let mut live: HashSet<(u32, i32)> = HashSet::new();
    for index in 0..trace.len() {
        let (kind, base) = (columns.kind[index], columns.base[index]);
        if kind == Kind::Lost {
            break;
        }
        let Some(slot) = all.get_mut(base as usize) else { continue };
        let Some(seen) = slot.as_mut().filter(|_| !gone[base as usize]) else { continue };
        let off = columns.off[index] as u64;
        match kind {
            Kind::Create if !touched[base as usize] => *slot = None,
            Kind::Destroy => gone[base as usize] = true,
            Kind::Alloc | Kind::Free => {
                touched[base as usize] = true;
                let distance = columns.ptr[index].wrapping_sub(off);
                let real = columns.flags[index] & flag::PTR != 0 && !trace.hashed();
                if real && distance < crate::geometry::MAX_UNIT_SIZE {
                    seen.boot = Some(distance);
                }
                if kind == Kind::Alloc {
                    seen.end = seen.end.max(off + u64::from(columns.size[index]));
                    if seen.nr_prior == 0 {
                        let first = seen.first_free.unwrap_or(off);
                        seen.first_free = Some(first.min(off));
                    }
                    live.insert((base, columns.off[index]));
                } else if !live.remove(&(base, columns.off[index])) {
                    seen.nr_prior += 1;
                    seen.last_prior = seen.last_prior.max(off);
                }
            }
            _ => {}
        }
    }
    let named = trace.bases().iter().zip(all).zip(touched);
    named.filter_map(|((base, seen), touched)| Some((*base, seen.filter(|_| touched)?))).collect()
}
