//! Runs a model on tensors of the guest.
//! Called by the plugin. Inputs are read where the guest has them, but for 64-bit integers, which rten does not
//! have; outputs are written once, from the tensors that rten allocates, since it cannot be given any.
//! Both are counted as copied.

use kernlet_accel::{
    Deadline, Dims, Done, PluginError,
    operation::{Element, Elements, ModelRun, Tensor, TensorOut},
};
use rten::{RunError, RunErrorKind, RunOptions, Value, ValueOrView, ValueView};
use rten_tensor::{Layout as _, TensorView};

use super::model::LoadedModel;
use crate::fit::FitError;

/// An input as rten takes it: the guest's own elements, or converted ones.
enum Input<'a> {
    Borrowed(ValueView<'a>),
    Converted(Value),
}

/// Runs a model.
pub(super) fn run(
    model: &LoadedModel,
    task: ModelRun<'_>,
    deadline: Deadline,
    options: &RunOptions,
) -> Result<Done, PluginError> {
    let LoadedModel { model, stages, .. } = model;
    let ModelRun { inputs, mut outputs, .. } = task;
    if inputs.len() != model.input_ids().len() || outputs.len() != model.output_ids().len() {
        Err(FitError::Count {
            model_inputs: model.input_ids().len(),
            model_outputs: model.output_ids().len(),
            inputs: inputs.len(),
            outputs: outputs.len(),
        })?;
    }
    let mut bytes_copied = 0;
    let mut values = Vec::with_capacity(inputs.len());
    for (index, (tensor, &node)) in inputs.iter().zip(model.input_ids()).enumerate() {
        let value: ValueOrView<'_> = match input(index, tensor)? {
            Input::Borrowed(view) => view.into(),
            Input::Converted(value) => {
                bytes_copied += tensor.elements().len() as u64 * size_of::<i64>() as u64;
                value.into()
            }
        };
        values.push((node, value));
    }
    deadline.check("the model was run")?;
    let results = stages.run(model, &values, model.output_ids(), options, deadline)?;
    for (index, (result, room)) in results.iter().zip(&mut outputs).enumerate() {
        bytes_copied += write(index, result, room)?;
    }
    Ok(Done { bytes_copied })
}

/// Whose fault it is that rten did not run a model: that of tensors which do not fit, or its own.
pub(super) fn run_error(error: RunError) -> PluginError {
    match error.kind() {
        RunErrorKind::InvalidInput | RunErrorKind::OperatorError => PluginError::invalid(error),
        _ => PluginError::failed(error),
    }
}

fn input<'a>(index: usize, tensor: &Tensor<'a>) -> Result<Input<'a>, PluginError> {
    let sizes = tensor.dims().sizes().iter().map(|&size| usize::try_from(size));
    let shape: Vec<usize> = sizes.collect::<Result<_, _>>().map_err(|_| FitError::Size { index })?;
    match tensor.elements() {
        Elements::F32(elements) => borrowed(&shape, elements),
        Elements::I32(elements) => borrowed(&shape, elements),
        Elements::U8(elements) => borrowed(&shape, elements),
        Elements::I8(elements) => borrowed(&shape, elements),
        Elements::I64(elements) => {
            let narrow = |&value| i32::try_from(value).map_err(|_| FitError::Integer { index, value });
            let elements = elements.iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
            Value::from_shape(shape, elements).map(Input::Converted).map_err(PluginError::failed)
        }
        other => Err(PluginError::declined(FitError::Type { index, dtype: other.dtype() }.to_string())),
    }
}

fn borrowed<'a, T>(shape: &[usize], elements: &'a [T]) -> Result<Input<'a>, PluginError>
where
    ValueView<'a>: From<TensorView<'a, T>>,
{
    ValueView::from_shape(shape, elements).map(Input::Borrowed).map_err(PluginError::failed)
}

/// Writes a result to its room and says how many bytes that took.
fn write(index: usize, result: &Value, room: &mut TensorOut<'_>) -> Result<u64, PluginError> {
    let fit = |source| FitError::Output { index, source };
    let sizes: Vec<u64> = result.shape().iter().map(|&size| size as u64).collect();
    let dims = Dims::new(&sizes).map_err(PluginError::failed)?;
    let bytes = match result.as_view() {
        ValueView::FloatTensor(view) => copy(room.claim(dims).map_err(fit)?, &view, |value| value),
        // rten gives 64-bit integers of a model as 32-bit ones.
        ValueView::Int32Tensor(view) if room.dtype() == Some(<i64 as Element>::DTYPE) => {
            copy(room.claim(dims).map_err(fit)?, &view, i64::from)
        }
        ValueView::Int32Tensor(view) => copy(room.claim(dims).map_err(fit)?, &view, |value| value),
        ValueView::UInt8Tensor(view) => copy(room.claim(dims).map_err(fit)?, &view, |value| value),
        ValueView::Int8Tensor(view) => copy(room.claim(dims).map_err(fit)?, &view, |value| value),
        other => return Err(FitError::NotATensor { index, found: other.dtype().to_string() }.into()),
    };
    Ok(bytes)
}

fn copy<T: Copy, U>(room: &mut [U], from: &TensorView<'_, T>, convert: impl Fn(T) -> U) -> u64 {
    match from.data() {
        Some(elements) => room.iter_mut().zip(elements).for_each(|(to, &from)| *to = convert(from)),
        None => room.iter_mut().zip(from.iter()).for_each(|(to, &from)| *to = convert(from)),
    }
    size_of_val(room) as u64
}
