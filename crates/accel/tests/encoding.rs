//! Promises about sending a task elsewhere: what is encoded and decoded again is the same task, and what comes back goes
//! where the task has room for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "tests of small sizes"
)]

mod support;

use std::{convert::Infallible, sync::OnceLock};

use kernlet_abi::accel::access;
use kernlet_accel::{
    Arg, ArgError, Data, Dims, Dtype, EncodedData, Operation, Resource, decode,
    operation::{Elements, ModelRun, Task, TensorBuf, TensorOut},
};
use proptest::prelude::*;
use support::given::{Given, Sizes, args, decoded, fitting};

/// The caller's resources, of the ids 1 and 2.
fn resources() -> &'static [Resource; 2] {
    static RESOURCES: OnceLock<[Resource; 2]> = OnceLock::new();
    RESOURCES.get_or_init(|| [Resource::from_bytes(*b"one"), Resource::from_bytes(*b"two")])
}

fn resource(id: u32) -> Option<Resource> {
    resources().get(usize::try_from(id.checked_sub(1)?).unwrap()).cloned()
}

fn id(of: &Resource) -> Result<u32, Infallible> {
    let index = resources().iter().position(|one| one.identity() == of.identity()).unwrap();
    Ok(u32::try_from(index).unwrap() + 1)
}

/// The operation and the arguments that a task is encoded as, without what it points to.
fn encode(task: &mut Task<'_>) -> (u32, Vec<Given>) {
    let encoded = task.encode(id).unwrap();
    let args = encoded.args.into_iter().map(|arg| {
        let (access, bytes) = match &arg.data {
            EncodedData::Params(_) | EncodedData::In(_) => (access::IN, arg.read()),
            EncodedData::Out(bytes) => (access::OUT, &**bytes),
            EncodedData::InOut(bytes) => (access::IN_OUT, &**bytes),
            EncodedData::Growing(_) => panic!("the decoder makes no tensors that grow"),
        };
        let mut given = Given::new(access, arg.dtype, arg.dims.sizes(), bytes);
        given.custom = arg.custom;
        given
    });
    (encoded.operation, args.collect())
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let tensors: Vec<_> =
        Dtype::ALL.iter().copied().filter(|&dtype| Elements::from_bytes(dtype, &[]).is_ok()).collect();
    let value = prop_oneof![Just(f32::NAN), Just(f32::MIN_POSITIVE / 2.0), Just(-0.0), any::<f32>()];
    (0_usize..4, 1_usize..5, 0_usize..4, 0_usize..3, prop::sample::select(tensors), value)
        .prop_map(|(m, n, k, gap, dtype, value)| Sizes { m, n, k, gap, dtype, value })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn what_is_encoded_and_decoded_again_is_the_same_task(sizes in sizes()) {
        for operation in decoded() {
            let mut given = fitting(operation, &sizes);
            if operation == Operation::OnnxModelRunBatch && given.len() == 1 {
                // No batch has no sets.
                continue;
            }
            let original = given.clone();
            let mut given = args(&mut given);
            let mut task = decode(operation, &mut given, resource).unwrap();
            let before = format!("{task:?}");
            let (number, mut encoded) = encode(&mut task);
            prop_assert_eq!(number, operation.abi_number());
            // Parameters may be put otherwise: a stride that is of no use is not kept.
            for (sent, original) in encoded.iter().zip(&original).skip(1) {
                prop_assert_eq!(sent.bytes(), original.bytes(), "{}", operation);
            }
            let mut again = args(&mut encoded);
            let mut again = decode(operation, &mut again, resource).unwrap();
            prop_assert_eq!(format!("{again:?}"), before);
            let (_, twice) = encode(&mut again);
            let (_, once) = encode(&mut task);
            prop_assert_eq!(twice, once);
        }
    }
}

#[test]
fn who_carried_a_task_out_elsewhere_cannot_say_that_it_wrote_more_than_there_is_room_for() {
    let sizes = Sizes { gap: 0, ..Sizes::SOME };
    let mut given = fitting(Operation::OnnxModelRun, &sizes);
    let mut given = args(&mut given);
    let mut task = decode(Operation::OnnxModelRun, &mut given, resource).unwrap();
    let mut finish = |dtype, dims: &[u64], written| {
        let output = task.encode(id).unwrap().args.pop().unwrap();
        output.finish(dtype, Dims::new(dims).unwrap(), written)
    };
    assert_eq!(finish(Dtype::F32, &[4], 16), Err(ArgError::OutputTooSmall { needed: 16, got: 12 }));
    assert_eq!(finish(Dtype::I32, &[3], 12), Err(ArgError::Type { expected: "f32", got: "i32" }));
    assert!(matches!(finish(Dtype::F32, &[2], 12), Err(ArgError::ShapeMismatch { .. })));
    assert!(matches!(finish(Dtype::F32, &[1 << 62, 16], 12), Err(ArgError::ShapeOverflow { .. })));
    finish(Dtype::F32, &[1, 2], 8).unwrap();
    drop(task);
    let output = given.last().unwrap();
    assert_eq!((output.dims.sizes(), output.written), (&[1, 2][..], 8));
}

#[test]
fn an_output_of_any_type_takes_the_type_that_it_is_given() {
    let mut room = [0_u64; 2];
    let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut room[..]);
    let mut given = fitting(Operation::OnnxModelRun, &Sizes { m: 0, k: 0, ..Sizes::SOME });
    let mut given = args(&mut given);
    given.push(Arg::new(Data::Out(bytes), Dtype::Any, Dims::NONE));
    let Task::OnnxModelRun(mut task) = decode(Operation::OnnxModelRun, &mut given, resource).unwrap() else {
        panic!("another task");
    };
    assert_eq!((task.outputs[0].dtype(), task.outputs[0].room()), (None, Some(16)));
    task.outputs[0].claim::<i16>(Dims::new(&[3]).unwrap()).unwrap().fill(-1);
    // From now on it has that type.
    assert!(matches!(task.outputs[0].claim::<u16>(Dims::NONE), Err(ArgError::Type { .. })));
    drop(task);
    let output = given.last().unwrap();
    assert_eq!((output.dtype, output.dims.sizes(), output.written), (Dtype::I16, &[3][..], 6));
}

#[test]
fn a_tensor_that_grows_is_encoded_as_one_and_takes_no_more_than_it_may() {
    let mut buf = TensorBuf::with_max(12);
    let outputs = vec![TensorOut::from(&mut buf)];
    let run = ModelRun { model: resources()[0].clone(), options: &[], names: "", inputs: Vec::new(), outputs };
    let mut task = Task::OnnxModelRun(run);
    let output = task.encode(id).unwrap().args.pop().unwrap();
    assert_eq!(output.dtype, Dtype::Any);
    let EncodedData::Growing(buf) = output.data else { panic!("it has a size") };
    let error = buf.claim(Dtype::F32, Dims::new(&[4]).unwrap()).unwrap_err();
    assert_eq!(error, ArgError::OutputTooSmall { needed: 16, got: 12 });
    let error = buf.claim(Dtype::F32, Dims::new(&[u64::MAX, 2]).unwrap()).unwrap_err();
    assert!(matches!(error, ArgError::ShapeOverflow { .. }));
    assert!(matches!(buf.claim(Dtype::Text, Dims::NONE), Err(ArgError::Type { .. })));
    buf.claim(Dtype::F32, Dims::new(&[3]).unwrap()).unwrap().fill(0);
    assert_eq!(buf.elements::<f32>(), Some(&[0.0; 3][..]));
    assert_eq!(buf.elements::<i32>(), None);
}

#[test]
fn what_a_resource_cannot_be_named_by_ends_the_encoding() {
    let mut given = fitting(Operation::ExecWithResource, &Sizes::SOME);
    let mut given = args(&mut given);
    let mut task = decode(Operation::ExecWithResource, &mut given, resource).unwrap();
    assert_eq!(task.encode(|_| Err("gone")).unwrap_err(), "gone");
}
