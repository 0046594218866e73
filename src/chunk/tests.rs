//! The worked examples of specification 10, with blocks of 8 and 16 bits.

use super::*;
use crate::units::Bits;

fn context(block_bits: u64, blocks: u64, rules: Rules) -> Context {
    let block = Bytes(block_bits * 4);
    Context { geometry: Geometry::new(block, Bytes(4), block, Bytes(block.0 * blocks), 1).unwrap(), rules }
}

fn populated(ctx: &Context) -> Chunk {
    let mut chunk = Chunk::new(ctx, 0);
    let pages = chunk.nr_pages;
    chunk.mark_populated(ctx, 0, pages, false);
    chunk
}

/// Allocates `bits` at `align`: where the search started and what it found.
fn alloc(chunk: &mut Chunk, ctx: &Context, bits: u32, align: u32) -> Option<(u32, u32)> {
    let start = chunk.find_block_fit(ctx, bits, align, false)?;
    let Bits(off) = chunk.alloc_area(ctx, bits, align, start, false).expect("the hints promised a fit");
    chunk.nr_alloc += 1;
    chunk.max_alloc_size = chunk.max_alloc_size.max(bits * 4);
    chunk.verify(ctx).unwrap();
    Some((start, off))
}

fn free(chunk: &mut Chunk, ctx: &Context, off: u32) {
    chunk.free_area(ctx, off, None);
    chunk.nr_alloc -= 1;
    chunk.verify(ctx).unwrap();
}

fn map(chunk: &Chunk, from: u32, to: u32) -> String {
    (from..to).map(|bit| if bitmap::test(&chunk.alloc_map, bit) { 'X' } else { '.' }).collect()
}

/// Section 2: hidden ends.
#[test]
fn boot_chunk_hides_its_ends() {
    for rules in [Rules::LINUX_4_14, Rules::LINUX_5_2, Rules::LINUX_5_14] {
        let ctx = context(8, 4, rules);
        let chunk = Chunk::boot(&ctx, 0, Role::First, Bytes(20), Bytes(64));
        assert_eq!(map(&chunk, 0, 24), "XXXXX................XXX");
        let rows: Vec<_> = chunk
            .blocks
            .iter()
            .map(|b| (b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free))
            .collect();
        assert_eq!(rows, [(3, 5, 0, 3, 5), (8, 0, 8, 8, 0), (5, 0, 5, 0, 0)]);
        assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start, chunk.md.first_free), (16, 5, 5));
        assert_eq!(chunk.nr_empty_pop_pages, 1);
        if rules.scan_hints {
            assert_eq!((chunk.md.left_free, chunk.md.right_free), (24, 19));
        }
        chunk.verify(&ctx).unwrap();
    }
}

/// Section 6.3: the sequence with scan hints.
#[test]
fn worked_sequence_with_scan_hints() {
    let ctx = context(16, 2, Rules::LINUX_5_2);
    let mut chunk = populated(&ctx);
    #[rustfmt::skip]
    let rows = [
        // bits align  start off   block 0             contig   scan    right first chunk contig, scan
        ((1, 1), (0, 0),   "X...............", (15, 1), (0, 0), 15, 1, (31, 1),  (0, 0)),
        ((2, 4), (1, 4),   "X...XX..........", (10, 6), (3, 1), 10, 1, (26, 6),  (0, 0)),
        ((3, 8), (1, 8),   "X...XX..XXX.....", (5, 11), (3, 1), 5,  1, (21, 11), (0, 0)),
        ((5, 1), (4, 11),  "X...XX..XXXXXXXX", (3, 1),  (0, 1), 0,  1, (16, 16), (3, 1)),
        ((2, 1), (1, 1),   "XXX.XX..XXXXXXXX", (2, 6),  (1, 3), 0,  3, (16, 16), (0, 1)),
    ];
    for (request, placed, bits, contig, scan, right, first, chunk_contig, chunk_scan) in rows {
        assert_eq!(alloc(&mut chunk, &ctx, request.0, request.1), Some(placed), "{request:?}");
        assert_eq!(map(&chunk, 0, 16), bits);
        let b = chunk.blocks[0];
        assert_eq!((b.contig_hint, b.contig_hint_start), contig, "{request:?} contig");
        assert_eq!((b.scan_hint, b.scan_hint_start), scan, "{request:?} scan");
        assert_eq!((b.right_free, b.first_free), (right, first), "{request:?} right, first");
        let md = chunk.md;
        assert_eq!((md.contig_hint, md.contig_hint_start), chunk_contig, "{request:?} chunk contig");
        assert_eq!((md.scan_hint, md.scan_hint_start), chunk_scan, "{request:?} chunk scan");
    }
}

/// Section 6.3, quirk R: a promoted scan run hides the right edge.
#[test]
fn right_edge_is_lost_after_promotion() {
    let ctx = context(8, 2, Rules::LINUX_5_2);
    let mut chunk = populated(&ctx);
    for (request, off) in [((1, 1), 0), ((1, 4), 4), ((1, 1), 1)] {
        assert_eq!(alloc(&mut chunk, &ctx, request.0, request.1).unwrap().1, off);
    }
    let b = chunk.blocks[0];
    assert_eq!(map(&chunk, 0, 8), "XX..X...");
    assert_eq!((b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free), (3, 5, 0, 0, 2));
    assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start), (11, 5));
}

/// Section 6.3: the chunk hint of 4.14 may promise more than there is.
#[test]
fn chunk_hint_of_4_14_is_unsound() {
    let ctx = context(8, 2, Rules::LINUX_4_14);
    let mut chunk = populated(&ctx);
    assert_eq!(alloc(&mut chunk, &ctx, 5, 2).unwrap().1, 0);
    assert_eq!(alloc(&mut chunk, &ctx, 1, 2).unwrap().1, 6);
    free(&mut chunk, &ctx, 6);
    assert_eq!(alloc(&mut chunk, &ctx, 4, 1).unwrap().1, 5);
    assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start), (9, 7));
    assert_eq!(map(&chunk, 0, 16), "XXXXXXXXX.......");
}

/// Section 7.3: what a free inside one block tells the chunk.
#[test]
fn chunk_hint_on_free() {
    let ctx = context(8, 2, Rules::LINUX_4_14);
    let mut chunk = populated(&ctx);
    for (request, off) in [((8, 1), 0), ((2, 1), 8), ((3, 1), 10)] {
        assert_eq!(alloc(&mut chunk, &ctx, request.0, request.1).unwrap().1, off);
    }
    free(&mut chunk, &ctx, 8);
    assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start), (3, 8), "the length of a foreign run");

    let ctx = context(8, 2, Rules::LINUX_5_2);
    let mut chunk = populated(&ctx);
    assert_eq!(alloc(&mut chunk, &ctx, 10, 1).unwrap().1, 0);
    assert_eq!(alloc(&mut chunk, &ctx, 2, 1).unwrap().1, 10);
    free(&mut chunk, &ctx, 10);
    assert_eq!((chunk.blocks[1].contig_hint, chunk.blocks[1].contig_hint_start), (6, 2));
    assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start), (4, 12), "never raised");
}

/// Section 7.4: empty pages.
#[test]
fn empty_pages_are_counted() {
    for rules in [Rules::LINUX_4_14, Rules::LINUX_5_2] {
        let ctx = context(8, 3, rules);
        let mut chunk = populated(&ctx);
        let mut seen = Vec::new();
        for step in 0..4 {
            match step {
                0 => assert_eq!(alloc(&mut chunk, &ctx, 4, 1).unwrap().1, 0),
                1 => assert_eq!(alloc(&mut chunk, &ctx, 12, 1).unwrap().1, 4),
                2 => free(&mut chunk, &ctx, 0),
                _ => free(&mut chunk, &ctx, 4),
            }
            seen.push(chunk.nr_empty_pop_pages);
            if step == 2 && rules.scan_hints {
                let md = chunk.md;
                assert_eq!((md.scan_hint, md.scan_hint_start), (4, 0));
                assert_eq!((md.contig_hint, md.contig_hint_start), (8, 16));
            }
        }
        assert_eq!(seen, [2, 1, 1, 3]);
        assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start), (24, 0));
    }
}

/// Section 9: the search of an atomic request.
#[test]
fn atomic_search_passes_over_holes() {
    for rules in [Rules::LINUX_4_14, Rules::LINUX_5_2] {
        let ctx = context(8, 3, rules);
        let mut chunk = Chunk::new(&ctx, 0);
        chunk.mark_populated(&ctx, 1, 2, false);
        let start = chunk.find_block_fit(&ctx, 3, 1, true);
        assert_eq!(start, Some(8));
        assert_eq!(chunk.alloc_area(&ctx, 3, 1, 8, true), Some(Bits(8)));
        assert_eq!(chunk.find_block_fit(&ctx, 6, 1, true), None);
    }
}

/// Section 10: an aligned fit outside the contig run does not help.
#[test]
fn alignment_is_judged_at_the_contig_run() {
    let ctx = context(8, 2, Rules::LINUX_5_2);
    let mut chunk = populated(&ctx);
    for (off, bits) in [(0, 1), (7, 1), (12, 4)] {
        chunk.place(&ctx, off, bits);
    }
    chunk.nr_alloc = 3;
    assert_eq!(map(&chunk, 0, 16), "X......X....XXXX");
    assert_eq!((chunk.md.contig_hint, chunk.md.contig_hint_start), (6, 1));
    assert_eq!(chunk.find_block_fit(&ctx, 4, 4, false), None);
    assert_eq!(alloc(&mut chunk, &ctx, 4, 1).unwrap().1, 1);
}

/// Since 5.2 the left edge may promise more than there is: an allocation inside a run at the edge that
/// promotes a scan run of the same length leaves it as it was.
#[test]
fn left_edge_is_overrated_after_promotion() {
    let ctx = context(64, 1, Rules::LINUX_5_14);
    let mut chunk = populated(&ctx);
    for (off, bits) in [(25, 2), (52, 12), (8, 2)] {
        chunk.place(&ctx, off, bits);
        chunk.nr_alloc += 1;
        chunk.max_alloc_size = chunk.max_alloc_size.max(bits * 4);
        chunk.verify(&ctx).unwrap();
    }
    let b = chunk.blocks[0];
    assert_eq!((b.contig_hint, b.contig_hint_start, b.scan_hint), (25, 27, 0));
    assert_eq!(b.left_free, 25, "the run at the left edge has 8 bits");
}
