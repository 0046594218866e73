//! Steps given one by one.
//!
//! # Source
//!
//! `docs/workloads.md`.

use super::mixture::{ATOMIC, RESERVED};
use super::{optional_list, request, Procedure, Recipe, Step, Stream, MAX_BYTES, MAX_OBJECTS};
use crate::error::ConfigError;
use crate::request::{Request, Sleep};

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
