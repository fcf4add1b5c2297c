//! A file that claims to be a unikernel. See `kernlet_fuzz::elf_loader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::elf_loader(data));
