//! A file that claims to be a unikernel: read, laid out, loaded and mapped, as far as it can be.

use kernlet_abi::{
    Span,
    map::{IMAGE_BASE, MEMORY_MAX, MEMORY_MIN},
};
use kernlet_monitor::{MachineConfig, Unikernel, fuzzing::Sandbox};

use crate::touch::session;

/// Images up to here are loaded; larger ones would only take longer.
const LOADED_MAX: u64 = 32 << 20;

/// Whatever the bytes are, reading them ends with an error or with a unikernel whose pages are mapped as laid out.
pub fn elf_loader(data: &[u8]) {
    let Ok(unikernel) = Unikernel::parse(data) else { return };
    assert!((IMAGE_BASE..unikernel.end()).contains(&unikernel.entry()));
    assert!(unikernel.end() <= MEMORY_MAX);
    // Symbols are read at the first look-up.
    let _ = unikernel.symbol(unikernel.entry());
    if unikernel.end() > LOADED_MAX {
        return;
    }
    let memory = (unikernel.end() + (1 << 20)).max(MEMORY_MIN);
    let config = MachineConfig { memory, request_limit: 4096, response_limit: 4096, environment: Vec::new() };
    let sandbox = Sandbox::new(&unikernel, &config, session()).expect("a machine with room for its image");
    sandbox.assert_mapped_as_laid_out();
    let entry = sandbox.walk(unikernel.entry()).expect("the entry point is mapped");
    assert!(entry.user && entry.execute && sandbox.allows(Span { offset: unikernel.entry(), len: 1 }, false));
}
