//! A trace through an allocator: predicted, made anew on any engine, or followed without one.
//!
//! # Design
//!
//! ```text
//!                       start state --> predict: every placement predicted and compared
//! Trace, whole or    -> any allocator -> rerun:  the requests and frees, whatever becomes of them
//! block by block        nothing ------> follow:  what the trace says is placed and checked, the past is learnt
//!                       nothing ------> closed_world: a start state made from the trace, for predict
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`predict`](mod@predict) | the driver: checkpoints, divergences, late lines; jumping to an event |
//! | `machine`, `lookahead`, `explain` | the state between two lines, what lies ahead, why a prediction fails |
//! | [`rerun`] | requests and frees on any engine; going on from the middle of another replay |
//! | [`follow`], [`occupancy`] | replay without a state: legality, prior occupancy, live areas |
//! | [`closed_world`] | a start state from what the trace shows |
//! | [`timeline`] | samples with least, mean and largest |
//!
//! # Units
//!
//! Events by index; bytes for places.
//!
//! # Source
//!
//! Specification 50.

pub mod closed_world;
mod explain;
pub mod follow;
mod lookahead;
mod machine;
pub mod occupancy;
pub mod predict;
pub mod rerun;
pub mod timeline;

pub use explain::{ChunkBefore, Divergence, Explanation};
pub use machine::Totals;
pub use predict::{predict, predict_with, Options, Prediction, Replay};

use crate::engine::linux::Linux;
use crate::engine::Engine;
use crate::request::ChunkId;

/// The place that an event records, as the engine names it.
fn recorded_place(engine: &Linux, base: u64, off: u64) -> Option<ChunkId> {
    let id = engine.find_chunk(base.wrapping_add(off))?;
    (engine.chunk_base(id) == base).then_some(id)
}
