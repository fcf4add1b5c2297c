//! How one argument is read: its access, type, length, alignment.
//! Called by the parsers of operations. Never copies more than a parameter block.

use zerocopy::FromBytes;

use crate::{
    Arg, Data, Dtype,
    operation::{
        ArgError, Elements, Matrix, MatrixLayout, MatrixMut, Ranking, Tensor, TensorOut, TextOut, TypedIn, TypedOut,
        slice, slice_mut,
    },
};

/// Longest name of a library or a function, in bytes.
pub(super) const NAME_MAX: usize = 4096;

pub(super) fn input<'a>(arg: &'a Arg<'_>) -> Result<&'a [u8], ArgError> {
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
pub(super) fn params<T: FromBytes>(arg: &Arg<'_>) -> Result<T, ArgError> {
    expect_dtype(arg, Dtype::Bytes)?;
    let bytes = input(arg)?;
    T::read_from_bytes(bytes).map_err(|_| ArgError::Length { expected: size_of::<T>() as u64, got: bytes.len() as u64 })
}

pub(super) fn bytes<'a>(arg: &'a Arg<'_>) -> Result<&'a [u8], ArgError> {
    if !matches!(arg.dtype, Dtype::Bytes | Dtype::U8) {
        return Err(ArgError::Type { expected: "bytes or u8", got: arg.dtype.name() });
    }
    input(arg)
}

pub(super) fn picture<'a>(arg: &'a Arg<'_>) -> Result<&'a [u8], ArgError> {
    match bytes(arg)? {
        [] => Err(ArgError::Empty),
        picture => Ok(picture),
    }
}

pub(super) fn text<'a>(arg: &'a Arg<'_>) -> Result<&'a str, ArgError> {
    if !matches!(arg.dtype, Dtype::Bytes | Dtype::Text) {
        return Err(ArgError::Type { expected: "string or bytes", got: arg.dtype.name() });
    }
    str::from_utf8(input(arg)?).map_err(|_| ArgError::NotText)
}

/// The name of a library or a function; C's zero at its end does not belong to it.
pub(super) fn name(bytes: &[u8]) -> Result<&str, ArgError> {
    let text = str::from_utf8(bytes).map_err(|_| ArgError::NotText)?;
    let name = text.strip_suffix('\0').unwrap_or(text);
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err(ArgError::BadName { max: NAME_MAX });
    }
    Ok(name)
}

pub(super) fn ranking_room<'a>(arg: &'a mut Arg<'_>) -> Result<Ranking<'a>, ArgError> {
    expect_dtype(arg, Dtype::Bytes)?;
    Ranking::new(slice_mut(output(&mut arg.data)?)?, &mut arg.written)
}

pub(super) fn text_room<'a>(arg: &'a mut Arg<'_>) -> Result<TextOut<'a>, ArgError> {
    if !matches!(arg.dtype, Dtype::Bytes | Dtype::Text) {
        return Err(ArgError::Type { expected: "string or bytes", got: arg.dtype.name() });
    }
    Ok(TextOut::new(output(&mut arg.data)?, &mut arg.written))
}

/// An array that is read.
pub(super) fn array<'a, T: crate::operation::Element>(arg: &'a Arg<'_>) -> Result<&'a [T], ArgError> {
    expect_dtype(arg, T::DTYPE)?;
    slice(input(arg)?)
}

/// An array that is written as a whole.
pub(super) fn array_room<'a, T: crate::operation::Element>(arg: &'a mut Arg<'_>) -> Result<&'a mut [T], ArgError> {
    expect_dtype(arg, T::DTYPE)?;
    let bytes = output(&mut arg.data)?;
    arg.written = bytes.len() as u64;
    slice_mut(bytes)
}

pub(super) fn matrix_size(field: &'static str, value: i64) -> Result<usize, ArgError> {
    let size = isize::try_from(value).ok().and_then(|size| usize::try_from(size).ok());
    size.ok_or(ArgError::Size { field, value, min: 0, max: isize::MAX as i64 })
}

pub(super) fn matrix_layout(
    field: &'static str,
    rows: usize,
    columns: usize,
    value: i64,
) -> Result<MatrixLayout, ArgError> {
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

pub(super) fn matrix<'a>(arg: &'a Arg<'_>, layout: MatrixLayout) -> Result<Matrix<'a>, ArgError> {
    expect_dtype(arg, Dtype::F32)?;
    matrix_of(input(arg)?, layout)
}

pub(crate) fn matrix_of(bytes: &[u8], layout: MatrixLayout) -> Result<Matrix<'_>, ArgError> {
    let (needed, got) = (matrix_bytes(&layout)?, bytes.len() as u64);
    Matrix::new(slice(bytes)?, layout).ok_or(ArgError::InputTooShort { needed, got })
}

pub(super) fn matrix_room<'a>(arg: &'a mut Arg<'_>, layout: MatrixLayout) -> Result<MatrixMut<'a>, ArgError> {
    expect_dtype(arg, Dtype::F32)?;
    matrix_room_of(in_output(&mut arg.data)?, &mut arg.written, layout)
}

pub(crate) fn matrix_room_of<'a>(
    bytes: &'a mut [u8],
    written: &mut u64,
    layout: MatrixLayout,
) -> Result<MatrixMut<'a>, ArgError> {
    let (needed, got) = (matrix_bytes(&layout)?, bytes.len() as u64);
    let matrix = MatrixMut::new(slice_mut(bytes)?, layout).ok_or(ArgError::OutputTooSmall { needed, got })?;
    *written = needed;
    Ok(matrix)
}

pub(super) fn tensor<'a>(arg: &'a Arg<'_>) -> Result<Tensor<'a>, ArgError> {
    // The shape comes first: what it takes says more than that the length is not a whole number of elements.
    let bytes = input(arg)?;
    let (dims, got) = (arg.dims, bytes.len() as u64);
    Elements::from_bytes(arg.dtype, &[])?;
    let needed = crate::operation::tensor_bytes(&dims, arg.dtype)?;
    if needed != got {
        return Err(ArgError::ShapeMismatch { dims, needed, got });
    }
    Tensor::new(Elements::from_bytes(arg.dtype, bytes)?, dims)
}

pub(super) fn tensor_room<'a>(arg: &'a mut Arg<'_>) -> Result<TensorOut<'a>, ArgError> {
    TensorOut::new(output(&mut arg.data)?, &mut arg.dtype, &mut arg.dims, &mut arg.written)
}

/// Arguments that only their callee understands: those that are read, and those that are written.
pub(super) fn typed<'a>(args: &'a mut [Arg<'_>]) -> (Vec<TypedIn<'a>>, Vec<TypedOut<'a>>) {
    let (mut read, mut write) = (Vec::new(), Vec::new());
    for arg in args {
        let Arg { data, dtype, dims, custom, written } = arg;
        let (dtype, custom, array) = (*dtype, *custom, dims.rank() > 0);
        match data {
            Data::In(bytes) => read.push(TypedIn { dtype, custom, array, bytes }),
            Data::Out(bytes) | Data::InOut(bytes) => write.push(TypedOut { dtype, custom, array, bytes, written }),
        }
    }
    (read, write)
}

pub(super) fn bytes_room<'a>(arg: &'a mut Arg<'_>) -> Result<&'a mut [u8], ArgError> {
    if !matches!(arg.dtype, Dtype::Bytes | Dtype::U8) {
        return Err(ArgError::Type { expected: "bytes or u8", got: arg.dtype.name() });
    }
    output(&mut arg.data)
}
