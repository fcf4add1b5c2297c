//! The calls a guest can make. A call is: fill an argument block anywhere in memory, put its address in
//! `edi`, and `call` [`crate::boot::BootPage::hypercall_entry`]. `rax`, `rdi` and flags are clobbered,
//! as if by any C function. The block's [`CallHead::status`] and its output fields hold the answer.
//!
//! A block, or a range named by a block, that does not lie wholly in the guest's own memory ends the
//! machine: a guest that speaks nonsense is not answered.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Span;

/// I/O port that the hypercall page writes to on KVM: four bytes, the address of the argument block.
/// The only port (with the three above it, which a four-byte access covers) that a guest may touch.
pub const HYPERCALL_PORT: u16 = 0x4c;

/// Numbers of the calls, as [`CallHead::number`].
pub mod number {
    /// Hand over the response to the last request and wait for the next: [`super::NextRequest`].
    pub const NEXT_REQUEST: u32 = 1;
    /// Write a line to the function's log: [`super::Log`].
    pub const LOG: u32 = 2;
    /// Read the clocks: [`super::Clock`].
    pub const CLOCK: u32 = 3;
    /// Fill a range with random bytes: [`super::Entropy`].
    pub const ENTROPY: u32 = 4;
    /// Run an accelerator operation: [`crate::accel::AccelCall`].
    pub const ACCEL: u32 = 5;
    /// Find a resource of the function by its name: [`super::FindResource`].
    pub const FIND_RESOURCE: u32 = 6;
    /// End the machine: [`super::Exit`]. Does not return.
    pub const EXIT: u32 = 7;
    /// Run several accelerator operations: [`crate::accel::AccelBatch`].
    pub const ACCEL_BATCH: u32 = 8;
}

/// Results of a call, as [`CallHead::status`]: zero, or a positive Linux errno, which are also vAccel's
/// error codes.
pub mod status {
    /// Done.
    pub const OK: i32 = 0;
    /// No such resource.
    pub const ENOENT: i32 = 2;
    /// The plugin or the hardware failed.
    pub const EIO: i32 = 5;
    /// Not enough memory or quota.
    pub const ENOMEM: i32 = 12;
    /// As many operations as the function may have are running.
    pub const EAGAIN: i32 = 11;
    /// A plugin, a library or a resource is not to be used by this caller.
    pub const EACCES: i32 = 13;
    /// Resource busy or being loaded.
    pub const EBUSY: i32 = 16;
    /// An argument has a wrong value, shape, type or length.
    pub const EINVAL: i32 = 22;
    /// An output buffer is too small.
    pub const ERANGE: i32 = 34;
    /// No plugin has the operation.
    pub const ENOTSUP: i32 = 95;
    /// The operation ran past its deadline.
    pub const ETIMEDOUT: i32 = 110;
}

/// First field of every argument block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallHead {
    /// One of [`number`].
    pub number: u32,
    /// Out: one of [`status`].
    pub status: i32,
}

/// [`number::NEXT_REQUEST`]: hands over the response and returns with the next request in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NextRequest {
    /// Number and status.
    pub head: CallHead,
    /// Address of a [`crate::message::ResponseHead`]; zero the first time, when there is none.
    pub response: u64,
}

/// [`number::LOG`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Log {
    /// Number and status.
    pub head: CallHead,
    /// 1 error, 2 warn, 3 info, 4 debug, 5 trace; anything else counts as info.
    pub level: u32,
    /// Zero.
    pub reserved: u32,
    /// UTF-8 text; longer than [`LOG_MESSAGE_MAX`] is cut.
    pub message: Span,
}

/// Longest log line kept, in bytes.
pub const LOG_MESSAGE_MAX: u64 = 16 * 1024;

/// [`number::CLOCK`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Clock {
    /// Number and status.
    pub head: CallHead,
    /// Out: nanoseconds since 1970-01-01 00:00 UTC.
    pub realtime_ns: u64,
    /// Out: nanoseconds of the host's monotonic clock since the machine's first request.
    pub monotonic_ns: u64,
}

/// [`number::ENTROPY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entropy {
    /// Number and status.
    pub head: CallHead,
    /// Range to fill, at most [`ENTROPY_MAX`] bytes (else `EINVAL`).
    pub buffer: Span,
}

/// Most random bytes one call gives.
pub const ENTROPY_MAX: u64 = 64 * 1024;

/// [`number::FIND_RESOURCE`]; `ENOENT` when the function has none of that name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FindResource {
    /// Number and status.
    pub head: CallHead,
    /// UTF-8 name, as the image gives it.
    pub name: Span,
    /// Out: the resource's id, above zero.
    pub id: u32,
    /// Zero.
    pub reserved: u32,
    /// Out: its size in bytes.
    pub size: u64,
}

/// [`number::EXIT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exit {
    /// Number and status.
    pub head: CallHead,
    /// One of [`exit_reason`].
    pub reason: u32,
    /// Source line of a panic, or zero.
    pub line: u32,
    /// Source column of a panic, or zero.
    pub column: u32,
    /// Zero.
    pub reserved: u32,
    /// UTF-8 text; longer than [`LOG_MESSAGE_MAX`] is cut.
    pub message: Span,
    /// Source file of a panic, or empty.
    pub file: Span,
}

/// Why a guest ends its machine.
pub mod exit_reason {
    /// A panic; message and location are filled.
    pub const PANIC: u32 = 1;
    /// The heap is exhausted; the message says how much was asked for.
    pub const OUT_OF_MEMORY: u32 = 2;
    /// The boot page has another ABI version.
    pub const ABI_MISMATCH: u32 = 3;
    /// The function left its request loop.
    pub const FINISHED: u32 = 4;
}

const _: () = {
    assert!(size_of::<CallHead>() == 8);
    assert!(size_of::<NextRequest>() == 16);
    assert!(size_of::<Log>() == 32);
    assert!(size_of::<Clock>() == 24);
    assert!(size_of::<Entropy>() == 24);
    assert!(size_of::<FindResource>() == 40);
    assert!(size_of::<Exit>() == 56);
    assert!(HYPERCALL_PORT.is_multiple_of(4));
};
