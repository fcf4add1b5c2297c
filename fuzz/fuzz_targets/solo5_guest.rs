//! A file that claims to be a Solo5 unikernel, up to its run. See `kernlet_fuzz::solo5_guest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::solo5_guest(data));
