//! Recover: from a boot log back to what the first chunk was made from, and forward again.
//!
//! # Design
//!
//! A log shows some inputs, others follow from what is shown, the rest is known from elsewhere or tried:
//!
//! ```text
//! shown     static and reserved size, unit, atom, CPUs of each group, node ids, messages
//! follows   page size: pages x page = static + reserved + dynamic; period: form of the summary line
//! told      architecture, release, page size, topology: what the caller knows
//! tried     build options, kinds of machine, smallest unit, nodes of equal size: until every line comes out
//! ```
//!
//! Where architecture and release are known, the dynamic and the reserved size, the atom and the constants are
//! computed from them first; only if no kind of machine or build gives the log, the printed ones are fed back.
//! Every line of the allocator must come out to the byte, save trailing blanks, which mail programs strip.
//!
//! # Units
//!
//! Bytes.
//!
//! # Invariants
//!
//! V1 a recovery without differences names for each input where it comes from; V2 what is not a matter of the layout
//! (addresses, run-time messages) is never compared.
//!
//! # Cost
//!
//! A layout for each candidate, at most some hundreds; usually the first one.
//!
//! # Source
//!
//! Specification 50 section 9, 30 section 2.1, 31 section 8, 40 sections 2, 3 and 7.

use crate::boot_log::{BootLog, Message, SetupLine};
use crate::error::{ConfigError, LayoutError};
use crate::layout::first_chunk::FirstChunk;
use crate::layout::request::{FirstChunkRequest, LINEAR_START};
use crate::layout::topology::Topology;

mod shown;

use shown::Shown;

/// What the caller knows besides the log.
#[derive(Clone, Debug, Default)]
pub struct Clues {
    /// Architecture, as in [`Machine`](super::Machine).
    pub arch: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Page, bytes.
    pub page_size: Option<u64>,
    /// CPUs and nodes.
    pub topology: Option<Topology>,
    /// The boot parameter `percpu_alloc=`.
    pub parameter: Option<String>,
}

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Printed in the log.
    Shown,
    /// Follows from what is printed.
    Follows,
    /// The caller said so.
    Told,
    /// Neither; it gives the printed lines.
    Assumed,
}

impl Source {
    /// `shown`, `follows`, `told` or `assumed`.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Shown => "shown",
            Source::Follows => "follows",
            Source::Told => "told",
            Source::Assumed => "assumed",
        }
    }
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name in a [`FirstChunkRequest`].
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

/// A line that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Number of the line among those of the allocator, from 1.
    pub line: usize,
    /// What the log has; `None` = no more lines.
    pub shown: Option<String>,
    /// What was computed; `None` = no more lines.
    pub computed: Option<String>,
}

/// What was recovered.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The request that gives the log, or comes nearest to it.
    pub request: FirstChunkRequest,
    /// The first chunk that it leads to; after a fall-back that of the page allocator.
    pub chunk: FirstChunk,
    /// Whether CPUs and nodes are known; if not, the chunk is that of one CPU with the printed unit.
    pub topology_known: bool,
    /// Constants and sizes are those of the release, none was fed back.
    pub from_release: bool,
    /// The inputs and where they come from.
    pub inputs: Vec<Input>,
    /// The computed lines.
    pub lines: Vec<String>,
    /// Lines that differ.
    pub differences: Vec<Difference>,
}

/// Why nothing was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrecovered {
    /// The log does not show enough; the text says what is missing.
    TooLittle(String),
    /// Nothing that was tried can be a first chunk; the first error.
    Impossible(LayoutError),
}

/// Lines of the log that a layout must reproduce: not the architecture's CPU counts, which are input, nor what was
/// printed for other reasons than the layout.
fn compared(log: &BootLog) -> Vec<String> {
    let wanted = |line: &&String| {
        let body = ["percpu: ", "PERCPU: ", "setup_percpu: "].iter().find_map(|prefix| line.strip_prefix(prefix));
        let message = body.and_then(Message::parse);
        let elsewhere = matches!(
            message,
            Some(
                Message::NoNode { .. }
                    | Message::AllocationFailed(_)
                    | Message::IllegalSize { .. }
                    | Message::LimitReached
            )
        );
        SetupLine::parse(line).is_none() && !elsewhere
    };
    log.lines.iter().filter(wanted).map(|line| line.trim_end().to_string()).collect()
}

fn differences(shown: &[String], computed: &[String]) -> Vec<Difference> {
    let pairs = (0..shown.len().max(computed.len())).map(|at| (at, shown.get(at), computed.get(at)));
    let differing = pairs.filter(|(_, shown, computed)| shown.map(|s| s.as_str()) != computed.map(|c| c.trim_end()));
    differing
        .map(|(at, shown, computed)| Difference { line: at + 1, shown: shown.cloned(), computed: computed.cloned() })
        .collect()
}

/// Whether the log says that large pages were not remapped, and shows no CPUs by node.
fn refused_unseen(log: &BootLog) -> bool {
    log.groups().is_none()
        && log.lpage.is_none()
        && log.messages.iter().any(|message| matches!(message, Message::ChunkTooLarge { .. }))
}

/// Recovers what a log shows.
pub fn recover(log: &BootLog, clues: &Clues) -> Result<Recovery, Unrecovered> {
    let shown = Shown::of(log, clues).map_err(Unrecovered::TooLittle)?;
    let wanted = compared(log);
    let mut nearest: Option<Recovery> = None;
    let mut error = None;
    for candidate in shown.candidates(log, clues) {
        let computed = candidate.and_then(|candidate| shown.compute(log, candidate));
        match computed {
            Ok(mut recovery) => {
                recovery.differences = differences(&wanted, &recovery.lines);
                if recovery.differences.is_empty() {
                    recovery.inputs = shown.inputs(log, clues, &recovery);
                    return Ok(recovery);
                }
                if nearest.as_ref().is_none_or(|before| recovery.differences.len() < before.differences.len()) {
                    nearest = Some(recovery);
                }
            }
            Err(found) => error = error.or(Some(found)),
        }
    }
    match (nearest, error) {
        // Whether a remap is refused, and for which size, depends on which CPUs share a node.
        (Some(_), _) if clues.topology.is_none() && refused_unseen(log) => {
            Err(Unrecovered::TooLittle("the topology: remapping was refused, and no line shows the nodes".to_string()))
        }
        (Some(mut recovery), _) => {
            recovery.inputs = shown.inputs(log, clues, &recovery);
            Ok(recovery)
        }
        (None, Some(error)) => Err(Unrecovered::Impossible(error)),
        (None, None) => Err(Unrecovered::TooLittle("nothing to try".to_string())),
    }
}

/// Addresses of the groups at which they lie just so far apart.
pub fn addresses_at(request: &FirstChunkRequest, distance: u64) -> Result<Vec<u64>, ConfigError> {
    let info = request.alloc_info()?;
    let mut addresses: Vec<u64> = info.groups.iter().map(|group| LINEAR_START + group.base_offset).collect();
    if let (Some(last), Some(group)) = (addresses.last_mut(), info.groups.last()) {
        let size = u64::from(group.nr_units) * info.unit_size;
        let end = if request.rules.distance_of_unit { info.unit_size } else { size };
        let apart = distance.checked_sub(end).and_then(|start| LINEAR_START.checked_add(start));
        *last = apart.filter(|start| start.checked_add(size).is_some()).ok_or_else(|| {
            let limit = format!("must leave room for a group of {size} bytes in the address space");
            ConfigError::new("max_distance", format!("{distance:#x}"), limit)
        })?;
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests;
