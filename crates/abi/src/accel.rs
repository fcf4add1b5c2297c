//! Accelerator operations as a guest asks for them: an operation number and typed ranges of guest memory,
//! which the host uses in place. Numbers below 24 are vAccel 0.8.0's (`VACCEL_OP_*`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Span, hypercall::CallHead};

/// Operation numbers, as [`AccelCall::operation`], with the arguments each takes.
pub mod operation {
    /// Nothing; no arguments. Measures the way to a plugin and back.
    pub const NOOP: u32 = 0;
    /// Classify a picture: in [`super::ClassifyParams`], in picture (JPEG or PNG file, bytes),
    /// out array of [`super::Classification`], best first.
    pub const IMAGE_CLASSIFY: u32 = 3;
    /// C = αAB + βC on row-major `f32` matrices: in [`super::SgemmParams`], in A, in B, in-out C.
    pub const BLAS_SGEMM: u32 = 17;
    /// Load an ONNX model so that running it is fast: in [`super::ModelParams`].
    pub const ONNX_MODEL_LOAD: u32 = 0x100;
    /// Run an ONNX model: in [`super::ModelParams`], then the model's inputs and outputs in its order,
    /// `inputs` of them in and the rest out. Inputs carry their shape; the host fills in the outputs'.
    pub const ONNX_MODEL_RUN: u32 = 0x101;
}

/// Element types of an argument, as [`AccelArg::dtype`].
pub mod dtype {
    /// Bytes without a type.
    pub const BYTES: u32 = 0;
    /// IEEE 754 binary32, little-endian.
    pub const F32: u32 = 1;
    /// Signed 32-bit integers.
    pub const I32: u32 = 2;
    /// Signed 64-bit integers.
    pub const I64: u32 = 3;
    /// Unsigned 8-bit integers.
    pub const U8: u32 = 4;
    /// Signed 8-bit integers.
    pub const I8: u32 = 5;
}

/// Who writes an argument, as [`AccelArg::access`].
pub mod access {
    /// The host reads it.
    pub const IN: u32 = 1;
    /// The host writes it; what was there is not looked at.
    pub const OUT: u32 = 2;
    /// The host reads and then writes it.
    pub const IN_OUT: u32 = 3;
}

/// Most arguments of one operation.
pub const ARGS_MAX: u32 = 32;

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 6;

/// Longest error message, in bytes.
pub const ERROR_MAX: u64 = 1024;

/// The argument block of [`crate::hypercall::number::ACCEL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccelCall {
    /// Number and status.
    pub head: CallHead,
    /// One of [`operation`].
    pub operation: u32,
    /// Number of arguments, at most [`ARGS_MAX`].
    pub arg_count: u32,
    /// Address of an array of [`AccelArg`].
    pub args: u64,
    /// Where an error's message goes, at most [`ERROR_MAX`] bytes of it; may be empty.
    pub error: Span,
    /// Out: bytes of the message.
    pub error_len: u64,
}

/// One argument. Ranges of one call must not overlap where one of them is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccelArg {
    /// The data; aligned to its element type.
    pub data: Span,
    /// One of [`access`].
    pub access: u32,
    /// One of [`dtype`].
    pub dtype: u32,
    /// Dimensions in use; zero for plain bytes, structures and scalars. Out: of an output.
    pub rank: u32,
    /// Zero.
    pub reserved: u32,
    /// Shape, outermost first. Out: of an output.
    pub dims: [u64; RANK_MAX],
    /// Out: bytes that the host wrote to an output, from its start.
    pub written: u64,
}

/// First argument of [`operation::BLAS_SGEMM`]: A is m×k with row stride lda, B k×n with ldb, C m×n with
/// ldc; strides in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SgemmParams {
    /// Rows of A and C.
    pub m: i64,
    /// Columns of B and C.
    pub n: i64,
    /// Columns of A, rows of B.
    pub k: i64,
    /// Elements from one row of A to the next.
    pub lda: i64,
    /// Elements from one row of B to the next.
    pub ldb: i64,
    /// Elements from one row of C to the next.
    pub ldc: i64,
    /// Factor of AB.
    pub alpha: f32,
    /// Factor of the old C; zero means that it is not read.
    pub beta: f32,
}

/// First argument of [`operation::IMAGE_CLASSIFY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClassifyParams {
    /// Resource id of an ONNX model: one float input `[N,3,H,W]`, one output `[N,classes]` of logits.
    pub model: u32,
    /// Resource id of the labels, one a line, or zero for none.
    pub labels: u32,
}

/// One class of a picture.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Classification {
    /// Index of the class.
    pub class: u32,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// Bytes of the label in use.
    pub label_len: u32,
    /// The label in UTF-8, cut at [`LABEL_MAX`] bytes.
    pub label: [u8; LABEL_MAX],
}

/// Longest label, in bytes.
pub const LABEL_MAX: usize = 116;

/// First argument of [`operation::ONNX_MODEL_LOAD`] and [`operation::ONNX_MODEL_RUN`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModelParams {
    /// Resource id of the model.
    pub model: u32,
    /// Number of input tensors; the arguments after them are outputs. Zero when loading.
    pub inputs: u32,
}

const _: () = {
    assert!(size_of::<AccelCall>() == 48);
    assert!(size_of::<AccelArg>() == 88);
    assert!(size_of::<SgemmParams>() == 56);
    assert!(size_of::<ClassifyParams>() == 8);
    assert!(size_of::<Classification>() == 128);
    assert!(size_of::<ModelParams>() == 8);
};
