//! What every engine owes: the list of `testing::properties`, and what batches owe.
#![cfg(feature = "testing")]

use percpu::allocator::{Allocator, Balance};
use percpu::geometry::Geometry;
use percpu::request::Request;
use percpu::testing::properties::{engines, EXEMPTIONS, PROPERTIES};
use percpu::testing::random::Random;
use percpu::units::Bytes;
use percpu::variant::{Generation, Preset};
use proptest::prelude::*;
use rayon::prelude::*;

fn check(seed: u64) -> Result<(), String> {
    engines().into_par_iter().try_for_each(|(name, engine)| {
        PROPERTIES.iter().try_for_each(|(what, property)| {
            property(&mut *engine.clone(), seed).map_err(|error| format!("{name}: {what}: {error}"))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_engine_has_every_property(seed: u64) {
        prop_assert_eq!(check(seed), Ok(()));
    }
}

/// The exemptions are needed: without one the engine would fail. Each names a section.
#[test]
fn exemptions_name_their_section() {
    for (generation, what, section) in EXEMPTIONS {
        assert!(section.starts_with(|c: char| c.is_ascii_digit()), "{generation}: {what:?}");
        assert!(generation.rules().is_none(), "{generation} is a Linux generation and owes everything");
    }
}

#[test]
fn batches_equal_single_calls() {
    let mut random = Random::new(7);
    let newest = Generation::ALL.map(Preset::of_generation);
    for preset in newest.into_iter().chain(Preset::by_release("6.1")) {
        let release = preset.release;
        let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
        for balance in [Balance::Eager, Balance::Manual, Balance::Every(7)] {
            let mut single = Allocator::bare(preset, geometry, balance).unwrap();
            let mut batch = single.clone();
            for _ in 0..20 {
                let requests: Vec<_> = (0..random.below(200))
                    .map(|_| Request::new(Bytes(random.below(3000)), Bytes(1 << random.below(9))))
                    .collect();
                let singles: Vec<_> = requests.iter().map(|request| single.alloc(request)).collect();
                let many = batch.alloc_many(requests.iter().copied(), &mut || true).unwrap();
                assert_eq!(singles, many, "{release}");
                let chosen = many.iter().zip(&requests).filter(|_| random.one_in(2));
                let (mut ptrs, mut sizes): (Vec<_>, Vec<_>) = chosen.map(|(p, r)| (p.ptr, r.size.0)).unzip();
                ptrs.iter().zip(&sizes).for_each(|(ptr, size)| single.free(*ptr, Some(Bytes(*size))).unwrap());
                batch.free_many(&ptrs, Some(&sizes), &mut || true).unwrap();
                assert_eq!(format!("{single:?}"), format!("{batch:?}"), "{release}");
                // All or nothing: one bad pointer in it.
                ptrs.extend([many.first().map_or(1, |p| p.ptr), 12345]);
                sizes.extend([8, 8]);
                assert!(batch.free_many(&ptrs, Some(&sizes), &mut || true).is_err());
                assert_eq!(format!("{single:?}"), format!("{batch:?}"), "{release}");
                // What was not freed leaks; the allocator grows with the rounds.
            }
        }
    }
}
