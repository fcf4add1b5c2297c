//! Promises about running ONNX models on a guest's tensors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{fs, sync::Barrier};

use kernlet_abi::hypercall::status;
use kernlet_accel::{
    AccelError, Dims, Dtype, Resource, Runtime,
    host::{Input, Model, Output},
    operation::{BatchRun, BatchSet, Elements, Task, Tensor, TensorBuf, TensorOut},
};
use kernlet_accel_plugins::{OnnxRuntime, OnnxRuntimeOptions};
use support::{
    load, mobilenet, models, native,
    onnx::{self, Dim},
    register, run, session, session_on, tensor_in, tensor_out,
};
use zerocopy::IntoBytes as _;

const ROWS: [Dim; 2] = [Dim::Named("N"), Dim::Fixed(2)];

#[test]
fn a_model_runs_on_tensors_in_place() {
    let session = session();
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let (input, mut output) = ([1.0_f32, -2.0, -3.0, 4.0, -5.0, 6.0], [9.0_f32; 8]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[3, 2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    let (report, outputs) = run(&session, model, 1, tensors);
    // Nothing of the input; the output once, from the tensor that rten allocates.
    assert_eq!(report.unwrap().bytes_copied, 24);
    assert_eq!(outputs, [(24, Dims::new(&[3, 2]).unwrap())]);
    assert_eq!(output, [1.0, 0.0, 0.0, 4.0, 0.0, 6.0, 9.0, 9.0]);
}

#[test]
fn sixty_four_bit_integers_are_converted_and_counted() {
    let session = session();
    let model = register(&session, "identity", onnx::unary("Identity", onnx::INT64, &ROWS, &ROWS));
    let (input, mut output) = ([1_i64, -2], [0_i64; 2]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::I64, &[1, 2]), tensor_out(output.as_mut_bytes(), Dtype::I64)];
    let (report, _) = run(&session, model, 1, tensors);
    assert_eq!(report.unwrap().bytes_copied, 32);
    assert_eq!(output, input);

    let too_large = [1_i64, 1 << 40];
    let tensors =
        vec![tensor_in(too_large.as_bytes(), Dtype::I64, &[1, 2]), tensor_out(output.as_mut_bytes(), Dtype::I64)];
    let error = run(&session, model, 1, tensors).0.unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
    assert!(error.message().contains("1099511627776"), "{}", error.message());
}

#[test]
fn tensors_that_do_not_fit_the_model_are_refused() {
    let session = session();
    let model = mobilenet(&session);
    let small = vec![0.0_f32; 3 * 100 * 100];
    let mut output = vec![0.0_f32; 1000];
    let tensors =
        vec![tensor_in(small.as_bytes(), Dtype::F32, &[1, 3, 100, 100]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    let error = run(&session, model, 1, tensors).0.unwrap_err();
    assert_eq!(error.status(), status::EINVAL, "{}", error.message());
    assert!(error.message().contains("224"), "{}", error.message());
    // The same number of elements in another shape, and another type.
    let (input, integers) = (vec![0.0_f32; 3 * 224 * 224], vec![0_i32; 3 * 224 * 224]);
    for tensor in [
        tensor_in(input.as_bytes(), Dtype::F32, &[3, 224, 224]),
        tensor_in(integers.as_bytes(), Dtype::I32, &[1, 3, 224, 224]),
    ] {
        let tensors = vec![tensor, tensor_out(output.as_mut_bytes(), Dtype::F32)];
        let error = run(&session, model, 1, tensors).0.unwrap_err();
        assert_eq!(error.status(), status::EINVAL, "{}", error.message());
    }
}

#[test]
fn an_output_that_is_too_small_says_how_much_it_takes() {
    let session = session();
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let (input, mut output) = ([0.0_f32; 6], [7.0_f32; 5]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[3, 2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    let (result, outputs) = run(&session, model, 1, tensors);
    let error = result.unwrap_err();
    assert_eq!(error.status(), status::ERANGE);
    assert!(error.message().contains("room for 20 bytes and the result takes 24"), "{}", error.message());
    assert_eq!(outputs, [(0, Dims::NONE)]);
    assert_eq!(output, [7.0; 5]);
}

#[test]
fn an_output_of_another_type_is_refused() {
    let session = session();
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let (input, mut output) = ([0.0_f32; 2], [0_i32; 2]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[1, 2]), tensor_out(output.as_mut_bytes(), Dtype::I32)];
    let error = run(&session, model, 1, tensors).0.unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
    assert!(error.message().contains("i32 and must be f32"), "{}", error.message());
}

#[test]
fn the_number_of_tensors_must_be_the_models() {
    let session = session();
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let input = [0.0_f32; 2];
    let error = run(&session, model, 1, vec![tensor_in(input.as_bytes(), Dtype::F32, &[1, 2])]).0.unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
    assert!(error.message().contains("1 inputs and 1 outputs; 1 and 0 were passed"), "{}", error.message());
}

#[test]
fn a_tensor_without_elements_harms_nothing() {
    let session = session();
    let model = mobilenet(&session);
    let mut output = vec![0.0_f32; 1000];
    let tensors = vec![tensor_in(&[], Dtype::F32, &[0, 3, 224, 224]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    let (result, _) = run(&session, model, 1, tensors);
    if let Err(error) = result {
        assert!([status::EINVAL, status::EIO].contains(&error.status()), "{}", error.message());
    }
    load(&session, model).unwrap();
}

#[test]
fn a_model_may_not_refer_to_files_of_the_host() {
    let session = session();
    let entry = |key: &str, value: &str| onnx::bytes(13, [onnx::bytes(1, key), onnx::bytes(2, value)].concat());
    let weights = [
        onnx::number(1, 2),
        onnx::number(2, onnx::FLOAT),
        onnx::bytes(8, "w"),
        entry("location", "/etc/hostname"),
        entry("length", "8"),
        onnx::number(14, 1),
    ]
    .concat();
    let nodes = [onnx::node("Add", &["x", "w"], &["y"], &[])];
    let value = |name| onnx::value(name, onnx::FLOAT, &ROWS);
    let model = onnx::model(&nodes, &[value("x")], &[value("y")], &[weights]);
    let error = load(&session, register(&session, "spy", model)).unwrap_err();
    assert_eq!(error.status(), status::EINVAL);
    assert!(error.message().contains("no ONNX model that rten can run"), "{}", error.message());
}

#[test]
fn preloading_loads_models_and_leaves_other_resources_alone() {
    let session = session();
    register(&session, "labels", fs::read(models("imagenet_classes.txt")).unwrap());
    register(&session, "picture", fs::read(models("pictures/cat.jpg")).unwrap());
    mobilenet(&session);
    session.preload().unwrap();
}

#[test]
fn preloading_names_the_model_that_cannot_be_loaded() {
    let session = session();
    register(&session, "odd", onnx::unary("NoSuchOperator", onnx::FLOAT, &ROWS, &ROWS));
    let error = session.preload().unwrap_err();
    assert!(matches!(&error, AccelError::Preload { name, .. } if name == "odd"), "{}", error.message());
    assert_eq!(error.status(), status::ENOTSUP);
    assert!(error.message().contains("NoSuchOperator"), "{}", error.message());
}

#[test]
fn sessions_of_one_runtime_share_a_resource_but_not_names() {
    let runtime = Runtime::new(kernlet_accel_plugins::default_plugins());
    let resource = Resource::from_bytes(onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let (one, other) = (runtime.session(), runtime.session());
    let in_one = one.register("model", resource.clone()).unwrap();
    other.register("labels", Resource::from_bytes(*b"text")).unwrap();
    let in_other = other.register("model", resource).unwrap();
    assert_ne!(in_one, in_other);
    load(&one, in_one.get()).unwrap();
    load(&other, in_other.get()).unwrap();
    // The id of the one is the labels of the other.
    assert_eq!(load(&other, in_one.get()).unwrap_err().status(), status::EINVAL);
    assert_eq!(load(&one, in_other.get()).unwrap_err().status(), status::ENOENT);
}

#[test]
fn many_threads_run_a_model_at_once() {
    let session = session();
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (session, start) = (&session, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..50 {
                    let (input, mut output) = ([f32::from(thread), -1.0], [0.0_f32; 2]);
                    let tensors = vec![
                        tensor_in(input.as_bytes(), Dtype::F32, &[1, 2]),
                        tensor_out(output.as_mut_bytes(), Dtype::F32),
                    ];
                    run(session, model, 1, tensors).0.unwrap();
                    assert_eq!(output, [f32::from(thread), 0.0]);
                }
            });
        }
    });
}

/// A result's shape and numbers.
type Numbers = (Vec<u64>, Vec<f32>);

/// What a batch of rows gives, run after run: each set's result, and the bytes that were copied.
fn batches(session: &kernlet_accel::Session, model: u32, runs: &[&[&[f32]]]) -> Vec<(u64, Vec<Numbers>)> {
    let run = |sets: &&[&[f32]]| {
        let mut rooms = vec![TensorBuf::new(); sets.len()];
        let sets = sets.iter().zip(&mut rooms).map(|(numbers, room)| {
            let dims = Dims::new(&[numbers.len() as u64 / 2, 2]).unwrap();
            let inputs = vec![Tensor::new(Elements::F32(numbers), dims).unwrap()];
            BatchSet { inputs, outputs: vec![TensorOut::from(room)] }
        });
        let task = BatchRun { model: session.resource(model).unwrap(), sets: sets.collect() };
        let report = session.perform(Task::OnnxModelRunBatch(task), None).unwrap();
        let results = rooms.iter().map(|room| (room.dims().sizes().to_vec(), room.elements::<f32>().unwrap().to_vec()));
        (report.bytes_copied, results.collect())
    };
    runs.iter().map(run).collect()
}

/// A plugin's sessions take a model that keeps rows apart and one that does not through the same batches.
fn sets_are_run_as_one_only_where_it_makes_no_difference(session: &kernlet_accel::Session, alone: u64, stacked: u64) {
    let relu = register(session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let sets: &[&[f32]] = &[&[1.0, -2.0, -3.0, 4.0], &[-5.0, 6.0]];
    let same: &[&[f32]] = &[&[-1.0, 1.0], &[-1.0, 1.0]];
    let expected = [(vec![2, 2], vec![1.0, 0.0, 0.0, 4.0]), (vec![1, 2], vec![0.0, 6.0])];
    let twice = (vec![1, 2], vec![0.0, 1.0]);
    // Sets that are the same prove nothing; the next batch is run both ways, and those after it as one.
    let ran = batches(session, relu, &[same, sets, sets, same]);
    let results: Vec<_> = ran.iter().map(|(_, results)| results.clone()).collect();
    assert_eq!(results, [vec![twice.clone(); 2], expected.to_vec(), expected.to_vec(), vec![twice; 2]]);
    let copied: Vec<u64> = ran.iter().map(|(copied, _)| *copied).collect();
    assert_eq!(copied, [alone * 2, alone * 3, stacked * 3, stacked * 2]);
    // The sum of each column's powers is one: over the rows of a set, not of all sets.
    let axis = [onnx::bytes(1, "axis"), onnx::number(3, 0), onnx::number(20, 2)].concat();
    let softmax = onnx::node("Softmax", &["x"], &["y"], &onnx::bytes(5, axis));
    let value = |name| onnx::value(name, onnx::FLOAT, &ROWS);
    let mixing = register(session, "softmax", onnx::model(&[softmax], &[value("x")], &[value("y")], &[]));
    for (_, results) in batches(session, mixing, &[sets, sets, sets]) {
        assert_eq!(results[1], (vec![1, 2], vec![1.0, 1.0]));
        assert_eq!(results[0].1[0] + results[0].1[2], 1.0);
    }
}

#[test]
fn several_sets_are_run_as_one_only_where_it_makes_no_difference() {
    // Of each row of two numbers: the output once; or the inputs, what rten gives, and what each set gets.
    sets_are_run_as_one_only_where_it_makes_no_difference(&session(), 8, 24);
}

#[test]
fn several_sets_are_run_as_one_by_onnx_runtime_only_where_it_makes_no_difference() {
    let Some(plugin) = native("onnxruntime", OnnxRuntime::open(&OnnxRuntimeOptions::default())) else { return };
    sets_are_run_as_one_only_where_it_makes_no_difference(&session_on(plugin), 0, 16);
}

#[test]
fn sets_that_cannot_be_stacked_are_run_one_by_one_with_their_own_errors() {
    let session = session();
    let relu = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let resource = session.resource(relu).unwrap();
    let model = Model::load(&session, &resource).unwrap();
    batches(&session, relu, &[&[&[1.0, 2.0], &[3.0, 4.0]]]);
    let (mut one, mut short) = ([0.0_f32; 2], [0.0_f32; 1]);
    let inputs = [[Input::new(&[1.0_f32, -1.0], &[1, 2])], [Input::new(&[2.0_f32, -2.0], &[1, 2])]];
    let mut outputs = [[Output::new(&mut one)], [Output::new(&mut short)]];
    let pairs = inputs.iter().zip(&mut outputs).map(|(inputs, outputs)| (&inputs[..], &mut outputs[..]));
    let error = model.run_batch(pairs).unwrap_err();
    assert_eq!(error.status(), status::ERANGE, "{}", error.message());
    assert!(error.message().contains("room for 4 bytes and the result takes 8"), "{}", error.message());
}

#[test]
fn what_a_batch_gave_is_read_and_its_room_used_again_when_it_has_run() {
    let session = session();
    let relu = Resource::from_bytes(onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let model = Model::load(&session, &relu).unwrap();
    let mut rooms = [[7.0_f32; 4]; 2];
    let mut growing = TensorBuf::new();
    {
        let [one, other] = &mut rooms;
        let mut outputs = [[Output::new(one)], [Output::new(other)], [Output::growing(&mut growing)]];
        for sign in [1.0_f32, -1.0] {
            let values = [sign, -sign];
            let inputs = [Input::new(&values, &[1, 2])];
            let sets = outputs.iter_mut().map(|outputs| (&inputs[..], &mut outputs[..]));
            model.run_batch(sets).unwrap();
            for output in outputs.iter().flatten() {
                assert_eq!((output.dtype(), output.shape(), output.written()), (Dtype::F32, &[1, 2][..], 8));
            }
        }
    }
    assert_eq!(rooms, [[0.0, 1.0, 7.0, 7.0]; 2]);
    assert_eq!(growing.bytes(), [0.0_f32, 1.0].as_bytes());
}
