//! Objects of one size: the published tests 1 to 3.
//!
//! # Source
//!
//! Specification 41 section 2; `docs/workloads.md`.

use super::random::SplitMix64;
use super::{alloc, no_check, number, required, seed, word, Procedure, Recipe, Step, Stream, MAX_BYTES, MAX_OBJECTS};

/// Orders in which objects are freed.
pub(super) const ORDERS: &[&str] = &["in-order", "alternate", "reverse", "random"];

/// `n` objects of one size, then all freed.
pub(super) const OBJECTS: Procedure = Procedure {
    name: "objects",
    version: 1,
    summary: "objects of one size, all freed in one of four orders",
    parameters: &[
        required("n", 0, MAX_OBJECTS, "objects"),
        number("size", 4, 0, MAX_BYTES, "bytes of each"),
        number("align", 4, 0, MAX_BYTES, "alignment of each, bytes"),
        word("free", "in-order", ORDERS, "order of the frees"),
        seed(),
    ],
    phases: &["alloc", "free"],
    needs_places: false,
    check: no_check,
    start,
};

fn start(recipe: &Recipe) -> Box<dyn Stream> {
    let n = recipe.number("n") as u32;
    let (size, align) = (recipe.number("size"), recipe.number("align"));
    let allocs = (0..n).map(move |id| alloc(id, size, align));
    let frees = order(recipe.word("free"), n, recipe.number("seed")).map(|id| Step::Free { id });
    Box::new([Step::Phase(0)].into_iter().chain(allocs).chain([Step::Phase(1)]).chain(frees))
}

/// `0..n` in one of [`ORDERS`].
pub(super) fn order(name: &str, n: u32, seed: u64) -> Box<dyn Iterator<Item = u32> + Send> {
    match name {
        "in-order" => Box::new(0..n),
        "alternate" => Box::new((0..n).step_by(2).chain((1..n).step_by(2))),
        "reverse" => Box::new((0..n).rev()),
        // Shuffled when the first is asked for, so that the allocations do not wait for it.
        "random" => Box::new(std::iter::once(()).flat_map(move |()| SplitMix64::new(seed).shuffled(n))),
        other => unreachable!("{other} is none of {ORDERS:?}"),
    }
}
