//! Images of functions: building them, keeping them in a local OCI image layout, reading them back, and
//! the types that say how a function is to run. Called by the CLI, the gateway and the watchdog.
//! It never runs a function and never talks to the network.
#![forbid(unsafe_code)]

mod block;
pub mod build;
mod config;
mod cpu;
mod digest;
mod duration;
mod name;
mod reference;
mod size;
mod solo5;
mod spec;
mod store;

pub use block::{BlockAccess, BlockDevice, BlockSettings, block_devices, is_block_name};
pub use config::{ConfigError, FunctionConfig, Isolation, Overrides};
pub use cpu::{CpuShare, CpuShareError};
pub use duration::{DurationError, GoDuration};
pub use name::{FunctionName, NameError, Namespace};
pub use reference::{Reference, ReferenceError};
pub use size::{ByteSize, SizeError};
pub use solo5::{GuestAddress, Solo5Config, Solo5Mode};
pub use spec::FunctionSpec;
pub use store::{
    ImageError, ImageInfo, ImageParts, IoError, LayoutError, Listing, Progress, Removed, Store, StoreError, Unpacked,
};
