//! Hints of one block, in the words of the specification.
//!
//! # Units
//!
//! Bits from the start of the block (of the chunk for the chunk-wide record), all signed.
//!
//! # Source
//!
//! Specification 10 sections 1, 4.3, 5.1.

use super::Gen;

/// A block record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Md {
    /// `scan_hint`.
    pub scan: i64,
    /// `scan_hint_start`; stale while `scan` is 0.
    pub scan_start: i64,
    /// `contig_hint`.
    pub contig: i64,
    /// `contig_hint_start`; stale while `contig` is 0.
    pub contig_start: i64,
    /// `left_free`.
    pub left: i64,
    /// `right_free`.
    pub right: i64,
    /// `first_free`.
    pub first: i64,
    /// `nr_bits`.
    pub bits: i64,
}

/// Two half-open intervals share a bit.
pub fn overlap(a: i64, b: i64, x: i64, y: i64) -> bool {
    a < y && x < b
}

/// Rounds `x` up to a multiple of `a`, a power of two.
pub fn up(x: i64, a: i64) -> i64 {
    (x + a - 1) / a * a
}

/// The start `a` is aligned better than the start `b`.
fn better(a: i64, b: i64) -> bool {
    b != 0 && (a == 0 || a.trailing_zeros() > b.trailing_zeros())
}

/// Whether an area skipped by a search replaces the one remembered, both of the same length.
pub fn better_skip(new: i64, old: i64) -> bool {
    better(new, old)
}

impl Md {
    /// A block without allocations.
    pub fn free(bits: i64) -> Self {
        Md { scan: 0, scan_start: 0, contig: bits, contig_start: 0, left: bits, right: bits, first: 0, bits }
    }

    /// Where a search for `alloc` bits starts (10 section 4.3).
    pub fn next_hint(&self, gen: Gen, alloc: i64) -> i64 {
        if gen != Gen::V4_14 && self.scan > 0 && self.contig_start > self.scan_start && alloc > self.scan {
            self.scan_start + self.scan
        } else {
            self.first
        }
    }

    /// Records the free run `start..end` (10 section 5.1).
    pub fn update(&mut self, gen: Gen, start: i64, end: i64) {
        let c = end - start;
        self.first = self.first.min(start);
        if start == 0 {
            self.left = c;
        }
        if end == self.bits {
            self.right = c;
        }
        if gen == Gen::V4_14 {
            self.offer(start, c);
            return;
        }
        // The table, row by row.
        if c > self.contig {
            if start > self.contig_start {
                if self.contig > self.scan {
                    self.scan = self.contig;
                    self.scan_start = self.contig_start;
                } else if start < self.scan_start {
                    self.scan = 0;
                }
            } else {
                self.scan = 0;
            }
            self.contig = c;
            self.contig_start = start;
        } else if c == self.contig {
            if better(start, self.contig_start) {
                self.contig_start = start;
                if start < self.scan_start && self.contig > self.scan {
                    self.scan = 0;
                }
            } else if start > self.scan_start || self.contig > self.scan {
                self.scan = c;
                self.scan_start = start;
            }
        } else if start < self.contig_start && (c > self.scan || (c == self.scan && start > self.scan_start)) {
            self.scan = c;
            self.scan_start = start;
        }
    }

    /// The contig half of the update, which 4.14 also applies to the chunk (10 section 5.2).
    pub fn offer(&mut self, start: i64, c: i64) {
        if c > self.contig {
            self.contig = c;
            self.contig_start = start;
        } else if c == self.contig && better(start, self.contig_start) {
            self.contig_start = start;
        }
    }
}
