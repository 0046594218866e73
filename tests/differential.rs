//! Random operations and random layouts, judged after each step, in geometries that no recording has.
#![cfg(feature = "testing")]

use percpu::testing::differential::run;
use percpu::testing::operations::{self, Finding, Scale, Tally};
use percpu::testing::{layouts, random::Random};

#[test]
fn engine_and_naive_model_agree() {
    let summary = run(1_000_000, 20_170_724);
    assert_eq!(summary.differences, 0, "{}", summary.shown.join("\n"));
    assert!(summary.operations >= 1_000_000 && summary.geometries > 500, "{summary:?}");
}

fn no_finding(finding: Option<Finding>) {
    if let Some(Finding { index, bytes, what }) = finding {
        panic!("case {index}: {what}\n{bytes:?}");
    }
}

/// Cases of seeds that differ, in threads.
fn operate(cases: u64, scale: Scale) -> Tally {
    let mut sum = Tally::default();
    std::thread::scope(|scope| {
        let halves = [0, 1].map(|seed| scope.spawn(move || operations::run_cases(seed, 0, cases / 2, scale)));
        for half in halves {
            let (tally, finding) = half.join().unwrap();
            no_finding(finding);
            sum += tally;
        }
    });
    sum
}

#[test]
fn operations_on_small_maps() {
    let tally = operate(1000, Scale::Small);
    assert!(tally.operations > 400_000 && tally.generations.iter().all(|count| *count > 10_000), "{tally:?}");
    assert!(tally.placed > 100_000 && tally.failed > 10_000 && tally.refused > 500, "{tally:?}");
    assert!(tally.naive > 10_000 && tally.batched > 50_000 && tally.resumed > 10_000, "{tally:?}");
}

#[test]
fn operations_on_maps_of_a_kernel() {
    let tally = operate(100, Scale::Kernel);
    assert!(tally.operations > 40_000 && tally.placed > 10_000 && tally.resumed > 500, "{tally:?}");
}

#[test]
fn layouts_of_any_machine() {
    let (built, finding) = layouts::run_cases(1, 0, 4000);
    no_finding(finding);
    assert!(built > 1000, "{built}");
}

/// A single byte decides what is done: inputs of a fuzzer are not wasted.
#[test]
fn every_input_can_be_run() {
    let mut random = Random::new(1);
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        operations::run(&bytes, None).unwrap();
        layouts::run(&bytes).unwrap();
    }
}
