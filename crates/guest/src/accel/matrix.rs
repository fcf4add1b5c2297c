//! Products of matrices. Used by functions; matrices are row-major and stay where they are.

use kernlet_abi::accel::{SgemmParams, operation};

use super::{
    AccelError, Batch,
    call::{Arguments, Call},
};

/// C = αAB + βC on row-major matrices.
///
/// # Errors
/// A size, stride or buffer does not fit the others.
pub fn sgemm(params: &SgemmParams, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    product(&mut Call::<4>::new(operation::BLAS_SGEMM), params, a, b, c).run().map(|_| ())
}

/// The same, by Torch.
///
/// # Errors
/// As [`sgemm`].
pub fn torch_sgemm(params: &SgemmParams, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    product(&mut Call::<4>::new(operation::TORCH_SGEMM), params, a, b, c).run().map(|_| ())
}

fn product<'c, C: Arguments>(call: &'c mut C, params: &SgemmParams, a: &[f32], b: &[f32], c: &mut [f32]) -> &'c mut C {
    call.params(params).input(a).input(b).in_output(c)
}

/// Products of matrices.
impl<'a> Batch<'a> {
    /// As [`sgemm`].
    pub fn sgemm(&mut self, params: &SgemmParams, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> &mut Self {
        product(self.begin(operation::BLAS_SGEMM), params, a, b, c)
    }

    /// As [`torch_sgemm`].
    pub fn torch_sgemm(&mut self, params: &SgemmParams, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> &mut Self {
        product(self.begin(operation::TORCH_SGEMM), params, a, b, c)
    }

    /// As [`mmult`].
    pub fn mmult(&mut self, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> &mut Self {
        self.begin(operation::FPGA_MMULT).input(a).input(b).output(c)
    }
}

/// C = AB on square matrices of one size, which the number of their elements says.
///
/// # Errors
/// They are not of one size, or not square.
pub fn mmult(a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    Call::<3>::new(operation::FPGA_MMULT).input(a).input(b).output(c).run().map(|_| ())
}
