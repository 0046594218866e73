use super::*;
use crate::layout::{Contiguous, GivenAddresses, PagesOnly, Recorded, Topology};
use crate::variant::Preset;

fn request(release: &str, nr_cpus: &[u32], static_size: u64) -> FirstChunkRequest {
    let rules = Preset::by_release(release).unwrap().layout;
    FirstChunkRequest::new(Topology::from_nodes(nr_cpus).unwrap(), rules, static_size)
}

/// Base relative to the unit, start, end, pages, served bytes, empty pages.
fn row(chunk: &FirstChunk, region: &Region) -> (u64, u64, u64, u32, u64, u32) {
    let base = region.base_addr - chunk.base_addr;
    let empty = region.nr_empty_pages(chunk.page_size);
    (base, region.start_offset, region.end_offset, region.nr_pages, region.size, empty)
}

#[test]
fn worked_regions() {
    // Specification 31 section 5.
    let chunk = request("6.1", &[4], 98_392).build().unwrap();
    assert_eq!((chunk.info.dyn_size, chunk.nr_boot_pages()), (32_680, 34));
    assert_eq!(row(&chunk, &chunk.reserved.unwrap()), (98_304, 88, 4008, 3, 8192, 1));
    assert_eq!(row(&chunk, &chunk.first), (106_496, 88, 0, 8, 32_680, 7));
    assert_eq!((chunk.nr_empty_pages(), chunk.first.hidden_bits), (7, 22));

    let chunk = FirstChunkRequest { atom_size: 4096, ..request("6.1", &[2], 43_418) }.build().unwrap();
    assert_eq!(row(&chunk, &chunk.reserved.unwrap()), (40_960, 2460, 1636, 3, 8192, 1));
    assert_eq!(row(&chunk, &chunk.first), (49_152, 2460, 0, 8, 30_308, 7));

    let chunk = request("6.1", &[4], 188_416).build().unwrap();
    assert_eq!(row(&chunk, &chunk.reserved.unwrap()), (188_416, 0, 0, 2, 8192, 2));
    assert_eq!(row(&chunk, &chunk.first), (196_608, 0, 0, 7, 28_672, 7));

    let chunk =
        FirstChunkRequest { reserved_size: 0, dyn_size: 40_872, ..request("6.1", &[4], 98_392) }.build().unwrap();
    assert_eq!((chunk.reserved, row(&chunk, &chunk.first)), (None, (98_304, 88, 0, 10, 40_872, 9)));
}

#[test]
fn the_posting_of_2017_pads_the_reserved_region() {
    let chunk = request("rfc-v1", &[4], 98_392).build().unwrap();
    assert_eq!((chunk.info.reserved_size, chunk.info.dyn_size, chunk.info.size_sum()), (12_200, 28_672, 139_264));
    assert_eq!((chunk.reserved_offset, chunk.reserved.unwrap().hidden_bits, chunk.first.hidden_bits), (88, 22, 0));
}

#[test]
fn slots_by_generation() {
    let chunk = request("6.12", &[4], 185_496).build().unwrap();
    assert_eq!((chunk.info.unit_size, chunk.nr_slots(), chunk.late_slots()), (524_288, 21, Some([18, 19, 20])));
    let chunk = request("4.19", &[4], 185_496).build().unwrap();
    assert_eq!((chunk.nr_slots(), chunk.late_slots()), (19, None));
}

#[test]
fn top_down_placement_gives_the_documented_distance() {
    let mut asked = request("6.1", &[4, 4], 188_416);
    let (low, high) = (0xffff_8887_ffe0_0000, 0xffff_888f_ffe0_0000);
    let chunk = asked.set_up(&mut GivenAddresses::new([low, high])).unwrap();
    assert_eq!((chunk.base_addr, chunk.group_offsets.clone()), (low, vec![0, 0x8_0000_0000]));
    assert_eq!(chunk.span(), 0x8_0020_0000);
    // The limit is inclusive: three quarters of the space may be needed.
    asked.fallback = false;
    asked.vmalloc_total = (0x8_0020_0000u64 * 4).div_ceil(3);
    assert_eq!(asked.set_up(&mut GivenAddresses::new([low, high])).map(|chunk| chunk.span()), Ok(0x8_0020_0000));
    asked.vmalloc_total -= 1;
    let mut memory = Recorded::new(GivenAddresses::new([low, high]));
    match asked.set_up(&mut memory) {
        Err(LayoutError::Failed { errno: -22, log, .. }) => {
            assert_eq!(log, [format!("<4>percpu: {}", message::max_distance(0x8_0020_0000, asked.vmalloc_total))]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(memory.allocated, memory.freed);
    asked.page_allocator = false;
    assert!(asked.set_up(&mut GivenAddresses::new([low, high])).is_ok(), "only a warning without the page allocator");
}

#[test]
fn memory_given_back() {
    let mut memory = Recorded::new(Contiguous::new(0x4000_0000));
    let chunk = request("6.1", &[3, 5], 188_416).set_up(&mut memory).unwrap();
    let back: u64 = memory.freed.iter().map(|&(_, size)| size).sum();
    let (info, holes) = (&chunk.info, 2);
    assert_eq!(back, holes * info.unit_size + 8 * (info.unit_size - info.size_sum()));
    let taken: u64 = memory.allocated.iter().map(|&(_, size)| size).sum();
    assert_eq!(taken - back, 8 * info.size_sum());
}

#[test]
fn falls_back_to_pages_as_the_kernel_says() {
    let mut asked = request("6.12", &[2, 2], 193_304);
    let chunk = asked.set_up(&mut PagesOnly).unwrap();
    let log: Vec<String> = chunk.log.iter().map(ToString::to_string).collect();
    assert_eq!(
        log,
        [
            "<4>setup_percpu: auto allocator failed (-12), falling back to page size",
            "<6>percpu: 55 4K pages/cpu s193304 r8192 d23784",
            "<7>pcpu-alloc: s193304 r8192 d23784 u225280 alloc=55*4096",
            "<7>pcpu-alloc: [0] 0 [0] 1 [0] 2 [0] 3 ",
        ]
    );
    assert_eq!((chunk.linear, chunk.vm_area), (false, Some((0xffff_c900_0000_0000, 4 * 225_280))));
    asked.kind = Kind::Embed;
    asked.fallback = false;
    assert!(matches!(asked.set_up(&mut PagesOnly), Err(LayoutError::Failed { errno: -12, .. })));
}

#[test]
fn kernel_memory_backend() {
    // The log of a machine without MMU, specification 31 section 9.
    let mut asked = request("6.1", &[2], 15_264);
    (asked.reserved_size, asked.atom_size, asked.vmalloc_total) = (0, 4096, 0);
    (asked.backend, asked.page_allocator) = (Backend::KernelMemory, false);
    assert_eq!(
        asked.build().unwrap().boot_log(),
        "percpu: max_distance=0x16000 too large for vmalloc space 0x0\n\
         percpu: Embedded 11 pages/cpu s15264 r0 d29792 u45056\n\
         percpu: wasting 10 pages per chunk\n\
         pcpu-alloc: s15264 r0 d29792 u45056 alloc=11*4096\n\
         pcpu-alloc: [0] 0 [0] 1 \n"
    );
    asked.topology = Topology::from_nodes(&[1, 1]).unwrap();
    match asked.build() {
        Err(LayoutError::Setup { condition, log }) => {
            assert_eq!(condition, "pcpu_verify_alloc_info(ai) < 0");
            assert!(log.contains(&"<2>percpu: can't handle more than one group".to_string()), "{log:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn up_is_one_unit_without_static_part() {
    let mut asked = request("6.12", &[4], 185_496);
    asked.kind = Kind::Up;
    let chunk = asked.build().unwrap();
    assert_eq!(chunk.boot_log(), "pcpu-alloc: s0 r0 d32768 u32768 alloc=1*32768\npcpu-alloc: [0] 0 \n");
    assert!(chunk.identity && chunk.linear && chunk.backend == Backend::KernelMemory);
    assert_eq!((chunk.first.nr_pages, chunk.first.size, chunk.possible_cpus()), (8, 32_768, 1));
    asked.rules.dyn_reserve = 28 << 12;
    assert_eq!(asked.build().unwrap().info.unit_size, 131_072);
}

#[test]
fn checks_print_the_emergency_dump() {
    let explicit = |unit_size, static_size, reserved_size, dyn_size| {
        let mut asked = request("6.12", &[2], static_size);
        asked.kind = Kind::Explicit { unit_size };
        (asked.reserved_size, asked.dyn_size, asked.atom_size) = (reserved_size, dyn_size, 4096);
        asked
    };
    for (asked, condition) in [
        (explicit(65_536, 0, 0, 28_672), "!ai->static_size"),
        (FirstChunkRequest { explicit_base: 0, ..explicit(65_536, 4, 0, 28_672) }, "!base_addr"),
        (FirstChunkRequest { explicit_base: 5, ..explicit(65_536, 4, 0, 28_672) }, "offset_in_page(base_addr)"),
        (explicit(65_536, 4096, 16_384, 49_152), "ai->unit_size < size_sum"),
        (explicit(67_584, 4096, 0, 28_672), "offset_in_page(ai->unit_size)"),
        (explicit(28_672, 4096, 0, 20_480), "ai->unit_size < PCPU_MIN_UNIT_SIZE"),
        (
            FirstChunkRequest { block_size: Some(16_384), ..explicit(69_632, 4096, 0, 28_672) },
            "!IS_ALIGNED(ai->unit_size, PCPU_BITMAP_BLOCK_SIZE)",
        ),
        (explicit(65_536, 4096, 0, 12_284), "ai->dyn_size < PERCPU_DYNAMIC_EARLY_SIZE"),
        (explicit(65_536, 4096, 2, 28_672), "!IS_ALIGNED(ai->reserved_size, PCPU_MIN_ALLOC_SIZE)"),
    ] {
        match asked.build() {
            Err(LayoutError::Setup { condition: got, log }) => {
                assert_eq!(got, condition);
                assert_eq!(log[0], format!("<0>percpu: failed to initialize, {condition}"));
                assert_eq!(log[1], "<0>percpu: cpu_possible_mask=3");
                assert!(log[3].starts_with("<0>pcpu-alloc: [0] 0 "));
            }
            other => panic!("{condition}: {other:?}"),
        }
    }
}

#[test]
fn hostile_requests_are_named() {
    let good = || FirstChunkRequest { atom_size: 4096, ..request("6.12", &[2], 4660) };
    for (asked, parameter) in [
        (FirstChunkRequest { static_size: u64::MAX, ..good() }, "static_size"),
        (FirstChunkRequest { dyn_size: u64::MAX, ..good() }, "dyn_size"),
        (FirstChunkRequest { page_size: 0, ..good() }, "page_size"),
        (FirstChunkRequest { page_size: u64::MAX, ..good() }, "page_size"),
        (FirstChunkRequest { atom_size: u64::MAX, ..good() }, "atom_size"),
        (FirstChunkRequest { min_alloc_size: 3, ..good() }, "min_alloc_size"),
        (FirstChunkRequest { min_alloc_size: 8192, ..good() }, "min_alloc_size"),
        (FirstChunkRequest { block_size: Some(2), ..good() }, "block_size"),
        (FirstChunkRequest { min_unit_size: Some(u64::MAX), ..good() }, "min_unit_size"),
        (FirstChunkRequest { kind: Kind::Explicit { unit_size: u64::MAX }, ..good() }, "unit_size"),
        (FirstChunkRequest { kind: Kind::Explicit { unit_size: 0 }, ..good() }, "unit_size"),
        (
            FirstChunkRequest { kind: Kind::Explicit { unit_size: 65_536 }, explicit_base: u64::MAX - 4095, ..good() },
            "explicit_base",
        ),
        (FirstChunkRequest { kind: Kind::Page, vmalloc_start: u64::MAX, ..good() }, "vmalloc_start"),
    ] {
        match asked.build() {
            Err(LayoutError::Input(error)) => assert_eq!(error.parameter, parameter, "{error}"),
            other => panic!("{parameter}: {other:?}"),
        }
    }
    let two = request("6.12", &[1, 1], 4660);
    for addresses in [[0x20_0000, 0x30_0000], [0x20_0000, u64::MAX - 4095], [0x20_0000, 0x20_0000]] {
        match two.set_up(&mut GivenAddresses::new(addresses)) {
            Err(LayoutError::Input(error)) => assert_eq!(error.parameter, "group_addr"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn other_blocks_and_granules_keep_the_region_rule() {
    for block_size in [256, 1024, 4096, 16_384, 65_536] {
        for min_alloc_size in [1, 4, 16, 256] {
            let mut asked = request("6.12", &[4], 98_391);
            (asked.block_size, asked.min_alloc_size) = (Some(block_size), min_alloc_size);
            let chunk = asked.build().unwrap();
            let geometry = chunk.geometry().unwrap();
            for region in [Some(chunk.first), chunk.reserved].into_iter().flatten() {
                let bytes = region.start_offset + region.size + region.end_offset;
                assert_eq!(bytes, u64::from(region.nr_pages) * 4096);
                assert_eq!(bytes % geometry.chunk_align().0, 0);
                assert!(region.start_offset < 4096 && region.end_offset < geometry.chunk_align().0);
                assert_eq!(region.start_offset % min_alloc_size, 0);
                assert_eq!(region.size % min_alloc_size, 0);
            }
        }
    }
}

#[test]
fn moving_down_moves_every_address() {
    let chunk = request("6.12", &[2], 30_000).set_up(&mut PagesOnly).unwrap();
    let moved = chunk.clone().moved_down(0x1000);
    assert_eq!(moved.first.base_addr - moved.base_addr, chunk.first.base_addr - chunk.base_addr);
    assert_eq!(moved.vm_area.unwrap().0, chunk.vm_area.unwrap().0 - 0x1000);
    assert_eq!(moved.base_addr, chunk.base_addr - 0x1000);
}
