//! Models, and the tensors that they read and write. Used by functions. A model is a resource of the function's image;
//! the host loads it once for all of the function's requests.

use core::marker::PhantomData;

use kernlet_abi::accel::{AccelArg, BatchParams, ModelParams, RANK_MAX, access, dtype, operation};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    AccelError, Batch, Resource,
    call::{Arguments, Call, MOST},
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
        Self::from_bytes(T::DTYPE, data.as_bytes(), shape)
    }

    /// `bytes` as elements of this type, one of [`super::dtype`], for types that Rust has no type for. They have to be
    /// aligned to it.
    #[must_use]
    pub fn from_bytes(dtype: u32, bytes: &'a [u8], shape: &[u64]) -> Self {
        let rank = shape.len() as u32;
        let mut arg = AccelArg { data: span(bytes), access: access::IN, dtype, rank, ..AccelArg::default() };
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
        Self::from_bytes(T::DTYPE, room.as_mut_bytes())
    }

    /// Room for an output of whatever type the model gives it: [`Output::dtype`] says which.
    #[must_use]
    pub fn any(room: &'a mut [u64]) -> Self {
        Self::from_bytes(dtype::ANY, room.as_mut_bytes())
    }

    /// Room for an output of this type, one of [`super::dtype`], for types that Rust has no type for. It has to be aligned
    /// to it.
    #[must_use]
    pub const fn from_bytes(dtype: u32, room: &'a mut [u8]) -> Self {
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

    /// How many bytes of its room the model wrote.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
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

fn fill_all(outputs: &mut [Output<'_>], args: &[AccelArg]) {
    for (output, arg) in outputs.iter_mut().zip(args) {
        output.fill(arg);
    }
}

/// The framework that a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framework {
    /// ONNX.
    Onnx,
    /// TensorFlow: a SavedModel.
    TensorFlow,
    /// TensorFlow Lite.
    TfLite,
    /// Torch: TorchScript.
    Torch,
}

/// How a model is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions<'a> {
    /// Options of TensorFlow or Torch, in its own format; empty for none.
    pub options: &'a [u8],
    /// Names of TensorFlow's tensors as `name:index`, one a line, those of the inputs first; empty for others.
    pub names: &'a str,
}

/// A model that a host has loaded.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    framework: Framework,
    resource: Resource,
}

/// Loads a model of this framework, so that running it is fast.
///
/// # Errors
/// The resource is not a model that a plugin can run.
pub fn load(framework: Framework, resource: Resource) -> Result<Model, AccelError> {
    let operation = match framework {
        Framework::Onnx => operation::ONNX_MODEL_LOAD,
        Framework::TensorFlow => operation::TF_MODEL_LOAD,
        Framework::TfLite => operation::TFLITE_MODEL_LOAD,
        Framework::Torch => operation::TORCH_MODEL_LOAD,
    };
    let model = Model { framework, resource };
    model.tell(operation)?;
    Ok(model)
}

impl Model {
    /// Loads an ONNX model, so that running it is fast.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(resource: Resource) -> Result<Self, AccelError> {
        load(Framework::Onnx, resource)
    }

    /// Runs the model on its inputs and outputs, in its order.
    ///
    /// # Errors
    /// An input's type or shape is not the model's, or an output has too little room.
    pub fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), AccelError> {
        self.run_with(&RunOptions::default(), inputs, outputs)
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Model::run`], or the framework has no such options.
    pub fn run_with(
        &self,
        options: &RunOptions<'_>,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> Result<(), AccelError> {
        let (takes_options, takes_names) = self.extras();
        let RunOptions { options, names } = *options;
        if !takes_options && !options.is_empty() || !takes_names && !names.is_empty() {
            return Err(AccelError::invalid(alloc::format!("{:?} has no such options or names", self.framework)));
        }
        let mut call = Call::<MOST>::new(self.operation());
        let first = self.add(&mut call, RunOptions { options, names }, inputs, outputs);
        fill_all(outputs, call.run()?.get(first..).unwrap_or_default());
        Ok(())
    }

    const fn operation(&self) -> u32 {
        match self.framework {
            Framework::Onnx => operation::ONNX_MODEL_RUN,
            Framework::TensorFlow => operation::TF_MODEL_RUN,
            Framework::TfLite => operation::TFLITE_MODEL_RUN,
            Framework::Torch => operation::TORCH_MODEL_RUN,
        }
    }

    /// Whether its framework takes options, and names.
    const fn extras(&self) -> (bool, bool) {
        match self.framework {
            Framework::Onnx | Framework::TfLite => (false, false),
            Framework::TensorFlow => (true, true),
            Framework::Torch => (true, false),
        }
    }

    /// The arguments of a run; where its outputs begin among them.
    fn add(
        &self,
        call: &mut impl Arguments,
        options: RunOptions<'_>,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> usize {
        let (takes_options, takes_names) = self.extras();
        call.params(&ModelParams { model: self.resource.id(), inputs: inputs.len() as u32 });
        if takes_options {
            call.bytes(options.options);
        }
        if takes_names {
            call.text(options.names);
        }
        call.tensors(inputs, outputs);
        1 + usize::from(takes_options) + usize::from(takes_names) + inputs.len()
    }

    /// Runs an ONNX model on several sets of inputs by one call; of each set, what it reads and what it writes. A call has
    /// room for 31 tensors.
    ///
    /// # Errors
    /// As [`Model::run`], or the sets are not of one size.
    pub fn run_batch(&self, sets: &mut [(&[Input<'_>], &mut [Output<'_>])]) -> Result<(), AccelError> {
        if self.framework != Framework::Onnx {
            return Err(AccelError::invalid(alloc::format!(
                "{:?} takes one set of inputs; run the model once for each",
                self.framework
            )));
        }
        let (inputs, outputs) = sets.first().map_or((0, 0), |(inputs, outputs)| (inputs.len(), outputs.len()));
        if sets.iter().any(|set| (set.0.len(), set.1.len()) != (inputs, outputs)) {
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
        for (inputs, outputs) in &mut *sets {
            call.tensors(inputs, outputs);
        }
        let tensors = call.run()?.get(1..).unwrap_or_default();
        // Without any tensor the host has refused it.
        for ((_, outputs), args) in sets.iter_mut().zip(tensors.chunks((inputs + outputs).max(1))) {
            fill_all(outputs, args.get(inputs..).unwrap_or_default());
        }
        Ok(())
    }

    /// Forgets what was loaded; running the model loads it again. What Torch loaded goes with the function.
    ///
    /// # Errors
    /// No plugin has the operation.
    pub fn unload(self) -> Result<(), AccelError> {
        match self.framework {
            Framework::Onnx => self.tell(operation::ONNX_MODEL_UNLOAD),
            Framework::TensorFlow => self.tell(operation::TF_MODEL_UNLOAD),
            Framework::TfLite => self.tell(operation::TFLITE_MODEL_UNLOAD),
            // vAccel has no operation for it.
            Framework::Torch => Ok(()),
        }
    }

    /// An operation on the model as a whole.
    fn tell(&self, operation: u32) -> Result<(), AccelError> {
        let params = ModelParams { model: self.resource.id(), inputs: 0 };
        Call::<1>::new(operation).params(&params).run().map(|_| ())
    }
}

/// Runs of models.
impl<'a> Batch<'a> {
    /// As [`Model::run`].
    pub fn model(&mut self, model: &Model, inputs: &[Input<'a>], outputs: &'a mut [Output<'_>]) -> &mut Self {
        let call = self.begin(model.operation());
        let first = model.add(call, RunOptions::default(), inputs, outputs);
        call.then(move |args| fill_all(outputs, args.get(first..).unwrap_or_default()))
    }
}
