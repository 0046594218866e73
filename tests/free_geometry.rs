//! Geometries that no kernel has: cases that went wrong once (`docs/free-geometry.md`).
#![cfg(feature = "testing")]

use percpu::backend::{Backend, Supply};
use percpu::chunk::{Chunk, Context};
use percpu::engine::linux::Linux;
use percpu::engine::{BootChunks, BootRegion, Engine, Setup};
use percpu::geometry::Geometry;
use percpu::request::{ChunkId, Outcome, Reason, Request, Sleep};
use percpu::testing::differential::{Case, Op};
use percpu::units::{Bytes, Pages};
use percpu::variant::{Generation, Rules, Thresholds};

/// Pages of 128 bytes, unit of 16 pages; bytes.
fn setup(rules: Rules, block: u64, boot: Option<BootRegion>) -> Setup {
    let geometry = Geometry::new(Bytes(128), Bytes(4), Bytes(block), Bytes(2048), 1).unwrap();
    Setup {
        geometry,
        rules,
        warn_atomic: true,
        async_enabled: true,
        boot: boot.map(|first| BootChunks { base_addr: 4096, first, reserved: None, nr_populated: Pages(16) }),
        backend: Backend::new(1, 128, 128, 2048),
    }
}

/// Pages under the hidden ends of a boot chunk are not empty, whatever the block size.
#[test]
fn hidden_ends_are_not_empty_pages() {
    let first = BootRegion { base_addr: 4096, start_offset: Bytes(20), size: Bytes(1000) };
    for rules in [Rules::LINUX_4_14, Rules::LINUX_5_2, Rules::LINUX_5_14] {
        for block in [8, 32, 128, 512, 2048] {
            let engine = Linux::new(&setup(rules, block, Some(first)));
            engine.verify().unwrap_or_else(|violation| panic!("block {block}, {rules:?}: {violation}"));
            let chunk = Engine::chunk(&engine, ChunkId(0)).unwrap();
            assert_eq!(chunk.nr_empty_pop_pages, Some(6), "block {block}");
            assert_eq!(engine.totals().nr_empty_pop_pages, 6, "block {block}");
        }
    }
}

/// Blocks above a page: behind a page that is not populated, the rest of a run still counts.
#[test]
fn an_atomic_search_goes_on_inside_a_run() {
    for rules in [Rules::LINUX_4_14, Rules::LINUX_5_2, Rules::LINUX_5_14] {
        let geometry = setup(rules, 2048, None).geometry;
        let ctx = Context { geometry, rules };
        let mut chunk = Chunk::new(&ctx, 0);
        chunk.place(&ctx, 448, 64);
        chunk.mark_populated(&ctx, 4, 9, false);
        chunk.mark_populated(&ctx, 11, 16, false);
        assert_eq!(chunk.find_block_fit(&ctx, 8, 1, false), Some(0));
        assert_eq!(chunk.find_block_fit(&ctx, 8, 1, true), Some(4 * 32), "{rules:?}");
        // Nowhere that many populated pages in a row.
        assert_eq!(chunk.find_block_fit(&ctx, 161, 1, true), None, "{rules:?}");
    }
}

/// Alignments above a block are judged relative to the block, so that the search may lead to a
/// page that was not looked at; an atomic request must not get it.
#[test]
fn an_atomic_request_gets_populated_pages_only() {
    for rules in [Rules::LINUX_4_14, Rules::LINUX_5_2, Rules::LINUX_5_14] {
        let mut setup = setup(rules, 16, None);
        setup.geometry = Geometry::new(Bytes(64), Bytes(4), Bytes(16), Bytes(2816), 1).unwrap();
        let mut engine = Linux::new(&setup);
        for align in [1, 16] {
            let outcome = engine.alloc(&Request::new(Bytes(4), Bytes(align)));
            assert!(matches!(outcome, Outcome::Placed { .. }));
        }
        let atomic = Request { sleep: Sleep::Never, ..Request::new(Bytes(4), Bytes(32)) };
        let before = engine.stats().nr_cur_alloc;
        assert_eq!(engine.alloc(&atomic), Outcome::Failed(Reason::NoSpace), "{rules:?}");
        assert_eq!(engine.stats().nr_cur_alloc, before);
        engine.verify().unwrap();
    }
}

/// Since 5.2 the edges that a block records may be shorter than the free runs there, also at
/// block = page. The last two requests fail for want of mappings and are undone. The first leaves
/// bit 9 as scan hint and, undone, as the beginning of the run 9..16; the second promotes it and
/// goes on from bit 10, where undoing begins too.
#[test]
fn edges_of_blocks_are_lower_bounds() {
    let request = |size, align, sleep, reserved| {
        Op::Alloc(Request { sleep, reserved, nowarn: true, ..Request::new(Bytes(size), Bytes(align)) })
    };
    let (full, atomic) = (Sleep::Full, Sleep::Never);
    let geometry = Geometry::new(Bytes(64), Bytes(4), Bytes(64), Bytes(1728), 4).unwrap();
    let backend = Backend::new(4, 64, 64, 1728 * 4);
    let setup = Setup { geometry, backend, ..setup(Rules::LINUX_5_2, 128, None) };
    let ops = vec![
        request(744, 4, full, true),
        Op::Faults(None, Some(23), None),
        Op::Free(0),
        request(1728, 16, atomic, false),
        Op::Balance,
        request(1728, 8, atomic, false),
        Op::Balance,
        request(1728, 1, full, false),
        request(36, 64, full, false),
        request(4, 32, full, false),
        Op::Free(0),
        Op::Free(1),
        Op::Free(0),
        Op::Balance,
        request(12, 4, full, true),
        request(12, 4, full, false),
        request(44, 16, full, false),
        request(12, 16, Sleep::NoFs, true),
        request(8, 4, full, false),
        request(8, 2, full, false),
        request(512, 8, full, false),
        request(48, 16, full, false),
    ];
    let thresholds = Thresholds::KERNEL;
    let case = Case { seed: 0, generation: Generation::Linux52, setup: setup.clone(), thresholds, ops: ops.clone() };
    assert_eq!(case.run(), Ok(()));

    let mut engine = Linux::new(&setup);
    let mut live = Vec::new();
    for op in ops {
        match op {
            Op::Alloc(request) => {
                if let Outcome::Placed { chunk, off } = engine.alloc(&request) {
                    live.push((chunk, off));
                }
            }
            Op::Free(at) if !live.is_empty() => {
                let (chunk, off) = live.swap_remove(at % live.len());
                engine.free(chunk, off, None).unwrap();
            }
            Op::Faults(..) => engine.backend_mut().map_supply = Supply::of(23),
            Op::Balance if engine.balance_pending() => engine.balance(),
            _ => {}
        }
    }
    let chunk = Engine::chunk(&engine, ChunkId(1)).unwrap();
    let block = chunk.blocks.as_deref().unwrap()[1];
    let free_at_the_right = (chunk.alloc_map[0] as u32).leading_zeros();
    assert_eq!((block.right_free, free_at_the_right), (6, 7));
}
