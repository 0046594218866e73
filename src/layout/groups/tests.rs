use proptest::prelude::*;

use super::*;
use crate::testing::random::Random;
use crate::variant::Preset;

const MIB: u64 = 1 << 20;

struct Example {
    page: u64,
    early: u64,
    reserved: u64,
    dyn_size: u64,
    atom: u64,
    grouping: Grouping,
}

/// The defaults of specification 30 section 10.
const X86: Example = Example {
    page: 4096,
    early: 12_288,
    reserved: 8192,
    dyn_size: 28_672,
    atom: 2 * MIB,
    grouping: Grouping::FirstMember,
};

impl Example {
    fn build(&self, topology: &Topology, static_size: u64) -> AllocInfo {
        let mut rules = Preset::by_release("6.1").unwrap().layout;
        rules.early_size = self.early;
        rules.grouping = self.grouping;
        let input = LayoutInput {
            static_size,
            reserved_size: self.reserved,
            dyn_size: self.dyn_size,
            atom_size: self.atom,
            page_size: self.page,
            min_unit_size: min_unit_size(self.page),
            topology,
            rules: &rules,
            word: WordSize::Bits64,
        };
        let info = input.build().unwrap();
        info.verify(topology, self.page).unwrap();
        assert!(input.unit_candidates().unwrap().contains(&info.unit_size));
        info
    }
}

/// `0 1 - | 2`: groups and holes of a record.
fn maps(info: &AllocInfo) -> String {
    let unit = |cpu: &Option<u32>| cpu.map_or("-".to_string(), |cpu| cpu.to_string());
    let group = |group: &Group| group.cpu_map.iter().map(unit).collect::<Vec<_>>().join(" ");
    info.groups.iter().map(group).collect::<Vec<_>>().join(" | ")
}

fn bases(info: &AllocInfo) -> Vec<u64> {
    info.groups.iter().map(|group| group.base_offset).collect()
}

fn nodes(nr_cpus: &[u32]) -> Topology {
    Topology::from_nodes(nr_cpus).unwrap()
}

/// Specification 30 section 8: where the kernel wraps, an error.
#[test]
fn words_of_32_bits_overflow() {
    let rules = Preset::by_release("6.12").unwrap().layout;
    let narrow = |topology: &Topology, static_size| {
        let input = LayoutInput {
            static_size,
            reserved_size: 0,
            dyn_size: 0,
            atom_size: 4096,
            page_size: 4096,
            min_unit_size: 32_768,
            topology,
            rules: &rules,
            word: WordSize::Bits32,
        };
        (input.build(), LayoutInput { word: WordSize::Bits64, ..input }.build())
    };
    let many = Topology::flat(4096).unwrap();
    let (fits, wide) = narrow(&many, (1 << 20) - (28 << 10));
    assert_eq!(fits.unwrap(), wide.unwrap());
    let (wraps, wide) = narrow(&many, 1 << 20);
    let text = wraps.unwrap_err().to_string();
    assert_eq!(text, "size of all units=0x105000000: overflows a word of word_bits=32");
    assert_eq!(wide.unwrap().unit_size, (1 << 20) + (20 << 10));
}

#[test]
fn e1_to_e3_x86_nodes() {
    let info = X86.build(&nodes(&[4]), 188_416);
    assert_eq!((info.unit_size, info.dyn_size, info.nr_holes()), (524_288, 28_672, 0));
    assert_eq!(maps(&info), "0 1 2 3");
    let info = X86.build(&nodes(&[4, 4]), 188_416);
    assert_eq!((info.unit_size, info.nr_units()), (524_288, 8));
    assert_eq!((maps(&info).as_str(), bases(&info)), ("0 1 2 3 | 4 5 6 7", vec![0, 2_097_152]));
    let info = X86.build(&nodes(&[3, 5]), 188_416);
    assert_eq!((info.unit_size, info.nr_units(), info.nr_allocs()), (1_048_576, 10, 5));
    assert_eq!((maps(&info).as_str(), bases(&info)), ("0 1 2 - | 3 4 5 6 7 -", vec![0, 4_194_304]));
}

#[test]
fn e4_interleaved_nodes() {
    let topology = Topology::from_cpu_nodes((0..16).map(|cpu| cpu % 4).collect()).unwrap();
    let info = X86.build(&topology, 139_544);
    assert_eq!((info.unit_size, info.dyn_size), (524_288, 32_488));
    assert_eq!(maps(&info), "0 4 8 12 | 1 5 9 13 | 2 6 10 14 | 3 7 11 15");
    assert_eq!(bases(&info), [0, 2_097_152, 4_194_304, 6_291_456]);
}

#[test]
fn e5_to_e7_page_atom_and_large_pages() {
    let info = Example { atom: 4096, ..X86 }.build(&nodes(&[4]), 91_112);
    assert_eq!((info.unit_size, info.dyn_size, info.alloc_size / info.atom_size), (131_072, 31_768, 32));
    assert_eq!(info.nr_allocs(), 4);
    let ppc = Example { page: 65_536, atom: 65_536, reserved: 0, dyn_size: 36_864, ..X86 };
    let info = ppc.build(&nodes(&[4, 4]), 627_608);
    assert_eq!((info.unit_size, info.dyn_size, bases(&info)), (720_896, 93_288, vec![0, 2_883_584]));
    let info = Example { atom: 16 * MIB, ..ppc }.build(&nodes(&[20, 20]), 627_608);
    assert_eq!((info.unit_size, info.nr_units(), bases(&info)), (2_097_152, 48, vec![0, 50_331_648]));
    let info = Example { atom: MIB, ..ppc }.build(&nodes(&[20, 20]), 627_608);
    assert_eq!((info.unit_size, info.alloc_size), (1_048_576, 1_048_576));
}

#[test]
fn e8_to_e10_one_cpu_sparse_ids_and_large_units() {
    assert_eq!(X86.build(&nodes(&[1]), 188_416).unit_size, 2_097_152);
    let gaps: Vec<u32> = (0..41).filter(|cpu| ![0, 2, 5, 7, 40].contains(cpu)).collect();
    let topology = Topology::flat(41).unwrap().with_impossible(&gaps).unwrap();
    let info = X86.build(&topology, 188_416);
    assert_eq!((info.unit_size, maps(&info).as_str()), (1_048_576, "0 2 5 7 40 -"));
    let info = X86.build(&nodes(&[4]), 3_145_728);
    assert_eq!((info.size_sum(), info.unit_size, info.alloc_size), (3_182_592, 4_194_304, 4_194_304));
}

#[test]
fn e11_distances_that_are_not_transitive() {
    let matrix = vec![vec![10, 10, 10], vec![10, 10, 20], vec![10, 20, 10]];
    let topology = Topology::from_distances(matrix).unwrap();
    let info = X86.build(&topology, 188_416);
    assert_eq!((info.unit_size, maps(&info).as_str()), (524_288, "0 1 2 -"));
    let info = Example { grouping: Grouping::AllMembers, ..X86 }.build(&topology, 188_416);
    assert_eq!((info.unit_size, maps(&info).as_str()), (1_048_576, "0 1 | 2 -"));
    assert_eq!(bases(&info), [0, 2_097_152]);
}

#[test]
fn a_distance_below_local_is_near_for_all_members_only() {
    let topology = Topology::from_distances(vec![vec![10, 5], vec![5, 10]]).unwrap();
    assert_eq!(group_cpus(&topology, Grouping::AllMembers).len(), 1);
    assert_eq!(group_cpus(&topology, Grouping::FirstMember).len(), 2);
}

#[test]
fn e12_to_e16() {
    let sparc = Example { page: 8192, atom: 4 * MIB, ..X86 };
    let info = sparc.build(&nodes(&[32, 32]), 60_000);
    assert_eq!((info.size_sum(), info.dyn_size, info.unit_size), (98_304, 30_112, 131_072));
    assert_eq!(bases(&info), [0, 4_194_304]);
    let arm = Example { atom: 4096, ..X86 };
    let info = arm.build(&nodes(&[2]), 43_418);
    assert_eq!((info.size_sum(), info.dyn_size), (81_920, 30_310));
    for (early, sum, dyn_size) in [(12_288, 122_880, 14_688), (20_480, 131_072, 22_880)] {
        let info = Example { early, dyn_size: 0, atom: 4096, ..X86 }.build(&nodes(&[2]), 100_000);
        assert_eq!((info.size_sum(), info.dyn_size, info.unit_size), (sum, dyn_size, sum));
    }
    let info = Example { atom: 6 * MIB, ..X86 }.build(&nodes(&[7]), 300_000);
    assert_eq!((info.unit_size, info.nr_holes()), (786_432, 1));
    let info = X86.build(&nodes(&[12]), 87_640);
    assert_eq!((info.unit_size, info.nr_holes()), (131_072, 4));
    let info = X86.build(&nodes(&[12]), 192_512);
    assert_eq!((info.unit_size, info.nr_units(), info.nr_holes()), (262_144, 16, 4));
}

#[test]
fn the_smallest_unit_enlarges_the_unit_only() {
    let info = Example { atom: 4096, reserved: 0, dyn_size: 0, ..X86 }.build(&nodes(&[1]), 1000);
    assert_eq!((info.size_sum(), info.dyn_size, info.unit_size), (16_384, 15_384, 32_768));
}

#[test]
fn hostile_sizes_are_named() {
    let topology = nodes(&[2]);
    let rules = Preset::by_release("6.12").unwrap().layout;
    let good = LayoutInput {
        static_size: 1000,
        reserved_size: 0,
        dyn_size: 0,
        atom_size: 4096,
        page_size: 4096,
        min_unit_size: 32_768,
        topology: &topology,
        rules: &rules,
        word: WordSize::Bits64,
    };
    for (input, parameter) in [
        (LayoutInput { static_size: u64::MAX, ..good }, "static_size"),
        (LayoutInput { reserved_size: u64::MAX, ..good }, "reserved_size"),
        (LayoutInput { dyn_size: (1 << 30) + 1, ..good }, "dyn_size"),
        (LayoutInput { static_size: 1 << 30, ..good }, "unit_size"),
        (LayoutInput { atom_size: 0, ..good }, "atom_size"),
        (LayoutInput { atom_size: 4097, ..good }, "atom_size"),
        (LayoutInput { atom_size: 1 << 63, ..good }, "atom_size"),
        (LayoutInput { page_size: 0, ..good }, "page_size"),
        (LayoutInput { page_size: 12_288, ..good }, "page_size"),
        (LayoutInput { min_unit_size: u64::MAX, ..good }, "min_unit_size"),
    ] {
        assert_eq!(input.build().unwrap_err().parameter, parameter);
    }
}

#[test]
fn a_dump_gives_the_record_back() {
    let info = X86.build(&nodes(&[3, 5]), 188_416);
    assert_eq!(AllocInfo::from_boot_record(&info.boot_record()), info);
}

/// The restart loop of specification 30 section 5.2, word for word.
fn all_members_by_the_letter(topology: &Topology) -> Vec<Vec<u32>> {
    let mut group_of = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for &cpu in topology.possible() {
        let mut group = 0;
        'restart: loop {
            for &t in topology.possible().iter().take_while(|&&t| t != cpu) {
                let far = topology.distance(cpu, t) > Some(10) || topology.distance(t, cpu) > Some(10);
                if group_of[&t] == group && far {
                    group += 1;
                    continue 'restart;
                }
            }
            break;
        }
        group_of.insert(cpu, group);
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(cpu);
    }
    groups
}

fn any_topology() -> impl Strategy<Value = Topology> {
    let by_node = prop::collection::vec(0u32..5, 1..40).prop_map(|nodes| Topology::from_cpu_nodes(nodes).unwrap());
    let by_matrix = (1usize..14).prop_flat_map(|n| {
        let row = prop::collection::vec(prop::sample::select(vec![10u32, 10, 10, 20, 9]), n);
        prop::collection::vec(row, n).prop_map(|rows| Topology::from_distances(rows).unwrap())
    });
    (prop_oneof![by_node, by_matrix], prop::collection::vec(0u32..40, 0..6))
        .prop_map(|(topology, impossible)| topology.clone().with_impossible(&impossible).unwrap_or(topology))
}

/// 10^5 machines: nodes of any size and order, gaps, tables that are neither symmetric nor transitive, both groupings.
#[test]
fn invariants_on_a_hundred_thousand_topologies() {
    let mut with_holes = 0;
    for seed in 0..100_000 {
        let random = &mut Random::new(seed);
        let topology = random_topology(random);
        let page = [4096, 8192, 16_384, 65_536][random.below(4) as usize];
        let example = Example {
            page,
            early: [0, 12_288, 20_480][random.below(3) as usize],
            reserved: [0, 4, 8192, 20_000][random.below(4) as usize],
            dyn_size: random.below(200_000),
            atom: page * [1, 2, 3, 16, 100, 256, 512][random.below(7) as usize],
            grouping: if random.one_in(2) { Grouping::FirstMember } else { Grouping::AllMembers },
        };
        // `build` verifies I1 to I5.
        let info = example.build(&topology, 1 + random.below(3_000_000));
        let upa = info.units_per_alloc();
        assert!(upa == 1 || info.alloc_size == info.atom_size, "seed {seed}");
        assert!(!info.atom_size.is_power_of_two() || upa.is_power_of_two(), "seed {seed}");
        assert!(info.dyn_size >= example.dyn_size.max(example.early), "seed {seed}");
        let mut before = None;
        for group in &info.groups {
            let cpus: Vec<u32> = group.cpu_map.iter().map_while(|cpu| *cpu).collect();
            assert!(cpus.is_sorted() && group.cpu_map[cpus.len()..].iter().all(Option::is_none), "seed {seed}");
            assert!(((group.nr_units as usize) - cpus.len()) < upa as usize, "seed {seed}");
            assert!(before < cpus.first().copied(), "seed {seed}: groups are in order of their first CPU");
            before = cpus.first().copied();
        }
        with_holes += usize::from(info.nr_holes() > 0);
    }
    assert!(with_holes > 10_000, "{with_holes}");
}

fn random_topology(random: &mut Random) -> Topology {
    let nr_cpus = 1 + if random.one_in(10) { random.below(300) } else { random.below(40) } as u32;
    let nr_nodes = 1 + random.below(8);
    let nodes = (0..nr_cpus).map(|_| random.below(nr_nodes) as u32).collect();
    let topology = Topology::from_cpu_nodes(nodes).unwrap();
    let mut table = |size: u32| -> Vec<Vec<u32>> {
        let distances = [10, 10, 10, 20, 21, 9];
        (0..size).map(|_| (0..size).map(|_| distances[random.below(6) as usize]).collect()).collect()
    };
    let distance = match nr_cpus % 5 {
        0 => Distance::None,
        1 => Distance::Nodes(table(nr_nodes as u32)),
        2 if nr_cpus < 20 => Distance::Cpus(table(nr_cpus)),
        _ => Distance::SameNode,
    };
    let topology = topology.with_distance(distance).unwrap();
    let gaps: Vec<u32> = (0..nr_cpus).filter(|_| random.one_in(6)).collect();
    topology.clone().with_impossible(&gaps).unwrap_or(topology)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn invariants_hold_on_random_machines(
        topology in any_topology(),
        static_size in 1u64..3_000_000,
        reserved in prop::sample::select(vec![0u64, 4, 8192, 20_000]),
        dyn_size in 0u64..200_000,
        page in prop::sample::select(vec![4096u64, 16_384, 65_536]),
        atom_pages in prop::sample::select(vec![1u64, 2, 3, 16, 100, 512]),
        first_member: bool,
    ) {
        let grouping = if first_member { Grouping::FirstMember } else { Grouping::AllMembers };
        let example = Example { page, reserved, dyn_size, atom: page * atom_pages, grouping, early: 20_480 };
        let info = example.build(&topology, static_size);
        let upa = info.units_per_alloc();
        prop_assert!(info.dyn_size >= dyn_size.max(20_480));
        prop_assert!(info.unit_size >= min_unit_size(page));
        prop_assert!(upa == 1 || info.alloc_size == info.atom_size);
        if info.atom_size.is_power_of_two() {
            prop_assert!(upa.is_power_of_two());
        }
        for group in &info.groups {
            let cpus: Vec<u32> = group.cpu_map.iter().map_while(|cpu| *cpu).collect();
            prop_assert!(cpus.is_sorted() && group.cpu_map[cpus.len()..].iter().all(Option::is_none));
            prop_assert!(((group.nr_units as usize) - cpus.len()) < upa as usize);
        }
        let firsts: Vec<_> = info.groups.iter().map(|group| group.cpu_map[0]).collect();
        prop_assert!(firsts.is_sorted());
    }

    #[test]
    fn both_groupings_agree_on_nodes_and_with_the_letter(topology in any_topology()) {
        let all = group_cpus(&topology, Grouping::AllMembers);
        prop_assert_eq!(&all, &all_members_by_the_letter(&topology));
        if *topology.distance_kind() == Distance::SameNode {
            prop_assert_eq!(&all, &group_cpus(&topology, Grouping::FirstMember));
            prop_assert_eq!(&all, &group_by_first(&topology));
        }
    }

    #[test]
    fn dumps_of_random_machines_parse_back(topology in any_topology(), static_size in 1u64..1_000_000) {
        let record = X86.build(&topology, static_size).boot_record();
        let text = record.lines().join("\n");
        prop_assert_eq!(crate::boot_log::BootLog::parse(&text).record(), Some(record));
    }
}
