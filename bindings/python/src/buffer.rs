//! Memory of Python's as slices, for as long as an operation runs.
//! Called for every array that an operation reads or writes. A view checks element type, alignment, layout and right to
//! write; while there is one, its owner cannot move or resize the memory, and no other operation of this module that
//! would write to it, or read what it writes, begins.
//!
//! What NumPy cannot promise, nobody here can: a thread that changes the elements of an array while an operation reads
//! them gets a result of old and new ones. Elements are numbers, of which every value is one, so that is all it gets;
//! what is parsed rather than computed with ([`parsed`]) is copied first unless it cannot change.

use std::{
    ffi::{CStr, CString},
    ops::Range,
    slice,
    sync::{Mutex, PoisonError},
};

use kernlet_accel::{Dtype, operation::Element};
use pyo3::{
    buffer::{ElementType, PyUntypedBuffer},
    prelude::*,
    pybacked::PyBackedBytes,
    types::{PyBytes, PyMemoryView},
};

use crate::error::{bad_type, bad_value};

/// Memory that an operation reads.
pub(crate) struct In(View);

/// Memory that an operation writes, and may read.
pub(crate) struct Out(View);

impl In {
    /// All elements of a contiguous array.
    pub(crate) fn new(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        View::contiguous(array, name, false).map(Self)
    }

    /// The same of one element type.
    pub(crate) fn of<T: Element>(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let view = Self::new(array, name)?;
        view.0.expect(T::DTYPE, name)?;
        Ok(view)
    }

    /// The rows of a matrix, which may lie apart, and their layout.
    pub(crate) fn rows(array: &Bound<'_, PyAny>, name: &str) -> PyResult<(Self, Rows)> {
        let (view, rows) = View::rows(array, name, false)?;
        Ok((Self(view), rows))
    }

    pub(crate) const fn dtype(&self) -> Dtype {
        self.0.lent.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.0.lent.shape()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.slice()
    }

    /// Its elements; none unless they were asked for by this type.
    pub(crate) fn elements<T: Element>(&self) -> &[T] {
        if self.0.lent.dtype == T::DTYPE { self.0.slice() } else { &[] }
    }
}

impl Out {
    /// All elements of a contiguous array that may be written.
    pub(crate) fn new(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        View::contiguous(array, name, true).map(Self)
    }

    /// The same of one element type.
    pub(crate) fn of<T: Element>(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let view = Self::new(array, name)?;
        view.0.expect(T::DTYPE, name)?;
        Ok(view)
    }

    /// The rows of a matrix that may be written, and their layout.
    pub(crate) fn rows(array: &Bound<'_, PyAny>, name: &str) -> PyResult<(Self, Rows)> {
        let (view, rows) = View::rows(array, name, true)?;
        Ok((Self(view), rows))
    }

    pub(crate) const fn dtype(&self) -> Dtype {
        self.0.lent.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.0.lent.shape()
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.0.slice_mut()
    }

    /// Its elements; none unless they were asked for by this type.
    pub(crate) fn elements<T: Element>(&mut self) -> &mut [T] {
        if self.0.lent.dtype == T::DTYPE { self.0.slice_mut() } else { &mut [] }
    }
}

/// Bytes that are parsed, such as a picture: those of a `bytes` object in place, anything else copied, since it may
/// change meanwhile.
pub(crate) fn parsed(data: &Bound<'_, PyAny>, name: &str) -> PyResult<(PyBackedBytes, u64)> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok((bytes.clone().into(), 0));
    }
    let view = In::new(data, name)?;
    let copy = PyBytes::new(data.py(), view.bytes());
    Ok((copy.into(), view.bytes().len() as u64))
}

/// How the rows of a matrix lie.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

/// A buffer that Python lends, and its element type.
struct Lent {
    buffer: PyUntypedBuffer,
    dtype: Dtype,
    /// Whether it is one value without dimensions; the buffer is of its bytes then.
    is_value: bool,
}

/// A buffer that an operation uses.
struct View {
    lent: Lent,
    /// How many bytes are used, from its start.
    len: usize,
    _claim: Claim,
}

impl Lent {
    /// The buffer of an array, with an element type that operations have, to be written or not.
    fn new(array: &Bound<'_, PyAny>, name: &str, writes: bool) -> PyResult<Self> {
        let (buffer, dtype, is_value) = match PyUntypedBuffer::get(array) {
            Ok(buffer) => {
                let dtype = known(buffer.format(), buffer.item_size(), name)?;
                (buffer, dtype, false)
            }
            // NumPy has no format for it.
            Err(_) if is_bfloat16(array) => (bits(array)?, Dtype::Bf16, false),
            Err(_) => {
                let (buffer, format) = value(array).ok_or_else(|| no_buffer(array, name))?;
                let dtype = known(&format, buffer.len_bytes(), name)?;
                (buffer, dtype, true)
            }
        };
        if writes && buffer.readonly() {
            return Err(bad_value(format!("{name} is read-only, and the operation writes to it")));
        }
        if buffer.suboffsets().is_some() {
            return Err(bad_value(format!("{name} lies in several pieces; pass numpy.ascontiguousarray({name})")));
        }
        Ok(Self { buffer, dtype, is_value })
    }

    fn shape(&self) -> &[usize] {
        if self.is_value { &[] } else { self.buffer.shape() }
    }
}

/// Whether it is an array of bfloat16, which another package has added to NumPy, such as `ml_dtypes`.
fn is_bfloat16(array: &Bound<'_, PyAny>) -> bool {
    let dtype = array.getattr("dtype");
    let of = |name: &str| dtype.as_ref().ok()?.getattr(name).ok();
    of("name").is_some_and(|name| name.extract::<String>().is_ok_and(|name| name == "bfloat16"))
        && of("itemsize").is_some_and(|size| size.extract::<usize>().is_ok_and(|size| size == Dtype::Bf16.size()))
}

/// The same memory as 16-bit integers.
fn bits(array: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    PyUntypedBuffer::get(&array.call_method1("view", ("uint16",))?)
}

/// The bytes of one value without dimensions, such as a NumPy scalar, and its format: PyO3 gives no buffers without a
/// shape, but Python can make one of it.
fn value(array: &Bound<'_, PyAny>) -> Option<(PyUntypedBuffer, CString)> {
    let value = PyMemoryView::from(array).ok()?;
    let format: String = value.getattr("format").ok()?.extract().ok()?;
    let bytes = value.call_method1("cast", ("B",)).ok()?;
    Some((PyUntypedBuffer::get(&bytes).ok()?, CString::new(format).ok()?))
}

fn no_buffer(array: &Bound<'_, PyAny>, name: &str) -> PyErr {
    let kind = array.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
    bad_type(format!("{name} must be an array or something else with the buffer protocol, not {kind}"))
}

impl View {
    fn contiguous(array: &Bound<'_, PyAny>, name: &str, writes: bool) -> PyResult<Self> {
        let lent = Lent::new(array, name, writes)?;
        if !lent.buffer.is_c_contiguous() {
            return Err(bad_value(format!(
                "{name} does not lie row by row in one piece; pass numpy.ascontiguousarray({name})"
            )));
        }
        let len = lent.buffer.len_bytes();
        Self::claimed(lent, len, name, writes)
    }

    fn rows(array: &Bound<'_, PyAny>, name: &str, writes: bool) -> PyResult<(Self, Rows)> {
        let lent = Lent::new(array, name, writes)?;
        let (&[rows, columns], &[outer, inner]) = (lent.shape(), lent.buffer.strides()) else {
            let dimensions = lent.shape().len();
            return Err(bad_value(format!("{name} must be a matrix and has {dimensions} dimensions")));
        };
        let size = lent.dtype.size();
        let strides = (usize::try_from(outer).ok(), usize::try_from(inner).ok());
        // Where there is only one row or column, or none, the step to the next means nothing.
        let empty = rows == 0 || columns == 0;
        let dense = columns.saturating_mul(size);
        let apart = match strides {
            _ if rows <= 1 || empty => Some(dense),
            (Some(outer), _) if outer >= dense && outer.is_multiple_of(size) => Some(outer),
            _ => None,
        };
        let Some(apart) = apart.filter(|_| columns <= 1 || empty || strides.1 == Some(size)) else {
            return Err(bad_value(format!(
                "the elements of a row of {name} must lie side by side, and the rows one after the other; \
                 pass numpy.ascontiguousarray({name})"
            )));
        };
        let extent =
            if empty { Some(0) } else { (rows - 1).checked_mul(apart).and_then(|rest| rest.checked_add(dense)) };
        let len = extent.ok_or_else(|| bad_value(format!("{name} is larger than the address space")))?;
        let view = Self::claimed(lent, len, name, writes)?;
        view.expect(Dtype::F32, name)?;
        Ok((view, Rows { rows, columns, stride: apart / size }))
    }

    fn claimed(lent: Lent, len: usize, name: &str, writes: bool) -> PyResult<Self> {
        let (start, align) = (lent.buffer.buf_ptr().addr(), lent.dtype.size());
        if len > 0 && !start.is_multiple_of(align) {
            return Err(bad_value(format!("{name} is not aligned to the {align} bytes of its elements; pass a copy")));
        }
        let Some(claim) = Claim::new(start..start.saturating_add(len), writes) else {
            return Err(bad_value(format!(
                "{name} shares memory with what this operation or one of another thread writes; pass an array of its own"
            )));
        };
        Ok(Self { lent, len, _claim: claim })
    }

    fn expect(&self, dtype: Dtype, name: &str) -> PyResult<()> {
        if self.lent.dtype == dtype {
            return Ok(());
        }
        let (wanted, got) = (numpy_name(dtype), numpy_name(self.lent.dtype));
        Err(bad_type(format!("{name} must be an array of {wanted}, not of {got}")))
    }

    #[expect(unsafe_code, reason = "memory that Python lends")]
    fn slice<T: Element>(&self) -> &[T] {
        let count = self.len / size_of::<T>();
        if count == 0 {
            return &[];
        }
        // SAFETY: the buffer has `len` bytes from there on, which its exporter keeps where they are while the buffer is
        // held; they are aligned to their element, which is a `T` or several; every value of a number is one. The claim
        // keeps operations from writing there; who writes from elsewhere was told what that means, above.
        unsafe { slice::from_raw_parts(self.lent.buffer.buf_ptr().cast(), count) }
    }

    #[expect(unsafe_code, reason = "memory that Python lends")]
    fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        let count = self.len / size_of::<T>();
        if count == 0 {
            return &mut [];
        }
        // SAFETY: as above; the exporter lets it be written, and the claim is the only one on these bytes.
        unsafe { slice::from_raw_parts_mut(self.lent.buffer.buf_ptr().cast(), count) }
    }
}

fn known(format: &CStr, size: usize, name: &str) -> PyResult<Dtype> {
    let unknown = || bad_type(format!("{name} has elements of format {format:?}, which no operation has; convert it"));
    dtype(format, size).ok_or_else(unknown)
}

/// The element type of a format of Python's module `struct`, in this processor's order of bytes.
fn dtype(format: &CStr, size: usize) -> Option<Dtype> {
    if size > 1 && matches!(format.to_bytes(), [b'>' | b'!', ..]) {
        return None;
    }
    let dtype = match ElementType::from_format(format) {
        ElementType::Float { bytes: 2 } => Dtype::F16,
        ElementType::Float { bytes: 4 } => Dtype::F32,
        ElementType::Float { bytes: 8 } => Dtype::F64,
        ElementType::SignedInteger { bytes: 1 } => Dtype::I8,
        ElementType::SignedInteger { bytes: 2 } => Dtype::I16,
        ElementType::SignedInteger { bytes: 4 } => Dtype::I32,
        ElementType::SignedInteger { bytes: 8 } => Dtype::I64,
        ElementType::UnsignedInteger { bytes: 1 } => Dtype::U8,
        ElementType::UnsignedInteger { bytes: 2 } => Dtype::U16,
        ElementType::UnsignedInteger { bytes: 4 } => Dtype::U32,
        ElementType::UnsignedInteger { bytes: 8 } => Dtype::U64,
        ElementType::Bool => Dtype::Bool,
        _ => return None,
    };
    (dtype.size() == size).then_some(dtype)
}

/// What NumPy calls an element type; ours where it has none.
pub(crate) const fn numpy_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::F32 => "float32",
        Dtype::F64 => "float64",
        Dtype::I8 => "int8",
        Dtype::I16 => "int16",
        Dtype::I32 => "int32",
        Dtype::I64 => "int64",
        Dtype::U8 => "uint8",
        Dtype::U16 => "uint16",
        Dtype::U32 => "uint32",
        Dtype::U64 => "uint64",
        Dtype::Bool => "bool",
        other => other.name(),
    }
}

/// The addresses that operations under way use, and whether they write there.
static CLAIMS: Mutex<Vec<(Range<usize>, bool)>> = Mutex::new(Vec::new());

/// A range of addresses that an operation uses: with others that only read, or alone.
struct Claim(Range<usize>, bool);

impl Claim {
    fn new(range: Range<usize>, writes: bool) -> Option<Self> {
        let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        let disturbs = |(other, writes_too): &(Range<usize>, bool)| {
            (writes || *writes_too) && range.start < other.end && other.start < range.end
        };
        if claims.iter().any(disturbs) {
            return None;
        }
        if !range.is_empty() {
            claims.push((range.clone(), writes));
        }
        Some(Self(range, writes))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        // Of equal claims, which only readers have, it does not matter whose goes.
        if let Some(at) = claims.iter().position(|(range, writes)| *range == self.0 && *writes == self.1) {
            claims.swap_remove(at);
        }
    }
}
