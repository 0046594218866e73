//! The text of ftrace and `trace-cmd report`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use percpu::testing::surfaces;

fuzz_target!(|bytes: &[u8]| surfaces::trace(bytes));
