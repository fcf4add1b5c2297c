//! A plugin that has every operation and does none: it reads every byte that it is given and writes every one that it
//! may, so that a range too long is a crash. Used by the targets that make accelerator calls.

use std::{hint::black_box, sync::Arc};

use kernlet_accel::{
    Cost, Deadline, Dims, Done, Dtype, Operation, Plugin, PluginError, Resource, Runtime, Session,
    operation::{ModelRun, Task, TensorOut, TypedIn, TypedOut},
};

/// A session with this plugin and two resources, of the ids 1 and 2.
pub(crate) fn session() -> Arc<Session> {
    let session = Runtime::new(vec![Arc::new(Touch)]).session();
    for name in ["model", "labels"] {
        session.register(name, Resource::from_bytes(name.as_bytes())).expect("a resource");
    }
    session.profile().enable(true);
    Arc::new(session)
}

#[derive(Debug)]
pub(crate) struct Touch;

impl Plugin for Touch {
    fn name(&self) -> &'static str {
        "touch"
    }

    fn operations(&self) -> &[Operation] {
        Operation::ALL
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn batch_max(&self) -> usize {
        // So that a batch whose operations have nothing to do with each other comes at once, and others one by one.
        64
    }

    fn run(&self, mut task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        // What goes to another process is the same as what comes from the caller.
        let encoded = task.encode(|_| Ok::<_, PluginError>(1))?;
        for arg in &encoded.args {
            sum(arg.read());
        }
        drop(encoded);
        match task {
            Task::Noop
            | Task::TfModelLoad(_)
            | Task::TfModelUnload(_)
            | Task::TfliteModelLoad(_)
            | Task::TfliteModelUnload(_)
            | Task::TorchModelLoad(_)
            | Task::OnnxModelLoad(_)
            | Task::OnnxModelUnload(_) => {}
            Task::ImageClassify(mut task) => {
                sum(task.picture);
                let room = task.ranking.room();
                let label = "ü".repeat(100);
                task.ranking.fill((0..).take(room + 1).map(|class| (class, 0.5, label.as_str())));
            }
            Task::ImageDetect(mut task)
            | Task::ImageSegment(mut task)
            | Task::ImagePose(mut task)
            | Task::ImageDepth(mut task) => {
                sum(task.picture);
                task.text.fill("text")?;
            }
            Task::ImageResize(task) => {
                sum(task.from);
                task.to.fill(1);
            }
            Task::BlasSgemm(mut task) | Task::TorchSgemm(mut task) => {
                let (a, b, c) = task.matrices();
                for matrix in [a, b] {
                    assert_eq!(matrix.elements().len(), matrix.layout().extent().expect("a matrix in memory"));
                    black_box(matrix.elements().iter().sum::<f32>());
                }
                c.elements_mut().fill(1.5);
            }
            Task::FpgaArrayCopy(task) => task.to.copy_from_slice(task.from),
            Task::FpgaMmult(task) => {
                assert_eq!(task.size * task.size, task.c.len());
                task.c.copy_from_slice(task.a);
                task.c.copy_from_slice(task.b);
            }
            Task::FpgaParallel(task) => {
                task.sum.copy_from_slice(task.a);
                task.product.copy_from_slice(task.b);
            }
            Task::FpgaVectorAdd(task) => {
                task.sum.copy_from_slice(task.a);
                task.sum.copy_from_slice(task.b);
            }
            Task::MinMax(task) => {
                task.to.copy_from_slice(task.from);
                (*task.min, *task.max) = (task.from[0], task.from[0]);
            }
            Task::Exec(task) | Task::ExecWithResource(task) => typed(task.read, task.write),
            Task::OpenCv(task) => typed(task.read, task.write),
            Task::OnnxModelRun(task)
            | Task::TfModelRun(task)
            | Task::TfliteModelRun(task)
            | Task::TorchModelRun(task) => {
                sum(task.options);
                sum(task.names.as_bytes());
                run(task)?;
            }
            Task::OnnxModelRunBatch(mut task) => task.runs().try_for_each(run)?,
        }
        Ok(Done::default())
    }
}

fn typed(read: Vec<TypedIn<'_>>, write: Vec<TypedOut<'_>>) {
    read.iter().for_each(|arg| sum(arg.bytes));
    for arg in write {
        arg.bytes.fill(1);
        *arg.written = arg.bytes.len() as u64;
    }
}

fn run(mut task: ModelRun<'_>) -> Result<(), PluginError> {
    for input in &task.inputs {
        let count = input.dims().elements().expect("a tensor in memory");
        assert_eq!(count, input.elements().len() as u64);
        sum(input.elements().bytes());
    }
    task.outputs.iter_mut().try_for_each(fill)
}

fn sum(bytes: &[u8]) {
    black_box(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
}

/// Takes the room for a small tensor, for an empty one, and for one that is larger than any.
fn fill(output: &mut TensorOut<'_>) -> Result<(), PluginError> {
    for sizes in [&[u64::MAX, 2][..], &[1 << 61], &[0, 7], &[2, 3]] {
        let dims = Dims::new(sizes).expect("few dimensions");
        let dtype = output.dtype().unwrap_or(Dtype::U16);
        let claimed = output.claim_bytes(dtype, dims).map(|room| room.fill(1));
        if sizes == [2, 3] {
            claimed?;
        }
    }
    Ok(())
}
