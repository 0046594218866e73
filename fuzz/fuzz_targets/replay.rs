//! Damaged traces in every kind of replay.
#![no_main]

use libfuzzer_sys::fuzz_target;
use percpu::testing::surfaces;

fuzz_target!(|bytes: &[u8]| surfaces::replay(bytes));
