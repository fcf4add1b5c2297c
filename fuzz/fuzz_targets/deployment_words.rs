//! A deployment's names, sizes, times and annotations. See `kernlet_fuzz::deployment_words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::deployment_words(data));
