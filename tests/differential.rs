//! The engine against the naive model on random operations, in geometries that no recording has.
#![cfg(feature = "testing")]

use percpu::testing::differential::run;

#[test]
fn engine_and_naive_model_agree() {
    let summary = run(1_000_000, 20_170_724);
    assert_eq!(summary.differences, 0, "{}", summary.shown.join("\n"));
    assert!(summary.operations >= 1_000_000 && summary.geometries > 500, "{summary:?}");
}
