//! First chunks of all kinds of machines, beside the slow layout.
#![no_main]

use libfuzzer_sys::fuzz_target;
use percpu::testing::surfaces;

fuzz_target!(|bytes: &[u8]| surfaces::layouts(bytes));
