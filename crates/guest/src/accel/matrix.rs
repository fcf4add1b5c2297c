//! Products of matrices. Used by functions; matrices are row-major and stay where they are.

use kernlet_abi::accel::{SgemmParams, operation};

use super::{AccelError, call::Call};

/// C = αAB + βC on row-major matrices.
///
/// # Errors
/// A size, stride or buffer does not fit the others.
pub fn sgemm(params: &SgemmParams, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    product(operation::BLAS_SGEMM, params, a, b, c)
}

/// The same, by Torch.
///
/// # Errors
/// As [`sgemm`].
pub fn torch_sgemm(params: &SgemmParams, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    product(operation::TORCH_SGEMM, params, a, b, c)
}

fn product(operation: u32, params: &SgemmParams, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    Call::<4>::new(operation).params(params).input(a).input(b).in_output(c).run().map(|_| ())
}

/// C = AB on square matrices of one size, which the number of their elements says.
///
/// # Errors
/// They are not of one size, or not square.
pub fn mmult(a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    Call::<3>::new(operation::FPGA_MMULT).input(a).input(b).output(c).run().map(|_| ())
}
