//! Turns a [`Task`] back into the raw arguments of its operation: the inverse of the decoder, for plugins that send an
//! operation to another process. Never copies data other than parameter blocks and names.

use kernlet_abi::accel::{BatchParams, ClassifyParams, MinMaxParams, ModelParams, ResizeParams, ResourceParams};
use zerocopy::{Immutable, IntoBytes};

use crate::{
    ArgError, Dims, Dtype, Resource,
    operation::{BatchSet, Exec, Library, ModelRun, Picture, Sgemm, Task, Tensor, TensorBuf, TypedIn, TypedOut},
};

/// A task as the number of its operation and raw arguments, which lie where the task has them.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// One of [`kernlet_abi::accel::operation`].
    pub operation: u32,
    /// The arguments, in the operation's order.
    pub args: Vec<EncodedArg<'a>>,
}

/// One argument.
#[derive(Debug)]
pub struct EncodedArg<'a> {
    /// Where the data lies.
    pub data: EncodedData<'a>,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape; none of an output.
    pub dims: Dims,
    /// Which type of [`Dtype::Custom`].
    pub custom: u32,
    result: Outcome<'a>,
}

/// Where the data of an argument lies.
#[derive(Debug)]
pub enum EncodedData<'a> {
    /// Parameters, which are read.
    Params(Vec<u8>),
    /// The caller's, to be read.
    In(&'a [u8]),
    /// The caller's, to be written.
    Out(&'a mut [u8]),
    /// The caller's, to be read and then written.
    InOut(&'a mut [u8]),
    /// A tensor of any type and size, to be claimed when they are known.
    Growing(&'a mut TensorBuf),
}

/// Who wants to know what was written.
#[derive(Debug)]
enum Outcome<'a> {
    /// Nobody: it is read, or it is written as a whole.
    None,
    Written(&'a mut u64),
    Tensor {
        dtype: &'a mut Dtype,
        dims: &'a mut Dims,
        written: &'a mut u64,
    },
}

impl<'a> EncodedArg<'a> {
    fn new(data: EncodedData<'a>, dtype: Dtype) -> Self {
        Self { data, dtype, dims: Dims::NONE, custom: 0, result: Outcome::None }
    }

    fn params<T: IntoBytes + Immutable>(params: &T) -> Self {
        Self::new(EncodedData::Params(params.as_bytes().to_vec()), Dtype::Bytes)
    }

    fn input(bytes: &'a [u8], dtype: Dtype) -> Self {
        Self::new(EncodedData::In(bytes), dtype)
    }

    fn numbers<T: crate::operation::Element>(elements: &'a [T]) -> Self {
        Self::input(elements.as_bytes(), T::DTYPE)
    }

    fn numbers_out<T: crate::operation::Element>(elements: &'a mut [T]) -> Self {
        Self::new(EncodedData::Out(elements.as_mut_bytes()), T::DTYPE)
    }

    pub(crate) const fn room(bytes: &'a mut [u8], dtype: Dtype, written: &'a mut u64) -> Self {
        let result = Outcome::Written(written);
        Self { data: EncodedData::Out(bytes), dtype, dims: Dims::NONE, custom: 0, result }
    }

    pub(crate) const fn tensor_room(
        bytes: &'a mut [u8],
        dtype: &'a mut Dtype,
        dims: &'a mut Dims,
        written: &'a mut u64,
    ) -> Self {
        let kind = *dtype;
        let result = Outcome::Tensor { dtype, dims, written };
        Self { data: EncodedData::Out(bytes), dtype: kind, dims: Dims::NONE, custom: 0, result }
    }

    pub(crate) fn growing(buf: &'a mut TensorBuf) -> Self {
        Self::new(EncodedData::Growing(buf), Dtype::Any)
    }

    fn tensor(tensor: &Tensor<'a>) -> Self {
        let elements = tensor.elements();
        Self { dims: *tensor.dims(), ..Self::input(elements.bytes(), elements.dtype()) }
    }

    /// The bytes of what is read; none of what is only written.
    #[must_use]
    pub fn read(&self) -> &[u8] {
        match &self.data {
            EncodedData::Params(bytes) => bytes,
            EncodedData::In(bytes) => bytes,
            EncodedData::InOut(bytes) => bytes,
            EncodedData::Out(_) | EncodedData::Growing(_) => &[],
        }
    }

    /// Tells the task what was written here, once the bytes are in place: their type and shape if it is a tensor, and how
    /// many they are. A tensor that grows has to be claimed instead.
    ///
    /// # Errors
    /// [`ArgError::OutputTooSmall`] when that is more than there is room for: who carried the operation out lies.
    pub fn finish(self, dtype: Dtype, dims: Dims, written: u64) -> Result<(), ArgError> {
        let room = match &self.data {
            EncodedData::Out(bytes) | EncodedData::InOut(bytes) => bytes.len() as u64,
            EncodedData::Params(_) | EncodedData::In(_) | EncodedData::Growing(_) => 0,
        };
        match self.result {
            Outcome::None => (),
            _ if written > room => return Err(ArgError::OutputTooSmall { needed: written, got: room }),
            Outcome::Written(to) => *to = written,
            Outcome::Tensor { dtype: kind, dims: shape, written: to } => {
                if *kind != Dtype::Any && *kind != dtype {
                    return Err(ArgError::Type { expected: kind.name(), got: dtype.name() });
                }
                if crate::operation::tensor_bytes(&dims, dtype)? != written {
                    return Err(ArgError::ShapeMismatch { dims, needed: room, got: written });
                }
                (*kind, *shape, *to) = (dtype, dims, written);
            }
        }
        Ok(())
    }
}

/// What a resource is called where the task goes.
type Ids<'f, E> = &'f mut dyn FnMut(&Resource) -> Result<u32, E>;

impl Task<'_> {
    /// The task as raw arguments. `id` says what a resource is called where they go.
    ///
    /// # Errors
    /// What `id` fails with.
    pub fn encode<E>(&mut self, mut id: impl FnMut(&Resource) -> Result<u32, E>) -> Result<Encoded<'_>, E> {
        let operation = self.operation().abi_number();
        let id: Ids<'_, E> = &mut id;
        let args = match self {
            Self::Noop => Vec::new(),
            Self::Exec(task) | Self::ExecWithResource(task) => exec(task, id)?,
            Self::ImageClassify(task) => {
                let params = pictures(task.model.as_ref(), task.labels.as_ref(), id)?;
                vec![params, EncodedArg::input(task.picture, Dtype::Bytes), task.ranking.as_argument()]
            }
            Self::ImageDetect(task) | Self::ImageSegment(task) | Self::ImagePose(task) | Self::ImageDepth(task) => {
                let Picture { model, labels, picture, text } = task;
                let params = pictures(model.as_ref(), labels.as_ref(), id)?;
                vec![params, EncodedArg::input(picture, Dtype::Bytes), text.as_argument()]
            }
            Self::TfModelLoad(task)
            | Self::TfModelUnload(task)
            | Self::TfliteModelLoad(task)
            | Self::TfliteModelUnload(task)
            | Self::TorchModelLoad(task)
            | Self::OnnxModelLoad(task)
            | Self::OnnxModelUnload(task) => {
                vec![EncodedArg::params(&ModelParams { model: id(&task.model)?, inputs: 0 })]
            }
            Self::TfModelRun(task) => {
                let extras = vec![
                    EncodedArg::input(task.options, Dtype::Bytes),
                    EncodedArg::input(task.names.as_bytes(), Dtype::Text),
                ];
                model_run(task, extras, id)?
            }
            Self::TorchModelRun(task) => {
                let extras = vec![EncodedArg::input(task.options, Dtype::Bytes)];
                model_run(task, extras, id)?
            }
            Self::TfliteModelRun(task) | Self::OnnxModelRun(task) => model_run(task, Vec::new(), id)?,
            Self::OnnxModelRunBatch(task) => {
                let model = id(&task.model)?;
                let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
                let first = task.sets.first();
                let inputs = first.map_or(0, |set| count(set.inputs.len()));
                let outputs = first.map_or(0, |set| count(set.outputs.len()));
                let params = BatchParams { model, inputs, outputs, sets: count(task.sets.len()) };
                let mut args = vec![EncodedArg::params(&params)];
                for BatchSet { inputs, outputs } in &mut task.sets {
                    args.extend(inputs.iter().map(EncodedArg::tensor));
                    args.extend(outputs.iter_mut().map(crate::operation::TensorOut::as_argument));
                }
                args
            }
            Self::TorchSgemm(task) | Self::BlasSgemm(task) => sgemm(task),
            Self::FpgaArrayCopy(task) => vec![EncodedArg::numbers(task.from), EncodedArg::numbers_out(task.to)],
            Self::FpgaMmult(task) => {
                vec![EncodedArg::numbers(task.a), EncodedArg::numbers(task.b), EncodedArg::numbers_out(task.c)]
            }
            Self::FpgaParallel(task) => vec![
                EncodedArg::numbers(task.a),
                EncodedArg::numbers(task.b),
                EncodedArg::numbers_out(task.sum),
                EncodedArg::numbers_out(task.product),
            ],
            Self::FpgaVectorAdd(task) => {
                vec![EncodedArg::numbers(task.a), EncodedArg::numbers(task.b), EncodedArg::numbers_out(task.sum)]
            }
            Self::MinMax(task) => vec![
                EncodedArg::params(&MinMaxParams { low: task.low, high: task.high }),
                EncodedArg::numbers(task.from),
                EncodedArg::numbers_out(task.to),
                EncodedArg::numbers_out(std::slice::from_mut(task.min)),
                EncodedArg::numbers_out(std::slice::from_mut(task.max)),
            ],
            Self::OpenCv(task) => typed(&task.read, &mut task.write).collect(),
            Self::ImageResize(task) => {
                let ((width, height), (to_width, to_height)) = (task.size, task.to_size);
                let params = ResizeParams { width, height, channels: task.channels, to_width, to_height };
                vec![EncodedArg::params(&params), EncodedArg::numbers(task.from), EncodedArg::numbers_out(task.to)]
            }
        };
        Ok(Encoded { operation, args })
    }
}

fn exec<'a, E>(task: &'a mut Exec<'_>, id: Ids<'_, E>) -> Result<Vec<EncodedArg<'a>>, E> {
    let library = match &task.library {
        Library::Name(name) => EncodedArg::input(name.as_bytes(), Dtype::Text),
        Library::Resource(library) => EncodedArg::params(&ResourceParams { resource: id(library)? }),
    };
    let mut args = vec![library, EncodedArg::input(task.function.as_bytes(), Dtype::Text)];
    args.extend(typed(&task.read, &mut task.write));
    Ok(args)
}

fn pictures<'a, E>(model: Option<&Resource>, labels: Option<&Resource>, id: Ids<'_, E>) -> Result<EncodedArg<'a>, E> {
    let mut name = |resource: Option<&Resource>| resource.map_or(Ok(0), &mut *id);
    let params = ClassifyParams { model: name(model)?, labels: name(labels)? };
    Ok(EncodedArg::params(&params))
}

fn model_run<'a, E>(
    task: &'a mut ModelRun<'_>,
    extras: Vec<EncodedArg<'a>>,
    id: Ids<'_, E>,
) -> Result<Vec<EncodedArg<'a>>, E> {
    let inputs = u32::try_from(task.inputs.len()).unwrap_or(u32::MAX);
    let mut args = vec![EncodedArg::params(&ModelParams { model: id(&task.model)?, inputs })];
    args.extend(extras);
    args.extend(task.inputs.iter().map(EncodedArg::tensor));
    args.extend(task.outputs.iter_mut().map(crate::operation::TensorOut::as_argument));
    Ok(args)
}

fn sgemm<'a>(task: &'a mut Sgemm<'_>) -> Vec<EncodedArg<'a>> {
    let (params, a, b, c) = task.parts();
    let c = EncodedArg::new(EncodedData::InOut(c.as_mut_bytes()), Dtype::F32);
    vec![EncodedArg::params(&params), EncodedArg::numbers(a), EncodedArg::numbers(b), c]
}

fn typed<'a>(read: &'a [TypedIn<'_>], write: &'a mut [TypedOut<'_>]) -> impl Iterator<Item = EncodedArg<'a>> {
    let dims = |array: bool, bytes: usize, dtype: Dtype| {
        let elements = (bytes / dtype.size()) as u64;
        // One dimension always fits.
        if array { Dims::new(&[elements]).unwrap_or_default() } else { Dims::NONE }
    };
    let read = read.iter().map(move |arg| EncodedArg {
        dims: dims(arg.array, arg.bytes.len(), arg.dtype),
        custom: arg.custom,
        ..EncodedArg::input(arg.bytes, arg.dtype)
    });
    let write = write.iter_mut().map(move |arg| EncodedArg {
        dims: dims(arg.array, arg.bytes.len(), arg.dtype),
        custom: arg.custom,
        dtype: arg.dtype,
        data: EncodedData::InOut(arg.bytes),
        result: Outcome::Written(arg.written),
    });
    read.chain(write)
}
