//! Page: the first chunk mapped page by page at the bottom of the vmalloc space.
//!
//! # Design
//!
//! No distance, no atom, no wanted dynamic size: one group, a unit of just the pages needed, and the early
//! minimum as dynamic part. It needs no large blocks of memory, which is why it is the fall-back.
//!
//! ```text
//! vmalloc start, page aligned = base_addr
//! | unit of cpu 0 | unit of cpu 1 | ...      each page mapped on its own; all unit_pages are really taken
//! ```
//!
//! # Units
//!
//! Bytes.
//!
//! # Cost
//!
//! Linear in CPUs.
//!
//! # Source
//!
//! Specification 31 sections 7 and 7.1.

use crate::boot_log::{message, LogLine, Summary, SummaryKind, INFO, WARNING};
use crate::error::{ConfigError, LayoutError};
use crate::layout::first_chunk::{set_up, FirstChunk};
use crate::layout::memory::BootMemory;
use crate::layout::request::{failed, FirstChunkRequest, ENOMEM};

/// `pcpu_page_first_chunk`.
pub(crate) fn page(
    request: &FirstChunkRequest,
    memory: &mut dyn BootMemory,
    log: &mut Vec<LogLine>,
) -> Result<FirstChunk, LayoutError> {
    let page_size = request.page_size;
    let info = request.page_alloc_info()?;
    let prefix = request.form.prefix();
    for &cpu in request.topology.possible() {
        let node = request.topology.node(cpu);
        if !memory.alloc_pages(cpu, node, info.unit_size / page_size, page_size) {
            let text = message::failed_to_allocate_page(page_size, cpu);
            log.push(LogLine::new(WARNING, format!("{prefix}{text}")));
            return Err(failed("no memory for the pages of the first chunk", ENOMEM));
        }
    }
    let size = u64::from(info.nr_units()) * info.unit_size;
    let address = request.vmalloc_start.checked_next_multiple_of(page_size);
    let fits = |address: &u64| address.checked_add(size).is_some_and(|end| end <= request.word.max());
    let Some(address) = address.filter(fits) else {
        let limit = format!("must leave {size} bytes below the end of the address space");
        return Err(ConfigError::new("vmalloc_start", format!("{:#x}", request.vmalloc_start), limit).into());
    };
    let summary = Summary {
        kind: SummaryKind::Page,
        pages: info.unit_size / page_size,
        page_kib: Some(page_size >> 10),
        pointer: Some(request.pointer_text(address)),
        static_size: info.static_size,
        reserved_size: Some(info.reserved_size),
        dyn_size: Some(info.dyn_size),
        unit_size: None,
    };
    log.push(LogLine::new(INFO, summary.text(request.form)));
    let mut chunk = set_up(request, info, address, false, log)?;
    chunk.vm_area = Some((address, size));
    Ok(chunk)
}
