//! Turns an operation's raw arguments into a [`Task`]: the parser that a hostile guest feeds.
//! Called by sessions, and by fuzzers; every count, length, type, shape, stride and alignment is checked here.
//! Never copies data other than parameter blocks of at most 56 bytes, and never trusts a size before its check.

mod generic;
pub(crate) mod read;

use kernlet_abi::accel::{
    ARGS_MAX, BatchParams, ClassifyParams, MinMaxParams, ModelParams, ProfileRegion, ResizeParams, ResourceParams,
    SgemmParams,
};

pub use self::generic::{Generic, generic};
use crate::{
    AccelError, Arg, Operation, Profile, Region, Report, Resource,
    operation::{
        ArgError, ArrayCopy, BatchRun, BatchSet, Classify, Exec, Library, MatrixProduct, MinMax, ModelLoad, ModelRun,
        OpenCv, Parallel, Picture, Resize, Sgemm, Task, Tensor, TensorOut, TypedIn, TypedOut, VectorAdd, slice,
        slice_mut,
    },
};

/// Checks `args` against what `operation` takes. `resource` gives the caller's resource of an id, and the model that it
/// means when it names none of id zero.
///
/// Shapes are looked at for tensors only. [`Arg::written`] of matrices and arrays is set right away.
/// [`Operation::Generic`] has its own parser, [`generic`], and [`Operation::Profile`] is no task.
///
/// # Errors
/// [`AccelError::WrongArgCount`], [`AccelError::TooManyArgs`], [`AccelError::BadArg`] naming the argument, or
/// [`AccelError::UnknownResource`].
pub fn decode<'a>(
    operation: Operation,
    args: &'a mut [Arg<'_>],
    resource: impl Fn(u32) -> Option<Resource>,
) -> Result<Task<'a>, AccelError> {
    let resource = |id| resource(id).ok_or(AccelError::UnknownResource { id });
    let call = Call::new(operation, args.len())?;
    match operation {
        Operation::Noop => call.noop(args),
        Operation::Exec => call.exec(args),
        Operation::ExecWithResource => call.exec_with_resource(args, resource),
        Operation::ImageClassify => call.classify(args, resource),
        Operation::ImageDetect => call.picture(args, resource).map(Task::ImageDetect),
        Operation::ImageSegment => call.picture(args, resource).map(Task::ImageSegment),
        Operation::ImagePose => call.picture(args, resource).map(Task::ImagePose),
        Operation::ImageDepth => call.picture(args, resource).map(Task::ImageDepth),
        Operation::TfModelLoad => call.model(args, resource).map(Task::TfModelLoad),
        Operation::TfModelUnload => call.model(args, resource).map(Task::TfModelUnload),
        Operation::TfModelRun => call.model_run(args, resource, Extras::OptionsAndNames).map(Task::TfModelRun),
        Operation::TfliteModelLoad => call.model(args, resource).map(Task::TfliteModelLoad),
        Operation::TfliteModelUnload => call.model(args, resource).map(Task::TfliteModelUnload),
        Operation::TfliteModelRun => call.model_run(args, resource, Extras::None).map(Task::TfliteModelRun),
        Operation::TorchModelLoad => call.model(args, resource).map(Task::TorchModelLoad),
        Operation::TorchModelRun => call.model_run(args, resource, Extras::Options).map(Task::TorchModelRun),
        Operation::TorchSgemm => call.sgemm(args).map(Task::TorchSgemm),
        Operation::BlasSgemm => call.sgemm(args).map(Task::BlasSgemm),
        Operation::FpgaArrayCopy => call.array_copy(args),
        Operation::FpgaMmult => call.mmult(args),
        Operation::FpgaParallel => call.parallel(args),
        Operation::FpgaVectorAdd => call.vector_add(args),
        Operation::MinMax => call.min_max(args),
        Operation::OpenCv => {
            let (read, write) = read::typed(args);
            Ok(Task::OpenCv(OpenCv { read, write }))
        }
        Operation::OnnxModelLoad => call.model(args, resource).map(Task::OnnxModelLoad),
        Operation::OnnxModelRun => call.model_run(args, resource, Extras::None).map(Task::OnnxModelRun),
        Operation::OnnxModelUnload => call.model(args, resource).map(Task::OnnxModelUnload),
        Operation::OnnxModelRunBatch => call.batch(args, resource),
        Operation::ImageResize => call.resize(args),
        Operation::Generic | Operation::Profile => Err(AccelError::UnknownOperation { number: operation.abi_number() }),
    }
}

/// Arguments that are read and those that are written, as they are.
pub(crate) fn typed<'a>(args: &'a mut [Arg<'_>]) -> Found<(Vec<TypedIn<'a>>, Vec<TypedOut<'a>>)> {
    Call::new(Operation::Generic, args.len())?;
    Ok(read::typed(args))
}

/// Merges the regions of the caller into `profile`, and fills in what it then has.
pub(crate) fn profile(args: &mut [Arg<'_>], profile: &Profile) -> Result<Report, AccelError> {
    let call = Call::new(Operation::Profile, args.len())?;
    let [theirs, all] = args else {
        return Err(call.wrong_count("2"));
    };
    let regions: &[ProfileRegion] = read::bytes(theirs).and_then(slice).map_err(call.bad(0, "the caller's regions"))?;
    for (name, region) in regions.iter().filter_map(Region::from_abi) {
        profile.merge(&name, region);
    }
    let room = read::bytes_room(all).and_then(slice_mut::<ProfileRegion>).map_err(call.bad(1, "regions"))?;
    let mut written = 0;
    for (slot, (name, region)) in room.iter_mut().zip(profile.regions()) {
        *slot = region.to_abi(&name);
        written += size_of::<ProfileRegion>() as u64;
    }
    all.written = written;
    Ok(Report { plugin: "session", ..Report::default() })
}

/// What comes between the parameters of a model's run and its tensors.
#[derive(Clone, Copy)]
enum Extras {
    None,
    Options,
    OptionsAndNames,
}

/// An operation that is being parsed, for its errors.
#[derive(Clone, Copy)]
struct Call {
    operation: Operation,
    count: usize,
}

type Found<T> = Result<T, AccelError>;

impl Call {
    fn new(operation: Operation, count: usize) -> Found<Self> {
        if count > ARGS_MAX as usize {
            return Err(AccelError::TooManyArgs { operation: operation.name(), count });
        }
        Ok(Self { operation, count })
    }

    const fn wrong_count(self, expected: &'static str) -> AccelError {
        AccelError::WrongArgCount { operation: self.operation.name(), expected, count: self.count }
    }

    fn bad(self, index: usize, name: &'static str) -> impl Fn(ArgError) -> AccelError {
        move |error| AccelError::bad_arg(self.operation, index, name, error)
    }

    fn noop<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        match args {
            [] => Ok(Task::Noop),
            _ => Err(self.wrong_count("no")),
        }
    }

    fn exec<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [library, function, rest @ ..] = args else {
            return Err(self.wrong_count("2 or more"));
        };
        let name = |arg, index, what| {
            read::text(arg).and_then(|text| read::name(text.as_bytes())).map_err(self.bad(index, what))
        };
        let library = Library::Name(name(library, 0, "library")?);
        let function = name(function, 1, "function")?;
        let (read, write) = read::typed(rest);
        Ok(Task::Exec(Exec { library, function, read, write }))
    }

    fn exec_with_resource<'a>(
        self,
        args: &'a mut [Arg<'_>],
        resource: impl Fn(u32) -> Found<Resource>,
    ) -> Found<Task<'a>> {
        let [params, function, rest @ ..] = args else {
            return Err(self.wrong_count("2 or more"));
        };
        let params: ResourceParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        if params.resource == 0 {
            return Err(AccelError::UnknownResource { id: 0 });
        }
        let library = Library::Resource(resource(params.resource)?);
        let function =
            read::text(function).and_then(|text| read::name(text.as_bytes())).map_err(self.bad(1, "function"))?;
        let (read, write) = read::typed(rest);
        Ok(Task::ExecWithResource(Exec { library, function, read, write }))
    }

    fn classify<'a>(self, args: &'a mut [Arg<'_>], resource: impl Fn(u32) -> Found<Resource>) -> Found<Task<'a>> {
        let [params, picture, ranking] = args else {
            return Err(self.wrong_count("3"));
        };
        let params: ClassifyParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let (model, labels) = model_and_labels(params, resource)?;
        let picture = read::picture(picture).map_err(self.bad(1, "picture"))?;
        let ranking = read::ranking_room(ranking).map_err(self.bad(2, "classifications"))?;
        Ok(Task::ImageClassify(Classify { model, labels, picture, ranking }))
    }

    fn picture<'a>(self, args: &'a mut [Arg<'_>], resource: impl Fn(u32) -> Found<Resource>) -> Found<Picture<'a>> {
        let [params, picture, text] = args else {
            return Err(self.wrong_count("3"));
        };
        let params: ClassifyParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let (model, labels) = model_and_labels(params, resource)?;
        let picture = read::picture(picture).map_err(self.bad(1, "picture"))?;
        let text = read::text_room(text).map_err(self.bad(2, "text"))?;
        Ok(Picture { model, labels, picture, text })
    }

    fn resize<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [params, from, to] = args else {
            return Err(self.wrong_count("3"));
        };
        let params: ResizeParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let from = read::array(from).map_err(self.bad(1, "picture"))?;
        let to = read::array_room(to).map_err(self.bad(2, "resized picture"))?;
        let ResizeParams { width, height, channels, to_width, to_height } = params;
        Resize::new((width, height), channels, from, (to_width, to_height), to)
            .map(Task::ImageResize)
            .map_err(self.bad(0, "parameters"))
    }

    fn sgemm<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Sgemm<'a>> {
        let [params, a, b, c] = args else {
            return Err(self.wrong_count("4"));
        };
        let params: SgemmParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let layouts = Layouts::new(&params).map_err(self.bad(0, "parameters"))?;
        let a = read::matrix(a, layouts.a).map_err(self.bad(1, "A"))?;
        let b = read::matrix(b, layouts.b).map_err(self.bad(2, "B"))?;
        let c = read::matrix_room(c, layouts.c).map_err(self.bad(3, "C"))?;
        layouts.product(&params, a, b, c).map_err(self.bad(0, "parameters"))
    }

    fn array_copy<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [from, to] = args else {
            return Err(self.wrong_count("2"));
        };
        let from = read::array(from).map_err(self.bad(0, "array"))?;
        let to = read::array_room(to).map_err(self.bad(1, "copy"))?;
        ArrayCopy::new(from, to).map(Task::FpgaArrayCopy).map_err(self.bad(1, "copy"))
    }

    fn mmult<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [a, b, c] = args else {
            return Err(self.wrong_count("3"));
        };
        let a = read::array(a).map_err(self.bad(0, "A"))?;
        let b = read::array(b).map_err(self.bad(1, "B"))?;
        let c = read::array_room(c).map_err(self.bad(2, "C"))?;
        MatrixProduct::new(a, b, c).map(Task::FpgaMmult).map_err(self.bad(0, "A"))
    }

    fn parallel<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [a, b, sum, product] = args else {
            return Err(self.wrong_count("4"));
        };
        let a = read::array(a).map_err(self.bad(0, "A"))?;
        let b = read::array(b).map_err(self.bad(1, "B"))?;
        let sum = read::array_room(sum).map_err(self.bad(2, "sums"))?;
        let product = read::array_room(product).map_err(self.bad(3, "products"))?;
        Parallel::new(a, b, sum, product).map(Task::FpgaParallel).map_err(self.bad(1, "B"))
    }

    fn vector_add<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [a, b, sum] = args else {
            return Err(self.wrong_count("3"));
        };
        let a = read::array(a).map_err(self.bad(0, "A"))?;
        let b = read::array(b).map_err(self.bad(1, "B"))?;
        let sum = read::array_room(sum).map_err(self.bad(2, "sums"))?;
        VectorAdd::new(a, b, sum).map(Task::FpgaVectorAdd).map_err(self.bad(1, "B"))
    }

    fn min_max<'a>(self, args: &'a mut [Arg<'_>]) -> Found<Task<'a>> {
        let [params, from, to, min, max] = args else {
            return Err(self.wrong_count("5"));
        };
        let params: MinMaxParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let from = read::array(from).map_err(self.bad(1, "numbers"))?;
        let to = read::array_room(to).map_err(self.bad(2, "numbers held"))?;
        let one = |arg, index, name| {
            let room: Result<&mut [f64], _> = read::array_room(arg);
            room.and_then(one).map_err(self.bad(index, name))
        };
        let (min, max) = (one(min, 3, "smallest")?, one(max, 4, "largest")?);
        MinMax::new((params.low, params.high), from, to, min, max)
            .map(Task::MinMax)
            .map_err(self.bad(2, "numbers held"))
    }

    fn model(self, args: &mut [Arg<'_>], resource: impl Fn(u32) -> Found<Resource>) -> Found<ModelLoad> {
        let [params] = args else {
            return Err(self.wrong_count("1"));
        };
        let params: ModelParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        if params.inputs != 0 {
            return Err(self.bad(0, "parameters")(ArgError::InputCount { announced: params.inputs, given: 0 }));
        }
        Ok(ModelLoad { model: resource(params.model)? })
    }

    fn model_run<'a>(
        self,
        args: &'a mut [Arg<'_>],
        resource: impl Fn(u32) -> Found<Resource>,
        extras: Extras,
    ) -> Found<ModelRun<'a>> {
        let (params, options, names, tensors) = match (args, extras) {
            ([params, tensors @ ..], Extras::None) => (params, None, None, tensors),
            ([params, options, tensors @ ..], Extras::Options) => (params, Some(options), None, tensors),
            ([params, options, names, tensors @ ..], Extras::OptionsAndNames) => {
                (params, Some(options), Some(names), tensors)
            }
            (_, Extras::None) => return Err(self.wrong_count("1 or more")),
            (_, Extras::Options) => return Err(self.wrong_count("2 or more")),
            (_, Extras::OptionsAndNames) => return Err(self.wrong_count("3 or more")),
        };
        let first = self.count - tensors.len();
        let params: ModelParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let model = resource(params.model)?;
        let options = options.map(|arg| read::bytes(arg)).transpose().map_err(self.bad(1, "options"))?;
        let names = names.map(|arg| read::text(arg)).transpose().map_err(self.bad(2, "names"))?;
        let given = tensors.len();
        let announced = usize::try_from(params.inputs).unwrap_or(usize::MAX);
        let Some((inputs, outputs)) = tensors.split_at_mut_checked(announced) else {
            return Err(self.bad(0, "parameters")(ArgError::InputCount { announced: params.inputs, given }));
        };
        let (inputs, outputs) = (self.inputs(first, inputs)?, self.outputs(first + announced, outputs)?);
        if names.is_some_and(|names| names.lines().count() != given) {
            let expected = "as many names as there are tensors, one a line";
            return Err(self.bad(2, "names")(ArgError::Value { expected }));
        }
        Ok(ModelRun { model, options: options.unwrap_or_default(), names: names.unwrap_or_default(), inputs, outputs })
    }

    fn inputs<'a>(self, first: usize, args: &'a [Arg<'_>]) -> Found<Vec<Tensor<'a>>> {
        (first..).zip(args).map(|(index, arg)| read::tensor(arg).map_err(self.bad(index, "input"))).collect()
    }

    fn outputs<'a>(self, first: usize, args: &'a mut [Arg<'_>]) -> Found<Vec<TensorOut<'a>>> {
        (first..).zip(args).map(|(index, arg)| read::tensor_room(arg).map_err(self.bad(index, "output"))).collect()
    }

    fn batch<'a>(self, args: &'a mut [Arg<'_>], resource: impl Fn(u32) -> Found<Resource>) -> Found<Task<'a>> {
        let Some((params, mut tensors)) = args.split_first_mut() else {
            return Err(self.wrong_count("1 or more"));
        };
        let params: BatchParams = read::params(params).map_err(self.bad(0, "parameters"))?;
        let model = resource(params.model)?;
        let given = tensors.len();
        let count = |field: u32| usize::try_from(field).unwrap_or(usize::MAX);
        let (inputs, set_count) = (count(params.inputs), count(params.sets));
        let each = inputs.saturating_add(count(params.outputs));
        if set_count == 0 || each == 0 || each.checked_mul(set_count) != Some(given) {
            let each = each as u64;
            return Err(self.bad(0, "parameters")(ArgError::SetCount { sets: params.sets, each, given }));
        }
        let mut sets = Vec::new();
        let mut first = 1;
        while let Some((set, rest)) = tensors.split_at_mut_checked(each).filter(|(set, _)| !set.is_empty()) {
            tensors = rest;
            let (ins, outs) = set.split_at_mut(inputs);
            sets.push(BatchSet { inputs: self.inputs(first, ins)?, outputs: self.outputs(first + inputs, outs)? });
            first += each;
        }
        Ok(Task::OnnxModelRunBatch(BatchRun { model, sets }))
    }
}

/// The layouts of a product's matrices.
pub(crate) struct Layouts {
    pub(crate) a: crate::operation::MatrixLayout,
    pub(crate) b: crate::operation::MatrixLayout,
    pub(crate) c: crate::operation::MatrixLayout,
}

impl Layouts {
    pub(crate) fn new(params: &SgemmParams) -> Result<Self, ArgError> {
        let (m, n) = (read::matrix_size("m", params.m)?, read::matrix_size("n", params.n)?);
        let k = read::matrix_size("k", params.k)?;
        let a = read::matrix_layout("lda", m, k, params.lda)?;
        let b = read::matrix_layout("ldb", k, n, params.ldb)?;
        Ok(Self { a, b, c: read::matrix_layout("ldc", m, n, params.ldc)? })
    }

    /// The product; the layouts come from one m, n and k, so that they fit each other.
    pub(crate) fn product<'a>(
        &self,
        params: &SgemmParams,
        a: crate::operation::Matrix<'a>,
        b: crate::operation::Matrix<'a>,
        c: crate::operation::MatrixMut<'a>,
    ) -> Result<Sgemm<'a>, ArgError> {
        let overflow = ArgError::MatrixOverflow { rows: self.c.rows() as u64, stride: self.c.stride() as u64 };
        Sgemm::new(params.alpha, a, b, params.beta, c).ok_or(overflow)
    }
}

/// The model that an operation on pictures names, or the caller's only one, and the labels.
fn model_and_labels(
    params: ClassifyParams,
    resource: impl Fn(u32) -> Found<Resource>,
) -> Found<(Option<Resource>, Option<Resource>)> {
    let model = match params.model {
        0 => resource(0).ok(),
        id => Some(resource(id)?),
    };
    let labels = match params.labels {
        0 => None,
        id => Some(resource(id)?),
    };
    Ok((model, labels))
}

/// The only number of an array.
fn one<T>(array: &mut [T]) -> Result<&mut T, ArgError> {
    match array {
        [one] => Ok(one),
        other => Err(ArgError::Length { expected: size_of::<T>() as u64, got: size_of_val(other) as u64 }),
    }
}
