//! What was published or is described as a test: fill levels, 4 bytes at 8, the generators of the specification, the
//! mix of the kernel's vmalloc test.
//!
//! # Source
//!
//! Specification 41 sections 2.1, 2.2 and 6; `docs/workloads.md`.

use std::collections::VecDeque;

use super::objects::order;
use super::random::SplitMix64;
use super::{
    alloc, list, no_check, number, request, required, seed, word, Procedure, Step, Stream, MAX_BYTES, MAX_OBJECTS,
};
use crate::error::ConfigError;
use crate::request::{Request, Sleep};

const MAX_PAGE: u64 = 1 << 20;

/// Tests 5 and 6: holes on every page, filled and emptied.
pub(super) const FILL_LEVEL: Procedure = Procedure {
    name: "fill_level",
    version: 1,
    summary: "pages with the first 1/level free, filled again and emptied: tests 5 and 6",
    parameters: &[
        required("n", 0, MAX_OBJECTS / 4, "objects of the second batch; the first has twice as many"),
        number("size", 4, 1, MAX_BYTES, "bytes of each"),
        number("align", 4, 0, MAX_BYTES, "alignment of each, bytes"),
        number("level", 2, 1, MAX_PAGE, "1/level of each page is free before the second batch"),
        word("free", "in-order", &["in-order", "reverse"], "order in which the second batch is freed"),
        number("page_size", 4096, 1, MAX_PAGE, "bytes that count as a page"),
    ],
    phases: &["alloc 1", "alloc 2", "free 1", "free 2"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let n = recipe.number("n") as u32;
        let (size, align) = (recipe.number("size"), recipe.number("align"));
        let a_page = (recipe.number("page_size") / size).max(1) as u32;
        let hole = a_page / recipe.number("level") as u32;
        let first = 2 * n;
        let second = order(recipe.word("free"), n, 0).map(move |id| Step::Free { id: first + id });
        let phase = |phase| std::iter::once(Step::Phase(phase));
        let freed = move |in_hole: bool| {
            (0..first).filter(move |id| (id % a_page < hole) == in_hole).map(|id| Step::Free { id })
        };
        Box::new(
            phase(0)
                .chain((0..first).map(move |id| alloc(id, size, align)))
                .chain(freed(true))
                .chain(phase(1))
                .chain((first..first + n).map(move |id| alloc(id, size, align)))
                .chain(phase(2))
                .chain(second)
                .chain(phase(3))
                .chain(freed(false)),
        )
    },
};

/// The contrived case: no gap ever fits.
pub(super) const FOUR_AT_EIGHT: Procedure = Procedure {
    name: "four_at_eight",
    version: 1,
    summary: "objects of 4 bytes at alignment 8, each of which leaves a gap that fits none",
    parameters: &[required("n", 0, MAX_OBJECTS, "objects")],
    phases: &["alloc", "free"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let n = recipe.number("n") as u32;
        let frees = (0..n).map(|id| Step::Free { id });
        Box::new(
            [Step::Phase(0)].into_iter().chain((0..n).map(|id| alloc(id, 4, 8))).chain([Step::Phase(1)]).chain(frees),
        )
    },
};

/// Numbers of objects, taken again after a free: the last one freed first.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    free: Vec<u32>,
    next: u32,
}

impl Ids {
    pub fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub fn give_back(&mut self, id: u32) {
        self.free.push(id);
    }
}

/// A stream whose steps come in groups.
pub(super) trait Groups: Send {
    /// Adds the next group of steps; false if there is none, and from then on.
    fn next_group(&mut self, out: &mut VecDeque<Step>) -> bool;
}

/// The stream of a [`Groups`].
pub(super) fn by_group(groups: impl Groups + 'static) -> Box<dyn Stream> {
    let (mut groups, mut pending) = (groups, VecDeque::new());
    Box::new(std::iter::from_fn(move || {
        while pending.is_empty() && groups.next_group(&mut pending) {}
        pending.pop_front()
    }))
}

/// Random requests and frees.
pub(super) const RANDOM: Procedure = Procedure {
    name: "random",
    version: 1,
    summary: "random requests and frees, in a given ratio",
    parameters: &[
        required("n", 0, MAX_OBJECTS, "operations before the last frees"),
        list("sizes", &[8, 16, 32, 64, 128, 256], 0, MAX_BYTES, "bytes, one drawn for each request"),
        list("aligns", &[4, 8, 16], 0, MAX_BYTES, "alignments in bytes, one drawn for each request"),
        number("free_percent", 45, 0, 100, "chance of a free, where there is something to free"),
        seed(),
    ],
    phases: &["mix", "free"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        by_group(Random {
            left: recipe.number("n"),
            sizes: recipe.list("sizes").to_vec(),
            aligns: recipe.list("aligns").to_vec(),
            free_percent: recipe.number("free_percent"),
            random: SplitMix64::new(recipe.number("seed")),
            live: Vec::new(),
            ids: Ids::default(),
            phase: None,
        })
    },
};

struct Random {
    left: u64,
    sizes: Vec<u64>,
    aligns: Vec<u64>,
    free_percent: u64,
    random: SplitMix64,
    live: Vec<u32>,
    ids: Ids,
    phase: Option<u32>,
}

impl Groups for Random {
    fn next_group(&mut self, out: &mut VecDeque<Step>) -> bool {
        if self.phase.is_none() {
            self.phase = Some(0);
            out.push_back(Step::Phase(0));
        }
        if self.left > 0 {
            self.left -= 1;
            if !self.live.is_empty() && self.random.below(100) < self.free_percent {
                let index = self.random.below(self.live.len() as u64) as usize;
                let id = self.live.swap_remove(index);
                self.ids.give_back(id);
                out.push_back(Step::Free { id });
            } else {
                let size = self.random.one_of(&self.sizes);
                let align = self.random.one_of(&self.aligns);
                let id = self.ids.take();
                self.live.push(id);
                out.push_back(alloc(id, size, align));
            }
            return true;
        }
        if self.phase == Some(0) {
            self.phase = Some(1);
            out.push_back(Step::Phase(1));
            out.extend(std::mem::take(&mut self.live).into_iter().map(|id| Step::Free { id }));
            return true;
        }
        false
    }
}

/// First in, first out.
pub(super) const QUEUE: Procedure = Procedure {
    name: "queue",
    version: 1,
    summary: "a window of live objects, the oldest freed first",
    parameters: &[
        required("n", 0, MAX_OBJECTS, "objects"),
        number("depth", 1000, 1, MAX_OBJECTS, "most live objects"),
        number("size", 16, 0, MAX_BYTES, "bytes of each"),
        number("align", 8, 0, MAX_BYTES, "alignment of each, bytes"),
    ],
    phases: &["queue", "free"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let (n, depth) = (recipe.number("n"), recipe.number("depth"));
        let (size, align) = (recipe.number("size"), recipe.number("align"));
        // More than `depth` are live when object `depth` was allocated: the oldest goes before the next one.
        let window = depth + 1;
        let steps = (0..n).flat_map(move |i| {
            let id = (i % window) as u32;
            let oldest = (i >= window).then_some(Step::Free { id });
            oldest.into_iter().chain([alloc(id, size, align)])
        });
        let rest = (n.saturating_sub(window)..n).map(move |i| Step::Free { id: (i % window) as u32 });
        Box::new([Step::Phase(0)].into_iter().chain(steps).chain([Step::Phase(1)]).chain(rest))
    },
};

/// A list of requests, all freed in order afterwards.
fn then_freed(n: u32, request: impl Fn(u32) -> Request + Send + 'static) -> Box<dyn Stream> {
    let allocs = (0..n).map(move |id| Step::Alloc { id, request: request(id) });
    let frees = (0..n).map(|id| Step::Free { id });
    Box::new([Step::Phase(0)].into_iter().chain(allocs).chain([Step::Phase(1)]).chain(frees))
}

/// Sizes 4 to 32768.
pub(super) const SIZE_LADDER: Procedure = Procedure {
    name: "size_ladder",
    version: 1,
    summary: "sizes 4, 8, ..., 32768 bytes, as many of each",
    parameters: &[
        number("repeat", 100, 0, MAX_OBJECTS / 16, "objects of each size"),
        number("page_size", 4096, 1, MAX_PAGE, "largest alignment, bytes"),
    ],
    phases: &["alloc", "free"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let (repeat, page) = (recipe.number("repeat") as u32, recipe.number("page_size"));
        then_freed(14 * repeat, move |id| {
            let size = 4 << (id / repeat);
            request(size, size.min(page))
        })
    },
};

/// Alignments in turn.
pub(super) const ALIGN_STORM: Procedure = Procedure {
    name: "align_storm",
    version: 1,
    summary: "one size at alignments 4, 8, ..., a page, in turn",
    parameters: &[
        required("n", 0, MAX_OBJECTS, "objects"),
        number("size", 8, 0, MAX_BYTES, "bytes of each"),
        number("page_size", 4096, 4, MAX_PAGE, "largest alignment, bytes"),
    ],
    phases: &["alloc", "free"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let (size, steps) = (recipe.number("size"), recipe.number("page_size").ilog2() - 1);
        then_freed(recipe.number("n") as u32, move |id| request(size, 4 << (id % steps)))
    },
};

/// Modules.
pub(super) const MODULE_LOAD: Procedure = Procedure {
    name: "module_load",
    version: 1,
    summary: "static data of modules from the reserved region, unloaded in reverse order",
    parameters: &[required("n", 0, MAX_OBJECTS, "modules"), seed()],
    phases: &["load", "unload"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let n = recipe.number("n") as u32;
        let mut random = SplitMix64::new(recipe.number("seed"));
        let loads = (0..n).map(move |id| {
            let size = 4 * (1 + random.below(256));
            let align = 4 << random.below(5);
            Step::Alloc { id, request: Request { reserved: true, ..request(size, align) } }
        });
        let unloads = (0..n).rev().map(|id| Step::Free { id });
        Box::new([Step::Phase(0)].into_iter().chain(loads).chain([Step::Phase(1)]).chain(unloads))
    },
};

/// Atomic requests.
pub(super) const ATOMIC_BURST: Procedure = Procedure {
    name: "atomic_burst",
    version: 1,
    summary: "bursts of atomic requests, the balance worker once after each",
    parameters: &[
        number("bursts", 100, 0, 1 << 20, "bursts"),
        number("n", 100, 0, 1 << 20, "requests of each"),
        number("size", 64, 0, MAX_BYTES, "bytes of each"),
        number("align", 8, 0, MAX_BYTES, "alignment of each, bytes"),
    ],
    phases: &["bursts", "free"],
    needs_places: false,
    check: |recipe| at_most("bursts", recipe.number("bursts"), recipe.number("n")),
    start: |recipe| {
        let (bursts, n) = (recipe.number("bursts") as u32, recipe.number("n") as u32);
        let request = Request { sleep: Sleep::Never, ..request(recipe.number("size"), recipe.number("align")) };
        let steps = (0..bursts).flat_map(move |burst| {
            let allocs = (0..n).map(move |i| Step::Alloc { id: burst * n + i, request });
            allocs.chain([Step::Balance])
        });
        let frees = (0..bursts * n).map(|id| Step::Free { id });
        Box::new([Step::Phase(0)].into_iter().chain(steps).chain([Step::Phase(1)]).chain(frees))
    },
};

/// Checks that so many times so many objects are not too many.
pub(super) fn at_most(parameter: &'static str, times: u64, objects: u64) -> Result<(), ConfigError> {
    if times.saturating_mul(objects) <= MAX_OBJECTS {
        return Ok(());
    }
    let limit = format!("times {objects} objects must be at most {MAX_OBJECTS}");
    Err(ConfigError::new(parameter, times, limit))
}

/// The kernel's own stress test.
pub(super) const VMALLOC_TEST: Procedure = Procedure {
    name: "vmalloc_test",
    version: 1,
    summary: "sizes 1 to page/4 at alignments 2 to 2048, as the kernel's vmalloc test mixes them",
    parameters: &[
        number("n", 35_000, 0, MAX_OBJECTS, "objects of a round"),
        number("rounds", 1, 0, 1 << 20, "rounds; all of one are freed before the next"),
        number("page_size", 4096, 4, MAX_PAGE, "four times the largest size, bytes"),
        seed(),
    ],
    phases: &["alloc", "free"],
    needs_places: false,
    check: no_check,
    start: |recipe| {
        let (n, page) = (recipe.number("n") as u32, recipe.number("page_size"));
        let mut random = SplitMix64::new(recipe.number("seed"));
        let mut at = (0, 0);
        let rounds = recipe.number("rounds");
        let all = u64::from(n) * 2 + 2;
        Box::new(std::iter::from_fn(move || {
            let (round, place): (u64, u64) = at;
            if round == rounds {
                return None;
            }
            at = if place + 1 == all { (round + 1, 0) } else { (round, place + 1) };
            Some(match place {
                0 => Step::Phase(0),
                i if i <= u64::from(n) => {
                    let size = 1 + random.below(page / 4);
                    let align = 2 << random.below(11);
                    alloc(i as u32 - 1, size, align)
                }
                i if i == u64::from(n) + 1 => Step::Phase(1),
                i => Step::Free { id: i as u32 - n - 2 },
            })
        }))
    },
};
