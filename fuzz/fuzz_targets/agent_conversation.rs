//! What a client and an agent say to each other. See `kernlet_fuzz::agent_conversation`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernlet_fuzz::agent_conversation(data));
