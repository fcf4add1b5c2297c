//! TensorFlow's, TensorFlow Lite's and PyTorch's models: loaded, run, forgotten.
//! Called by C programs. A tensor has as many bytes as its shape and type say; results are new tensors of the caller's.

use std::{
    ffi::{CStr, c_char, c_int},
    fmt::Write as _,
    ptr::{self, NonNull},
};

use kernlet_accel::{
    Dims, Dtype, Operation,
    operation::{Elements, ModelLoad, ModelRun, Task, TensorBuf},
};

use super::{Call, checked, perform};
use crate::{
    errno::{EINVAL, ENOTSUP, Errno, Result},
    memory,
    pointer::ItemsMut,
    registry::Place,
    session,
    types::{
        Buffer, Flag, RESOURCE_MODEL, Resource, Session, Tensor, TfNode, TfStatus, TfTensor, TfliteTensor, TorchTensor,
    },
};

/// A framework's numbers for the types of elements.
type Types = &'static [(u32, Dtype)];

const TF: Types = &[
    (1, Dtype::F32),
    (2, Dtype::F64),
    (3, Dtype::I32),
    (4, Dtype::U8),
    (5, Dtype::I16),
    (6, Dtype::I8),
    (9, Dtype::I64),
    (10, Dtype::Bool),
    (14, Dtype::Bf16),
    (17, Dtype::U16),
    (19, Dtype::F16),
    (22, Dtype::U32),
    (23, Dtype::U64),
];

const TFLITE: Types = &[
    (1, Dtype::F32),
    (2, Dtype::I32),
    (3, Dtype::U8),
    (4, Dtype::I64),
    (6, Dtype::Bool),
    (7, Dtype::I16),
    (9, Dtype::I8),
    (10, Dtype::F16),
    (11, Dtype::F64),
    (13, Dtype::U64),
    (16, Dtype::U32),
    (17, Dtype::U16),
];

/// `VACCEL_TORCH_FLOAT`
pub(super) const TORCH_FLOAT: u32 = 7;

const TORCH: Types = &[
    (1, Dtype::U8),
    (2, Dtype::I8),
    (3, Dtype::I16),
    (4, Dtype::I32),
    (5, Dtype::I64),
    (6, Dtype::F16),
    (TORCH_FLOAT, Dtype::F32),
];

type TfLoadFunction = unsafe extern "C" fn(*mut Session, *mut Resource, *mut TfStatus) -> c_int;
type LoadFunction = unsafe extern "C" fn(*mut Session, *mut Resource) -> c_int;
type TfRunFunction = unsafe extern "C" fn(
    *mut Session,
    *mut Resource,
    *const Buffer,
    *const TfNode,
    *const *mut TfTensor,
    c_int,
    *const TfNode,
    *mut *mut TfTensor,
    c_int,
    *mut TfStatus,
) -> c_int;
type TfliteRunFunction = unsafe extern "C" fn(
    *mut Session,
    *mut Resource,
    *const *mut TfliteTensor,
    c_int,
    *mut *mut TfliteTensor,
    c_int,
    *mut u8,
) -> c_int;
type TorchRunFunction = unsafe extern "C" fn(
    *mut Session,
    *mut Resource,
    *const Buffer,
    *const *mut TorchTensor,
    c_int,
    *mut *mut TorchTensor,
    c_int,
) -> c_int;

api! {
    fn vaccel_tf_model_load(
        session: Option<NonNull<Session>>,
        model: Option<NonNull<Resource>>,
        status: *mut TfStatus,
    ) {
        tf_load(session, model, status, Operation::TfModelLoad)
    }

    fn vaccel_tf_model_unload(
        session: Option<NonNull<Session>>,
        model: Option<NonNull<Resource>>,
        status: *mut TfStatus,
    ) {
        tf_load(session, model, status, Operation::TfModelUnload)
    }

    fn vaccel_tf_model_run(
        session: Option<NonNull<Session>>,
        model: Option<NonNull<Resource>>,
        options: *const Buffer,
        in_nodes: *const TfNode,
        inputs: *const *mut TfTensor,
        nr_inputs: c_int,
        out_nodes: *const TfNode,
        outputs: *mut *mut TfTensor,
        nr_outputs: c_int,
        status: *mut TfStatus,
    ) {
        let model = checked(session, model, RESOURCE_MODEL)?;
        let tensors = Tensors::new(inputs, nr_inputs, outputs, nr_outputs)?;
        let names = || -> Result<String> {
            let mut names = String::new();
            add_names(&mut names, in_nodes, tensors.nr_inputs)?;
            add_names(&mut names, out_nodes, tensors.nr_outputs)?;
            Ok(names)
        };
        if in_nodes.is_null() && nr_inputs > 0 || out_nodes.is_null() && nr_outputs > 0 {
            return Err(EINVAL);
        }
        let call = |f: TfRunFunction, s| {
            // SAFETY: that is the function's type; it gets what C gave.
            unsafe {
                let model = model.as_ptr();
                f(s, model, options, in_nodes, inputs, nr_inputs, out_nodes, outputs, nr_outputs, status)
            }
        };
        let own = |call: &Call| {
            let outcome = names().and_then(|names| tensors.run(call, model, options, &names, TF));
            report(status, outcome)
        };
        // SAFETY: as above.
        unsafe { perform(session, Operation::TfModelRun, call, own) }
    }

    fn vaccel_tflite_model_load(session: Option<NonNull<Session>>, model: Option<NonNull<Resource>>) {
        load(session, model, Operation::TfliteModelLoad)
    }

    fn vaccel_tflite_model_unload(session: Option<NonNull<Session>>, model: Option<NonNull<Resource>>) {
        load(session, model, Operation::TfliteModelUnload)
    }

    fn vaccel_tflite_model_run(
        session: Option<NonNull<Session>>,
        model: Option<NonNull<Resource>>,
        inputs: *const *mut TfliteTensor,
        nr_inputs: c_int,
        outputs: *mut *mut TfliteTensor,
        nr_outputs: c_int,
        status: *mut u8,
    ) {
        let model = checked(session, model, RESOURCE_MODEL)?;
        let tensors = Tensors::new(inputs, nr_inputs, outputs, nr_outputs)?;
        // SAFETY: that is the function's type; it gets what C gave.
        let call = |f: TfliteRunFunction, s| unsafe { f(s, model.as_ptr(), inputs, nr_inputs, outputs, nr_outputs, status) };
        let own = |call: &Call| {
            let outcome = tensors.run(call, model, ptr::null(), "", TFLITE);
            // SAFETY: C promises room for a byte there, unless it is null.
            if let Some(status) = unsafe { status.as_mut() } {
                *status = u8::from(outcome.is_err());
            }
            outcome
        };
        // SAFETY: as above.
        unsafe { perform(session, Operation::TfliteModelRun, call, own) }
    }

    fn vaccel_torch_model_load(session: Option<NonNull<Session>>, model: Option<NonNull<Resource>>) {
        load(session, model, Operation::TorchModelLoad)
    }

    fn vaccel_torch_model_run(
        session: Option<NonNull<Session>>,
        model: Option<NonNull<Resource>>,
        options: *const Buffer,
        inputs: *const *mut TorchTensor,
        nr_inputs: c_int,
        outputs: *mut *mut TorchTensor,
        nr_outputs: c_int,
    ) {
        let model = checked(session, model, RESOURCE_MODEL)?;
        let tensors = Tensors::new(inputs, nr_inputs, outputs, nr_outputs)?;
        // SAFETY: that is the function's type; it gets what C gave.
        let call = |f: TorchRunFunction, s| unsafe { f(s, model.as_ptr(), options, inputs, nr_inputs, outputs, nr_outputs) };
        let own = |call: &Call| tensors.run(call, model, options, "", TORCH);
        // SAFETY: as above.
        unsafe { perform(session, Operation::TorchModelRun, call, own) }
    }
}

/// Loads a model or forgets it.
fn load_task(call: &Call, model: Place<Resource>) -> Result {
    let model = ModelLoad { model: session::adopt(&call.binding, model, None)? };
    call.run(match call.operation {
        Operation::TfModelLoad => Task::TfModelLoad(model),
        Operation::TfModelUnload => Task::TfModelUnload(model),
        Operation::TfliteModelLoad => Task::TfliteModelLoad(model),
        Operation::TfliteModelUnload => Task::TfliteModelUnload(model),
        _ => Task::TorchModelLoad(model),
    })
}

fn load(session: Option<NonNull<Session>>, model: Option<NonNull<Resource>>, operation: Operation) -> Result {
    let model = checked(session, model, RESOURCE_MODEL)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: LoadFunction, s| unsafe { f(s, model.as_ptr()) };
    // SAFETY: as above.
    unsafe { perform(session, operation, call, |call| load_task(call, model)) }
}

fn tf_load(
    session: Option<NonNull<Session>>,
    model: Option<NonNull<Resource>>,
    status: *mut TfStatus,
    operation: Operation,
) -> Result {
    let model = checked(session, model, RESOURCE_MODEL)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: TfLoadFunction, s| unsafe { f(s, model.as_ptr(), status) };
    // SAFETY: as above.
    unsafe { perform(session, operation, call, |call| report(status, load_task(call, model))) }
}

/// Says in TensorFlow's terms how an operation went.
fn report(status: *mut TfStatus, outcome: Result) -> Result {
    const INVALID_ARGUMENT: u8 = 3;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    if status.is_null() {
        return outcome;
    }
    let (code, message) = match outcome {
        Ok(()) => (0, c"done"),
        Err(EINVAL) => (INVALID_ARGUMENT, c"the arguments are wrong; the log says how"),
        Err(ENOTSUP) => (UNIMPLEMENTED, c"no plugin has the operation"),
        Err(_) => (INTERNAL, c"the operation failed; the log says why"),
    };
    let message = memory::copy_text(message)?;
    // SAFETY: C promises room for a status there, which it need not have initialized.
    unsafe { status.write(TfStatus { code, message }) };
    outcome
}

/// Adds the names of nodes, one a line.
fn add_names(names: &mut String, nodes: *const TfNode, count: usize) -> Result {
    // SAFETY: C gave the count with the nodes.
    for node in unsafe { ItemsMut::at(nodes.cast_mut()).slice(count) }? {
        if node.name.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: C promises that strings in structs end with a zero.
        let name = unsafe { CStr::from_ptr(node.name.cast::<c_char>()) }.to_str().map_err(|_| EINVAL)?;
        if name.contains('\n') {
            return Err(EINVAL);
        }
        // Writing to a string does not fail.
        let _ = writeln!(names, "{name}:{}", node.id);
    }
    Ok(())
}

/// The tensors of a run.
struct Tensors<Rank, Dim> {
    inputs: *const *mut Tensor<Rank, Dim>,
    nr_inputs: usize,
    outputs: *mut *mut Tensor<Rank, Dim>,
    nr_outputs: usize,
}

impl<Rank, Dim> Tensors<Rank, Dim>
where
    Rank: Copy + TryInto<usize> + TryFrom<usize>,
    Dim: Copy + TryInto<u64> + TryFrom<u64>,
{
    fn new(
        inputs: *const *mut Tensor<Rank, Dim>,
        nr_inputs: c_int,
        outputs: *mut *mut Tensor<Rank, Dim>,
        nr_outputs: c_int,
    ) -> Result<Self> {
        let count = |count: c_int| usize::try_from(count).map_err(|_| EINVAL);
        if inputs.is_null() && nr_inputs > 0 || outputs.is_null() && nr_outputs > 0 {
            return Err(EINVAL);
        }
        Ok(Self { inputs, nr_inputs: count(nr_inputs)?, outputs, nr_outputs: count(nr_outputs)? })
    }

    /// Runs a model on Kernlet's plugins; the outputs are new tensors, or null when it fails.
    fn run(&self, call: &Call, model: Place<Resource>, options: *const Buffer, names: &str, types: Types) -> Result {
        // SAFETY: C gave the count with the outputs.
        let places = unsafe { ItemsMut::at(self.outputs).slice(self.nr_outputs) }?;
        places.fill(ptr::null_mut());
        let model = session::adopt(&call.binding, model, None)?;
        // SAFETY: C gave the count with the inputs.
        let given = unsafe { ItemsMut::at(self.inputs.cast_mut()).slice(self.nr_inputs) }?;
        let inputs = given.iter().map(|tensor| lend(*tensor, types)).collect::<Result<Vec<_>>>()?;
        // SAFETY: C promises a buffer there, unless it is null.
        let options = unsafe { options.as_ref() }.filter(|options| !options.data.is_null());
        let (data, size) = options.map_or((ptr::null_mut(), 0), |options| (options.data.cast::<u8>(), options.size));
        // SAFETY: C promises as many bytes as the buffer says.
        let options = unsafe { ItemsMut::at(data).slice(size) }?;
        let mut made = vec![TensorBuf::new(); self.nr_outputs];
        let outputs = made.iter_mut().map(Into::into).collect();
        let run = ModelRun { model, options, names, inputs, outputs };
        call.run(match call.operation {
            Operation::TfModelRun => Task::TfModelRun(run),
            Operation::TfliteModelRun => Task::TfliteModelRun(run),
            _ => Task::TorchModelRun(run),
        })?;
        let mut results = Vec::with_capacity(made.len());
        for output in &made {
            match result(output, types) {
                Ok(tensor) => results.push(tensor),
                Err(errno) => {
                    for tensor in results {
                        let _ = memory::delete(NonNull::new(tensor), |tensor: &mut Tensor<Rank, Dim>| {
                            tensor.free();
                            Ok(())
                        });
                    }
                    return Err(errno);
                }
            }
        }
        places.copy_from_slice(&results);
        Ok(())
    }
}

/// A tensor of C's, in place.
fn lend<'a, Rank, Dim>(tensor: *mut Tensor<Rank, Dim>, types: Types) -> Result<kernlet_accel::operation::Tensor<'a>>
where
    Rank: Copy + TryInto<usize>,
    Dim: Copy + TryInto<u64>,
{
    // SAFETY: C promises a tensor there, unless it is null.
    let tensor = unsafe { tensor.as_ref() }.ok_or(EINVAL)?;
    let rank = tensor.nr_dims.try_into().map_err(|_| EINVAL)?;
    // SAFETY: C promises as many dimensions as the tensor says.
    let dims = unsafe { ItemsMut::at(tensor.dims).slice(rank) }?;
    let dims = dims.iter().map(|&dim| dim.try_into().map_err(|_| EINVAL)).collect::<Result<Vec<u64>>>()?;
    let dtype = types.iter().find(|(number, _)| *number == tensor.data_type).map(|(_, dtype)| *dtype);
    let dtype = dtype.ok_or_else(|| {
        error!("tensors of the type {} are not supported", tensor.data_type);
        ENOTSUP
    })?;
    // SAFETY: C promises as many bytes as the tensor says.
    let bytes = unsafe { ItemsMut::at(tensor.data.cast::<u8>()).slice(tensor.size) }?;
    let wrong = |error: kernlet_accel::ArgError| -> Errno {
        error!("a tensor is not what it says: {error}");
        EINVAL
    };
    let dims = Dims::new(&dims).map_err(|error| super::errno_of(&error))?;
    let elements = Elements::from_bytes(dtype, bytes).map_err(wrong)?;
    kernlet_accel::operation::Tensor::new(elements, dims).map_err(wrong)
}

/// A tensor for C.
fn result<Rank, Dim>(output: &TensorBuf, types: Types) -> Result<*mut Tensor<Rank, Dim>>
where
    Rank: Copy + TryFrom<usize>,
    Dim: Copy + TryFrom<u64>,
{
    let found = types.iter().find(|(_, dtype)| *dtype == output.dtype());
    let (data_type, _) = *found.ok_or_else(|| {
        error!("a result of {} elements is nothing that the caller has a type for", output.dtype());
        ENOTSUP
    })?;
    let dims = output.dims().sizes().iter().map(|&dim| Dim::try_from(dim).map_err(|_| EINVAL));
    let dims = dims.collect::<Result<Vec<_>>>()?;
    let mut made = std::mem::MaybeUninit::new(ptr::null_mut());
    memory::new(Some(&mut made), |place| {
        place.write(tensor(output.bytes(), &dims, data_type)?);
        Ok(())
    })?;
    // SAFETY: it was null, and `new` has written over that.
    Ok(unsafe { made.assume_init() })
}

/// A tensor that owns copies.
pub(super) fn tensor<Rank, Dim>(bytes: &[u8], dims: &[Dim], data_type: u32) -> Result<Tensor<Rank, Dim>>
where
    Rank: Copy + TryFrom<usize>,
    Dim: Copy,
{
    let nr_dims = Rank::try_from(dims.len()).map_err(|_| EINVAL)?;
    let mut data = memory::copy(bytes)?;
    let dims = memory::copy_array(dims).inspect_err(|_| {
        // SAFETY: it is the copy from above.
        unsafe { memory::free_field(&mut data) }
    })?;
    Ok(Tensor { data, size: bytes.len(), owned: Flag::YES, nr_dims, dims, data_type })
}
