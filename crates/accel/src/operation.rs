//! The operations there are, and what each looks like once its arguments are checked.
//! Made by the decoder, consumed by plugins: a plugin that holds a [`Task`] need not check a length again.
//! Nothing here can be built from unchecked parts outside this crate, except matrices, which check themselves.

use kernlet_abi::{
    accel::{Classification, LABEL_MAX, operation},
    hypercall::status,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{AccelError, Dims, Dtype, Resource};

/// Which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Nothing at all.
    Noop,
    /// Classify a picture.
    ImageClassify,
    /// Multiply `f32` matrices.
    BlasSgemm,
    /// Load an ONNX model.
    OnnxModelLoad,
    /// Run an ONNX model.
    OnnxModelRun,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Noop, Self::ImageClassify, Self::BlasSgemm, Self::OnnxModelLoad, Self::OnnxModelRun];

    /// The operation that a number of [`kernlet_abi::accel::operation`] stands for.
    ///
    /// # Errors
    /// [`AccelError::UnknownOperation`] when it stands for none.
    pub const fn from_abi(number: u32) -> Result<Self, AccelError> {
        Ok(match number {
            operation::NOOP => Self::Noop,
            operation::IMAGE_CLASSIFY => Self::ImageClassify,
            operation::BLAS_SGEMM => Self::BlasSgemm,
            operation::ONNX_MODEL_LOAD => Self::OnnxModelLoad,
            operation::ONNX_MODEL_RUN => Self::OnnxModelRun,
            number => return Err(AccelError::UnknownOperation { number }),
        })
    }

    /// Its number in [`kernlet_abi::accel::operation`].
    #[must_use]
    pub const fn abi_number(self) -> u32 {
        match self {
            Self::Noop => operation::NOOP,
            Self::ImageClassify => operation::IMAGE_CLASSIFY,
            Self::BlasSgemm => operation::BLAS_SGEMM,
            Self::OnnxModelLoad => operation::ONNX_MODEL_LOAD,
            Self::OnnxModelRun => operation::ONNX_MODEL_RUN,
        }
    }

    /// Its name in messages and metrics, such as `image-classify`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::ImageClassify => "image-classify",
            Self::BlasSgemm => "blas-sgemm",
            Self::OnnxModelLoad => "onnx-model-load",
            Self::OnnxModelRun => "onnx-model-run",
        }
    }
}

impl core::fmt::Display for Operation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with one argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgError {
    /// It is passed with another access than the operation needs.
    #[error("it is passed as {got} and must be {expected}")]
    Access {
        /// What the operation needs.
        expected: &'static str,
        /// How it is passed.
        got: &'static str,
    },
    /// It has another element type than the operation needs.
    #[error("its elements are {got} and must be {expected}")]
    Type {
        /// What the operation needs.
        expected: &'static str,
        /// What it has.
        got: &'static str,
    },
    /// A parameter block is not as long as its structure.
    #[error("it has {got} bytes and must have exactly {expected}")]
    Length {
        /// Length of the structure, in bytes.
        expected: u64,
        /// Length of the argument, in bytes.
        got: u64,
    },
    /// An input holds fewer bytes than its shape takes.
    #[error("it has {got} bytes, which is fewer than the {needed} that its shape takes")]
    InputTooShort {
        /// What the shape takes, in bytes.
        needed: u64,
        /// Length of the argument, in bytes.
        got: u64,
    },
    /// An output has no room for the result.
    #[error("it has room for {got} bytes and the result takes {needed}; pass a larger buffer")]
    OutputTooSmall {
        /// What the result takes, in bytes.
        needed: u64,
        /// Length of the argument, in bytes.
        got: u64,
    },
    /// The length is not a whole number of elements.
    #[error("its {got} bytes are not a whole number of elements of {element} bytes")]
    Ragged {
        /// Size of an element, in bytes.
        element: u64,
        /// Length of the argument, in bytes.
        got: u64,
    },
    /// The data does not begin where an element may.
    #[error("it is not aligned to the {align} bytes of its elements; move it to an aligned address")]
    Misaligned {
        /// What it must be aligned to, in bytes.
        align: u64,
    },
    /// A shape is beyond what any buffer can hold.
    #[error("a tensor of shape {dims} is larger than any buffer")]
    ShapeOverflow {
        /// The shape.
        dims: Dims,
    },
    /// The shape and the length of a tensor disagree.
    #[error("a tensor of shape {dims} takes {needed} bytes and it has {got}")]
    ShapeMismatch {
        /// The shape.
        dims: Dims,
        /// What the shape takes, in bytes.
        needed: u64,
        /// Length of the argument, in bytes.
        got: u64,
    },
    /// A size of a matrix is negative or beyond the address space.
    #[error("{field} is {value}; it must be from 0 to {}", isize::MAX)]
    Size {
        /// Field of the parameter block.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A row of a matrix does not fit between it and the next.
    #[error("{field} is {stride}; it must be at least {width}, the elements of a row")]
    Stride {
        /// Field of the parameter block.
        field: &'static str,
        /// Its value.
        stride: i64,
        /// Elements of a row.
        width: u64,
    },
    /// A matrix is beyond what any buffer can hold.
    #[error("a matrix of {rows} rows, {stride} elements apart, is larger than any buffer")]
    MatrixOverflow {
        /// Number of rows.
        rows: u64,
        /// Elements from one row to the next.
        stride: u64,
    },
    /// There are no bytes where some must be.
    #[error("it has no bytes")]
    Empty,
    /// More inputs are announced than arguments passed.
    #[error("it announces {announced} input tensors and {given} tensors are passed")]
    InputCount {
        /// Inputs that the parameter block announces.
        announced: u32,
        /// Tensors passed.
        given: usize,
    },
}

impl ArgError {
    /// What the guest gets as the call's status.
    pub(crate) const fn status(&self) -> i32 {
        match self {
            Self::OutputTooSmall { .. } => status::ERANGE,
            _ => status::EINVAL,
        }
    }
}

/// An operation with its checked arguments, which lie where the guest has them.
#[derive(Debug)]
pub enum Task<'a> {
    /// Nothing.
    Noop,
    /// Classify a picture.
    ImageClassify(Classify<'a>),
    /// Multiply matrices.
    BlasSgemm(Sgemm<'a>),
    /// Load an ONNX model.
    OnnxModelLoad(ModelLoad),
    /// Run an ONNX model.
    OnnxModelRun(ModelRun<'a>),
}

impl Task<'_> {
    /// Which operation it is.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Noop => Operation::Noop,
            Self::ImageClassify(_) => Operation::ImageClassify,
            Self::BlasSgemm(_) => Operation::BlasSgemm,
            Self::OnnxModelLoad(_) => Operation::OnnxModelLoad,
            Self::OnnxModelRun(_) => Operation::OnnxModelRun,
        }
    }
}

/// Classify one picture.
#[derive(Debug)]
pub struct Classify<'a> {
    /// The ONNX model: one float input `[N,3,H,W]`, one output `[N,classes]` of logits.
    pub model: Resource,
    /// The labels, one a line.
    pub labels: Option<Resource>,
    /// A JPEG or PNG file, as the guest has it; not empty.
    pub picture: &'a [u8],
    /// Where the classes go, best first.
    pub ranking: Ranking<'a>,
}

/// Room for the best classes of a picture, at least one.
#[derive(Debug)]
pub struct Ranking<'a> {
    slots: &'a mut [Classification],
    written: &'a mut u64,
}

impl<'a> Ranking<'a> {
    pub(crate) const fn new(slots: &'a mut [Classification], written: &'a mut u64) -> Self {
        Self { slots, written }
    }

    /// How many classes have room.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.slots.len()
    }

    /// Writes classes as (index, probability, label), best first, until the room or they are used up.
    /// A label longer than [`LABEL_MAX`] bytes is cut between characters.
    pub fn fill<'l>(&mut self, classes: impl IntoIterator<Item = (u32, f32, &'l str)>) {
        let mut count = 0_u64;
        for (slot, (class, probability, label)) in self.slots.iter_mut().zip(classes) {
            let cut = label.floor_char_boundary(LABEL_MAX);
            let kept = label.as_bytes().get(..cut).unwrap_or_default();
            *slot = Classification { class, probability, label_len: 0, label: [0; LABEL_MAX] };
            for (to, from) in slot.label.iter_mut().zip(kept) {
                *to = *from;
                slot.label_len += 1;
            }
            count += 1;
        }
        *self.written = count * size_of::<Classification>() as u64;
    }
}

/// A row-major `f32` matrix that is read: every row lies within the elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    elements: &'a [f32],
    layout: MatrixLayout,
}

/// A row-major `f32` matrix that is written: every row lies within the elements.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    elements: &'a mut [f32],
    layout: MatrixLayout,
}

/// Rows, columns, and elements from one row to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixLayout {
    rows: usize,
    columns: usize,
    stride: usize,
}

impl MatrixLayout {
    /// A layout whose rows do not overlap; a stride that no second row uses is not kept.
    /// `None` when `stride` is less than `columns`.
    #[must_use]
    pub const fn new(rows: usize, columns: usize, stride: usize) -> Option<Self> {
        if stride < columns {
            return None;
        }
        let stride = if rows > 1 { stride } else { columns };
        Some(Self { rows, columns, stride })
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from the start of one row to that of the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Elements from the first of the first row to the last of the last; `None` beyond the address space.
    #[must_use]
    pub fn extent(&self) -> Option<usize> {
        if self.rows == 0 || self.columns == 0 {
            return Some(0);
        }
        (self.rows - 1).checked_mul(self.stride)?.checked_add(self.columns)
    }
}

impl<'a> Matrix<'a> {
    /// The matrix at the start of `elements`; `None` when it does not fit there.
    #[must_use]
    pub fn new(elements: &'a [f32], layout: MatrixLayout) -> Option<Self> {
        let elements = elements.get(..layout.extent()?)?;
        Some(Self { elements, layout })
    }

    /// Its elements, as many as [`MatrixLayout::extent`] says.
    #[must_use]
    pub const fn elements(&self) -> &'a [f32] {
        self.elements
    }

    /// Its layout.
    #[must_use]
    pub const fn layout(&self) -> MatrixLayout {
        self.layout
    }
}

impl<'a> MatrixMut<'a> {
    /// The matrix at the start of `elements`; `None` when it does not fit there.
    #[must_use]
    pub fn new(elements: &'a mut [f32], layout: MatrixLayout) -> Option<Self> {
        let elements = elements.get_mut(..layout.extent()?)?;
        Some(Self { elements, layout })
    }

    /// Its elements, as many as [`MatrixLayout::extent`] says.
    #[must_use]
    pub const fn elements_mut(&mut self) -> &mut [f32] {
        self.elements
    }

    /// Its layout.
    #[must_use]
    pub const fn layout(&self) -> MatrixLayout {
        self.layout
    }
}

/// C = αAB + βC with A of m×k, B of k×n and C of m×n.
///
/// As in BLAS: where `beta` is zero, C is not read, and where `alpha` or k is zero, neither A nor B is.
#[derive(Debug)]
pub struct Sgemm<'a> {
    alpha: f32,
    beta: f32,
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: MatrixMut<'a>,
}

impl<'a> Sgemm<'a> {
    /// The product of these matrices; `None` when their sizes do not fit each other.
    #[must_use]
    pub fn new(alpha: f32, a: Matrix<'a>, b: Matrix<'a>, beta: f32, c: MatrixMut<'a>) -> Option<Self> {
        let fits =
            a.layout.columns == b.layout.rows && a.layout.rows == c.layout.rows && b.layout.columns == c.layout.columns;
        fits.then_some(Self { alpha, beta, a, b, c })
    }

    /// The factors, α and β.
    #[must_use]
    pub const fn factors(&self) -> (f32, f32) {
        (self.alpha, self.beta)
    }

    /// The matrices; A's columns are B's rows, and A's rows and B's columns are C's.
    #[must_use]
    pub const fn matrices(&mut self) -> (Matrix<'a>, Matrix<'a>, &mut MatrixMut<'a>) {
        (self.a, self.b, &mut self.c)
    }
}

/// Make an ONNX model ready to run.
#[derive(Debug)]
pub struct ModelLoad {
    /// The model.
    pub model: Resource,
}

/// Run an ONNX model.
#[derive(Debug)]
pub struct ModelRun<'a> {
    /// The model.
    pub model: Resource,
    /// Its inputs, in its order.
    pub inputs: Vec<Tensor<'a>>,
    /// Room for its outputs, in its order.
    pub outputs: Vec<TensorOut<'a>>,
}

/// A dense row-major tensor that is read: as many elements as its shape says.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub(crate) dims: Dims,
    pub(crate) elements: Elements<'a>,
}

impl<'a> Tensor<'a> {
    /// Its shape.
    #[must_use]
    pub const fn dims(&self) -> &Dims {
        &self.dims
    }

    /// Its elements, innermost dimension fastest.
    #[must_use]
    pub const fn elements(&self) -> Elements<'a> {
        self.elements
    }
}

/// Elements of a tensor, by type.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// IEEE 754 binary32.
    F32(&'a [f32]),
    /// Signed 32-bit integers.
    I32(&'a [i32]),
    /// Signed 64-bit integers.
    I64(&'a [i64]),
    /// Unsigned 8-bit integers.
    U8(&'a [u8]),
    /// Signed 8-bit integers.
    I8(&'a [i8]),
}

impl Elements<'_> {
    /// Their type.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::I32(_) => Dtype::I32,
            Self::I64(_) => Dtype::I64,
            Self::U8(_) => Dtype::U8,
            Self::I8(_) => Dtype::I8,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(elements) => elements.len(),
            Self::I32(elements) => elements.len(),
            Self::I64(elements) => elements.len(),
            Self::U8(elements) => elements.len(),
            Self::I8(elements) => elements.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A Rust type that is an element type of tensors.
pub trait Element: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// The element type.
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
impl Element for i32 {
    const DTYPE: Dtype = Dtype::I32;
}
impl Element for i64 {
    const DTYPE: Dtype = Dtype::I64;
}
impl Element for u8 {
    const DTYPE: Dtype = Dtype::U8;
}
impl Element for i8 {
    const DTYPE: Dtype = Dtype::I8;
}

/// Room for a tensor that an operation writes, of a type that the guest chose.
#[derive(Debug)]
pub struct TensorOut<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) dtype: Dtype,
    pub(crate) dims: &'a mut Dims,
    pub(crate) written: &'a mut u64,
}

impl TensorOut<'_> {
    /// The element type that the guest has room for.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Takes the room for a tensor of this shape and type, to be written completely; tells the guest the shape.
    ///
    /// # Errors
    /// When the guest expects another type or has too little room ([`ArgError::OutputTooSmall`] says how much
    /// it takes), or the shape is no tensor's.
    pub fn claim<T: Element>(&mut self, dims: Dims) -> Result<&mut [T], ArgError> {
        if T::DTYPE != self.dtype {
            return Err(ArgError::Type { expected: T::DTYPE.name(), got: self.dtype.name() });
        }
        let got = self.bytes.len() as u64;
        let needed = tensor_bytes(&dims, self.dtype)?;
        let room = usize::try_from(needed)
            .ok()
            .and_then(|needed| self.bytes.get_mut(..needed))
            .ok_or(ArgError::OutputTooSmall { needed, got })?;
        *self.dims = dims;
        *self.written = needed;
        if room.is_empty() {
            // An empty range may lie anywhere, aligned or not.
            return Ok(&mut []);
        }
        <[T]>::mut_from_bytes(room).map_err(|_| ArgError::Misaligned { align: size_of::<T>() as u64 })
    }
}

/// Bytes that a dense tensor takes.
pub(crate) fn tensor_bytes(dims: &Dims, dtype: Dtype) -> Result<u64, ArgError> {
    dims.elements()
        .and_then(|elements| elements.checked_mul(dtype.size() as u64))
        .ok_or(ArgError::ShapeOverflow { dims: *dims })
}
