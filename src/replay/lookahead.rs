//! What lies ahead in a trace: which later line an early one belongs to.
//!
//! Source: specification 50 section 4.

use std::collections::{HashMap, VecDeque};

use crate::trace::{Alloc, Event, Kind, Trace};

/// How many events ahead a request may be looked for.
const WINDOW: usize = 65_536;

/// Facts about a whole trace, gathered once.
#[derive(Clone, Debug)]
pub(super) struct Lookahead {
    /// By index of an `alloc_area` line: index of the allocation event it belongs to.
    requests: HashMap<usize, usize>,
    lock_order: bool,
    background: bool,
}

impl Lookahead {
    pub fn new(trace: &Trace) -> Self {
        let kinds = trace.columns().kind;
        let lock_order = kinds.contains(&Kind::AllocArea);
        Self {
            requests: if lock_order { match_areas(trace) } else { HashMap::new() },
            lock_order,
            background: kinds.iter().any(|kind| matches!(kind, Kind::Populated | Kind::BalanceBegin)),
        }
    }

    /// True if the trace shows when areas were taken.
    pub fn in_lock_order(&self) -> bool {
        self.lock_order
    }

    /// True if the trace shows what the worker did and which pages were populated.
    pub fn background(&self) -> bool {
        self.background
    }

    /// The allocation event that the `alloc_area` line at `index` belongs to.
    pub fn request_of_area(&self, index: usize) -> Option<usize> {
        self.requests.get(&index).copied()
    }
}

/// Links every `alloc_area` line to the next allocation event with its base, size and place.
fn match_areas(trace: &Trace) -> HashMap<usize, usize> {
    let mut linked = HashMap::new();
    let mut entered: HashMap<Option<u16>, usize> = HashMap::new();
    let mut waiting: HashMap<(u64, u64, u64), VecDeque<usize>> = HashMap::new();
    for record in trace.records() {
        match record.event {
            Event::AllocArea { .. } => {
                entered.insert(record.cpu, record.index);
            }
            Event::AllocAreaRet { off: Some(off) } => {
                let Some(area) = entered.remove(&record.cpu) else { continue };
                if let Event::AllocArea { base, bits, .. } = trace.event(area) {
                    let key = (base.addr, off.0, u64::from(bits.0) * 4);
                    waiting.entry(key).or_default().push_back(area);
                }
            }
            Event::Alloc(Alloc { base: Some(base), off, size, .. }) => {
                let key = (base.addr, off.0, size.0);
                if let Some(area) = waiting.get_mut(&key).and_then(VecDeque::pop_front) {
                    linked.insert(area, record.index);
                }
            }
            _ => {}
        }
    }
    linked
}

/// The events from `from` on that may be looked at.
fn window(trace: &Trace, from: usize) -> std::ops::Range<usize> {
    from..trace.len().min(from.saturating_add(WINDOW))
}

/// The next sleeping allocation from `from` on that is not `started`, lies in the chunk at `base`
/// and covers the pages `first..end`.
pub(super) fn request_for_pages(
    trace: &Trace,
    from: usize,
    started: impl Fn(usize) -> bool,
    (base, first, end): (u64, u64, u64),
    page_size: u64,
) -> Option<usize> {
    let covers = |index: &usize| match trace.event(*index) {
        Event::Alloc(alloc) => {
            let pages = alloc.off.0 / page_size..(alloc.off.0 + alloc.size.0).div_ceil(page_size);
            !alloc.atomic && alloc.base.is_some_and(|b| b.addr == base) && pages.start <= first && end <= pages.end
        }
        _ => false,
    };
    window(trace, from).find(|index| covers(index) && !started(*index))
}

/// The next sleeping allocations from `from` on that are not `started`, of CPU `cpu`: the one in the
/// chunk at `base`, and the first of all.
pub(super) fn requests_for_chunk(
    trace: &Trace,
    from: usize,
    started: impl Fn(usize) -> bool,
    cpu: Option<u16>,
    base: u64,
) -> impl Iterator<Item = usize> {
    let mut first = None;
    let mut inside = None;
    let columns = trace.columns();
    for index in window(trace, from) {
        if columns.kind[index] != Kind::Alloc || trace.get(index).and_then(|record| record.cpu) != cpu {
            continue;
        }
        let Event::Alloc(alloc) = trace.event(index) else { continue };
        if alloc.atomic || started(index) {
            continue;
        }
        first.get_or_insert(index);
        if alloc.base.is_some_and(|b| b.addr == base) {
            inside = Some(index);
            break;
        }
    }
    inside.into_iter().chain(first.filter(|index| Some(*index) != inside))
}

/// The next request of CPU `cpu` from `from` on that is not `started`, served or failed atomic.
pub(super) fn request_of_cpu(
    trace: &Trace,
    from: usize,
    started: impl Fn(usize) -> bool,
    cpu: Option<u16>,
) -> Option<usize> {
    window(trace, from).find(|index| {
        let request = match trace.event(*index) {
            Event::Alloc(_) => true,
            Event::AllocFail { atomic, .. } => atomic,
            _ => false,
        };
        request && trace.get(*index).and_then(|record| record.cpu) == cpu && !started(*index)
    })
}

/// The next creation from `from` on at a base where a chunk can be.
pub(super) fn next_creation(trace: &Trace, from: usize, can_be: impl Fn(u64) -> bool) -> Option<u64> {
    window(trace, from).find_map(|index| match trace.event(index) {
        Event::Create { base: Some(base) } if can_be(base.addr) => Some(base.addr),
        _ => None,
    })
}
