use super::*;
use crate::layout::request::VMALLOC_START;
use crate::layout::{Contiguous, GivenGroups, Machine, PagesOnly, Recorded, Topology};
use crate::variant::DYN_PADDING;

const MIB: u64 = 1 << 20;

fn x86(kernel: &str, nodes: &[u32], kind: Kind) -> FirstChunkRequest {
    let topology = Topology::from_nodes(nodes).unwrap();
    Machine { kind, ..Machine::new("x86_64", kernel, 4096, topology, 87_640) }.request().unwrap()
}

fn lines(chunk: &FirstChunk) -> Vec<&str> {
    chunk.log.iter().map(|line| line.text.as_str()).collect()
}

/// 2.6.30: a large page for each CPU; the tails go back and stay mapped twice.
#[test]
fn a_large_page_for_each_cpu() {
    let mut memory = Recorded::new(Contiguous::new(0xffff_8800_0020_0000));
    let chunk = x86("2.6.30", &[2, 2], Kind::Auto).set_up(&mut memory).unwrap();
    // 87640 + 8192 + 20480, up to a page: 29 pages.
    let size_sum = 29 * 4096;
    assert_eq!((chunk.info.size_sum(), chunk.info.unit_size, chunk.nr_units), (size_sum, 2 * MIB, 4));
    assert_eq!(chunk.unit_offsets, [0, 2 * MIB, 4 * MIB, 6 * MIB]);
    assert_eq!((chunk.base_addr, chunk.linear), (VMALLOC_START, false));
    assert_eq!(lines(&chunk), ["PERCPU: Remapped at ffffc90000000000 with large pages, static data 87640 bytes"]);
    assert_eq!(memory.allocated.len(), 4);
    assert!(memory.freed.iter().all(|&(_, size)| size == 2 * MIB - size_sum));
    let large = chunk.large_pages.unwrap();
    assert_eq!(large.doubly_mapped, 4 * (2 * MIB - size_sum));
    let (linear, mapped) = large.pages[2];
    assert_eq!((mapped, large.alias(linear + 5)), (VMALLOC_START + 4 * MIB, Some(mapped + 5)));
    assert!(large.warns(linear + size_sum - 1) && !large.warns(linear + size_sum));
    assert_eq!((large.alias(linear - 1 - 4 * MIB), large.alias(linear + 4 * MIB)), (None, None));
}

/// 2.6.31: units share large pages by the waste rule; every group starts a new one.
#[test]
fn units_share_a_large_page() {
    let mut memory = Recorded::new(Contiguous::new(0xffff_8800_0000_0000));
    let chunk = x86("2.6.31", &[3, 5], Kind::Auto).set_up(&mut memory).unwrap();
    // As worked example E3: 16, 8 and 4 units a page waste too much, 2 are taken.
    assert_eq!((chunk.info.unit_size, chunk.nr_units, memory.allocated.len()), (MIB, 10, 5));
    let units: Vec<_> = chunk.unit_map.iter().flatten().copied().collect();
    assert_eq!(units, [0, 1, 2, 4, 5, 6, 7, 8]);
    assert_eq!(
        lines(&chunk),
        [
            "PERCPU: large pages @ffffc90000000000 s87640 r8192 d22952 u1048576",
            "pcpu-lpage: sta/res/dyn=87640/8192/22952 unit=1048576 lpage=2097152",
            "pcpu-lpage: 00 01 | 02 -- | 03 04 | 05 06 ",
            "pcpu-lpage: 07 -- ",
        ]
    );
    let used = 8 * chunk.info.size_sum();
    let freed: u64 = memory.freed.iter().map(|&(_, size)| size).sum();
    let large = chunk.large_pages.as_ref().unwrap();
    assert_eq!((freed, large.doubly_mapped), (10 * MIB - used, 10 * MIB - used));
    assert!(large.pages.is_sorted());
    assert!(memory.allocated.iter().all(|&(address, _)| large.alias(address).is_some()));
}

/// A unit larger than a large page takes several, and is given back piecewise.
#[test]
fn units_larger_than_a_large_page() {
    let larger = |kernel| FirstChunkRequest { static_size: 3 * MIB + 100, ..x86(kernel, &[1, 1], Kind::LargePage) };
    let mut memory = Recorded::new(Contiguous::new(0xffff_8800_0000_0000));
    let chunk = larger("2.6.31").set_up(&mut memory).unwrap();
    assert_eq!((chunk.info.unit_size, memory.allocated.len()), (4 * MIB, 4));
    assert_eq!(memory.freed.len(), 2);
    let chunk = larger("2.6.30").build().unwrap();
    assert_eq!(
        lines(&chunk)[..2],
        [
            "PERCPU: static data is larger than large page, can't use large page",
            "setup_percpu: lpage allocator failed (-22), falling back to 4k",
        ]
    );
}

/// Without nodes one block is taken; ids that are not possible leave holes.
#[test]
fn one_block_for_all() {
    let topology = Topology::flat(5).unwrap().with_impossible(&[1, 3]).unwrap();
    let machine = Machine::new("x86_64", "2.6.31", 4096, topology, 87_640);
    let mut memory = Recorded::new(Contiguous::new(0xffff_8800_0000_0000));
    let chunk = machine.request().unwrap().set_up(&mut memory).unwrap();
    let unit = 29 * 4096;
    assert_eq!((chunk.info.unit_size, chunk.nr_units, chunk.linear), (unit, 5, true));
    assert_eq!(chunk.unit_offsets, [0, 0, 2 * unit, 0, 4 * unit]);
    assert_eq!(memory.allocated, [(0xffff_8800_0000_0000, 5 * unit)]);
    assert_eq!(memory.freed.iter().map(|&(_, size)| size).sum::<u64>(), 2 * unit);
    let expected = format!("PERCPU: Embedded 29 pages/cpu @ffff880000000000 s87640 r8192 d22952 u{unit}");
    assert_eq!(lines(&chunk), [expected]);
    let old = Machine { kernel: "2.6.30".into(), ..machine }.request().unwrap().build().unwrap();
    assert_eq!(lines(&old), ["PERCPU: Embedded 29 pages at ffff888040000000, static data 87640 bytes"]);
}

/// Small images get the smallest unit; the dynamic part is all that is left of it.
#[test]
fn single_pages_fill_the_unit() {
    for (kernel, mapped) in [("2.6.30", Some(8)), ("2.6.31", None)] {
        let topology = Topology::from_nodes(&[2]).unwrap();
        let machine = Machine { kind: Kind::Page, ..Machine::new("x86_64", kernel, 4096, topology, 30_000) };
        let chunk = machine.request().unwrap().build().unwrap();
        assert_eq!((chunk.info.unit_size, chunk.mapped_pages), (64 << 10, mapped), "{kernel}");
        assert_eq!(chunk.info.dyn_size, (64 << 10) - 30_000 - 8192);
        assert_eq!(chunk.vm_area, Some((VMALLOC_START, 128 << 10)));
    }
    let chunk = x86("2.6.31", &[4], Kind::Page).build().unwrap();
    assert_eq!(lines(&chunk), ["PERCPU: 24 4k pages/cpu @ffffc90000000000 s87640 r8192"]);
    assert_eq!(chunk.info.dyn_size, 24 * 4096 - 87_640 - 8192);
}

/// What makes an allocator lose to the next.
#[test]
fn refusals() {
    // One node: not large pages. Two nodes and no large pages: not one block either.
    assert!(x86("2.6.31", &[4], Kind::Auto).build().unwrap().linear);
    let request = FirstChunkRequest { large_pages: false, ..x86("2.6.31", &[2, 2], Kind::Auto) };
    let chunk = request.build().unwrap();
    assert_eq!(lines(&chunk)[0], "setup_percpu: auto allocator failed (-22), falling back to 4k");
    assert!(chunk.vm_area.is_some() && chunk.large_pages.is_none());
    // By name one block is taken all the same.
    assert!(FirstChunkRequest { kind: Kind::Embed, ..request }.build().unwrap().linear);
    // A fifth of the vmalloc space is the limit, inclusive.
    let mut request = x86("2.6.30", &[2, 2], Kind::LargePage);
    request.vmalloc_total = 5 * 4 * 2 * MIB;
    assert!(request.build().unwrap().large_pages.is_some());
    request.vmalloc_total -= 1;
    let chunk = request.build().unwrap();
    assert_eq!(lines(&chunk)[0], "PERCPU: too large chunk size 8MB for large page remap");
    // No memory in whole large pages.
    let chunk = x86("2.6.31", &[2, 2], Kind::Auto).set_up(&mut PagesOnly).unwrap();
    assert_eq!(lines(&chunk)[0], "PERCPU: failed to allocate large page for cpu0");
    let chunk = x86("2.6.31", &[2], Kind::Embed).set_up(&mut PagesOnly).unwrap();
    let size = 2 * 29 * 4096;
    assert_eq!(lines(&chunk)[0], format!("PERCPU: failed to allocate {size} bytes for embedding"));
    // The name is not known later.
    let chunk = x86("2.6.32", &[2, 2], Kind::LargePage).build().unwrap();
    assert_eq!(lines(&chunk)[0], "PERCPU: unknown allocator lpage specified");
    let later = FirstChunkRequest { kind: Kind::LargePage, ..x86("6.12", &[2, 2], Kind::Auto) };
    assert!(later.build().is_err());
}

/// Specification 30 section 9: 0 stays 0, and -1 is the padding, before 2.6.36.
#[test]
fn signed_dynamic_sizes() {
    let sizes = |kernel: &str, dyn_size| {
        let request = FirstChunkRequest { dyn_size, ..x86(kernel, &[2], Kind::Auto) };
        request.layout_input().sizes().map(|sizes| (sizes.size_sum, sizes.dyn_size))
    };
    let sum = 24 * 4096;
    let padding = sum - 87_640 - 8192;
    assert_eq!(sizes("2.6.35", 0), Ok((sum, 0)));
    assert_eq!(sizes("2.6.35", DYN_PADDING), Ok((sum, padding)));
    assert_eq!(sizes("2.6.35", 1), Ok((sum, padding)));
    assert_eq!(sizes("2.6.36", 0).unwrap().1, (27 * 4096) - 87_640 - 8192);
    assert!(sizes("2.6.36", DYN_PADDING).is_err());
}

/// A public log of 1536 CPUs on 8 nodes of before 4.9: the distance ends with one unit of 256 KiB, not with the end
/// of a group of 48 MiB.
#[test]
fn the_distance_of_one_unit() {
    let topology = Topology::from_nodes(&[192; 8]).unwrap();
    let machine = Machine::new("x86_64", "2.6.38", 4096, topology, 107_200);
    let request = machine.request().unwrap();
    assert_eq!(request.alloc_info().unwrap().unit_size, 0x40000);
    let last = 0x180f_fe20_0000;
    let base = 0xffff_8800_0000_0000;
    let addresses = (0..8).map(|group| base + if group == 7 { last } else { group << 32 });
    let request = FirstChunkRequest { vmalloc_total: 0x1fff_ffff_ffff, ..request };
    let chunk = request.set_up(&mut GivenGroups::new(addresses)).unwrap();
    assert_eq!(
        lines(&chunk)[..3],
        [
            "PERCPU: max_distance=0x180ffe240000 too large for vmalloc space 0x1fffffffffff",
            "setup_percpu: auto allocator failed (-22), falling back to page size",
            "PERCPU: 32 4K pages/cpu @ffffc90000000000 s107200 r8192 d15680",
        ]
    );
}
