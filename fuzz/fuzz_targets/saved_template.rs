//! A file that claims to be a saved template. See `kernlet_fuzz::saved_template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::saved_template(data));
