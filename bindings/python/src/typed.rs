//! Arguments whose meaning only their callee knows, for `exec`, `opencv` and `generic`.
//! Made from whatever Python passes; an array stays where it is.

use kernlet_accel::{
    Dtype,
    operation::{TypedIn, TypedOut},
};
use pyo3::{
    prelude::*,
    types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyString},
};

use crate::{
    buffer::{In, Out},
    error::bad_type,
};

/// An argument that the callee reads.
pub(crate) enum Read {
    /// An array, or a NumPy scalar.
    Memory(In),
    /// A number or a text of Python's, which does not lie in memory as the callee needs it.
    Value(Dtype, Vec<u8>),
}

impl Read {
    /// A text becomes a string that ends with a zero, as C's do; a `bool`, `int` or `float` a truth value, a 64-bit integer
    /// or a binary64; `bytes` a buffer; anything else is an array or NumPy scalar of its own type.
    pub(crate) fn new(argument: &Bound<'_, PyAny>, index: usize) -> PyResult<Self> {
        if let Ok(text) = argument.cast::<PyString>() {
            let text = text.to_str()?;
            if text.contains('\0') {
                return Err(crate::error::bad_value(format!("argument {index} has a zero in its text")));
            }
            return Ok(Self::Value(Dtype::Text, [text.as_bytes(), &[0]].concat()));
        }
        if let Ok(truth) = argument.cast::<PyBool>() {
            return Ok(Self::Value(Dtype::Bool, vec![u8::from(truth.is_true())]));
        }
        if argument.is_instance_of::<PyInt>() {
            return Ok(Self::Value(Dtype::I64, argument.extract::<i64>()?.to_ne_bytes().into()));
        }
        // NumPy's float64 is one of Python's floats as well; both are this.
        if argument.is_instance_of::<PyFloat>() {
            return Ok(Self::Value(Dtype::F64, argument.extract::<f64>()?.to_ne_bytes().into()));
        }
        In::new(argument, &format!("argument {index} to be read")).map(Self::Memory)
    }

    /// The number of an operation.
    pub(crate) fn operation(number: u8) -> Self {
        Self::Value(Dtype::U8, vec![number])
    }

    pub(crate) fn lend(&self, is_buffer: bool) -> TypedIn<'_> {
        match self {
            Self::Memory(view) if is_buffer => {
                TypedIn { dtype: Dtype::Buffer, custom: 0, array: true, bytes: view.bytes() }
            }
            Self::Memory(view) => {
                TypedIn { dtype: view.dtype(), custom: 0, array: !view.shape().is_empty(), bytes: view.bytes() }
            }
            Self::Value(dtype, bytes) => TypedIn { dtype: *dtype, custom: 0, array: *dtype == Dtype::Text, bytes },
        }
    }
}

/// An argument that the callee writes.
pub(crate) struct Written {
    view: Out,
    is_buffer: bool,
    written: u64,
}

impl Written {
    pub(crate) fn new(argument: &Bound<'_, PyAny>, index: usize) -> PyResult<Self> {
        if argument.is_none() {
            return Err(bad_type(format!("argument {index} to be written must be an array or a bytearray, not None")));
        }
        let view = Out::new(argument, &format!("argument {index} to be written"))?;
        Ok(Self { view, is_buffer: argument.is_instance_of::<PyByteArray>(), written: 0 })
    }

    pub(crate) fn lend(&mut self) -> TypedOut<'_> {
        let Self { view, is_buffer, written } = self;
        let dtype = if *is_buffer { Dtype::Buffer } else { view.dtype() };
        let array = !view.shape().is_empty();
        TypedOut { dtype, custom: 0, array, bytes: view.bytes(), written }
    }

    /// How many bytes the callee wrote.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }
}

/// Arguments of a call, held.
pub(crate) struct Arguments {
    read: Vec<(Read, bool)>,
    write: Vec<Written>,
}

impl Arguments {
    pub(crate) fn new(read: Vec<Bound<'_, PyAny>>, write: Vec<Bound<'_, PyAny>>) -> PyResult<Self> {
        let is_buffer = |argument: &Bound<'_, PyAny>| {
            argument.is_instance_of::<PyBytes>() || argument.is_instance_of::<PyByteArray>()
        };
        let read = (0..).zip(read).map(|(index, argument)| Ok((Read::new(&argument, index)?, is_buffer(&argument))));
        let read = read.collect::<PyResult<_>>()?;
        let write = (0..).zip(write).map(|(index, argument)| Written::new(&argument, index));
        Ok(Self { read, write: write.collect::<PyResult<_>>()? })
    }

    /// The same behind the number of an operation.
    pub(crate) fn behind(mut self, number: u8) -> Self {
        self.read.insert(0, (Read::operation(number), false));
        self
    }

    pub(crate) fn lend(&mut self) -> (Vec<TypedIn<'_>>, Vec<TypedOut<'_>>) {
        let read = self.read.iter().map(|(read, is_buffer)| read.lend(*is_buffer)).collect();
        (read, self.write.iter_mut().map(Written::lend).collect())
    }

    pub(crate) fn written(&self) -> Vec<u64> {
        self.write.iter().map(Written::written).collect()
    }
}
