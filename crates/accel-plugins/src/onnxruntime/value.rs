//! Tensors as ONNX Runtime has them, over the caller's memory or the library's own, and a run on them.
//! Called when a model is run. Never copies: what is over the caller's memory lives no longer than the borrow.
#![allow(unsafe_code, reason = "the crate's own tensors can be given as outputs only where it allocated them")]

use std::{ffi::CStr, marker::PhantomData, ptr, ptr::NonNull, slice};

use kernlet_accel::Dtype;
use ort::{
    AsPointer as _,
    memory::MemoryInfo,
    session::{RunOptions, Session},
    sys,
};

/// A tensor over memory of the caller's.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    value: Owned,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Lent<'a> {
    /// A tensor that is read.
    pub(super) fn read(bytes: &'a [u8], dtype: Dtype, dims: &[i64]) -> ort::Result<Self> {
        // SAFETY: the bytes are readable for 'a, and nothing writes to a tensor that is an input.
        unsafe { Self::over(bytes.as_ptr().cast_mut(), bytes.len(), dtype, dims) }
    }

    /// A tensor that is written.
    pub(super) fn write(bytes: &'a mut [u8], dtype: Dtype, dims: &[i64]) -> ort::Result<Self> {
        // SAFETY: the bytes are this function's alone for 'a.
        unsafe { Self::over(bytes.as_mut_ptr(), bytes.len(), dtype, dims) }
    }

    /// # Safety
    /// The bytes must be readable for 'a, and writable and nobody else's where the tensor becomes an output.
    unsafe fn over(bytes: *mut u8, len: usize, dtype: Dtype, dims: &[i64]) -> ort::Result<Self> {
        let (memory, mut value) = (MemoryInfo::default(), ptr::null_mut());
        // SAFETY: the library checks that the shape takes no more than `len` bytes; it keeps the pointer until the
        // value is released, which is before 'a ends, as the value is in a structure of that lifetime.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                bytes.cast(),
                len,
                dims.as_ptr(),
                dims.len(),
                element_type(dtype),
                &raw mut value,
            )
        };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        let value = NonNull::new(value).ok_or_else(|| ort::Error::new("the library gave no tensor"))?;
        Ok(Self { value: Owned(value), memory: PhantomData })
    }
}

/// A value that is released when it is dropped.
#[derive(Debug)]
pub(super) struct Owned(NonNull<sys::OrtValue>);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: nobody else has it, and it is released once.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

/// The tensor of a value that the library made: type, shape and bytes.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) dtype: Dtype,
    pub(super) dims: Vec<u64>,
    pub(super) bytes: &'a [u8],
}

impl Owned {
    /// Its content; `None` when it is no tensor, or of a type that a call cannot have.
    pub(super) fn view(&self) -> ort::Result<Option<View<'_>>> {
        let Some((dtype, dims)) = self.shape()? else {
            return Ok(None);
        };
        let elements = dims.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
        let len = elements.and_then(|elements| usize::try_from(elements).ok()?.checked_mul(dtype.size()));
        let len = len.ok_or_else(|| ort::Error::new("the library gave a tensor beyond the address space"))?;
        let mut data = ptr::null_mut();
        // SAFETY: the value is alive and a tensor.
        let status = unsafe { (ort::api().GetTensorMutableData)(self.0.as_ptr(), &raw mut data) };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        if len == 0 || data.is_null() {
            return Ok(Some(View { dtype, dims, bytes: &[] }));
        }
        // SAFETY: a tensor of the library's is dense and in the processor's memory, as outputs are that no device was
        // named for; it lives as long as the value, and nobody writes to it after the run.
        let bytes = unsafe { slice::from_raw_parts(data.cast::<u8>(), len) };
        Ok(Some(View { dtype, dims, bytes }))
    }

    fn shape(&self) -> ort::Result<Option<(Dtype, Vec<u64>)>> {
        let (api, mut is_tensor) = (ort::api(), 0);
        // SAFETY: the value is alive.
        let status = unsafe { (api.IsTensor)(self.0.as_ptr(), &raw mut is_tensor) };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        if is_tensor == 0 {
            return Ok(None);
        }
        let mut info = ptr::null_mut();
        // SAFETY: the value is alive and a tensor.
        let status = unsafe { (api.GetTensorTypeAndShape)(self.0.as_ptr(), &raw mut info) };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        let info = ShapeInfo(NonNull::new(info).ok_or_else(|| ort::Error::new("the library gave no shape"))?);
        let mut element = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        // SAFETY: the description is alive.
        let status = unsafe { (api.GetTensorElementType)(info.0.as_ptr(), &raw mut element) };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        let mut rank = 0;
        // SAFETY: the description is alive.
        let status = unsafe { (api.GetDimensionsCount)(info.0.as_ptr(), &raw mut rank) };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        let mut dims = vec![0_i64; rank];
        // SAFETY: there is room for as many sizes as are asked for.
        let status = unsafe { (api.GetDimensions)(info.0.as_ptr(), dims.as_mut_ptr(), rank) };
        // SAFETY: a status that the library just gave, which is taken over.
        unsafe { ort::Error::result_from_status(status) }?;
        let dims: Result<Vec<_>, _> = dims.into_iter().map(u64::try_from).collect();
        let dims = dims.map_err(ort::Error::wrap)?;
        Ok(dtype(element).map(|dtype| (dtype, dims)))
    }
}

/// A description that is released when it is dropped.
struct ShapeInfo(NonNull<sys::OrtTensorTypeAndShapeInfo>);

impl Drop for ShapeInfo {
    fn drop(&mut self) {
        // SAFETY: nobody else has it, and it is released once.
        unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(self.0.as_ptr()) };
    }
}

/// Runs a session. An output that is lent is written in place; of the others, the values that the library made are given
/// back, in their order.
pub(super) fn run(
    session: &Session,
    options: &RunOptions,
    inputs: &[(&CStr, &Lent<'_>)],
    outputs: &mut [(&CStr, Option<&mut Lent<'_>>)],
) -> ort::Result<Vec<Owned>> {
    let input_names: Vec<_> = inputs.iter().map(|(name, _)| name.as_ptr()).collect();
    let input_values: Vec<_> = inputs.iter().map(|(_, lent)| lent.value.0.as_ptr().cast_const()).collect();
    let output_names: Vec<_> = outputs.iter().map(|(name, _)| name.as_ptr()).collect();
    let of = |lent: &Option<&mut Lent<'_>>| lent.as_ref().map_or(ptr::null_mut(), |lent| lent.value.0.as_ptr());
    let mut output_values: Vec<_> = outputs.iter().map(|(_, lent)| of(lent)).collect();
    // SAFETY: the names end in zero, there are as many values as names on both sides, and all are alive. Inputs are
    // only read; outputs are borrowed exclusively. The library says of a session that several threads may run it at
    // once, and the caller sees to it that only one does where a provider does not keep to that.
    let status = unsafe {
        (ort::api().Run)(
            session.ptr().cast_mut(),
            options.ptr(),
            input_names.as_ptr(),
            input_values.as_ptr(),
            input_names.len(),
            output_names.as_ptr(),
            output_names.len(),
            output_values.as_mut_ptr(),
        )
    };
    // What the library made is released, also where it failed half-way.
    let made = output_values.iter().zip(outputs.iter()).filter(|(_, (_, lent))| lent.is_none());
    let made: Vec<_> = made.filter_map(|(&value, _)| NonNull::new(value).map(Owned)).collect();
    // SAFETY: a status that the library just gave, which is taken over.
    unsafe { ort::Error::result_from_status(status) }?;
    Ok(made)
}

/// Element types, as a call and as the library has them.
const TYPES: [(Dtype, sys::ONNXTensorElementDataType); 13] = {
    use sys::ONNXTensorElementDataType as Onnx;
    [
        (Dtype::F32, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT),
        (Dtype::I32, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32),
        (Dtype::I64, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64),
        (Dtype::U8, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8),
        (Dtype::I8, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8),
        (Dtype::F64, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE),
        (Dtype::I16, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16),
        (Dtype::U16, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16),
        (Dtype::U32, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32),
        (Dtype::U64, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64),
        (Dtype::Bool, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL),
        (Dtype::F16, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16),
        (Dtype::Bf16, Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16),
    ]
};

fn element_type(dtype: Dtype) -> sys::ONNXTensorElementDataType {
    let found = TYPES.iter().find(|(ours, _)| *ours == dtype);
    found.map_or(sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, |(_, theirs)| *theirs)
}

/// The element type of a call that one of the library's is; `None` where there is none.
pub(super) fn dtype(element: sys::ONNXTensorElementDataType) -> Option<Dtype> {
    TYPES.iter().find(|(_, theirs)| *theirs == element).map(|(ours, _)| *ours)
}
