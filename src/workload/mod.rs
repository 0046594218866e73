//! Workloads: seeded generators of requests and frees.
//!
//! # Design
//!
//! ```text
//! Procedure (how) + parameters = Recipe (what) --start--> Stream of steps --run--> Target (an engine)
//!                                                             ^                      |
//!                                                             +--- where it lies ----+
//! ```
//!
//! A [`Procedure`] is a line of [`PROCEDURES`]: a name, its parameters with defaults and limits, its phases, and a
//! function that starts it. A [`Recipe`] is a procedure with a value for each parameter; it is small, can be copied
//! and compared, and has a fingerprint. Started, it gives [`Step`]s one after the other and never holds a list of
//! them: what it keeps is what the procedure needs to know of live objects.
//!
//! Objects have numbers, which a procedure may use again after the object's free. Steps do not depend on the engine,
//! with one exception: a procedure with `needs_places` is told where each object lies, for workloads that are defined
//! by pages ("free all but those on the first page"). A request that fails is counted, and the free of that object
//! skipped.
//!
//! # Units
//!
//! Bytes; counts of objects. Chances are in percent or parts per million, never in floating point, so that every
//! machine makes the same steps.
//!
//! # Cost
//!
//! A step takes some nanoseconds, and a procedure at most 16 bytes for each live object.
//!
//! # Source
//!
//! `docs/workloads.md` has every procedure in words; specification 41 those that were published.

mod churn;
mod given;
mod mixture;
mod objects;
mod pinning;
mod published;
pub mod random;
mod run;

use std::fmt;

use crate::error::ConfigError;
use crate::request::{ChunkId, Request};
use crate::units::Bytes;

pub use given::of_trace;
pub use mixture::{fit, FitError};
pub use run::{run, Figures, Options, Phase, Place, Run, RunError, Served, Target};

/// Most objects of a workload.
pub const MAX_OBJECTS: u64 = 1 << 27;
/// Largest size or alignment that a parameter can ask for.
const MAX_BYTES: u64 = 1 << 32;
/// Longest list in a parameter.
const MAX_LIST: usize = 1 << 26;

/// One step of a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Allocate object `id`, which is not live.
    Alloc {
        /// The object.
        id: u32,
        /// What to ask for.
        request: Request,
    },
    /// Free object `id`.
    Free {
        /// The object.
        id: u32,
    },
    /// From here on steps belong to this phase ([`Recipe::phase_name`]).
    Phase(u32),
    /// Run the balance worker once.
    Balance,
}

/// A workload under way.
pub trait Stream: Send {
    /// The next step; `None` at the end, and from then on.
    fn next_step(&mut self) -> Option<Step>;

    /// Where the object of the last [`Step::Alloc`] lies; `None` if it was not served. Only called where
    /// [`Procedure::needs_places`].
    fn placed(&mut self, _id: u32, _place: Option<Place>) {}
}

impl<I: Iterator<Item = Step> + Send> Stream for I {
    fn next_step(&mut self) -> Option<Step> {
        self.next()
    }
}

/// What a parameter can be.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    /// A number from the first to the last.
    Number(u64, u64),
    /// A list of such numbers with at least one element.
    List(u64, u64),
    /// A list of such numbers, possibly empty.
    OptionalList(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// The value of a parameter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A list of numbers.
    List(Vec<u64>),
    /// A word.
    Word(String),
}

/// The value of a parameter that is not given.
#[derive(Clone, Copy, Debug)]
pub enum Initial {
    /// There is none: the parameter must be given.
    Required,
    /// A number.
    Number(u64),
    /// A list.
    List(&'static [u64]),
    /// A word.
    Word(&'static str),
}

/// A parameter of a procedure.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name, as users of the Python package know it.
    pub name: &'static str,
    /// What it is where it is not given.
    pub default: Initial,
    /// What it can be.
    pub domain: Domain,
    /// What it means, with its unit.
    pub meaning: &'static str,
}

/// How a workload is made.
pub struct Procedure {
    /// Its name.
    pub name: &'static str,
    /// Counts changes of what the same parameters give; part of the fingerprint.
    pub version: u32,
    /// One line on what it stands for.
    pub summary: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Names of its phases.
    pub phases: &'static [&'static str],
    /// Whether its steps depend on where objects lie.
    pub needs_places: bool,
    /// Checks what no single parameter shows.
    check: fn(&Recipe) -> Result<(), ConfigError>,
    start: fn(&Recipe) -> Box<dyn Stream>,
}

impl fmt::Debug for Procedure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every procedure.
pub const PROCEDURES: &[&Procedure] = &[
    &objects::OBJECTS,
    &published::FILL_LEVEL,
    &published::FOUR_AT_EIGHT,
    &pinning::HEAD_PINNING,
    &churn::BPF_MAPS,
    &churn::CGROUPS,
    &churn::NETNS,
    &published::VMALLOC_TEST,
    &mixture::MIXTURE,
    &published::RANDOM,
    &published::QUEUE,
    &published::SIZE_LADDER,
    &published::ALIGN_STORM,
    &published::MODULE_LOAD,
    &published::ATOMIC_BURST,
    &given::STEPS,
];

impl Procedure {
    /// The procedure of a name.
    pub fn by_name(name: &str) -> Result<&'static Procedure, ConfigError> {
        let found = PROCEDURES.iter().find(|procedure| procedure.name == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = PROCEDURES.iter().map(|procedure| procedure.name).collect();
            ConfigError::new("workload", name, format!("must be one of {}", names.join(", ")))
        })
    }
}

/// A procedure with a value for each of its parameters.
#[derive(Clone, Debug)]
pub struct Recipe {
    procedure: &'static Procedure,
    /// In the order of the procedure's parameters.
    values: Vec<Value>,
}

impl PartialEq for Recipe {
    fn eq(&self, other: &Self) -> bool {
        self.procedure.name == other.procedure.name && self.values == other.values
    }
}

impl Eq for Recipe {}

impl Recipe {
    /// A recipe from a procedure's name and the parameters that shall not have their defaults.
    pub fn new<'a>(name: &str, given: impl IntoIterator<Item = (&'a str, Value)>) -> Result<Self, ConfigError> {
        let procedure = Procedure::by_name(name)?;
        let mut values: Vec<Option<Value>> = vec![None; procedure.parameters.len()];
        for (name, value) in given {
            let index = procedure.parameters.iter().position(|parameter| parameter.name == name);
            let index = index.ok_or_else(|| procedure.unknown(name))?;
            values[index] = Some(procedure.parameters[index].checked(value)?);
        }
        let or_default = |(parameter, value): (&Parameter, Option<Value>)| match value {
            Some(value) => Ok(value),
            None => parameter.default_value(),
        };
        let values = procedure.parameters.iter().zip(values).map(or_default).collect::<Result<_, _>>()?;
        let recipe = Self { procedure, values };
        (procedure.check)(&recipe)?;
        Ok(recipe)
    }

    /// The same recipe with another value of one parameter.
    pub fn with(&self, name: &str, value: Value) -> Result<Self, ConfigError> {
        let mut given: Vec<(&str, Value)> = self.parameters().map(|(name, value)| (name, value.clone())).collect();
        let place = given.iter().position(|(known, _)| *known == name);
        given[place.ok_or_else(|| self.procedure.unknown(name))?].1 = value;
        Self::new(self.procedure.name, given)
    }

    /// How it is made.
    pub fn procedure(&self) -> &'static Procedure {
        self.procedure
    }

    /// Every parameter and its value.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.procedure.parameters.iter().map(|parameter| parameter.name).zip(&self.values)
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.parameters().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Number(number)) => *number,
            other => unreachable!("{name} is a number of {}, not {other:?}", self.procedure.name),
        }
    }

    fn list(&self, name: &str) -> &[u64] {
        match self.get(name) {
            Some(Value::List(list)) => list,
            other => unreachable!("{name} is a list of {}, not {other:?}", self.procedure.name),
        }
    }

    fn word(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Word(word)) => word,
            other => unreachable!("{name} is a word of {}, not {other:?}", self.procedure.name),
        }
    }

    /// The steps, from the beginning.
    pub fn start(&self) -> Box<dyn Stream> {
        (self.procedure.start)(self)
    }

    /// Name of a phase.
    pub fn phase_name(&self, phase: u32) -> String {
        let name = self.procedure.phases.get(phase as usize);
        name.map_or_else(|| format!("phase {phase}"), |name| (*name).to_owned())
    }

    /// A number that equal recipes share, and that changes when the procedure does: FNV-1a over procedure, version
    /// and every value. The same on every machine.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.text(self.procedure.name);
        hash.number(u64::from(self.procedure.version));
        for (name, value) in self.parameters() {
            hash.text(name);
            match value {
                Value::Number(number) => hash.number(*number),
                Value::Word(word) => hash.text(word),
                Value::List(list) => {
                    hash.number(list.len() as u64);
                    list.iter().for_each(|number| hash.number(*number));
                }
            }
        }
        hash.0
    }
}

/// `objects(n=1000, size=4, ...)`; long lists are cut.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{}(", self.procedure.name)?;
        for (index, (name, value)) in self.parameters().enumerate() {
            write!(f, "{}{name}=", if index > 0 { ", " } else { "" })?;
            match value {
                Value::Number(number) => write!(f, "{number}")?,
                Value::Word(word) => f.write_str(word)?,
                Value::List(list) if list.len() <= SHOWN => write!(f, "{list:?}")?,
                Value::List(list) => write!(f, "{:?} and {} more", &list[..SHOWN], list.len() - SHOWN)?,
            }
        }
        f.write_str(")")
    }
}

struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn number(&mut self, number: u64) {
        number.to_le_bytes().into_iter().for_each(|byte| self.byte(byte));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        text.bytes().for_each(|byte| self.byte(byte));
    }
}

impl Procedure {
    fn unknown(&self, name: &str) -> ConfigError {
        let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name).collect();
        let limit = format!("the parameters of {} are {}", self.name, names.join(", "));
        ConfigError::new("parameter", name, limit)
    }
}

impl Parameter {
    /// `value`, if it is in the domain.
    fn checked(&self, value: Value) -> Result<Value, ConfigError> {
        let bad = |given: &dyn fmt::Display, limit: String| Err(ConfigError::new(self.name, given, limit));
        match (&self.domain, &value) {
            (Domain::Number(low, high), Value::Number(number)) => {
                if !(low..=high).contains(&number) {
                    return bad(number, format!("must be from {low} to {high}"));
                }
            }
            (Domain::List(low, high) | Domain::OptionalList(low, high), Value::List(list)) => {
                if list.is_empty() && matches!(self.domain, Domain::List(..)) {
                    return bad(&"[]", "must have at least one element".to_owned());
                }
                if list.len() > MAX_LIST {
                    return bad(&format!("{} elements", list.len()), format!("must have at most {MAX_LIST}"));
                }
                if let Some(number) = list.iter().find(|number| !(low..=high).contains(number)) {
                    return bad(number, format!("must be from {low} to {high}"));
                }
            }
            (Domain::Word(words), Value::Word(word)) => {
                if !words.contains(&word.as_str()) {
                    return bad(word, format!("must be one of {}", words.join(", ")));
                }
            }
            (Domain::Number(..), other) => return bad(&format!("{other:?}"), "must be a number".to_owned()),
            (Domain::List(..) | Domain::OptionalList(..), other) => {
                return bad(&format!("{other:?}"), "must be a list of numbers".to_owned())
            }
            (Domain::Word(..), other) => return bad(&format!("{other:?}"), "must be a word".to_owned()),
        }
        Ok(value)
    }

    fn default_value(&self) -> Result<Value, ConfigError> {
        match self.default {
            Initial::Required => Err(ConfigError::new(self.name, "nothing", "must be given")),
            Initial::Number(number) => Ok(Value::Number(number)),
            Initial::List(list) => Ok(Value::List(list.to_vec())),
            Initial::Word(word) => Ok(Value::Word(word.to_owned())),
        }
    }
}

/// Parameters that many procedures have.
const fn number(name: &'static str, default: u64, low: u64, high: u64, meaning: &'static str) -> Parameter {
    Parameter { name, default: Initial::Number(default), domain: Domain::Number(low, high), meaning }
}

const fn required(name: &'static str, low: u64, high: u64, meaning: &'static str) -> Parameter {
    Parameter { name, default: Initial::Required, domain: Domain::Number(low, high), meaning }
}

const fn list(name: &'static str, default: &'static [u64], low: u64, high: u64, meaning: &'static str) -> Parameter {
    assert!(!default.is_empty(), "a default of a list that must not be empty");
    Parameter { name, default: Initial::List(default), domain: Domain::List(low, high), meaning }
}

/// A list that may be empty.
const fn optional_list(
    name: &'static str,
    default: &'static [u64],
    low: u64,
    high: u64,
    meaning: &'static str,
) -> Parameter {
    Parameter { name, default: Initial::List(default), domain: Domain::OptionalList(low, high), meaning }
}

const fn word(
    name: &'static str,
    default: &'static str,
    words: &'static [&'static str],
    meaning: &'static str,
) -> Parameter {
    Parameter { name, default: Initial::Word(default), domain: Domain::Word(words), meaning }
}

const fn seed() -> Parameter {
    number("seed", 1, 0, u64::MAX, "of the random numbers")
}

/// Nothing to check.
fn no_check(_: &Recipe) -> Result<(), ConfigError> {
    Ok(())
}

fn request(size: u64, align: u64) -> Request {
    Request::new(Bytes(size), Bytes(align))
}

fn alloc(id: u32, size: u64, align: u64) -> Step {
    Step::Alloc { id, request: request(size, align) }
}

/// Whether an object is in the first chunk: the one at boot, or the first that was made.
fn in_first_chunk(chunk: ChunkId) -> bool {
    chunk == ChunkId(0)
}

#[cfg(test)]
mod tests;
