//! Promises about the plugin that stands for others: vAccel's dummies for every operation, and none where they are not
//! asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use kernlet_accel::{
    Dtype, Operation, Resource,
    host::{Framework, Input, Output, label},
    operation::{TypedIn, TypedOut},
};
use kernlet_accel_plugins::Noop;
use support::session_on;

#[test]
fn the_dummy_of_every_operation_is_vaccels() {
    let session = session_on(Noop::dummy());
    let ops = session.ops();
    assert_eq!(ops.noop().unwrap().plugin, "noop");
    let classes = ops.classify(b"picture", None, None, 3).unwrap();
    assert_eq!((classes.len(), label(&classes[0])), (1, "This is a dummy classification tag!"));
    for text in [ops.detect(b"p", None), ops.segment(b"p", None), ops.pose(b"p", None), ops.depth(b"p", None)] {
        assert_eq!(text.unwrap(), "This is a dummy imgname!");
    }
    let (mut sum, mut product) = ([0.0; 2], [0.0; 2]);
    ops.vector_add(&[1.0, 2.0], &[3.0, 4.0], &mut sum).unwrap();
    assert_eq!(sum, [4.0, 6.0]);
    ops.parallel(&[1.0, 2.0], &[3.0, 5.0], &mut sum, &mut product).unwrap();
    assert_eq!((sum, product), ([4.0, 7.0], [1.0, 1.0]));
    let mut matrix = [0.0; 4];
    ops.mmult(&[0.0; 4], &[0.0; 4], &mut matrix).unwrap();
    assert_eq!(matrix, [9.1; 4]);
    let mut copy = [0; 2];
    ops.array_copy(&[5, 6], &mut copy).unwrap();
    assert_eq!(copy, [5, 6]);
    let mut numbers = [0.0; 2];
    assert_eq!(ops.minmax(&[4.0, 9.0], 5, 6, &mut numbers).unwrap(), (-1.0, 10_000.0));
    assert_eq!(numbers, [4.0, 9.0]);
    for input in [&[21][..], &[7, 8, 9]] {
        let bytes: Vec<u8> = input.iter().flat_map(|value: &i32| value.to_le_bytes()).collect();
        let (mut output, mut written) = (vec![0; bytes.len()], 0);
        let read = vec![TypedIn { dtype: Dtype::I32, custom: 0, array: true, bytes: &bytes }];
        let write =
            vec![TypedOut { dtype: Dtype::I32, custom: 0, array: true, bytes: &mut output, written: &mut written }];
        ops.exec("libmytestlib.so", "mytestfunc", read, write).unwrap();
        assert_eq!((written, output), (bytes.len() as u64, bytes));
    }
}

#[test]
fn a_dummy_of_a_model_gives_its_inputs_back() {
    let session = session_on(Noop::dummy());
    let model = Resource::from_bytes(*b"model");
    for framework in [Framework::Onnx, Framework::TensorFlow, Framework::TfLite, Framework::Torch] {
        let loaded = session.ops().load(framework, &model).unwrap();
        let mut room = [0.0_f32; 4];
        let mut outputs = [Output::new(&mut room)];
        let report = loaded.run(&[Input::new(&[1.0_f32, 2.0], &[1, 2])], &mut outputs).unwrap();
        assert_eq!(report.bytes_copied, 8);
        assert_eq!(outputs[0].shape(), [1, 2]);
        assert_eq!(room, [1.0, 2.0, 0.0, 0.0]);
    }
}

#[test]
fn every_operation_that_a_plugin_can_have_has_a_dummy() {
    let runtime = session_on(Noop::dummy());
    let of_sessions = [Operation::Generic, Operation::Profile];
    for operation in Operation::ALL {
        assert_eq!(runtime.runtime().has(*operation), !of_sessions.contains(operation), "{operation}");
    }
    let alone = session_on(Noop::new());
    assert!(alone.ops().noop().is_ok());
    assert!(alone.ops().detect(b"picture", None).is_err());
}
