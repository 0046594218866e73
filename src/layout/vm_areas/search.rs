//! The walks that look for a base; see the module above.
//!
//! All arithmetic is signed and wide, so that a base below the space is just a small number. Kernel: the same
//! comparison is made unsigned, with the length of the areas added on both sides.
//!
//! Source: specification 32 sections 3 to 5.

use std::ops::Range;

use super::{AreaSet, Search, VmallocSpace};

/// Largest multiple of `align` that is at most `x`.
fn down(x: i128, align: u64) -> i128 {
    x - x.rem_euclid(i128::from(align))
}

/// First and last aligned address of the space.
pub(super) fn bounds(space: &VmallocSpace, align: u64) -> (i128, i128) {
    let (start, end) = (i128::from(space.start), i128::from(space.end));
    (down(start + i128::from(align) - 1, align), down(end, align))
}

/// The base at which `set` fits; `tests` counts the areas that were looked at.
pub(super) fn find(space: &VmallocSpace, set: &AreaSet, tests: &mut u64) -> Option<u64> {
    let walk = Walk { space, set, bounds: bounds(space, set.align) };
    if walk.bounds.1 - walk.bounds.0 < i128::from(set.last_end) {
        return None;
    }
    let base = match space.search {
        Search::BusyAreas => walk.busy_areas(tests),
        Search::FreeBlocks => walk.free_blocks(tests),
        Search::Declarative => walk.declarative(tests),
    }?;
    u64::try_from(base).ok()
}

struct Walk<'a> {
    space: &'a VmallocSpace,
    set: &'a AreaSet,
    bounds: (i128, i128),
}

type Wide = Range<i128>;

fn wide((&start, &end): (&u64, &u64)) -> Wide {
    i128::from(start)..i128::from(end)
}

/// An address for a lookup; every caller has at least the start of the space.
fn address(x: i128) -> u64 {
    u64::try_from(x).unwrap_or(if x < 0 { 0 } else { u64::MAX })
}

impl Walk<'_> {
    /// An area from its base.
    fn area(&self, index: usize) -> Wide {
        let start = i128::from(self.set.offsets[index]);
        start..start + i128::from(self.set.sizes[index])
    }

    /// The area that is looked at after `index`: backwards by index, not by offset.
    fn next_area(&self, index: usize) -> usize {
        index.checked_sub(1).unwrap_or(self.set.offsets.len() - 1)
    }

    /// The free block with the greatest start up to `x`; it may end before `x`.
    fn enclosing(&self, x: i128) -> Option<Wide> {
        self.space.free.range(..=address(x)).next_back().map(wide)
    }

    /// From `block` downwards, the first block with an aligned end behind its start, and that end.
    fn top_from(&self, mut block: Option<Wide>) -> Option<(Wide, i128)> {
        loop {
            let found = block?;
            let end = down(found.end, self.set.align).min(self.bounds.1);
            if found.start < end {
                return Some((found, end));
            }
            block = self.block_below(&found);
        }
    }

    fn block_below(&self, block: &Wide) -> Option<Wide> {
        self.space.free.range(..address(block.start)).next_back().map(wide)
    }

    /// Specification 32 section 4. `None` is the overflow.
    fn free_blocks(&self, tests: &mut u64) -> Option<i128> {
        let mut index = self.set.last;
        let mut term = index;
        let mut area = self.area(index);
        let (mut block, end) = self.top_from(self.enclosing(self.bounds.1))?;
        let mut base = end - area.end;
        loop {
            if base < self.bounds.0 {
                return None;
            }
            *tests += 1;
            let below = if base + area.end > block.end {
                Some(block.clone())
            } else if base + area.start < block.start {
                Some(self.block_below(&block)?)
            } else {
                None
            };
            if below.is_some() {
                let (found, end) = self.top_from(below)?;
                (block, base, term) = (found, end - area.end, index);
                continue;
            }
            index = self.next_area(index);
            if index == term {
                return Some(base);
            }
            area = self.area(index);
            block = self.enclosing(base + area.end)?;
        }
    }

    /// The lowest busy range that ends above `x`, and the highest that does not.
    fn around(&self, x: i128) -> (Option<Wide>, Option<Wide>) {
        let busy = &self.space.busy;
        let before = busy.range(..=address(x)).next_back().map(wide);
        match before {
            Some(range) if range.end > x => {
                let below = self.busy_below(&range);
                (Some(range), below)
            }
            _ => (busy.range(address(x)..).next().map(wide), before),
        }
    }

    fn busy_below(&self, range: &Wide) -> Option<Wide> {
        self.space.busy.range(..address(range.start)).next_back().map(wide)
    }

    /// The aligned end of the gap below `next`, and the pair moved down until `prev` ends at or below it. The end
    /// may lie inside the new `next`: the walk tests that.
    fn fit_end(&self, mut next: Option<Wide>, mut prev: Option<Wide>) -> (i128, Option<Wide>, Option<Wide>) {
        let top = self.bounds.1;
        let end = next.as_ref().map_or(top, |range| down(range.start, self.set.align).min(top));
        while let Some(range) = prev.take_if(|range| range.end > end) {
            prev = self.busy_below(&range);
            next = Some(range);
        }
        (end, next, prev)
    }

    /// Specification 32 section 5. `None` is the overflow.
    fn busy_areas(&self, tests: &mut u64) -> Option<i128> {
        let mut index = self.set.last;
        let mut term = index;
        let mut area = self.area(index);
        if self.space.busy.is_empty() {
            // Kernel: without any area the hint is not looked at.
            *tests += 1;
            return Some(self.bounds.1 - area.end);
        }
        let (next, prev) = self.around(i128::from(self.space.hint));
        let (end, mut next, mut prev) = self.fit_end(next, prev);
        let mut base = end - area.end;
        loop {
            if base < self.bounds.0 {
                return None;
            }
            *tests += 1;
            let collides_above = next.as_ref().is_some_and(|range| range.start < base + area.end);
            let collides_below = prev.as_ref().is_some_and(|range| range.end > base + area.start);
            if collides_above || collides_below {
                if !collides_above {
                    next = prev;
                    prev = next.as_ref().and_then(|range| self.busy_below(range));
                }
                let end;
                (end, next, prev) = self.fit_end(next, prev);
                (base, term) = (end - area.end, index);
                continue;
            }
            index = self.next_area(index);
            if index == term {
                return Some(base);
            }
            area = self.area(index);
            (next, prev) = self.around(base + area.end);
        }
    }

    /// Specification 32 section 3: from the top, each obstacle moves the base to just below it. No base between
    /// can fit, because the same area would still touch the same obstacle.
    fn declarative(&self, tests: &mut u64) -> Option<i128> {
        let mut base = self.bounds.1 - i128::from(self.set.last_end);
        let mut index = self.set.last;
        let mut fitting = 0;
        while fitting < self.set.offsets.len() {
            if base < self.bounds.0 {
                return None;
            }
            *tests += 1;
            let area = self.area(index);
            match self.space.highest_overlap(&(address(base + area.start)..address(base + area.end))) {
                Some(obstacle) => {
                    base = down(i128::from(obstacle.start) - area.end, self.set.align);
                    fitting = 0;
                }
                None => {
                    fitting += 1;
                    index = self.next_area(index);
                }
            }
        }
        Some(base)
    }
}
