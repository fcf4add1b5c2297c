//! A Solo5 guest's calls of accelerators and for its request. See `kernlet_fuzz::solo5_extension`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::solo5_extension(data));
