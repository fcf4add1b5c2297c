//! The contract between a guest and the monitor: memory map, boot page, hypercalls, layouts.
//! Called by the guest library on one side and the monitor on the other; `docs/abi.md` explains it.
//! It never does anything: constants and plain-old-data only, every layout asserted at compile time.
//!
//! ```text
//! guest-physical = guest-virtual address
//! 0x0000_0000  null page                      unmapped
//! 0x0000_1000  descriptor tables, fault stubs supervisor only
//! 0x0001_0000  page tables                    supervisor only
//! 0x0010_0000  boot page (4 pages)            user, read
//! 0x0010_4000  hypercall page                 user, read + execute
//! 0x0010_5000  stack guard (11 pages)         unmapped
//! 0x0011_0000  stack (960 KiB)                user, read + write
//! 0x0020_0000  image: the ELF's segments      user, as each segment says, never write + execute
//!   …          heap                           user, read + write
//!   …          request window, to the end     user, read
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod accel;
pub mod boot;
pub mod fields;
pub mod hypercall;
pub mod map;
pub mod message;
pub mod solo5;

/// Version of everything in this crate; a guest refuses a monitor with another one, and the monitor
/// refuses an image whose [`ABI_NOTE_NAME`] note names another one.
pub const ABI_VERSION: u32 = 1;

/// Owner name of the ELF note that carries the ABI version a unikernel was built for.
pub const ABI_NOTE_NAME: &str = "Kernlet";

/// Type of the ELF note whose descriptor is [`ABI_VERSION`] as a little-endian `u32`.
pub const ABI_NOTE_TYPE: u32 = 1;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A range of guest memory: `len` bytes from guest-physical address `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Span {
    /// Guest-physical address of the first byte.
    pub offset: u64,
    /// Length in bytes; an empty range may have any offset.
    pub len: u64,
}

const _: () = assert!(size_of::<Span>() == 16);
