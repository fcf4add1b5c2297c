//! A plugin that has every operation and does none: it reads every byte that it is given and writes every one that it
//! may, so that a range too long is a crash. Used by the targets that make accelerator calls.

use std::{hint::black_box, sync::Arc};

use kernlet_accel::{
    Cost, Deadline, Dims, Done, Dtype, Offer, Operation, Plugin, PluginError, Resource, Runtime, Session,
    operation::{Elements, Task, TensorOut},
};

/// A session with this plugin and two resources, of the ids 1 and 2.
pub(crate) fn session() -> Arc<Session> {
    let session = Runtime::new(vec![Arc::new(Touch)]).session();
    for name in ["model", "labels"] {
        session.register(name, Resource::from_bytes(name.as_bytes())).expect("a resource");
    }
    Arc::new(session)
}

#[derive(Debug)]
struct Touch;

const OFFERS: [Offer; 5] = {
    let mut offers = [Offer { operation: Operation::Noop, cost: Cost(1) }; 5];
    let mut index = 0;
    while index < offers.len() {
        offers[index].operation = Operation::ALL[index];
        index += 1;
    }
    offers
};

impl Plugin for Touch {
    fn name(&self) -> &'static str {
        "touch"
    }

    fn operations(&self) -> &[Offer] {
        &OFFERS
    }

    fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        match task {
            Task::Noop | Task::OnnxModelLoad(_) => {}
            Task::ImageClassify(mut task) => {
                sum(task.picture);
                let room = task.ranking.room();
                let label = "ü".repeat(100);
                task.ranking.fill((0..).take(room + 1).map(|class| (class, 0.5, label.as_str())));
            }
            Task::BlasSgemm(mut task) => {
                let (a, b, c) = task.matrices();
                for matrix in [a, b] {
                    assert_eq!(matrix.elements().len(), matrix.layout().extent().expect("a matrix in memory"));
                    black_box(matrix.elements().iter().sum::<f32>());
                }
                c.elements_mut().fill(1.5);
            }
            Task::OnnxModelRun(mut task) => {
                for input in &task.inputs {
                    let count = input.dims().elements().expect("a tensor in memory");
                    assert_eq!(count, input.elements().len() as u64);
                    touch(input.elements());
                }
                for output in &mut task.outputs {
                    fill(output)?;
                }
            }
        }
        Ok(Done::default())
    }
}

fn sum(bytes: &[u8]) {
    black_box(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
}

fn touch(elements: Elements<'_>) {
    match elements {
        Elements::F32(all) => drop(black_box(all.to_vec())),
        Elements::I32(all) => drop(black_box(all.to_vec())),
        Elements::I64(all) => drop(black_box(all.to_vec())),
        Elements::U8(all) => sum(all),
        Elements::I8(all) => drop(black_box(all.to_vec())),
    }
}

/// Takes the room for a small tensor, for an empty one, and for one that is larger than any.
fn fill(output: &mut TensorOut<'_>) -> Result<(), PluginError> {
    for sizes in [&[u64::MAX, 2][..], &[1 << 61], &[0, 7], &[2, 3]] {
        let dims = Dims::new(sizes).expect("few dimensions");
        let claimed = match output.dtype() {
            Dtype::F32 => output.claim::<f32>(dims).map(|room| room.fill(1.0)),
            Dtype::I32 => output.claim::<i32>(dims).map(|room| room.fill(1)),
            Dtype::I64 => output.claim::<i64>(dims).map(|room| room.fill(1)),
            Dtype::I8 => output.claim::<i8>(dims).map(|room| room.fill(1)),
            Dtype::U8 | Dtype::Bytes => output.claim::<u8>(dims).map(|room| room.fill(1)),
        };
        if sizes == [2, 3] {
            claimed?;
        }
    }
    Ok(())
}
