//! The accelerator plugins that need nothing installed: `noop`, `rten` (ONNX models, pictures) and `gemm`
//! (matrices). One folder a plugin, each with a README of what it does and how fast.
//! Used by the watchdog and the bench, who hand [`default_plugins`] to a runtime; tests may take one alone.
//! They never see raw arguments or guest memory: only tasks whose lengths the runtime has checked.
#![deny(unsafe_code)]

mod cache;
mod cancel;
mod catalogue;
mod exec;
mod fit;
mod gemm;
mod load;
mod matrix;
mod mbench;
mod native;
mod noop;
mod onnxruntime;
mod openblas;
mod opencl;
mod rten;
mod vision;

use std::sync::Arc;

use kernlet_accel::Plugin;

pub use crate::{
    catalogue::{CATALOGUE, Entry},
    exec::{Exec, ExecError},
    gemm::Gemm,
    load::{Found, Loaded, load},
    mbench::Mbench,
    native::NoLibrary,
    noop::Noop,
    onnxruntime::{OnnxRuntime, OnnxRuntimeOptions, Provider, Unavailable},
    openblas::{OpenBlas, OpenBlasOptions},
    opencl::OpenCl,
    rten::Rten,
    vision::picture::PIXELS_MAX,
};

/// The plugins of this crate, ready for [`kernlet_accel::Runtime::new`].
///
/// ```
/// use kernlet_accel::{Operation, Runtime};
///
/// let session = Runtime::new(kernlet_accel_plugins::default_plugins()).session();
/// let report = session.run(Operation::Noop.abi_number(), &mut [], None)?;
/// assert_eq!(report.plugin, "noop");
/// # Ok::<(), kernlet_accel::AccelError>(())
/// ```
#[must_use]
pub fn default_plugins() -> Vec<Arc<dyn Plugin>> {
    vec![Arc::new(Noop::new()), Arc::new(Rten::new()), Arc::new(Gemm::new())]
}
