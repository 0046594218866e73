use proptest::prelude::*;

use super::*;
use crate::layout::arch::{Machine, ARCH_PRESETS};
use crate::layout::{Distance, GivenGroups, Kind};
use crate::variant::Build;

fn machine(arch: &str, kernel: &str, page_size: u64, nodes: &[u32]) -> Machine {
    Machine::new(arch, kernel, page_size, Topology::from_nodes(nodes).unwrap(), 188_400)
}

fn clues(machine: &Machine) -> Clues {
    Clues {
        arch: Some(machine.arch.clone()),
        kernel: Some(machine.kernel.clone()),
        page_size: Some(machine.page_size),
        ..Clues::default()
    }
}

fn source(recovery: &Recovery, name: &str) -> Source {
    recovery.inputs.iter().find(|input| input.name == name).unwrap().source
}

/// Specification 40 section 3.1: logs of which nobody says where they come from.
#[test]
fn samples_without_clues() {
    for (text, page_size, groups) in [
        (
            "percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u262144\n\
             pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152\n\
             pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- -- \n",
            4096,
            1,
        ),
        (
            "pcpu-alloc: s139544 r8192 d32488 u524288 alloc=1*2097152\n\
             percpu: Embedded 44 pages/cpu s139544 r8192 d32488 u524288\n\
             pcpu-alloc: s139544 r8192 d32488 u524288 alloc=1*2097152\n\
             pcpu-alloc: [0] 00 01 02 03 [1] 04 05 06 07 \n\
             pcpu-alloc: [2] 08 09 10 11 [3] 12 13 14 15 \n\
             pcpu-alloc: [4] 16 17 18 19 [5] 20 21 22 23 \n\
             pcpu-alloc: [6] 24 25 26 27 [7] 28 29 30 31 \n",
            4096,
            8,
        ),
        ("percpu: Embedded 11 pages/cpu s627608 r0 d93288 u720896\n", 65_536, 1),
        (
            "percpu: max_distance=0x16000 too large for vmalloc space 0x0\n\
             percpu: Embedded 11 pages/cpu s15264 r0 d29792 u45056\n\
             percpu: wasting 10 pages per chunk\n\
             pcpu-alloc: s15264 r0 d29792 u45056 alloc=11*4096\n\
             pcpu-alloc: [0] 0 [0] 1 \n",
            4096,
            1,
        ),
    ] {
        // The second sample has the head twice on purpose: the first one is not of this layout.
        let text = text.strip_prefix("pcpu-alloc: s139544 r8192 d32488 u524288 alloc=1*2097152\n").unwrap_or(text);
        let recovery = recover(&BootLog::parse(text), &Clues::default()).unwrap();
        assert_eq!(recovery.differences, [], "{text}");
        assert_eq!((recovery.chunk.page_size, recovery.chunk.info.groups.len()), (page_size, groups), "{text}");
        assert_eq!(source(&recovery, "page_size"), Source::Follows);
    }
}

/// Logs quoted in part: the summary alone, with the head of the dump, or the dump alone.
#[test]
fn parts_of_a_log() {
    for (arch, page_size, nodes) in
        [("x86_64", 4096, &[6, 6][..]), ("loongarch64", 16_384, &[4]), ("arm64", 65_536, &[8])]
    {
        let machine = machine(arch, "6.1", page_size, nodes);
        let chunk = machine.request().unwrap().build().unwrap();
        let lines: Vec<&str> = chunk.log.iter().map(|line| line.text.as_str()).collect();
        for (part, rows) in [(&lines[..1], false), (&lines[..2], false), (&lines[1..], true)] {
            let clues = Clues { page_size: Some(page_size), ..Clues::default() };
            let recovery = recover(&BootLog::from_lines(part.iter().copied()), &clues).unwrap();
            assert_eq!(recovery.differences, [], "{part:?}");
            assert_eq!((recovery.topology_known, recovery.chunk.info.unit_size), (rows, chunk.info.unit_size));
        }
    }
}

/// A release and an architecture give everything but the static size.
#[test]
fn constants_follow_from_the_release() {
    let machine = Machine {
        build: Build { dyn_shift: 12, modules: false, ..Build::default() },
        ..machine("x86_64", "6.12.117", 4096, &[3, 5])
    };
    let chunk = machine.request().unwrap().build().unwrap();
    let log = format!(
        "[    0.000000] Linux version 6.12.117 (somebody@somewhere) #1 SMP\n\
         [    0.000000] setup_percpu: NR_CPUS:256 nr_cpumask_bits:8 nr_cpu_ids:8 nr_node_ids:2\n{}\
         [   99.000000] percpu: allocation failed, size=16 align=8 atomic=1, atomic alloc failed, no space left\n",
        chunk.boot_log()
    );
    let recovery = recover(&BootLog::parse(&log), &Clues::default()).unwrap();
    assert_eq!(recovery.differences, []);
    assert!(recovery.from_release && recovery.topology_known);
    assert_eq!(recovery.chunk, chunk);
    for (name, expected) in [
        ("kernel", Source::Shown),
        ("arch", Source::Follows),
        ("static_size", Source::Shown),
        ("dyn_size", Source::Follows),
        ("topology", Source::Shown),
    ] {
        assert_eq!(source(&recovery, name), expected, "{name}");
    }
    // One changed number, and the line is named.
    let damaged = log.replace("u1048576 alloc", "u524288 alloc");
    let recovery = recover(&BootLog::parse(&damaged), &Clues::default()).unwrap();
    assert_eq!(recovery.differences[0].line, 2);
    // A request that no release makes: the printed reserved size is taken.
    let request = FirstChunkRequest { reserved_size: 12_288, ..machine.request().unwrap() };
    let log = request.build().unwrap().boot_log();
    let recovery = recover(&BootLog::parse(&log), &clues(&machine)).unwrap();
    assert_eq!((recovery.differences.len(), recovery.request.reserved_size), (0, 12_288));
    assert!(recovery.from_release);
}

#[test]
fn too_little_is_said() {
    let recovered = |text: &str| recover(&BootLog::parse(text), &Clues::default());
    for (text, missing) in [
        ("", "neither a summary nor the sizes"),
        ("pcpu-alloc: [0] 0 1 [0] 2 3", "neither a summary nor the sizes"),
        ("pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152", "no page size"),
        (
            "setup_percpu: NR_CPUS:8 nr_cpumask_bits:8 nr_cpu_ids:8 nr_node_ids:1\n\
             percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u524288\n\
             pcpu-alloc: s192512 r8192 d28672 u524288 alloc=1*2097152\n\
             pcpu-alloc: [0] 0 1 2 3",
            "the dump ends at cpu 3",
        ),
    ] {
        match recovered(text) {
            Err(Unrecovered::TooLittle(said)) => assert!(said.contains(missing), "{said}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let impossible = "percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u300000";
    assert!(matches!(recovered(impossible), Err(Unrecovered::Impossible(_))));
    let hostile = "percpu: Embedded 1 pages/cpu s18446744073709551615 r18446744073709551615 d1 u1";
    assert!(recovered(hostile).is_err());
    assert!(recovered("pcpu-alloc: s1 r0 d1 u1 alloc=1*1\npcpu-alloc: [0] 4294967295").is_err());
}

/// Groups too far apart, with and without the page allocator; before 4.9 and after.
#[test]
fn distances() {
    for (kernel, distance) in [("4.8", 0x180f_fe24_0000u64), ("6.1", 0x180f_fe20_0000)] {
        let machine = machine("x86_64", kernel, 4096, &[4, 4]);
        let mut request = machine.request().unwrap();
        request.vmalloc_total = 0x1fff_ffff_ffff;
        let unit = request.alloc_info().unwrap().unit_size;
        let distance = if kernel == "4.8" { distance - 0x40000 + unit } else { distance };
        let addresses = addresses_at(&request, distance).unwrap();
        let chunk = request.set_up(&mut GivenGroups::new(addresses.clone())).unwrap();
        assert!(chunk.boot_log().contains("falling back"));
        // The log of the fall-back itself begins with what embedding said.
        let recovery = recover(&BootLog::parse(&chunk.boot_log()), &clues(&machine)).unwrap();
        assert_eq!(recovery.differences, [], "{kernel}");
        assert_eq!(recovery.lines, chunk.boot_log().lines().collect::<Vec<_>>());
        let wrong = chunk.boot_log().replace(&format!("{distance:#x}"), &format!("{:#x}", distance + 4096));
        assert!(
            !matches!(recover(&BootLog::parse(&wrong), &clues(&machine)), Ok(recovery) if recovery.differences.is_empty())
        );
        request.page_allocator = false;
        let chunk = request.set_up(&mut GivenGroups::new(addresses)).unwrap();
        assert!(chunk.boot_log().contains("too large for vmalloc space") && chunk.linear);
        let recovery = recover(&BootLog::parse(&chunk.boot_log()), &clues(&machine)).unwrap();
        assert_eq!(recovery.differences, [], "{kernel}");
    }
}

/// 2009: the forms alone tell the release, and the large-page dump the units.
#[test]
fn logs_of_2009() {
    for (kernel, nodes, kind) in [
        ("2.6.30", &[2, 2][..], Kind::Auto),
        ("2.6.30", &[4], Kind::Auto),
        ("2.6.30", &[4], Kind::Page),
        ("2.6.31", &[3, 5], Kind::Auto),
        ("2.6.31", &[8, 8, 8, 8], Kind::Auto),
        ("2.6.31", &[4], Kind::Page),
    ] {
        let machine = Machine { kind, ..machine("x86_64", kernel, 4096, nodes) };
        let chunk = machine.request().unwrap().build().unwrap();
        let setup = SetupLine {
            nr_cpus: 64,
            nr_cpumask_bits: 64,
            nr_cpu_ids: nodes.iter().map(|&n| u64::from(n)).sum(),
            nr_node_ids: nodes.len() as u64,
        };
        let log = format!("{}\n{}", setup.text().trim_start_matches("setup_percpu: "), chunk.boot_log());
        let recovery = recover(&BootLog::parse(&log), &Clues::default()).unwrap();
        assert_eq!(recovery.differences, [], "{kernel} {nodes:?}\n{log}");
        assert!(recovery.from_release);
    }
}

/// Machines of every row of the table of architectures.
fn any_machine() -> impl Strategy<Value = Machine> {
    let releases = prop::sample::select(vec![
        "2.6.30", "2.6.31", "2.6.32", "2.6.35", "2.6.36", "2.6.37", "3.4", "3.16", "4.4.73", "4.6", "4.9", "4.14",
        "4.19", "5.1", "5.2", "5.10", "5.12", "5.15", "5.16", "5.19", "6.1", "6.2", "6.6", "6.12.117",
    ]);
    let row = prop::sample::select(ARCH_PRESETS.to_vec());
    let page = prop::sample::select(vec![4096u64, 16_384, 65_536]);
    let nodes = prop::collection::vec(1u32..12, 1..6);
    let kind = prop::sample::select(vec![Kind::Auto, Kind::Embed, Kind::Page]);
    let build = (prop::sample::select(vec![10u32, 12, 13]), any::<bool>());
    (row, releases, page, nodes, 1u64..900_000, kind, build).prop_map(
        |(row, kernel, page, nodes, static_size, kind, (dyn_shift, modules))| {
            let page_size = row.page_sizes.first().copied().unwrap_or(page);
            let topology = Topology::from_nodes(&nodes).unwrap();
            Machine {
                variant: Some(row.variant.to_string()),
                build: Build { dyn_shift, modules, memory_profiling: false },
                kind,
                ..Machine::new(row.arch[0], kernel, page_size, topology, static_size)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever a machine of the table prints is recovered from its log, to the byte.
    #[test]
    fn written_logs_are_recovered(machine in any_machine()) {
        let Ok(chunk) = machine.request().map_err(LayoutError::from).and_then(|request| request.build()) else {
            return Ok(());
        };
        let log = chunk.boot_log();
        let recovery = recover(&BootLog::parse(&log), &Clues { topology: Some(machine.topology.clone()), ..clues(&machine) });
        let recovery = recovery.map_err(|error| TestCaseError::fail(format!("{error:?}\n{log}")))?;
        prop_assert_eq!(&recovery.differences, &[], "{}", log);
        prop_assert!(recovery.from_release);
        prop_assert_eq!(recovery.chunk.info.unit_size, chunk.info.unit_size);
        prop_assert_eq!(&recovery.chunk.info.groups, &chunk.info.groups);
        // Without the topology the dump stands for it; what it does not tell is not made up.
        let alone = recover(&BootLog::parse(&log), &clues(&machine));
        // A refused remap depends on which CPUs share a node, and prints nothing of it: that is said, nothing is guessed.
        if let (Err(Unrecovered::TooLittle(missing)), true) = (&alone, log.contains("for large page remap")) {
            prop_assert!(missing.starts_with("the topology"), "{}", missing);
            return Ok(());
        }
        let alone = alone.map_err(|error| TestCaseError::fail(format!("{error:?}\n{log}")))?;
        prop_assert_eq!(&alone.differences, &[], "{}", log);
        if *machine.topology.distance_kind() == Distance::SameNode && !log.contains("pcpu-lpage") && log.contains("pcpu-alloc") {
            prop_assert_eq!(&alone.chunk.info.groups, &chunk.info.groups);
        }
    }
}
