//! ONNX models by Microsoft's ONNX Runtime, which is opened at run time where it is installed: running them, and
//! classifying pictures with them.
//! Called by the runtime. Never opens a file for a model: models come as resources, and one that refers to data outside
//! itself is refused before the library sees it.

mod library;
mod model;
mod providers;
mod run;
mod value;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use kernlet_accel::{
    Cost, Deadline, Done, Kinds, Operation, Plugin, PluginError, Resource,
    operation::{ModelRun, Task},
};

use self::{
    library::Opened,
    model::{LoadedModel, NotLoadable},
};
pub use self::{library::Unavailable, providers::Provider};
use crate::{cache::ResourceCache, cancel::Canceller, stack::Stacks, vision};

/// What it has.
pub(crate) const OPERATIONS: [Operation; 5] = [
    Operation::ImageClassify,
    Operation::OnnxModelLoad,
    Operation::OnnxModelRun,
    Operation::OnnxModelUnload,
    Operation::OnnxModelRunBatch,
];

/// What installs it.
pub(crate) const REMEDY: &str = "pip install onnxruntime";

/// How ONNX Runtime is found and used. A process has one ONNX Runtime: the first who opens it decides.
#[derive(Clone, Debug)]
pub struct OnnxRuntimeOptions {
    /// The library's file; else `ORT_DYLIB_PATH` says it, else it is looked for.
    pub library: Option<PathBuf>,
    /// Threads of an inference, of all models together; else one for each processor.
    pub threads: Option<NonZeroUsize>,
    /// Whether threads that wait for work keep their processors for a while: faster, where nothing else needs them.
    pub spin: bool,
    /// Most bytes that all models take together, weights and what an inference needs.
    pub memory_max: usize,
    /// What is tried besides the processor.
    pub providers: Vec<Provider>,
}

impl Default for OnnxRuntimeOptions {
    /// What is found, on all processors, without spinning, within 4 GiB, on any card that works.
    fn default() -> Self {
        Self {
            library: None,
            threads: None,
            spin: false,
            memory_max: 4 * 1024 * 1024 * 1024,
            providers: Provider::ALL.to_vec(),
        }
    }
}

/// The plugin `onnxruntime`. It loads each model once and keeps it as long as somebody has the resource. An inference
/// that runs is told to stop when its deadline is over.
#[derive(Debug)]
pub struct OnnxRuntime {
    opened: Arc<Opened>,
    models: ResourceCache<LoadedModel, NotLoadable>,
    canceller: Canceller,
    stacks: Stacks,
}

impl OnnxRuntime {
    /// The plugin, without any model loaded.
    ///
    /// # Errors
    /// [`Unavailable`] says where the library was looked for and what is wrong with what was found.
    pub fn open(options: &OnnxRuntimeOptions) -> Result<Self, Unavailable> {
        let opened = library::open(options)?;
        Ok(Self {
            opened,
            models: ResourceCache::default(),
            canceller: Canceller::default(),
            stacks: Stacks::default(),
        })
    }

    /// What was found, in words: version, file, providers.
    #[must_use]
    pub fn found(&self) -> String {
        let Opened { path, version, selection, .. } = &*self.opened;
        format!("ONNX Runtime {version} in {} on {selection}", path.display())
    }

    fn model(&self, resource: &Resource) -> Result<Arc<LoadedModel>, PluginError> {
        self.models.get(resource, |resource| LoadedModel::load(&self.opened, resource)).map_err(|error| match error {
            NotLoadable::TooLarge { .. } => PluginError::out_of_memory(error),
            // Another plugin may have what this one lacks.
            NotLoadable::Unsupported { .. } => PluginError::declined(error.to_string()),
            error => PluginError::invalid(error),
        })
    }
}

impl Plugin for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        // MobileNetV2 on two cores: 4.4 ms an inference, and 0.8 ms for a picture before and after it.
        vision::cost(task, Cost::micros(20), 1_600, Cost::micros(800))
    }

    fn kinds(&self) -> Kinds {
        if self.opened.selection.used.is_empty() { Kinds::CPU | Kinds::SOFTWARE } else { Kinds::CPU | Kinds::GPU }
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let canceller = &self.canceller;
        match task {
            Task::ImageClassify(task) => {
                let model = self.model(vision::model_of(&task)?)?;
                run::classify(&model, task, deadline, canceller)
            }
            Task::OnnxModelLoad(task) => {
                run::warm_up(&*self.model(&task.model)?, deadline, canceller).map(|()| Done::default())
            }
            Task::OnnxModelRun(task) => run::run(&*self.model(&task.model)?, task, deadline, canceller),
            Task::OnnxModelUnload(task) => {
                self.models.remove(&task.model);
                self.stacks.remove(&task.model);
                Ok(Done::default())
            }
            Task::OnnxModelRunBatch(task) => {
                let model = self.model(&task.model)?;
                let run = |task: ModelRun<'_>| run::run(&model, task, deadline, canceller);
                self.stacks.run(task, || model.shares_first_dimension(), run)
            }
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}
