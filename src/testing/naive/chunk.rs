//! One chunk: maps as plain `bool`s, hints, and the rules of specification 10.
//!
//! # Design
//!
//! Every rule is written as its paragraph reads, with loops over single bits. Whatever concerns
//! pages is counted from the maps each time.
//!
//! # Units
//!
//! Bits and pages, signed. `p` is a page in bits, `b` a block in bits, `n` the chunk in bits.
//!
//! # Source
//!
//! Specification 10. Blocks larger than a page: `docs/free-geometry.md`.

use super::hints::{better_skip, overlap, up, Md};
use super::tally::{Look, Tally};
use super::Gen;
use crate::chunk::Role;
use crate::cost::Part;

/// The sizes, in bits.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub gen: Gen,
    /// Bytes of a bit.
    pub m: i64,
    /// Bits of a page.
    pub p: i64,
    /// Bits of a block.
    pub b: i64,
}

#[derive(Clone, Debug)]
pub struct Chunk {
    pub sizes: Sizes,
    pub base: u64,
    pub role: Role,
    pub free_bytes: i64,
    pub alloc: Vec<bool>,
    pub bound: Vec<bool>,
    pub blocks: Vec<Md>,
    /// The chunk-wide record; 4.14 uses `contig`, `contig_start` and `first` of it.
    pub md: Md,
    pub populated: Vec<bool>,
    pub nr_empty: i64,
    pub start_offset: i64,
    pub end_offset: i64,
    pub nr_alloc: i64,
    pub max_alloc_size: i64,
    pub isolated: bool,
    /// Work of the operation that runs.
    pub tally: Tally,
}

/// Lowest index from `off` on, below `size`, that has the value; `size` if none.
fn next(map: &[bool], value: bool, size: i64, off: i64, look: &mut Look) -> i64 {
    for at in off..size {
        look.at(at);
        if map[at as usize] == value {
            return at;
        }
    }
    size
}

/// The same where nobody counts.
fn peek(map: &[bool], value: bool, size: i64, off: i64) -> i64 {
    next(map, value, size, off, &mut Look::default())
}

/// Highest set index below `size`; `size` if none.
fn last_set(map: &[bool], size: i64, look: &mut Look) -> i64 {
    for at in (0..size).rev() {
        look.at(at);
        if map[at as usize] {
            return at;
        }
    }
    size
}

impl Chunk {
    /// A dynamic chunk of `nr_pages` pages (10 section 2).
    pub fn dynamic(sizes: Sizes, base: u64, nr_pages: i64) -> Self {
        let n = nr_pages * sizes.p;
        Chunk {
            sizes,
            base,
            role: Role::Dynamic,
            free_bytes: n * sizes.m,
            alloc: vec![false; n as usize],
            bound: vec![false; n as usize + 1],
            blocks: vec![Md::free(sizes.b); (n / sizes.b) as usize],
            md: Md::free(n),
            populated: vec![false; nr_pages as usize],
            nr_empty: 0,
            start_offset: 0,
            end_offset: 0,
            nr_alloc: 0,
            max_alloc_size: 0,
            isolated: false,
            tally: Tally::default(),
        }
    }

    /// A boot chunk that serves `size` bytes from byte `start_offset` on (10 section 2).
    pub fn boot(sizes: Sizes, base: u64, role: Role, start_offset: i64, size: i64) -> Self {
        let whole = sizes.p.max(sizes.b) * sizes.m;
        let region = up(start_offset + size, whole);
        let mut chunk = Chunk::dynamic(sizes, base, region / (sizes.p * sizes.m));
        chunk.role = role;
        chunk.start_offset = start_offset;
        chunk.end_offset = region - start_offset - size;
        chunk.free_bytes = size;
        chunk.populated.fill(true);
        let (head, tail, n) = (start_offset / sizes.m, chunk.end_offset / sizes.m, chunk.n());
        if sizes.gen == Gen::V4_14 {
            chunk.nr_empty = ((n - tail) / sizes.p - up(head, sizes.p) / sizes.p).max(0);
            chunk.md.contig = size / sizes.m;
        } else {
            chunk.nr_empty = chunk.nr_pages();
        }
        if head > 0 {
            chunk.set_area(0, head);
            chunk.md.first = head;
            chunk.hints_after_alloc(0, head);
        }
        if tail > 0 {
            chunk.set_area(n - tail, n);
            chunk.hints_after_alloc(n - tail, tail);
        }
        chunk.tally = Tally::default();
        chunk
    }

    fn since_5_2(&self) -> bool {
        self.sizes.gen != Gen::V4_14
    }

    /// Bits of the map.
    pub fn n(&self) -> i64 {
        self.alloc.len() as i64
    }

    pub fn nr_pages(&self) -> i64 {
        self.populated.len() as i64
    }

    pub fn nr_populated(&self) -> i64 {
        self.populated.iter().filter(|page| **page).count() as i64
    }

    fn block_map(&self, block: i64) -> &[bool] {
        let b = self.sizes.b;
        &self.alloc[(block * b) as usize..((block + 1) * b) as usize]
    }

    /// No bit of the page is allocated.
    pub fn page_is_empty(&self, page: i64) -> bool {
        let p = self.sizes.p;
        !self.alloc[(page * p) as usize..((page + 1) * p) as usize].contains(&true)
    }

    /// Populated pages without an allocated bit.
    fn count_empty(&self) -> i64 {
        (0..self.nr_pages()).filter(|page| self.populated[*page as usize] && self.page_is_empty(*page)).count() as i64
    }

    fn set_area(&mut self, start: i64, end: i64) {
        self.tally.touch(Part::AllocMap, start, end);
        self.tally.touch(Part::BoundMap, start, end + 1);
        self.alloc[start as usize..end as usize].fill(true);
        self.bound[start as usize..=end as usize].fill(false);
        self.bound[start as usize] = true;
        self.bound[end as usize] = true;
    }

    /// The live area that contains a bit.
    pub fn area_at(&self, bit: i64) -> Option<(i64, i64)> {
        let (head, tail) = (self.start_offset / self.sizes.m, self.end_offset / self.sizes.m);
        if bit < head || bit >= self.n() - tail || !self.alloc[bit as usize] {
            return None;
        }
        let start = (0..=bit).rev().find(|at| self.bound[*at as usize])?;
        Some((start, peek(&self.bound, true, self.n(), bit + 1)))
    }

    /// Maximal ranges of pages that are populated or not, within `from..to`.
    pub fn page_ranges(&self, value: bool, from: i64, to: i64) -> Vec<(i64, i64)> {
        let mut out = Vec::new();
        let mut at = peek(&self.populated, value, to, from);
        while at < to {
            let end = peek(&self.populated, !value, to, at);
            out.push((at, end));
            at = peek(&self.populated, value, to, end);
        }
        out
    }

    /// The chunk is examined.
    pub fn visit(&mut self) {
        self.tally.touch(Part::Record, 0, 1);
        self.tally.costs.chunks_visited += 1;
    }

    /// The worker has to do with the chunk.
    pub fn handle(&mut self) {
        self.tally.touch(Part::Record, 0, 1);
    }

    /// Goes over the pages `from..to`.
    pub fn look_at_pages(&mut self, from: i64, to: i64) {
        let mut look = Look::default();
        look.all(from, to);
        self.tally.search(Part::Populated, look);
    }

    /// The worker looks at the pages `from..to` and asks their blocks.
    pub fn look_for_empty_pages(&mut self, from: i64, to: i64) {
        self.look_at_pages(from, to);
        let Sizes { p, b, .. } = self.sizes;
        for page in from..to {
            self.tally.costs.blocks_visited += 1;
            self.tally.touch(Part::Blocks, page * p / b, page * p / b + 1);
        }
    }

    /// There is an aligned place for `alloc` bits, with `pop_only` on populated pages.
    pub fn has_place(&self, alloc: i64, align: i64, pop_only: bool) -> bool {
        let p = self.sizes.p;
        (0..self.n() - alloc + 1).step_by(align as usize).any(|at| {
            let pages = (at / p) as usize..up(at + alloc, p) as usize / p as usize;
            let taken = self.alloc[at as usize..(at + alloc) as usize].contains(&true);
            let refused = pop_only && self.populated[pages].contains(&false);
            !taken && !refused
        })
    }

    /// 20 section 6.
    pub fn mark_populated(&mut self, from: i64, to: i64, for_alloc: bool) {
        self.populated[from as usize..to as usize].fill(true);
        self.tally.touch(Part::Populated, from, to);
        if self.since_5_2() {
            self.nr_empty = self.count_empty();
        } else if !for_alloc {
            self.nr_empty += to - from;
        }
    }

    /// 21 section 3 step 2.
    pub fn mark_depopulated(&mut self, from: i64, to: i64) {
        self.populated[from as usize..to as usize].fill(false);
        self.tally.touch(Part::Populated, from, to);
        if self.since_5_2() {
            self.nr_empty = self.count_empty();
        } else {
            self.nr_empty -= to - from;
        }
    }

    /// 10 section 4.1.
    fn next_md_free_region(&self, off: i64, look: &mut Look) -> (i64, i64) {
        let b = self.sizes.b;
        let (mut off, mut len) = (off, 0);
        let (first, mut blk_off) = (off / b, off % b);
        for i in first..self.blocks.len() as i64 {
            look.at(i);
            let block = &self.blocks[i as usize];
            if len != 0 {
                len += block.left;
                if block.left == b {
                    continue;
                }
                return (off, len);
            }
            len = block.contig;
            if len != 0 && block.contig_start >= blk_off && block.contig_start + len < b {
                off = i * b + block.contig_start;
                return (off, len);
            }
            blk_off = 0;
            len = block.right;
            off = (i + 1) * b - block.right;
        }
        (off, len)
    }

    /// 10 section 4.2. `resumed`: the search goes on at a page border behind a place that was
    /// rejected; then nothing before `off` is offered (which is nothing new unless a block is
    /// larger than a page).
    fn next_fit_region(&self, alloc: i64, align: i64, off: i64, resumed: bool, look: &mut Look) -> (i64, i64) {
        let b = self.sizes.b;
        let (mut off, mut len) = (off, 0);
        let (first, mut blk_off) = (off / b, off % b);
        let mut floor = if resumed { blk_off } else { 0 };
        for i in first..self.blocks.len() as i64 {
            look.at(i);
            let block = &self.blocks[i as usize];
            if len != 0 {
                len += block.left;
                if len >= alloc {
                    return (off, len);
                }
                if block.left == b {
                    continue;
                }
            }
            let (mut contig, mut contig_start) = (block.contig, block.contig_start);
            let mut s = block.next_hint(self.sizes.gen, alloc);
            if contig_start < floor {
                contig = (contig_start + contig - floor).max(0);
                contig_start = floor;
            }
            s = s.max(floor);
            let pad = up(contig_start, align) - contig_start;
            if contig != 0 && contig_start >= blk_off && contig >= pad + alloc {
                len = pad + alloc + contig_start - s;
                off = i * b + s;
                return (off, len);
            }
            blk_off = 0;
            let e = up((b - block.right).max(floor), align);
            floor = 0;
            len = b - e;
            off = i * b + e;
            if len >= alloc {
                return (off, len);
            }
        }
        (self.n(), len)
    }

    /// 10 section 5.3.
    fn refresh_block(&mut self, i: i64) {
        let gen = self.sizes.gen;
        let map = self.block_map(i).to_vec();
        let mut look = Look::from(i * self.sizes.b);
        self.tally.costs.block_refreshes += 1;
        let block = &mut self.blocks[i as usize];
        let mut from;
        if gen == Gen::V4_14 {
            block.contig = 0;
            block.left = 0;
            block.right = 0;
            from = block.first;
        } else {
            if block.scan > 0 {
                from = block.scan_start + block.scan;
                block.contig_start = block.scan_start;
                block.contig = block.scan;
                block.scan = 0;
            } else {
                from = block.first;
                block.contig = 0;
            }
            block.right = 0;
        }
        let b = self.sizes.b;
        loop {
            let start = next(&map, false, b, from, &mut look);
            if start >= b {
                break;
            }
            let end = next(&map, true, b, start, &mut look);
            block.update(gen, start, end);
            from = end;
        }
        self.tally.search(Part::AllocMap, look);
    }

    /// 10 section 5.4.
    fn refresh_chunk(&mut self, full: bool) {
        let gen = self.sizes.gen;
        let mut off;
        if gen == Gen::V4_14 {
            self.md.contig = 0;
            off = self.md.first;
        } else if !full && self.md.scan > 0 {
            off = self.md.scan_start + self.md.scan;
            self.md.contig_start = self.md.scan_start;
            self.md.contig = self.md.scan;
            self.md.scan = 0;
        } else {
            off = self.md.first;
            self.md.contig = 0;
        }
        self.tally.costs.chunk_refreshes += 1;
        if gen == Gen::V4_14 {
            self.look_at_pages(off / self.sizes.p, self.nr_pages());
        }
        let mut look = Look::default();
        loop {
            let (start, len) = self.next_md_free_region(off, &mut look);
            if start >= self.n() {
                break;
            }
            if gen == Gen::V4_14 {
                self.md.offer(start, len);
            } else {
                self.md.update(gen, start, start + len);
            }
            off = start + len + 1;
        }
        self.tally.walk(look);
        if gen == Gen::V4_14 {
            self.nr_empty = self.count_empty();
        }
    }

    /// 10 section 6.1.
    pub fn find_block_fit(&mut self, alloc: i64, align: i64, pop_only: bool) -> Option<i64> {
        let pad = up(self.md.contig_start, align) - self.md.contig_start;
        if pad + alloc > self.md.contig {
            return None;
        }
        let p = self.sizes.p;
        let mut at = self.md.next_hint(self.sizes.gen, alloc);
        let mut resumed = false;
        loop {
            let mut look = Look::default();
            let (off, len) = self.next_fit_region(alloc, align, at, resumed, &mut look);
            self.tally.walk(look);
            if off >= self.n() {
                return None;
            }
            if !pop_only {
                return Some(off);
            }
            let (p0, p1) = (off / p, up(off + len, p) / p);
            let mut look = Look::default();
            let hole = next(&self.populated, false, p1, p0, &mut look);
            let page = next(&self.populated, true, p1, hole, &mut look);
            self.tally.search(Part::Populated, look);
            if hole >= p1 {
                return Some(off);
            }
            at = page * p;
            resumed = true;
        }
    }

    /// 10 section 6.2 up to step 6; the caller relocates. `pop_only`: a place that is not populated
    /// is none, which happens only with alignments above the block.
    pub fn alloc_area(&mut self, alloc: i64, align: i64, start: i64, pop_only: bool) -> Option<i64> {
        let (b, n) = (self.sizes.b, self.n());
        let end = (start + alloc + b).min(n);
        let mut at = start;
        let (mut skip, mut skip_len) = (0, 0);
        let mut look = Look::default();
        let found = loop {
            let i = up(next(&self.alloc, false, end, at, &mut look), align);
            if i + alloc > end {
                look.all(start, end);
                self.tally.search(Part::AllocMap, look);
                return None;
            }
            let j = next(&self.alloc, true, i + alloc, i, &mut look);
            if j >= i + alloc {
                break i;
            }
            let len = j - i;
            if len > skip_len || (len == skip_len && better_skip(i, skip)) {
                skip = i;
                skip_len = len;
            }
            at = j + 1;
        };
        let p = self.sizes.p;
        if pop_only && peek(&self.populated, false, up(found + alloc, p) / p, found / p) < up(found + alloc, p) / p {
            look.all(start, end);
            self.tally.search(Part::AllocMap, look);
            return None;
        }
        self.tally.search(Part::AllocMap, look);
        if self.since_5_2() && skip_len > 0 {
            let (blk, mut s) = (skip / b, skip % b);
            let e = s + skip_len;
            if e <= b {
                let mut look = Look::from(blk * b);
                let l = last_set(self.block_map(blk), s, &mut look);
                self.tally.search(Part::AllocMap, look);
                self.tally.touch(Part::Blocks, blk, blk + 1);
                s = if l == s { 0 } else { l + 1 };
                self.blocks[blk as usize].update(self.sizes.gen, s, e);
            }
        }
        self.set_area(found, found + alloc);
        self.free_bytes -= alloc * self.sizes.m;
        if found == self.md.first {
            let mut look = Look::default();
            self.md.first = next(&self.alloc, false, n, found + alloc, &mut look);
            self.tally.search(Part::AllocMap, look);
        }
        self.hints_after_alloc(found, alloc);
        Some(found)
    }

    /// 10 section 6.3. The map is up to date already.
    fn hints_after_alloc(&mut self, a: i64, n: i64) {
        let b = self.sizes.b;
        let new = self.since_5_2();
        let (si, ei) = (a / b, (a + n - 1) / b);
        let (so, eo) = (a % b, (a + n - 1) % b + 1);

        self.tally.touch(Part::Blocks, si, ei + 1);
        if so == self.blocks[si as usize].first {
            let mut look = Look::from(si * b);
            self.blocks[si as usize].first = next(self.block_map(si), false, b, so + n, &mut look);
            self.tally.search(Part::AllocMap, look);
        }
        let s = &mut self.blocks[si as usize];
        if new && overlap(s.scan_start, s.scan_start + s.scan, so, so + n) {
            self.tally.costs.hints_broken += u64::from(s.scan > 0);
            s.scan = 0;
        }
        let hit = if new {
            overlap(s.contig_start, s.contig_start + s.contig, so, so + n)
        } else {
            s.contig_start <= so && so < s.contig_start + s.contig
        };
        if hit {
            if new && so == 0 {
                s.left = 0;
            }
            self.tally.costs.hints_broken += u64::from(s.contig > 0);
            self.refresh_block(si);
        } else {
            s.left = s.left.min(so);
            s.right = if si == ei { s.right.min(b - eo) } else { 0 };
        }

        if si != ei {
            let mut look = Look::from(ei * b);
            let first = next(self.block_map(ei), false, b, eo, &mut look);
            self.tally.search(Part::AllocMap, look);
            let e = &mut self.blocks[ei as usize];
            e.first = first;
            let mut middle_end = ei;
            if eo == b {
                middle_end = ei + 1;
            } else {
                if new {
                    if eo > e.scan_start {
                        self.tally.costs.hints_broken += u64::from(e.scan > 0);
                        e.scan = 0;
                    }
                    e.left = 0;
                }
                if eo > e.contig_start {
                    self.tally.costs.hints_broken += u64::from(e.contig > 0);
                    self.refresh_block(ei);
                } else {
                    e.left = 0;
                    e.right = e.right.min(b - eo);
                }
            }
            for i in si + 1..middle_end {
                let block = &mut self.blocks[i as usize];
                block.contig = 0;
                block.left = 0;
                block.right = 0;
                if new {
                    block.scan = 0;
                }
            }
        }

        let md = &mut self.md;
        if new {
            if overlap(md.scan_start, md.scan_start + md.scan, a, a + n) {
                self.tally.costs.hints_broken += u64::from(md.scan > 0);
                md.scan = 0;
            }
            if overlap(md.contig_start, md.contig_start + md.contig, a, a + n) {
                self.tally.costs.hints_broken += u64::from(md.contig > 0);
                self.refresh_chunk(false);
            }
            self.nr_empty = self.count_empty();
        } else if md.contig_start <= a && a < md.contig_start + md.contig {
            self.tally.costs.hints_broken += 1;
            self.refresh_chunk(false);
        }
    }

    /// 10 section 7.1 without statistics; the caller relocates. Returns the size in bits.
    pub fn free_area(&mut self, a: i64) -> i64 {
        self.tally.touch(Part::Record, 0, 1);
        let mut look = Look::default();
        let end = next(&self.bound, true, self.n(), a + 1, &mut look);
        self.tally.search(Part::BoundMap, look);
        let n = end - a;
        self.alloc[a as usize..end as usize].fill(false);
        self.tally.touch(Part::AllocMap, a, end);
        self.free_bytes += n * self.sizes.m;
        self.md.first = self.md.first.min(a);
        self.hints_after_free(a, n);
        n
    }

    /// 10 section 7.2 and 7.3.
    fn hints_after_free(&mut self, a: i64, n: i64) {
        let b = self.sizes.b;
        let gen = self.sizes.gen;
        let new = self.since_5_2();
        let (si, ei) = (a / b, (a + n - 1) / b);
        let (so, eo) = (a % b, (a + n - 1) % b + 1);

        self.tally.touch(Part::Blocks, si, ei + 1);
        let s = &self.blocks[si as usize];
        let start = if so == s.contig + s.contig_start {
            s.contig_start
        } else {
            let mut look = Look::from(si * b);
            let l = last_set(self.block_map(si), so, &mut look);
            self.tally.search(Part::AllocMap, look);
            if l == so {
                0
            } else {
                l + 1
            }
        };
        let e = &self.blocks[ei as usize];
        let end = if eo == e.contig_start {
            e.contig_start + e.contig
        } else {
            let mut look = Look::from(ei * b);
            let end = next(self.block_map(ei), true, b, eo, &mut look);
            self.tally.search(Part::AllocMap, look);
            end
        };
        self.blocks[si as usize].update(gen, start, if si == ei { end } else { b });
        if si != ei {
            self.blocks[ei as usize].update(gen, 0, end);
            for i in si + 1..ei {
                let block = &mut self.blocks[i as usize];
                block.first = 0;
                block.contig = b;
                block.contig_start = 0;
                block.left = b;
                block.right = b;
                if new {
                    block.scan = 0;
                }
            }
        }
        if new {
            if end - start >= b || si != ei {
                self.refresh_chunk(true);
            } else {
                self.md.update(gen, si * b + start, end);
            }
            self.nr_empty = self.count_empty();
        } else if si != ei || self.region_became_free(si, start, end) {
            self.refresh_chunk(true);
        } else {
            self.md.offer(si * b + start, self.blocks[si as usize].contig);
        }
    }

    /// 10 section 7.3 [4.14]: the free run `start..end` of block `block`, now that an area of it
    /// was freed, holds a whole page (a whole block where that is smaller).
    fn region_became_free(&self, block: i64, start: i64, end: i64) -> bool {
        let (p, b) = (self.sizes.p, self.sizes.b);
        if b <= p {
            return start == 0 && end == b;
        }
        let pages = b / p;
        (block * pages..(block + 1) * pages)
            .any(|page| start <= page * p - block * b && (page + 1) * p - block * b <= end && self.page_is_empty(page))
    }
}
