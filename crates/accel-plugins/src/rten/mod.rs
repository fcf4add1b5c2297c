//! ONNX models by `rten`, which is pure Rust: running them, and classifying pictures with them.
//! Called by the runtime. Never opens a file: models come as resources, and a model that refers to data outside
//! itself is refused.

mod classify;
mod model;
mod pools;
mod run;
mod stages;

use std::num::NonZeroUsize;

use kernlet_accel::{
    Cost, Deadline, Done, Operation, Plugin, PluginError, Resource,
    operation::{ModelRun, Task},
};

use self::{
    model::{LoadedModel, NotLoadable},
    pools::Pools,
};
use crate::{cache::ResourceCache, stack::Stacks, vision};

/// What it has.
pub(crate) const OPERATIONS: [Operation; 5] = [
    Operation::ImageClassify,
    Operation::OnnxModelLoad,
    Operation::OnnxModelRun,
    Operation::OnnxModelUnload,
    Operation::OnnxModelRunBatch,
];

/// The plugin `rten`. It loads each model once and keeps it as long as somebody has the resource. An inference that runs
/// alone uses as many threads as there are processors, or `RTEN_NUM_THREADS`, or as many as it is told; one whose
/// deadline is over ends between two of its parts.
#[derive(Debug, Default)]
pub struct Rten {
    models: ResourceCache<LoadedModel, NotLoadable>,
    pools: Pools,
    stacks: Stacks,
}

impl Rten {
    /// The plugin, without any model loaded.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with so many threads.
    #[must_use]
    pub fn with_threads(threads: NonZeroUsize) -> Self {
        Self { pools: Pools::new(threads), ..Self::default() }
    }
}

impl Plugin for Rten {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        // MobileNetV2 on two cores: 13.2 ms an inference, and 1.1 ms for a picture before and after it.
        vision::cost(task, Cost::micros(20), 540, Cost::micros(1_100))
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let load = |resource: &Resource| self.models.get(resource, LoadedModel::load).map_err(not_loaded);
        match task {
            Task::ImageClassify(task) => {
                let model = load(vision::model_of(&task)?)?;
                classify::classify(&model, task, deadline, &self.pools.turn().options)
            }
            Task::OnnxModelLoad(task) => {
                let model = load(&task.model)?;
                classify::warm_up(&model, deadline, &self.pools.turn().options).map(|()| Done::default())
            }
            Task::OnnxModelRun(task) => {
                let model = load(&task.model)?;
                run::run(&model, task, deadline, &self.pools.turn().options)
            }
            Task::OnnxModelUnload(task) => {
                self.models.remove(&task.model);
                self.stacks.remove(&task.model);
                Ok(Done::default())
            }
            Task::OnnxModelRunBatch(task) => {
                let model = load(&task.model)?;
                let turn = self.pools.turn();
                let run = |task: ModelRun<'_>| run::run(&model, task, deadline, &turn.options);
                self.stacks.run(task, || model.shares_first_dimension(), run)
            }
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}

fn not_loaded(error: NotLoadable) -> PluginError {
    if error.is_unsupported { PluginError::declined(error.to_string()) } else { PluginError::invalid(error) }
}
