//! Accelerator operations as a guest asks for them: an operation number and typed ranges of guest memory,
//! which the host uses in place. Numbers below 24 are vAccel 0.8.0's (`VACCEL_OP_*`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Span, hypercall::CallHead};

/// Operation numbers, as [`AccelCall::operation`], with the arguments each takes. Names, numbers and meaning of those
/// below 24 are vAccel's; the deprecated ones (FPGA, minmax) are carried out all the same.
pub mod operation {
    /// Nothing; no arguments. Measures the way to a plugin and back.
    pub const NOOP: u32 = 0;
    /// Call a function of a library that the host allows: in its name (string), in the function's name (string), then
    /// the callee's arguments, of any type: those it reads are in, those it writes are out or in-out.
    pub const EXEC: u32 = 1;
    /// The same for a library that is a resource: in [`super::ResourceParams`], in the function's name (string), then
    /// the callee's arguments.
    pub const EXEC_WITH_RESOURCE: u32 = 2;
    /// Classify a picture: in [`super::ClassifyParams`], in picture (JPEG or PNG file, bytes),
    /// out array of [`super::Classification`], best first.
    pub const IMAGE_CLASSIFY: u32 = 3;
    /// Find objects in a picture: in [`super::ClassifyParams`], in picture, out text.
    pub const IMAGE_DETECT: u32 = 4;
    /// Divide a picture into what it shows: as [`IMAGE_DETECT`].
    pub const IMAGE_SEGMENT: u32 = 5;
    /// Find poses in a picture: as [`IMAGE_DETECT`].
    pub const IMAGE_POSE: u32 = 6;
    /// Estimate the depth of a picture: as [`IMAGE_DETECT`].
    pub const IMAGE_DEPTH: u32 = 7;
    /// Load a TensorFlow SavedModel: in [`super::ModelParams`].
    pub const TF_MODEL_LOAD: u32 = 8;
    /// Forget what was loaded: in [`super::ModelParams`].
    pub const TF_MODEL_UNLOAD: u32 = 9;
    /// Run it: in [`super::ModelParams`], in run options (bytes, may be empty), in the tensors' names (string; one a
    /// line, `name:index`, those of the inputs first), then inputs, then outputs.
    pub const TF_MODEL_RUN: u32 = 10;
    /// Load a TensorFlow Lite model: in [`super::ModelParams`].
    pub const TFLITE_MODEL_LOAD: u32 = 11;
    /// Forget what was loaded: in [`super::ModelParams`].
    pub const TFLITE_MODEL_UNLOAD: u32 = 12;
    /// Run it: as [`ONNX_MODEL_RUN`].
    pub const TFLITE_MODEL_RUN: u32 = 13;
    /// Load a TorchScript model: in [`super::ModelParams`].
    pub const TORCH_MODEL_LOAD: u32 = 14;
    /// Run it: in [`super::ModelParams`], in run options (bytes, may be empty), then inputs, then outputs.
    pub const TORCH_MODEL_RUN: u32 = 15;
    /// As [`BLAS_SGEMM`], by Torch.
    pub const TORCH_SGEMM: u32 = 16;
    /// C = αAB + βC on row-major `f32` matrices: in [`super::SgemmParams`], in A, in B, in-out C.
    pub const BLAS_SGEMM: u32 = 17;
    /// Copy an array: in `i32`, out `i32` of the same length.
    pub const FPGA_ARRAY_COPY: u32 = 18;
    /// Multiply square matrices: in A, in B, out C, all `f32` and of one length, a square number.
    pub const FPGA_MMULT: u32 = 19;
    /// Add and multiply element by element: in A, in B, out sums, out products, all `f32` and of one length.
    pub const FPGA_PARALLEL: u32 = 20;
    /// Add element by element: in A, in B, out sums, all `f32` and of one length.
    pub const FPGA_VECTOR_ADD: u32 = 21;
    /// Smallest and largest of some numbers, and the numbers held between two thresholds: in
    /// [`super::MinMaxParams`], in `f64`, out `f64` of the same length, out one `f64` (smallest), out one `f64` (largest).
    pub const MINMAX: u32 = 22;
    /// A function of OpenCV: in and out arguments of any type, as the plugin defines them.
    pub const OPENCV: u32 = 23;
    /// Load an ONNX model so that running it is fast: in [`super::ModelParams`].
    pub const ONNX_MODEL_LOAD: u32 = 0x100;
    /// Run an ONNX model: in [`super::ModelParams`], then the model's inputs and outputs in its order,
    /// `inputs` of them in and the rest out. Inputs carry their shape; the host fills in the outputs'.
    pub const ONNX_MODEL_RUN: u32 = 0x101;
    /// Forget what was loaded: in [`super::ModelParams`].
    pub const ONNX_MODEL_UNLOAD: u32 = 0x102;
    /// Run an ONNX model on several sets of inputs at once: in [`super::BatchParams`], then for each set its inputs
    /// and its outputs as in [`ONNX_MODEL_RUN`].
    pub const ONNX_MODEL_RUN_BATCH: u32 = 0x103;
    /// An operation in the layout of vAccel's generic operation: in its number (one `u8`), then the arguments that
    /// vAccel defines for it: those that are read are in, those that are written out or in-out.
    pub const GENERIC: u32 = 0x104;
    /// Resize a picture: in [`super::ResizeParams`], in `u8` pixels, out `u8` pixels; rows without gaps.
    pub const IMAGE_RESIZE: u32 = 0x105;
    /// What the session's operations took so far, together with what the caller adds: in array of
    /// [`super::ProfileRegion`] (may be empty), out array of [`super::ProfileRegion`] (may be empty), by name.
    pub const PROFILE: u32 = 0x106;
}

/// Element types of an argument, as [`AccelArg::dtype`]. Numbers are little-endian.
pub mod dtype {
    /// Bytes without a type.
    pub const BYTES: u32 = 0;
    /// IEEE 754 binary32.
    pub const F32: u32 = 1;
    /// Signed 32-bit integers.
    pub const I32: u32 = 2;
    /// Signed 64-bit integers.
    pub const I64: u32 = 3;
    /// Unsigned 8-bit integers.
    pub const U8: u32 = 4;
    /// Signed 8-bit integers.
    pub const I8: u32 = 5;
    /// IEEE 754 binary64.
    pub const F64: u32 = 6;
    /// Signed 16-bit integers.
    pub const I16: u32 = 7;
    /// Unsigned 16-bit integers.
    pub const U16: u32 = 8;
    /// Unsigned 32-bit integers.
    pub const U32: u32 = 9;
    /// Unsigned 64-bit integers.
    pub const U64: u32 = 10;
    /// Truth values of a byte each, 0 or 1.
    pub const BOOL: u32 = 11;
    /// IEEE 754 binary16.
    pub const F16: u32 = 12;
    /// The upper half of a binary32.
    pub const BF16: u32 = 13;
    /// Text in UTF-8.
    pub const STRING: u32 = 14;
    /// C's `char`.
    pub const CHAR: u32 = 15;
    /// C's `unsigned char`.
    pub const UCHAR: u32 = 16;
    /// A buffer that vAccel calls one, and not raw.
    pub const BUFFER: u32 = 17;
    /// A type that caller and callee agreed on; [`super::AccelArg::custom`] says which.
    pub const CUSTOM: u32 = 18;
    /// Of a tensor that is written, aligned to 8 bytes: whatever type the result has, which the host fills in.
    pub const ANY: u32 = 255;
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

/// Most operations of one batch.
pub const BATCH_MAX: u32 = 256;

/// The argument block of [`crate::hypercall::number::ACCEL_BATCH`]: several operations, carried out in their order as if
/// they were asked for one by one, so that one may read what one before it wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccelBatch {
    /// Number and status, which is of the batch: each operation has its own.
    pub head: CallHead,
    /// Number of operations, at most [`BATCH_MAX`].
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// Address of an array of [`AccelCall`], each with its number, which is filled in as if it had been made alone.
    pub calls: u64,
}

/// One argument. Ranges of one call must not overlap where one of them is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccelArg {
    /// The data; aligned to its element type.
    pub data: Span,
    /// One of [`access`].
    pub access: u32,
    /// One of [`dtype`]. Out: of an output that has [`dtype::ANY`].
    pub dtype: u32,
    /// Dimensions in use; zero for plain bytes, structures and scalars. Out: of an output.
    pub rank: u32,
    /// Which type of [`dtype::CUSTOM`]; zero for others.
    pub custom: u32,
    /// Shape, outermost first. Out: of an output.
    pub dims: [u64; RANK_MAX],
    /// Out: bytes that the host wrote to an output, from its start.
    pub written: u64,
}

/// First argument of [`operation::BLAS_SGEMM`] and [`operation::TORCH_SGEMM`]: A is m×k with row stride lda, B k×n with ldb, C m×n with
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

/// First argument of [`operation::IMAGE_CLASSIFY`] and of the other operations on pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClassifyParams {
    /// Resource id of an ONNX model: one float input `[N,3,H,W]`, one output `[N,classes]` of logits. Zero for the first
    /// ONNX model among the function's resources.
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

/// First argument of [`operation::ONNX_MODEL_LOAD`], [`operation::ONNX_MODEL_RUN`] and of the other operations on models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModelParams {
    /// Resource id of the model.
    pub model: u32,
    /// Number of input tensors; the arguments after them are outputs. Zero when loading.
    pub inputs: u32,
}

/// First argument of [`operation::ONNX_MODEL_RUN_BATCH`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BatchParams {
    /// Resource id of the model.
    pub model: u32,
    /// Number of input tensors of a set.
    pub inputs: u32,
    /// Number of output tensors of a set.
    pub outputs: u32,
    /// Number of sets.
    pub sets: u32,
}

/// First argument of [`operation::EXEC_WITH_RESOURCE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceParams {
    /// Resource id of the library.
    pub resource: u32,
}

/// First argument of [`operation::MINMAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MinMaxParams {
    /// What smaller numbers become.
    pub low: i32,
    /// What larger numbers become.
    pub high: i32,
}

/// First argument of [`operation::IMAGE_RESIZE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResizeParams {
    /// Columns of the picture, in pixels.
    pub width: u32,
    /// Rows of the picture, in pixels.
    pub height: u32,
    /// Bytes of a pixel, 1 to 4.
    pub channels: u32,
    /// Columns of the result.
    pub to_width: u32,
    /// Rows of the result.
    pub to_height: u32,
}

/// What one kind of work took, in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProfileRegion {
    /// How often it was done.
    pub entries: u64,
    /// Nanoseconds in all.
    pub total_ns: u64,
    /// Nanoseconds of the shortest.
    pub min_ns: u64,
    /// Nanoseconds of the longest.
    pub max_ns: u64,
    /// Bytes of the name in use.
    pub name_len: u32,
    /// Its name in UTF-8, cut at [`REGION_NAME_MAX`] bytes.
    pub name: [u8; REGION_NAME_MAX],
}

impl ProfileRegion {
    /// A region without a name in which nothing was done.
    pub const EMPTY: Self =
        Self { entries: 0, total_ns: 0, min_ns: 0, max_ns: 0, name_len: 0, name: [0; REGION_NAME_MAX] };

    /// Its name; empty where it is no text.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = usize::try_from(self.name_len).ok().and_then(|len| self.name.get(..len));
        name.and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
    }
}

/// Longest name of a region of a profile, in bytes.
pub const REGION_NAME_MAX: usize = 60;

/// Most regions of a profile: every operation on every plugin, and as many of the caller's.
pub const REGIONS_MAX: usize = 256;

/// Variables that enable profiling, of the function and of the host; the first that is set counts. The last two are
/// vAccel's.
pub const PROFILING_VARIABLES: [&str; 3] =
    ["KERNLET_PROFILING_ENABLED", "VACCEL_PROFILING_ENABLED", "VACCEL_PROFILING"];

/// Whether the value of one of [`PROFILING_VARIABLES`] says yes.
#[must_use]
pub fn says_yes(value: &str) -> bool {
    ["1", "true", "yes"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

const _: () = {
    assert!(size_of::<BatchParams>() == 16);
    assert!(size_of::<ResourceParams>() == 4);
    assert!(size_of::<MinMaxParams>() == 8);
    assert!(size_of::<ResizeParams>() == 20);
    assert!(size_of::<ProfileRegion>() == 96);
    assert!(size_of::<AccelCall>() == 48);
    assert!(size_of::<AccelBatch>() == 24);
    assert!(size_of::<AccelArg>() == 88);
    assert!(size_of::<SgemmParams>() == 56);
    assert!(size_of::<ClassifyParams>() == 8);
    assert!(size_of::<Classification>() == 128);
    assert!(size_of::<ModelParams>() == 8);
};
