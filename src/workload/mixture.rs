//! A mixture of requests with lifetimes, and its fit to a trace.
//!
//! # Design
//!
//! A *class* is a size, an alignment and flags. It has a weight, a share of objects that are never freed, and as many
//! lifetimes as every other class, one of which is drawn for each object that is. A lifetime is counted in
//! allocations, since a trace's clock may count anything: an object of lifetime 0 is freed before the next allocation.
//!
//! ```text
//! request t: class by weight -> lifetime L -> free before request t + L + 1
//! ```
//!
//! [`fit`] takes classes, weights and the lifetimes (as quantiles) from a trace. Call sites are not kept, nor that
//! objects of one call site come in bursts: what is fitted is the mix, not its order.
//!
//! # Units
//!
//! Bytes; lifetimes in allocations; shares in parts per million.
//!
//! # Cost
//!
//! A queue of the live objects; a step costs O(log n) of them.
//!
//! # Source
//!
//! `docs/workloads.md`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use super::published::{by_group, Groups, Ids};
use super::random::SplitMix64;
use super::{list, no_check, request, required, seed, Procedure, Recipe, Step, Value, MAX_BYTES, MAX_OBJECTS};
use crate::error::{ConfigError, TraceError};
use crate::request::{Request, Sleep};
use crate::trace::{Base, Event, Trace};
use crate::units::Bytes;

/// Bits of a class's flags.
pub(super) const ATOMIC: u64 = 1;
pub(super) const RESERVED: u64 = 2;
/// Parts per million.
const MILLION: u64 = 1_000_000;
/// Lifetimes of a class that [`fit`] keeps.
const QUANTILES: usize = 32;
/// Most classes that [`fit`] keeps, the most frequent ones.
const MAX_CLASSES: usize = 1 << 15;

/// A mixture of classes.
pub(super) const MIXTURE: Procedure = Procedure {
    name: "mixture",
    version: 1,
    summary: "classes of requests by weight, each with its own lifetimes; can be fitted to a trace",
    parameters: &[
        required("n", 0, MAX_OBJECTS, "objects"),
        list("sizes", &[64], 0, MAX_BYTES, "bytes, for each class"),
        list("aligns", &[8], 0, MAX_BYTES, "alignment in bytes, for each class"),
        list("flags", &[0], 0, ATOMIC | RESERVED, "for each class: 1 atomic, 2 reserved, or both"),
        list("weights", &[1], 0, u32::MAX as u64, "chance of each class, relative to their sum"),
        list("lasting", &[0], 0, MILLION, "objects of each class that are freed at the end only, parts per million"),
        list(
            "lifetimes",
            &[100],
            0,
            u32::MAX as u64,
            "allocations between an object's own and its free: as many for each class, class after class",
        ),
        seed(),
    ],
    phases: &["mix", "free"],
    needs_places: false,
    check,
    start: |recipe| by_group(Mixture::new(recipe)),
};

fn check(recipe: &Recipe) -> Result<(), ConfigError> {
    no_check(recipe)?;
    let classes = recipe.list("sizes").len();
    for name in ["aligns", "flags", "weights", "lasting"] {
        let len = recipe.list(name).len();
        if len != classes {
            let limit = format!("must have as many elements as sizes, {classes}");
            return Err(ConfigError::new(name, format!("{len} elements"), limit));
        }
    }
    let lifetimes = recipe.list("lifetimes").len();
    if lifetimes % classes != 0 {
        let limit = format!("must have as many elements for each of the {classes} classes");
        return Err(ConfigError::new("lifetimes", format!("{lifetimes} elements"), limit));
    }
    if recipe.list("weights").iter().all(|weight| *weight == 0) {
        return Err(ConfigError::new("weights", "only zeros", "must have one above 0"));
    }
    Ok(())
}

struct Class {
    request: Request,
    /// Sum of the weights up to this class.
    until: u64,
    lasting: u64,
}

struct Mixture {
    n: u64,
    classes: Vec<Class>,
    lifetimes: Vec<u64>,
    random: SplitMix64,
    ids: Ids,
    /// Requests so far.
    made: u64,
    /// Objects by the request before which they are freed, then by age.
    due: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// Whether the last phase has begun.
    ended: bool,
}

impl Mixture {
    fn new(recipe: &Recipe) -> Self {
        let mut until = 0;
        let rows = recipe.list("sizes").iter().zip(recipe.list("aligns")).zip(recipe.list("flags"));
        let classes = rows.zip(recipe.list("weights").iter().zip(recipe.list("lasting")));
        let classes = classes.map(|(((size, align), flags), (weight, lasting))| {
            until += weight;
            let sleep = if flags & ATOMIC != 0 { Sleep::Never } else { Sleep::Full };
            let request = Request { sleep, reserved: flags & RESERVED != 0, ..request(*size, *align) };
            Class { request, until, lasting: *lasting }
        });
        Self {
            n: recipe.number("n"),
            classes: classes.collect(),
            lifetimes: recipe.list("lifetimes").to_vec(),
            random: SplitMix64::new(recipe.number("seed")),
            ids: Ids::default(),
            made: 0,
            due: BinaryHeap::new(),
            ended: false,
        }
    }

    /// When the next object is freed, and what it is.
    fn draw(&mut self) -> (u64, Request) {
        let sum = self.classes.last().map_or(1, |class| class.until);
        let at = self.random.below(sum);
        let index = self.classes.partition_point(|class| class.until <= at);
        let Class { request, lasting, .. } = self.classes[index];
        let each = self.lifetimes.len() / self.classes.len();
        let lasts = self.random.below(MILLION) < lasting;
        let life = self.lifetimes[index * each + self.random.below(each as u64) as usize];
        (if lasts { u64::MAX } else { self.made + life + 1 }, request)
    }
}

impl Groups for Mixture {
    fn next_group(&mut self, out: &mut VecDeque<Step>) -> bool {
        if self.ended {
            return false;
        }
        if self.made == 0 {
            out.push_back(Step::Phase(0));
        }
        self.ended = self.made == self.n;
        if self.ended {
            out.push_back(Step::Phase(1));
        }
        while let Some(Reverse((due, _, id))) = self.due.peek().copied() {
            if due > self.made && !self.ended {
                break;
            }
            self.due.pop();
            self.ids.give_back(id);
            out.push_back(Step::Free { id });
        }
        if !self.ended {
            let (due, request) = self.draw();
            let id = self.ids.take();
            self.due.push(Reverse((due, self.made, id)));
            self.made += 1;
            out.push_back(Step::Alloc { id, request });
        }
        true
    }
}

/// What a trace calls an object by: base and offset, or the pointer where no base is printed.
pub(super) fn place_of(base: Option<Base>, off: Bytes, ptr: Option<u64>) -> Option<(u64, u64)> {
    base.map(|base| (base.addr, off.0)).or(ptr.map(|ptr| (u64::MAX, ptr)))
}

/// What a class was seen doing.
#[derive(Default)]
struct Seen {
    count: u64,
    lifetimes: Vec<u32>,
}

/// Size in bytes, alignment in bytes, flags.
type Asked = (u64, u64, u64);

/// A mixture of `n` objects with the sizes, alignments, flags and lifetimes of the requests in a trace.
///
/// Failed requests count as objects that are freed at once. Frees of objects that the trace does not show being
/// allocated tell nothing. An error if the trace has no request.
pub fn fit(trace: &Trace, n: u64, seed: u64) -> Result<Recipe, FitError> {
    let mut seen: BTreeMap<Asked, Seen> = BTreeMap::new();
    // Class and request number of each live object, by place or, where the trace has none, by pointer.
    let mut live: HashMap<(u64, u64), (Asked, u32)> = HashMap::new();
    let mut made: u32 = 0;
    let flags = |atomic: bool, reserved: bool| u64::from(atomic) * ATOMIC + u64::from(reserved) * RESERVED;
    for record in trace.records() {
        match record.event {
            Event::Alloc(alloc) => {
                let class = (alloc.size.0, alloc.align.0, flags(alloc.atomic, alloc.reserved));
                seen.entry(class).or_default().count += 1;
                if let Some(place) = place_of(alloc.base, alloc.off, alloc.ptr) {
                    live.insert(place, (class, made));
                }
                made += 1;
            }
            Event::AllocFail { size, align, reserved, atomic } => {
                let class = seen.entry((size.0, align.0, flags(atomic, reserved))).or_default();
                class.count += 1;
                class.lifetimes.push(0);
                made += 1;
            }
            Event::Free { base, off, ptr } => {
                if let Some((class, born)) = place_of(base, off, ptr).and_then(|place| live.remove(&place)) {
                    seen.entry(class).or_default().lifetimes.push(made - born - 1);
                }
            }
            _ => {}
        }
    }
    let mut classes: Vec<_> = seen.into_iter().collect();
    if classes.is_empty() {
        return Err(FitError::Trace(TraceError::new("has no request to fit a mixture to")));
    }
    classes.sort_by_key(|(class, seen)| (Reverse(seen.count), *class));
    classes.truncate(MAX_CLASSES);
    let column = |value: &dyn Fn(&(Asked, Seen)) -> u64| Value::List(classes.iter().map(value).collect());
    let lifetimes = classes.iter().flat_map(|(_, seen)| quantiles(&seen.lifetimes)).collect();
    let given = [
        ("n", Value::Number(n)),
        ("seed", Value::Number(seed)),
        ("sizes", column(&|(class, _)| class.0)),
        ("aligns", column(&|(class, _)| class.1)),
        ("flags", column(&|(class, _)| class.2)),
        ("weights", column(&|(_, seen)| seen.count)),
        ("lasting", column(&|(_, seen)| (seen.count - seen.lifetimes.len() as u64) * MILLION / seen.count)),
        ("lifetimes", Value::List(lifetimes)),
    ];
    Recipe::new("mixture", given).map_err(FitError::Parameter)
}

/// Why there is no fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FitError {
    /// The trace does not tell.
    Trace(TraceError),
    /// A parameter is out of range.
    Parameter(ConfigError),
}

/// The middles of [`QUANTILES`] equal parts of the values; zeros if there is none.
fn quantiles(values: &[u32]) -> Vec<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = |part: usize| (2 * part + 1) * sorted.len() / (2 * QUANTILES);
    (0..QUANTILES).map(|part| sorted.get(middle(part)).copied().map_or(0, u64::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_middles() {
        let values: Vec<u32> = (0..64).rev().collect();
        let expected: Vec<u64> = (0..32).map(|part| 2 * part + 1).collect();
        assert_eq!(quantiles(&values), expected);
        assert_eq!(quantiles(&[5]), [5; QUANTILES]);
        assert_eq!(quantiles(&[]), [0; QUANTILES]);
    }
}
