//! Sources: what is asked of every subject, as steps over object numbers.
//!
//! # Design
//!
//! ```text
//! Trace --> requests and frees, places replaced by object numbers --+
//!                                                                   +--> Source --> Steps
//! Recipe of a workload ---------------------------------------------+
//! ```
//!
//! A free names its object, not a place, so that the same steps can be made with any allocator. Of a
//! trace the links come from the places that it shows:
//!
//! | line | steps |
//! |---|---|
//! | served request | the object is asked for; it stays live until the place is freed |
//! | request of a place that is still live | its free was lost: the old object is given back |
//! | failed request | asked for, and given back at once, for no line will free it |
//! | free of a place of no object | counted as unseen, no step |
//! | text marker | a new phase begins |
//!
//! Numbers of objects that are gone are used again, so that a table by number stays as small as the
//! number of live objects.
//!
//! # Units
//!
//! Bytes; steps by index.
//!
//! # Cost
//!
//! 17 bytes a step of a trace.
//!
//! # Source
//!
//! Specification 50 sections 2 and 3 for what the lines mean.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::error::ConfigError;
use crate::request::{Request, Sleep};
use crate::trace::{Event, Trace};
use crate::units::Bytes;
use crate::workload::{Recipe, Step, Stream};

/// Steps between two questions whether to go on.
const ASK_EVERY: u64 = 4096;

/// Kinds of a stored step, and flags of a request.
mod code {
    pub const ALLOC: u8 = 0;
    pub const FREE: u8 = 1;
    pub const PHASE: u8 = 2;
    pub const BALANCE: u8 = 3;
    pub const KIND: u8 = 3;
    pub const ATOMIC: u8 = 4;
    pub const RESERVED: u8 = 8;
    pub const ALL: u8 = 15;
}

/// Stored steps, a column each: `op` is a code, `id` an object or a phase, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Columns {
    /// Kind (0 request, 1 free, 2 phase, 3 worker), 4 = atomic, 8 = reserved.
    pub op: Vec<u8>,
    /// The object, or the phase.
    pub id: Vec<u32>,
    /// Bytes asked for; 0 in other steps.
    pub size: Vec<u32>,
    /// Alignment asked for; 0 in other steps.
    pub align: Vec<u32>,
}

impl Columns {
    fn push(&mut self, op: u8, id: u32, size: u32, align: u32) {
        self.op.push(op);
        self.id.push(id);
        self.size.push(size);
        self.align.push(align);
    }

    fn step(&self, index: usize) -> Step {
        let (op, id) = (self.op[index], self.id[index]);
        match op & code::KIND {
            code::ALLOC => Step::Alloc {
                id,
                request: Request {
                    sleep: if op & code::ATOMIC == 0 { Sleep::Full } else { Sleep::Never },
                    reserved: op & code::RESERVED != 0,
                    nowarn: true,
                    ..Request::new(Bytes(u64::from(self.size[index])), Bytes(u64::from(self.align[index])))
                },
            },
            code::FREE => Step::Free { id },
            code::PHASE => Step::Phase(id),
            _ => {
                debug_assert_eq!(op & code::KIND, code::BALANCE);
                Step::Balance
            }
        }
    }
}

/// Where the most bytes are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peak {
    /// The moment is right after this step; `None` without an object that stays.
    pub step: Option<u64>,
    /// Objects that would be live if every request was served.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The steps of a trace or a list.
#[derive(Debug)]
struct List {
    columns: Columns,
    /// The event that each step comes from; empty if it is not known.
    events: Vec<u32>,
    phases: Vec<String>,
    unseen_frees: u64,
    lost_frees: u64,
}

#[derive(Debug)]
enum Origin {
    List(List),
    Recipe(Recipe),
}

/// Steps: those of a trace, of a list, or of a workload.
#[derive(Debug)]
pub struct Source {
    origin: Origin,
    peak: OnceLock<Option<Peak>>,
}

impl Source {
    fn new(origin: Origin) -> Self {
        Self { origin, peak: OnceLock::new() }
    }

    /// The requests and frees of a trace.
    pub fn of_trace(trace: &Trace) -> Self {
        let mut compile = Compile::default();
        for record in trace.records() {
            compile.event(&record.event);
            compile.events.resize(compile.columns.op.len(), record.index as u32);
        }
        let Compile { columns, events, phases, unseen_frees, lost_frees, .. } = compile;
        Self::new(Origin::List(List { columns, events, phases, unseen_frees, lost_frees }))
    }

    /// The steps of a workload, made anew each time.
    pub fn of_recipe(recipe: Recipe) -> Self {
        Self::new(Origin::Recipe(recipe))
    }

    /// Stored steps. Object numbers come into use in order; no object is asked for twice, or given back unasked.
    pub fn from_columns(columns: Columns, phases: Vec<String>, unseen_frees: u64) -> Result<Self, ConfigError> {
        let len = columns.op.len();
        let lengths = [columns.id.len(), columns.size.len(), columns.align.len()];
        if lengths.iter().any(|other| *other != len) {
            return Err(ConfigError::new("steps", len, "must have columns of one length"));
        }
        let mut live: Vec<bool> = Vec::new();
        for index in 0..len {
            let bad = |limit: String| ConfigError::new("steps", index, limit);
            if columns.op[index] > code::ALL {
                return Err(bad(format!("has the unknown code {}", columns.op[index])));
            }
            match columns.step(index) {
                Step::Alloc { id, .. } => {
                    // In order, so that a table by number is not larger than the list.
                    if id as usize > live.len() {
                        return Err(bad(format!("uses object {id} before object {}", live.len())));
                    }
                    if id as usize == live.len() {
                        live.push(false);
                    }
                    if std::mem::replace(&mut live[id as usize], true) {
                        return Err(bad(format!("asks for object {id}, which is live")));
                    }
                }
                Step::Free { id } => match live.get_mut(id as usize) {
                    Some(live) if *live => *live = false,
                    _ => return Err(bad(format!("frees object {id}, which is not live"))),
                },
                Step::Phase(phase) if phase as usize >= phases.len() => {
                    return Err(bad(format!("begins phase {phase} of {}", phases.len())));
                }
                Step::Phase(_) | Step::Balance => {}
            }
        }
        Ok(Self::new(Origin::List(List { columns, events: Vec::new(), phases, unseen_frees, lost_frees: 0 })))
    }

    fn list(&self) -> Option<&List> {
        match &self.origin {
            Origin::List(list) => Some(list),
            Origin::Recipe(_) => None,
        }
    }

    /// The recipe, if this is a workload.
    pub fn recipe(&self) -> Option<&Recipe> {
        match &self.origin {
            Origin::List(_) => None,
            Origin::Recipe(recipe) => Some(recipe),
        }
    }

    /// The steps as stored; `None` for a workload, which stores none.
    pub fn columns(&self) -> Option<&Columns> {
        self.list().map(|list| &list.columns)
    }

    /// Of each step the index of the event that it comes from; empty if this is not of a trace.
    pub fn events(&self) -> &[u32] {
        self.list().map_or(&[], |list| &list.events)
    }

    /// Texts of the phases of a list, in the order of their numbers.
    pub fn phases(&self) -> &[String] {
        self.list().map_or(&[], |list| &list.phases)
    }

    /// Text of a phase.
    pub fn phase_name(&self, phase: u32) -> String {
        match &self.origin {
            Origin::List(list) => list.phases.get(phase as usize).cloned().unwrap_or_default(),
            Origin::Recipe(recipe) => recipe.phase_name(phase),
        }
    }

    /// Frees of objects that the trace does not show being allocated; there is no step for them.
    pub fn unseen_frees(&self) -> u64 {
        self.list().map_or(0, |list| list.unseen_frees)
    }

    /// Objects that the trace gives back in no line, but whose place it hands out again.
    pub fn lost_frees(&self) -> u64 {
        self.list().map_or(0, |list| list.lost_frees)
    }

    /// Whether steps depend on where objects lie.
    pub fn needs_places(&self) -> bool {
        self.recipe().is_some_and(|recipe| recipe.procedure().needs_places)
    }

    /// The steps in order.
    pub fn start(&self) -> Box<dyn Stream + '_> {
        match &self.origin {
            Origin::List(list) => Box::new((0..list.columns.op.len()).map(|index| list.columns.step(index))),
            Origin::Recipe(recipe) => recipe.start(),
        }
    }

    /// The first moment at which the most bytes are asked for, by objects that are not given back at once. It depends
    /// on no allocator, so that all of them can be looked at in the same moment. `None` where the steps do depend on
    /// the allocator. `go_on` is asked now and then; if it says no, the answer is `None`, too.
    pub fn peak(&self, go_on: &mut dyn FnMut() -> bool) -> Option<Peak> {
        if let Some(known) = self.peak.get() {
            return *known;
        }
        let found = if self.needs_places() { None } else { Some(self.find_peak(go_on)?) };
        *self.peak.get_or_init(|| found)
    }

    fn find_peak(&self, go_on: &mut dyn FnMut() -> bool) -> Option<Peak> {
        let mut sizes: Vec<u64> = Vec::new();
        let (mut bytes, mut objects, mut peak) = (0, 0, Peak::default());
        let mut stream = self.start();
        let mut next = stream.next_step();
        let mut index = 0u64;
        while let Some(step) = next {
            if index % ASK_EVERY == 0 && !go_on() {
                return None;
            }
            next = stream.next_step();
            match step {
                Step::Alloc { id, request } => {
                    if id as usize >= sizes.len() {
                        sizes.resize(id as usize + 1, 0);
                    }
                    sizes[id as usize] = request.size.0;
                    bytes += request.size.0;
                    objects += 1;
                    // What is given back at once, as recorded failures are, makes no peak.
                    let stays = !matches!(next, Some(Step::Free { id: other }) if other == id);
                    if stays && (peak.step.is_none() || bytes > peak.bytes) {
                        peak = Peak { step: Some(index), objects, bytes };
                    }
                }
                Step::Free { id } => {
                    bytes -= sizes[id as usize];
                    objects -= 1;
                }
                Step::Phase(_) | Step::Balance => {}
            }
            index += 1;
        }
        Some(peak)
    }
}

/// What a trace calls an object by: base and offset, or the pointer where no base is printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Place(u64, u64),
    Pointer(u64),
}

/// Object numbers that can be used again.
#[derive(Default)]
struct FreeIds {
    given_back: Vec<u32>,
    next: u32,
}

impl FreeIds {
    fn take(&mut self) -> u32 {
        self.given_back.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

/// From events to steps.
#[derive(Default)]
struct Compile {
    columns: Columns,
    events: Vec<u32>,
    phases: Vec<String>,
    live: HashMap<Key, u32>,
    free_ids: FreeIds,
    unseen_frees: u64,
    lost_frees: u64,
}

impl Compile {
    fn event(&mut self, event: &Event<'_>) {
        let key = |base: Option<u64>, off: Bytes, ptr: Option<u64>| {
            base.map(|base| Key::Place(base, off.0)).or(ptr.map(Key::Pointer))
        };
        match *event {
            Event::Alloc(a) => {
                let id = self.alloc(a.size, a.align, a.atomic, a.reserved);
                let Some(key) = key(a.base.map(|base| base.addr), a.off, a.ptr) else { return };
                if let Some(old) = self.live.insert(key, id) {
                    self.lost_frees += 1;
                    self.free(old);
                }
            }
            Event::AllocFail { size, align, reserved, atomic } => {
                let id = self.alloc(size, align, atomic, reserved);
                self.free(id);
            }
            Event::Free { base, off, ptr } => {
                match key(base.map(|base| base.addr), off, ptr).and_then(|key| self.live.remove(&key)) {
                    Some(id) => self.free(id),
                    None => self.unseen_frees += 1,
                }
            }
            Event::Marker { text } => {
                let phase = self.phases.len() as u32;
                self.phases.push(text.to_owned());
                self.columns.push(code::PHASE, phase, 0, 0);
            }
            _ => {}
        }
    }

    fn alloc(&mut self, size: Bytes, align: Bytes, atomic: bool, reserved: bool) -> u32 {
        let id = self.free_ids.take();
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let op = code::ALLOC | flag(atomic, code::ATOMIC) | flag(reserved, code::RESERVED);
        // The readers take no larger sizes than fit.
        self.columns.push(op, id, size.0 as u32, align.0 as u32);
        id
    }

    fn free(&mut self, id: u32) {
        self.columns.push(code::FREE, id, 0, 0);
        self.free_ids.given_back.push(id);
    }
}
