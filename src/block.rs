//! Block hints: a summary of one stretch of the allocation map.
//!
//! # Design
//!
//! A block describes `nr_bits` consecutive bits of a chunk's map, so that a search can
//! pass over it without reading the map. The same record, with the whole map as its
//! stretch, is the chunk-wide hint.
//!
//! ```text
//! XX...XXXX.....XX..      X = allocated
//!   |       |     |
//!   |       contig_hint 5 @ contig_hint_start 9: the largest known free run
//!   |             right_free 2: free run at the right edge (left_free 0: none at the left)
//!   first_free 2: nothing below is free
//!   scan_hint 3 @ scan_hint_start 2: a smaller run before it (since 5.2)
//! ```
//!
//! # Units
//!
//! Bits, relative to the stretch. Signed, as in the kernel: one update receives a
//! negative length (specification 10 section 7.3).
//!
//! # Invariants
//!
//! Stale starts are state: when a length becomes 0 its start is kept, and later
//! comparisons use it. What each hint promises is checked by
//! [`Chunk::verify`](crate::chunk::Chunk::verify).
//!
//! # Source
//!
//! Specification 10 sections 1, 4.3 and 5.1.

use crate::variant::Rules;

/// Hints of one stretch of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Block {
    /// Length of a free run that is at most as long as the contig run; 0 = none. Lower bound.
    pub scan_hint: i32,
    /// Its start; stale while the length is 0.
    pub scan_hint_start: i32,
    /// Length of the largest known free run. Exact in 4.14, a lower bound since 5.2.
    pub contig_hint: i32,
    /// Its start; stale while the length is 0.
    pub contig_hint_start: i32,
    /// Length of the free run at the left edge. Exact in blocks.
    pub left_free: i32,
    /// Length of the free run at the right edge. Exact, or 0 since 5.2.
    pub right_free: i32,
    /// Nothing below it is free. Exact unless the block is full.
    pub first_free: i32,
    /// Length of the stretch.
    pub nr_bits: i32,
}

/// True if the ranges `[a, b)` and `[x, y)` share a bit.
#[inline]
pub fn overlaps(a: i32, b: i32, x: i32, y: i32) -> bool {
    a < y && x < b
}

/// True if `start` is better aligned than `other`.
#[inline]
fn better_aligned(start: i32, other: i32) -> bool {
    other != 0 && (start == 0 || start.trailing_zeros() > other.trailing_zeros())
}

impl Block {
    /// The hints of a free stretch.
    pub const fn free(nr_bits: i32) -> Self {
        Self {
            scan_hint: 0,
            scan_hint_start: 0,
            contig_hint: nr_bits,
            contig_hint_start: 0,
            left_free: nr_bits,
            right_free: nr_bits,
            first_free: 0,
            nr_bits,
        }
    }

    /// True if the contig hint covers the whole stretch: then all of it is free.
    #[inline(always)]
    pub fn is_free(&self) -> bool {
        self.contig_hint == self.nr_bits
    }

    /// Where a search for `bits` starts.
    #[inline(always)]
    pub fn next_hint(&self, bits: i32, rules: &Rules) -> i32 {
        if rules.scan_hints
            && self.scan_hint > 0
            && self.contig_hint_start > self.scan_hint_start
            && bits > self.scan_hint
        {
            self.scan_hint_start + self.scan_hint
        } else {
            self.first_free
        }
    }

    /// Records the free run `[start, end)`.
    #[inline(always)]
    pub fn update(&mut self, start: i32, end: i32, rules: &Rules) {
        let len = end - start;
        self.first_free = self.first_free.min(start);
        if start == 0 {
            self.left_free = len;
        }
        if end == self.nr_bits {
            self.right_free = len;
        }
        if rules.scan_hints {
            self.offer(start, len);
        } else {
            self.offer_contig(start, len);
        }
    }

    /// Offers a free run to the contig hint alone (to 5.1, and chunk-wide there).
    #[inline(always)]
    pub fn offer_contig(&mut self, start: i32, len: i32) {
        if len > self.contig_hint {
            self.contig_hint = len;
            self.contig_hint_start = start;
        } else if len == self.contig_hint && better_aligned(start, self.contig_hint_start) {
            self.contig_hint_start = start;
        }
    }

    /// Offers a free run to contig and scan hint (since 5.2). `scan_hint_start` is used even
    /// when it is stale.
    #[inline(always)]
    fn offer(&mut self, start: i32, len: i32) {
        if len > self.contig_hint {
            if start <= self.contig_hint_start {
                self.scan_hint = 0;
            } else if self.contig_hint > self.scan_hint {
                self.scan_hint = self.contig_hint;
                self.scan_hint_start = self.contig_hint_start;
            } else if start < self.scan_hint_start {
                self.scan_hint = 0;
            }
            self.contig_hint = len;
            self.contig_hint_start = start;
        } else if len == self.contig_hint {
            if better_aligned(start, self.contig_hint_start) {
                // Kernel: the old contig run is not kept as scan hint.
                self.contig_hint_start = start;
                if start < self.scan_hint_start && len > self.scan_hint {
                    self.scan_hint = 0;
                }
            } else if start > self.scan_hint_start || len > self.scan_hint {
                self.scan_hint = len;
                self.scan_hint_start = start;
            }
        } else if start < self.contig_hint_start
            && (len > self.scan_hint || (len == self.scan_hint && start > self.scan_hint_start))
        {
            self.scan_hint = len;
            self.scan_hint_start = start;
        }
    }

    /// Makes the scan hint the contig hint and returns where rescanning starts; `None` if
    /// there is no scan hint.
    #[inline(always)]
    pub fn promote_scan_hint(&mut self) -> Option<i32> {
        if self.scan_hint == 0 {
            return None;
        }
        let from = self.scan_hint_start + self.scan_hint;
        self.contig_hint_start = self.scan_hint_start;
        self.contig_hint = self.scan_hint;
        self.scan_hint = 0;
        Some(from)
    }

    /// Forgets the scan hint if it overlaps `[start, end)`.
    #[inline(always)]
    pub fn break_scan_hint(&mut self, start: i32, end: i32) {
        if overlaps(self.scan_hint_start, self.scan_hint_start + self.scan_hint, start, end) {
            self.scan_hint = 0;
        }
    }

    /// True if an allocation of `[start, end)` makes the contig hint wrong.
    #[inline(always)]
    pub fn contig_hit(&self, start: i32, end: i32, rules: &Rules) -> bool {
        let (from, to) = (self.contig_hint_start, self.contig_hint_start + self.contig_hint);
        if rules.hint_overlap {
            overlaps(from, to, start, end)
        } else {
            from <= start && start < to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Rules = Rules::LINUX_5_2;

    fn block(contig: (i32, i32), scan: (i32, i32)) -> Block {
        Block {
            contig_hint: contig.0,
            contig_hint_start: contig.1,
            scan_hint: scan.0,
            scan_hint_start: scan.1,
            left_free: 0,
            right_free: 0,
            first_free: 0,
            nr_bits: 64,
        }
    }

    /// One row a case of the table in specification 10 section 5.1.
    #[test]
    fn update_table() {
        #[rustfmt::skip]
        let rows = [
            // contig   scan      offered     contig    scan after
            ((4, 8),  (2, 2),  (20, 26),  (6, 20),  (4, 8)),   // larger, behind, old contig kept
            ((4, 8),  (4, 30), (20, 26),  (6, 20),  (0, 30)),  // larger, behind contig, before scan
            ((4, 8),  (4, 10), (20, 26),  (6, 20),  (4, 10)),  // larger, behind both
            ((4, 8),  (2, 2),  (0, 6),    (6, 0),   (0, 2)),   // larger, before contig
            ((4, 9),  (2, 20), (16, 20),  (4, 16),  (0, 20)),  // equal, better aligned, before scan
            ((4, 9),  (2, 2),  (16, 20),  (4, 16),  (2, 2)),   // equal, better aligned, behind scan
            ((4, 8),  (2, 2),  (21, 25),  (4, 8),   (4, 21)),  // equal, not better
            ((4, 8),  (4, 30), (21, 25),  (4, 8),   (4, 30)),  // equal, not better, nothing
            ((4, 20), (2, 2),  (10, 13),  (4, 20),  (3, 10)),  // smaller, before contig, larger than scan
            ((4, 20), (2, 2),  (10, 12),  (4, 20),  (2, 10)),  // smaller, equal to scan, behind it
            ((4, 20), (2, 12), (10, 12),  (4, 20),  (2, 12)),  // smaller, equal to scan, before it
            ((4, 8),  (2, 2),  (20, 23),  (4, 8),   (2, 2)),   // smaller, behind contig
            ((4, 20), (0, 7),  (10, 8),   (4, 20),  (0, 7)),   // negative length
        ];
        for (contig, scan, offered, contig_after, scan_after) in rows {
            let mut b = block(contig, scan);
            b.update(offered.0, offered.1, &NEW);
            assert_eq!((b.contig_hint, b.contig_hint_start), contig_after, "{contig:?} {scan:?} {offered:?}");
            assert_eq!((b.scan_hint, b.scan_hint_start), scan_after, "{contig:?} {scan:?} {offered:?}");
        }
    }

    #[test]
    fn edges_are_recorded() {
        let mut b = block((0, 0), (0, 0));
        b.first_free = 64;
        b.update(60, 64, &NEW);
        assert_eq!((b.left_free, b.right_free, b.first_free), (0, 4, 60));
        b.update(0, 2, &NEW);
        assert_eq!((b.left_free, b.right_free, b.first_free), (2, 4, 0));
    }
}
