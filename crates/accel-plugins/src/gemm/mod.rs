//! Matrix products by the `gemm` crate, on all cores.
//! Called by the runtime for sgemm. Never copies a matrix: packing into the processor's cache is part of the
//! product, and C is written in place.

mod kernel;

use std::{num::NonZeroUsize, sync::OnceLock, thread};

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

use crate::{
    matrix::{self, STEP},
    speed::Speed,
};

/// The plugin `gemm`. It uses the threads of rayon's global pool (`RAYON_NUM_THREADS`) for products that are
/// worth it.
#[derive(Debug, Default)]
pub struct Gemm {
    threads: Option<NonZeroUsize>,
    speed: Speed,
}

impl Gemm {
    /// The plugin.
    #[must_use]
    pub const fn new() -> Self {
        Self { threads: None, speed: Speed::unmeasured() }
    }

    /// The plugin, with at most so many threads for a product.
    #[must_use]
    pub const fn with_threads(threads: NonZeroUsize) -> Self {
        Self { threads: Some(threads), speed: Speed::unmeasured() }
    }
}

impl Gemm {
    /// As many as are configured, or as rayon's pool has where nothing says otherwise.
    fn threads(&self) -> usize {
        static AVAILABLE: OnceLock<usize> = OnceLock::new();
        let available = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.threads.map_or_else(|| *AVAILABLE.get_or_init(available), NonZeroUsize::get)
    }
}

impl Plugin for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn operations(&self) -> &[Operation] {
        &matrix::OPERATIONS
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        self.speed.cost(task, self.threads())
    }

    fn calibrate(&self) {
        self.speed.measure(self.name(), |a, b, c| kernel::multiply(1.0, a, b, 0.0, c, self.threads));
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        matrix::run(task, deadline, STEP, |alpha, a, b, beta, c| {
            kernel::multiply(alpha, a, b, beta, c, self.threads);
            Ok(())
        })
    }
}
