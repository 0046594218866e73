//! What every engine owes: the list of `testing::properties`, and what batches owe.
#![cfg(feature = "testing")]

use percpu::allocator::{Allocator, Balance};
use percpu::geometry::Geometry;
use percpu::request::Request;
use percpu::testing::properties::{engines, PROPERTIES};
use percpu::testing::random::Random;
use percpu::units::Bytes;
use percpu::variant::Preset;
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

#[test]
fn batches_equal_single_calls() {
    let mut random = Random::new(7);
    for release in ["4.19", "5.4", "6.1", "6.12"] {
        let preset = Preset::by_release(release).unwrap();
        let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
        for balance in [Balance::Eager, Balance::Manual, Balance::Every(7)] {
            let mut single = Allocator::bare(preset, geometry, balance).unwrap();
            let mut batch = single.clone();
            for _ in 0..20 {
                let requests: Vec<_> = (0..random.below(200))
                    .map(|_| Request::new(Bytes(random.below(3000)), Bytes(1 << random.below(9))))
                    .collect();
                let singles: Vec<_> = requests.iter().map(|request| single.alloc(request)).collect();
                let many = batch.alloc_many(requests.into_iter(), &mut || true).unwrap();
                assert_eq!(singles, many, "{release}");
                let ptrs: Vec<_> = many.iter().map(|placement| placement.ptr).filter(|_| random.one_in(2)).collect();
                ptrs.iter().for_each(|ptr| single.free(*ptr, None).unwrap());
                batch.free_many(&ptrs, None, &mut || true).unwrap();
                assert_eq!(format!("{single:?}"), format!("{batch:?}"), "{release}");
                // All or nothing: one bad pointer in it.
                let mut bad = ptrs.clone();
                bad.extend([many.first().map_or(1, |p| p.ptr), 12345]);
                assert!(batch.free_many(&bad, None, &mut || true).is_err());
                assert_eq!(format!("{single:?}"), format!("{batch:?}"), "{release}");
                // What was not freed leaks; the allocator grows with the rounds.
            }
        }
    }
}
