//! Sessions, and their operations on arrays.
//! Called by the package's `Session`, which adds defaults and makes the arrays that are not given. The interpreter's lock
//! is released while an operation runs.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use kernlet_abi::accel::{Classification, LABEL_MAX};
use kernlet_accel::{
    AccelError, Config, ConfigError, Hint, Kinds, Region,
    host::{self, Ops, Sgemm},
    operation::{Classify, MinMax, Picture, Ranking, Task, TextOut},
};
use pyo3::{prelude::*, types::PyString};

use crate::{
    buffer::{In, Out, parsed},
    error::{self, bad_value},
    resource::Resource,
    runtime::{Description, Plugins},
    typed::Arguments,
};

/// Most classes of a picture that can be asked for.
const CLASSES_MAX: usize = 65_536;

/// Longest text that an operation on a picture gives, in bytes.
const TEXT_MAX: usize = 64 * 1024;

/// A class of a picture: its index, its probability and its label.
type Class = (u32, f32, String);

/// A region of a profile: its name, how often, and seconds in all, at least and at most.
type Figures = (String, u64, f64, f64, f64);

/// How an operation went.
#[pyclass(frozen, module = "kernlet_accel", get_all)]
#[derive(Debug)]
pub(crate) struct Report {
    /// The plugin that carried it out.
    plugin: &'static str,
    /// Seconds inside the plugin.
    elapsed: f64,
    /// Bytes of arguments that were copied instead of being used in place.
    bytes_copied: u64,
    /// The first plugin that declined it, if one did.
    fallback_from: Option<&'static str>,
}

#[pymethods]
impl Report {
    fn __repr__(&self) -> String {
        let Self { plugin, elapsed, bytes_copied, .. } = self;
        format!("<Report of {plugin}: {elapsed:.6} s, {bytes_copied} bytes copied>")
    }
}

impl Report {
    /// What the runtime says, and bytes that were copied on the way to it.
    fn new(report: kernlet_accel::Report, copied: u64) -> Self {
        let kernlet_accel::Report { plugin, elapsed, bytes_copied, fallback_from } = report;
        Self { plugin, elapsed: elapsed.as_secs_f64(), bytes_copied: bytes_copied + copied, fallback_from }
    }
}

/// A session of the runtime; `kernlet_accel.Session` is made of it.
#[pyclass(frozen, module = "kernlet_accel._native")]
#[derive(Debug)]
pub(crate) struct Session(RwLock<Option<Arc<Open>>>);

#[derive(Debug)]
struct Open {
    session: kernlet_accel::Session,
    plugins: Arc<Plugins>,
}

/// When an operation is too late, as Python says it: within so many seconds.
#[derive(Clone, Copy)]
pub(crate) struct Timeout(Option<Duration>);

impl Timeout {
    pub(crate) fn new(seconds: Option<f64>) -> PyResult<Self> {
        let duration = |seconds| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| bad_value(format!("the timeout is {seconds}; give seconds from zero on, or None")))
        };
        seconds.map(duration).transpose().map(Self)
    }

    pub(crate) fn deadline(self) -> Option<Instant> {
        self.0.and_then(|time| Instant::now().checked_add(time))
    }
}

impl Session {
    fn open(&self) -> PyResult<Arc<Open>> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| bad_value("the session is closed"))
    }

    /// Carries out an operation while other threads of Python's go on.
    fn ops(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        run: impl FnOnce(Ops<'_>) -> Result<kernlet_accel::Report, AccelError> + Send,
    ) -> PyResult<Report> {
        let (open, timeout) = (self.open()?, Timeout::new(timeout)?);
        let outcome = py.detach(|| {
            let ops = open.session.ops();
            run(timeout.0.map_or(ops, |time| ops.within(time)))
        });
        outcome.map(|report| Report::new(report, 0)).map_err(|error| error::raised(py, &error))
    }

    /// The same for a task that is made already; `copied` counts what was copied to make it.
    pub(crate) fn perform(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        task: Task<'_>,
        copied: u64,
    ) -> PyResult<Report> {
        let (open, timeout) = (self.open()?, Timeout::new(timeout)?);
        let outcome = py.detach(|| open.session.perform(task, timeout.deadline()));
        outcome.map(|report| Report::new(report, copied)).map_err(|error| error::raised(py, &error))
    }

    /// A resource by itself, its name or its id; without any, the session's first ONNX model.
    pub(crate) fn resource_of(&self, given: &Bound<'_, PyAny>) -> PyResult<kernlet_accel::Resource> {
        let py = given.py();
        if let Ok(resource) = given.cast::<Resource>() {
            return Ok(resource.get().0.clone());
        }
        let open = self.open()?;
        if let Ok(name) = given.cast::<PyString>() {
            let name = name.to_str()?;
            let found = open.session.find(name).and_then(|(id, _)| open.session.resource(id.get()));
            return found.ok_or_else(|| error::unknown_resource(py, name));
        }
        let Ok(id) = given.extract::<i64>() else {
            let got = given.get_type().name()?.to_string();
            return Err(error::bad_type(format!("a resource is given as Resource, name or id, not as {got}")));
        };
        let id = id_of(id);
        let found = open.session.resource(id).filter(|_| id > 0);
        found.ok_or_else(|| error::raised(py, &AccelError::UnknownResource { id }))
    }

    fn optional(&self, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<kernlet_accel::Resource>> {
        given.map(|given| self.resource_of(given)).transpose()
    }

    /// The model of an operation on a picture: the one that is given, else the session's first.
    fn model(&self, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<kernlet_accel::Resource>> {
        Ok(match self.optional(given)? {
            None => self.open()?.session.resource(0),
            model => model,
        })
    }
}

/// An id that no resource has, for one that none can have.
fn id_of(id: i64) -> u32 {
    u32::try_from(id).ok().filter(|&id| id > 0).unwrap_or(u32::MAX)
}

fn bad_config(error: &ConfigError) -> PyErr {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    bad_value(format!("{error}{cause}"))
}

/// Which plugins a session would like best: a name, or bits of kinds.
fn hint_of(given: Option<&Bound<'_, PyAny>>, otherwise: Hint, strict: bool) -> PyResult<Hint> {
    let Some(given) = given else { return Ok(Hint { strict, ..otherwise }) };
    if let Ok(name) = given.cast::<PyString>() {
        return Ok(Hint { plugin: Some(name.to_str()?.to_owned()), kinds: Kinds::NONE, strict });
    }
    let kinds = given.extract().map_err(|_| error::bad_type("a hint is the name of a plugin or a Kind"))?;
    Ok(Hint { plugin: None, kinds: Kinds::from_bits(kinds), strict })
}

#[pymethods]
impl Session {
    /// A session as the configuration says, but for what is given.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "what can be configured")]
    fn new(
        py: Python<'_>,
        config: Option<PathBuf>,
        plugins: Option<Vec<String>>,
        agent: Option<String>,
        strict: Option<bool>,
        profiling: Option<bool>,
        resources: Option<usize>,
        resource_bytes: Option<u64>,
        concurrency: Option<usize>,
        operation_time: Option<f64>,
        hint: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let read = config.map_or_else(Config::from_env, |path| Config::from_file(&path));
        let mut config = read.map_err(|error| bad_config(&error))?;
        let time = Timeout::new(operation_time)?.0.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        config.plugins = plugins.unwrap_or(config.plugins);
        config.agent = agent.or(config.agent);
        config.strict = strict.unwrap_or(config.strict);
        config.profiling = profiling.unwrap_or(config.profiling);
        config.resources = resources.or(config.resources);
        config.resource_bytes = resource_bytes.or(config.resource_bytes);
        config.concurrency = concurrency.or(config.concurrency);
        config.operation_time_ms = time.or(config.operation_time_ms);
        // Plugins open libraries and connect to agents.
        let plugins = py.detach(|| Plugins::of(&config))?;
        let session = plugins.runtime.session_with(config.quota());
        session.prefer(hint_of(hint, config.hint(), config.strict)?);
        session.profile().enable(config.profiling);
        Ok(Self(RwLock::new(Some(Arc::new(Open { session, plugins })))))
    }

    fn close(&self, py: Python<'_>) {
        let open = self.0.write().unwrap_or_else(PoisonError::into_inner).take();
        // The last to go drops models, which takes time.
        py.detach(|| drop(open));
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn prefer(&self, hint: Option<&Bound<'_, PyAny>>, strict: bool) -> PyResult<()> {
        self.open()?.session.prefer(hint_of(hint, Hint::default(), strict)?);
        Ok(())
    }

    fn plugins(&self) -> PyResult<Vec<Description>> {
        Ok(self.open()?.plugins.describe())
    }

    fn register(&self, py: Python<'_>, name: &str, resource: &Bound<'_, Resource>) -> PyResult<u32> {
        let registered = self.open()?.session.register(name, resource.get().0.clone());
        registered.map(kernlet_accel::ResourceId::get).map_err(|error| error::raised(py, &error))
    }

    fn find(&self, name: &str) -> PyResult<Option<u32>> {
        Ok(self.open()?.session.find(name).map(|(id, _)| id.get()))
    }

    fn resource(&self, given: &Bound<'_, PyAny>) -> PyResult<Resource> {
        self.resource_of(given).map(Resource)
    }

    fn resources(&self) -> PyResult<Vec<(u32, String, u64)>> {
        let resources = self.open()?.session.resources();
        Ok(resources.into_iter().map(|(id, name, size)| (id.get(), name, size)).collect())
    }

    fn unregister(&self, py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<Resource> {
        let session = &self.open()?.session;
        let id = if let Ok(name) = given.cast::<PyString>() {
            let name = name.to_str()?;
            session.find(name).ok_or_else(|| error::unknown_resource(py, name))?.0.get()
        } else {
            id_of(given.extract().map_err(|_| error::bad_type("a resource is unregistered by its name or its id"))?)
        };
        session.unregister(id).map(Resource).map_err(|error| error::raised(py, &error))
    }

    fn preload(&self, py: Python<'_>) -> PyResult<()> {
        let open = self.open()?;
        py.detach(|| open.session.preload()).map_err(|error| error::raised(py, &error))
    }

    fn noop(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Report> {
        self.ops(py, timeout, |ops| ops.noop())
    }

    fn classify(
        &self,
        picture: &Bound<'_, PyAny>,
        model: Option<&Bound<'_, PyAny>>,
        labels: Option<&Bound<'_, PyAny>>,
        count: usize,
        timeout: Option<f64>,
    ) -> PyResult<(Report, Vec<Class>)> {
        if !(1..=CLASSES_MAX).contains(&count) {
            return Err(bad_value(format!("count is {count}; it must be from 1 to {CLASSES_MAX}")));
        }
        let py = picture.py();
        let (picture, copied) = picture_of(picture)?;
        let blank = Classification { class: 0, probability: 0.0, label_len: 0, label: [0; LABEL_MAX] };
        let (mut found, mut written) = (vec![blank; count], 0);
        let ranking = Ranking::new(&mut found, &mut written).map_err(|error| bad_value(error.to_string()))?;
        let (model, labels) = (self.model(model)?, self.optional(labels)?);
        let task = Task::ImageClassify(Classify { model, labels, picture: &picture, ranking });
        let report = self.perform(py, timeout, task, copied)?;
        found.truncate(usize::try_from(written).unwrap_or_default() / size_of::<Classification>());
        let entry = |one: &Classification| (one.class, one.probability, host::label(one).to_owned());
        Ok((report, found.iter().map(entry).collect()))
    }

    /// An operation that finds something in a picture and says it in text.
    fn picture(
        &self,
        operation: &str,
        picture: &Bound<'_, PyAny>,
        model: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, String)> {
        let py = picture.py();
        let (picture, copied) = picture_of(picture)?;
        let (mut text, mut written) = (vec![0; TEXT_MAX], 0);
        let room = TextOut::new(&mut text, &mut written);
        let task = Picture { model: self.model(model)?, labels: None, picture: &picture, text: room };
        let task = match operation {
            "image-detect" => Task::ImageDetect(task),
            "image-segment" => Task::ImageSegment(task),
            "image-pose" => Task::ImagePose(task),
            _ => Task::ImageDepth(task),
        };
        let report = self.perform(py, timeout, task, copied)?;
        text.truncate(usize::try_from(written).unwrap_or_default());
        Ok((report, String::from_utf8_lossy(&text).into_owned()))
    }

    /// A picture of rows, columns and channels into another of the same channels.
    fn resize(&self, source: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Report> {
        let py = source.py();
        let (from, mut to) = (In::of::<u8>(source, "picture")?, Out::of::<u8>(to, "out")?);
        let (size, channels) = pixels(from.shape(), "picture")?;
        let (to_size, to_channels) = pixels(to.shape(), "out")?;
        if channels != to_channels {
            return Err(bad_value(format!("picture has {channels} channels and out {to_channels}")));
        }
        let (from, to) = (from.elements(), to.elements());
        self.ops(py, timeout, |ops| ops.resize(size, channels, from, to_size, to))
    }

    #[expect(clippy::too_many_arguments, reason = "those of BLAS")]
    fn sgemm(
        &self,
        by_torch: bool,
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        c: &Bound<'_, PyAny>,
        alpha: f32,
        beta: f32,
        timeout: Option<f64>,
    ) -> PyResult<Report> {
        let py = a.py();
        let ((a, a_rows), (b, b_rows), (mut c, c_rows)) = (In::rows(a, "a")?, In::rows(b, "b")?, Out::rows(c, "c")?);
        if a_rows.columns != b_rows.rows || a_rows.rows != c_rows.rows || b_rows.columns != c_rows.columns {
            let shown = |rows: crate::buffer::Rows| format!("{}×{}", rows.rows, rows.columns);
            let (a, b, c) = (shown(a_rows), shown(b_rows), shown(c_rows));
            return Err(bad_value(format!("a is {a}, b is {b} and c is {c}, which do not fit each other")));
        }
        let size = |size: usize| i64::try_from(size).map_err(|_| bad_value("a matrix is larger than any memory"));
        let params = Sgemm {
            m: size(c_rows.rows)?,
            n: size(c_rows.columns)?,
            k: size(a_rows.columns)?,
            lda: size(a_rows.stride)?,
            ldb: size(b_rows.stride)?,
            ldc: size(c_rows.stride)?,
            alpha,
            beta,
        };
        let (a, b, c) = (a.elements(), b.elements(), c.elements());
        self.ops(
            py,
            timeout,
            |ops| {
                if by_torch { ops.torch_sgemm(&params, a, b, c) } else { ops.sgemm(&params, a, b, c) }
            },
        )
    }

    fn array_copy(&self, source: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<Report> {
        let py = source.py();
        let (from, mut to) = (In::of::<i32>(source, "a")?, Out::of::<i32>(to, "out")?);
        let (from, to) = (from.elements(), to.elements());
        self.ops(py, timeout, |ops| ops.array_copy(from, to))
    }

    fn mmult(
        &self,
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        c: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Report> {
        let py = a.py();
        let (a, b, mut c) = (In::of::<f32>(a, "a")?, In::of::<f32>(b, "b")?, Out::of::<f32>(c, "out")?);
        let (a, b, c) = (a.elements(), b.elements(), c.elements());
        self.ops(py, timeout, |ops| ops.mmult(a, b, c))
    }

    fn parallel(
        &self,
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        sum: &Bound<'_, PyAny>,
        product: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Report> {
        let py = a.py();
        let (a, b) = (In::of::<f32>(a, "a")?, In::of::<f32>(b, "b")?);
        let (mut sum, mut product) = (Out::of::<f32>(sum, "sums")?, Out::of::<f32>(product, "products")?);
        let (a, b, sum, product) = (a.elements(), b.elements(), sum.elements(), product.elements());
        self.ops(py, timeout, |ops| ops.parallel(a, b, sum, product))
    }

    fn vector_add(
        &self,
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        sum: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Report> {
        let py = a.py();
        let (a, b, mut sum) = (In::of::<f32>(a, "a")?, In::of::<f32>(b, "b")?, Out::of::<f32>(sum, "out")?);
        let (a, b, sum) = (a.elements(), b.elements(), sum.elements());
        self.ops(py, timeout, |ops| ops.vector_add(a, b, sum))
    }

    fn minmax(
        &self,
        source: &Bound<'_, PyAny>,
        low: i32,
        high: i32,
        to: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, f64, f64)> {
        let py = source.py();
        let (from, mut to) = (In::of::<f64>(source, "a")?, Out::of::<f64>(to, "out")?);
        let (mut min, mut max) = (0.0, 0.0);
        let task = MinMax::new((low, high), from.elements(), to.elements(), &mut min, &mut max);
        let task = Task::MinMax(task.map_err(|error| bad_value(format!("a and out: {error}")))?);
        let report = self.perform(py, timeout, task, 0)?;
        Ok((report, min, max))
    }

    fn exec(
        &self,
        py: Python<'_>,
        library: &str,
        function: &str,
        read: Vec<Bound<'_, PyAny>>,
        write: Vec<Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, Vec<u64>)> {
        let mut arguments = Arguments::new(read, write)?;
        let (read, write) = arguments.lend();
        let report = self.ops(py, timeout, |ops| ops.exec(library, function, read, write))?;
        Ok((report, arguments.written()))
    }

    fn exec_with_resource(
        &self,
        py: Python<'_>,
        library: &Bound<'_, PyAny>,
        function: &str,
        read: Vec<Bound<'_, PyAny>>,
        write: Vec<Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, Vec<u64>)> {
        let library = self.resource_of(library)?;
        let mut arguments = Arguments::new(read, write)?;
        let (read, write) = arguments.lend();
        let report = self.ops(py, timeout, |ops| ops.exec_with_resource(&library, function, read, write))?;
        Ok((report, arguments.written()))
    }

    fn opencv(
        &self,
        py: Python<'_>,
        read: Vec<Bound<'_, PyAny>>,
        write: Vec<Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, Vec<u64>)> {
        let mut arguments = Arguments::new(read, write)?;
        let (read, write) = arguments.lend();
        let report = self.ops(py, timeout, |ops| ops.opencv(read, write))?;
        Ok((report, arguments.written()))
    }

    fn generic(
        &self,
        py: Python<'_>,
        operation: u8,
        read: Vec<Bound<'_, PyAny>>,
        write: Vec<Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, Vec<u64>)> {
        let mut arguments = Arguments::new(read, write)?.behind(operation);
        let (read, write) = arguments.lend();
        let report = self.ops(py, timeout, |ops| ops.generic(read, write))?;
        Ok((report, arguments.written()))
    }

    #[getter]
    fn profiling(&self) -> PyResult<bool> {
        Ok(self.open()?.session.profile().is_enabled())
    }

    #[setter]
    fn set_profiling(&self, enabled: bool) -> PyResult<()> {
        self.open()?.session.profile().enable(enabled);
        Ok(())
    }

    fn record(&self, name: &str, seconds: f64) -> PyResult<()> {
        if name.is_empty() || name.contains(char::is_control) {
            return Err(bad_value(format!("{name:?} cannot name a region")));
        }
        let time = Timeout::new(Some(seconds))?.0.unwrap_or_default();
        self.open()?.session.profile().record(name, time);
        Ok(())
    }

    fn profile(&self) -> PyResult<Vec<Figures>> {
        let figures = |(name, region): (String, Region)| {
            let Region { entries, total, min, max } = region;
            (name, entries, total.as_secs_f64(), min.as_secs_f64(), max.as_secs_f64())
        };
        Ok(self.open()?.session.profile().regions().into_iter().map(figures).collect())
    }

    fn clear_profile(&self) -> PyResult<()> {
        self.open()?.session.profile().clear();
        Ok(())
    }

    /// Loads or unloads a model.
    fn load_model(
        &self,
        py: Python<'_>,
        framework: &str,
        model: &Resource,
        unload: bool,
        timeout: Option<f64>,
    ) -> PyResult<Option<Report>> {
        crate::model::load(self, py, framework, model, unload, timeout)
    }

    /// Runs a model on sets of inputs, each with arrays for its outputs or without.
    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    fn run_model(
        &self,
        py: Python<'_>,
        framework: &str,
        model: &Resource,
        sets: Vec<crate::model::Set<'_>>,
        outputs: usize,
        as_batch: bool,
        names: &str,
        options: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(Report, Vec<Vec<Py<PyAny>>>)> {
        let run = crate::model::Run { framework, model, names, options, timeout, as_batch };
        crate::model::run(self, py, &run, sets, outputs)
    }
}

/// The bytes of a picture, and how many of them were copied.
fn picture_of(picture: &Bound<'_, PyAny>) -> PyResult<(pyo3::pybacked::PyBackedBytes, u64)> {
    let (bytes, copied) = parsed(picture, "picture")?;
    if bytes.is_empty() {
        return Err(bad_value("picture has no bytes; pass a JPEG or PNG file"));
    }
    Ok((bytes, copied))
}

/// Columns and rows, and channels, of an array of rows, columns and, where there is more than one, channels.
fn pixels(shape: &[usize], name: &str) -> PyResult<((u32, u32), u32)> {
    let (rows, columns, channels) = match *shape {
        [rows, columns] => (rows, columns, 1),
        [rows, columns, channels] => (rows, columns, channels),
        _ => return Err(bad_value(format!("{name} must have the shape (rows, columns) or (rows, columns, channels)"))),
    };
    match (u32::try_from(columns), u32::try_from(rows), u32::try_from(channels)) {
        (Ok(columns), Ok(rows), Ok(channels)) => Ok(((columns, rows), channels)),
        _ => Err(bad_value(format!("{name} has more pixels than a picture can have"))),
    }
}
