//! The accelerator runtime: semantic operations (classify this picture, multiply these matrices, run this
//! model) on arguments that stay where the caller has them, routed to the best plugin that has them.
//! Used by the watchdog, which makes a [`Runtime`] and a [`Session`] a function, and by the monitor, which turns
//! checked ranges of guest memory into [`Arg`]s. It never reads guest memory by itself, and does no I/O besides
//! reading the files that are registered as resources.
//!
//! A host program takes plugins, a session, and calls operations by the names that functions know them by (see [`host`];
//! `examples/` has whole programs):
//!
//! ```
//! use kernlet_accel::{Runtime, host::Sgemm};
//!
//! let session = Runtime::new(kernlet_accel_plugins::default_plugins()).session();
//! let (a, b, mut c) = ([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 0.0], [0.0; 4]);
//! let params = Sgemm { m: 2, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2, alpha: 1.0, beta: 0.0 };
//! let report = session.ops().sgemm(&params, &a, &b, &mut c)?;
//! assert_eq!((c, report.bytes_copied), ([2.0, 1.0, 4.0, 3.0], 0));
//! # Ok::<(), kernlet_accel::AccelError>(())
//! ```
//!
//! A plugin says what it has, and what a task would cost:
//!
//! ```
//! use std::sync::Arc;
//! use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, Resource, Runtime, operation::Task};
//!
//! #[derive(Debug)]
//! struct Nothing;
//!
//! impl Plugin for Nothing {
//!     fn name(&self) -> &'static str { "nothing" }
//!     fn operations(&self) -> &[Operation] { &[Operation::Noop] }
//!     fn cost(&self, _: &Task<'_>) -> Cost { Cost::nanos(1) }
//!     fn run(&self, _: Task<'_>, _: Deadline) -> Result<Done, PluginError> { Ok(Done::default()) }
//! }
//!
//! # fn main() -> Result<(), kernlet_accel::AccelError> {
//! let session = Runtime::new(vec![Arc::new(Nothing)]).session();
//! session.register("labels", Resource::from_bytes(*b"tench\ngoldfish\n"))?;
//! let report = session.run(Operation::Noop.abi_number(), &mut [], None)?;
//! assert_eq!(report.plugin, "nothing");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod arg;
mod batch;
pub mod config;
mod decode;
mod encode;
mod error;
mod hex;
mod hint;
pub mod host;
pub mod onnx;
pub mod operation;
mod plugin;
mod profile;
mod resource;
mod runtime;
mod session;

pub use arg::{Arg, Data, Dims, Dtype};
pub use batch::Batch;
pub use config::{Config, ConfigError, ExecConfig, FetchConfig, LogLevel, TlsConfig};
pub use decode::{Generic, decode, generic};
pub use encode::{Encoded, EncodedArg, EncodedData};
pub use error::{AccelError, chain};
pub use hex::hex;
pub use hint::Hint;
pub use operation::{ArgError, Operation};
pub use plugin::{Answer, Cost, Deadline, Done, Kinds, Plugin, PluginError};
pub use profile::{Profile, REGIONS_MAX, Region};
pub use resource::{FILES_MAX, RESOURCE_MAX, Resource, ResourceFile, ResourceIdentity, ResourceKind, ResourceWatch};
pub use runtime::{Absent, Runtime};
pub use session::{Quota, RESOURCE_NAME_MAX, RawCall, Report, ResourceId, Session};
