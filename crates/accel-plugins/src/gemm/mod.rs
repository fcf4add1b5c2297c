//! Matrix products by the `gemm` crate, on all cores.
//! Called by the runtime for sgemm. Never copies a matrix: packing into the processor's cache is part of the
//! product, and C is written in place.

mod kernel;

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

use crate::matrix::{self, STEP};

/// The plugin `gemm`. It uses the threads of rayon's global pool (`RAYON_NUM_THREADS`) for products that are
/// worth it.
#[derive(Debug, Default)]
pub struct Gemm;

impl Gemm {
    /// The plugin.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Plugin for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::BlasSgemm]
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        match task {
            // 150 GFLOP/s, two floating-point operations a product.
            Task::BlasSgemm(task) => Cost::of_work(Cost::nanos(500), task.products(), 75_000),
            _ => Cost::nanos(u64::MAX),
        }
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        match task {
            Task::BlasSgemm(task) => matrix::sgemm(task, deadline, STEP, |alpha, a, b, beta, c| {
                kernel::multiply(alpha, a, b, beta, c);
                Ok(())
            }),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}
