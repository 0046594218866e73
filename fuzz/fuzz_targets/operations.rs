//! Operations on every engine, beside the slow model, batches and snapshots.
#![no_main]

use libfuzzer_sys::fuzz_target;
use percpu::testing::surfaces;

fuzz_target!(|bytes: &[u8]| surfaces::operations(bytes));
