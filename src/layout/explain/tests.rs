use super::*;
use crate::layout::groups::Verdict;
use crate::layout::{GivenGroups, Machine, Topology};

const MIB: u64 = 1 << 20;

fn explained(kernel: &str, topology: Topology, static_size: u64, kind: Kind) -> (FirstChunkRequest, Explanation) {
    let machine = Machine { kind, ..Machine::new("x86_64", kernel, 4096, topology, static_size) };
    let request = machine.request().unwrap();
    let chunk = request.build().unwrap();
    let explanation = Explanation::of(&request, &chunk).unwrap();
    (request, explanation)
}

/// Worked example E3 of specification 30: the table of step D.
#[test]
fn candidates_of_the_worked_example() {
    let topology = Topology::from_nodes(&[3, 5]).unwrap();
    let (_, explanation) = explained("6.1", topology, 188_416, Kind::Auto);
    let rows: Vec<_> =
        explanation.plan.as_ref().unwrap().candidates.iter().map(|c| (c.upa, c.allocs, c.wasted, c.verdict)).collect();
    assert_eq!(
        rows,
        [
            (8, 2, 8, Verdict::Wasteful),
            (4, 3, 4, Verdict::Wasteful),
            (2, 5, 2, Verdict::Taken),
            (1, 8, 0, Verdict::MoreAllocs),
        ]
    );
    assert_eq!((explanation.waste_limit, explanation.used), (2, "embed"));
    let size_sum = 225_280;
    let shares: Vec<_> =
        explanation.groups.iter().map(|g| (g.node, g.nr_cpus, g.asked, g.kept, g.holes, g.tails)).collect();
    let tail = MIB - size_sum;
    assert_eq!(shares, [(0, 3, 4 * MIB, 3 * size_sum, MIB, 3 * tail), (1, 5, 6 * MIB, 5 * size_sum, MIB, 5 * tail)]);
    for group in &explanation.groups {
        assert_eq!(group.kept + group.holes + group.tails, group.asked);
    }
    assert_eq!((explanation.later_areas, explanation.later_span), (10 * MIB, 10 * MIB));
    assert_eq!((explanation.dyn_padding, explanation.dyn_raised, explanation.unit_tail), (0, 0, tail));
    // With one CPU more four units an allocation are not too wasteful: 3 holes for 9 CPUs.
    let more = explanation.cpus.iter().find(|other| other.nr_cpus == 9).unwrap();
    assert_eq!((more.unit_size, more.nr_holes), (MIB / 2, 3));
    let page = explanation.atoms.iter().find(|other| other.atom_size == 4096).unwrap();
    assert_eq!((page.unit_size, page.nr_holes), (size_sum, 0));
}

/// Non-binary atoms replace one accepted number by another (worked example E15).
#[test]
fn an_accepted_number_may_be_replaced() {
    let mut request = explained("6.1", Topology::from_nodes(&[2]).unwrap(), 300_000, Kind::Auto).0;
    request.atom_size = 6 * MIB;
    request.topology = Topology::from_nodes(&[7]).unwrap();
    let chunk = request.build().unwrap();
    let plan = Explanation::of(&request, &chunk).unwrap().plan.unwrap();
    let rows: Vec<_> = plan.candidates.iter().map(|c| (c.upa, c.verdict.name())).collect();
    assert_eq!(rows[..5], [(16, "wasteful"), (12, "wasteful"), (8, "taken"), (6, "wasteful"), (4, "more_allocs")]);
    assert!(rows[5..].iter().all(|row| row.1 == "not_reached"));
}

#[test]
fn what_each_mapping_costs() {
    let topology = Topology::from_nodes(&[2, 2]).unwrap();
    let (request, explanation) = explained("6.1", topology, 188_416, Kind::Auto);
    let [embed, page, lpage] = explanation.mappings.clone().try_into().unwrap();
    assert_eq!((embed.tlb_entries, embed.extra_tlb_entries, embed.doubly_mapped), (1, 0, 0));
    // 188416 + 8192 + 12288: 51 pages.
    assert_eq!((page.tlb_entries, page.extra_tlb_entries, page.doubly_mapped), (51, 51, 4 * 51 * 4096));
    assert_eq!(
        (lpage.tlb_entries, lpage.doubly_mapped, lpage.doubly_mapped_foreign),
        (1, 4 * MIB, 4 * MIB - 4 * 225_280)
    );
    assert_eq!(explanation.kept(), embed.kept);
    // The remapped pages of 2.6.31 are what the comparison says.
    let old = Machine::new("x86_64", "2.6.31", 4096, request.topology.clone(), 188_416).request().unwrap();
    let chunk = old.build().unwrap();
    let explanation = Explanation::of(&old, &chunk).unwrap();
    let large = chunk.large_pages.as_ref().unwrap();
    assert_eq!(explanation.used, "lpage");
    assert_eq!(explanation.mappings[2].doubly_mapped, large.pages.len() as u64 * large.size);
    assert_eq!(explanation.mappings[2].doubly_mapped_foreign, large.doubly_mapped);
    assert_eq!(explanation.asked_bytes() - explanation.kept(), large.doubly_mapped);
}

/// Why embedding was given up, and what the early minimum adds there.
#[test]
fn groups_too_far_apart() {
    let topology = Topology::from_nodes(&[2, 2]).unwrap();
    let (request, _) = explained("6.1", topology, 188_416, Kind::Auto);
    let near = request.set_up(&mut GivenGroups::new([1 << 40, 1 << 41])).unwrap();
    let reach = Explanation::of(&request, &near).unwrap().reach.unwrap();
    assert_eq!(reach.max_distance, (1 << 40) + 2 * MIB);
    assert_eq!(reach.limit, request.vmalloc_total / 4 * 3);
    let far = request.set_up(&mut GivenGroups::new([1 << 40, 1 << 50])).unwrap();
    let explanation = Explanation::of(&request, &far).unwrap();
    assert_eq!((explanation.used, explanation.reach), ("page", None));
    assert_eq!((explanation.dyn_raised, explanation.dyn_padding), (12_288, 0));
    assert_eq!((explanation.groups.len(), explanation.kept()), (1, 4 * 51 * 4096));
    assert_eq!(explanation.plan.unwrap().unit_size(), MIB);
}

#[test]
fn machines_without_a_plan() {
    for kind in [Kind::Up, Kind::Explicit { unit_size: 1 << 20 }] {
        let topology = Topology::flat(1).unwrap();
        let mut request = explained("6.1", topology, 188_416, Kind::Auto).0;
        request.kind = kind;
        let explanation = Explanation::of(&request, &request.build().unwrap()).unwrap();
        assert!(explanation.plan.is_none() && explanation.mappings.is_empty(), "{kind:?}");
        assert_eq!(explanation.groups.len(), 1);
    }
    let (_, old) = explained("2.6.30", Topology::from_nodes(&[2, 2]).unwrap(), 87_640, Kind::Page);
    assert!(old.used == "page" && old.plan.is_none());
    assert_eq!(old.kept(), 4 * 87_640u64.div_ceil(4096) * 4096);
}
