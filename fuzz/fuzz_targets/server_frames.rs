//! Frames from a guest that serves. See `kernlet_fuzz::server_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::server_frames(data));
