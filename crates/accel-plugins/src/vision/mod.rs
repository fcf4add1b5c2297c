//! Classifies one picture with whatever runs the model: decode, resize and crop, infer, rank.
//! Called by the plugins that run models. Never copies the file: it is decoded where the guest has it.

pub(crate) mod picture;
mod preprocess;
mod ranking;

use kernlet_accel::{
    Cost, Deadline, Done, PluginError, Resource,
    operation::{Classify, Task},
};

use self::picture::PictureError;

/// Largest height or width that a classifier may ask for, in pixels: the input is allocated at that size.
const INPUT_SIDE_MAX: usize = 2048;

/// Size of the picture that a model takes, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InputSize {
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl InputSize {
    /// The size, where pictures of it can be made.
    pub(crate) fn new(height: usize, width: usize) -> Option<Self> {
        let is_side = |side| (1..=INPUT_SIDE_MAX).contains(&side);
        (is_side(height) && is_side(width)).then_some(Self { height, width })
    }

    /// Elements of the input: three colours.
    pub(crate) const fn elements(self) -> usize {
        3 * self.height * self.width
    }
}

/// Why a model is no classifier of pictures.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoClassifier {
    /// It does not take pictures.
    #[error(
        "the model takes {found}; to classify pictures it must take one f32 tensor [N,3,height,width] of a fixed \
         size of at most {INPUT_SIDE_MAX}"
    )]
    Input {
        /// Its inputs.
        found: String,
    },
    /// It does not give classes.
    #[error("the model gives {found}; to classify pictures it must give one f32 tensor [N,classes]")]
    Output {
        /// Its outputs.
        found: String,
    },
}

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

/// What a task on a model is expected to take: a call, and an inference in proportion to the model's size, so many bytes of
/// it in a microsecond; a picture takes its own time besides. To load a model costs what running it does, so that a model is
/// loaded where it will be run.
pub(crate) fn cost(task: &Task<'_>, call: Cost, bytes_per_micro: u64, picture: Cost) -> Cost {
    let of = |model: &Resource, besides| Cost::of_work(besides, model.size(), bytes_per_micro);
    match task {
        Task::ImageClassify(task) => {
            let besides = Cost::nanos(call.as_nanos().saturating_add(picture.as_nanos()));
            task.model.as_ref().map_or(besides, |model| of(model, besides))
        }
        Task::OnnxModelLoad(task) | Task::OnnxModelUnload(task) => of(&task.model, call),
        Task::OnnxModelRun(task) => of(&task.model, call),
        Task::OnnxModelRunBatch(task) => {
            let one = of(&task.model, call).as_nanos();
            Cost::nanos(one.saturating_mul(task.sets.len() as u64))
        }
        _ => Cost::nanos(u64::MAX),
    }
}

/// The model of a picture that is to be classified.
///
/// # Errors
/// The plugin declines where there is none, since it brings none.
pub(crate) fn model_of<'a>(task: &'a Classify<'_>) -> Result<&'a Resource, PluginError> {
    task.model.as_ref().ok_or_else(|| PluginError::declined("it needs an ONNX model, and the caller has none"))
}

/// Fills in the best classes of a picture. `infer` gives the logits of an input `[1,3,height,width]`.
pub(crate) fn classify(
    mut task: Classify<'_>,
    size: InputSize,
    deadline: Deadline,
    infer: impl FnOnce(&[f32]) -> Result<Vec<f32>, PluginError>,
) -> Result<Done, PluginError> {
    let picture = picture::decode(task.picture).map_err(picture_error)?;
    deadline.check("the picture was resized")?;
    let input = preprocess::to_input(&picture, size).map_err(PluginError::failed)?;
    deadline.check("the picture was classified")?;
    let logits = infer(&input)?;
    let best = ranking::best(&logits, task.ranking.room()).map_err(PluginError::invalid)?;
    let labels = labels(task.labels.as_ref(), logits.len()).map_err(PluginError::invalid)?;
    let label = |class| usize::try_from(class).ok().and_then(|class| labels.get(class)).copied().unwrap_or_default();
    task.ranking.fill(best.into_iter().map(|(class, probability)| (class, probability, label(class))));
    Ok(Done::default())
}

/// The logits of an output, which must be `[1,classes]`; `found` says in words what it is.
pub(crate) fn logits(
    shape: &[usize],
    elements: Vec<f32>,
    found: impl FnOnce() -> String,
) -> Result<Vec<f32>, PluginError> {
    let &[1, classes] = shape else {
        return Err(not_logits(found()));
    };
    if u32::try_from(classes).is_err() {
        return Err(PluginError::invalid(ClassifyError::TooManyClasses { classes }));
    }
    Ok(elements)
}

/// An output that is something else than logits.
pub(crate) fn not_logits(found: String) -> PluginError {
    PluginError::invalid(ClassifyError::Output { found })
}

fn picture_error(error: PictureError) -> PluginError {
    if error.is_too_large() { PluginError::out_of_memory(error) } else { PluginError::invalid(error) }
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
