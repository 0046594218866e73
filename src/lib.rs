//! A laboratory for the Linux per-CPU memory allocator.
//!
//! The kernel gives every possible CPU its own copy of per-CPU memory. One *chunk* is a
//! set of such copies (*units*) that are allocated together; the allocator manages one
//! space of offsets for all of them. This crate reproduces the kernel's placements, hints,
//! chunk order and counters exactly, from the first-chunk layout at boot to the balance
//! worker, and replays traces of real kernels.
//!
//! # Modules, in the order of the data flow
//!
//! A module uses only modules above it; `tests/layering.rs` checks that.
//!
//! ```text
//! units        bytes, bits, pages as types
//! error        bad input; broken invariants
//! geometry     page, granule, block, unit; the only unit conversions
//! variant      what differs between the generations; presets by release
//! cost         exact work counters; a type parameter that vanishes when off
//! request      what is asked and answered
//! bitmap       word arrays: find, set, clear
//! block        hints of one stretch of the map
//! chunk        maps, hints and pages of one chunk: search and update
//! slots        chunk lists in exact order
//! boot_log     boot lines and messages, written and parsed
//! layout       topology, groups, first chunk; architectures; addresses of later chunks
//! address      per-CPU pointers and where they lead
//! backend      pages, mappings and address space, and their faults
//! engine       requests, frees and the balance worker over all of that
//! state        complete states: recorded files, snapshots
//! stats_text   the debugfs percpu_stats text
//! allocator    an engine on a machine: pointers, batches, balance policy, snapshots
//! trace        events and their text formats
//! workload     seeded generators of requests and frees; running them
//! replay       a trace through an engine, or followed without one
//! compare      the same steps on any allocator, and what came of them
//! sweep        many such runs over the cores
//! answers      what a log, a state or a trace says to people
//! python       the extension module (feature `python`)
//! ```
//!
//! # Exactness
//!
//! `docs/fidelity.md` says what is exact, against which recordings, and how it was shown.

pub mod address;
pub mod allocator;
pub mod answers;
pub mod backend;
pub mod bitmap;
pub mod block;
pub mod boot_log;
pub mod chunk;
pub mod compare;
pub mod cost;
pub mod engine;
pub mod error;
pub mod geometry;
pub mod layout;
pub mod replay;
pub mod request;
pub mod slots;
pub mod state;
pub mod stats_text;
pub mod sweep;
pub mod trace;
pub mod units;
pub mod variant;
pub mod workload;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(feature = "python")]
mod python;
