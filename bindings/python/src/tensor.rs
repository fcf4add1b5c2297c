//! Outputs of models, in the memory that their operation took for them.
//! Made by [`crate::model`]; NumPy takes the memory over by the buffer protocol, without a copy.

use std::{
    ffi::{CStr, c_int},
    sync::atomic::{AtomicPtr, Ordering},
};

use kernlet_accel::{Dtype, operation::TensorBuf};
use pyo3::{exceptions::PyBufferError, ffi, prelude::*};

use crate::buffer::numpy_name;

/// A tensor that an operation wrote; `numpy.asarray` makes an array of it in place.
#[pyclass(frozen, module = "kernlet_accel")]
#[derive(Debug)]
pub(crate) struct Tensor {
    /// Keeps the memory; nobody looks into it any more.
    _buf: TensorBuf,
    /// Where the memory is.
    data: AtomicPtr<u8>,
    len: isize,
    dtype: Dtype,
    shape: Vec<isize>,
    strides: Vec<isize>,
}

impl Tensor {
    pub(crate) fn new(mut buf: TensorBuf) -> PyResult<Self> {
        let too_large = |_| PyBufferError::new_err("the tensor is larger than the address space");
        let (dtype, dims) = (buf.dtype(), *buf.dims());
        let sizes = dims.sizes().iter().map(|&size| isize::try_from(size));
        let shape = sizes.collect::<Result<Vec<_>, _>>().map_err(too_large)?;
        let mut step = isize::try_from(dtype.size()).map_err(too_large)?;
        let mut strides = Vec::with_capacity(shape.len());
        for size in shape.iter().rev() {
            strides.push(step);
            step = step.saturating_mul(*size);
        }
        strides.reverse();
        let bytes = buf.bytes_mut();
        let len = isize::try_from(bytes.len()).map_err(too_large)?;
        let data = AtomicPtr::new(bytes.as_mut_ptr());
        Ok(Self { _buf: buf, data, len, dtype, shape, strides })
    }

    /// The element type in the letters of Python's module `struct`.
    const fn format(&self) -> &'static CStr {
        match self.dtype {
            Dtype::F16 => c"e",
            Dtype::F32 => c"f",
            Dtype::F64 => c"d",
            Dtype::I8 => c"b",
            Dtype::I16 => c"h",
            Dtype::I32 => c"i",
            Dtype::I64 => c"q",
            // Python has no letter for it.
            Dtype::U16 | Dtype::Bf16 => c"H",
            Dtype::U32 => c"I",
            Dtype::U64 => c"Q",
            Dtype::Bool => c"?",
            _ => c"B",
        }
    }
}

#[pymethods]
impl Tensor {
    /// Its element type, by NumPy's name; "bf16" where NumPy has none, and the array is of uint16.
    #[getter]
    const fn dtype(&self) -> &'static str {
        numpy_name(self.dtype)
    }

    #[expect(unsafe_code, reason = "the buffer protocol")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        // SAFETY: the interpreter passes null, which the protocol allows, or a view that is to be filled in.
        let Some(view) = (unsafe { view.as_mut() }) else {
            return Err(PyBufferError::new_err("there is no view to fill in"));
        };
        let this = slf.get();
        let asked = |flag: c_int| flags & flag == flag;
        view.buf = this.data.load(Ordering::Relaxed).cast();
        view.len = this.len;
        view.itemsize = this.dtype.size().cast_signed();
        view.readonly = 0;
        view.ndim = c_int::try_from(this.shape.len()).unwrap_or_default();
        // Nobody writes to what these point at, and they live as long as the tensor, which the view keeps.
        view.format = if asked(ffi::PyBUF_FORMAT) { this.format().as_ptr().cast_mut() } else { std::ptr::null_mut() };
        view.shape = if asked(ffi::PyBUF_ND) { this.shape.as_ptr().cast_mut() } else { std::ptr::null_mut() };
        view.strides = if asked(ffi::PyBUF_STRIDES) { this.strides.as_ptr().cast_mut() } else { std::ptr::null_mut() };
        view.suboffsets = std::ptr::null_mut();
        view.internal = std::ptr::null_mut();
        view.obj = slf.into_any().into_ptr();
        Ok(())
    }
}
