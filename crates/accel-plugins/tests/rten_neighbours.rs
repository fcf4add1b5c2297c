//! What an inference of `rten` that never ends costs others. Alone in its process, whose threads are looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, num::NonZeroUsize, path::PathBuf, thread};

use kernlet_accel::{
    Resource,
    host::{Input, Model, Output},
};
use kernlet_accel_plugins::Rten;
use support::onnx::{self, Dim};

/// Whether one of rten's threads has computed for a tenth of a second.
fn is_at_work() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_rten = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("rten-"));
    let time = |task: PathBuf| fs::read_to_string(task.join("schedstat")).ok()?.split(' ').next()?.parse().ok();
    tasks.filter(is_rten).filter_map(time).any(|nanos: u64| nanos > 100_000_000)
}

#[test]
fn an_inference_does_not_wait_for_an_operator_of_another_that_never_ends() {
    const ROWS: [Dim; 1] = [Dim::Named("N")];
    let session = support::session_on(Rten::with_threads(NonZeroUsize::MIN));
    let value = |name| onnx::value(name, onnx::FLOAT, &ROWS);
    let endless = onnx::model(&[onnx::endless("x", "y")], &[value("x")], &[value("y")], &[]);
    let relu = onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS);
    let [endless, relu] = [endless, relu].map(Resource::from_bytes);
    let run = move |model: &Resource| {
        let (x, mut y) = ([1.0_f32, -1.0], [7.0_f32; 2]);
        let model = Model::load(&session, model).unwrap();
        model.run(&[Input::new(&x, &[2])], &mut [Output::new(&mut y)]).map(|_| y).unwrap()
    };
    let run = std::sync::Arc::new(run);
    let other = std::sync::Arc::clone(&run);
    // It ends with this process.
    thread::spawn(move || other(&endless));
    while !is_at_work() {
        thread::yield_now();
    }
    assert_eq!(run(&relu), [1.0, 0.0]);
}
