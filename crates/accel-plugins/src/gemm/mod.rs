//! Matrix products by the `gemm` crate, on all cores.
//! Called by the runtime for sgemm. Never copies a matrix: packing into the processor's cache is part of the
//! product, and C is written in place.

mod kernel;

use std::num::NonZeroUsize;

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

use crate::matrix::{self, STEP, Speed};

/// How fast it is with AVX-512.
const SPEED: &Speed = &[(0, 20_000), (1 << 20, 75_000)];

/// The plugin `gemm`. It uses the threads of rayon's global pool (`RAYON_NUM_THREADS`) for products that are
/// worth it.
#[derive(Debug, Default)]
pub struct Gemm {
    threads: Option<NonZeroUsize>,
}

impl Gemm {
    /// The plugin.
    #[must_use]
    pub const fn new() -> Self {
        Self { threads: None }
    }

    /// The plugin, with at most so many threads for a product.
    #[must_use]
    pub const fn with_threads(threads: NonZeroUsize) -> Self {
        Self { threads: Some(threads) }
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
        matrix::cost(task, SPEED)
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        matrix::run(task, deadline, STEP, |alpha, a, b, beta, c| {
            kernel::multiply(alpha, a, b, beta, c, self.threads);
            Ok(())
        })
    }
}
