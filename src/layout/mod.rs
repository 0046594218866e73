//! Layout: from a machine's CPUs and sizes to the first chunk.
//!
//! ```text
//! Topology --+
//! sizes -----+--> groups (AllocInfo) --> embed | page | explicit | UP --> first_chunk (tables, regions)
//! rules -----+        30                     31.6   31.7                       31.1 to 31.5
//!                                              ^ memory: where blocks lie
//! later chunks: group offsets and sizes --> vm_areas (addresses)
//!                                                      32
//! ```
//!
//! ```text
//! boot log --> recover --> request, and where the recomputed lines differ
//! request, first chunk --> explain        points --> machines (a sweep over many)
//! ```
//!
//! [`Machine`] fills a request for an architecture and a release. [`FirstChunkRequest`] is the entry: fill it in, call [`FirstChunkRequest::build`], and get a [`FirstChunk`],
//! which the engines and [`AddressMap`](crate::address::AddressMap) start from.

pub mod arch;
pub mod embed;
pub mod explain;
pub mod first_chunk;
pub mod groups;
pub mod history;
pub mod machines;
pub mod memory;
pub mod page;
pub mod recover;
pub mod request;
pub mod topology;
pub mod vm_areas;

pub use arch::{ArchPreset, Machine, ARCH_PRESETS};
pub use explain::Explanation;
pub use first_chunk::{FirstChunk, Region};
pub use groups::{AllocInfo, Candidate, Group, LayoutInput, Plan};
pub use history::LargePages;
pub use memory::{BootMemory, Contiguous, GivenAddresses, GivenGroups, PagesOnly, Recorded, TopDown};
pub use request::{Backend, FirstChunkRequest, Kind};
pub use topology::{Distance, Topology, MAX_CPUS};
pub use vm_areas::{AreaSet, VmallocSpace};
