//! Batches of requests and frees: all or nothing, and as single calls would do it.
//!
//! # Design
//!
//! The Linux engines serve equal requests and neighbouring frees in stretches
//! ([`Linux::alloc_some`](crate::engine::linux::Linux::alloc_some)); the others one by one. Answers go to a [`Sink`], which is told of
//! a stretch as a whole.
//!
//! A long batch of requests keeps a copy of the allocator, so that it can be undone when it is interrupted. A long batch of frees does as
//! well; a shorter one is checked before anything changes. On the Linux engines the check is the look-up: it finds chunk and bit
//! of every pointer, and each is waited for in memory together with those behind it.
//!
//! # Cost
//!
//! A copy is a pass over all maps.

use std::collections::HashSet;

use super::{Allocator, Balance, BatchError, Placement, NULL};
use crate::engine::linux::{Linux, Served};
use crate::error::RequestError;
use crate::request::{ChunkId, Outcome, Place, Reason, Request};
use crate::units::Bytes;

/// Operations of a batch between two questions whether to go on.
const ASK_EVERY: usize = 4096;
/// Batches from this length on keep a copy, so that an interrupted one can be undone.
pub(super) const KEEP_COPY_FROM: usize = 1 << 17;
/// Up to this many frees on a Linux engine are checked before the first is done, and then done in less time than it
/// takes to notice that they should not.
pub(super) const CHECKED_AT_ONCE: usize = 1 << 20;
/// Areas that are read together shortly before they are freed.
const TOUCHED_AT_ONCE: usize = 32;
/// Frees that are checked together in longer batches, which keep a copy.
const WINDOW: usize = 1 << 15;

/// A stretch of areas: `count` pointers from `ptr` on, one every `step` bytes.
pub(super) struct Stretch {
    ptr: u64,
    chunk: ChunkId,
    off: Bytes,
    unit_off: Bytes,
    step: Bytes,
    count: u32,
}

/// Where the answers of a batch go.
pub(super) trait Sink {
    fn placed(&mut self, stretch: &Stretch);
    fn failed(&mut self, reason: Reason);
}

impl Sink for Vec<Placement> {
    fn placed(&mut self, stretch: &Stretch) {
        let Stretch { ptr, chunk, off, step, count, .. } = *stretch;
        self.extend((0..u64::from(count)).map(|at| {
            let outcome = Outcome::Placed { chunk, off: off + Bytes(at * step.0) };
            Placement { ptr: ptr.wrapping_add(at * step.0), outcome }
        }));
    }

    fn failed(&mut self, reason: Reason) {
        self.push(Placement { ptr: NULL, outcome: Outcome::Failed(reason) });
    }
}

/// The answers to a batch, one row a request; 0 in all columns but the last where it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The pointer.
    pub ptr: Vec<u64>,
    /// Number of the chunk.
    pub chunk: Vec<u32>,
    /// Bytes from the chunk's base.
    pub off: Vec<u64>,
    /// Bytes from the start of the unit.
    pub unit_off: Vec<u64>,
    /// Row and reason of each failure, ascending.
    pub failed: Vec<(usize, Reason)>,
}

impl Columns {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            ptr: Vec::with_capacity(rows),
            chunk: Vec::with_capacity(rows),
            off: Vec::with_capacity(rows),
            unit_off: Vec::with_capacity(rows),
            failed: Vec::new(),
        }
    }
}

impl Sink for Columns {
    fn placed(&mut self, stretch: &Stretch) {
        let Stretch { ptr, chunk, off, unit_off, step, count } = *stretch;
        let column = |first: u64| (0..u64::from(count)).map(move |at| first.wrapping_add(at * step.0));
        self.ptr.extend(column(ptr));
        self.chunk.extend(std::iter::repeat_n(chunk.0, count as usize));
        self.off.extend(column(off.0));
        self.unit_off.extend(column(unit_off.0));
    }

    fn failed(&mut self, reason: Reason) {
        self.failed.push((self.ptr.len(), reason));
        self.ptr.push(NULL);
        self.chunk.push(0);
        self.off.push(0);
        self.unit_off.push(0);
    }
}

impl Allocator {
    /// Serves a batch. Nothing is changed if it is interrupted; short ones are not.
    pub(super) fn alloc_batch<S: Sink>(
        &mut self,
        requests: impl ExactSizeIterator<Item = Request>,
        go_on: &mut dyn FnMut() -> bool,
        sink: &mut S,
    ) -> Result<(), BatchError> {
        let mut before = (requests.len() >= KEEP_COPY_FROM).then(|| self.clone());
        let mut requests = requests.peekable();
        let mut since_asked = 0;
        while let Some(request) = requests.next() {
            let mut count: u32 = 1;
            while count < ASK_EVERY as u32 && requests.next_if_eq(&request).is_some() {
                count += 1;
            }
            since_asked += count as usize;
            if since_asked >= ASK_EVERY {
                since_asked = 0;
                if before.is_some() && !go_on() {
                    *self = before.take().expect("checked above");
                    return Err(BatchError::Interrupted);
                }
            }
            self.alloc_equal(&request, count, sink);
        }
        Ok(())
    }

    /// Serves `count` equal requests.
    fn alloc_equal<S: Sink>(&mut self, request: &Request, count: u32, sink: &mut S) {
        let mut left = count;
        while left > 0 {
            let most = left.min(self.most_at_once());
            let served = match self.engine.as_linux_mut() {
                Some(linux) => linux.alloc_some(request, most),
                None => match self.engine.alloc(request) {
                    Outcome::Placed { chunk, off } => {
                        let more = most > 1 && !self.engine.balance_pending();
                        let behind = if more { most - 1 } else { 0 };
                        let (step, count) = self.engine.alloc_behind(request, chunk, off, behind);
                        Served::Placed { chunk, off, step, count: 1 + count }
                    }
                    Outcome::Failed(reason) => Served::Failed(reason),
                },
            };
            let served = match served {
                Served::Failed(reason) => {
                    sink.failed(reason);
                    1
                }
                Served::Placed { chunk, off, step, count } => {
                    let (ptr, unit_off) = (self.pointer(chunk, off), self.unit_off(chunk, off));
                    sink.placed(&Stretch { ptr, chunk, off, unit_off, step, count });
                    count
                }
            };
            self.operated_many(served);
            left -= served;
        }
    }

    /// How many operations that do not schedule the worker may be done before it can have its turn.
    fn most_at_once(&self) -> u32 {
        match self.balance {
            Balance::Manual => u32::MAX,
            Balance::Eager | Balance::Every(_) if self.engine.balance_pending() => 1,
            Balance::Eager => u32::MAX,
            Balance::Every(k) if self.since_balance >= k => 1,
            Balance::Every(_) => u32::MAX,
        }
    }

    /// Lets the worker have its turn after operations of which only the last can have scheduled it.
    #[inline]
    fn operated_many(&mut self, count: u32) {
        if let Balance::Every(k) = self.balance {
            if count > 1 {
                // Of all but the last only the number matters: at their turns nothing was scheduled.
                self.since_balance = (self.since_balance + count - 1) % k.max(1);
            }
        }
        self.operated();
    }

    /// Frees many areas, all or none: the error names the first element that cannot be freed.
    pub fn free_many(
        &mut self,
        ptrs: &[u64],
        sizes: Option<&[u64]>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), BatchError> {
        if self.engine.as_linux().is_some() {
            return self.free_windows(ptrs, go_on);
        }
        // One size for all, or one each.
        let size = |index: usize| sizes.and_then(|sizes| sizes.get(index).or(sizes.last())).copied().map(Bytes);
        // A long batch keeps a copy anyway; a short one is checked before anything changes.
        let before = if ptrs.len() >= KEEP_COPY_FROM {
            Some(self.clone())
        } else {
            self.check_free_many(ptrs, &size)?;
            None
        };
        for (index, part) in ptrs.chunks(ASK_EVERY).enumerate() {
            let stop = index > 0 && before.is_some() && !go_on();
            let freed = if stop {
                Err(BatchError::Interrupted)
            } else {
                self.free_stretches(ptrs, index * ASK_EVERY, part, &size)
            };
            if let Err(error) = freed {
                *self = before.expect("a short batch was checked and is not interrupted");
                return Err(error);
            }
        }
        Ok(())
    }

    /// Addresses in unit zero of pointers, whatever lies there; none for the null pointer.
    fn addresses(&self, ptrs: &[u64]) -> Vec<u64> {
        // As `AddressMap::ptr_to_addr`, prepared.
        let (delta, word) =
            (self.address.delta(), if self.address.identity { u64::MAX } else { self.address.word.max() });
        let addr = |ptr: &u64| if *ptr == NULL { u64::MAX } else { ptr.wrapping_add(delta) & word };
        ptrs.iter().map(addr).collect()
    }

    /// Frees a part of a batch, which begins at `from`, on an engine that takes stretches of it, or one by one.
    fn free_stretches(
        &mut self,
        ptrs: &[u64],
        from: usize,
        part: &[u64],
        size: &dyn Fn(usize) -> Option<Bytes>,
    ) -> Result<(), BatchError> {
        let addrs = self.addresses(part);
        let mut at = 0;
        while at < part.len() {
            let most = match self.balance {
                Balance::Every(_) => 1,
                _ => self.most_at_once() as usize,
            };
            let rest = &addrs[at..];
            let count = if most > 1 { self.engine.free_some(rest) } else { 0 };
            if count > 0 {
                self.operated_many(count as u32);
                at += count;
            } else {
                self.free_one(ptrs, from + at, part[at], size(from + at))?;
                at += 1;
            }
        }
        Ok(())
    }

    /// [`Allocator::free_many`] on a Linux engine: a window is checked as a whole and then freed without a question. A
    /// batch of one window needs no copy for that.
    fn free_windows(&mut self, ptrs: &[u64], go_on: &mut dyn FnMut() -> bool) -> Result<(), BatchError> {
        let one = ptrs.len() <= CHECKED_AT_ONCE;
        let (window, before) = if one { (CHECKED_AT_ONCE, None) } else { (WINDOW, Some(self.clone())) };
        let mut areas = Vec::with_capacity(window.min(ptrs.len()));
        for (number, part) in ptrs.chunks(window).enumerate() {
            let freed =
                if number > 0 && !go_on() { Err(BatchError::Interrupted) } else { self.free_checked(part, &mut areas) };
            if let Err(error) = freed {
                if let Some(before) = before {
                    *self = before;
                }
                return Err(match error {
                    BatchError::Element(index, error) => self.twice_or(ptrs, number * window + index, error),
                    other => other,
                });
            }
        }
        Ok(())
    }

    /// Frees a window, all or none.
    fn free_checked(&mut self, ptrs: &[u64], areas: &mut Vec<Place>) -> Result<(), BatchError> {
        // As `AddressMap::ptr_to_addr`, prepared.
        let (delta, word) =
            (self.address.delta(), if self.address.identity { u64::MAX } else { self.address.word.max() });
        areas.clear();
        if !self.linux_mut().find_areas(ptrs, delta, word, areas) {
            self.check_free_many(ptrs, &|_| None)?;
            // Two pointers that are one address in words of 32 bits.
            let mut seen = HashSet::new();
            let twice = self.addresses(ptrs).into_iter().position(|addr| addr != u64::MAX && !seen.insert(addr));
            let index = twice.expect("one of them starts no live area, or is there twice");
            return Err(BatchError::Element(index, freed_twice(ptrs[index])));
        }
        let by_hand = self.balance == Balance::Manual;
        let (mut at, mut touched) = (0, 0);
        while at < areas.len() {
            let most = self.most_at_once();
            let linux = self.linux_mut();
            // As long as nothing schedules the worker, nobody has to be asked.
            let mut freed = 0;
            while let Some(first) = areas.get(at) {
                if at >= touched {
                    touched = areas.len().min(at + TOUCHED_AT_ONCE);
                    linux.touch(&areas[at..touched]);
                }
                if first.count == 0 {
                    at += 1;
                    continue;
                }
                let (count, done) = linux.free_some(&mut areas[at..], most);
                freed += count;
                at += done;
                if most == 1 || linux.balance_pending && !by_hand {
                    break;
                }
            }
            if freed > 0 {
                self.operated_many(freed);
            }
        }
        Ok(())
    }

    /// An error about one element of a batch, which may be there because an earlier one is the same.
    fn twice_or(&self, ptrs: &[u64], index: usize, error: RequestError) -> BatchError {
        let twice = ptrs[..index].contains(&ptrs[index]);
        BatchError::Element(index, if twice { freed_twice(ptrs[index]) } else { error })
    }

    #[inline]
    fn linux_mut(&mut self) -> &mut Linux {
        self.engine.as_linux_mut().expect("asked before")
    }

    fn free_one(&mut self, ptrs: &[u64], index: usize, ptr: u64, size: Option<Bytes>) -> Result<(), BatchError> {
        self.free(ptr, size).map_err(|error| self.twice_or(ptrs, index, error))
    }

    /// Checks a batch without changing anything.
    pub(super) fn check_free_many(
        &self,
        ptrs: &[u64],
        size: &dyn Fn(usize) -> Option<Bytes>,
    ) -> Result<(), BatchError> {
        let mut known = 0;
        for (index, ptr) in ptrs.iter().enumerate() {
            if index % ASK_EVERY == 0 && self.engine.as_linux().is_none() {
                let part = &ptrs[index..ptrs.len().min(index + ASK_EVERY)];
                known = index + self.engine.live_some(&self.addresses(part));
            }
            if index < known || *ptr == NULL {
                continue;
            }
            let checked = self.place_of(*ptr).and_then(|(chunk, off)| {
                self.engine.check_free(chunk, off, size(index)).map_err(|error| super::with_pointer(error, *ptr))
            });
            checked.map_err(|error| BatchError::Element(index, error))?;
        }
        if ptrs.windows(2).all(|pair| pair[0] < pair[1]) {
            return Ok(());
        }
        let mut order: Vec<(u64, usize)> = ptrs.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let twice =
            |pair: &&[(u64, usize)]| pair[0].0 == pair[1].0 && pair[0].0 != NULL && !self.is_zero_size(pair[0].0);
        match order.windows(2).filter(twice).map(|pair| pair[1]).min_by_key(|(_, index)| *index) {
            Some((ptr, index)) => Err(BatchError::Element(index, freed_twice(ptr))),
            None => Ok(()),
        }
    }
}

fn freed_twice(ptr: u64) -> RequestError {
    RequestError::InvalidFree { ptr, reason: "is freed twice in this batch".to_owned() }
}
