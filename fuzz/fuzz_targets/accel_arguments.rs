//! Raw arguments of an accelerator operation. See `kernlet_fuzz::accel_arguments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::accel_arguments(data));
