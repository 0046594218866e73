use super::*;
use crate::allocator::{Allocator, Balance};
use crate::geometry::Geometry;
use crate::request::{Outcome, Reason};
use crate::variant::{Generation, Preset};

fn numbers<'a>(pairs: &[(&'a str, u64)]) -> Vec<(&'a str, Value)> {
    pairs.iter().map(|(name, number)| (*name, Value::Number(*number))).collect()
}

pub(super) fn steps(recipe: &Recipe) -> Vec<Step> {
    let mut stream = recipe.start();
    std::iter::from_fn(|| stream.next_step()).collect()
}

fn bare(generation: Generation) -> Allocator {
    let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
    Allocator::bare(Preset::of_generation(generation), g, Balance::Eager).unwrap()
}

fn freed(order: &str, n: u64) -> Vec<u32> {
    let recipe = Recipe::new("objects", numbers(&[("n", n)])).unwrap();
    let recipe = recipe.with("free", Value::Word(order.to_owned())).unwrap();
    let frees = |step: &Step| if let Step::Free { id } = step { Some(*id) } else { None };
    steps(&recipe).iter().filter_map(frees).collect()
}

#[test]
fn objects_are_freed_in_four_orders() {
    assert_eq!(freed("in-order", 5), [0, 1, 2, 3, 4]);
    assert_eq!(freed("alternate", 5), [0, 2, 4, 1, 3]);
    assert_eq!(freed("reverse", 5), [4, 3, 2, 1, 0]);
    let mut random = freed("random", 100);
    assert_ne!(random, freed("in-order", 100));
    random.sort_unstable();
    assert_eq!(random, freed("in-order", 100));
    for order in objects::ORDERS {
        assert!(freed(order, 0).is_empty());
        assert_eq!(freed(order, 1), [0]);
    }
}

#[test]
fn bad_parameters_are_named_with_their_limits() {
    for (given, parameter) in [
        (vec![], "n"),
        (numbers(&[("n", MAX_OBJECTS + 1)]), "n"),
        (numbers(&[("n", 1), ("size", MAX_BYTES + 1)]), "size"),
        (numbers(&[("n", 1), ("free", 1)]), "free"),
        (vec![("n", Value::Number(1)), ("free", Value::Word("backwards".into()))], "free"),
        (numbers(&[("n", 1), ("sizes", 1)]), "parameter"),
    ] {
        assert_eq!(Recipe::new("objects", given).unwrap_err().parameter, parameter);
    }
    assert_eq!(Recipe::new("object", []).unwrap_err().parameter, "workload");
}

#[test]
fn a_fingerprint_depends_on_every_value_and_on_nothing_else() {
    let one = Recipe::new("objects", numbers(&[("n", 10), ("size", 8)])).unwrap();
    let same = Recipe::new("objects", numbers(&[("size", 8), ("n", 10), ("seed", 1)])).unwrap();
    assert_eq!((one.fingerprint(), one.to_string()), (same.fingerprint(), same.to_string()));
    assert_eq!(one, same);
    for (name, value) in one.parameters() {
        let other = match value {
            Value::Number(number) => Value::Number(number + 1),
            Value::Word(_) => Value::Word("reverse".into()),
            Value::List(_) => unreachable!(),
        };
        assert_ne!(one.with(name, other).unwrap().fingerprint(), one.fingerprint(), "{name}");
    }
    // The same on every machine and in every version, or old results cannot be found again.
    assert_eq!(one.to_string(), "objects(n=10, size=8, align=4, free=in-order, seed=1)");
    assert_eq!(one.fingerprint(), FINGERPRINT);
}

/// Computed by a second program from the description of [`Recipe::fingerprint`].
const FINGERPRINT: u64 = 0xd0a8_72b2_b24e_2c17;

#[test]
fn every_engine_serves_and_gets_everything_back() {
    for generation in Generation::ALL {
        for order in objects::ORDERS {
            let recipe = Recipe::new("objects", numbers(&[("n", 2000), ("size", 16)])).unwrap();
            let recipe = recipe.with("free", Value::Word((*order).to_owned())).unwrap();
            let mut allocator = bare(generation);
            let run =
                run(&recipe, &mut allocator, &Options { places: true, ..Options::default() }, &mut || true).unwrap();
            assert!(run.finished);
            let [up, down] = run.phases.as_slice() else { panic!("{:?}", run.phases) };
            assert_eq!((up.allocs, up.fails(), up.frees, down.frees, down.skipped), (2000, 0, 0, 2000, 0));
            assert_eq!((up.served_bytes, up.end.live_objects, down.end.live_bytes), (32000, 2000, 0));
            assert_eq!((up.time_ns, run.total().frees, run.total().peak.live_bytes), (None, 2000, 32000));
            assert_eq!(run.served.len(), 2000);
            assert!(run.served.iter().all(|served| matches!(served.outcome, Outcome::Placed { .. })));
            allocator.engine().verify().unwrap();
            assert_eq!(allocator.engine().stats().nr_cur_alloc, 0);
            if generation != Generation::CpuAlloc2008 {
                assert!(up.peak.populated_pages >= 8, "{generation}: {up:?}");
            }
        }
    }
}

#[test]
fn failures_are_counted_and_their_frees_skipped() {
    let mut allocator = bare(Generation::CpuAlloc2008);
    let recipe = Recipe::new("objects", numbers(&[("n", 100), ("size", 1000)])).unwrap();
    let run = run(&recipe, &mut allocator, &Options::default(), &mut || true).unwrap();
    let total = run.total();
    assert_eq!((total.allocs, total.fails(), total.frees, total.skipped), (65, 35, 65, 35));
    assert_eq!(total.failures[Reason::NoRoom as usize - 1], 35);
    assert_eq!(allocator.engine().stats().nr_cur_alloc, 0);
}

#[test]
fn a_run_stops_when_told_and_measures_with_the_clock_it_is_given() {
    let recipe = Recipe::new("objects", numbers(&[("n", 10_000)])).unwrap();
    let mut left = 3;
    let mut go_on = || {
        left -= 1;
        left > 0
    };
    let ticks = std::cell::Cell::new(0);
    let clock = || {
        ticks.set(ticks.get() + 7);
        ticks.get()
    };
    let mut allocator = bare(Generation::Linux514);
    let options = Options { clock: Some(&clock), ..Options::default() };
    let run = run(&recipe, &mut allocator, &options, &mut go_on).unwrap();
    assert!(!run.finished && run.steps < 300, "{}", run.steps);
    assert_eq!(run.phases.len(), 1);
    assert_eq!(run.phases[0].time_ns, Some(7));
    assert_eq!(run.phases[0].end.live_objects, allocator.engine().stats().nr_cur_alloc);
}

fn make(name: &str, given: &[(&str, u64)]) -> Recipe {
    Recipe::new(name, numbers(given)).unwrap()
}

/// Every procedure, small.
fn small() -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = PROCEDURES
        .iter()
        .map(|procedure| {
            let has = |name: &&str| procedure.parameters.iter().any(|parameter| parameter.name == *name);
            let given: Vec<_> = [("n", 300), ("live", 20), ("bursts", 5), ("repeat", 10)]
                .into_iter()
                .filter(|(name, _)| has(name))
                .collect();
            make(procedure.name, &given)
        })
        .collect();
    let list = |numbers: &[u64]| Value::List(numbers.to_vec());
    let steps = [
        ("kind", list(&[2, 0, 0, 3, 1, 0, 1])),
        ("id", list(&[7, 0, 3, 0, 0, 0, 3])),
        ("size_bytes", list(&[0, 64, 8, 0, 0, 1, 0])),
        ("align_bytes", list(&[0, 8, 8, 0, 0, 1, 0])),
        ("flags", list(&[0, 0, 1, 0, 0, 3, 0])),
    ];
    recipes.push(Recipe::new("steps", steps).unwrap());
    recipes
}

/// What every stream owes: only dead objects are allocated, only live ones freed, phases exist, the end is the end.
fn check_stream(recipe: &Recipe) -> (u64, usize) {
    let mut live = std::collections::HashSet::new();
    let mut stream = recipe.start();
    let (mut count, mut most) = (0, 0);
    while let Some(step) = stream.next_step() {
        count += 1;
        match step {
            Step::Alloc { id, .. } => {
                assert!(live.insert(id), "{recipe}: {id} is live");
                let page = u32::from(id >= 10);
                let place = Place { chunk: ChunkId(1), off: Bytes(0), page };
                if recipe.procedure().needs_places {
                    stream.placed(id, Some(place));
                }
            }
            Step::Free { id } => assert!(live.remove(&id), "{recipe}: {id} is not live"),
            Step::Phase(phase) => {
                let phases = recipe.procedure().phases;
                assert!(phases.is_empty() || (phase as usize) < phases.len(), "{recipe}: phase {phase}");
            }
            Step::Balance => {}
        }
        most = most.max(live.len());
    }
    assert!(stream.next_step().is_none() && stream.next_step().is_none(), "{recipe}: goes on");
    (count, live.len())
}

#[test]
fn every_stream_keeps_the_rules() {
    for recipe in small() {
        let (steps, left) = check_stream(&recipe);
        let name = recipe.procedure().name;
        assert!(steps > 5 || name == "steps", "{recipe}: {steps}");
        assert_eq!(left > 0, ["head_pinning", "steps"].contains(&name) && steps > 0, "{recipe}: {left} left");
    }
}

#[test]
fn every_stream_is_the_same_each_time_and_another_with_another_seed() {
    for recipe in small().into_iter().filter(|recipe| !recipe.procedure().needs_places) {
        let first = steps(&recipe);
        assert_eq!(first, steps(&recipe.clone()), "{recipe}");
        if recipe.get("seed").is_none() {
            continue;
        }
        let mut seeded = recipe.with("seed", Value::Number(2)).unwrap();
        if recipe.procedure().name == "objects" {
            assert_eq!(first, steps(&seeded), "no random order, no random numbers");
            seeded = seeded.with("free", Value::Word("random".into())).unwrap();
        }
        // One class with one lifetime leaves nothing to chance.
        assert_eq!(first != steps(&seeded), recipe.procedure().name != "mixture", "{recipe}");
    }
}

#[test]
fn every_workload_runs_on_every_engine() {
    for generation in Generation::ALL {
        for recipe in small() {
            let mut allocator = bare(generation);
            let run = run(&recipe, &mut allocator, &Options::default(), &mut || true).unwrap();
            let total = run.total();
            assert_eq!(total.end.live_objects, total.allocs - total.frees, "{generation} {recipe}");
            assert!(total.skipped <= total.fails(), "{generation} {recipe}");
            if generation != Generation::CpuAlloc2008 {
                assert_eq!(allocator.engine().stats().nr_cur_alloc, total.end.live_objects, "{generation} {recipe}");
            }
            allocator.engine().verify().unwrap();
        }
    }
}

fn ids(steps: &[Step]) -> (Vec<u32>, Vec<u32>) {
    let allocs = steps.iter().filter_map(|step| if let Step::Alloc { id, .. } = step { Some(*id) } else { None });
    let frees = steps.iter().filter_map(|step| if let Step::Free { id } = step { Some(*id) } else { None });
    (allocs.collect(), frees.collect())
}

fn sizes(steps: &[Step]) -> Vec<(u64, u64)> {
    let of = |step: &Step| match step {
        Step::Alloc { request, .. } => Some((request.size.0, request.align.0)),
        _ => None,
    };
    steps.iter().filter_map(of).collect()
}

#[test]
fn holes_are_the_first_part_of_each_page() {
    // Four objects a page, half of them in the hole.
    let recipe = make("fill_level", &[("n", 5), ("size", 1024), ("level", 2)]);
    let all = steps(&recipe);
    let phases: Vec<&[Step]> = all.split(|step| matches!(step, Step::Phase(_))).skip(1).collect();
    assert_eq!(ids(phases[0]), ((0..10).collect(), vec![0, 1, 4, 5, 8, 9]));
    assert_eq!(ids(phases[1]), ((10..15).collect(), vec![]));
    assert_eq!(ids(phases[2]).1, [10, 11, 12, 13, 14]);
    assert_eq!(ids(phases[3]).1, [2, 3, 6, 7]);
    let reverse = recipe.with("free", Value::Word("reverse".into())).unwrap();
    assert!(steps(&reverse).windows(2).any(|pair| pair == [Step::Free { id: 14 }, Step::Free { id: 13 }]));
}

#[test]
fn generators_of_the_specification_follow_their_tables() {
    assert_eq!(sizes(&steps(&make("four_at_eight", &[("n", 3)]))), [(4, 8); 3]);
    let (allocs, frees) = ids(&steps(&make("queue", &[("n", 6), ("depth", 2)])));
    assert_eq!((allocs, frees), (vec![0, 1, 2, 0, 1, 2], vec![0, 1, 2, 0, 1, 2]));
    let ladder = sizes(&steps(&make("size_ladder", &[("repeat", 2)])));
    assert_eq!((ladder.len(), ladder[1], ladder[4], ladder[27]), (28, (4, 4), (16, 16), (32768, 4096)));
    let storm = sizes(&steps(&make("align_storm", &[("n", 12)])));
    assert_eq!((storm[0], storm[10], storm[11]), ((8, 4), (8, 4096), (8, 4)));
    // By the numbers of seed 1: sizes 4 * (1 + draw mod 256), then alignments 4 << (draw mod 5).
    let draws = [0x910a_2dec_8902_5cc1_u64, 0xbeeb_8da1_658e_ec67, 0xf893_a2ee_fb32_555e, 0x71c1_8690_ee42_c90b];
    let modules = sizes(&steps(&make("module_load", &[("n", 2)])));
    let expected = |i: usize| (4 * (1 + draws[2 * i] % 256), 4 << (draws[2 * i + 1] % 5));
    assert_eq!(modules, [expected(0), expected(1)]);
    let burst = steps(&make("atomic_burst", &[("bursts", 2), ("n", 3)]));
    let places: Vec<_> = burst.iter().zip(0..).filter(|(step, _)| **step == Step::Balance).map(|(_, i)| i).collect();
    assert_eq!(places, [4, 8]);
    for (size, align) in sizes(&steps(&make("vmalloc_test", &[("n", 5000)]))) {
        assert!((1..=1024).contains(&size) && align.is_power_of_two() && (2..=2048).contains(&align));
    }
}

#[test]
fn lists_that_do_not_belong_together_are_refused() {
    let list = |numbers: &[u64]| Value::List(numbers.to_vec());
    for (name, given, parameter) in [
        ("cgroups", vec![("sizes", list(&[8, 8]))], "aligns"),
        ("netns", vec![("order", list(&[0; 20]))], "order"),
        ("cgroups", vec![("leftover", list(&[16]))], "leftover"),
        ("cgroups", vec![("live", Value::Number(1 << 20)), ("n", Value::Number(MAX_OBJECTS))], "n"),
        ("mixture", vec![("n", Value::Number(1)), ("weights", list(&[0]))], "weights"),
        ("mixture", vec![("n", Value::Number(1)), ("sizes", list(&[1, 2]))], "aligns"),
        ("random", vec![("n", Value::Number(1)), ("sizes", list(&[]))], "sizes"),
        ("bpf_maps", vec![("live", Value::Number(1 << 20))], "live"),
        ("atomic_burst", vec![("bursts", Value::Number(1 << 20)), ("n", Value::Number(1 << 20))], "bursts"),
        ("steps", vec![("kind", list(&[1]))], "id"),
    ] {
        assert_eq!(Recipe::new(name, given).unwrap_err().parameter, parameter, "{name}");
    }
    let steps = |kind: &[u64], id: &[u64]| {
        let zeros = vec![0; kind.len()];
        let rest = ["size_bytes", "align_bytes", "flags"].map(|name| (name, list(&zeros)));
        Recipe::new("steps", [("kind", list(kind)), ("id", list(id))].into_iter().chain(rest))
    };
    assert!(steps(&[0, 1, 0], &[1, 1, 1]).is_ok());
    for (kind, id) in [([0, 0], [1, 1]), ([1, 0], [0, 0]), ([0, 0], [0, 2])] {
        assert_eq!(steps(&kind, &id).unwrap_err().parameter, "id");
    }
}

#[test]
fn leftovers_stay_as_long_as_they_shall() {
    let live = |given: &[(&str, u64)]| {
        let recipe = make("cgroups", given);
        let mut allocator = bare(Generation::Linux514);
        let run = run(&recipe, &mut allocator, &Options::default(), &mut || true).unwrap();
        run.phases.iter().map(|phase| phase.end.live_objects).collect::<Vec<_>>()
    };
    let all = [("n", 50), ("live", 10), ("leftover_percent", 100)];
    assert_eq!(live(&all), [160, 160 + 50 * 3, 60 * 3, 0]);
    assert_eq!(live(&[all[0], all[1], ("leftover_percent", 0)]), [160, 160, 0, 0]);
    // Objects of the last four removals are still there: those of the fifth last go when the last one is removed.
    assert_eq!(live(&[all[0], all[1], all[2], ("leftover_life", 4)]), [160, 160 + 4 * 3, 4 * 3, 0]);
}

#[test]
fn a_mixture_has_the_weights_and_lifetimes_of_its_classes() {
    let list = |numbers: &[u64]| Value::List(numbers.to_vec());
    let given = [
        ("n", Value::Number(40_000)),
        ("sizes", list(&[8, 100])),
        ("aligns", list(&[8, 4])),
        ("flags", list(&[0, 1])),
        ("weights", list(&[3, 1])),
        ("lasting", list(&[0, 500_000])),
        ("lifetimes", list(&[10, 30, 0, 0])),
    ];
    let recipe = Recipe::new("mixture", given).unwrap();
    let (mut born, mut made) = (std::collections::HashMap::new(), 0_u64);
    let mut lives: [Vec<u64>; 2] = [vec![], vec![]];
    let mut counts = [0_u64; 2];
    for step in steps(&recipe) {
        match step {
            Step::Alloc { id, request } => {
                let class = usize::from(request.size.0 == 100);
                assert_eq!(request.sleep == crate::request::Sleep::Never, class == 1);
                counts[class] += 1;
                born.insert(id, (class, made));
                made += 1;
            }
            Step::Free { id } => {
                let (class, at) = born.remove(&id).unwrap();
                lives[class].push(made - at - 1);
            }
            _ => {}
        }
        if made == 40_000 {
            break;
        }
    }
    assert!(counts[0].abs_diff(30_000) < 600, "{counts:?}");
    assert!(lives[0].iter().all(|life| [10, 30].contains(life)) && lives[1].iter().all(|life| *life == 0));
    assert!((lives[1].len() as u64).abs_diff(counts[1] / 2) < 300, "{}", lives[1].len());
}

#[test]
fn a_fit_finds_the_mixture_that_made_a_trace() {
    use crate::trace::{Alloc, Base, Clock, Event, TraceBuilder};
    let list = |numbers: &[u64]| Value::List(numbers.to_vec());
    let given = [
        ("n", Value::Number(20_000)),
        ("sizes", list(&[8, 64])),
        ("aligns", list(&[8, 16])),
        ("flags", list(&[0, 1])),
        ("weights", list(&[3, 1])),
        ("lasting", list(&[0, 250_000])),
        ("lifetimes", list(&[5, 5, 100, 300])),
    ];
    let recipe = Recipe::new("mixture", given).unwrap();
    let mut builder = TraceBuilder::new(Clock::Counter);
    let mut made = 0;
    for (time, step) in (0..).zip(steps(&recipe)) {
        let base = |id: u32| Some(Base::new(u64::from(id) << 20));
        let event = match step {
            Step::Alloc { id, request } => {
                made += 1;
                Event::Alloc(Alloc {
                    size: request.size,
                    align: request.align,
                    reserved: request.reserved,
                    atomic: request.sleep == crate::request::Sleep::Never,
                    base: base(id),
                    off: Bytes(0),
                    ptr: None,
                    bytes_alloc: None,
                    call_site: None,
                    gfp_flags: None,
                })
            }
            Step::Free { id } => Event::Free { base: base(id), off: Bytes(0), ptr: None },
            _ => continue,
        };
        if made == 20_000 {
            break;
        }
        builder.push(time, None, &event).unwrap();
    }
    let fitted = fit(&builder.finish(), 500, 3).unwrap();
    assert_eq!((fitted.number("n"), fitted.number("seed")), (500, 3));
    assert_eq!(
        (fitted.list("sizes"), fitted.list("aligns"), fitted.list("flags")),
        (&[8, 64][..], &[8, 16][..], &[0, 1][..])
    );
    let weights = fitted.list("weights");
    assert!((weights[0] * 100 / (weights[0] + weights[1])).abs_diff(75) <= 2, "{weights:?}");
    assert_eq!(fitted.list("lasting")[0] / 10_000, 0);
    assert!(fitted.list("lasting")[1].abs_diff(270_000) < 40_000, "{:?}", fitted.list("lasting"));
    let (short, long) = fitted.list("lifetimes").split_at(32);
    assert!(short.iter().all(|life| *life == 5), "{short:?}");
    assert!(long[..14].iter().all(|life| *life == 100) && long[18..].iter().all(|life| *life == 300), "{long:?}");
    assert!(matches!(fit(&TraceBuilder::new(Clock::Counter).finish(), 1, 1), Err(FitError::Trace(_))));
}

/// 4 CPUs, static 185496, no reserve, dynamic 28672, atom 2 MiB: what the kernel's own code was seen doing.
#[test]
fn heads_pin_chunks_since_5_2() {
    use crate::layout::{FirstChunkRequest, Topology};
    for (release, created) in [("4.13", 0), ("4.19", 0), ("5.4", 5), ("6.12", 5)] {
        let preset = Preset::by_release(release).unwrap();
        let mut request = FirstChunkRequest::new(Topology::flat(4).unwrap(), preset.layout, 185_496);
        (request.reserved_size, request.dyn_size, request.atom_size) = (0, 28_672, 2 << 20);
        let chunk = request.build().unwrap();
        assert_eq!(chunk.info.unit_size, 524_288);
        for align in [4, 16] {
            let mut allocator = Allocator::with_layout(preset, &chunk, Balance::Eager).unwrap();
            let recipe = make("head_pinning", &[("align", align)]);
            let run = run(&recipe, &mut allocator, &Options::default(), &mut || true).unwrap();
            let [fill, thin, refill] = run.phases.as_slice() else { panic!("{run:?}") };
            assert_eq!((fill.allocs, fill.chunks_created, refill.allocs), (200_000, 7, thin.frees), "{release}");
            assert_eq!(refill.chunks_created, created, "{release} align {align}");
            allocator.engine().verify().unwrap();
        }
    }
}

#[test]
fn requests_and_frees_are_told_apart() {
    // The clock counts how often it is looked at; work is counted by cpu_alloc-2008.
    let ticks = std::cell::Cell::new(0);
    let clock = || {
        ticks.set(ticks.get() + 1);
        ticks.get()
    };
    let recipe = make("random", &[("n", 500), ("seed", 9)]);
    let mut allocator = bare(Generation::CpuAlloc2008);
    let options = Options { split: true, clock: Some(&clock), ..Options::default() };
    let parts = run(&recipe, &mut allocator, &options, &mut || true).unwrap().total();
    let mut whole = bare(Generation::CpuAlloc2008);
    let total = run(&recipe, &mut whole, &Options::default(), &mut || true).unwrap().total();
    assert_eq!((parts.costs, total.alloc_costs), (total.costs, None));
    let all = steps(&recipe);
    let rows = all.windows(2).filter(|pair| {
        let [a, b] = [pair[0], pair[1]].map(|step| matches!(step, Step::Alloc { .. }));
        b && !a
    });
    assert_eq!(parts.alloc_time_ns, Some(rows.count() as u64));
    // Every request by itself.
    let (mut single, mut costs) = (bare(Generation::CpuAlloc2008), crate::cost::Costs::ZERO);
    let mut live = std::collections::HashMap::new();
    for step in steps(&recipe) {
        match step {
            Step::Alloc { id, request } => {
                let before = single.engine().costs().unwrap();
                live.insert(id, (single.alloc(&request).ptr, request.size));
                costs += single.engine().costs().unwrap() - before;
            }
            Step::Free { id } => {
                let (ptr, size) = live.remove(&id).unwrap();
                single.free(ptr, Some(size)).unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(parts.alloc_costs, Some(costs));
    assert!(costs.words_read > 0);
}

#[test]
fn a_trace_gives_the_steps_that_it_shows() {
    use crate::trace::{Alloc, Base, Clock, Event, TraceBuilder};
    let place = |n: u64| (Some(Base::new(n << 20)), Bytes(0));
    let alloc_at = |n: u64, size: u64, reserved: bool| {
        let (base, off) = place(n);
        let (bytes_alloc, call_site, gfp_flags) = (None, None, None);
        let sizes = (Bytes(size), Bytes(8));
        let (size, align) = sizes;
        Event::Alloc(Alloc {
            size,
            align,
            reserved,
            atomic: false,
            base,
            off,
            ptr: None,
            bytes_alloc,
            call_site,
            gfp_flags,
        })
    };
    let free_at = |n: u64| {
        let (base, off) = place(n);
        Event::Free { base, off, ptr: None }
    };
    let mut builder = TraceBuilder::new(Clock::Counter);
    let failed = Event::AllocFail { size: Bytes(99), align: Bytes(4), reserved: false, atomic: true };
    // The free of 7 was never seen being allocated; that of 1 is lost, for its place is allocated again.
    let events = [
        alloc_at(1, 16, false),
        free_at(7),
        alloc_at(2, 32, true),
        Event::Marker { text: "x" },
        failed,
        alloc_at(1, 64, false),
        free_at(1),
        free_at(2),
    ];
    for (time, event) in (0..).zip(events) {
        builder.push(time, None, &event).unwrap();
    }
    let trace = builder.finish();
    let recipe = of_trace(&trace).unwrap();
    let ordinary = |id: u32, size: u64| Step::Alloc { id, request: request(size, 8) };
    let reserved = Step::Alloc { id: 1, request: Request { reserved: true, ..request(32, 8) } };
    let atomic = Request { sleep: crate::request::Sleep::Never, ..request(99, 4) };
    assert_eq!(
        steps(&recipe),
        [
            ordinary(0, 16),
            reserved,
            Step::Alloc { id: 2, request: atomic },
            Step::Free { id: 2 },
            Step::Free { id: 0 },
            ordinary(0, 64),
            Step::Free { id: 0 },
            Step::Free { id: 1 },
        ]
    );
}
