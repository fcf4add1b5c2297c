//! The plugin that does nothing: it measures the way to a plugin and back, and stands for plugins that are not there.
//! Called by the runtime. Never computes anything: its results are vAccel's dummies.

use kernlet_accel::{
    Cost, Deadline, Dims, Done, Kinds, Operation, Plugin, PluginError,
    operation::{ModelRun, Task, TypedIn, TypedOut},
};

/// What a classification gives.
const TAG: &str = "This is a dummy classification tag!";

/// What the other operations on pictures give.
const IMAGE_NAME: &str = "This is a dummy imgname!";

/// All that has a dummy: everything but what no plugin has.
pub(crate) const OPERATIONS: [Operation; 29] = [
    Operation::Noop,
    Operation::Exec,
    Operation::ExecWithResource,
    Operation::ImageClassify,
    Operation::ImageDetect,
    Operation::ImageSegment,
    Operation::ImagePose,
    Operation::ImageDepth,
    Operation::TfModelLoad,
    Operation::TfModelUnload,
    Operation::TfModelRun,
    Operation::TfliteModelLoad,
    Operation::TfliteModelUnload,
    Operation::TfliteModelRun,
    Operation::TorchModelLoad,
    Operation::TorchModelRun,
    Operation::TorchSgemm,
    Operation::BlasSgemm,
    Operation::FpgaArrayCopy,
    Operation::FpgaMmult,
    Operation::FpgaParallel,
    Operation::FpgaVectorAdd,
    Operation::MinMax,
    Operation::OpenCv,
    Operation::OnnxModelLoad,
    Operation::OnnxModelRun,
    Operation::OnnxModelUnload,
    Operation::OnnxModelRunBatch,
    Operation::ImageResize,
];

/// The plugin `noop`.
#[derive(Debug)]
pub struct Noop {
    operations: &'static [Operation],
}

impl Noop {
    /// The plugin with the operation noop alone, which is safe to have beside others.
    #[must_use]
    pub const fn new() -> Self {
        Self { operations: &[Operation::Noop] }
    }

    /// The plugin with a dummy for every operation, as vAccel's. Whatever else has an operation is preferred.
    #[must_use]
    pub const fn dummy() -> Self {
        Self { operations: &OPERATIONS }
    }
}

impl Default for Noop {
    fn default() -> Self {
        Self::new()
    }
}

impl Plugin for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn operations(&self) -> &[Operation] {
        self.operations
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        match task {
            Task::Noop => Cost::nanos(0),
            // A result that is none is the last resort.
            _ => Cost::nanos(u64::MAX),
        }
    }

    fn kinds(&self) -> Kinds {
        Kinds::CPU | Kinds::SOFTWARE | Kinds::DEBUG
    }

    fn run(&self, task: Task<'_>, _deadline: Deadline) -> Result<Done, PluginError> {
        if !self.operations.contains(&task.operation()) {
            return Err(PluginError::NotOffered { operation: task.operation() });
        }
        match task {
            Task::ImageClassify(mut task) => task.ranking.fill([(0, 0.0, TAG)]),
            Task::ImageDetect(mut task)
            | Task::ImageSegment(mut task)
            | Task::ImagePose(mut task)
            | Task::ImageDepth(mut task) => task.text.fill(IMAGE_NAME)?,
            Task::Exec(mut task) | Task::ExecWithResource(mut task) => exec(&task.read, &mut task.write),
            Task::OpenCv(mut task) => exec(&task.read, &mut task.write),
            Task::TfModelRun(task)
            | Task::TfliteModelRun(task)
            | Task::TorchModelRun(task)
            | Task::OnnxModelRun(task) => return model_run(task),
            Task::OnnxModelRunBatch(mut task) => {
                let mut bytes_copied = 0;
                for run in task.runs() {
                    bytes_copied += model_run(run)?.bytes_copied;
                }
                return Ok(Done { bytes_copied });
            }
            Task::FpgaArrayCopy(task) => task.to.copy_from_slice(task.from),
            Task::FpgaMmult(task) => task.c.fill(9.1),
            Task::FpgaParallel(task) => {
                sums(task.a, task.b, task.sum);
                task.product.fill(1.0);
            }
            Task::FpgaVectorAdd(task) => sums(task.a, task.b, task.sum),
            Task::MinMax(task) => {
                task.to.copy_from_slice(task.from);
                (*task.min, *task.max) = (-1.0, 10_000.0);
            }
            Task::ImageResize(task) => task.to.fill(0),
            Task::Noop
            | Task::TorchSgemm(_)
            | Task::BlasSgemm(_)
            | Task::TfModelLoad(_)
            | Task::TfModelUnload(_)
            | Task::TfliteModelLoad(_)
            | Task::TfliteModelUnload(_)
            | Task::TorchModelLoad(_)
            | Task::OnnxModelLoad(_)
            | Task::OnnxModelUnload(_) => {}
        }
        Ok(Done::default())
    }
}

fn sums(a: &[f32], b: &[f32], sum: &mut [f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a + b;
    }
}

/// Gives each output the input of its number, or the last one.
fn model_run(task: ModelRun<'_>) -> Result<Done, PluginError> {
    let ModelRun { inputs, mut outputs, .. } = task;
    let mut bytes_copied = 0;
    for (index, output) in outputs.iter_mut().enumerate() {
        let Some(input) = inputs.get(index).or(inputs.last()) else {
            output.claim::<f32>(Dims::NONE)?.fill(0.0);
            continue;
        };
        let bytes = input.elements().bytes();
        output.claim_bytes(input.elements().dtype(), *input.dims())?.copy_from_slice(bytes);
        bytes_copied += bytes.len() as u64;
    }
    Ok(Done { bytes_copied })
}

/// What vAccel's plugin does: a single output that is as long as the first input, in whole 32-bit integers, is a copy.
fn exec(read: &[TypedIn<'_>], write: &mut [TypedOut<'_>]) {
    let (Some(from), [to]) = (read.first(), write) else {
        return;
    };
    if from.bytes.len() != to.bytes.len() || !from.bytes.len().is_multiple_of(4) {
        return;
    }
    to.bytes.copy_from_slice(from.bytes);
    *to.written = to.bytes.len() as u64;
}
