//! Chunk lists by slot; the order of every list is state and kept exactly.
//!
//! # Design
//!
//! Doubly linked lists over chunk numbers, all links in one array, so that moving a chunk
//! costs a few stores. A bitmap of non-empty slots lets a search pass over empty ones.
//!
//! ```text
//! slot        0  1  2 ... f(unit_size)  sidelined  free  to_depopulate
//!                         fullness -->  (5.14 on)        (5.14 on)
//! ```
//!
//! # Invariants
//!
//! A chunk is on at most one list; `occupied` has a bit exactly for each non-empty list.
//!
//! # Source
//!
//! Specification 20 sections 1 and 2, 31 section 4.

use crate::request::ChunkId;

const NONE: u32 = u32::MAX;

/// Which slot numbers have a special meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotNumbers {
    /// Number of lists.
    pub nr_slots: u32,
    /// Chunks without any allocation.
    pub free: u32,
    /// Chunks whose pages were given back (5.14 on).
    pub sidelined: Option<u32>,
    /// Chunks whose pages are to be given back (5.14 on).
    pub to_depopulate: Option<u32>,
}

impl SlotNumbers {
    /// The numbers for a unit whose slot by the size formula is `unit_slot`.
    pub fn new(unit_slot: u32, depopulate: bool) -> Self {
        if depopulate {
            Self {
                nr_slots: unit_slot + 4,
                sidelined: Some(unit_slot + 1),
                free: unit_slot + 2,
                to_depopulate: Some(unit_slot + 3),
            }
        } else {
            Self { nr_slots: unit_slot + 2, sidelined: None, free: unit_slot + 1, to_depopulate: None }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Link {
    prev: u32,
    next: u32,
    slot: u32,
}

const OFF: Link = Link { prev: NONE, next: NONE, slot: NONE };

/// The slot lists.
#[derive(Clone, Debug)]
pub struct Slots {
    ends: Vec<(u32, u32)>,
    links: Vec<Link>,
    occupied: u64,
}

impl Slots {
    /// Empty lists; at most 64.
    pub fn new(nr_slots: u32) -> Self {
        assert!(nr_slots <= 64, "{nr_slots} slots");
        Self { ends: vec![(NONE, NONE); nr_slots as usize], links: Vec::new(), occupied: 0 }
    }

    /// Lists filled from `listed`: list and chunk, each list from its head on. There is room for
    /// `nr_chunks` chunks. `None` if a chunk occurs twice.
    pub fn with_lists(nr_slots: u32, nr_chunks: usize, listed: &[(u32, ChunkId)]) -> Option<Self> {
        let mut slots = Self::new(nr_slots);
        slots.links.resize(nr_chunks, OFF);
        for (slot, id) in listed {
            if slots.slot_of(*id).is_some() {
                return None;
            }
            slots.push_back(*slot, *id);
        }
        Some(slots)
    }

    /// Number of lists.
    pub fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// True if no chunk is on any list.
    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The list that `id` is on.
    #[inline]
    pub fn slot_of(&self, id: ChunkId) -> Option<u32> {
        self.links.get(id.0 as usize).filter(|link| link.slot != NONE).map(|link| link.slot)
    }

    /// The first chunk of list `slot`.
    #[inline]
    pub fn head(&self, slot: u32) -> Option<ChunkId> {
        let head = self.ends[slot as usize].0;
        (head != NONE).then_some(ChunkId(head))
    }

    /// The chunk behind `id` on its list.
    #[inline]
    pub fn next(&self, id: ChunkId) -> Option<ChunkId> {
        let next = self.links[id.0 as usize].next;
        (next != NONE).then_some(ChunkId(next))
    }

    /// The first non-empty list at or above `slot`.
    #[inline]
    pub fn occupied_from(&self, slot: u32) -> Option<u32> {
        let rest = self.occupied >> slot;
        (rest != 0).then(|| slot + rest.trailing_zeros())
    }

    /// The chunks of list `slot`, head first.
    pub fn iter(&self, slot: u32) -> impl Iterator<Item = ChunkId> + '_ {
        std::iter::successors(self.head(slot), |id| self.next(*id))
    }

    /// Every list, head first, by ascending slot.
    pub fn iter_lists(&self) -> impl Iterator<Item = impl Iterator<Item = ChunkId> + '_> + '_ {
        (0..self.len()).map(|slot| self.iter(slot))
    }

    /// Takes `id` off its list, if it is on one.
    pub fn remove(&mut self, id: ChunkId) {
        let Some(link) = self.links.get_mut(id.0 as usize) else { return };
        let Link { prev, next, slot } = std::mem::replace(link, OFF);
        if slot == NONE {
            return;
        }
        let ends = &mut self.ends[slot as usize];
        match prev {
            NONE => ends.0 = next,
            _ => self.links[prev as usize].next = next,
        }
        match next {
            NONE => ends.1 = prev,
            _ => self.links[next as usize].prev = prev,
        }
        if ends.0 == NONE {
            self.occupied &= !(1 << slot);
        }
    }

    /// Moves `id` to the front of list `slot`.
    pub fn push_front(&mut self, slot: u32, id: ChunkId) {
        self.detach(id);
        let ends = &mut self.ends[slot as usize];
        let next = std::mem::replace(&mut ends.0, id.0);
        match next {
            NONE => ends.1 = id.0,
            _ => self.links[next as usize].prev = id.0,
        }
        self.links[id.0 as usize] = Link { prev: NONE, next, slot };
        self.occupied |= 1 << slot;
    }

    /// Moves `id` to the tail of list `slot`.
    pub fn push_back(&mut self, slot: u32, id: ChunkId) {
        self.detach(id);
        let ends = &mut self.ends[slot as usize];
        let prev = std::mem::replace(&mut ends.1, id.0);
        match prev {
            NONE => ends.0 = id.0,
            _ => self.links[prev as usize].next = id.0,
        }
        self.links[id.0 as usize] = Link { prev, next: NONE, slot };
        self.occupied |= 1 << slot;
    }

    fn detach(&mut self, id: ChunkId) {
        if id.0 as usize >= self.links.len() {
            self.links.resize(id.0 as usize + 1, OFF);
        }
        self.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn lists_behave_like_deques(ops in prop::collection::vec((0u32..3, 0u32..6, 0u32..4), 0..200)) {
            let mut slots = Slots::new(4);
            let mut model = vec![VecDeque::new(); 4];
            for (op, id, slot) in ops {
                model.iter_mut().for_each(|list: &mut VecDeque<u32>| list.retain(|other| *other != id));
                match op {
                    0 => { slots.push_front(slot, ChunkId(id)); model[slot as usize].push_front(id); }
                    1 => { slots.push_back(slot, ChunkId(id)); model[slot as usize].push_back(id); }
                    _ => slots.remove(ChunkId(id)),
                }
                for (slot, list) in model.iter().enumerate() {
                    let got: Vec<u32> = slots.iter(slot as u32).map(|id| id.0).collect();
                    prop_assert_eq!(&got, &list.iter().copied().collect::<Vec<_>>());
                    prop_assert_eq!(slots.occupied >> slot & 1 == 1, !list.is_empty());
                    for id in list { prop_assert_eq!(slots.slot_of(ChunkId(*id)), Some(slot as u32)); }
                }
            }
        }
    }
}
