//! A guest's memory and the hypercalls that it makes. See `kernlet_fuzz::hypercall_arguments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::hypercall_arguments(data));
