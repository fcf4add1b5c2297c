//! Promises about models run by ONNX Runtime: the same results as rten's, nothing copied where it need not be, and a
//! clear error for every model that is broken, hostile or beyond it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    fs,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use kernlet_abi::{accel::ModelParams, accel::operation, hypercall::status};
use kernlet_accel::{AccelError, Arg, Data, Dims, Dtype, Hint, Runtime, Session};
use kernlet_accel_plugins::{OnnxRuntime, OnnxRuntimeOptions, Rten};
use support::{
    classify, classify_until, grey_jpeg, imagenet_labels, label, load, mobilenet, models, native,
    onnx::{self, Dim},
    picture, register, run, session_on, tensor_in, tensor_out,
};
use zerocopy::IntoBytes as _;

const ROWS: [Dim; 2] = [Dim::Named("N"), Dim::Fixed(2)];

/// A session on ONNX Runtime alone, where it is installed.
fn onnxruntime() -> Option<Session> {
    let plugin = native("onnxruntime", OnnxRuntime::open(&OnnxRuntimeOptions::default()))?;
    println!("{}", plugin.found());
    Some(session_on(plugin))
}

#[test]
fn onnx_runtime_gives_the_demo_pictures_the_expected_classes() {
    let Some(session) = onnxruntime() else { return };
    let (model, labels) = (mobilenet(&session), imagenet_labels(&session));
    for line in fs::read_to_string(models("expected.tsv")).unwrap().lines().skip(1) {
        let mut fields = line.split('\t');
        let file = fields.next().unwrap();
        let expected: Vec<_> = fields.collect();
        let (report, ranking) = classify(&session, model, labels, &fs::read(models(file)).unwrap(), 5).unwrap();
        assert_eq!((report.plugin, report.bytes_copied), ("onnxruntime", 0));
        assert_eq!(ranking[0].class.to_string(), expected[0], "{file}");
        for (got, expected) in ranking.iter().zip(expected.chunks(3)) {
            let probability: f32 = expected[2].parse().unwrap();
            assert!((got.probability - probability).abs() <= 0.02, "{file}: {} {}", label(got), got.probability);
        }
    }
}

/// Its telemetry, where it is on, keeps a file in the folder for temporary files.
#[test]
fn onnx_runtime_writes_nothing_down_of_what_it_is_used_for() {
    let folder = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "onnx_runtime_gives_the_demo_pictures_the_expected_classes"])
        .env("TMPDIR", folder.path())
        .env_remove("ORT_DISABLE_TELEMETRY")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn onnx_runtime_reads_and_writes_tensors_where_they_are() {
    let Some(session) = onnxruntime() else { return };
    // The shape of the output comes from the model and that of the input.
    for operator in ["Relu", "Identity"] {
        let model = register(&session, operator, onnx::unary(operator, onnx::FLOAT, &ROWS, &ROWS));
        let (input, mut output) = ([1.0_f32, -2.0, -3.0, 4.0, -5.0, 6.0], [9.0_f32; 8]);
        let tensors =
            vec![tensor_in(input.as_bytes(), Dtype::F32, &[3, 2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
        let (report, outputs) = run(&session, model, 1, tensors);
        assert_eq!(report.unwrap().bytes_copied, 0, "{operator}");
        assert_eq!(outputs, [(24, Dims::new(&[3, 2]).unwrap())]);
        let expected = if operator == "Relu" {
            [1.0, 0.0, 0.0, 4.0, 0.0, 6.0, 9.0, 9.0]
        } else {
            [1.0, -2.0, -3.0, 4.0, -5.0, 6.0, 9.0, 9.0]
        };
        assert_eq!(output, expected);
    }
}

#[test]
fn an_output_whose_shape_is_known_only_afterwards_is_copied_once_and_counted() {
    let Some(session) = onnxruntime() else { return };
    let nodes = [onnx::node("NonZero", &["x"], &["y"], &[])];
    let output = [Dim::Fixed(1), Dim::Named("found")];
    let model = onnx::model(
        &nodes,
        &[onnx::value("x", onnx::FLOAT, &[Dim::Named("N")])],
        &[onnx::value("y", onnx::INT64, &output)],
        &[],
    );
    let model = register(&session, "nonzero", model);
    let (input, mut output) = ([0.0_f32, 3.0, 0.0, f32::NAN], [7_i64; 4]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[4]), tensor_out(output.as_mut_bytes(), Dtype::I64)];
    let (report, outputs) = run(&session, model, 1, tensors);
    assert_eq!(report.unwrap().bytes_copied, 16);
    assert_eq!(outputs, [(16, Dims::new(&[1, 2]).unwrap())]);
    assert_eq!(output, [1, 3, 7, 7]);
}

#[test]
fn a_model_that_lies_about_its_output_is_run_all_the_same() {
    let Some(session) = onnxruntime() else { return };
    // It says that the output is as long as the input and drops what is zero.
    let nodes = [onnx::node("NonZero", &["x"], &["i"], &[]), onnx::node("Gather", &["x", "i"], &["y"], &[])];
    let of = |name| onnx::value(name, onnx::FLOAT, &[Dim::Named("N")]);
    let lie = onnx::value("y", onnx::FLOAT, &[Dim::Fixed(1), Dim::Named("N")]);
    let model = register(&session, "lie", onnx::model(&nodes, &[of("x")], &[lie], &[]));
    let (input, mut output) = ([0.0_f32, 3.0, 0.0, 5.0], [7.0_f32; 4]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[4]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    let (report, outputs) = run(&session, model, 1, tensors);
    assert_eq!(report.unwrap().bytes_copied, 8);
    assert_eq!(outputs, [(8, Dims::new(&[1, 2]).unwrap())]);
    assert_eq!(output[..2], [3.0, 5.0]);
}

#[test]
fn onnx_runtime_computes_every_element_type_of_a_tensor() {
    let Some(session) = onnxruntime() else { return };
    let (mut wide, mut narrow, mut bytes) = ([0_i64; 2], [0_i32; 2], [0_u8; 2]);
    let numbers = [i64::MAX, i64::MIN];
    for (name, number, input, output, dtype) in [
        ("wide", onnx::INT64, numbers.as_bytes(), wide.as_mut_bytes(), Dtype::I64),
        ("narrow", onnx::INT32, [-1_i32, i32::MAX].as_bytes(), narrow.as_mut_bytes(), Dtype::I32),
        ("bytes", 2, &[0_u8, 255][..], &mut bytes[..], Dtype::U8),
    ] {
        let model = register(&session, name, onnx::unary("Identity", number, &ROWS, &ROWS));
        let (report, _) = run(&session, model, 1, vec![tensor_in(input, dtype, &[1, 2]), tensor_out(output, dtype)]);
        assert_eq!(report.unwrap().bytes_copied, 0, "{name}");
    }
    assert_eq!((wide, narrow, bytes), (numbers, [-1, i32::MAX], [0, 255]));
}

#[test]
fn numbers_that_are_none_and_denormals_go_through_a_model_as_they_are() {
    let Some(session) = onnxruntime() else { return };
    let model = register(&session, "identity", onnx::unary("Neg", onnx::FLOAT, &ROWS, &ROWS));
    let (input, mut output) = ([f32::NAN, f32::INFINITY, 1e-42, -0.0], [0.0_f32; 4]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[2, 2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    run(&session, model, 1, tensors).0.unwrap();
    assert!(output[0].is_nan());
    assert_eq!(
        output[1..].iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
        [f32::NEG_INFINITY.to_bits(), (-1e-42_f32).to_bits(), 0.0_f32.to_bits()]
    );
}

#[test]
fn tensors_that_do_not_fit_a_model_of_onnx_runtimes_are_refused() {
    let Some(session) = onnxruntime() else { return };
    let model = mobilenet(&session);
    let (small, input, integers) =
        (vec![0.0_f32; 3 * 100 * 100], vec![0.0_f32; 3 * 224 * 224], vec![0_i32; 3 * 224 * 224]);
    let mut output = vec![0.0_f32; 1000];
    for tensor in [
        tensor_in(small.as_bytes(), Dtype::F32, &[1, 3, 100, 100]),
        tensor_in(input.as_bytes(), Dtype::F32, &[3, 224, 224]),
        tensor_in(integers.as_bytes(), Dtype::I32, &[1, 3, 224, 224]),
    ] {
        let error = run(&session, model, 1, vec![tensor, tensor_out(output.as_mut_bytes(), Dtype::F32)]).0.unwrap_err();
        assert_eq!(error.status(), status::EINVAL, "{}", error.message());
    }
    let error =
        run(&session, model, 1, vec![tensor_in(input.as_bytes(), Dtype::F32, &[1, 3, 224, 224])]).0.unwrap_err();
    assert!(error.message().contains("1 inputs and 1 outputs; 1 and 0 were passed"), "{}", error.message());
}

#[test]
fn room_that_is_too_small_or_of_another_type_is_refused_before_a_model_runs() {
    let Some(session) = onnxruntime() else { return };
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let (input, mut output) = ([0.0_f32; 6], [7.0_f32; 5]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[3, 2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    let (result, outputs) = run(&session, model, 1, tensors);
    let error = result.unwrap_err();
    assert_eq!(error.status(), status::ERANGE);
    assert!(error.message().contains("room for 20 bytes and the result takes 24"), "{}", error.message());
    assert_eq!((outputs, output), (vec![(0, Dims::NONE)], [7.0; 5]));
    let mut output = [0_i32; 6];
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F32, &[3, 2]), tensor_out(output.as_mut_bytes(), Dtype::I32)];
    let error = run(&session, model, 1, tensors).0.unwrap_err();
    assert!(error.message().contains("i32 and must be f32"), "{}", error.message());
}

#[test]
fn a_tensor_without_elements_harms_onnx_runtime_not() {
    let Some(session) = onnxruntime() else { return };
    let model = register(&session, "relu", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    let (report, outputs) =
        run(&session, model, 1, vec![tensor_in(&[], Dtype::F32, &[0, 2]), tensor_out(&mut [], Dtype::F32)]);
    report.unwrap();
    assert_eq!(outputs, [(0, Dims::new(&[0, 2]).unwrap())]);
}

#[test]
fn a_model_of_onnx_runtimes_may_not_refer_to_files_of_the_host() {
    let Some(session) = onnxruntime() else { return };
    let entry = |key: &str, value: &str| onnx::bytes(13, [onnx::bytes(1, key), onnx::bytes(2, value)].concat());
    for location in ["/etc/hostname", "../../../../etc/hostname", "weights.bin"] {
        let weights = [
            onnx::number(1, 2),
            onnx::number(2, onnx::FLOAT),
            onnx::bytes(8, "w"),
            entry("location", location),
            entry("length", "8"),
            onnx::number(14, 1),
        ]
        .concat();
        let nodes = [onnx::node("Add", &["x", "w"], &["y"], &[])];
        let value = |name| onnx::value(name, onnx::FLOAT, &ROWS);
        let model = onnx::model(&nodes, &[value("x")], &[value("y")], &[weights]);
        let error = load(&session, register(&session, location, model)).unwrap_err();
        assert_eq!(error.status(), status::EINVAL);
        assert!(error.message().contains("external data"), "{}", error.message());
    }
}

#[test]
fn broken_models_and_unknown_operators_are_refused_with_the_reason() {
    let Some(session) = onnxruntime() else { return };
    let refused = |name: &str, bytes: Vec<u8>, words: &str| {
        let error = load(&session, register(&session, name, bytes)).unwrap_err();
        assert!(matches!(error, AccelError::Plugin { .. }), "{}", error.message());
        assert!(error.message().contains(words), "{}", error.message());
    };
    refused("odd", onnx::unary("NoSuchOperator", onnx::FLOAT, &ROWS, &ROWS), "NoSuchOperator");
    refused("text", b"no model at all".to_vec(), "no ONNX model");
    refused("empty", Vec::new(), "no ONNX model");
    refused("compiled", onnx::unary("EPContext", onnx::FLOAT, &ROWS, &ROWS), "EPContext");
    let whole = fs::read(models("mobilenet_v2_fp16w.onnx")).unwrap();
    refused("half", whole[..whole.len() / 2].to_vec(), "not a whole one");
    // ONNX Runtime's own format, which could refer to files.
    refused("ort", b"\x18\0\0\0ORTM\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "no ONNX model");
    // A graph that refers to what is not there, and one that goes round in a circle.
    let value = |name| onnx::value(name, onnx::FLOAT, &ROWS);
    let dangling = onnx::model(&[onnx::node("Add", &["x", "ghost"], &["y"], &[])], &[value("x")], &[value("y")], &[]);
    refused("dangling", dangling, "ghost");
    let circle = [onnx::node("Relu", &["b"], &["a"], &[]), onnx::node("Relu", &["a"], &["b"], &[])];
    refused("circle", onnx::model(&circle, &[value("x")], &[value("b")], &[]), "");
}

#[test]
fn a_model_that_asks_for_more_memory_than_is_granted_is_refused() {
    let Some(session) = onnxruntime() else { return };
    // A tensor of a terabyte, by its shape alone, at run time.
    let nodes = [onnx::node("ConstantOfShape", &["shape"], &["y"], &[])];
    let shape = onnx::value("shape", onnx::INT64, &[Dim::Fixed(2)]);
    let output = onnx::value("y", onnx::FLOAT, &[Dim::Named("A"), Dim::Named("B")]);
    let model = register(&session, "bomb", onnx::model(&nodes, &[shape], &[output], &[]));
    for size in [[1_i64 << 19, 1 << 19], [1 << 40, 1 << 40], [1 << 16, 1 << 15]] {
        let mut output = [0.0_f32; 4];
        let tensors = vec![tensor_in(size.as_bytes(), Dtype::I64, &[2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
        let error = run(&session, model, 1, tensors).0.unwrap_err();
        assert!([status::ENOMEM, status::EINVAL].contains(&error.status()), "{}", error.message());
    }
    let mut output = [7.0_f32; 4];
    let tensors =
        vec![tensor_in([2_i64, 2].as_bytes(), Dtype::I64, &[2]), tensor_out(output.as_mut_bytes(), Dtype::F32)];
    run(&session, model, 1, tensors).0.unwrap();
    assert_eq!(output, [0.0; 4]);
}

#[test]
fn an_inference_that_runs_is_stopped_at_its_deadline() {
    let Some(session) = onnxruntime() else { return };
    // A loop of more rounds than anybody waits for.
    let body = {
        let scalar = |name, dtype| onnx::value(name, dtype, &[]);
        let node = |op, input: &str, output: &str| onnx::node(op, &[input], &[output], &[]);
        let nodes = [node("Identity", "go", "go_on"), node("Neg", "v", "w")];
        let mut graph: Vec<u8> = nodes.iter().flat_map(|node| onnx::bytes(1, node)).collect();
        graph.extend(onnx::bytes(2, "body"));
        for value in [scalar("i", onnx::INT64), scalar("go", 9), onnx::value("v", onnx::FLOAT, &ROWS)] {
            graph.extend(onnx::bytes(11, value));
        }
        for value in [scalar("go_on", 9), onnx::value("w", onnx::FLOAT, &ROWS)] {
            graph.extend(onnx::bytes(12, value));
        }
        onnx::bytes(5, [onnx::bytes(1, "body"), onnx::bytes(6, graph), onnx::number(20, 5)].concat())
    };
    let nodes = [onnx::node("Loop", &["rounds", "", "x"], &["y"], &body)];
    let rounds = onnx::value("rounds", onnx::INT64, &[]);
    let value = |name| onnx::value(name, onnx::FLOAT, &ROWS);
    let model = register(&session, "loop", onnx::model(&nodes, &[rounds, value("x")], &[value("y")], &[]));
    let params = ModelParams { model, inputs: 2 };
    let (rounds, input, mut output) = ([i64::MAX], [1.0_f32, 2.0], [0.0_f32; 2]);
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        Arg::new(Data::In(rounds.as_bytes()), Dtype::I64, Dims::NONE),
        Arg::new(Data::In(input.as_bytes()), Dtype::F32, Dims::new(&[1, 2]).unwrap()),
        Arg::new(Data::Out(output.as_mut_bytes()), Dtype::F32, Dims::NONE),
    ];
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = session.run(operation::ONNX_MODEL_RUN, &mut args, Some(deadline)).unwrap_err();
    assert_eq!(error.status(), status::ETIMEDOUT, "{}", error.message());
    assert!(Instant::now() >= deadline);
}

#[test]
fn what_is_no_picture_or_no_classifier_is_refused_by_onnx_runtime_as_well() {
    let Some(session) = onnxruntime() else { return };
    let colour = register(&session, "colour", onnx::mean_colour());
    let refused = |model, picture: &[u8], words: &str| {
        let error = classify(&session, model, 0, picture, 5).unwrap_err();
        assert_eq!(error.status(), status::EINVAL, "{}", error.message());
        assert!(error.message().contains(words), "{}", error.message());
    };
    refused(colour, b"GIF89a", "neither a JPEG nor a PNG");
    refused(colour, &picture("cat.jpg")[..300], "JPEG");
    let rows = register(&session, "rows", onnx::unary("Relu", onnx::FLOAT, &ROWS, &ROWS));
    refused(rows, &grey_jpeg(1, 1), "[N,2]");
    let planes = [Dim::Named("N"), Dim::Fixed(3), Dim::Fixed(8), Dim::Fixed(8)];
    let planes = register(&session, "planes", onnx::unary("Relu", onnx::FLOAT, &planes, &planes));
    refused(planes, &grey_jpeg(1, 1), "[N,classes]");
    let (_, ranking) = classify(&session, colour, 0, &grey_jpeg(5, 3), 3).unwrap();
    assert_eq!(ranking.iter().map(|class| class.class).collect::<Vec<_>>(), [2, 1, 0]);
    let error = classify_until(&session, colour, 0, &grey_jpeg(1, 1), 1, Some(Instant::now())).unwrap_err();
    assert_eq!(error.status(), status::ETIMEDOUT);
}

#[test]
fn many_threads_run_a_model_of_onnx_runtimes_at_once() {
    let Some(session) = onnxruntime() else { return };
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

#[test]
fn what_one_plugin_declines_is_done_by_the_next() {
    let Some(onnxruntime) = native("onnxruntime", OnnxRuntime::open(&OnnxRuntimeOptions::default())) else { return };
    let session = Runtime::new(vec![Arc::new(Rten::new()), Arc::new(onnxruntime)]).session();
    session.prefer(Hint { plugin: Some("rten".to_owned()), ..Hint::default() });
    // rten has no numbers of 64 bits.
    let model = register(&session, "double", onnx::unary("Neg", 11, &ROWS, &ROWS));
    let (input, mut output) = ([1.5_f64, -2.0], [0.0_f64; 2]);
    let tensors = vec![tensor_in(input.as_bytes(), Dtype::F64, &[1, 2]), tensor_out(output.as_mut_bytes(), Dtype::F64)];
    let report = run(&session, model, 1, tensors).0.unwrap();
    assert_eq!((report.plugin, report.fallback_from), ("onnxruntime", Some("rten")));
    assert_eq!(output, [-1.5, 2.0]);
    // Nobody has this operator: both say so.
    let odd = register(&session, "odd", onnx::unary("NoSuchOperator", onnx::FLOAT, &ROWS, &ROWS));
    let error = load(&session, odd).unwrap_err();
    assert_eq!(error.status(), status::ENOTSUP);
    assert!(error.message().contains("declines"), "{}", error.message());
}
