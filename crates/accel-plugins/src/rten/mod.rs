//! ONNX models by `rten`, which is pure Rust: running them, and classifying pictures with them.
//! Called by the runtime. Never opens a file: models come as resources, and a model that refers to data outside
//! itself is refused.

mod cache;
mod classify;
mod model;
pub(crate) mod picture;
mod preprocess;
mod ranking;
mod run;

use kernlet_accel::{Cost, Deadline, Done, Offer, Operation, Plugin, PluginError, operation::Task};

use self::{cache::ResourceCache, model::LoadedModel};

/// The plugin `rten`. It loads each model once and keeps it as long as somebody has the resource. Inference
/// uses as many threads as there are cores, or `RTEN_NUM_THREADS`; one that runs is not interrupted by a
/// deadline.
#[derive(Debug, Default)]
pub struct Rten {
    models: ResourceCache<LoadedModel, model::ModelError>,
}

impl Rten {
    /// The plugin, without any model loaded.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Plugin for Rten {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn operations(&self) -> &[Offer] {
        // MobileNetV2 on two cores.
        &[
            Offer { operation: Operation::ImageClassify, cost: Cost(14_000) },
            Offer { operation: Operation::OnnxModelLoad, cost: Cost(15_000) },
            Offer { operation: Operation::OnnxModelRun, cost: Cost(12_000) },
        ]
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let load = |resource: &_| self.models.get(resource, LoadedModel::load).map_err(PluginError::invalid);
        match task {
            Task::ImageClassify(task) => classify::classify(&*load(&task.model)?, task, deadline),
            Task::OnnxModelLoad(task) => classify::warm_up(&*load(&task.model)?).map(|()| Done::default()),
            Task::OnnxModelRun(task) => run::run(&*load(&task.model)?, task, deadline),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}
