//! Runs a model on tensors of the caller, and as a classifier of pictures.
//! Called by the plugin. Inputs are read where the caller has them. Outputs are written there as well where their shape
//! is known before the run, from the model and the shapes of its inputs; else they are copied once, and counted.

use std::{collections::HashMap, sync::Arc};

use kernlet_accel::{
    Deadline, Dims, Done, Dtype, PluginError,
    operation::{Classify, Elements, ModelRun, Tensor, TensorOut},
};
use ort::{ErrorCode, session::RunOptions};
use zerocopy::IntoBytes as _;

use super::{
    model::{LoadedModel, Port, one_line, says_out_of_memory},
    value::{self, Lent, Owned},
};
use crate::{cancel::Canceller, fit::FitError, vision};

/// Why an inference ended without a result.
#[derive(Debug, thiserror::Error)]
#[error("ONNX Runtime cannot run the model on this ({0})")]
struct Failed(String);

/// Runs a model.
pub(super) fn run(
    model: &LoadedModel,
    task: ModelRun<'_>,
    deadline: Deadline,
    canceller: &Canceller,
) -> Result<Done, PluginError> {
    let ModelRun { inputs, mut outputs, .. } = task;
    if inputs.len() != model.inputs.len() || outputs.len() != model.outputs.len() {
        Err(FitError::Count {
            model_inputs: model.inputs.len(),
            model_outputs: model.outputs.len(),
            inputs: inputs.len(),
            outputs: outputs.len(),
        })?;
    }
    for (index, (tensor, port)) in inputs.iter().zip(&model.inputs).enumerate() {
        if !port.takes(tensor) {
            let given = format!("{} {}", tensor.elements().dtype(), tensor.dims());
            Err(FitError::Input { index, given, takes: port.words.clone() })?;
        }
    }
    let lent: Vec<_> =
        inputs.iter().enumerate().map(|(index, tensor)| lend(index, tensor)).collect::<Result<_, _>>()?;
    let inputs_named: Vec<_> = model.inputs.iter().map(|port| port.name.as_c_str()).zip(&lent).collect();
    let names = names(model, &inputs);
    let known: Vec<_> = model.outputs.iter().map(|port| port.known_dims(&names)).collect();
    let run = Run { model, inputs: &inputs_named, deadline, canceller };
    if known.iter().any(Option::is_some) {
        match run.in_place(&mut outputs, &known) {
            // A model whose outputs are not what it says runs once more, into memory of the library's.
            Err(RunError::Ort(error)) if is_about_shape(&error) => {}
            result => return result.map_err(|error| error.for_plugin(deadline)),
        }
    }
    run.in_place(&mut outputs, &vec![None; known.len()]).map_err(|error| error.for_plugin(deadline))
}

/// Fills in the best classes of a picture.
pub(super) fn classify(
    model: &LoadedModel,
    task: Classify<'_>,
    deadline: Deadline,
    canceller: &Canceller,
) -> Result<Done, PluginError> {
    let size = model.classifier().map_err(PluginError::invalid)?;
    vision::classify(task, size, deadline, |input| infer(model, size, input, deadline, canceller))
}

/// Runs a classifier once on nothing, so that the first picture finds memory mapped and threads awake. Does nothing
/// the second time, and for other models, whose inputs nobody knows yet.
pub(super) fn warm_up(model: &LoadedModel, deadline: Deadline, canceller: &Canceller) -> Result<(), PluginError> {
    if let (Ok(size), true) = (model.classifier(), model.take_warm_up()) {
        infer(model, size, &vec![0.0; size.elements()], deadline, canceller)?;
    }
    Ok(())
}

fn infer(
    model: &LoadedModel,
    size: vision::InputSize,
    input: &[f32],
    deadline: Deadline,
    canceller: &Canceller,
) -> Result<Vec<f32>, PluginError> {
    let shape = [1, 3, size.height, size.width].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    let input = Lent::read(input.as_bytes(), Dtype::F32, &shape).map_err(failed)?;
    let inputs: Vec<_> = model.inputs.iter().map(|port| (port.name.as_c_str(), &input)).collect();
    let run = Run { model, inputs: &inputs, deadline, canceller };
    let mut outputs: Vec<_> = model.outputs.iter().map(|port| (port.name.as_c_str(), None)).collect();
    let made = run.call(&mut outputs).map_err(|error| error.for_plugin(deadline))?;
    let view = made.first().map(Owned::view).transpose().map_err(failed)?.flatten();
    match view {
        Some(view) if view.dtype == Dtype::F32 => {
            let shape: Vec<_> = view.dims.iter().map(|&size| usize::try_from(size).unwrap_or(usize::MAX)).collect();
            let mut logits = vec![0.0_f32; view.bytes.len() / size_of::<f32>()];
            logits.as_mut_bytes().copy_from_slice(view.bytes);
            vision::logits(&shape, logits, || format!("f32 {:?}", view.dims))
        }
        Some(view) => Err(vision::not_logits(format!("{} {:?}", view.dtype, view.dims))),
        None => Err(vision::not_logits("something that is no tensor".to_owned())),
    }
}

/// One run of a model.
struct Run<'r> {
    model: &'r LoadedModel,
    inputs: &'r [(&'r std::ffi::CStr, &'r Lent<'r>)],
    deadline: Deadline,
    canceller: &'r Canceller,
}

/// Why a run did not come to an end.
enum RunError {
    Ort(ort::Error),
    Plugin(PluginError),
}

impl RunError {
    fn for_plugin(self, deadline: Deadline) -> PluginError {
        match self {
            Self::Plugin(error) => error,
            Self::Ort(_) if deadline.has_passed() => {
                PluginError::DeadlinePassed { step: "the model had run to its end" }
            }
            Self::Ort(error) => failed(error),
        }
    }
}

impl From<ort::Error> for RunError {
    fn from(error: ort::Error) -> Self {
        Self::Ort(error)
    }
}

impl<E: Into<PluginError>> From<(E,)> for RunError {
    fn from((error,): (E,)) -> Self {
        Self::Plugin(error.into())
    }
}

impl Run<'_> {
    /// Runs with the outputs of a known shape written in place, and copies the others.
    fn in_place(&self, rooms: &mut [TensorOut<'_>], known: &[Option<Dims>]) -> Result<Done, RunError> {
        let ports = &self.model.outputs;
        let mut lent = Vec::with_capacity(rooms.len());
        for (index, ((room, port), dims)) in rooms.iter_mut().zip(ports).zip(known).enumerate() {
            lent.push(lend_room(index, port, room, dims.as_ref())?);
        }
        let mut outputs: Vec<_> =
            ports.iter().map(|port| port.name.as_c_str()).zip(lent.iter_mut().map(Option::as_mut)).collect();
        let made = self.call(&mut outputs)?;
        let missing: Vec<_> = lent.iter().map(Option::is_none).collect();
        drop(lent);
        let rooms = rooms.iter_mut().enumerate().zip(missing).filter(|(_, missing)| *missing);
        let mut bytes_copied = 0;
        for (((index, room), _), value) in rooms.zip(&made) {
            bytes_copied += copy_out(index, value, room)?;
        }
        Ok(Done { bytes_copied })
    }

    fn call(&self, outputs: &mut [(&std::ffi::CStr, Option<&mut Lent<'_>>)]) -> Result<Vec<Owned>, RunError> {
        let _turn = self.model.turn();
        self.deadline.check("the model was run").map_err(RunError::Plugin)?;
        let options = Arc::new(RunOptions::new()?);
        let _watch = self.deadline.instant().map(|deadline| {
            let options = Arc::clone(&options);
            // Where the run cannot be told to stop, it ends by itself.
            self.canceller.watch(deadline, move || drop(options.terminate()))
        });
        Ok(value::run(self.model.session(), &options, self.inputs, outputs)?)
    }
}

/// The sizes of the model's named dimensions, by the shapes of the inputs.
fn names<'a>(model: &'a LoadedModel, inputs: &'a [Tensor<'_>]) -> HashMap<&'a str, u64> {
    model.inputs.iter().zip(inputs).flat_map(|(port, tensor)| port.named(tensor.dims())).collect()
}

fn lend<'a>(index: usize, tensor: &Tensor<'a>) -> Result<Lent<'a>, PluginError> {
    let shape = shape(tensor.dims()).ok_or(FitError::Size { index })?;
    let elements = tensor.elements();
    // What is neither true nor false to C++ is not defined.
    if let Elements::Bool(values) = elements
        && values.iter().any(|&value| value > 1)
    {
        Err(FitError::NotTruth { index })?;
    }
    Lent::read(elements.bytes(), elements.dtype(), &shape).map_err(PluginError::failed)
}

/// Room as a tensor that the library writes; `None` where the library is to make one.
fn lend_room<'a>(
    index: usize,
    port: &Port,
    room: &'a mut TensorOut<'_>,
    dims: Option<&Dims>,
) -> Result<Option<Lent<'a>>, RunError> {
    let (Some(dims), Some(dtype)) = (dims, port.dtype) else {
        return Ok(None);
    };
    let shape = shape(dims).ok_or((FitError::Size { index },))?;
    let bytes = room.claim_bytes(dtype, *dims).map_err(|source| (FitError::Output { index, source },))?;
    Ok(Some(Lent::write(bytes, dtype, &shape)?))
}

/// Copies a tensor of the library's to its room and says how many bytes that took.
fn copy_out(index: usize, value: &Owned, room: &mut TensorOut<'_>) -> Result<u64, RunError> {
    let view = value.view()?.ok_or((FitError::NotATensor { index, found: "value of another kind".to_owned() },))?;
    let dims = Dims::new(&view.dims).map_err(|error| RunError::Plugin(PluginError::failed(error)))?;
    let bytes = room.claim_bytes(view.dtype, dims).map_err(|source| (FitError::Output { index, source },))?;
    bytes.copy_from_slice(view.bytes);
    Ok(view.bytes.len() as u64)
}

fn shape(dims: &Dims) -> Option<Vec<i64>> {
    dims.sizes().iter().map(|&size| i64::try_from(size).ok()).collect()
}

/// Whether a run failed since an output has another shape than the model says. The words are those of versions up to
/// 1.20, and of 1.32.
fn is_about_shape(error: &ort::Error) -> bool {
    [
        "Shape mismatch attempting to re-use buffer",
        "OrtValue shape verification failed",
        "but the computed output shape",
    ]
    .iter()
    .any(|words| error.message().contains(words))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn failed(error: ort::Error) -> PluginError {
    let reason = one_line(error.message());
    if says_out_of_memory(&reason) {
        return PluginError::out_of_memory(Failed(reason));
    }
    match error.code() {
        ErrorCode::ExecutionProviderFailure | ErrorCode::EngineError | ErrorCode::DeviceReset => {
            PluginError::failed(Failed(reason))
        }
        _ => PluginError::invalid(Failed(reason)),
    }
}
