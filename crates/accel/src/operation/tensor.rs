//! Tensors, and the operations on models that read and write them.
//! Made by the decoder and by host programs through the checks here; read by plugins. A tensor always has as many
//! elements as its shape says.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ArgError;
use crate::{Dims, Dtype, Resource, encode::EncodedArg};

/// Largest tensor that a [`TensorBuf`] grows to by itself, in bytes: 1 GiB.
pub const TENSOR_MAX: u64 = 1024 * 1024 * 1024;

/// Make a model ready to run, or forget what was made of it.
#[derive(Debug)]
pub struct ModelLoad {
    /// The model.
    pub model: Resource,
}

impl ModelLoad {
    pub(super) fn reborrow(&self) -> Self {
        Self { model: self.model.clone() }
    }
}

/// Run a model.
#[derive(Debug)]
pub struct ModelRun<'a> {
    /// The model.
    pub model: Resource,
    /// Options of the framework, in its own format; empty for none.
    pub options: &'a [u8],
    /// Names of the tensors as `name:index`, one a line, those of the inputs first; empty where models have an order.
    pub names: &'a str,
    /// Its inputs, in its order.
    pub inputs: Vec<Tensor<'a>>,
    /// Room for its outputs, in its order.
    pub outputs: Vec<TensorOut<'a>>,
}

impl ModelRun<'_> {
    pub(super) fn reborrow(&mut self) -> ModelRun<'_> {
        ModelRun {
            model: self.model.clone(),
            options: self.options,
            names: self.names,
            inputs: self.inputs.clone(),
            outputs: self.outputs.iter_mut().map(TensorOut::reborrow).collect(),
        }
    }
}

/// Run a model on several sets of inputs.
#[derive(Debug)]
pub struct BatchRun<'a> {
    /// The model.
    pub model: Resource,
    /// The sets.
    pub sets: Vec<BatchSet<'a>>,
}

/// One set of inputs, and room for what the model makes of it.
#[derive(Debug)]
pub struct BatchSet<'a> {
    /// Inputs, in the model's order.
    pub inputs: Vec<Tensor<'a>>,
    /// Room for the outputs, in the model's order.
    pub outputs: Vec<TensorOut<'a>>,
}

impl BatchRun<'_> {
    pub(super) fn reborrow(&mut self) -> BatchRun<'_> {
        BatchRun { model: self.model.clone(), sets: self.sets.iter_mut().map(BatchSet::reborrow).collect() }
    }

    /// The runs that it consists of, for a plugin that has no better way.
    pub fn runs(&mut self) -> impl Iterator<Item = ModelRun<'_>> {
        let model = &self.model;
        self.sets.iter_mut().map(|set| {
            let BatchSet { inputs, outputs } = set.reborrow();
            ModelRun { model: model.clone(), options: &[], names: "", inputs, outputs }
        })
    }
}

impl BatchSet<'_> {
    fn reborrow(&mut self) -> BatchSet<'_> {
        BatchSet { inputs: self.inputs.clone(), outputs: self.outputs.iter_mut().map(TensorOut::reborrow).collect() }
    }
}

/// A dense row-major tensor that is read: as many elements as its shape says.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    dims: Dims,
    elements: Elements<'a>,
}

impl<'a> Tensor<'a> {
    /// `elements` with this shape.
    ///
    /// # Errors
    /// [`ArgError::ShapeMismatch`] unless they are as many as the shape says.
    pub fn new(elements: Elements<'a>, dims: Dims) -> Result<Self, ArgError> {
        let dtype = elements.dtype();
        let (needed, got) = (tensor_bytes(&dims, dtype)?, (elements.len() * dtype.size()) as u64);
        if needed != got {
            return Err(ArgError::ShapeMismatch { dims, needed, got });
        }
        Ok(Self { dims, elements })
    }

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

/// Declares the types that tensors may have: those of a Rust type, and those that Rust has no type for.
macro_rules! elements {
    (
        typed { $($(#[doc = $doc:literal])* $variant:ident($type:ty);)* }
        raw { $($(#[doc = $raw_doc:literal])* $raw:ident($raw_type:ty);)* }
    ) => {
        /// Elements of a tensor, by type.
        #[derive(Clone, Copy, Debug)]
        pub enum Elements<'a> {
            $($(#[doc = $doc])* $variant(&'a [$type]),)*
            $($(#[doc = $raw_doc])* $raw(&'a [$raw_type]),)*
        }

        impl<'a> Elements<'a> {
            /// `bytes` as elements of this type, in place.
            ///
            /// # Errors
            /// [`ArgError`] when they are not aligned or not a whole number of elements, or tensors cannot have the type.
            pub fn from_bytes(dtype: Dtype, bytes: &'a [u8]) -> Result<Self, ArgError> {
                Ok(match dtype {
                    $(Dtype::$variant => Self::$variant(slice(bytes)?),)*
                    $(Dtype::$raw => Self::$raw(slice(bytes)?),)*
                    other => return Err(not_of_tensors(other)),
                })
            }

            /// Their type.
            #[must_use]
            pub const fn dtype(&self) -> Dtype {
                match self {
                    $(Self::$variant(_) => Dtype::$variant,)*
                    $(Self::$raw(_) => Dtype::$raw,)*
                }
            }

            /// How many there are.
            #[must_use]
            pub const fn len(&self) -> usize {
                match self {
                    $(Self::$variant(elements) => elements.len(),)*
                    $(Self::$raw(elements) => elements.len(),)*
                }
            }

            /// Their bytes.
            #[must_use]
            pub fn bytes(&self) -> &'a [u8] {
                match self {
                    $(Self::$variant(elements) => elements.as_bytes(),)*
                    $(Self::$raw(elements) => elements.as_bytes(),)*
                }
            }
        }

        $(
            impl Element for $type {
                const DTYPE: Dtype = Dtype::$variant;
            }

            impl<'a> From<&'a [$type]> for Elements<'a> {
                fn from(elements: &'a [$type]) -> Self {
                    Self::$variant(elements)
                }
            }
        )*
    };
}

elements! {
    typed {
    /// IEEE 754 binary32.
    F32(f32);
    /// Signed 32-bit integers.
    I32(i32);
    /// Signed 64-bit integers.
    I64(i64);
    /// Unsigned 8-bit integers.
    U8(u8);
    /// Signed 8-bit integers.
    I8(i8);
    /// IEEE 754 binary64.
    F64(f64);
    /// Signed 16-bit integers.
    I16(i16);
    /// Unsigned 16-bit integers.
    U16(u16);
    /// Unsigned 32-bit integers.
    U32(u32);
    /// Unsigned 64-bit integers.
    U64(u64);
    }
    raw {
    /// Truth values; anything but zero may be meant as true.
    Bool(u8);
    /// IEEE 754 binary16.
    F16(u16);
    /// The upper half of a binary32.
    Bf16(u16);
    }
}

impl Elements<'_> {
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

/// Room for a tensor that an operation writes.
#[derive(Debug)]
pub struct TensorOut<'a>(Room<'a>);

#[derive(Debug)]
enum Room<'a> {
    /// Of the caller's size and type.
    Fixed { bytes: &'a mut [u8], dtype: &'a mut Dtype, dims: &'a mut Dims, written: &'a mut u64 },
    /// As large as need be, of whatever type.
    Growing(&'a mut TensorBuf),
}

impl<'a> TensorOut<'a> {
    /// Room of this size for a tensor of this type. Its shape and length go to `dims` and `written`; where `dtype` is
    /// [`Dtype::Any`], its type goes there.
    ///
    /// # Errors
    /// [`ArgError`] when the room is not aligned to an element, or tensors cannot have the type.
    pub fn new(
        bytes: &'a mut [u8],
        dtype: &'a mut Dtype,
        dims: &'a mut Dims,
        written: &'a mut u64,
    ) -> Result<Self, ArgError> {
        if *dtype != Dtype::Any {
            // For its check of the type.
            Elements::from_bytes(*dtype, &[])?;
        }
        if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
            return Err(ArgError::Misaligned { align: dtype.size() as u64 });
        }
        (*dims, *written) = (Dims::NONE, 0);
        Ok(Self(Room::Fixed { bytes, dtype, dims, written }))
    }

    /// The element type that the caller has room for; `None` when any will do.
    #[must_use]
    pub fn dtype(&self) -> Option<Dtype> {
        match &self.0 {
            Room::Fixed { dtype, .. } => Some(**dtype).filter(|&dtype| dtype != Dtype::Any),
            Room::Growing(_) => None,
        }
    }

    /// How many bytes there is room for; `None` when the room grows.
    #[must_use]
    pub const fn room(&self) -> Option<usize> {
        match &self.0 {
            Room::Fixed { bytes, .. } => Some(bytes.len()),
            Room::Growing(_) => None,
        }
    }

    /// Takes the room for a tensor of this shape and type, to be written completely; tells the caller the shape.
    ///
    /// # Errors
    /// When the caller expects another type or has too little room ([`ArgError::OutputTooSmall`] says how much
    /// it takes), or the shape is no tensor's.
    pub fn claim<T: Element>(&mut self, dims: Dims) -> Result<&mut [T], ArgError> {
        slice_mut(self.claim_bytes(T::DTYPE, dims)?)
    }

    /// The same for any type that tensors can have; the bytes are aligned to its elements.
    ///
    /// # Errors
    /// As [`TensorOut::claim`].
    pub fn claim_bytes(&mut self, dtype: Dtype, dims: Dims) -> Result<&mut [u8], ArgError> {
        match &mut self.0 {
            Room::Fixed { bytes, dtype: expected, dims: shape, written } => {
                if **expected != Dtype::Any && dtype != **expected {
                    return Err(ArgError::Type { expected: dtype.name(), got: expected.name() });
                }
                let (needed, got) = (tensor_bytes(&dims, dtype)?, bytes.len() as u64);
                let room = usize::try_from(needed)
                    .ok()
                    .and_then(|needed| bytes.get_mut(..needed))
                    .ok_or(ArgError::OutputTooSmall { needed, got })?;
                (**expected, **shape, **written) = (dtype, dims, needed);
                Ok(room)
            }
            Room::Growing(buf) => buf.claim(dtype, dims),
        }
    }

    fn reborrow(&mut self) -> TensorOut<'_> {
        TensorOut(match &mut self.0 {
            Room::Fixed { bytes, dtype, dims, written } => Room::Fixed { bytes, dtype, dims, written },
            Room::Growing(buf) => Room::Growing(buf),
        })
    }
}

impl TensorOut<'_> {
    /// Where it is, for who sends it elsewhere.
    pub(crate) fn as_argument(&mut self) -> EncodedArg<'_> {
        match &mut self.0 {
            Room::Fixed { bytes, dtype, dims, written } => EncodedArg::tensor_room(bytes, dtype, dims, written),
            Room::Growing(buf) => EncodedArg::growing(buf),
        }
    }
}

impl<'a> From<&'a mut TensorBuf> for TensorOut<'a> {
    fn from(buf: &'a mut TensorBuf) -> Self {
        Self(Room::Growing(buf))
    }
}

/// A tensor that takes the type, the shape and the memory which an operation finds it needs.
#[derive(Clone, Debug)]
pub struct TensorBuf {
    /// Of 64-bit words, so that every element is aligned.
    words: Vec<u64>,
    len: usize,
    max: u64,
    dtype: Dtype,
    dims: Dims,
}

impl Default for TensorBuf {
    fn default() -> Self {
        Self::with_max(TENSOR_MAX)
    }
}

impl TensorBuf {
    /// An empty one that grows up to [`TENSOR_MAX`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one that grows up to `max` bytes.
    #[must_use]
    pub const fn with_max(max: u64) -> Self {
        Self { words: Vec::new(), len: 0, max, dtype: Dtype::U8, dims: Dims::NONE }
    }

    /// Its element type.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its shape.
    #[must_use]
    pub const fn dims(&self) -> &Dims {
        &self.dims
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.words.as_bytes().get(..self.len).unwrap_or_default()
    }

    /// Its bytes, to be changed by who has the result.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.words.as_mut_bytes().get_mut(..self.len).unwrap_or_default()
    }

    /// Its elements, if they are of this type.
    #[must_use]
    pub fn elements<T: Element>(&self) -> Option<&[T]> {
        if self.dtype != T::DTYPE {
            return None;
        }
        slice(self.bytes()).ok()
    }

    /// Takes the memory for a tensor of this shape and type, to be written completely.
    ///
    /// # Errors
    /// [`ArgError::OutputTooSmall`] when it is larger than it may grow; [`ArgError::Type`] when tensors cannot have the type.
    pub fn claim(&mut self, dtype: Dtype, dims: Dims) -> Result<&mut [u8], ArgError> {
        Elements::from_bytes(dtype, &[])?;
        let needed = tensor_bytes(&dims, dtype)?;
        let too_small = ArgError::OutputTooSmall { needed, got: self.max };
        if needed > self.max {
            return Err(too_small);
        }
        let len = usize::try_from(needed).map_err(|_| too_small)?;
        self.words.resize(len.div_ceil(8), 0);
        (self.len, self.dtype, self.dims) = (len, dtype, dims);
        Ok(self.words.as_mut_bytes().get_mut(..len).unwrap_or_default())
    }
}

/// Bytes that a dense tensor takes.
///
/// # Errors
/// [`ArgError::ShapeOverflow`] when they are more than 64 bits can say.
pub fn tensor_bytes(dims: &Dims, dtype: Dtype) -> Result<u64, ArgError> {
    dims.elements()
        .and_then(|elements| elements.checked_mul(dtype.size() as u64))
        .ok_or(ArgError::ShapeOverflow { dims: *dims })
}

/// Says that tensors have elements of other types.
const fn not_of_tensors(dtype: Dtype) -> ArgError {
    ArgError::Type { expected: "numbers", got: dtype.name() }
}

/// Bytes as elements in place. No bytes are no elements, wherever they would be.
pub(crate) fn slice<T: FromBytes + Immutable + KnownLayout>(bytes: &[u8]) -> Result<&[T], ArgError> {
    if bytes.is_empty() {
        return Ok(&[]);
    }
    <[T]>::ref_from_bytes(bytes).map_err(|error| cast_error::<T, _, _>(&error, bytes.len()))
}

/// The same, to be written.
pub(crate) fn slice_mut<T: FromBytes + IntoBytes + KnownLayout>(bytes: &mut [u8]) -> Result<&mut [T], ArgError> {
    if bytes.is_empty() {
        return Ok(&mut []);
    }
    let len = bytes.len();
    <[T]>::mut_from_bytes(bytes).map_err(|error| cast_error::<T, _, _>(&error, len))
}

const fn cast_error<T, S, D: ?Sized>(error: &zerocopy::error::CastError<S, D>, len: usize) -> ArgError {
    use zerocopy::error::CastError;
    match error {
        CastError::Alignment(_) => ArgError::Misaligned { align: align_of::<T>() as u64 },
        CastError::Size(_) => ArgError::Ragged { element: size_of::<T>() as u64, got: len as u64 },
        CastError::Validity(impossible) => match *impossible {},
    }
}
