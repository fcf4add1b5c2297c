//! Classifies one picture: decode, resize and crop, infer, rank.
//! Called by the plugin. Never copies the file: it is decoded where the guest has it.

use kernlet_accel::{Deadline, Done, PluginError, Resource, operation::Classify};
use rten::{Value, ValueView};
use rten_tensor::{AsView as _, Layout as _};

use super::{
    model::{Classifier, LoadedModel},
    picture::{self, PictureError},
    preprocess, ranking,
    run::run_error,
};

/// What does not fit in a model's output or the labels.
#[derive(Debug, thiserror::Error)]
enum ClassifyError {
    /// The labels are no text.
    #[error("the labels are not UTF-8 text; give one label a line")]
    LabelsNotText(#[source] std::str::Utf8Error),
    /// There are more or fewer labels than classes.
    #[error("there are {labels} labels and the model has {classes} classes; give one label a line for each class")]
    LabelCount { labels: usize, classes: usize },
    /// The output is not `[1,classes]`.
    #[error("the model gave {found}; to classify a picture it must give f32 [1,classes]")]
    Output { found: String },
    /// More classes than an index has room for.
    #[error("the model gave {classes} classes, which is too many")]
    TooManyClasses { classes: usize },
}

/// Fills in the best classes of a picture.
pub(super) fn classify(model: &LoadedModel, mut task: Classify<'_>, deadline: Deadline) -> Result<Done, PluginError> {
    let classifier = model.classifier().map_err(PluginError::invalid)?;
    let picture = picture::decode(task.picture).map_err(picture_error)?;
    deadline.check("the picture was resized")?;
    let input = preprocess::to_input(&picture, classifier.size).map_err(PluginError::failed)?;
    deadline.check("the picture was classified")?;
    let logits = infer(model, &classifier, &input)?;
    let logits = logits_of(&logits).map_err(PluginError::invalid)?;
    let best = ranking::best(&logits, task.ranking.room()).map_err(PluginError::invalid)?;
    let labels = labels(task.labels.as_ref(), logits.len()).map_err(PluginError::invalid)?;
    let label = |class| usize::try_from(class).ok().and_then(|class| labels.get(class)).copied().unwrap_or_default();
    task.ranking.fill(best.into_iter().map(|(class, probability)| (class, probability, label(class))));
    Ok(Done::default())
}

/// Runs a classifier once on nothing, so that the first picture finds the plan of the graph made, threads started
/// and memory mapped. Does nothing the second time, and for other models, whose inputs nobody knows yet.
pub(super) fn warm_up(model: &LoadedModel) -> Result<(), PluginError> {
    let Ok(classifier) = model.classifier() else {
        return Ok(());
    };
    if model.take_warm_up() {
        infer(model, &classifier, &vec![0.0; 3 * classifier.size.height * classifier.size.width])?;
    }
    Ok(())
}

fn picture_error(error: PictureError) -> PluginError {
    if error.is_too_large() { PluginError::out_of_memory(error) } else { PluginError::invalid(error) }
}

fn infer(model: &LoadedModel, classifier: &Classifier, input: &[f32]) -> Result<Value, PluginError> {
    let shape = [1, 3, classifier.size.height, classifier.size.width];
    let input = ValueView::from_shape(shape, input).map_err(PluginError::failed)?;
    let [output] =
        model.model.run_n(vec![(classifier.input, input.into())], [classifier.output], None).map_err(run_error)?;
    Ok(output)
}

fn logits_of(output: &Value) -> Result<Vec<f32>, ClassifyError> {
    let unfit = || ClassifyError::Output { found: format!("{} {:?}", output.dtype(), output.shape()) };
    let ValueView::FloatTensor(logits) = output.as_view() else {
        return Err(unfit());
    };
    let &[1, classes] = logits.shape() else {
        return Err(unfit());
    };
    if u32::try_from(classes).is_err() {
        return Err(ClassifyError::TooManyClasses { classes });
    }
    Ok(logits.to_vec())
}

/// The labels by class; none for a picture that is classified without.
fn labels(resource: Option<&Resource>, classes: usize) -> Result<Vec<&str>, ClassifyError> {
    let Some(resource) = resource else {
        return Ok(Vec::new());
    };
    let text = std::str::from_utf8(resource.bytes()).map_err(ClassifyError::LabelsNotText)?;
    let labels: Vec<_> = text.lines().collect();
    if labels.len() != classes {
        return Err(ClassifyError::LabelCount { labels: labels.len(), classes });
    }
    Ok(labels)
}
