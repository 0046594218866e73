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
            let run = run(&recipe, &mut allocator, &Options { places: true, clock: None }, &mut || true).unwrap();
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
    let options = Options { places: false, clock: Some(&clock) };
    let run = run(&recipe, &mut allocator, &options, &mut go_on).unwrap();
    assert!(!run.finished && run.steps < 300, "{}", run.steps);
    assert_eq!(run.phases.len(), 1);
    assert_eq!(run.phases[0].time_ns, Some(7));
    assert_eq!(run.phases[0].end.live_objects, allocator.engine().stats().nr_cur_alloc);
}
