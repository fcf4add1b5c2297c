//! Accelerator operations: say what is to be done, the host does it, on the function's memory in place. Used by
//! functions. There is no driver and no framework here, only descriptors.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, mem::size_of};

pub use kernlet_abi::accel::{Classification, SgemmParams as Sgemm};
use kernlet_abi::{
    Span,
    accel::{AccelArg, AccelCall, ClassifyParams, ERROR_MAX, ModelParams, RANK_MAX, access, dtype, operation},
    hypercall::{CallHead, FindResource, number, status},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hypercall::{self, span, span_mut};

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccelError {
    /// One of [`kernlet_abi::hypercall::status`]: an errno.
    pub status: i32,
    /// What was wrong, in the host's words.
    pub message: String,
}

impl fmt::Display for AccelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for AccelError {}

impl AccelError {
    /// Whether what it was asked to do takes more than the host grants: a picture of too many pixels, say.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.status == status::ENOMEM
    }

    /// Whether the function's own input is at fault, rather than the host.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(self.status, status::EINVAL | status::ERANGE)
    }
}

/// A file of the function's image, kept by the host and referred to by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    id: u32,
    size: u64,
}

impl Resource {
    /// Finds a resource by the name that the image gives it.
    ///
    /// # Errors
    /// The function has no resource of this name.
    pub fn find(name: &str) -> Result<Self, AccelError> {
        let head = CallHead { number: number::FIND_RESOURCE, status: 0 };
        let mut call = FindResource { head, name: span(name.as_bytes()), ..FindResource::default() };
        hypercall::call(&mut call);
        match call.head.status {
            status::OK => Ok(Self { id: call.id, size: call.size }),
            status => Err(AccelError { status, message: alloc::format!("the function has no resource {name:?}") }),
        }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// Runs an operation on arguments that are already described.
fn run(operation: u32, args: &mut [AccelArg]) -> Result<(), AccelError> {
    let mut message = [0; ERROR_MAX as usize];
    let mut call = AccelCall {
        head: CallHead { number: number::ACCEL, status: 0 },
        operation,
        arg_count: args.len() as u32,
        args: args.as_mut_ptr().expose_provenance() as u64,
        error: span_mut(&mut message),
        error_len: 0,
    };
    hypercall::call(&mut call);
    if call.head.status == status::OK {
        return Ok(());
    }
    let text = message.get(..call.error_len as usize).unwrap_or_default();
    Err(AccelError { status: call.head.status, message: String::from_utf8_lossy(text).to_string() })
}

fn arg(data: Span, access: u32, dtype: u32, dims: &[u64]) -> AccelArg {
    let mut arg = AccelArg { data, access, dtype, rank: dims.len() as u32, ..AccelArg::default() };
    for (to, from) in arg.dims.iter_mut().zip(dims) {
        *to = *from;
    }
    arg
}

fn input<T: IntoBytes + Immutable + ?Sized>(value: &T, dtype: u32, dims: &[u64]) -> AccelArg {
    arg(span(value.as_bytes()), access::IN, dtype, dims)
}

/// Nothing: measures the way to a plugin and back.
///
/// # Errors
/// No plugin has the operation.
pub fn noop() -> Result<(), AccelError> {
    run(operation::NOOP, &mut [])
}

/// Classifies a picture (a JPEG or PNG file) by an image classification model; the best classes first.
///
/// # Errors
/// The picture is not one or too large, or the model does not fit the operation.
pub fn classify(
    picture: &[u8],
    model: Resource,
    labels: Option<Resource>,
    count: usize,
) -> Result<Vec<Classification>, AccelError> {
    let params = ClassifyParams { model: model.id, labels: labels.map_or(0, |labels| labels.id) };
    let blank = Classification { class: 0, probability: 0.0, label_len: 0, label: [0; _] };
    let mut found = alloc::vec![blank; count];
    let mut args = [
        input(&params, dtype::BYTES, &[]),
        arg(span(picture), access::IN, dtype::BYTES, &[]),
        arg(span_mut(found.as_mut_slice().as_mut_bytes()), access::OUT, dtype::BYTES, &[]),
    ];
    run(operation::IMAGE_CLASSIFY, &mut args)?;
    found.truncate(args[2].written as usize / size_of::<Classification>());
    Ok(found)
}

/// Text of a class's label.
#[must_use]
pub fn label(classification: &Classification) -> &str {
    let bytes = classification.label.get(..classification.label_len as usize).unwrap_or_default();
    str::from_utf8(bytes).unwrap_or_default()
}

/// C = αAB + βC on row-major matrices.
///
/// # Errors
/// A size, stride or buffer does not fit the others.
pub fn sgemm(params: &Sgemm, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), AccelError> {
    run(
        operation::BLAS_SGEMM,
        &mut [
            input(params, dtype::BYTES, &[]),
            input(a, dtype::F32, &[]),
            input(b, dtype::F32, &[]),
            arg(span_mut(c.as_mut_bytes()), access::IN_OUT, dtype::F32, &[]),
        ],
    )
}

/// Element types of tensors.
pub trait Element: IntoBytes + FromBytes + Immutable {
    /// One of [`kernlet_abi::accel::dtype`].
    const DTYPE: u32;
}

impl Element for f32 {
    const DTYPE: u32 = dtype::F32;
}
impl Element for i32 {
    const DTYPE: u32 = dtype::I32;
}
impl Element for i64 {
    const DTYPE: u32 = dtype::I64;
}
impl Element for u8 {
    const DTYPE: u32 = dtype::U8;
}
impl Element for i8 {
    const DTYPE: u32 = dtype::I8;
}

/// A tensor that a model reads.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    arg: AccelArg,
    _data: core::marker::PhantomData<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// `data` with this shape, outermost dimension first, at most six.
    #[must_use]
    pub fn new<T: Element>(data: &'a [T], shape: &[u64]) -> Self {
        Self { arg: input(data, T::DTYPE, shape), _data: core::marker::PhantomData }
    }
}

/// A tensor that a model writes.
#[derive(Debug)]
pub struct Output<'a> {
    arg: AccelArg,
    _data: core::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Output<'a> {
    /// Room for an output.
    #[must_use]
    pub fn new<T: Element>(data: &'a mut [T]) -> Self {
        let arg = arg(span_mut(data.as_mut_bytes()), access::OUT, T::DTYPE, &[]);
        Self { arg, _data: core::marker::PhantomData }
    }

    /// Its shape, once the model has run.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.arg.dims[..RANK_MAX.min(self.arg.rank as usize)]
    }
}

/// An ONNX model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    resource: Resource,
}

impl Model {
    /// Loads a model, so that running it is fast.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(resource: Resource) -> Result<Self, AccelError> {
        let params = ModelParams { model: resource.id, inputs: 0 };
        run(operation::ONNX_MODEL_LOAD, &mut [input(&params, dtype::BYTES, &[])])?;
        Ok(Self { resource })
    }

    /// Runs the model.
    ///
    /// # Errors
    /// An input's type or shape is not the model's, or an output has too little room.
    pub fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), AccelError> {
        let params = ModelParams { model: self.resource.id, inputs: inputs.len() as u32 };
        let mut args = Vec::with_capacity(1 + inputs.len() + outputs.len());
        args.push(input(&params, dtype::BYTES, &[]));
        args.extend(inputs.iter().map(|input| input.arg));
        args.extend(outputs.iter().map(|output| output.arg));
        run(operation::ONNX_MODEL_RUN, &mut args)?;
        for (output, arg) in outputs.iter_mut().zip(&args[1 + inputs.len()..]) {
            output.arg = *arg;
        }
        Ok(())
    }
}
