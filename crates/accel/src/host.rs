//! What host programs call: a method an operation, with the names and types that functions know from the guest's SDK.
//! Used by programs, bindings and examples. Never does anything that [`Session::perform`] does not: it only builds tasks.
//!
//! ```
//! # use std::sync::Arc;
//! # use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, operation::Task};
//! # #[derive(Debug)]
//! # struct Sums;
//! # impl Plugin for Sums {
//! #     fn name(&self) -> &'static str { "sums" }
//! #     fn operations(&self) -> &[Operation] { &[Operation::FpgaVectorAdd] }
//! #     fn cost(&self, _: &Task<'_>) -> Cost { Cost::nanos(1) }
//! #     fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
//! #         if let Task::FpgaVectorAdd(task) = task {
//! #             for ((sum, a), b) in task.sum.iter_mut().zip(task.a).zip(task.b) { *sum = a + b; }
//! #         }
//! #         Ok(Done::default())
//! #     }
//! # }
//! # let runtime = Runtime::new(vec![Arc::new(Sums)]);
//! let session = runtime.session();
//! let mut sums = [0.0; 3];
//! session.ops().vector_add(&[1.0, 2.0, 3.0], &[0.5; 3], &mut sums)?;
//! assert_eq!(sums, [1.5, 2.5, 3.5]);
//! # Ok::<(), kernlet_accel::AccelError>(())
//! ```

use std::time::{Duration, Instant};

pub use kernlet_abi::accel::{Classification, SgemmParams as Sgemm};
use kernlet_abi::accel::{LABEL_MAX, SgemmParams};
use zerocopy::IntoBytes as _;

use crate::{
    AccelError, ArgError, Dims, Dtype, Operation, Report, Resource, Session,
    decode::{Layouts, read},
    operation::{
        ArrayCopy, BatchRun, BatchSet, Classify, Element, Elements, Exec, Library, MatrixProduct, MinMax, ModelLoad,
        ModelRun, OpenCv, Parallel, Picture, Ranking, Resize, Task, Tensor, TensorBuf, TensorOut, TextOut, TypedIn,
        TypedOut, VectorAdd,
    },
};

/// Longest text that an operation on a picture gives, in bytes.
const TEXT_MAX: usize = 64 * 1024;

/// Text of a class's label.
#[must_use]
pub fn label(classification: &Classification) -> &str {
    let len = usize::try_from(classification.label_len).unwrap_or(LABEL_MAX);
    let bytes = classification.label.get(..len).unwrap_or_default();
    str::from_utf8(bytes).unwrap_or_default()
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

/// A tensor that a model reads.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    elements: Elements<'a>,
    shape: &'a [u64],
}

impl<'a> Input<'a> {
    /// `data` with this shape, outermost dimension first, at most six.
    #[must_use]
    pub fn new<T: Element>(data: &'a [T], shape: &'a [u64]) -> Self
    where
        Elements<'a>: From<&'a [T]>,
    {
        Self { elements: data.into(), shape }
    }

    /// `bytes` as elements of this type, for types that Rust has no type for.
    ///
    /// # Errors
    /// When tensors cannot have the type, or the bytes are not aligned or not a whole number of elements.
    pub fn from_bytes(dtype: Dtype, bytes: &'a [u8], shape: &'a [u64]) -> Result<Self, ArgError> {
        Ok(Self { elements: Elements::from_bytes(dtype, bytes)?, shape })
    }
}

/// A tensor that a model writes.
#[derive(Debug)]
pub struct Output<'a> {
    room: Room<'a>,
    dtype: Dtype,
    dims: Dims,
    written: u64,
}

#[derive(Debug)]
enum Room<'a> {
    Fixed(&'a mut [u8]),
    Growing(&'a mut TensorBuf),
}

impl<'a> Output<'a> {
    /// Room for an output of this type, in memory of the caller's.
    #[must_use]
    pub fn new<T: Element>(data: &'a mut [T]) -> Self {
        Self::from_bytes(T::DTYPE, data.as_mut_bytes())
    }

    /// The same for any type.
    #[must_use]
    pub const fn from_bytes(dtype: Dtype, bytes: &'a mut [u8]) -> Self {
        Self { room: Room::Fixed(bytes), dtype, dims: Dims::NONE, written: 0 }
    }

    /// Room for an output of any type and size.
    #[must_use]
    pub const fn growing(buf: &'a mut TensorBuf) -> Self {
        Self { room: Room::Growing(buf), dtype: Dtype::Any, dims: Dims::NONE, written: 0 }
    }

    /// Its type, once the model has run.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        match &self.room {
            Room::Fixed(_) => self.dtype,
            Room::Growing(buf) => buf.dtype(),
        }
    }

    /// Its shape, once the model has run.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        match &self.room {
            Room::Fixed(_) => self.dims.sizes(),
            Room::Growing(buf) => buf.dims().sizes(),
        }
    }

    /// Bytes that the model wrote, from the start.
    #[must_use]
    pub const fn written(&self) -> u64 {
        match &self.room {
            Room::Fixed(_) => self.written,
            Room::Growing(buf) => buf.len() as u64,
        }
    }

    fn room(&mut self) -> Result<TensorOut<'_>, ArgError> {
        match &mut self.room {
            Room::Fixed(bytes) => TensorOut::new(bytes, &mut self.dtype, &mut self.dims, &mut self.written),
            Room::Growing(buf) => Ok(TensorOut::from(&mut **buf)),
        }
    }
}

impl Session {
    /// Its operations, as methods.
    #[must_use]
    pub const fn ops(&self) -> Ops<'_> {
        Ops { session: self, deadline: None }
    }
}

/// The operations of a session, as methods.
#[derive(Clone, Copy, Debug)]
pub struct Ops<'s> {
    session: &'s Session,
    deadline: Option<Instant>,
}

impl<'s> Ops<'s> {
    /// The same, within this time from now.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(time), ..self }
    }

    fn run(self, task: Task<'_>) -> Result<Report, AccelError> {
        self.session.perform(task, self.deadline)
    }

    /// Nothing: measures the way to a plugin and back.
    ///
    /// # Errors
    /// As [`Session::perform`], like all methods here.
    pub fn noop(self) -> Result<Report, AccelError> {
        self.run(Task::Noop)
    }

    /// Classifies a picture (a JPEG or PNG file) by an image classification model; the best classes first. Without a
    /// model, the session's first ONNX model does it.
    ///
    /// # Errors
    /// The picture is not one or too large, or the model does not fit the operation.
    pub fn classify(
        self,
        picture: &[u8],
        model: Option<&Resource>,
        labels: Option<&Resource>,
        count: usize,
    ) -> Result<Vec<Classification>, AccelError> {
        let bad = |index, name| bad(Operation::ImageClassify, index, name);
        let blank = Classification { class: 0, probability: 0.0, label_len: 0, label: [0; LABEL_MAX] };
        let (mut found, mut written) = (vec![blank; count], 0);
        let picture = not_empty(picture).map_err(bad(1, "picture"))?;
        let ranking = Ranking::new(&mut found, &mut written).map_err(bad(2, "classifications"))?;
        let model = model.cloned().or_else(|| self.session.resource(0));
        self.run(Task::ImageClassify(Classify { model, labels: labels.cloned(), picture, ranking }))?;
        found.truncate(usize::try_from(written).unwrap_or_default() / size_of::<Classification>());
        Ok(found)
    }

    /// Finds objects in a picture.
    ///
    /// # Errors
    /// As [`Ops::classify`].
    pub fn detect(self, picture: &[u8], model: Option<&Resource>) -> Result<String, AccelError> {
        self.picture(Operation::ImageDetect, picture, model)
    }

    /// Divides a picture into what it shows.
    ///
    /// # Errors
    /// As [`Ops::classify`].
    pub fn segment(self, picture: &[u8], model: Option<&Resource>) -> Result<String, AccelError> {
        self.picture(Operation::ImageSegment, picture, model)
    }

    /// Finds poses in a picture.
    ///
    /// # Errors
    /// As [`Ops::classify`].
    pub fn pose(self, picture: &[u8], model: Option<&Resource>) -> Result<String, AccelError> {
        self.picture(Operation::ImagePose, picture, model)
    }

    /// Estimates the depth of a picture.
    ///
    /// # Errors
    /// As [`Ops::classify`].
    pub fn depth(self, picture: &[u8], model: Option<&Resource>) -> Result<String, AccelError> {
        self.picture(Operation::ImageDepth, picture, model)
    }

    fn picture(self, operation: Operation, picture: &[u8], model: Option<&Resource>) -> Result<String, AccelError> {
        let (mut text, mut written) = (vec![0; TEXT_MAX], 0);
        let picture = not_empty(picture).map_err(bad(operation, 1, "picture"))?;
        let model = model.cloned().or_else(|| self.session.resource(0));
        let task = Picture { model, labels: None, picture, text: TextOut::new(&mut text, &mut written) };
        self.run(match operation {
            Operation::ImageSegment => Task::ImageSegment(task),
            Operation::ImagePose => Task::ImagePose(task),
            Operation::ImageDepth => Task::ImageDepth(task),
            _ => Task::ImageDetect(task),
        })?;
        text.truncate(usize::try_from(written).unwrap_or_default());
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Resizes a picture of `channels` bytes a pixel; sizes are columns and rows.
    ///
    /// # Errors
    /// The pixels are not as many as the sizes say.
    pub fn resize(
        self,
        size: (u32, u32),
        channels: u32,
        from: &[u8],
        to_size: (u32, u32),
        to: &mut [u8],
    ) -> Result<Report, AccelError> {
        let task = Resize::new(size, channels, from, to_size, to).map_err(bad(Operation::ImageResize, 0, "picture"))?;
        self.run(Task::ImageResize(task))
    }

    /// C = αAB + βC on row-major matrices.
    ///
    /// # Errors
    /// A size, stride or buffer does not fit the others.
    pub fn sgemm(self, params: &Sgemm, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<Report, AccelError> {
        self.run(Task::BlasSgemm(product(Operation::BlasSgemm, params, a, b, c)?))
    }

    /// The same, by Torch.
    ///
    /// # Errors
    /// As [`Ops::sgemm`].
    pub fn torch_sgemm(self, params: &Sgemm, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<Report, AccelError> {
        self.run(Task::TorchSgemm(product(Operation::TorchSgemm, params, a, b, c)?))
    }

    /// Copies an array.
    ///
    /// # Errors
    /// The arrays are not of one length.
    pub fn array_copy(self, from: &[i32], to: &mut [i32]) -> Result<Report, AccelError> {
        let task = ArrayCopy::new(from, to).map_err(bad(Operation::FpgaArrayCopy, 1, "copy"))?;
        self.run(Task::FpgaArrayCopy(task))
    }

    /// Multiplies square matrices.
    ///
    /// # Errors
    /// The arrays are not of one length, or that is no square number.
    pub fn mmult(self, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<Report, AccelError> {
        let task = MatrixProduct::new(a, b, c).map_err(bad(Operation::FpgaMmult, 0, "A"))?;
        self.run(Task::FpgaMmult(task))
    }

    /// Adds and multiplies element by element.
    ///
    /// # Errors
    /// The arrays are not of one length.
    pub fn parallel(self, a: &[f32], b: &[f32], sum: &mut [f32], product: &mut [f32]) -> Result<Report, AccelError> {
        let task = Parallel::new(a, b, sum, product).map_err(bad(Operation::FpgaParallel, 1, "B"))?;
        self.run(Task::FpgaParallel(task))
    }

    /// Adds element by element.
    ///
    /// # Errors
    /// The arrays are not of one length.
    pub fn vector_add(self, a: &[f32], b: &[f32], sum: &mut [f32]) -> Result<Report, AccelError> {
        let task = VectorAdd::new(a, b, sum).map_err(bad(Operation::FpgaVectorAdd, 1, "B"))?;
        self.run(Task::FpgaVectorAdd(task))
    }

    /// Smallest and largest of some numbers, and the numbers held between `low` and `high` in `to`.
    ///
    /// # Errors
    /// There are no numbers, or the arrays are not of one length.
    pub fn minmax(self, from: &[f64], low: i32, high: i32, to: &mut [f64]) -> Result<(f64, f64), AccelError> {
        let (mut min, mut max) = (0.0, 0.0);
        let task = MinMax::new((low, high), from, to, &mut min, &mut max);
        self.run(Task::MinMax(task.map_err(bad(Operation::MinMax, 1, "numbers"))?))?;
        Ok((min, max))
    }

    /// Calls a function of a library that the host allows, by the name that its allow-list has.
    ///
    /// # Errors
    /// The library is not allowed or the function not there, or it says that it failed.
    pub fn exec(
        self,
        library: &str,
        function: &str,
        read: Vec<TypedIn<'_>>,
        write: Vec<TypedOut<'_>>,
    ) -> Result<Report, AccelError> {
        self.run(Task::Exec(Exec { library: Library::Name(library), function, read, write }))
    }

    /// The same for a library that is a resource.
    ///
    /// # Errors
    /// As [`Ops::exec`].
    pub fn exec_with_resource(
        self,
        library: &Resource,
        function: &str,
        read: Vec<TypedIn<'_>>,
        write: Vec<TypedOut<'_>>,
    ) -> Result<Report, AccelError> {
        let library = Library::Resource(library.clone());
        self.run(Task::ExecWithResource(Exec { library, function, read, write }))
    }

    /// Calls a function of OpenCV, as the plugin defines them.
    ///
    /// # Errors
    /// As the plugin says.
    pub fn opencv(self, read: Vec<TypedIn<'_>>, write: Vec<TypedOut<'_>>) -> Result<Report, AccelError> {
        self.run(Task::OpenCv(OpenCv { read, write }))
    }

    /// Carries out vAccel's generic operation: the first of `read` is an operation's number.
    ///
    /// # Errors
    /// As the operation's own method.
    pub fn generic(self, read: Vec<TypedIn<'_>>, write: Vec<TypedOut<'_>>) -> Result<Report, AccelError> {
        self.session.perform_generic(read, write, self.deadline)
    }

    /// Loads a model, so that running it is fast.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(self, framework: Framework, model: &Resource) -> Result<Model<'s>, AccelError> {
        let load = ModelLoad { model: model.clone() };
        self.run(match framework {
            Framework::Onnx => Task::OnnxModelLoad(load),
            Framework::TensorFlow => Task::TfModelLoad(load),
            Framework::TfLite => Task::TfliteModelLoad(load),
            Framework::Torch => Task::TorchModelLoad(load),
        })?;
        Ok(Model { session: self.session, framework, resource: model.clone() })
    }
}

/// A model that is loaded.
#[derive(Debug)]
pub struct Model<'s> {
    session: &'s Session,
    framework: Framework,
    resource: Resource,
}

impl<'s> Model<'s> {
    /// Loads an ONNX model, so that running it is fast.
    ///
    /// # Errors
    /// The resource is not a model that a plugin can run.
    pub fn load(session: &'s Session, model: &Resource) -> Result<Self, AccelError> {
        session.ops().load(Framework::Onnx, model)
    }

    pub(crate) const fn operation(&self) -> Operation {
        match self.framework {
            Framework::Onnx => Operation::OnnxModelRun,
            Framework::TensorFlow => Operation::TfModelRun,
            Framework::TfLite => Operation::TfliteModelRun,
            Framework::Torch => Operation::TorchModelRun,
        }
    }

    /// Runs the model.
    ///
    /// # Errors
    /// An input's type or shape is not the model's, or an output has too little room.
    pub fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<Report, AccelError> {
        self.run_with(&RunOptions::default(), inputs, outputs)
    }

    /// Runs the model with the options of its framework.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run_with(
        &self,
        options: &RunOptions<'_>,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> Result<Report, AccelError> {
        let operation = self.operation();
        let BatchSet { inputs, outputs } = set(operation, inputs, outputs)?;
        let RunOptions { options, names, deadline } = *options;
        let run = ModelRun { model: self.resource.clone(), options, names, inputs, outputs };
        self.session.perform(self.task(run), deadline)
    }

    /// A run of this model's framework.
    pub(crate) const fn task<'a>(&self, run: ModelRun<'a>) -> Task<'a> {
        match self.framework {
            Framework::Onnx => Task::OnnxModelRun(run),
            Framework::TensorFlow => Task::TfModelRun(run),
            Framework::TfLite => Task::TfliteModelRun(run),
            Framework::Torch => Task::TorchModelRun(run),
        }
    }

    pub(crate) const fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Runs an ONNX model on several sets of inputs at once.
    ///
    /// # Errors
    /// As [`Model::run`]. [`AccelError::NotBatched`] for a model of another framework.
    pub fn run_batch<'a, 'o: 'a>(
        &self,
        sets: impl IntoIterator<Item = (&'a [Input<'a>], &'a mut [Output<'o>])>,
    ) -> Result<Report, AccelError> {
        if self.framework != Framework::Onnx {
            return Err(AccelError::NotBatched { operation: self.operation().name() });
        }
        let sets = sets.into_iter().map(|(inputs, outputs)| set(Operation::OnnxModelRunBatch, inputs, outputs));
        let sets = sets.collect::<Result<_, _>>()?;
        self.session.perform(Task::OnnxModelRunBatch(BatchRun { model: self.resource.clone(), sets }), None)
    }

    /// Makes plugins forget what they made of it. Happens by itself when nobody has the resource any more.
    ///
    /// # Errors
    /// No plugin can.
    pub fn unload(self) -> Result<(), AccelError> {
        let load = ModelLoad { model: self.resource };
        let task = match self.framework {
            Framework::Onnx => Task::OnnxModelUnload(load),
            Framework::TensorFlow => Task::TfModelUnload(load),
            Framework::TfLite => Task::TfliteModelUnload(load),
            // vAccel has no operation for it.
            Framework::Torch => return Ok(()),
        };
        self.session.perform(task, None).map(|_| ())
    }
}

/// How a model is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions<'a> {
    /// Options of the framework, in its own format.
    pub options: &'a [u8],
    /// Names of the tensors as `name:index`, one a line, those of the inputs first; TensorFlow needs them.
    pub names: &'a str,
    /// When it is too late for the result.
    pub deadline: Option<Instant>,
}

pub(crate) fn set<'a>(
    operation: Operation,
    inputs: &'a [Input<'a>],
    outputs: &'a mut [Output<'_>],
) -> Result<BatchSet<'a>, AccelError> {
    let first_output = inputs.len() + 1;
    let input = |(index, input): (usize, &Input<'a>)| {
        Tensor::new(input.elements, Dims::new(input.shape)?).map_err(bad(operation, index, "input"))
    };
    let inputs = (1..).zip(inputs).map(input).collect::<Result<_, AccelError>>()?;
    let output = |(index, output): (usize, &'a mut Output<'_>)| output.room().map_err(bad(operation, index, "output"));
    let outputs = (first_output..).zip(outputs).map(output).collect::<Result<_, AccelError>>()?;
    Ok(BatchSet { inputs, outputs })
}

pub(crate) fn product<'a>(
    operation: Operation,
    params: &SgemmParams,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
) -> Result<crate::operation::Sgemm<'a>, AccelError> {
    let layouts = Layouts::new(params).map_err(bad(operation, 0, "parameters"))?;
    let a = read::matrix_of(a.as_bytes(), layouts.a).map_err(bad(operation, 1, "A"))?;
    let b = read::matrix_of(b.as_bytes(), layouts.b).map_err(bad(operation, 2, "B"))?;
    let c = read::matrix_room_of(c.as_mut_bytes(), &mut 0, layouts.c).map_err(bad(operation, 3, "C"))?;
    layouts.product(params, a, b, c).map_err(bad(operation, 0, "parameters"))
}

const fn not_empty(picture: &[u8]) -> Result<&[u8], ArgError> {
    if picture.is_empty() { Err(ArgError::Empty) } else { Ok(picture) }
}

pub(crate) fn bad(operation: Operation, index: usize, name: &'static str) -> impl Fn(ArgError) -> AccelError {
    move |error| AccelError::bad_arg(operation, index, name, error)
}
