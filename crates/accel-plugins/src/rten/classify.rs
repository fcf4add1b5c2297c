//! Runs a model as a classifier of pictures.
//! Called by the plugin; what comes before and after the inference is `vision`'s. Never copies the input.

use kernlet_accel::{Deadline, Done, PluginError, operation::Classify};
use rten::{RunOptions, Value, ValueView};
use rten_tensor::{AsView as _, Layout as _};

use super::model::{Classifier, LoadedModel};
use crate::vision;

/// Fills in the best classes of a picture.
pub(super) fn classify(
    model: &LoadedModel,
    task: Classify<'_>,
    deadline: Deadline,
    options: &RunOptions,
) -> Result<Done, PluginError> {
    let classifier = model.classifier().map_err(PluginError::invalid)?;
    vision::classify(task, classifier.size, deadline, |input| {
        logits_of(&infer(model, &classifier, input, options, deadline)?)
    })
}

/// Runs a classifier once on nothing, so that the first picture finds the plan of the graph made, threads started
/// and memory mapped. Does nothing the second time, and for other models, whose inputs nobody knows yet.
pub(super) fn warm_up(model: &LoadedModel, deadline: Deadline, options: &RunOptions) -> Result<(), PluginError> {
    let Ok(classifier) = model.classifier() else {
        return Ok(());
    };
    if model.take_warm_up() {
        infer(model, &classifier, &vec![0.0; classifier.size.elements()], options, deadline)?;
    }
    Ok(())
}

fn infer(
    model: &LoadedModel,
    classifier: &Classifier,
    input: &[f32],
    options: &RunOptions,
    deadline: Deadline,
) -> Result<Value, PluginError> {
    let shape = [1, 3, classifier.size.height, classifier.size.width];
    let input = ValueView::from_shape(shape, input).map_err(PluginError::failed)?;
    let inputs = [(classifier.input, input.into())];
    let mut outputs = model.stages.run(&model.model, &inputs, &[classifier.output], options, deadline)?;
    outputs.pop().ok_or_else(|| PluginError::failed("rten gives no output"))
}

fn logits_of(output: &Value) -> Result<Vec<f32>, PluginError> {
    let found = || format!("{} {:?}", output.dtype(), output.shape());
    let ValueView::FloatTensor(logits) = output.as_view() else {
        return Err(vision::not_logits(found()));
    };
    vision::logits(logits.shape(), logits.to_vec(), found)
}
