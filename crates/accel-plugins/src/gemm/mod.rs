//! Matrix products by the `gemm` crate, on all cores.
//! Called by the runtime for sgemm. Never copies a matrix: packing into the processor's cache is part of the
//! product, and C is written in place.

mod kernel;

use kernlet_accel::{
    Cost, Deadline, Done, Operation, Plugin, PluginError,
    operation::{Matrix, MatrixLayout, MatrixMut, Sgemm, Task},
};

/// Multiplications after which the deadline is looked at again: about 50 ms of one core with AVX-512.
const STEP_PRODUCTS: usize = 1 << 32;

/// Fewest rows of a step: fewer than some multiples of the kernel's height waste the packing of B.
const STEP_ROWS_MIN: usize = 256;

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
            Task::BlasSgemm(task) => sgemm(task, deadline, STEP_PRODUCTS, STEP_ROWS_MIN),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}

/// Multiplies a few rows of A and C at a time, so that a deadline ends a product that is too large for it. Rows
/// that were done stay done.
fn sgemm(
    mut task: Sgemm<'_>,
    deadline: Deadline,
    step_products: usize,
    step_rows_min: usize,
) -> Result<Done, PluginError> {
    let (alpha, beta) = task.factors();
    let (a, b, c) = task.matrices();
    let rows = c.layout().rows();
    if c.layout().columns() == 0 {
        return Ok(Done::default());
    }
    let products_a_row = b.layout().rows().saturating_mul(b.layout().columns()).max(1);
    let step = (step_products / products_a_row).max(step_rows_min);
    for start in (0..rows).step_by(step) {
        if start > 0 {
            deadline.check("the next rows of the product")?;
        }
        let end = rows.min(start.saturating_add(step));
        let (Some(a), Some(c)) = (rows_of(&a, start, end), rows_of_mut(c, start, end)) else {
            return Err(PluginError::failed("rows of a matrix lie outside it"));
        };
        multiply(alpha, a, b, beta, c);
    }
    Ok(Done::default())
}

/// C = αAB + βC of matrices that fit each other, C with at least one element.
fn multiply(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, mut c: MatrixMut<'_>) {
    // BLAS reads neither A nor B then, so that what is not finite there does not matter.
    if alpha == 0.0 || a.layout().columns() == 0 {
        scale(beta, &mut c);
    } else {
        kernel::multiply(alpha, a, b, beta, &mut c);
    }
}

/// C = βC, without reading C where β is zero.
fn scale(beta: f32, c: &mut MatrixMut<'_>) {
    let layout = c.layout();
    for row in c.elements_mut().chunks_mut(layout.stride()) {
        for element in row.iter_mut().take(layout.columns()) {
            *element = if beta == 0.0 { 0.0 } else { beta * *element };
        }
    }
}

fn rows_of<'a>(matrix: &Matrix<'a>, start: usize, end: usize) -> Option<Matrix<'a>> {
    let (from, layout) = cut(matrix.layout(), start, end)?;
    Matrix::new(matrix.elements().get(from..)?, layout)
}

fn rows_of_mut<'a>(matrix: &'a mut MatrixMut<'_>, start: usize, end: usize) -> Option<MatrixMut<'a>> {
    let (from, layout) = cut(matrix.layout(), start, end)?;
    MatrixMut::new(matrix.elements_mut().get_mut(from..)?, layout)
}

/// Where rows `start..end` of a matrix begin, and their layout.
fn cut(whole: MatrixLayout, start: usize, end: usize) -> Option<(usize, MatrixLayout)> {
    let layout = MatrixLayout::new(end.checked_sub(start)?, whole.columns(), whole.stride())?;
    // A matrix without columns has no elements, wherever its rows would be.
    let from = if whole.columns() == 0 { 0 } else { start.checked_mul(whole.stride())? };
    Some((from, layout))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::time::Instant;

    use super::*;

    /// Seven rows of two columns, four elements apart, from a product over three.
    fn in_steps(rows: usize, deadline: Deadline) -> (Result<Done, PluginError>, Vec<f32>) {
        let layout = |rows, columns, stride| MatrixLayout::new(rows, columns, stride).unwrap();
        let (a, b, mut c) = ([1.0, 2.0, 3.0].repeat(7), [1.0, 10.0, 1.0, 10.0, 1.0, 10.0], vec![1.0; 26]);
        let a = Matrix::new(&a, layout(7, 3, 3)).unwrap();
        let b = Matrix::new(&b, layout(3, 2, 2)).unwrap();
        let task = Sgemm::new(1.0, a, b, 1.0, MatrixMut::new(&mut c, layout(7, 2, 4)).unwrap()).unwrap();
        let result = sgemm(task, deadline, 1, rows);
        (result, c)
    }

    #[test]
    fn a_product_in_steps_is_the_product() {
        for rows in [1, 2, 3, 7, 100] {
            let (result, c) = in_steps(rows, Deadline::NONE);
            assert_eq!(result.unwrap().bytes_copied, 0);
            let expected: Vec<f32> = [7.0, 61.0, 1.0, 1.0].into_iter().cycle().take(26).collect();
            assert_eq!(c, expected);
        }
    }

    #[test]
    fn a_deadline_ends_a_product_between_steps() {
        let (result, c) = in_steps(2, Deadline::from(Some(Instant::now())));
        assert!(matches!(result, Err(PluginError::DeadlinePassed { .. })));
        assert_eq!(c[..10], [7.0, 61.0, 1.0, 1.0, 7.0, 61.0, 1.0, 1.0, 1.0, 1.0]);
    }
}
