//! Operations on plain arrays of numbers. Used by functions; the arrays of one call are of one length.

use core::slice;

use kernlet_abi::accel::{MinMaxParams, operation};

use super::{
    AccelError, Batch,
    call::{Arguments as _, Call},
};

/// Copies an array.
///
/// # Errors
/// The arrays are not of one length.
pub fn array_copy(from: &[i32], to: &mut [i32]) -> Result<(), AccelError> {
    Call::<2>::new(operation::FPGA_ARRAY_COPY).input(from).output(to).run().map(|_| ())
}

/// Adds and multiplies element by element.
///
/// # Errors
/// The arrays are not of one length.
pub fn parallel(a: &[f32], b: &[f32], sum: &mut [f32], product: &mut [f32]) -> Result<(), AccelError> {
    Call::<4>::new(operation::FPGA_PARALLEL).input(a).input(b).output(sum).output(product).run().map(|_| ())
}

/// Adds element by element.
///
/// # Errors
/// The arrays are not of one length.
pub fn vector_add(a: &[f32], b: &[f32], sum: &mut [f32]) -> Result<(), AccelError> {
    Call::<3>::new(operation::FPGA_VECTOR_ADD).input(a).input(b).output(sum).run().map(|_| ())
}

/// The smallest and the largest of some numbers; `held` gets the numbers, those below `low` and above `high` moved there.
///
/// # Errors
/// The arrays are not of one length, or empty.
pub fn minmax(numbers: &[f64], low: i32, high: i32, held: &mut [f64]) -> Result<(f64, f64), AccelError> {
    let (mut smallest, mut largest) = ([0.0], [0.0]);
    Call::<5>::new(operation::MINMAX)
        .params(&MinMaxParams { low, high })
        .input(numbers)
        .output(held)
        .output(&mut smallest)
        .output(&mut largest)
        .run()?;
    Ok((smallest[0], largest[0]))
}

/// Operations on arrays.
impl<'a> Batch<'a> {
    /// As [`array_copy`].
    pub fn array_copy(&mut self, from: &'a [i32], to: &'a mut [i32]) -> &mut Self {
        self.begin(operation::FPGA_ARRAY_COPY).input(from).output(to)
    }

    /// As [`parallel`].
    pub fn parallel(&mut self, a: &'a [f32], b: &'a [f32], sum: &'a mut [f32], product: &'a mut [f32]) -> &mut Self {
        self.begin(operation::FPGA_PARALLEL).input(a).input(b).output(sum).output(product)
    }

    /// As [`vector_add`].
    pub fn vector_add(&mut self, a: &'a [f32], b: &'a [f32], sum: &'a mut [f32]) -> &mut Self {
        self.begin(operation::FPGA_VECTOR_ADD).input(a).input(b).output(sum)
    }

    /// As [`minmax`]; the smallest and the largest go to `extremes`.
    pub fn minmax(
        &mut self,
        numbers: &'a [f64],
        low: i32,
        high: i32,
        held: &'a mut [f64],
        (smallest, largest): &'a mut (f64, f64),
    ) -> &mut Self {
        self.begin(operation::MINMAX)
            .params(&MinMaxParams { low, high })
            .input(numbers)
            .output(held)
            .output(slice::from_mut(smallest))
            .output(slice::from_mut(largest))
    }
}
