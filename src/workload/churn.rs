//! Things that come and go: cgroups, network namespaces, BPF maps.
//!
//! # Design
//!
//! ```text
//! fill: `live` things made | churn: n times one closed at random, one made | drain: all closed, oldest first | left over
//! ```
//!
//! A thing is a set of objects that are allocated together. Sizes, alignments and the order of frees are those of
//! recordings (6.12, four CPUs). A cgroup may leave some of its objects behind when it is removed, because something
//! else still uses them: charged pages keep its memory controller. These are freed after so many further removals, or
//! in the last phase.
//!
//! # Source
//!
//! Recordings `cg-612-4cpu`, `cg-own-2+2`, `netns-612-3+1`, `netns-own0-4cpu`, `bpf-612-4cpu`; `docs/workloads.md`.

use std::collections::VecDeque;

use super::published::{at_most, by_group, Groups, Ids};
use super::random::SplitMix64;
use super::{
    alloc, list, number, optional_list, request, seed, Parameter, Procedure, Recipe, Step, Stream, MAX_BYTES,
    MAX_OBJECTS,
};
use crate::error::ConfigError;
use crate::request::{Request, Sleep};

/// Most live things.
const MAX_LIVE: u64 = 1 << 20;
const PHASES: &[&str] = &["fill", "churn", "drain", "left over"];

const fn rounds() -> Parameter {
    number("n", 2000, 0, MAX_OBJECTS, "times one is removed and one made")
}

const fn live(default: u64) -> Parameter {
    number("live", default, 1, MAX_LIVE, "how many there are while they churn")
}

const fn leftover_percent(default: u64) -> Parameter {
    number("leftover_percent", default, 0, 100, "chance that a removed one leaves objects behind")
}

const fn leftover_life() -> Parameter {
    number("leftover_life", 0, 0, MAX_OBJECTS, "removals after which these are freed; 0 = in the last phase")
}

/// Objects of a cgroup of 6.12 with cpu, memory, io, pids, cpuset, perf and pressure: references, statistics, pressure,
/// block io, memory statistics (1024 and 496 bytes), its counter, perf.
pub(super) const CGROUPS: Procedure = Procedure {
    name: "cgroups",
    version: 1,
    summary: "control groups made and removed, some of which leave their memory statistics behind",
    parameters: &[
        rounds(),
        live(300),
        leftover_percent(20),
        leftover_life(),
        list(
            "sizes",
            &[8, 144, 128, 8, 8, 8, 8, 8, 1024, 496, 4, 8, 8, 32, 8, 8],
            0,
            MAX_BYTES,
            "bytes of each object",
        ),
        list("aligns", &[8, 8, 64, 8, 8, 8, 8, 8, 64, 8, 4, 8, 8, 8, 8, 8], 0, MAX_BYTES, "alignment of each, bytes"),
        list(
            "order",
            &[4, 5, 7, 11, 14, 15, 3, 0, 12, 6, 10, 9, 8, 13, 2, 1],
            0,
            u32::MAX as u64,
            "objects of the set by number, in the order in which they are freed",
        ),
        optional_list("leftover", &[8, 9, 10], 0, u32::MAX as u64, "objects of the set that can stay behind"),
        seed(),
    ],
    phases: PHASES,
    needs_places: false,
    check: check_sets,
    start: start_sets,
};

/// Objects of a network namespace of 6.12 with IPv4, IPv6, its loopback and a tunnel device.
pub(super) const NETNS: Procedure = Procedure {
    name: "netns",
    version: 1,
    summary: "network namespaces made and removed",
    parameters: &[
        rounds(),
        live(100),
        leftover_percent(0),
        leftover_life(),
        list(
            "sizes",
            &[16, 260, 128, 304, 1056, 80, 80, 240, 80, 80, 304, 56, 4, 4, 16, 304, 4, 40, 32, 304],
            0,
            MAX_BYTES,
            "bytes of each object",
        ),
        list(
            "aligns",
            &[4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 16, 8, 4, 8, 32, 8],
            0,
            MAX_BYTES,
            "alignment of each, bytes",
        ),
        list(
            "order",
            &[0, 19, 18, 17, 16, 15, 14, 13, 12, 8, 9, 10, 11, 7, 6, 5, 4, 3, 2, 1],
            0,
            u32::MAX as u64,
            "objects of the set by number, in the order in which they are freed",
        ),
        optional_list("leftover", &[], 0, u32::MAX as u64, "objects of the set that can stay behind"),
        seed(),
    ],
    phases: PHASES,
    needs_places: false,
    check: check_sets,
    start: start_sets,
};

fn check_sets(recipe: &Recipe) -> Result<(), ConfigError> {
    let (sizes, aligns, order) = (recipe.list("sizes"), recipe.list("aligns"), recipe.list("order"));
    let same = |name, len: usize| {
        let limit = format!("must have as many elements as sizes, {}", sizes.len());
        if len == sizes.len() {
            Ok(())
        } else {
            Err(ConfigError::new(name, format!("{len} elements"), limit))
        }
    };
    same("aligns", aligns.len())?;
    same("order", order.len())?;
    let mut seen = vec![false; sizes.len()];
    for index in order {
        let free = seen.get_mut(*index as usize).filter(|seen| !**seen);
        *free.ok_or_else(|| ConfigError::new("order", index, "must have every number below the length once"))? = true;
    }
    if let Some(index) = recipe.list("leftover").iter().find(|index| **index >= sizes.len() as u64) {
        return Err(ConfigError::new("leftover", index, format!("must be below the number of sizes, {}", sizes.len())));
    }
    let left = if recipe.number("leftover_percent") > 0 { recipe.list("leftover").len() as u64 } else { 0 };
    at_most("live", recipe.number("live"), sizes.len() as u64)?;
    at_most("n", recipe.number("n"), left)
}

fn start_sets(recipe: &Recipe) -> Box<dyn Stream> {
    let requests = recipe.list("sizes").iter().zip(recipe.list("aligns")).map(|(size, align)| request(*size, *align));
    let leftover = recipe.list("leftover");
    let order = recipe.list("order").iter();
    by_group(Churn::new(
        recipe,
        Sets {
            requests: requests.collect(),
            order: order.map(|index| (*index as usize, leftover.contains(index))).collect(),
            leftover_percent: recipe.number("leftover_percent"),
            leftover_life: recipe.number("leftover_life"),
            left: VecDeque::new(),
            removed: 0,
        },
    ))
}

/// What comes and goes.
trait Things: Send + 'static {
    /// One thing.
    type Thing: Send;

    /// Makes one.
    fn make(&mut self, random: &mut SplitMix64, ids: &mut Ids, out: &mut VecDeque<Step>) -> Self::Thing;

    /// Removes one.
    fn remove(&mut self, thing: Self::Thing, random: &mut SplitMix64, ids: &mut Ids, out: &mut VecDeque<Step>);

    /// Frees what was left behind.
    fn finish(&mut self, out: &mut VecDeque<Step>);
}

/// The four phases over any things.
struct Churn<T: Things> {
    things: T,
    live: VecDeque<T::Thing>,
    /// Still to be made in the first phase.
    to_make: u64,
    /// Rounds left.
    rounds: u64,
    phase: Option<u32>,
    random: SplitMix64,
    ids: Ids,
}

impl<T: Things> Churn<T> {
    fn new(recipe: &Recipe, things: T) -> Self {
        Self {
            things,
            live: VecDeque::new(),
            to_make: recipe.number("live"),
            rounds: recipe.number("n"),
            phase: None,
            random: SplitMix64::new(recipe.number("seed")),
            ids: Ids::default(),
        }
    }

    fn enter(&mut self, phase: u32, out: &mut VecDeque<Step>) {
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            out.push_back(Step::Phase(phase));
        }
    }

    fn make(&mut self, out: &mut VecDeque<Step>) {
        let thing = self.things.make(&mut self.random, &mut self.ids, out);
        self.live.push_back(thing);
    }
}

impl<T: Things> Groups for Churn<T> {
    fn next_group(&mut self, out: &mut VecDeque<Step>) -> bool {
        if self.to_make > 0 {
            self.enter(0, out);
            self.to_make -= 1;
            self.make(out);
        } else if self.rounds > 0 {
            self.enter(1, out);
            self.rounds -= 1;
            let place = self.random.below(self.live.len() as u64) as usize;
            let thing = self.live.remove(place).expect("as many as are live");
            self.things.remove(thing, &mut self.random, &mut self.ids, out);
            self.make(out);
        } else if let Some(thing) = self.live.pop_front() {
            self.enter(2, out);
            self.things.remove(thing, &mut self.random, &mut self.ids, out);
        } else if self.phase != Some(3) {
            self.enter(3, out);
            self.things.finish(out);
        } else {
            return false;
        }
        true
    }
}

/// Sets of objects that are always the same.
struct Sets {
    requests: Vec<Request>,
    /// Objects in the order of their frees, and whether one can stay behind.
    order: Vec<(usize, bool)>,
    leftover_percent: u64,
    leftover_life: u64,
    /// Objects left behind, oldest first, and the removal that frees them.
    left: VecDeque<(u64, Vec<u32>)>,
    removed: u64,
}

impl Sets {
    fn free_left(&mut self, until: u64, ids: &mut Ids, out: &mut VecDeque<Step>) {
        while self.left.front().is_some_and(|(due, _)| *due <= until) {
            for id in self.left.pop_front().into_iter().flat_map(|(_, objects)| objects) {
                out.push_back(Step::Free { id });
                ids.give_back(id);
            }
        }
    }
}

impl Things for Sets {
    type Thing = Box<[u32]>;

    fn make(&mut self, _: &mut SplitMix64, ids: &mut Ids, out: &mut VecDeque<Step>) -> Self::Thing {
        let objects: Box<[u32]> = self.requests.iter().map(|_| ids.take()).collect();
        out.extend(objects.iter().zip(&self.requests).map(|(id, request)| Step::Alloc { id: *id, request: *request }));
        objects
    }

    fn remove(&mut self, thing: Self::Thing, random: &mut SplitMix64, ids: &mut Ids, out: &mut VecDeque<Step>) {
        self.removed += 1;
        let stays = random.below(100) < self.leftover_percent;
        let mut left = Vec::new();
        for (index, can_stay) in &self.order {
            let id = thing[*index];
            if stays && *can_stay {
                left.push(id);
            } else {
                out.push_back(Step::Free { id });
                ids.give_back(id);
            }
        }
        if !left.is_empty() {
            let due = if self.leftover_life == 0 { u64::MAX } else { self.removed + self.leftover_life };
            self.left.push_back((due, left));
        }
        let removed = self.removed;
        self.free_left(removed, ids, out);
    }

    fn finish(&mut self, out: &mut VecDeque<Step>) {
        self.free_left(u64::MAX, &mut Ids::default(), out);
    }
}

/// Kinds of maps.
const ARRAY: u64 = 0;
const HASH: u64 = 1;
/// A hash map whose elements are allocated, atomically, when they are inserted.
const HASH_ON_DEMAND: u64 = 2;

/// BPF maps with values for each CPU.
pub(super) const BPF_MAPS: Procedure = Procedure {
    name: "bpf_maps",
    version: 1,
    summary: "BPF maps with values for each CPU, made, updated and closed",
    parameters: &[
        number("n", 200, 0, MAX_OBJECTS, "times one is closed and one made"),
        live(20),
        list(
            "kinds",
            &[ARRAY, HASH, HASH_ON_DEMAND],
            ARRAY,
            HASH_ON_DEMAND,
            "0 array, 1 hash, 2 hash without preallocation",
        ),
        list("elements", &[1, 16, 64, 256, 1024, 4096], 0, 1 << 20, "elements, one number drawn for each map"),
        list(
            "values",
            &[8, 8, 16, 24, 40, 64, 256, 2000],
            1,
            1 << 20,
            "bytes of a value, one number drawn for each map",
        ),
        number("update_percent", 50, 0, 10_000, "of the elements of a new map of kind 2, deleted and inserted again"),
        seed(),
    ],
    phases: &["fill", "churn", "drain", "left over"],
    needs_places: false,
    check: |recipe| {
        let most = recipe.list("elements").iter().max().copied().unwrap_or(0);
        at_most("live", recipe.number("live") + 1, most + 16)?;
        at_most("update_percent", recipe.number("update_percent"), most / 100)
    },
    start: |recipe| {
        by_group(Churn::new(
            recipe,
            Maps {
                kinds: recipe.list("kinds").to_vec(),
                elements: recipe.list("elements").to_vec(),
                values: recipe.list("values").to_vec(),
                update_percent: recipe.number("update_percent"),
            },
        ))
    },
};

struct Maps {
    kinds: Vec<u64>,
    elements: Vec<u64>,
    values: Vec<u64>,
    update_percent: u64,
}

/// What a hash map has besides its elements, before and behind them: size and alignment.
const BEFORE: [(u64, u64); 10] = [(8, 8), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4)];
const BEHIND: [(u64, u64); 1] = [(16, 8)];
const BEFORE_ON_DEMAND: [(u64, u64); 2] = [(224, 8), (224, 8)];

impl Things for Maps {
    /// Elements, and the other objects.
    type Thing = (Vec<u32>, Vec<u32>);

    fn make(&mut self, random: &mut SplitMix64, ids: &mut Ids, out: &mut VecDeque<Step>) -> Self::Thing {
        let kind = random.one_of(&self.kinds);
        let nr_elements = random.one_of(&self.elements);
        let size = random.one_of(&self.values).next_multiple_of(8);
        let mut others = Vec::new();
        let mut make_others = |list: &[(u64, u64)], ids: &mut Ids, out: &mut VecDeque<Step>| {
            for (size, align) in list {
                let id = ids.take();
                others.push(id);
                out.push_back(alloc(id, *size, *align));
            }
        };
        if kind != ARRAY {
            make_others(&BEFORE, ids, out);
        }
        if kind == HASH_ON_DEMAND {
            make_others(&BEFORE_ON_DEMAND, ids, out);
        }
        let sleep = if kind == HASH_ON_DEMAND { Sleep::Never } else { Sleep::Full };
        let request = Request { sleep, ..request(size, 8) };
        let elements: Vec<u32> = (0..nr_elements).map(|_| ids.take()).collect();
        out.extend(elements.iter().map(|id| Step::Alloc { id: *id, request }));
        if kind == HASH {
            make_others(&BEHIND, ids, out);
        }
        if kind == HASH_ON_DEMAND && nr_elements > 0 {
            for _ in 0..nr_elements * self.update_percent / 100 {
                let place = random.below(nr_elements) as usize;
                let id = elements[place];
                out.push_back(Step::Free { id });
                out.push_back(Step::Alloc { id, request });
            }
        }
        (elements, others)
    }

    fn remove(&mut self, thing: Self::Thing, _: &mut SplitMix64, ids: &mut Ids, out: &mut VecDeque<Step>) {
        let (elements, others) = thing;
        for id in elements.into_iter().chain(others.into_iter().rev()) {
            out.push_back(Step::Free { id });
            ids.give_back(id);
        }
    }

    fn finish(&mut self, _: &mut VecDeque<Step>) {}
}
