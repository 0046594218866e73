//! Steps given one by one, or taken from a trace.
//!
//! # Design
//!
//! [`of_trace`] keeps of a trace what a workload has: requests and frees, linked by objects. A free of what the trace
//! does not show being allocated is dropped; a request that failed is made and given back at once; where a place is
//! allocated that is live, its free was lost, and is put before.
//!
//! # Source
//!
//! Specification 50 sections 2 and 3 for what the lines of a trace mean; `docs/workloads.md`.

use std::collections::HashMap;

use super::mixture::{place_of, ATOMIC, RESERVED};
use super::published::Ids;
use super::{optional_list, request, Procedure, Recipe, Step, Stream, Value, MAX_BYTES, MAX_OBJECTS};
use crate::error::ConfigError;
use crate::request::{Request, Sleep};
use crate::trace::{Event, Trace};
use crate::units::Bytes;

const ALLOC: u64 = 0;
const FREE: u64 = 1;
const PHASE: u64 = 2;
const BALANCE: u64 = 3;

/// Any steps at all.
pub(super) const STEPS: Procedure = Procedure {
    name: "steps",
    version: 1,
    summary: "steps given one by one, in columns",
    parameters: &[
        optional_list("kind", &[], ALLOC, BALANCE, "0 allocation, 1 free, 2 phase, 3 balance worker"),
        optional_list("id", &[], 0, MAX_OBJECTS, "object, below the number of steps; number of the phase"),
        optional_list("size_bytes", &[], 0, MAX_BYTES, "bytes of an allocation"),
        optional_list("align_bytes", &[], 0, MAX_BYTES, "alignment of an allocation in bytes"),
        optional_list("flags", &[], 0, ATOMIC | RESERVED, "of an allocation: 1 atomic, 2 reserved, or both"),
    ],
    phases: &[],
    needs_places: false,
    check,
    start,
};

fn check(recipe: &Recipe) -> Result<(), ConfigError> {
    let (kind, id) = (recipe.list("kind"), recipe.list("id"));
    for name in ["id", "size_bytes", "align_bytes", "flags"] {
        let len = recipe.list(name).len();
        if len != kind.len() {
            let limit = format!("must have as many elements as kind, {}", kind.len());
            return Err(ConfigError::new(name, format!("{len} elements"), limit));
        }
    }
    let mut live = vec![false; kind.len()];
    for (step, (kind, id)) in kind.iter().zip(id).enumerate() {
        let bad = |limit: String| Err(ConfigError::new("id", format!("{id} in step {step}"), limit));
        if *kind > FREE {
            continue;
        }
        let Some(live) = live.get_mut(*id as usize) else {
            return bad(format!("must be below the number of steps, {}", live.len()));
        };
        if *live == (*kind == ALLOC) {
            return bad(format!("is {} there", if *live { "live" } else { "not live" }));
        }
        *live = !*live;
    }
    Ok(())
}

fn start(recipe: &Recipe) -> Box<dyn Stream> {
    let [kind, ids, sizes, aligns, flags] =
        ["kind", "id", "size_bytes", "align_bytes", "flags"].map(|name| recipe.list(name).to_vec());
    let mut at = 0;
    Box::new(std::iter::from_fn(move || {
        let id = *ids.get(at)? as u32;
        let step = match kind[at] {
            ALLOC => {
                let sleep = if flags[at] & ATOMIC != 0 { Sleep::Never } else { Sleep::Full };
                let reserved = flags[at] & RESERVED != 0;
                Step::Alloc { id, request: Request { sleep, reserved, ..request(sizes[at], aligns[at]) } }
            }
            FREE => Step::Free { id },
            PHASE => Step::Phase(id),
            _ => Step::Balance,
        };
        at += 1;
        Some(step)
    }))
}

/// The columns of [`STEPS`].
#[derive(Default)]
struct Columns([Vec<u64>; 5]);

impl Columns {
    fn push(&mut self, row: [u64; 5]) {
        self.0.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }

    fn alloc(&mut self, id: u32, size: Bytes, align: Bytes, atomic: bool, reserved: bool) {
        let flags = u64::from(atomic) * ATOMIC + u64::from(reserved) * RESERVED;
        self.push([ALLOC, u64::from(id), size.0, align.0, flags]);
    }

    fn free(&mut self, id: u32) {
        self.push([FREE, u64::from(id), 0, 0, 0]);
    }
}

/// The requests and frees of a trace as `STEPS`.
pub fn of_trace(trace: &Trace) -> Result<Recipe, ConfigError> {
    let mut columns = Columns::default();
    let (mut live, mut ids) = (HashMap::new(), Ids::default());
    for record in trace.records() {
        match record.event {
            Event::Alloc(alloc) => {
                let place = place_of(alloc.base, alloc.off, alloc.ptr);
                if let Some(id) = place.and_then(|place| live.remove(&place)) {
                    columns.free(id);
                    ids.give_back(id);
                }
                let id = ids.take();
                columns.alloc(id, alloc.size, alloc.align, alloc.atomic, alloc.reserved);
                if let Some(place) = place {
                    live.insert(place, id);
                }
            }
            Event::AllocFail { size, align, reserved, atomic } => {
                let id = ids.take();
                columns.alloc(id, size, align, atomic, reserved);
                columns.free(id);
                ids.give_back(id);
            }
            Event::Free { base, off, ptr } => {
                if let Some(id) = place_of(base, off, ptr).and_then(|place| live.remove(&place)) {
                    columns.free(id);
                    ids.give_back(id);
                }
            }
            _ => {}
        }
    }
    let names = ["kind", "id", "size_bytes", "align_bytes", "flags"];
    Recipe::new("steps", names.into_iter().zip(columns.0.map(Value::List)))
}
