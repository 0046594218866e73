use super::*;
use crate::layout::{PagesOnly, MAX_CPUS};

fn machine(arch: &str, kernel: &str, page_size: u64, nr_cpus: &[u32], static_size: u64) -> Machine {
    Machine::new(arch, kernel, page_size, Topology::from_nodes(nr_cpus).unwrap(), static_size)
}

fn of(variant: &str, machine: Machine) -> Machine {
    Machine { variant: Some(variant.to_string()), ..machine }
}

/// What a boot log prints: reserved, dynamic, unit, atom; bytes.
fn printed(machine: &Machine) -> [u64; 4] {
    let chunk = machine.request().unwrap().build().unwrap();
    [chunk.info.reserved_size, chunk.info.dyn_size, chunk.info.unit_size, chunk.info.atom_size]
}

/// Boot logs of public machines (`dmesg-corpus.jsonl`): everything but the static size follows from architecture,
/// release and CPUs. Logs without a release stand under one that fits their form.
#[test]
fn public_machines() {
    const K64: u64 = 65_536;
    let shifted = Build { dyn_shift: 12, ..Build::default() };
    let interleaved = Topology::from_cpu_nodes((0..16).map(|cpu| cpu % 2).collect()).unwrap();
    for (machine, expected) in [
        (machine("i386", "2.6.32-21-generic", 4096, &[4], 36_024), [0, 21_320, 1_048_576, 4 << 20]),
        (machine("i386", "2.6.32-22-generic", 4096, &[1], 36_024), [0, 21_320, 4_194_304, 4 << 20]),
        (machine("i386", "2.6.32-50-generic", 4096, &[4], 36_056), [0, 21_288, 1_048_576, 4 << 20]),
        (machine("i386", "2.6.35-22-generic", 4096, &[2], 36_416), [0, 20_928, 2_097_152, 4 << 20]),
        (machine("i386", "2.6.35-24-generic", 4096, &[1], 36_416), [0, 20_928, 4_194_304, 4 << 20]),
        (machine("i386", "2.6.36-020636-generic", 4096, &[4], 32_896), [0, 24_448, 1_048_576, 4 << 20]),
        (machine("i386", "3.0.0-12-generic", 4096, &[1], 26_240), [0, 22_912, 4_194_304, 4 << 20]),
        (Machine::new("x86_64", "3.8.0-27-generic", 4096, interleaved, 85_056), [8192, 21_440, 262_144, 2 << 20]),
        (machine("x86_64", "3.14.0-rc6", 4096, &[12, 12], 81_088), [8192, 21_312, 131_072, 2 << 20]),
        (machine("x86_64", "4.3.0-scaleos+", 4096, &[8, 8], 97_560), [8192, 29_416, 262_144, 2 << 20]),
        (machine("x86_64", "5.10.0-11-amd64", 4096, &[12, 12], 200_536), [8192, 28_840, 262_144, 2 << 20]),
        (machine("x86_64", "6.5.0-18-generic", 4096, &[128], 221_184), [8192, 28_672, 262_144, 2 << 20]),
        (
            Machine { build: shifted, ..machine("x86_64", "6.8.0-88-generic", 4096, &[20, 20], 229_376) },
            [8192, 114_688, 524_288, 2 << 20],
        ),
        (machine("x86_64", "6.12.0-rc4", 4096, &[16], 233_472), [8192, 28_672, 524_288, 2 << 20]),
        (machine("arm", "5.5.0-00002-g7d506dfcce24-dirty", 4096, &[4], 48_192), [8192, 21_440, 77_824, 4096]),
        (machine("arm64", "5.7.0-1-librem5", 4096, &[4], 87_448), [8192, 31_336, 126_976, 4096]),
        (machine("ppc64le", "3.16.0-4-powerpc64le", K64, &[2], 102_400), [0, 28_672, 524_288, 1 << 20]),
        (machine("ppc64le", "4.4.73-7-default", K64, &[32], 123_288), [0, 73_320, 262_144, 1 << 20]),
        (machine("ppc64le", "5.2.0-rc6-13.g21111ce-default", K64, &[8], 624_536), [0, 96_360, 1 << 20, 1 << 20]),
        (machine("loongarch64", "6.1", 16_384, &[4], 43_856), [8192, 29_872, 8_388_608, 32 << 20]),
        (machine("loongarch64", "6.1", 16_384, &[1], 63_632), [8192, 42_864, 33_554_432, 32 << 20]),
        (machine("mips64", "5.2", 16_384, &[32], 45_344), [8192, 44_768, 98_304, 16_384]),
        (
            Machine {
                build: Build { modules: false, ..Build::default() },
                ..machine("ppc", "5.2", 4096, &[4], 50_704)
            },
            [0, 23_024, 73_728, 4096],
        ),
    ] {
        assert_eq!(printed(&machine), expected, "{} {}", machine.arch, machine.kernel);
    }
}

/// The rows of specification 31 section 8: atom, reserved and dynamic size asked for, groups for two nodes.
#[test]
fn rows() {
    const K64: u64 = 65_536;
    let far = Distance::Nodes(vec![vec![10, 10], vec![10, 10]]);
    let near = |machine: Machine| {
        let topology = machine.topology.clone().with_distance(far.clone()).unwrap();
        Machine { topology, ..machine }
    };
    let m = |arch: &str, kernel: &str, page_size| machine(arch, kernel, page_size, &[2, 2], 60_000);
    for (machine, atom, reserved, dyn_size, nr_groups, page_allocator) in [
        (m("x86_64", "6.1", 4096), 2 << 20, 8, 28, 2, true),
        (Machine { large_pages: false, ..m("x86_64", "3.4", 4096) }, 4096, 8, 20, 2, true),
        (Machine { large_pages: false, ..m("x86_64", "3.5", 4096) }, 2 << 20, 8, 20, 2, true),
        (m("i686", "3.5", 4096), 4096, 0, 20, 2, true),
        (m("i686", "6.1", 4096), 4096, 0, 28, 2, true),
        (Machine { pae: true, ..m("i686", "3.4", 4096) }, 2 << 20, 0, 20, 2, true),
        (Machine { large_pages: false, ..m("i686", "3.4", 4096) }, 4096, 0, 20, 2, true),
        (m("arm64", "5.15", 4096), 4096, 8, 28, 2, false),
        (near(m("arm64", "5.16", K64)), K64, 8, 28, 1, true),
        (of("flat", m("arm64", "6.1", 4096)), 4096, 8, 28, 1, false),
        (m("riscv64", "5.11", 4096), 4096, 8, 28, 1, false),
        (m("riscv64", "5.12", 4096), 4096, 8, 28, 2, false),
        (m("ppc64le", "5.14", K64), 1 << 20, 0, 36, 2, false),
        (Machine { linear_4k: true, ..m("ppc64", "5.15", 4096) }, 4096, 0, 36, 2, true),
        (of("radix", m("ppc64le", "5.13", K64)), 1 << 20, 0, 36, 2, true),
        (of("radix", m("ppc64le", "5.14", K64)), K64, 0, 36, 2, true),
        (of("book3e", m("ppc64", "6.1", 4096)), 1 << 20, 0, 36, 2, true),
        (m("sparc64", "6.1", 8192), 4 << 20, 8, 28, 2, true),
        (near(of("loongson", m("mips64", "5.10", 16_384))), 16_384, 8, 28, 1, false),
        (m("loongarch64", "5.19", 16_384), 32 << 20, 8, 28, 2, true),
        (m("s390x", "6.1", 4096), 4096, 8, 28, 1, false),
        (m("arm", "6.1", 4096), 4096, 8, 20, 1, false),
    ] {
        let request = machine.request().unwrap();
        let got = (request.atom_size, request.reserved_size, request.dyn_size, request.page_allocator);
        let name = format!("{} {} {:?}", machine.arch, machine.kernel, machine.variant);
        assert_eq!(got, (atom, reserved << 10, dyn_size << 10, page_allocator), "{name}");
        assert_eq!(request.alloc_info().unwrap().groups.len(), nr_groups, "{name}");
    }
    // Worked examples of specification 30: E6, the remark of E7, E12.
    let radix = of("radix", machine("ppc64le", "6.1", K64, &[4, 4], 627_608));
    assert_eq!(printed(&radix), [0, 93_288, 720_896, K64]);
    assert_eq!(printed(&machine("ppc64", "6.1", K64, &[20, 20], 627_608)), [0, 93_288, 1 << 20, 1 << 20]);
    assert_eq!(printed(&machine("sparc64", "6.1", 8192, &[32, 32], 60_000)), [8192, 30_112, 131_072, 4 << 20]);
}

#[test]
fn the_choice_of_the_allocator() {
    let x86 = |kernel, nodes: &[u32]| {
        let topology = Topology::from_cpu_nodes(nodes.to_vec()).unwrap();
        Machine::new("i386", kernel, 4096, topology, 26_240)
    };
    let kind = |machine: Machine| machine.request().unwrap().kind;
    assert_eq!(kind(x86("3.5", &[0, 0, 1])), Kind::Page);
    assert_eq!(kind(x86("3.5", &[0, 0, 0])), Kind::Auto);
    assert_eq!(kind(x86("3.4", &[0, 0, 1])), Kind::Auto);
    assert_eq!(kind(Machine { kind: Kind::Embed, ..x86("3.5", &[0, 1]) }), Kind::Embed);
    // A CPU of an offline node between two nodes hides that there are two.
    let offline = |nodes: &[u32]| kind(Machine { offline_nodes: vec![1], ..x86("3.5", nodes) });
    assert_eq!(offline(&[0, 1]), Kind::Auto);
    assert_eq!(offline(&[0, 1, 2]), Kind::Auto);
    assert_eq!(offline(&[0, 1, 2, 0]), Kind::Page);
    let chunk = x86("3.5", &[0, 0, 1]).request().unwrap().build().unwrap();
    assert_eq!((chunk.info.groups.len(), chunk.base_addr, chunk.linear), (1, 0xf800_0000, false));

    let loong = |nr_nodes: u32| machine("loongarch64", "6.1", 16_384, &vec![1; nr_nodes as usize], 43_856);
    assert_eq!((kind(loong(7)), kind(loong(8))), (Kind::Auto, Kind::Page));
    let arm64 = |kernel| Machine { kind: Kind::Page, ..machine("arm64", kernel, 4096, &[4], 60_000) };
    assert_eq!((kind(arm64("5.15")), kind(arm64("5.16"))), (Kind::Auto, Kind::Page));
    // Without the page allocator there is nothing to fall back to.
    assert!(machine("s390x", "6.1", 4096, &[4], 60_000).request().unwrap().set_up(&mut PagesOnly).is_err());
    let up = Machine { smp: false, ..machine("m68k", "4.18.0-rc3", 8192, &[1], 0) };
    assert_eq!(printed(&up), [0, 32_768, 32_768, 32_768]);
}

#[test]
fn ia64_fills_its_own_unit() {
    let ia64 = |nodes: &[u32], static_size| {
        let topology = Topology::from_cpu_nodes(nodes.to_vec()).unwrap();
        Machine::new("ia64", "4.19", 16_384, topology, static_size)
    };
    let chunk = ia64(&[0, 0, 1], 30_000).request().unwrap().build().unwrap();
    let info = &chunk.info;
    assert_eq!((info.unit_size, info.alloc_size, info.atom_size), (65_536, 65_536, 16_384));
    assert_eq!(
        (info.reserved_size, info.dyn_size, chunk.group_offsets),
        (8192, 65_536 - 30_000 - 8192, vec![0, 131_072])
    );
    let error = ia64(&[0], 60_000).request().unwrap_err();
    assert!(error.limit.contains("percpu area overflow static=60000 reserved=8192"), "{error}");
    assert_eq!(ia64(&[1, 0], 30_000).request().unwrap_err().parameter, "topology");
}

/// Printing: addresses of old logs have as many digits as the word.
#[test]
fn old_logs_show_short_addresses() {
    let chunk = machine("i386", "2.6.35-22-generic", 4096, &[2], 36_416).request().unwrap().build().unwrap();
    let first = chunk.boot_log().lines().next().unwrap().to_string();
    assert_eq!(first, "PERCPU: Embedded 14 pages/cpu @c1000000 s36416 r0 d20928 u2097152");
}

#[test]
fn nonsense_is_named() {
    let m = |arch: &str, kernel: &str, page_size| machine(arch, kernel, page_size, &[2], 60_000);
    let build = |dyn_shift| Build { dyn_shift, ..Build::default() };
    for (machine, parameter) in [
        (m("z80", "6.1", 4096), "arch"),
        (m("x86_64", "six", 4096), "kernel"),
        (m("x86_64", "2.6.29", 4096), "variant"),
        (m("sparc64", "2.6.31", 8192), "variant"),
        (m("loongarch64", "5.18", 16_384), "variant"),
        (of("radix", m("arm64", "6.1", 4096)), "variant"),
        (m("x86_64", "6.1", 8192), "page_size"),
        (m("sparc64", "6.1", 4096), "page_size"),
        (Machine { build: build(13), ..m("x86_64", "6.12", 4096) }, "dyn_shift"),
        (Machine { build: build(12), ..m("x86_64", "6.1", 4096) }, "dyn_shift"),
        (Machine { kind: Kind::Up, ..m("x86_64", "6.1", 4096) }, "kind"),
    ] {
        assert_eq!(machine.request().unwrap_err().parameter, parameter, "{} {}", machine.arch, machine.kernel);
    }
    // Sizes are judged when the request is built, whatever they are.
    for (page_size, static_size) in [(0, 1000), (u64::MAX, 1000), (3, 1000), (4096, u64::MAX), (4096, 1 << 30)] {
        for arch in ["arm", "ia64", "loongarch64", "ppc64"] {
            let machine = machine(arch, "6.1", page_size, &[2], static_size);
            assert!(machine.request().map_err(Into::into).and_then(|request| request.build()).is_err());
        }
    }
    let many = Machine::new("arm", "6.1", 4096, Topology::flat(MAX_CPUS).unwrap(), 40_000);
    let error = many.request().unwrap().build().unwrap_err().to_string();
    assert!(error.contains("word_bits=32"), "{error}");
}
