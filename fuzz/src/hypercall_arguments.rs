//! A guest's memory and the hypercalls that it makes there.

use std::sync::{Arc, OnceLock};

use kernlet_abi::map::{BOOT_BASE, HYPERCALL_PAGE, PAGE_TABLE_BASE, STACK_BASE, STACK_TOP, SUPERVISOR_BASE};
use kernlet_accel::Session;
use kernlet_monitor::{MachineConfig, Unikernel, fuzzing::Sandbox};

use crate::{
    cursor::Cursor,
    image::{DATA, Elf},
    touch::session,
};

/// Memory of the machine, in bytes: the least there is.
const MEMORY: u64 = kernlet_abi::map::MEMORY_MIN;

/// Bytes of the request window.
const WINDOW: u64 = 0x1_0000;

/// Largest response body, in bytes.
const RESPONSE_LIMIT: u64 = 0x1_0000;

/// Calls that one run makes at most.
const CALLS_MAX: usize = 8;

/// A machine's memory, anew.
pub(crate) fn sandbox() -> Sandbox {
    static UNIKERNEL: OnceLock<(Unikernel, Arc<Session>)> = OnceLock::new();
    let (unikernel, session) = UNIKERNEL.get_or_init(|| {
        let elf = Elf::with_code(&[0xc3], b"data").build();
        (Unikernel::parse(&elf).expect("a unikernel"), session())
    });
    let config =
        MachineConfig { memory: MEMORY, request_limit: 0, response_limit: RESPONSE_LIMIT, environment: Vec::new() };
    Sandbox::new(unikernel, &config, Arc::clone(session)).expect("a machine")
}

/// Where a block may be put: the edges of the guest's memory, and what is not the guest's.
fn place(choice: u8, cursor: &mut Cursor<'_>) -> u64 {
    const PLACES: [u64; 14] = [
        DATA,
        DATA + 0x1000,
        DATA + 0x3ff8,
        STACK_BASE,
        STACK_TOP - 64,
        MEMORY - WINDOW - 8,
        MEMORY - WINDOW - 64,
        MEMORY - WINDOW,
        MEMORY - 8,
        0,
        SUPERVISOR_BASE,
        PAGE_TABLE_BASE,
        BOOT_BASE,
        HYPERCALL_PAGE,
    ];
    PLACES.get(usize::from(choice)).copied().unwrap_or_else(|| u64::from(cursor.u32()))
}

/// Each round: bytes for the page behind `DATA`, a place, a block for it, the call. Whatever they are, what the guest
/// cannot write stays as it is, and a call either is answered or ends the machine.
pub fn hypercall_arguments(data: &[u8]) {
    let mut sandbox = sandbox();
    let mut cursor = Cursor::new(data);
    for _ in 0..CALLS_MAX {
        if cursor.is_empty() {
            break;
        }
        let choice = cursor.u8();
        let block = place(choice, &mut cursor);
        let arguments = cursor.short();
        sandbox.place(DATA + 0x1000, cursor.short());
        sandbox.place(block, arguments);
        match sandbox.call(u32::try_from(block).unwrap_or(u32::MAX)) {
            Ok(None) => {}
            Ok(Some(response)) => {
                if let Ok(response) = sandbox.response(response) {
                    assert!((200..=599).contains(&response.status));
                    assert!(response.body.len() as u64 <= RESPONSE_LIMIT);
                }
            }
            Err(cause) => {
                assert!(!cause.to_string().is_empty());
                break;
            }
        }
    }
    sandbox.assert_sealed();
}
