use proptest::prelude::*;

use super::*;
use crate::backend::BackendEvent;
use crate::cost::Costs;
use crate::engine::Engine;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::testing::shadow::{check, ops, small_setup};

/// Blocks of 16 bits, pages of 64 bytes.
fn geometry(pages: u64) -> Geometry {
    Geometry::new(Bytes(64), Bytes(4), Bytes(64), Bytes(64 * pages), 1).unwrap()
}

struct Bench {
    g: Geometry,
    space: BitSpace,
    pages: PageMap,
}

impl Bench {
    fn new(pages: u64, populated: &[u32]) -> Self {
        let g = geometry(pages);
        let mut map = PageMap::new(g.unit_pages(), false);
        populated.iter().for_each(|page| map.mark(*page, page + 1, true));
        Self { g, space: BitSpace::new(&g), pages: map }
    }

    /// Takes `bits` at `align` bits; the bit.
    fn alloc(&mut self, bits: u32, align: u32) -> Option<u32> {
        self.serve(bits, align, false, &mut Off)
    }

    fn atomic(&mut self, bits: u32, align: u32) -> Option<u32> {
        self.serve(bits, align, true, &mut Off)
    }

    fn serve<C: Counter>(&mut self, bits: u32, align: u32, atomic: bool, costs: &mut C) -> Option<u32> {
        let task = Task { size: bits * 4, align: align * 4, atomic };
        self.space.alloc(&self.g, &self.pages, &task, costs).map(|area| area.off / 4)
    }

    fn free(&mut self, bit: u32) -> u32 {
        self.space.free(&self.g, &self.pages, bit * 4, &mut Off).size / 4
    }

    /// Contig hint, its start, left, right, first free of block `i`.
    fn block(&self, i: usize) -> [i32; 5] {
        let b = &self.space.blocks[i];
        [b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free]
    }

    fn contig(&self) -> (i32, i32) {
        (self.space.contig_hint, self.space.contig_hint_start)
    }
}

/// Specification 13 section 2, with the recorded boot of `step-01` in blocks of 16 bits.
#[test]
fn boot_chunks_hide_a_front_and_lose_their_end() {
    let g = geometry(4);
    let region = BootRegion { base_addr: 64, start_offset: Bytes(22), size: Bytes(150) };
    let space = BitSpace::boot(&g, &region);
    assert_eq!((space.nr_bits, space.hidden, space.free_bits), (32, 5, 27), "172 bytes are two pages, 22 five bits");
    assert_eq!((space.contig_hint, space.contig_hint_start, space.first_free_block), (27, 5, 0));
    assert_eq!(space.nr_empty_pop_pages, 1);
    assert!(bitmap::test(&space.bound_map, 0) && bitmap::test(&space.bound_map, 5));
    assert!(!space.is_area_start(&g, 0), "the hidden front is not an area");
}

/// Specification 13 section 3: ties keep the first run, whatever its alignment.
#[test]
fn the_first_of_equal_runs_stays() {
    let mut b = Bench::new(1, &[]);
    assert_eq!(b.alloc(1, 1), Some(0));
    assert_eq!(b.alloc(3, 1), Some(1));
    assert_eq!(b.alloc(4, 1), Some(4));
    assert_eq!(b.alloc(3, 1), Some(8));
    assert_eq!(b.alloc(5, 1), Some(11));
    assert_eq!(b.block(0), [0, 11, 0, 0, 16]);
    b.free(1);
    assert_eq!(b.block(0), [3, 1, 0, 0, 1]);
    b.free(8);
    assert_eq!(b.block(0), [3, 1, 0, 0, 1], "3@8 is better aligned but not longer");
}

/// An allocation over an edge rescans its last block, also when it ends at the block's end.
#[test]
fn runs_over_edges() {
    let mut b = Bench::new(3, &[]);
    assert_eq!(b.alloc(10, 1), Some(0));
    assert_eq!(b.alloc(22, 1), Some(10));
    assert_eq!((b.block(0), b.block(1)), ([0, 10, 0, 0, 16], [0, 0, 0, 0, 16]));
    assert_eq!((b.contig(), b.space.first_free_block), ((16, 32), 2));
    assert_eq!(b.free(10), 22);
    assert_eq!((b.block(0), b.block(1)), ([6, 10, 0, 6, 10], [16, 0, 16, 16, 0]));
    assert_eq!((b.contig(), b.space.first_free_block), ((38, 10), 0));
}

/// Specification 13 section 3: a free inside one block takes the block's hint with its own start.
#[test]
fn a_free_raises_the_chunk_hint_with_its_own_start() {
    let mut b = Bench::new(2, &[]);
    for (bits, at) in [(4, 0), (8, 4), (16, 12), (4, 28)] {
        assert_eq!(b.alloc(bits, 1), Some(at));
    }
    assert_eq!(b.contig().0, 0);
    assert!(b.space.is_exhausted());
    b.free(4);
    assert_eq!(b.contig(), (8, 4));
    b.free(0);
    assert_eq!(b.contig(), (12, 0));
}

/// Specification 10 section 6.3, kept by 13: the chunk hint survives an allocation that starts before it.
#[test]
fn the_chunk_hint_can_be_too_large() {
    let mut b = Bench::new(2, &[]);
    assert_eq!(b.alloc(13, 1), Some(0));
    assert_eq!(b.alloc(1, 1), Some(13));
    assert_eq!(b.alloc(1, 1), Some(14));
    assert_eq!(b.contig(), (17, 15));
    b.free(14);
    assert_eq!(b.contig(), (17, 15), "the block has 2 only, the true run is 18@14");
    assert_eq!(b.alloc(10, 1), Some(14), "it starts below the hint, which therefore stays");
    assert_eq!(b.contig(), (17, 15));
    assert_eq!(b.alloc(9, 1), None, "what the hint promises is not there");
}

/// A left edge alone can serve a request, before the block's contig hint is looked at.
#[test]
fn the_left_edge_is_looked_at_first() {
    let mut b = Bench::new(1, &[]);
    assert_eq!(b.alloc(3, 1), Some(0));
    assert_eq!(b.alloc(1, 1), Some(3));
    b.free(0);
    assert_eq!(b.block(0), [12, 4, 3, 12, 0]);
    assert_eq!(b.alloc(3, 1), Some(0));
    b.free(0);
    assert_eq!(b.alloc(4, 1), Some(4));
}

/// Specification 13 section 4: bit numbers are taken for byte offsets.
#[test]
fn atomic_requests_look_at_the_wrong_pages() {
    let mut b = Bench::new(8, &[0]);
    assert_eq!(b.alloc(16, 1), Some(0), "page 0 is used up");
    assert_eq!(b.atomic(4, 1), Some(16), "bit 16 is taken for byte 16, of page 0; it lies on page 1");
    let mut b = Bench::new(8, &[4, 5, 6, 7]);
    assert_eq!(b.atomic(4, 1), None, "page 4 is populated, but block 16 is where the search goes on");
    let mut b = Bench::new(8, &[1]);
    assert_eq!(b.atomic(4, 1), Some(64), "byte 64 is page 1, bit 64 is on page 4");
}

#[test]
fn pages_without_memory_are_reported() {
    let setup = small_setup(Generation::RfcV1, 512, 0, 0, 0);
    let mut engine = RfcV1::new(&setup).unwrap();
    engine.backend_mut().journal.enabled = true;
    let request = |size, sleep| Request { sleep, ..Request::new(Bytes(size), Bytes(4)) };
    assert_eq!(engine.alloc(&request(4, Sleep::Never)), Outcome::Failed(Reason::NoSpace));
    assert!(matches!(engine.alloc(&request(64, Sleep::Full)), Outcome::Placed { .. }));
    engine.backend_mut().journal.events.clear();
    let Outcome::Placed { chunk, off } = engine.alloc(&request(48, Sleep::Never)) else { panic!("placed") };
    assert_eq!((chunk, off), (ChunkId(0), Bytes(64)));
    assert_eq!(engine.backend().journal.events, [BackendEvent::Unpopulated(chunk, 1)]);
    engine.verify().unwrap();
}

/// Specification 13 section 6: the pages of an allocation are counted as empty until a refresh.
#[test]
fn populating_for_an_allocation_counts_too_much() {
    let mut engine = RfcV1::new(&small_setup(Generation::RfcV1, 512, 0, 0, 0)).unwrap();
    engine.alloc(&Request::new(Bytes(4), Bytes(4)));
    assert_eq!(engine.totals().nr_empty_pop_pages, 1, "the one populated page is in use");
    engine.alloc(&Request::new(Bytes(4), Bytes(4)));
    assert_eq!(engine.totals().nr_empty_pop_pages, 0);
    engine.verify().unwrap();
}

#[test]
fn bad_setups_are_refused() {
    let mut setup = small_setup(Generation::RfcV1, 512, 20, 0, 300);
    assert!(RfcV1::new(&setup).is_ok());
    setup.boot.as_mut().unwrap().first.start_offset = Bytes(64);
    assert_eq!(RfcV1::new(&setup).unwrap_err().parameter, "boot.start_offset");
    let first = &mut setup.boot.as_mut().unwrap().first;
    (first.start_offset, first.size) = (Bytes(0), Bytes(63));
    assert_eq!(RfcV1::new(&setup).unwrap_err().parameter, "boot.size");
    setup.geometry = Geometry::new(Bytes(64), Bytes(4), Bytes(32), Bytes(512), 1).unwrap();
    assert_eq!(RfcV1::new(&setup).unwrap_err().parameter, "block_size");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn serves_legally(ops in ops(512, 64, 120), head in 0..30u64, reserved in 0..3u64, first in 0..3u64) {
        // The reserved region ends on a page, the first chunk has whole pages behind it.
        let head = head * 4;
        let (reserved, first) = match (reserved, first) {
            (_, 0) => (0, 0),
            (0, first) => (0, first * 64),
            (reserved, first) => (reserved * 64 + 64 - head % 64, first * 64),
        };
        let setup = small_setup(Generation::RfcV1, 512, head, reserved, first);
        prop_assert_eq!(check(Box::new(RfcV1::new(&setup).unwrap()), &ops), Ok(()));
    }
}

/// Two blocks of 16 bits; every map is one word.
#[test]
fn costs_counted_by_hand() {
    let mut b = Bench::new(2, &[]);
    let mut costs = Costs::ZERO;
    // Both blocks are looked at to join their runs. The first block is full then: nothing is left to read there. The
    // second: first_free, refresh. The chunk: both blocks and the page map, then the way to the new first_free_block.
    assert_eq!(b.serve(20, 1, false, &mut costs), Some(0));
    let refreshes = Costs { block_refreshes: 2, chunk_refreshes: 1, hints_broken: 3, ..Costs::ZERO };
    assert_eq!(costs, Costs { words_read: 1 + 2 + 1, blocks_visited: 2 + 2 + 2, ..refreshes });
    // The area's end; both ends of the run are known from hints; the chunk again.
    let mut costs = Costs::ZERO;
    b.space.free(&b.g, &b.pages, 0, &mut costs);
    assert_eq!(costs, Costs { words_read: 1 + 1, blocks_visited: 2, chunk_refreshes: 1, ..Costs::ZERO });
    // Refused by the hint of the chunk.
    let mut costs = Costs::ZERO;
    assert_eq!(b.serve(33, 1, false, &mut costs), None);
    assert_eq!(costs, Costs::ZERO);
    // The second block has its first free bit in front: the search begins there, and the first one is passed.
    assert_eq!(b.serve(14, 1, false, &mut costs), Some(0));
    costs = Costs::ZERO;
    assert_eq!(b.serve(4, 4, false, &mut costs), Some(16));
    assert_eq!(costs.hints_broken, 2, "of the block and of the chunk");
}
