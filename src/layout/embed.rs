//! Embed: one block of memory per group, used in place.
//!
//! # Design
//!
//! ```text
//! group 1 block      hole between nodes        group 0 block
//! |u|u|u|-|          ..................        |u|u|u|u|
//! ^ base = lowest block                        ^ base_offset of group 0
//! |<------------------ max_distance ------------------->|
//! ```
//!
//! Later chunks need the same spacing in vmalloc space, so groups that are too far apart are refused. Holes and
//! the tails of units behind the served bytes are given back.
//!
//! # Units
//!
//! Bytes.
//!
//! # Cost
//!
//! Linear in units.
//!
//! # Source
//!
//! Specification 31 sections 6 and 6.1. The two orders of 2.6.32 to 4.8 and of 4.9 on differ in what a failure leaves.

use crate::boot_log::{message, LogLine, Summary, SummaryKind, INFO, WARNING};
use crate::error::LayoutError;
use crate::layout::first_chunk::{check_groups, set_up, FirstChunk};
use crate::layout::groups::AllocInfo;
use crate::layout::memory::BootMemory;
use crate::layout::request::{failed, FirstChunkRequest, EINVAL, ENOMEM};

/// `pcpu_embed_first_chunk`.
pub(crate) fn embed(
    request: &FirstChunkRequest,
    memory: &mut dyn BootMemory,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let mut info = request.alloc_info()?;
    let mut blocks: Vec<(u64, u64)> = Vec::with_capacity(info.groups.len());
    let mut highest = 0;
    for (index, group) in info.groups.iter().enumerate() {
        let size = u64::from(group.nr_units) * info.unit_size;
        let cpu = group.cpu_map.iter().flatten().next().copied().unwrap_or(0);
        let Some(address) = memory.alloc(cpu, request.topology.node(cpu), size, info.atom_size) else {
            give_back(&blocks, memory);
            return Err(failed("no memory for the groups of the first chunk", ENOMEM));
        };
        blocks.push((address, size));
        if address > blocks[highest].0 {
            highest = index;
        }
    }
    check_groups(&blocks, request.word)?;
    let base = blocks.iter().map(|&(address, _)| address).min().unwrap_or(0);
    // Kernel: before 4.9 of the highest group only its first unit counted.
    let end_of_highest = if request.rules.distance_of_unit { info.unit_size } else { blocks[highest].1 };
    let max_distance = blocks[highest].0 - base + end_of_highest;
    let size_sum = info.size_sum();
    if request.rules.distance_of_unit {
        give_back_unused(&info, &blocks, memory);
    }
    // Kernel: in the machine word, so a space of more than a third of it wraps.
    if max_distance > request.word.wrap(request.vmalloc_total.wrapping_mul(3)) / 4 {
        let text = message::max_distance(max_distance, request.vmalloc_total);
        log.push(LogLine::new(WARNING, format!("{}{text}", request.form.prefix())));
        if request.page_allocator {
            // Kernel: before 4.9 what the units kept was lost.
            if !request.rules.distance_of_unit {
                give_back(&blocks, memory);
            }
            return Err(failed("the groups are too far apart for the vmalloc space", EINVAL));
        }
    }
    if !request.rules.distance_of_unit {
        give_back_unused(&info, &blocks, memory);
    }
    for (group, &(address, _)) in info.groups.iter_mut().zip(&blocks) {
        group.base_offset = address - base;
    }
    let summary = Summary {
        kind: SummaryKind::Embed,
        pages: size_sum / request.page_size,
        page_kib: None,
        pointer: Some(request.pointer_text(base)),
        static_size: info.static_size,
        reserved_size: Some(info.reserved_size),
        dyn_size: Some(info.dyn_size),
        unit_size: Some(info.unit_size),
    };
    log.push(LogLine::new(INFO, summary.text(request.form)));
    set_up(request, info, base, true, log)
}

/// Holes, and the tails of units.
fn give_back_unused(info: &AllocInfo, blocks: &[(u64, u64)], memory: &mut dyn BootMemory) {
    let size_sum = info.size_sum();
    for (group, &(address, _)) in info.groups.iter().zip(blocks) {
        for (unit, at) in group.cpu_map.iter().zip((address..).step_by(info.unit_size as usize)) {
            match unit {
                Some(_) => memory.free(at + size_sum, info.unit_size - size_sum),
                None => memory.free(at, info.unit_size),
            }
        }
    }
}

/// Whole groups, in order.
fn give_back(blocks: &[(u64, u64)], memory: &mut dyn BootMemory) {
    for &(address, size) in blocks {
        memory.free(address, size);
    }
}
