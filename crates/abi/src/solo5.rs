//! What Kernlet has for Solo5's guests beyond Solo5's own interface: how a guest finds out that it is there, and its calls.
//! Used by the monitor and by guests in Rust; `functions/solo5/kernlet_accel.h` is the same for C, `docs/solo5.md` explains it.
//! Blocks are as for native guests ([`crate::hypercall`], [`crate::accel`]); numbers below 0x100 are those of theirs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Span, hypercall::CallHead, message::ResponseHead};

/// I/O port that a guest writes the address of an argument block to, as 32 bits: what would be hypercall 128 of Solo5's hvt,
/// which has 8.
pub const EXTENSION_PORT: u16 = 0x580;

/// Where Solo5's hvt puts its boot information, of 56 bytes.
pub const BOOT_INFO: u64 = 0x1_0000;

/// Bytes of that; [`Extension`] follows. A tender without it has the manifest there, at the latest.
pub const BOOT_INFO_LEN: u64 = 56;

/// First eight bytes of [`Extension`].
pub const EXTENSION_MAGIC: u64 = u64::from_le_bytes(*b"KERNLET\x05");

/// Version of what this module says.
pub const EXTENSION_VERSION: u32 = 1;

/// What there is, as [`Extension::features`].
pub mod feature {
    /// Calls [`crate::hypercall::number::ACCEL`] and [`crate::hypercall::number::FIND_RESOURCE`].
    pub const ACCELERATOR: u32 = 1;
    /// Calls [`super::number::REQUEST`] and [`super::number::RESPOND`]: the guest is a function.
    pub const REQUESTS: u32 = 2;
}

/// Calls that native guests do not have.
pub mod number {
    /// Copy a part of the request into the guest: [`super::ReadRequest`].
    pub const REQUEST: u32 = 0x100;
    /// Hand over the response: [`super::Respond`].
    pub const RESPOND: u32 = 0x101;
}

/// Parts of a request, as [`ReadRequest::part`].
pub mod part {
    /// The body.
    pub const BODY: u32 = 0;
    /// HTTP method, such as `POST`.
    pub const METHOD: u32 = 1;
    /// Path after the function's name, percent-encoded as received; starts with `/`.
    pub const PATH: u32 = 2;
    /// Query without the `?`, as received; may be empty.
    pub const QUERY: u32 = 3;
    /// Headers, as [`crate::fields`].
    pub const HEADERS: u32 = 4;
    /// The call id.
    pub const CALL_ID: u32 = 5;
}

/// Says that the extension is there; read-only to the guest, and constant while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extension {
    /// [`EXTENSION_MAGIC`].
    pub magic: u64,
    /// [`EXTENSION_VERSION`].
    pub version: u32,
    /// [`EXTENSION_PORT`].
    pub port: u32,
    /// Any of [`feature`].
    pub features: u32,
    /// Zero.
    pub reserved: u32,
}

/// [`number::REQUEST`]: copies what there is of a part from `offset` on, as much as the buffer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadRequest {
    /// Number and status.
    pub head: CallHead,
    /// One of [`part`]; `EINVAL` if it is none.
    pub part: u32,
    /// Zero.
    pub reserved: u32,
    /// First byte of the part that is wanted.
    pub offset: u64,
    /// Where it goes; may be empty.
    pub buffer: Span,
    /// Out: bytes of the whole part.
    pub size: u64,
    /// Out: bytes that were copied.
    pub copied: u64,
}

/// [`number::RESPOND`]. Of several, the last one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Respond {
    /// Number and status.
    pub head: CallHead,
    /// The response, as native guests hand it over.
    pub response: ResponseHead,
}

const _: () = {
    assert!(size_of::<Extension>() == 24);
    assert!(size_of::<ReadRequest>() == 56);
    assert!(size_of::<Respond>() == 48);
    assert!(core::mem::offset_of!(Respond, response) == 8);
};
