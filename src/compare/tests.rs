use super::judge::Judge;
use super::source::Columns;
use super::*;
use crate::allocator::Balance;
use crate::geometry::Geometry;
use crate::replay::rerun::{self, rerun};
use crate::trace::{read_trace, Trace};
use crate::variant::{Generation, Preset};

fn geometry() -> Geometry {
    Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap()
}

fn allocator(generation: Generation) -> Allocator {
    Allocator::bare(Preset::of_generation(generation), geometry(), Balance::Eager).unwrap()
}

/// A list written as `(op, id, size, align)`.
fn list(steps: &[(u8, u32, u32, u32)], phases: &[&str]) -> Result<Source, ConfigError> {
    let mut columns = Columns::default();
    for (op, id, size, align) in steps {
        columns.op.push(*op);
        columns.id.push(*id);
        columns.size.push(*size);
        columns.align.push(*align);
    }
    Source::from_columns(columns, phases.iter().map(|text| (*text).to_owned()).collect(), 0)
}

fn figures(source: &Source, rewrite: &Rewrite, subject: &mut dyn Subject) -> Figures {
    run(source, rewrite, subject, Options { phases: true, ..Options::default() }, &mut || true).unwrap()
}

fn steps(source: &Source) -> Vec<Step> {
    let mut stream = source.start();
    std::iter::from_fn(|| stream.next_step()).collect()
}

fn peak(source: &Source) -> Peak {
    source.peak(&mut || true).unwrap()
}

fn recording() -> Trace {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/python/percpu/data/demo/workload/trace.txt.gz");
    read_trace(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn steps_of_a_trace_are_those_of_a_rerun() {
    let trace = recording();
    let source = Source::of_trace(&trace);
    for generation in Generation::ALL {
        let expected = rerun(&trace, allocator(generation), &rerun::Options::default(), &mut |_| true).unwrap();
        let mut here = allocator(generation);
        let found = figures(&source, &Rewrite::default(), &mut here);
        assert_eq!(format!("{:?}", here.engine()), format!("{:?}", expected.allocator.engine()), "{generation}");
        assert_eq!(found.counts.allocs, expected.totals.allocs);
        assert_eq!(found.counts.fails, expected.totals.fails);
        assert_eq!(source.unseen_frees(), expected.totals.unseen_frees);
        assert!(found.steps > 1000 && found.counts.allocs > 100);
    }
}

/// The runner of workloads and this one make the same steps.
#[test]
fn workloads_end_in_the_same_state() {
    let number = crate::workload::Value::Number;
    let given = [("n", number(3000)), ("size", number(24)), ("free", crate::workload::Value::Word("random".into()))];
    let recipe = crate::workload::Recipe::new("objects", given).unwrap();
    let source = Source::of_recipe(recipe.clone());
    assert_eq!(peak(&source), Peak { step: Some(3000), objects: 3000, bytes: 72000 });
    for generation in Generation::ALL {
        let (mut here, mut there) = (allocator(generation), allocator(generation));
        let found = figures(&source, &Rewrite::default(), &mut here);
        let expected = crate::workload::run(&recipe, &mut there, &Default::default(), &mut || true).unwrap();
        assert_eq!(format!("{:?}", here.engine()), format!("{:?}", there.engine()), "{generation}");
        let phases = found.phases.iter().map(|p| (p.counts.allocs, p.counts.fails, p.counts.frees));
        let theirs = expected.phases.iter().map(|p| (p.allocs, p.fails(), p.frees));
        assert!(phases.eq(theirs), "{generation}");
    }
}

#[test]
fn columns_make_the_same_source() {
    let source = Source::of_trace(&recording());
    let columns = source.columns().unwrap().clone();
    let again = Source::from_columns(columns, source.phases().to_vec(), source.unseen_frees()).unwrap();
    assert_eq!(steps(&source), steps(&again));
    assert!(peak(&source).objects > 100);
    assert_eq!(peak(&source), peak(&again));
}

#[test]
fn lost_frees_and_failures_leave_nothing_behind() {
    let text = "\
 task-1 [000] ..... 1.0: percpu_alloc_percpu: call_site=a reserved=0 is_atomic=0 size=8 align=8 base_addr=0000000000001000 off=0 ptr=0000000000001000 bytes_alloc=16 gfp_flags=GFP_KERNEL
 task-1 [000] ..... 2.0: percpu_alloc_percpu: call_site=a reserved=0 is_atomic=0 size=16 align=8 base_addr=0000000000001000 off=0 ptr=0000000000001000 bytes_alloc=32 gfp_flags=GFP_KERNEL
 task-1 [000] ..... 3.0: percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=64 align=4
 task-1 [000] ..... 4.0: percpu_free_percpu: base_addr=0000000000001000 off=0 ptr=0000000000001000
 task-1 [000] ..... 5.0: percpu_free_percpu: base_addr=0000000000001000 off=0 ptr=0000000000001000
";
    let source = Source::of_trace(&read_trace(text.as_bytes()).unwrap());
    let ids: Vec<_> = steps(&source)
        .into_iter()
        .map(|step| match step {
            Step::Alloc { id, request } => (id, request.size.0),
            Step::Free { id } => (id, 0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [(0, 8), (1, 16), (0, 0), (0, 64), (0, 0), (1, 0)]);
    assert_eq!((source.unseen_frees(), source.lost_frees()), (1, 1));
    // The failed request makes no peak, nor does the moment in which a free is missing.
    assert_eq!(peak(&source), Peak { step: Some(1), objects: 2, bytes: 24 });
}

#[test]
fn bad_lists_are_refused() {
    for (steps, phases, text) in [
        (&[(0, 0, 8, 4), (0, 0, 8, 4)][..], &[][..], "asks for object 0, which is live"),
        (&[(1, 0, 0, 0)], &[], "frees object 0, which is not live"),
        (&[(0, 0, 8, 4), (1, 0, 0, 0), (1, 0, 0, 0)], &[], "frees object 0"),
        (&[(0, 7, 8, 4)], &[], "uses object 7 before object 0"),
        (&[(2, 1, 0, 0)], &["a"], "begins phase 1 of 1"),
        (&[(99, 0, 0, 0)], &[], "unknown code 99"),
    ] {
        let error = list(steps, phases).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn failures_are_counted_and_their_frees_skipped() {
    // Two areas fit into the one unit of cpu_alloc, the third does not.
    let steps = [(0, 0, 32768, 4), (0, 1, 32768, 4), (4, 2, 4, 4), (1, 2, 0, 0), (1, 0, 0, 0), (0, 2, 4, 4)];
    let found = figures(&list(&steps, &[]).unwrap(), &Rewrite::default(), &mut allocator(Generation::CpuAlloc2008));
    let c = found.counts;
    assert_eq!((c.allocs, c.fails, c.atomic_fails, c.frees, c.missing_frees), (3, 1, 1, 1, 1));
    assert_eq!((found.end.objects, found.end.requested, c.requested), (2, 32772, 65540));
    assert_eq!((found.max_chunks, found.end.held.nr_chunks), (1, 1));
}

#[test]
fn phases_add_up() {
    let steps = [
        (2, 0, 0, 0),
        (0, 0, 32768, 4),
        (0, 1, 32768, 4),
        (2, 1, 0, 0),
        (1, 0, 0, 0),
        (0, 0, 32768, 4),
        (0, 2, 32768, 4),
        (3, 0, 0, 0),
    ];
    // Left to itself, the worker would make a chunk for its stock of empty pages.
    let mut subject = allocator(Generation::Linux514);
    subject.set_balance_policy(Balance::Manual, 0);
    let found = figures(&list(&steps, &["fill", "refill"]).unwrap(), &Rewrite::default(), &mut subject);
    let names: Vec<_> = found.phases.iter().map(|phase| &*phase.name).collect();
    assert_eq!(names, ["fill", "refill"]);
    assert_eq!(found.phases.iter().map(|p| p.counts.chunks_created).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(found.phases.iter().map(|p| p.counts.allocs).sum::<u64>(), found.counts.allocs);
    assert_eq!(found.phases[1].end, found.end);
}

#[test]
fn requests_are_rewritten() {
    let request = Request::new(Bytes(10), Bytes(4));
    let of = |rewrite: Rewrite| {
        let request = rewrite.apply(request);
        (request.size.0, request.align.0, request.sleep)
    };
    assert_eq!(of(Rewrite::default()), (10, 4, Sleep::Full));
    assert_eq!(of(Rewrite { align: Some(2), ..Rewrite::default() }), (10, 2, Sleep::Full));
    assert_eq!(of(Rewrite { min_align: Some(2), ..Rewrite::default() }), (10, 4, Sleep::Full));
    assert_eq!(of(Rewrite { min_align: Some(64), ..Rewrite::default() }), (10, 64, Sleep::Full));
    assert_eq!(of(Rewrite { size_multiple: Some(12), ..Rewrite::default() }), (12, 4, Sleep::Full));
    assert_eq!(of(Rewrite { atomic: Some(true), ..Rewrite::default() }), (10, 4, Sleep::Never));
    for bad in [
        Rewrite { align: Some(3), ..Rewrite::default() },
        Rewrite { min_align: Some(0), ..Rewrite::default() },
        Rewrite { size_multiple: Some(0), ..Rewrite::default() },
    ] {
        assert!(bad.check().is_err());
    }
}

/// Metadata of an empty chunk of 16 pages, counted by hand.
#[test]
fn metadata_are_maps_and_records() {
    let bits = 65536 / 4;
    let words = |bits: u64| bits.div_ceil(64) * 8;
    let bitmap = |record: u64| words(bits) + words(bits + 1) + 16 * record + words(16);
    for (generation, expected) in [
        (Generation::CpuAlloc2008, words(bits)),
        (Generation::RfcV1, bitmap(20)),
        (Generation::Linux414, bitmap(20)),
        (Generation::Linux52, bitmap(32)),
        (Generation::Linux514, bitmap(32)),
    ] {
        let mut a = allocator(generation);
        Allocator::alloc(&mut a, &Request::new(Bytes(4), Bytes(4)));
        let moment = Moment::of(a.engine());
        assert_eq!(moment.metadata, Some(expected), "{generation}");
        assert_eq!((moment.handed_out, moment.nr_chunks), (4, 1), "{generation}");
    }
    let mut a = allocator(Generation::AreaMap);
    Allocator::alloc(&mut a, &Request::new(Bytes(4), Bytes(4)));
    let Some(crate::engine::Older::AreaMap { map_alloc, .. }) =
        a.engine().chunk(crate::request::ChunkId(0)).unwrap().older
    else {
        panic!("an area map shows what only it has")
    };
    assert_eq!(Moment::of(a.engine()).metadata, Some(u64::from(map_alloc) * 4 + 8));
}

#[test]
fn the_judge_knows_what_is_legal() {
    let mut judge = Judge::new(geometry());
    judge.take(4096, Bytes(100), Bytes(8)).unwrap();
    for (off, size, align, text) in [
        (4190, 8, 2, "overlaps the live area from 4096 to 4196"),
        (4000, 97, 4, "overlaps"),
        (4098, 2, 2, "overlaps"),
        (12, 8, 8, "not a multiple of 8"),
        (65532, 8, 4, "crosses the end of a chunk of 65536"),
        (65536 << 20, 8, 4, "only 1048576 chunks"),
        (u64::MAX - 3, 8, 4, "only 1048576 chunks"),
    ] {
        let error = judge.take(off, Bytes(size), Bytes(align)).unwrap_err();
        assert!(error.contains(text), "{error}");
    }
    judge.take(4196, Bytes(65536 - 4196), Bytes(4)).unwrap();
    judge.take(65536, Bytes(4), Bytes(4)).unwrap();
    assert_eq!((judge.nr_chunks(), judge.max_chunks(), judge.live()), (2, 2, 3));
    assert_eq!(judge.populated(), 16 * 4096);
    assert_eq!(judge.handed_out(), 100 + 65536 - 4196 + 4);
    assert!(!judge.give_back(4097));
    assert!(judge.give_back(4196));
    assert!(!judge.give_back(4196));
    assert!(judge.give_back(65536));
    assert_eq!((judge.nr_chunks(), judge.max_chunks(), judge.populated()), (1, 2, 4096));
}
