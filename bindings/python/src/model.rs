//! Models: loading and running them on arrays.
//! Called by the session for the package's `Model`. Inputs are read in place; outputs are written in place, or in memory
//! that becomes an array as it is.

use kernlet_accel::{
    AccelError, Dims, Dtype,
    host::Framework,
    operation::{ArgError, BatchRun, BatchSet, Elements, ModelLoad, ModelRun, Task, Tensor, TensorBuf, TensorOut},
};
use pyo3::{prelude::*, types::PyTuple};

use crate::{
    buffer::{In, Out, parsed},
    error::bad_value,
    resource::Resource,
    session::{Report, Session},
    tensor,
};

/// Most outputs that can be asked for.
const OUTPUTS_MAX: usize = 1024;

/// Inputs, and where the outputs go, if the caller says so.
pub(crate) type Set<'py> = (Vec<Bound<'py, PyAny>>, Option<Vec<Bound<'py, PyAny>>>);

/// How a model is run.
pub(crate) struct Run<'a, 'py> {
    pub(crate) framework: &'a str,
    pub(crate) model: &'a Resource,
    pub(crate) names: &'a str,
    pub(crate) options: &'a Bound<'py, PyAny>,
    pub(crate) timeout: Option<f64>,
    pub(crate) as_batch: bool,
}

fn framework_of(name: &str) -> PyResult<Framework> {
    Ok(match name {
        "onnx" => Framework::Onnx,
        "tensorflow" => Framework::TensorFlow,
        "tflite" => Framework::TfLite,
        "torch" => Framework::Torch,
        other => {
            let known = "\"onnx\", \"tensorflow\", \"tflite\" or \"torch\"";
            return Err(bad_value(format!("{other:?} is no framework; use {known}")));
        }
    })
}

/// Loads or unloads a model. Of unloading a Torch model there is no operation, hence no report.
pub(crate) fn load(
    session: &Session,
    py: Python<'_>,
    framework: &str,
    model: &Resource,
    unload: bool,
    timeout: Option<f64>,
) -> PyResult<Option<Report>> {
    let load = ModelLoad { model: model.0.clone() };
    let task = match (framework_of(framework)?, unload) {
        (Framework::Onnx, false) => Task::OnnxModelLoad(load),
        (Framework::Onnx, true) => Task::OnnxModelUnload(load),
        (Framework::TensorFlow, false) => Task::TfModelLoad(load),
        (Framework::TensorFlow, true) => Task::TfModelUnload(load),
        (Framework::TfLite, false) => Task::TfliteModelLoad(load),
        (Framework::TfLite, true) => Task::TfliteModelUnload(load),
        (Framework::Torch, false) => Task::TorchModelLoad(load),
        (Framework::Torch, true) => return Ok(None),
    };
    session.perform(py, timeout, task, 0).map(Some)
}

/// Runs a model. The results are a tensor for each output that had no array, else the shape of what the array holds.
pub(crate) fn run(
    session: &Session,
    py: Python<'_>,
    run: &Run<'_, '_>,
    sets: Vec<Set<'_>>,
    outputs: usize,
) -> PyResult<(Report, Vec<Vec<Py<PyAny>>>)> {
    let framework = framework_of(run.framework)?;
    if outputs > OUTPUTS_MAX {
        return Err(bad_value(format!("outputs is {outputs}; it must be at most {OUTPUTS_MAX}")));
    }
    let (options, copied) = parsed(run.options, "options")?;
    let mut held = sets.into_iter().map(|set| Held::new(&set, outputs)).collect::<PyResult<Vec<_>>>()?;
    let mut lent = held.iter_mut().map(Held::lend).collect::<PyResult<Vec<_>>>()?;
    let model = run.model.0.clone();
    let task = if run.as_batch {
        if framework != Framework::Onnx {
            return Err(crate::error::raised(py, &AccelError::NotBatched { operation: "model-run" }));
        }
        Task::OnnxModelRunBatch(BatchRun { model, sets: lent })
    } else {
        let Some(BatchSet { inputs, outputs }) = lent.pop() else {
            return Err(bad_value("there are no inputs"));
        };
        let task = ModelRun { model, options: &options, names: run.names, inputs, outputs };
        match framework {
            Framework::Onnx => Task::OnnxModelRun(task),
            Framework::TensorFlow => Task::TfModelRun(task),
            Framework::TfLite => Task::TfliteModelRun(task),
            Framework::Torch => Task::TorchModelRun(task),
        }
    };
    let report = session.perform(py, run.timeout, task, copied)?;
    let results = held.into_iter().map(|held| held.results(py)).collect::<PyResult<_>>()?;
    Ok((report, results))
}

/// A set whose arrays are held.
struct Held {
    inputs: Vec<(In, Dims)>,
    outputs: Vec<Room>,
}

/// Where an output goes.
enum Room {
    Given { view: Out, dtype: Dtype, dims: Dims, written: u64 },
    Grown(TensorBuf),
}

impl Held {
    fn new((inputs, given): &Set<'_>, outputs: usize) -> PyResult<Self> {
        let inputs = inputs.iter().enumerate().map(|(index, array)| input(index, array)).collect::<PyResult<_>>()?;
        let outputs = match given {
            None => (0..outputs).map(|_| Room::Grown(TensorBuf::new())).collect(),
            Some(given) => {
                given.iter().enumerate().map(|(index, array)| room(index, array)).collect::<PyResult<_>>()?
            }
        };
        Ok(Self { inputs, outputs })
    }

    fn lend(&mut self) -> PyResult<BatchSet<'_>> {
        let inputs = self.inputs.iter().enumerate().map(|(index, (view, dims))| {
            let elements = Elements::from_bytes(view.dtype(), view.bytes()).map_err(bad("input", index))?;
            Tensor::new(elements, *dims).map_err(bad("input", index))
        });
        let inputs = inputs.collect::<PyResult<_>>()?;
        let outputs = self.outputs.iter_mut().enumerate().map(|(index, room)| match room {
            Room::Given { view, dtype, dims, written } => {
                TensorOut::new(view.bytes(), dtype, dims, written).map_err(bad("output", index))
            }
            Room::Grown(buf) => Ok(TensorOut::from(buf)),
        });
        Ok(BatchSet { inputs, outputs: outputs.collect::<PyResult<_>>()? })
    }

    fn results(self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let result = |room| match room {
            Room::Given { dims, .. } => Ok(PyTuple::new(py, dims.sizes())?.into_any().unbind()),
            Room::Grown(buf) => Ok(Py::new(py, tensor::Tensor::new(buf)?)?.into_any()),
        };
        self.outputs.into_iter().map(result).collect()
    }
}

fn bad(name: &'static str, index: usize) -> impl Fn(ArgError) -> PyErr {
    move |error| bad_value(format!("{name} {index}: {error}"))
}

fn input(index: usize, array: &Bound<'_, PyAny>) -> PyResult<(In, Dims)> {
    let name = format!("input {index}");
    let view = In::new(array, &name)?;
    let sizes: Vec<u64> = view.shape().iter().map(|&size| size as u64).collect();
    let dims = Dims::new(&sizes).map_err(|error| bad_value(format!("{name}: {error}")))?;
    Ok((view, dims))
}

fn room(index: usize, array: &Bound<'_, PyAny>) -> PyResult<Room> {
    let view = Out::new(array, &format!("output {index}"))?;
    let dtype = view.dtype();
    Ok(Room::Given { view, dtype, dims: Dims::NONE, written: 0 })
}
