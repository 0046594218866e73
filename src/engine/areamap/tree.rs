//! A set of small numbers: a bitmap with bitmaps above it.
//!
//! # Design
//!
//! Level 0 has a bit for each number; every level above has a bit for each word of the one below, set
//! if that word is not 0. The top level is one word.
//!
//! ```text
//! level 2                         0001
//! level 1         ...0000         0101
//! level 0         0000 0000       0110 0000 0001 0000
//! ```
//!
//! # Units
//!
//! Positions, plain `u32`.
//!
//! # Cost
//!
//! A step a level for each operation, three levels for 2^18 numbers. 65 bits for 64 numbers.

/// Numbers a word holds, as a shift.
const SHIFT: u32 = 6;
const MASK: u32 = (1 << SHIFT) - 1;

/// A set of numbers below a limit.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    words: Box<[u64]>,
    levels: Vec<Box<[u64]>>,
}

impl Tree {
    /// An empty set of numbers below `limit`.
    pub fn new(limit: u32) -> Self {
        // The limit itself has a word, so that what is below it can be asked for.
        let mut words = limit as usize / 64 + 1;
        let lowest = vec![0; words].into_boxed_slice();
        let mut levels = Vec::new();
        while words > 1 {
            words = words.div_ceil(64);
            levels.push(vec![0; words].into_boxed_slice());
        }
        Self { words: lowest, levels }
    }

    /// Adds the members of a bitmap, as long as level 0 or shorter, to an empty set.
    pub fn fill(&mut self, words: &[u64]) {
        self.words[..words.len()].copy_from_slice(words);
        for (at, word) in (0..).zip(words) {
            if *word != 0 {
                self.insert_above(at);
            }
        }
    }

    /// The words of level 0.
    #[inline(always)]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    #[inline(always)]
    pub fn contains(&self, at: u32) -> bool {
        self.words.get((at >> SHIFT) as usize).is_some_and(|word| word >> (at & MASK) & 1 != 0)
    }

    #[inline(always)]
    pub fn insert(&mut self, at: u32) {
        let word = &mut self.words[(at >> SHIFT) as usize];
        let old = *word;
        *word |= 1 << (at & MASK);
        if old == 0 {
            self.insert_above(at >> SHIFT);
        }
    }

    #[inline(never)]
    fn insert_above(&mut self, mut at: u32) {
        for level in &mut self.levels {
            let word = &mut level[(at >> SHIFT) as usize];
            let old = *word;
            *word |= 1 << (at & MASK);
            if old != 0 {
                return;
            }
            at >>= SHIFT;
        }
    }

    #[inline(always)]
    pub fn remove(&mut self, at: u32) {
        let word = &mut self.words[(at >> SHIFT) as usize];
        *word &= !(1 << (at & MASK));
        if *word == 0 {
            self.remove_above(at >> SHIFT);
        }
    }

    #[inline(never)]
    fn remove_above(&mut self, mut at: u32) {
        for level in &mut self.levels {
            let word = &mut level[(at >> SHIFT) as usize];
            *word &= !(1 << (at & MASK));
            if *word != 0 {
                return;
            }
            at >>= SHIFT;
        }
    }

    /// The lowest member at or above `from`.
    #[inline(always)]
    pub fn next(&self, from: u32) -> Option<u32> {
        let word = self.words.get((from >> SHIFT) as usize)? & (u64::MAX << (from & MASK));
        if word != 0 {
            return Some((from & !MASK) + word.trailing_zeros());
        }
        self.next_word((from >> SHIFT) + 1)
    }

    /// The lowest member in word `at` or above.
    #[inline(never)]
    fn next_word(&self, mut at: u32) -> Option<u32> {
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get((at >> SHIFT) as usize)? & (u64::MAX << (at & MASK));
            if word != 0 {
                let mut at = (at & !MASK) + word.trailing_zeros();
                for level in self.levels[..height].iter().rev() {
                    at = (at << SHIFT) + level[at as usize].trailing_zeros();
                }
                return Some((at << SHIFT) + self.words[at as usize].trailing_zeros());
            }
            at = (at >> SHIFT) + 1;
        }
        None
    }

    /// The highest member below `end`.
    #[inline(always)]
    pub fn last_before(&self, end: u32) -> Option<u32> {
        if end & MASK != 0 {
            let word = self.words[(end >> SHIFT) as usize] & !(u64::MAX << (end & MASK));
            if word != 0 {
                return Some((end & !MASK) + 63 - word.leading_zeros());
            }
        }
        self.last_before_word(end >> SHIFT)
    }

    /// The highest member below word `end`.
    #[inline(never)]
    fn last_before_word(&self, mut end: u32) -> Option<u32> {
        for (height, level) in self.levels.iter().enumerate() {
            if end & MASK != 0 {
                let word = level[(end >> SHIFT) as usize] & !(u64::MAX << (end & MASK));
                if word != 0 {
                    let mut at = (end & !MASK) + 63 - word.leading_zeros();
                    for level in self.levels[..height].iter().rev() {
                        at = (at << SHIFT) + 63 - level[at as usize].leading_zeros();
                    }
                    return Some((at << SHIFT) + 63 - self.words[at as usize].leading_zeros());
                }
            }
            end >>= SHIFT;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_sorted_set(
            limit in prop_oneof![1u32..300, 4000u32..300_000], ops in prop::collection::vec((any::<u32>(), 0..3u8), 1..300),
        ) {
            let (mut tree, mut set) = (Tree::new(limit), BTreeSet::new());
            for (number, what) in ops {
                // Often near a border of words.
                let at = if number % 3 == 0 { number / 64 * 64 % limit } else { number % limit };
                if what == 0 {
                    tree.remove(at);
                    set.remove(&at);
                } else {
                    tree.insert(at);
                    set.insert(at);
                }
                for at in [at, at.saturating_sub(1), (at + 1).min(limit), number % limit] {
                    prop_assert_eq!(tree.contains(at), set.contains(&at));
                    prop_assert_eq!(tree.next(at), set.range(at..).next().copied());
                    prop_assert_eq!(tree.last_before(at), set.range(..at).next_back().copied());
                }
            }
        }
    }
}
