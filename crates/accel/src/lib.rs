//! The accelerator runtime: semantic operations (classify this picture, multiply these matrices, run this
//! model) on arguments that stay where the caller has them, routed to the best plugin that has them.
//! Used by the watchdog, which makes a [`Runtime`] and a [`Session`] a function, and by the monitor, which turns
//! checked ranges of guest memory into [`Arg`]s. It never reads guest memory by itself, and does no I/O besides
//! reading the files that are registered as resources.
//!
//! ```
//! use std::sync::Arc;
//! use kernlet_accel::{Deadline, Done, Offer, Operation, Cost, Plugin, PluginError, Resource, Runtime, operation::Task};
//!
//! #[derive(Debug)]
//! struct Nothing;
//!
//! impl Plugin for Nothing {
//!     fn name(&self) -> &'static str { "nothing" }
//!     fn operations(&self) -> &[Offer] { &[Offer { operation: Operation::Noop, cost: Cost(1) }] }
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
mod decode;
mod error;
mod onnx;
pub mod operation;
mod plugin;
mod resource;
mod runtime;
mod session;

pub use arg::{Arg, Data, Dims, Dtype};
pub use decode::decode;
pub use error::AccelError;
pub use operation::{ArgError, Operation};
pub use plugin::{Cost, Deadline, Done, Offer, Plugin, PluginError};
pub use resource::{RESOURCE_MAX, Resource, ResourceIdentity, ResourceWatch};
pub use runtime::Runtime;
pub use session::{Quota, RESOURCE_NAME_MAX, Report, ResourceId, Session};
