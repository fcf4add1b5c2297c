//! Turns an operation's raw arguments into a [`Task`]: the parser that a hostile guest feeds.
//! Called by sessions, and by fuzzers; every count, length, type, shape, stride and alignment is checked here.
//! Never copies data other than parameter blocks of at most 56 bytes, and never trusts a size before its check.

use kernlet_abi::accel::{ARGS_MAX, Classification, ClassifyParams, ModelParams, SgemmParams};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, error::CastError};

use crate::{
    AccelError, Arg, Data, Dims, Dtype, Operation, Resource,
    operation::{
        ArgError, Classify, Elements, Matrix, MatrixLayout, MatrixMut, ModelLoad, ModelRun, Ranking, Sgemm, Task,
        Tensor, TensorOut, tensor_bytes,
    },
};

/// Checks `args` against what `operation` takes. `resource` gives the caller's resource of an id.
///
/// Shapes are looked at for tensors only. [`Arg::written`] of a matrix is set right away.
///
/// # Errors
/// [`AccelError::WrongArgCount`], [`AccelError::TooManyArgs`], [`AccelError::BadArg`] naming the argument, or
/// [`AccelError::UnknownResource`].
pub fn decode<'a>(
    operation: Operation,
    args: &'a mut [Arg<'_>],
    resource: impl Fn(u32) -> Option<Resource>,
) -> Result<Task<'a>, AccelError> {
    if args.len() > ARGS_MAX as usize {
        return Err(AccelError::TooManyArgs { operation: operation.name(), count: args.len() });
    }
    let resource = |id| resource(id).ok_or(AccelError::UnknownResource { id });
    match operation {
        Operation::Noop => noop(args),
        Operation::ImageClassify => classify(args, resource),
        Operation::BlasSgemm => sgemm(args),
        Operation::OnnxModelLoad => model_load(args, resource),
        Operation::OnnxModelRun => model_run(args, resource),
    }
}

fn noop<'a>(args: &'a mut [Arg<'_>]) -> Result<Task<'a>, AccelError> {
    match args {
        [] => Ok(Task::Noop),
        _ => Err(wrong_count(Operation::Noop, "no", args.len())),
    }
}

fn classify<'a>(
    args: &'a mut [Arg<'_>],
    resource: impl Fn(u32) -> Result<Resource, AccelError>,
) -> Result<Task<'a>, AccelError> {
    let bad = |index, name| move |error| AccelError::bad_arg(Operation::ImageClassify, index, name, error);
    let count = args.len();
    let [params, picture, ranking] = args else {
        return Err(wrong_count(Operation::ImageClassify, "3", count));
    };
    let params: ClassifyParams = read_params(params).map_err(bad(0, "parameters"))?;
    let model = resource(params.model)?;
    let labels = match params.labels {
        0 => None,
        id => Some(resource(id)?),
    };
    let picture = read_picture(picture).map_err(bad(1, "picture"))?;
    let ranking = ranking_room(ranking).map_err(bad(2, "classifications"))?;
    Ok(Task::ImageClassify(Classify { model, labels, picture, ranking }))
}

fn sgemm<'a>(args: &'a mut [Arg<'_>]) -> Result<Task<'a>, AccelError> {
    let bad = |index, name| move |error| AccelError::bad_arg(Operation::BlasSgemm, index, name, error);
    let count = args.len();
    let [params, a, b, c] = args else {
        return Err(wrong_count(Operation::BlasSgemm, "4", count));
    };
    let params: SgemmParams = read_params(params).map_err(bad(0, "parameters"))?;
    let size = |field, value| matrix_size(field, value).map_err(bad(0, "parameters"));
    let (m, n, k) = (size("m", params.m)?, size("n", params.n)?, size("k", params.k)?);
    let layout =
        |field, rows, columns, stride| matrix_layout(field, rows, columns, stride).map_err(bad(0, "parameters"));
    let (a_layout, b_layout) = (layout("lda", m, k, params.lda)?, layout("ldb", k, n, params.ldb)?);
    let c_layout = layout("ldc", m, n, params.ldc)?;
    let a = read_matrix(a, a_layout).map_err(bad(1, "A"))?;
    let b = read_matrix(b, b_layout).map_err(bad(2, "B"))?;
    let c = write_matrix(c, c_layout).map_err(bad(3, "C"))?;
    // The layouts come from one m, n and k, so that they fit each other.
    Sgemm::new(params.alpha, a, b, params.beta, c)
        .map(Task::BlasSgemm)
        .ok_or_else(|| bad(0, "parameters")(ArgError::MatrixOverflow { rows: m as u64, stride: n as u64 }))
}

fn model_load<'a>(
    args: &'a mut [Arg<'_>],
    resource: impl Fn(u32) -> Result<Resource, AccelError>,
) -> Result<Task<'a>, AccelError> {
    let bad = |error| AccelError::bad_arg(Operation::OnnxModelLoad, 0, "parameters", error);
    let count = args.len();
    let [params] = args else {
        return Err(wrong_count(Operation::OnnxModelLoad, "1", count));
    };
    let params: ModelParams = read_params(params).map_err(bad)?;
    if params.inputs != 0 {
        return Err(bad(ArgError::InputCount { announced: params.inputs, given: 0 }));
    }
    Ok(Task::OnnxModelLoad(ModelLoad { model: resource(params.model)? }))
}

fn model_run<'a>(
    args: &'a mut [Arg<'_>],
    resource: impl Fn(u32) -> Result<Resource, AccelError>,
) -> Result<Task<'a>, AccelError> {
    let bad = |index, name| move |error| AccelError::bad_arg(Operation::OnnxModelRun, index, name, error);
    let Some((params, tensors)) = args.split_first_mut() else {
        return Err(wrong_count(Operation::OnnxModelRun, "1 or more", 0));
    };
    let params: ModelParams = read_params(params).map_err(bad(0, "parameters"))?;
    let model = resource(params.model)?;
    let given = tensors.len();
    let announced = usize::try_from(params.inputs).unwrap_or(usize::MAX);
    let Some((inputs, outputs)) = tensors.split_at_mut_checked(announced) else {
        return Err(bad(0, "parameters")(ArgError::InputCount { announced: params.inputs, given }));
    };
    let inputs = (1..).zip(inputs).map(|(index, arg)| read_tensor(arg).map_err(bad(index, "input")));
    let inputs = inputs.collect::<Result<_, _>>()?;
    let outputs = (announced + 1..).zip(outputs).map(|(index, arg)| tensor_room(arg).map_err(bad(index, "output")));
    let outputs = outputs.collect::<Result<_, _>>()?;
    Ok(Task::OnnxModelRun(ModelRun { model, inputs, outputs }))
}

const fn wrong_count(operation: Operation, expected: &'static str, count: usize) -> AccelError {
    AccelError::WrongArgCount { operation: operation.name(), expected, count }
}

fn input<'a>(arg: &'a Arg<'_>) -> Result<&'a [u8], ArgError> {
    match &arg.data {
        Data::In(bytes) => Ok(bytes),
        other => Err(ArgError::Access { expected: "in", got: other.access() }),
    }
}

fn output<'a>(data: &'a mut Data<'_>) -> Result<&'a mut [u8], ArgError> {
    match data {
        Data::Out(bytes) => Ok(bytes),
        other => Err(ArgError::Access { expected: "out", got: other.access() }),
    }
}

fn in_output<'a>(data: &'a mut Data<'_>) -> Result<&'a mut [u8], ArgError> {
    match data {
        Data::InOut(bytes) => Ok(bytes),
        other => Err(ArgError::Access { expected: "in-out", got: other.access() }),
    }
}

fn expect_dtype(arg: &Arg<'_>, expected: Dtype) -> Result<(), ArgError> {
    if arg.dtype == expected {
        return Ok(());
    }
    Err(ArgError::Type { expected: expected.name(), got: arg.dtype.name() })
}

/// A structure that fills its argument exactly. Read by value, so that it may lie at any address.
fn read_params<T: FromBytes>(arg: &Arg<'_>) -> Result<T, ArgError> {
    expect_dtype(arg, Dtype::Bytes)?;
    let bytes = input(arg)?;
    T::read_from_bytes(bytes).map_err(|_| ArgError::Length { expected: size_of::<T>() as u64, got: bytes.len() as u64 })
}

fn read_picture<'a>(arg: &'a Arg<'_>) -> Result<&'a [u8], ArgError> {
    if !matches!(arg.dtype, Dtype::Bytes | Dtype::U8) {
        return Err(ArgError::Type { expected: "bytes or u8", got: arg.dtype.name() });
    }
    let bytes = input(arg)?;
    if bytes.is_empty() {
        return Err(ArgError::Empty);
    }
    Ok(bytes)
}

fn ranking_room<'a>(arg: &'a mut Arg<'_>) -> Result<Ranking<'a>, ArgError> {
    expect_dtype(arg, Dtype::Bytes)?;
    let bytes = output(&mut arg.data)?;
    let got = bytes.len() as u64;
    if got == 0 {
        return Err(ArgError::OutputTooSmall { needed: size_of::<Classification>() as u64, got });
    }
    Ok(Ranking::new(elements_mut(bytes)?, &mut arg.written))
}

fn matrix_size(field: &'static str, value: i64) -> Result<usize, ArgError> {
    isize::try_from(value).ok().and_then(|size| usize::try_from(size).ok()).ok_or(ArgError::Size { field, value })
}

fn matrix_layout(field: &'static str, rows: usize, columns: usize, value: i64) -> Result<MatrixLayout, ArgError> {
    let stride = matrix_size(field, value)?;
    MatrixLayout::new(rows, columns, stride).ok_or(ArgError::Stride { field, stride: value, width: columns as u64 })
}

/// Bytes from the first element of a matrix to behind its last.
fn matrix_bytes(layout: &MatrixLayout) -> Result<u64, ArgError> {
    layout
        .extent()
        .and_then(|elements| (elements as u64).checked_mul(size_of::<f32>() as u64))
        .ok_or(ArgError::MatrixOverflow { rows: layout.rows() as u64, stride: layout.stride() as u64 })
}

fn read_matrix<'a>(arg: &'a Arg<'_>, layout: MatrixLayout) -> Result<Matrix<'a>, ArgError> {
    expect_dtype(arg, Dtype::F32)?;
    let bytes = input(arg)?;
    let (needed, got) = (matrix_bytes(&layout)?, bytes.len() as u64);
    Matrix::new(elements(bytes)?, layout).ok_or(ArgError::InputTooShort { needed, got })
}

fn write_matrix<'a>(arg: &'a mut Arg<'_>, layout: MatrixLayout) -> Result<MatrixMut<'a>, ArgError> {
    expect_dtype(arg, Dtype::F32)?;
    let bytes = in_output(&mut arg.data)?;
    let (needed, got) = (matrix_bytes(&layout)?, bytes.len() as u64);
    let matrix = MatrixMut::new(elements_mut(bytes)?, layout).ok_or(ArgError::OutputTooSmall { needed, got })?;
    arg.written = needed;
    Ok(matrix)
}

fn read_tensor<'a>(arg: &'a Arg<'_>) -> Result<Tensor<'a>, ArgError> {
    let bytes = input(arg)?;
    let dims = arg.dims;
    let (needed, got) = (tensor_bytes(&dims, arg.dtype)?, bytes.len() as u64);
    if needed != got {
        return Err(ArgError::ShapeMismatch { dims, needed, got });
    }
    let elements = match arg.dtype {
        Dtype::Bytes => return Err(tensor_of_bytes()),
        Dtype::F32 => Elements::F32(elements(bytes)?),
        Dtype::I32 => Elements::I32(elements(bytes)?),
        Dtype::I64 => Elements::I64(elements(bytes)?),
        Dtype::U8 => Elements::U8(bytes),
        Dtype::I8 => Elements::I8(elements(bytes)?),
    };
    Ok(Tensor { dims, elements })
}

fn tensor_room<'a>(arg: &'a mut Arg<'_>) -> Result<TensorOut<'a>, ArgError> {
    let dtype = arg.dtype;
    if dtype == Dtype::Bytes {
        return Err(tensor_of_bytes());
    }
    let bytes = output(&mut arg.data)?;
    if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
        return Err(ArgError::Misaligned { align: dtype.size() as u64 });
    }
    arg.dims = Dims::NONE;
    Ok(TensorOut { bytes, dtype, dims: &mut arg.dims, written: &mut arg.written })
}

const fn tensor_of_bytes() -> ArgError {
    ArgError::Type { expected: "f32, i32, i64, u8 or i8", got: Dtype::Bytes.name() }
}

/// Bytes as elements in place. No bytes are no elements, wherever they would be.
fn elements<T: FromBytes + Immutable + KnownLayout>(bytes: &[u8]) -> Result<&[T], ArgError> {
    if bytes.is_empty() {
        return Ok(&[]);
    }
    <[T]>::ref_from_bytes(bytes).map_err(|error| cast_error::<T, _, _>(&error, bytes.len()))
}

/// The same, to be written.
fn elements_mut<T: FromBytes + IntoBytes + KnownLayout>(bytes: &mut [u8]) -> Result<&mut [T], ArgError> {
    if bytes.is_empty() {
        return Ok(&mut []);
    }
    let len = bytes.len();
    <[T]>::mut_from_bytes(bytes).map_err(|error| cast_error::<T, _, _>(&error, len))
}

const fn cast_error<T, S, D: ?Sized>(error: &CastError<S, D>, len: usize) -> ArgError {
    match error {
        CastError::Alignment(_) => ArgError::Misaligned { align: align_of::<T>() as u64 },
        CastError::Size(_) => ArgError::Ragged { element: size_of::<T>() as u64, got: len as u64 },
        CastError::Validity(impossible) => match *impossible {},
    }
}
