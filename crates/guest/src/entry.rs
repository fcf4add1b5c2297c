//! The first instruction, and the loop around a function. The monitor jumps to `_start`; a function only
//! sees [`serve`].

use kernlet_abi::{
    ABI_NOTE_TYPE, ABI_VERSION,
    boot::{BOOT_MAGIC, BootPage},
    hypercall::{CallHead, NextRequest, exit_reason, number},
};

use crate::{Global, Request, Response, heap, hypercall, panic::exit};

unsafe extern "Rust" {
    /// Defined by [`crate::function!`].
    safe fn kernlet_function() -> !;
}

/// Entry point: the monitor starts it with the boot page's address in `rdi` and a stack as after a call.
#[unsafe(no_mangle)]
extern "C" fn _start(boot: &'static BootPage) -> ! {
    if boot.magic != BOOT_MAGIC || boot.abi_version != ABI_VERSION {
        exit(exit_reason::ABI_MISMATCH, "", None);
    }
    heap::init(boot.heap);
    kernlet_function()
}

/// What is to be done between a function's answer and the next request. Set by who needs it, so that a function that uses
/// no profile does not carry one.
pub(crate) static AFTER_REQUEST: Global<fn()> = Global::new();

/// Answers requests with `handler`, for ever.
pub fn serve(handler: fn(&Request) -> Response<'_>) -> ! {
    // Not inlined here, so that crash reports and debuggers know the handler by its name.
    let handler = core::hint::black_box(handler);
    next_request(0);
    loop {
        // SAFETY: the call before returned with a request in the window, and the next one is only made once
        // everything borrowed from it is gone.
        let request = unsafe { Request::in_window() };
        let response = handler(&request).encode();
        if let Some(after) = AFTER_REQUEST.get() {
            after();
        }
        next_request(core::ptr::from_ref(&response.head).expose_provenance() as u64);
    }
}

fn next_request(response: u64) {
    let head = CallHead { number: number::NEXT_REQUEST, status: 0 };
    hypercall::call(&mut NextRequest { head, response });
}

/// Says which version of the guest interface this unikernel was built for, as an ELF note.
#[repr(C)]
struct AbiNote {
    name_len: u32,
    descriptor_len: u32,
    kind: u32,
    name: [u8; 8],
    version: u32,
}

#[used]
#[unsafe(link_section = ".note.kernlet")]
static ABI_NOTE: AbiNote =
    AbiNote { name_len: 8, descriptor_len: 4, kind: ABI_NOTE_TYPE, name: *b"Kernlet\0", version: ABI_VERSION };
