//! What becomes of an inference of `rten` whose deadline is over, and that parts make no difference to its result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use kernlet_abi::hypercall::status;
use kernlet_accel::{
    AccelError, Session,
    host::{Input, Model, Output, RunOptions},
};
use support::onnx::{self, Dim};

/// Rows and columns of the model's matrices.
const SIDE: u64 = 512;
/// Multiplications, one after the other: some seconds of work.
const ROUNDS: usize = 1500;

/// Multiplies its input with one matrix, over and over; each result goes to the next round and, with `skips`, to the one
/// after it as well.
fn rounds(count: usize, skips: bool) -> Vec<u8> {
    let side = [Dim::Fixed(SIDE), Dim::Fixed(SIDE)];
    let name = |round: usize| if round == count { "y".to_owned() } else { format!("v{round}") };
    let nodes: Vec<_> = (1..=count)
        .flat_map(|round| {
            let (before, product, after) = (name(round - 1), format!("p{round}"), name(round));
            let before = if round == 1 { "x".to_owned() } else { before };
            let other = if skips && round > 2 { name(round - 2) } else { "x".to_owned() };
            [
                onnx::node("MatMul", &[&before, "m"], &[&product], &[]),
                onnx::node("Add", &[&product, &other], &[&after], &[]),
            ]
        })
        .collect();
    let value = |name| onnx::value(name, onnx::FLOAT, &side);
    onnx::model(&nodes, &[value("x"), value("m")], &[value("y")], &[])
}

/// A matrix that moves each column to the next place, times a half, so that numbers stay what they are.
fn matrix() -> Vec<f32> {
    let side = usize::try_from(SIDE).unwrap();
    let mut matrix = vec![0.0; side * side];
    (0..side).for_each(|row| matrix[row * side + (row + 1) % side] = 0.5);
    matrix
}

fn run(session: &Session, model: &[u8], time: Option<Duration>) -> Result<(Vec<f32>, u64), AccelError> {
    let resource = kernlet_accel::Resource::from_bytes(model.to_vec());
    let model = Model::load(session, &resource).unwrap();
    let (x, m): (Vec<f32>, _) = ((0_u16..512).cycle().take(512 * 512).map(f32::from).collect(), matrix());
    let mut y = vec![-1.0; x.len()];
    let inputs = [Input::new(&x, &[SIDE, SIDE]), Input::new(&m, &[SIDE, SIDE])];
    let deadline = time.map(|time| Instant::now() + time);
    let options = RunOptions { deadline, ..RunOptions::default() };
    let result = model.run_with(&options, &inputs, &mut [Output::new(&mut y)]);
    let untouched = y.iter().all(|element| *element == -1.0);
    assert_eq!(result.is_err(), untouched, "what failed has written nothing");
    result.map(|report| (y, report.bytes_copied))
}

#[test]
fn an_inference_of_rten_ends_between_two_parts_when_its_deadline_is_over() {
    let session = support::session();
    let error = run(&session, &rounds(ROUNDS, false), Some(Duration::from_millis(100))).unwrap_err();
    assert_eq!(error.status(), status::ETIMEDOUT, "{}", error.message());
    assert!(error.message().contains("the model had run to its end"), "{}", error.message());
    // The session, the plugin and its threads are as before.
    run(&session, &rounds(2, false), Some(Duration::from_secs(60))).unwrap();
}

#[test]
fn an_inference_in_parts_has_the_result_of_one_that_is_whole() {
    let session = support::session();
    for model in [rounds(40, false), rounds(40, true)] {
        let whole = run(&session, &model, None).unwrap();
        // The first that has a deadline is in as many parts as there are at most.
        let parts = run(&session, &model, Some(Duration::from_secs(600))).unwrap();
        assert_eq!(whole, parts);
    }
}
