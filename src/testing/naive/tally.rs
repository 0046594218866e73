//! Work counted while it is done: every bit, record and line that is looked at.
//!
//! # Design
//!
//! A [`Look`] notes the places that one search comes to, one by one; a [`Tally`] keeps what looks and
//! writes have touched of one chunk, as a set. Nothing is computed from results: that is what the fast
//! engines do, and are compared for.
//!
//! # Source
//!
//! `docs/design.md` section 6.

use std::collections::BTreeSet;

use crate::cost::{Costs, Part};

/// The places that a search has come to.
#[derive(Clone, Debug, Default)]
pub struct Look {
    base: i64,
    range: Option<(i64, i64)>,
}

impl Look {
    /// A search that names its places from `base` on.
    pub fn from(base: i64) -> Self {
        Look { base, range: None }
    }

    /// It looks at this place.
    pub fn at(&mut self, place: i64) {
        let place = self.base + place;
        let (low, high) = self.range.unwrap_or((place, place));
        self.range = Some((low.min(place), high.max(place)));
    }

    /// It looks at all of these.
    pub fn all(&mut self, from: i64, to: i64) {
        (from..to).for_each(|place| self.at(place));
    }
}

/// What an operation has cost in one chunk.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub costs: Costs,
    lines: BTreeSet<(Part, i64)>,
}

impl Tally {
    pub fn nr_lines(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The elements `from..to` are read or written.
    pub fn touch(&mut self, part: Part, from: i64, to: i64) {
        let bits = match part {
            Part::Record => 512,
            Part::AllocMap | Part::BoundMap | Part::Populated => 1,
            Part::Blocks => 256,
            Part::AreaMap => 32,
        };
        self.lines.extend((from..to).map(|element| (part, element * bits / 512)));
    }

    /// A search over bits has ended.
    pub fn search(&mut self, part: Part, look: Look) {
        if let Some((low, high)) = look.range {
            let words: BTreeSet<i64> = (low..=high).map(|bit| bit / 64).collect();
            self.costs.words_read += words.len() as u64;
            self.touch(part, low, high + 1);
        }
    }

    /// A walk over block records has ended.
    pub fn walk(&mut self, look: Look) {
        if let Some((low, high)) = look.range {
            self.costs.blocks_visited += (low..=high).count() as u64;
            self.touch(Part::Blocks, low, high + 1);
        }
    }
}
