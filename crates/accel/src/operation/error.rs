//! What can be wrong with one argument of an operation.
//! Made by the decoder and by plugins that find out what an operation needs; turned into a status by [`AccelError`].
//! Never names the argument: who has it adds that.
//!
//! [`AccelError`]: crate::AccelError

use kernlet_abi::hypercall::status;

use crate::Dims;

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
    /// A parameter block is not as long as its structure, or an array not as long as the one it goes with.
    #[error("it has {got} bytes and must have exactly {expected}")]
    Length {
        /// What it must have, in bytes.
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
    /// A size is out of its range.
    #[error("{field} is {value}; it must be from {min} to {max}")]
    Size {
        /// Field of the parameter block.
        field: &'static str,
        /// Its value.
        value: i64,
        /// Smallest possible.
        min: i64,
        /// Largest possible.
        max: i64,
    },
    /// What must be the elements of a square matrix are not.
    #[error("its {elements} elements are not those of a square matrix")]
    NotSquare {
        /// How many there are.
        elements: u64,
    },
    /// Text is not UTF-8.
    #[error("it is no text in UTF-8")]
    NotText,
    /// A name is empty, too long, or has a zero byte in it.
    #[error("it is no name; use 1 to {max} bytes without a zero")]
    BadName {
        /// Longest possible, in bytes.
        max: usize,
    },
    /// A single value or a type is another than the operation's layout has.
    #[error("it must hold {expected}")]
    Value {
        /// What it must hold.
        expected: &'static str,
    },
    /// Tensors passed are not as many as the sets take.
    #[error("{sets} sets of {each} tensors are announced and {given} tensors are passed")]
    SetCount {
        /// Sets that the parameter block announces.
        sets: u32,
        /// Tensors of each.
        each: u64,
        /// Tensors passed.
        given: usize,
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
