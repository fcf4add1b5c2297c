//! Models, and the tensors that they read and write. Used by functions. A model is a resource of the function's image;
//! the host loads it once for all of the function's requests.

use core::marker::PhantomData;

use kernlet_abi::accel::{AccelArg, BatchParams, ModelParams, RANK_MAX, access, dtype, operation};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    AccelError, Resource,
    call::{Call, MOST},
};
use crate::hypercall::{span, span_mut};

/// Element types of tensors.
pub trait Element: IntoBytes + FromBytes + Immutable + KnownLayout + Copy {
    /// One of [`kernlet_abi::accel::dtype`].
    const DTYPE: u32;
}

/// Makes Rust's numbers elements.
macro_rules! elements {
    ($($type:ty = $number:ident;)*) => {
        $(impl Element for $type {
            const DTYPE: u32 = dtype::$number;
        })*
    };
}

elements! {
    f32 = F32;
    f64 = F64;
    i8 = I8;
    i16 = I16;
    i32 = I32;
    i64 = I64;
    u8 = U8;
    u16 = U16;
    u32 = U32;
    u64 = U64;
}

/// A tensor that a model reads.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    arg: AccelArg,
    _data: PhantomData<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// `data` with this shape, outermost dimension first, at most six.
    #[must_use]
    pub fn new<T: Element>(data: &'a [T], shape: &[u64]) -> Self {
        Self::raw(data.as_bytes(), T::DTYPE, shape)
    }

    /// `data` as elements of any type of [`super::dtype`] that tensors can have, such as `F16`. It has to be aligned to
    /// them.
    #[must_use]
    pub fn raw(data: &'a [u8], dtype: u32, shape: &[u64]) -> Self {
        let rank = shape.len() as u32;
        let mut arg = AccelArg { data: span(data), access: access::IN, dtype, rank, ..AccelArg::default() };
        for (to, from) in arg.dims.iter_mut().zip(shape) {
            *to = *from;
        }
        Self { arg, _data: PhantomData }
    }

    pub(super) const fn arg(&self) -> AccelArg {
        self.arg
    }
}

/// A tensor that a model writes.
#[derive(Debug)]
pub struct Output<'a> {
    room: &'a mut [u8],
    wanted: u32,
    dtype: u32,
    rank: u32,
    dims: [u64; RANK_MAX],
    written: u64,
}

impl<'a> Output<'a> {
    /// Room for an output of this type.
    #[must_use]
    pub fn new<T: Element>(room: &'a mut [T]) -> Self {
        Self::raw(room.as_mut_bytes(), T::DTYPE)
    }

    /// Room for an output of whatever type the model gives it: [`Output::dtype`] says which.
    #[must_use]
    pub fn any(room: &'a mut [u64]) -> Self {
        Self::raw(room.as_mut_bytes(), dtype::ANY)
    }

    /// Room for an output of any type of [`super::dtype`] that tensors can have, such as `F16`. It has to be aligned to its
    /// elements.
    #[must_use]
    pub const fn raw(room: &'a mut [u8], dtype: u32) -> Self {
        Self { room, wanted: dtype, dtype, rank: 0, dims: [0; RANK_MAX], written: 0 }
    }

    /// Its shape, once the model has run.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.dims.get(..self.rank as usize).unwrap_or_default()
    }

    /// The type of its elements, one of [`super::dtype`]; of [`Output::any`], once the model has run.
    #[must_use]
    pub const fn dtype(&self) -> u32 {
        self.dtype
    }

    /// Its bytes, once the model has run.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.room.get(..self.written as usize).unwrap_or_default()
    }

    /// Its elements, once the model has run, if they are of this type.
    #[must_use]
    pub fn elements<T: Element>(&self) -> Option<&[T]> {
        if self.dtype != T::DTYPE {
            return None;
        }
        <[T]>::ref_from_bytes(self.bytes()).ok()
    }

    pub(super) fn arg(&mut self) -> AccelArg {
        let data = span_mut(self.room);
        AccelArg { data, access: access::OUT, dtype: self.wanted, ..AccelArg::default() }
    }

    /// Takes what the host said about it.
    const fn fill(&mut self, arg: &AccelArg) {
        (self.dtype, self.rank, self.dims, self.written) = (arg.dtype, arg.rank, arg.dims, arg.written);
    }
}

fn fill_all<'o, 'a: 'o>(outputs: impl IntoIterator<Item = &'o mut Output<'a>>, args: &[AccelArg]) {
    for (output, arg) in outputs.into_iter().zip(args) {
        output.fill(arg);
    }
}

/// Loads or forgets a model.
fn with_model(operation: u32, model: Resource) -> Result<(), AccelError> {
    Call::<1>::new(operation).params(&ModelParams { model: model.id(), inputs: 0 }).run().map(|_| ())
}

/// Runs a model; `extras` puts arguments between its parameters and its tensors.
fn run_model(
    operation: u32,
    model: Resource,
    inputs: &[Input<'_>],
    outputs: &mut [Output<'_>],
    extras: impl FnOnce(&mut Call<MOST>) -> usize,
) -> Result<(), AccelError> {
    let params = ModelParams { model: model.id(), inputs: inputs.len() as u32 };
    let mut call = Call::<MOST>::new(operation);
    let extras = extras(call.params(&params));
    let args = call.tensors(inputs, outputs).run()?;
    fill_all(outputs, args.get(1 + extras + inputs.len()..).unwrap_or_default());
    Ok(())
}

/// One set of inputs, and room for what the model makes of it.
#[derive(Debug)]
pub struct BatchSet<'s, 'a> {
    /// Inputs, in the model's order.
    pub inputs: &'s [Input<'a>],
    /// Room for the outputs, in the model's order.
    pub outputs: &'s mut [Output<'a>],
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
        with_model(operation::ONNX_MODEL_LOAD, resource)?;
        Ok(Self { resource })
    }

    /// Runs the model on its inputs and outputs, in its order.
    ///
    /// # Errors
    /// An input's type or shape is not the model's, or an output has too little room.
    pub fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), AccelError> {
        run_model(operation::ONNX_MODEL_RUN, self.resource, inputs, outputs, |_| 0)
    }

    /// Runs the model on several sets of inputs by one call. A call has room for 31 tensors.
    ///
    /// # Errors
    /// As [`Model::run`], or the sets are not of one size.
    pub fn run_batch(&self, sets: &mut [BatchSet<'_, '_>]) -> Result<(), AccelError> {
        let (inputs, outputs) = sets.first().map_or((0, 0), |set| (set.inputs.len(), set.outputs.len()));
        if sets.iter().any(|set| (set.inputs.len(), set.outputs.len()) != (inputs, outputs)) {
            return Err(AccelError::invalid("the sets have different numbers of inputs or outputs".into()));
        }
        let params = BatchParams {
            model: self.resource.id(),
            inputs: inputs as u32,
            outputs: outputs as u32,
            sets: sets.len() as u32,
        };
        let mut call = Call::<MOST>::new(operation::ONNX_MODEL_RUN_BATCH);
        call.params(&params);
        for set in &mut *sets {
            call.tensors(set.inputs, set.outputs);
        }
        let tensors = call.run()?.get(1..).unwrap_or_default();
        if inputs + outputs > 0 {
            for (set, args) in sets.iter_mut().zip(tensors.chunks(inputs + outputs)) {
                fill_all(&mut *set.outputs, args.get(inputs..).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Forgets what was loaded. Running the model loads it again.
    ///
    /// # Errors
    /// No plugin has the operation.
    pub fn unload(self) -> Result<(), AccelError> {
        with_model(operation::ONNX_MODEL_UNLOAD, self.resource)
    }
}

/// A TensorFlow SavedModel.
#[derive(Clone, Copy, Debug)]
pub struct TfModel {
    resource: Resource,
}

impl TfModel {
    /// Loads a model, so that running it is fast.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(resource: Resource) -> Result<Self, AccelError> {
        with_model(operation::TF_MODEL_LOAD, resource)?;
        Ok(Self { resource })
    }

    /// Runs the model with options of the framework, in its own format, which may be empty. `names` has the names of the
    /// tensors as `name:index`, one a line, those of the inputs first.
    ///
    /// # Errors
    /// A tensor's name, type or shape is not the model's, or an output has too little room.
    pub fn run(
        &self,
        options: &[u8],
        names: &str,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> Result<(), AccelError> {
        run_model(operation::TF_MODEL_RUN, self.resource, inputs, outputs, |call| {
            call.params(options).text(names);
            2
        })
    }

    /// Forgets what was loaded.
    ///
    /// # Errors
    /// No plugin has the operation.
    pub fn unload(self) -> Result<(), AccelError> {
        with_model(operation::TF_MODEL_UNLOAD, self.resource)
    }
}

/// A TensorFlow Lite model.
#[derive(Clone, Copy, Debug)]
pub struct TfliteModel {
    resource: Resource,
}

impl TfliteModel {
    /// Loads a model, so that running it is fast.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(resource: Resource) -> Result<Self, AccelError> {
        with_model(operation::TFLITE_MODEL_LOAD, resource)?;
        Ok(Self { resource })
    }

    /// Runs the model on its inputs and outputs, in its order.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), AccelError> {
        run_model(operation::TFLITE_MODEL_RUN, self.resource, inputs, outputs, |_| 0)
    }

    /// Forgets what was loaded.
    ///
    /// # Errors
    /// No plugin has the operation.
    pub fn unload(self) -> Result<(), AccelError> {
        with_model(operation::TFLITE_MODEL_UNLOAD, self.resource)
    }
}

/// A TorchScript model.
#[derive(Clone, Copy, Debug)]
pub struct TorchModel {
    resource: Resource,
}

impl TorchModel {
    /// Loads a model, so that running it is fast. It is forgotten with the function.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(resource: Resource) -> Result<Self, AccelError> {
        with_model(operation::TORCH_MODEL_LOAD, resource)?;
        Ok(Self { resource })
    }

    /// Runs the model with options of the framework, in its own format, which may be empty.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run(&self, options: &[u8], inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), AccelError> {
        run_model(operation::TORCH_MODEL_RUN, self.resource, inputs, outputs, |call| {
            call.params(options);
            1
        })
    }
}
