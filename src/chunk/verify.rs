//! Rescanning a chunk: every invariant of blocks and chunk, by name.
//!
//! The names are those of `docs/design.md`.
//!
//! Source: specification 90 sections 1, 3 and 4.

use super::{Chunk, Context, Role};
use crate::bitmap;
use crate::block::Block;
use crate::error::{ensure_invariant, Violation};
use crate::units::Bits;

/// The maximal clear runs of a stretch, relative to it.
struct Runs(Vec<(i32, i32)>);

impl Runs {
    /// Room for those of a block: verifying goes over many, after each operation.
    fn new() -> Self {
        Self(Vec::with_capacity(32))
    }

    fn find(&mut self, map: &[u64], from: u32, to: u32) {
        self.0.clear();
        self.0.extend(bitmap::clear_runs(map, from, to).map(|(s, e)| ((s - from) as i32, (e - from) as i32)));
    }

    fn longest(&self) -> i32 {
        self.0.iter().map(|(s, e)| e - s).max().unwrap_or(0)
    }

    fn at_left(&self) -> i32 {
        self.0.first().filter(|(s, _)| *s == 0).map_or(0, |(_, e)| *e)
    }

    fn at_right(&self, size: i32) -> i32 {
        self.0.last().filter(|(_, e)| *e == size).map_or(0, |(s, e)| e - s)
    }

    fn contains(&self, start: i32, len: i32) -> bool {
        self.0.iter().any(|(s, e)| *s <= start && start + len <= *e)
    }

    fn is_run(&self, start: i32, len: i32) -> bool {
        self.0.contains(&(start, start + len))
    }
}

fn alignment(start: i32) -> u32 {
    if start == 0 {
        u32::MAX
    } else {
        start.trailing_zeros()
    }
}

impl Chunk {
    /// Rescans maps, hints and counters and compares them with what is kept.
    pub fn verify(&self, ctx: &Context) -> Result<(), Violation> {
        self.verify_accounts(ctx)?;
        let mut runs = Runs::new();
        for (index, block) in (0u32..).zip(self.blocks.iter()) {
            let bits = ctx.geometry.block_bits();
            runs.find(&self.alloc_map, index * bits, (index + 1) * bits);
            self.verify_block(ctx, index, block, &runs)?;
        }
        self.verify_empty_pages(ctx)?;
        runs.find(&self.alloc_map, 0, self.nr_bits().0);
        self.verify_hints(ctx, &runs)
    }

    /// The part of [`Chunk::verify`] that no hint is part of: what a state from elsewhere must fulfil.
    pub fn verify_accounts(&self, ctx: &Context) -> Result<(), Violation> {
        self.verify_shape(ctx)?;
        self.verify_maps(ctx)?;
        self.verify_pages(ctx)?;
        self.verify_free_blocks(ctx)
    }

    /// A block's hints say that it is wholly free if and only if it is: page counts rest on that.
    fn verify_free_blocks(&self, ctx: &Context) -> Result<(), Violation> {
        let bits = ctx.geometry.block_bits();
        for (index, block) in (0u32..).zip(self.blocks.iter()) {
            let end = (index + 1) * bits;
            let free = bitmap::next_set(&self.alloc_map, end, index * bits) >= end;
            let whole =
                block.nr_bits == bits as i32 && block.left_free == block.nr_bits && block.right_free == block.nr_bits;
            ensure_invariant!(
                free == block.is_free() && (whole || !free),
                "B4-contig-hint",
                "block {index} {block:?}: wholly free {free}"
            );
        }
        Ok(())
    }

    fn verify_shape(&self, ctx: &Context) -> Result<(), Violation> {
        let g = &ctx.geometry;
        let nr_bits = self.nr_bits().0;
        let lengths = [
            (nr_bits, g.pages_to_bits(self.nr_pages()).0),
            (self.alloc_map.len() as u32, bitmap::words_for(nr_bits) as u32),
            (self.bound_map.len() as u32, bitmap::words_for(nr_bits + 1) as u32),
            (self.blocks.len() as u32, nr_bits / g.block_bits()),
            (self.populated.len() as u32, bitmap::words_for(self.nr_pages) as u32),
        ];
        ensure_invariant!(lengths.iter().all(|(a, b)| a == b), "C17-nr-bits", "(found, wanted) {lengths:?}");
        Ok(())
    }

    fn verify_block(&self, ctx: &Context, index: u32, block: &Block, runs: &Runs) -> Result<(), Violation> {
        let size = ctx.geometry.block_bits() as i32;
        let longest = runs.longest();
        let full = longest == 0;
        let exact = !ctx.rules.scan_hints;
        let at = |what: &str| format!("block {index} {block:?}: {what}; longest run {longest}");
        ensure_invariant!(block.nr_bits == size, "B11-nr-bits", "{}", at("nr_bits"));
        let (left, right) = (runs.at_left(), runs.at_right(size));
        // Kernel: since 5.2 a refresh keeps the left edge. An allocation inside a run at the edge leaves it too
        // long if a scan hint is promoted, so that it promises nothing (10 section 5.3).
        ensure_invariant!(
            block.left_free == left || (!exact && (0..=size).contains(&block.left_free)),
            "B1-left-free",
            "{}",
            at(&format!("left edge is {left}"))
        );
        // Since 5.2 a lower bound: a promoted scan hint need not be a whole run, and what is recorded behind it
        // is then cut short.
        ensure_invariant!(
            block.right_free == right || (!exact && (0..right).contains(&block.right_free)),
            "B2-right-free",
            "{}",
            at(&format!("right edge is {right}"))
        );
        let first = runs.0.first().map(|(s, _)| *s);
        ensure_invariant!(
            match first {
                Some(first) => block.first_free == first,
                None => (0..=size).contains(&block.first_free),
            },
            "B3-first-free",
            "{}",
            at(&format!("first free bit is {first:?}"))
        );
        ensure_invariant!(
            block.contig_hint <= longest && (!exact || block.contig_hint == longest),
            "B4-contig-hint",
            "{}",
            at("contig_hint")
        );
        ensure_invariant!((block.contig_hint == 0) == full, "B7-contig-zero", "{}", at("contig_hint"));
        let (start, len) = (block.contig_hint_start, block.contig_hint);
        ensure_invariant!(
            len == 0 || if exact { runs.is_run(start, len) } else { runs.contains(start, len) },
            "B5-contig-range",
            "{}",
            at("the contig range is not free")
        );
        if exact {
            let better = runs.0.iter().any(|(s, e)| e - s == len && alignment(*s) > alignment(start));
            ensure_invariant!(len == 0 || !better, "B6-contig-aligned", "{}", at("a better aligned run exists"));
            return Ok(());
        }
        ensure_invariant!(block.scan_hint <= len, "B8-scan-hint", "{}", at("scan_hint above contig_hint"));
        ensure_invariant!(
            block.scan_hint == 0 || runs.contains(block.scan_hint_start, block.scan_hint),
            "B9-scan-range",
            "{}",
            at("the scan range is not free")
        );
        ensure_invariant!(
            block.scan_hint == 0 || block.scan_hint_start <= start || block.scan_hint == len,
            "B10-scan-order",
            "{}",
            at("scan hint behind a longer contig hint")
        );
        Ok(())
    }

    fn verify_maps(&self, ctx: &Context) -> Result<(), Violation> {
        let nr_bits = self.nr_bits().0;
        let clear = nr_bits - bitmap::count_set(&self.alloc_map, 0, nr_bits);
        let free = ctx.geometry.bits_to_bytes(Bits(clear)).0;
        ensure_invariant!(
            u64::from(self.free_bytes) == free,
            "C1-free-bytes",
            "free_bytes {} but {free} bytes are clear",
            self.free_bytes
        );
        let served = self.served(ctx);
        let hidden = |from, to| bitmap::next_zero(&self.alloc_map, to, from) >= to;
        ensure_invariant!(
            served.start <= served.end && hidden(0, served.start) && hidden(served.end, nr_bits),
            "C2-hidden-ends",
            "served {served:?} of {nr_bits} bits"
        );
        let marked = |bit: u32| bitmap::test(&self.bound_map, bit);
        let inside = |bit: u32| {
            (1..nr_bits).contains(&bit) && [bit - 1, bit].iter().all(|bit| bitmap::test(&self.alloc_map, *bit))
        };
        if !bitmap::runs_are_marked(&self.alloc_map, &self.bound_map) {
            for (start, end) in bitmap::set_runs(&self.alloc_map, 0, nr_bits) {
                ensure_invariant!(
                    marked(start) && marked(end),
                    "C3-bounds",
                    "allocated stretch {start}..{end} without boundaries"
                );
            }
        }
        for end in [served.start, served.end] {
            ensure_invariant!(!inside(end) || marked(end), "C3-bounds", "the hidden end at {end} is no boundary");
        }
        let areas = self.count_areas(ctx);
        ensure_invariant!(areas == self.nr_alloc, "C4-nr-alloc", "nr_alloc {} but {areas} live areas", self.nr_alloc);
        // An area of n bits has n - 1 of them behind its boundary.
        let most = self.max_alloc_size / ctx.geometry.min_alloc_size().0 as u32;
        let longer = match most {
            0 => areas > 0,
            most => bitmap::has_unmarked_run(&self.alloc_map, &self.bound_map, served.start, served.end, most),
        };
        ensure_invariant!(
            !longer,
            "C18-max-alloc-size",
            "max_alloc_size {} but a live area is larger",
            self.max_alloc_size
        );
        Ok(())
    }

    fn verify_pages(&self, ctx: &Context) -> Result<(), Violation> {
        let counted = bitmap::count_set(&self.populated, 0, self.nr_pages);
        ensure_invariant!(
            counted == self.nr_populated,
            "C6-nr-populated",
            "nr_populated {} but {counted} pages are",
            self.nr_populated
        );
        ensure_invariant!(
            self.role == Role::Dynamic || counted == self.nr_pages,
            "C7-immutable-populated",
            "{counted} of {} pages of a boot chunk are populated",
            self.nr_pages
        );
        for page in 0..self.nr_pages {
            ensure_invariant!(
                bitmap::test(&self.populated, page) || self.page_is_free(ctx, page),
                "C5-live-populated",
                "page {page} is in use and not populated"
            );
        }
        Ok(())
    }

    fn verify_empty_pages(&self, ctx: &Context) -> Result<(), Violation> {
        let is_empty = |page: &u32| bitmap::test(&self.populated, *page) && self.page_is_free(ctx, *page);
        let empty = (0..self.nr_pages).filter(is_empty).count() as i32;
        let exact = ctx.rules.exact_empty_pages;
        ensure_invariant!(
            self.nr_empty_pop_pages == empty
                || (!exact && (self.nr_empty_pop_pages > empty || !ctx.geometry.block_is_page())),
            "C8-empty-pages",
            "nr_empty_pop_pages {} but {empty} populated pages are empty",
            self.nr_empty_pop_pages
        );
        Ok(())
    }

    fn verify_hints(&self, ctx: &Context, runs: &Runs) -> Result<(), Violation> {
        let nr_bits = self.nr_bits().0;
        let md = &self.md;
        let first = bitmap::next_zero(&self.alloc_map, nr_bits, 0);
        ensure_invariant!(
            md.first_free == first as i32,
            "C9-first-free",
            "first_free {} but the first clear bit is {first}",
            md.first_free
        );
        if !ctx.rules.scan_hints {
            ensure_invariant!(
                (0..=md.nr_bits).contains(&md.contig_hint) && (0..=md.nr_bits).contains(&md.contig_hint_start),
                "C16-contig-bits",
                "{md:?}"
            );
            let largest = self.blocks.iter().map(|block| block.contig_hint).max().unwrap_or(0);
            ensure_invariant!(
                md.contig_hint >= largest || !ctx.geometry.block_is_page(),
                "C15-contig-covers-blocks",
                "{md:?} but a block has {largest}"
            );
            return Ok(());
        }
        let longest = runs.longest();
        ensure_invariant!(md.contig_hint <= longest, "C10-contig-hint", "{md:?}; longest run {longest}");
        ensure_invariant!(
            md.contig_hint == 0 || runs.contains(md.contig_hint_start, md.contig_hint),
            "C11-contig-range",
            "{md:?}"
        );
        ensure_invariant!(md.scan_hint <= md.contig_hint, "C12-scan-hint", "{md:?}");
        ensure_invariant!(
            md.scan_hint == 0 || runs.contains(md.scan_hint_start, md.scan_hint),
            "C13-scan-range",
            "{md:?}"
        );
        ensure_invariant!(
            md.scan_hint == 0 || md.scan_hint_start <= md.contig_hint_start || md.scan_hint == md.contig_hint,
            "C14-scan-order",
            "{md:?}"
        );
        Ok(())
    }
}
