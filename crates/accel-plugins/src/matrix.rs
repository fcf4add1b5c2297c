//! Matrix products in steps, with BLAS's rules, for whatever multiplies.
//! Called by the plugins that have sgemm on the processor. Never copies a matrix, and reads none that BLAS would not.

use kernlet_accel::{
    Deadline, Done, Operation, PluginError,
    operation::{Matrix, MatrixLayout, MatrixMut, MatrixProduct, Sgemm, Task},
};

/// How much is done between two looks at the deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Multiplications.
    pub(crate) products: usize,
    /// Rows at least: fewer than some multiples of a kernel's height waste the packing of B.
    pub(crate) rows_min: usize,
}

/// About 50 ms of one core with AVX-512.
pub(crate) const STEP: Step = Step { products: 1 << 32, rows_min: 256 };

/// The operations that are a product of matrices, whatever a program calls them.
pub(crate) const OPERATIONS: [Operation; 3] = [Operation::BlasSgemm, Operation::TorchSgemm, Operation::FpgaMmult];

/// Carries out any of [`OPERATIONS`].
pub(crate) fn run(
    task: Task<'_>,
    deadline: Deadline,
    step: Step,
    multiply: impl Fn(f32, Matrix<'_>, Matrix<'_>, f32, &mut MatrixMut<'_>) -> Result<(), PluginError>,
) -> Result<Done, PluginError> {
    match task {
        Task::BlasSgemm(task) | Task::TorchSgemm(task) => sgemm(task, deadline, step, multiply),
        Task::FpgaMmult(task) => {
            let task = square(task).ok_or_else(|| PluginError::failed(NOT_SQUARE))?;
            sgemm(task, deadline, step, multiply)
        }
        other => Err(PluginError::NotOffered { operation: other.operation() }),
    }
}

/// What cannot be, since it was checked when the task was made.
pub(crate) const NOT_SQUARE: &str = "the elements of a square matrix are not its size squared";

/// A product of square matrices as what it is.
pub(crate) fn square<'a>(MatrixProduct { size, a, b, c, .. }: MatrixProduct<'a>) -> Option<Sgemm<'a>> {
    let layout = MatrixLayout::new(size, size, size)?;
    Sgemm::new(1.0, Matrix::new(a, layout)?, Matrix::new(b, layout)?, 0.0, MatrixMut::new(c, layout)?)
}

/// Multiplies a few rows of A and C at a time, so that a deadline ends a product that is too large for it. Rows
/// that were done stay done.
/// `multiply` is called with matrices that fit each other, where α and k are not zero and C has elements.
fn sgemm(
    mut task: Sgemm<'_>,
    deadline: Deadline,
    step: Step,
    multiply: impl Fn(f32, Matrix<'_>, Matrix<'_>, f32, &mut MatrixMut<'_>) -> Result<(), PluginError>,
) -> Result<Done, PluginError> {
    let (alpha, beta) = task.factors();
    let (a, b, c) = task.matrices();
    let rows = c.layout().rows();
    if c.layout().columns() == 0 {
        return Ok(Done::default());
    }
    let products_a_row = b.layout().rows().saturating_mul(b.layout().columns()).max(1);
    let step = (step.products / products_a_row).max(step.rows_min);
    for start in (0..rows).step_by(step) {
        if start > 0 {
            deadline.check("the next rows of the product")?;
        }
        let end = rows.min(start.saturating_add(step));
        let (Some(a), Some(c)) = (rows_of(&a, start, end), rows_of_mut(c, start, end)) else {
            return Err(PluginError::failed("rows of a matrix lie outside it"));
        };
        let mut c = c;
        // BLAS reads neither A nor B then, so that what is not finite there does not matter.
        if alpha == 0.0 || a.layout().columns() == 0 {
            scale(beta, &mut c);
        } else {
            multiply(alpha, a, b, beta, &mut c)?;
        }
    }
    Ok(Done::default())
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
        let result = sgemm(task, deadline, Step { products: 1, rows_min: rows }, |alpha, a, b, beta, c| {
            let (n, k, stride) = (c.layout().columns(), a.layout().columns(), c.layout().stride());
            for row in 0..c.layout().rows() {
                for column in 0..n {
                    let product: f32 = (0..k).map(|l| a.elements()[row * k + l] * b.elements()[l * n + column]).sum();
                    let element = &mut c.elements_mut()[row * stride + column];
                    *element = alpha * product + beta * *element;
                }
            }
            Ok(())
        });
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
