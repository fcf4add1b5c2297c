//! Hypercalls that say what is not so. Called for `/hypercall/NAME`; those that the monitor answers with a status
//! give it as the response's body.

use alloc::{format, vec};
use core::arch::asm;

use kernlet_abi::{
    Span,
    accel::{self, AccelArg, AccelCall, access, operation},
    hypercall::{CallHead, Entropy, Exit, FindResource, HYPERCALL_PORT, Log, NextRequest, exit_reason, number},
    map::{BOOT_BASE, HYPERCALL_PAGE, PAGE_TABLE_BASE, SUPERVISOR_BASE},
    message::ResponseHead,
};
use kernlet_guest::Response;

/// Above any machine's memory.
const OUTSIDE: u64 = 0xf000_0000;

/// Runs from inside memory to beyond every address.
const OVERFLOWING: Span = Span { offset: u64::MAX - 10, len: 100 };

/// The monitor's own pages.
const SUPERVISORS: Span = Span { offset: SUPERVISOR_BASE, len: 8 };

pub(crate) fn make(name: &str) -> Response<'static> {
    let status = match name {
        "unknown-number" => call(&mut head(0xdead)),
        "number-zero" => call(&mut head(0)),
        "block-null" => raw(0),
        "block-outside" => raw(OUTSIDE),
        "block-in-page-tables" => raw(PAGE_TABLE_BASE),
        "block-read-only" => raw(BOOT_BASE),
        "block-across-the-end" => raw(memory_size() - 4),
        "block-misaligned" => raw(stack_address() | 1),
        "narrow-write" => narrow(),
        "log-outside" => log(Span { offset: OUTSIDE, len: 10 }),
        "log-overflowing" => log(OVERFLOWING),
        "log-supervisor" => log(SUPERVISORS),
        "log-endless" => log(Span { offset: BOOT_BASE, len: u64::MAX }),
        "log-not-utf-8" => log(span(&[0xff; 64])),
        "log-empty-anywhere" => log(Span { offset: OUTSIDE, len: 0 }),
        "entropy-outside" => entropy(Span { offset: OUTSIDE, len: 10 }),
        "entropy-read-only" => entropy(Span { offset: BOOT_BASE, len: 8 }),
        "entropy-into-code" => entropy(Span { offset: HYPERCALL_PAGE, len: 8 }),
        "entropy-too-much" => entropy(span(&vec![0; 128 * 1024])),
        "resource-outside" => find(Span { offset: OUTSIDE, len: 10 }),
        "resource-unknown" => find(span(b"no such resource")),
        "resource-endless" => find(Span { offset: BOOT_BASE, len: u64::MAX }),
        "next-without-response" => respond(0),
        "response-outside" => respond(OUTSIDE),
        "response-body-outside" => respond_with(Span { offset: OUTSIDE, len: 10 }, Span::default()),
        "response-body-overflowing" => respond_with(OVERFLOWING, Span::default()),
        "response-headers-outside" => respond_with(Span::default(), Span { offset: OUTSIDE, len: 10 }),
        "response-headers-endless" => respond_with(Span::default(), Span { offset: BOOT_BASE, len: u64::MAX }),
        "response-headers-cut" => respond_with(Span::default(), span(&[9, 0, 9, 0, b'x'])),
        "response-is-supervisor-memory" => respond_with(SUPERVISORS, Span::default()),
        "accel-unknown" => accelerate(0xdead, &mut []),
        "accel-args-outside" => accelerate_at(operation::NOOP, OUTSIDE, 4),
        "accel-too-many" => accelerate_at(operation::NOOP, stack_address(), u32::MAX),
        "accel-arg-outside" => accelerate(operation::BLAS_SGEMM, &mut [arg(OUTSIDE, 64); 4]),
        "accel-arg-overflowing" => accelerate(operation::BLAS_SGEMM, &mut [arg(u64::MAX - 7, 64); 4]),
        "accel-writes-boot-page" => accelerate(operation::BLAS_SGEMM, &mut [arg(BOOT_BASE, 64); 4]),
        "accel-overlap" => overlap(),
        "exit-finished" => exit(exit_reason::FINISHED, Span::default()),
        "exit-unknown-reason" => exit(99, Span::default()),
        "exit-message-outside" => exit(exit_reason::PANIC, Span { offset: OUTSIDE, len: 10 }),
        _ => return Response::new(404).body("no such hypercall"),
    };
    Response::new(200).body(format!("{status}"))
}

/// Makes the cheapest call there is for ever.
pub(crate) fn flood() -> ! {
    loop {
        let _ = kernlet_guest::clock::monotonic();
    }
}

fn head(number: u32) -> CallHead {
    CallHead { number, status: -1 }
}

fn span(bytes: &[u8]) -> Span {
    Span { offset: bytes.as_ptr().expose_provenance() as u64, len: bytes.len() as u64 }
}

fn arg(offset: u64, len: u64) -> AccelArg {
    AccelArg { data: Span { offset, len }, access: access::IN_OUT, dtype: accel::dtype::F32, ..AccelArg::default() }
}

fn log(message: Span) -> i32 {
    call(&mut Log { head: head(number::LOG), level: 3, reserved: 0, message })
}

fn entropy(buffer: Span) -> i32 {
    call(&mut Entropy { head: head(number::ENTROPY), buffer })
}

fn find(name: Span) -> i32 {
    call(&mut FindResource { head: head(number::FIND_RESOURCE), name, ..FindResource::default() })
}

fn exit(reason: u32, message: Span) -> i32 {
    call(&mut Exit { head: head(number::EXIT), reason, message, ..Exit::default() })
}

fn respond(response: u64) -> i32 {
    call(&mut NextRequest { head: head(number::NEXT_REQUEST), response })
}

fn respond_with(body: Span, headers: Span) -> i32 {
    let response = ResponseHead { status: 200, reserved: 0, headers, body };
    respond((&raw const response).expose_provenance() as u64)
}

fn accelerate(operation: u32, args: &mut [AccelArg]) -> i32 {
    let count = u32::try_from(args.len()).unwrap_or(u32::MAX);
    accelerate_at(operation, args.as_mut_ptr().expose_provenance() as u64, count)
}

fn accelerate_at(operation: u32, args: u64, arg_count: u32) -> i32 {
    call(&mut AccelCall { head: head(number::ACCEL), operation, arg_count, args, ..AccelCall::default() })
}

/// Two arguments of which each is written, one inside the other.
fn overlap() -> i32 {
    let numbers = vec![0_u8; 256];
    let start = numbers.as_ptr().expose_provenance() as u64;
    let (outer, inner) = (arg(start, 256), arg(start + 64, 64));
    accelerate(operation::BLAS_SGEMM, &mut [outer, inner, inner, inner])
}

/// Makes a call and gives its status.
fn call<T>(block: &mut T) -> i32 {
    let address = core::ptr::from_mut(block).expose_provenance() as u64;
    raw(address);
    let head: *const CallHead = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: every block begins with its head, and `block` is still there.
    unsafe { (*head).status }
}

/// Makes a call with any address as its block.
fn raw(block: u64) -> i32 {
    // SAFETY: the hypercall page is a C function of one argument; what it may change besides is this function's
    // own memory, of which the blocks here name nothing that is in use.
    unsafe { asm!("call {entry}", entry = in(reg) HYPERCALL_PAGE, in("rdi") block, clobber_abi("C")) };
    0
}

/// Writes one byte instead of four to the hypercall's port.
fn narrow() -> i32 {
    // SAFETY: the monitor refuses it and ends the machine.
    unsafe { asm!("out dx, al", in("dx") HYPERCALL_PORT, in("al") 0_u8) };
    0
}

fn memory_size() -> u64 {
    let page: *const kernlet_abi::boot::BootPage = core::ptr::with_exposed_provenance(BOOT_BASE as usize);
    // SAFETY: the monitor maps the boot page there, readable and constant.
    unsafe { (*page).memory_size }
}

fn stack_address() -> u64 {
    let here = 0_u64;
    (&raw const here).expose_provenance() as u64
}
