//! Matrix products by the `gemm` crate, on all cores.
//! Called by the runtime for sgemm. Never copies a matrix: packing into the processor's cache is part of the
//! product, and C is written in place.

mod kernel;

use std::{num::NonZeroUsize, sync::OnceLock, thread};

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

use crate::matrix::{self, STEP, Speed};

/// 22.7, 101, 110, 114, 111, 108 and 105 GFLOP/s on one thread; 23.3, 101, 132, 189, 202, 210 and 204 on two.
const SPEED: Speed = Speed {
    one: [11_350, 50_500, 55_000, 57_000, 55_600, 54_200, 52_700],
    two: [11_350, 50_500, 66_100, 94_300, 100_700, 104_800, 102_000],
};

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
        SPEED.cost(task, self.threads())
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        matrix::run(task, deadline, STEP, |alpha, a, b, beta, c| {
            kernel::multiply(alpha, a, b, beta, c, self.threads);
            Ok(())
        })
    }
}
