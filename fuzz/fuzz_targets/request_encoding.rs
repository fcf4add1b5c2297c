//! Requests into guest memory, and responses out of it. See `kernlet_fuzz::request_encoding`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::request_encoding(data));
