//! HTTP/1.1 heads and bodies in chunks. See `kernlet_fuzz::http_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::http_messages(data));
