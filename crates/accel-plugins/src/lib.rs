//! The accelerator plugins: those that need nothing installed (`noop`, `rten`, `gemm`), those that open a library of the host's
//! at run time (`onnxruntime`, `openblas`, `opencl`), and those that are used when they are named (`exec`, `mbench`). One folder a
//! plugin, each with a README of what it does, what it needs, where it looks and its limits.
//! Used by the watchdog, agents, host programs and the bench: [`load`] makes those that a configuration asks for, and
//! [`default_plugins`] those that need nothing. They never see raw arguments or guest memory: only tasks whose lengths the
//! runtime has checked.
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
mod speed;
mod stack;
mod vision;

use std::sync::Arc;

use kernlet_accel::{Config, Plugin};

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

/// The plugins that need nothing installed, ready for [`kernlet_accel::Runtime::new`].
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
    built_in(&Config::default())
}

/// The same with as many threads as a configuration says. Starts none of them yet.
#[must_use]
pub fn built_in(config: &Config) -> Vec<Arc<dyn Plugin>> {
    let threads = |name| config.threads.get(name).copied();
    let gemm = threads("gemm").map_or_else(Gemm::new, Gemm::with_threads);
    let rten = threads("rten").map_or_else(Rten::new, Rten::with_threads);
    vec![Arc::new(Noop::new()), Arc::new(rten), Arc::new(gemm)]
}
