//! Solo5's unikernels, unmodified: a machine type beside the native one, with the interface of Solo5's hvt tender
//! (ABI 2). Used by `kernlet solo5-hvt` and, through [`crate::Template`], by functions. It shares memory, virtual machines,
//! deadlines and limits with native guests, and nothing else.
//!
//! | module | duty |
//! |---|---|
//! | [`image`] | reads a unikernel and its notes, refuses what cannot run |
//! | [`manifest`] | which devices it declares |
//! | [`device`] | what can be attached, and what is |
//! | [`disk`] | block devices of functions |
//! | `layout` | where things lie in its memory, and who may use them |
//! | `processor` | its processor, at ring 0 or deprivileged at CPL 3 |
//! | `debug`, `core_dump` | what gdb needs: of a guest that runs, and of one that has given up |
//! | `emulate`, `ahead` | carry out what a guest at CPL 3 believes to do at ring 0, and what stands between |
//! | `hypercall`, `ring` | structures in, structures out |
//! | `extension` | accelerators, and requests as bytes: what Solo5 does not have |
//! | `machine` | the run loop |
//! | [`command`](CommandMachine) | functions: a body in, what is printed out |
//! | [`server`] | functions: a guest that serves HTTP by itself, over a link that ends in this process |
//! | [`spt`] | the other tender: the guest as this process, under a filter |
//! | `saved` | which of a machine is in a template's file |
//! | `tap`, `signals` | what `kernlet solo5-hvt` needs of the host |
//! | `probe` | which ring is the better one on this host |

mod ahead;
mod clock;
mod command;
mod core_dump;
mod debug;
pub mod device;
pub mod disk;
mod emulate;
mod extension;
mod hypercall;
pub mod image;
mod layout;
mod machine;
pub mod manifest;
mod probe;
mod processor;
mod ring;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sandbox;
pub(crate) mod saved;
pub mod server;
mod signals;
pub mod spt;
mod tap;

pub use command::{CommandMachine, Template, UsedCommand, body_max};
pub use core_dump::{Core, CoreDump, CoreDumpError};
pub use device::{AttachError, Attached, BlockDevice, Devices, FileBlock, NetDevice, PacketNet};
pub use disk::{Disk, DiskError};
pub use extension::{Exchange, Extension};
pub use image::{Image, ImageError, Target, target_of};
pub use machine::{BootError, COMMAND_LINE_MAX, Config, Console, ConsoleError, End, Halted, MEMORY_MAX, Machine};
pub use manifest::{DeviceKind, Entry, Manifest};
pub use probe::RingSpeed;
pub use processor::{Ring, UnknownRing};
pub use signals::{exit_on_signals, ignore_broken_pipes};
pub use tap::attach as attach_net;

pub(crate) use kernlet_abi::map::PAGE_SIZE;

/// The version of the interface, of hvt and of spt.
pub const ABI_VERSION: u32 = 2;

/// Lowest address that a unikernel may be loaded at.
pub(crate) const GUEST_MIN: u64 = 0x10_0000;

/// What a guest's memory is a multiple of.
pub(crate) const LARGE_PAGE: u64 = 2 << 20;
