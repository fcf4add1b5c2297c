//! What the monitor tells a guest before its first instruction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Span;

/// First eight bytes of the boot page.
pub const BOOT_MAGIC: u64 = u64::from_le_bytes(*b"KERNLET\0");

/// The boot page, at [`crate::map::BOOT_BASE`]; read-only to the guest and constant while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootPage {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] of the monitor.
    pub abi_version: u32,
    /// Size of this structure, in bytes.
    pub size: u32,
    /// Address of the code that performs a hypercall.
    pub hypercall_entry: u64,
    /// Guest memory, in bytes.
    pub memory_size: u64,
    /// Memory for the guest's allocator; zeroed.
    pub heap: Span,
    /// Where [`crate::message::RequestHead`] appears when `next_request` returns; read-only.
    pub request_window: Span,
    /// Largest response body, in bytes.
    pub response_limit: u64,
    /// `NAME=VALUE` strings, each ended by a zero byte.
    pub environment: Span,
}

const _: () = {
    assert!(size_of::<BootPage>() == 88);
    assert!(core::mem::offset_of!(BootPage, hypercall_entry) == 16);
    assert!(core::mem::offset_of!(BootPage, heap) == 32);
    assert!(core::mem::offset_of!(BootPage, environment) == 72);
};

impl BootPage {
    /// Size of the structure, as its own [`BootPage::size`] says.
    #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
    pub const SIZE: u32 = size_of::<Self>() as u32;
}
