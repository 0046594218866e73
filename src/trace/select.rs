//! Parts of a trace: by call site, by time.
//!
//! # Design
//!
//! A part is a trace of its own that shares its dictionaries with the whole. A call site owns the areas
//! that it allocates, so their frees belong to it as well: which free gives back which area is known by
//! chunk and offset.
//!
//! # Cost
//!
//! One pass; one hash look-up for each allocation and free.

use std::collections::HashMap;

use super::event::Kind;
use super::{Trace, NONE};

/// Selects by call site, block by block.
#[derive(Clone, Default)]
pub struct CallSiteFilter {
    /// Areas that live, and whether they are wanted.
    live: HashMap<(u32, i32), bool>,
}

impl CallSiteFilter {
    /// Nothing is live yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The wanted events of the next block of one trace: the allocations whose call site is `wanted`, by index
    /// of [`Trace::call_sites`], and the frees of areas that were got so. Allocations without a call site are
    /// not among them.
    pub fn select(&mut self, block: &Trace, wanted: &[bool]) -> Trace {
        let c = block.columns();
        let mut events = Vec::new();
        for (index, &kind) in c.kind.iter().enumerate() {
            let area = (c.base[index], c.off[index]);
            let ours = match kind {
                Kind::Alloc => {
                    let ours = c.text[index] != NONE && wanted.get(c.text[index] as usize) == Some(&true);
                    self.live.insert(area, ours);
                    ours
                }
                Kind::Free => self.live.remove(&area).unwrap_or(false),
                _ => false,
            };
            if ours {
                events.push(index as u32);
            }
        }
        block.take(&events)
    }
}

impl Trace {
    /// The allocations whose call site is `wanted`, by index of [`Trace::call_sites`], and the frees of
    /// the areas that they got. Allocations without a call site are not among them.
    pub fn of_call_sites(&self, wanted: &[bool]) -> Trace {
        CallSiteFilter::new().select(self, wanted)
    }

    /// The events with `from <= time < to`, by the clock of the trace.
    pub fn within(&self, from: u64, to: u64) -> Trace {
        let times = self.columns().time;
        let events: Vec<u32> =
            (0..self.len() as u32).filter(|&event| (from..to).contains(&times[event as usize])).collect();
        self.take(&events)
    }
}
