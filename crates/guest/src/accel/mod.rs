//! Accelerator operations: say what is to be done, the host does it, on the function's memory in place. Used by
//! functions. There is no driver and no framework here, only descriptors.

mod array;
mod batch;
mod call;
mod error;
mod exec;
mod image;
mod matrix;
mod model;
pub mod profile;
mod resource;

use kernlet_abi::accel::operation;
pub use kernlet_abi::accel::{Classification, ProfileRegion as Region, SgemmParams as Sgemm, dtype};

use self::call::Call;
pub use self::{
    array::{array_copy, minmax, parallel, vector_add},
    batch::{Batch, batch},
    error::AccelError,
    exec::{TypedIn, TypedOut, exec, exec_with_resource, generic, opencv},
    image::{classify, depth, detect, label, pose, resize, segment},
    matrix::{mmult, sgemm, torch_sgemm},
    model::{Element, Framework, Input, Model, Output, RunOptions, load},
    resource::Resource,
};

/// Nothing: measures the way to a plugin and back.
///
/// # Errors
/// No plugin has the operation.
pub fn noop() -> Result<(), AccelError> {
    Call::<0>::new(operation::NOOP).run().map(|_| ())
}
