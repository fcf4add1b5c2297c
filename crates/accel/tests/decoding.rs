//! Promises about the parser of arguments, which a hostile guest feeds: it never panics, takes what is right,
//! and says what is wrong with everything else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use kernlet_abi::{
    accel::{ClassifyParams, ModelParams, SgemmParams},
    hypercall::status,
};
use kernlet_accel::{
    AccelError, Arg, ArgError, Data, Dims, Dtype, Operation, Resource, decode,
    operation::{Elements, Task},
};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

/// A function with two resources.
fn resource(id: u32) -> Option<Resource> {
    matches!(id, 1 | 2).then(|| Resource::from_bytes(*b"resource"))
}

fn refuse(operation: Operation, args: &mut [Arg<'_>]) -> AccelError {
    decode(operation, args, resource).map(|_| ()).unwrap_err()
}

/// What is wrong with which argument.
fn wrong(operation: Operation, args: &mut [Arg<'_>]) -> (usize, ArgError) {
    match refuse(operation, args) {
        AccelError::BadArg { index, source, .. } => (index, source),
        other => panic!("{other}"),
    }
}

fn f32s(data: Data<'_>) -> Arg<'_> {
    Arg::new(data, Dtype::F32, Dims::NONE)
}

fn tensor<'a>(data: Data<'a>, dtype: Dtype, dims: &[u64]) -> Arg<'a> {
    Arg::new(data, dtype, Dims::new(dims).unwrap())
}

const CLASSIFY: ClassifyParams = ClassifyParams { model: 1, labels: 0 };
const PRODUCT: SgemmParams = SgemmParams { m: 2, n: 3, k: 1, lda: 1, ldb: 3, ldc: 4, alpha: 1.0, beta: 1.0 };

#[test]
fn the_number_of_arguments_is_checked() {
    let many: Vec<_> = (0..33).map(|_| Arg::bytes(Data::In(&[]))).collect();
    for &operation in Operation::ALL {
        let mut many = Vec::from_iter(many.iter().map(|_| Arg::bytes(Data::In(&[]))));
        assert!(matches!(refuse(operation, &mut many), AccelError::TooManyArgs { count: 33, .. }));
        let counts = (0..=5).filter(|&count| {
            let mut args: Vec<_> = (0..count).map(|_| Arg::bytes(Data::In(&[]))).collect();
            !matches!(decode(operation, &mut args, resource), Err(AccelError::WrongArgCount { .. }))
        });
        let expected: &[usize] = match operation {
            Operation::Noop => &[0],
            Operation::FpgaArrayCopy => &[2],
            Operation::ImageClassify
            | Operation::ImageDetect
            | Operation::ImageSegment
            | Operation::ImagePose
            | Operation::ImageDepth
            | Operation::ImageResize
            | Operation::FpgaMmult
            | Operation::FpgaVectorAdd => &[3],
            Operation::BlasSgemm | Operation::TorchSgemm | Operation::FpgaParallel => &[4],
            Operation::MinMax => &[5],
            Operation::TfModelLoad
            | Operation::TfModelUnload
            | Operation::TfliteModelLoad
            | Operation::TfliteModelUnload
            | Operation::TorchModelLoad
            | Operation::OnnxModelLoad
            | Operation::OnnxModelUnload => &[1],
            Operation::OnnxModelRun | Operation::OnnxModelRunBatch | Operation::TfliteModelRun => &[1, 2, 3, 4, 5],
            Operation::Exec | Operation::ExecWithResource | Operation::TorchModelRun => &[2, 3, 4, 5],
            Operation::TfModelRun => &[3, 4, 5],
            // Both have parsers of their own, which this one refuses to stand in for.
            Operation::OpenCv | Operation::Generic | Operation::Profile => &[0, 1, 2, 3, 4, 5],
        };
        assert_eq!(counts.collect::<Vec<_>>(), expected, "{operation}");
    }
}

#[test]
fn a_parameter_block_may_lie_anywhere_and_has_its_size() {
    let mut shifted = vec![0];
    shifted.extend(ModelParams { model: 1, inputs: 0 }.as_bytes());
    let mut args = [Arg::bytes(Data::In(&shifted[1..]))];
    assert!(matches!(decode(Operation::OnnxModelLoad, &mut args, resource), Ok(Task::OnnxModelLoad(_))));
    for len in [0, 7] {
        let (index, error) = wrong(Operation::OnnxModelLoad, &mut [Arg::bytes(Data::In(&shifted[..len]))]);
        assert_eq!((index, error), (0, ArgError::Length { expected: 8, got: len as u64 }));
    }
    let mut block = shifted[1..].to_vec();
    let (_, error) = wrong(Operation::OnnxModelLoad, &mut [Arg::bytes(Data::InOut(&mut block))]);
    assert_eq!(error, ArgError::Access { expected: "in", got: "in-out" });
    let (_, error) = wrong(Operation::OnnxModelLoad, &mut [f32s(Data::In(&shifted[1..]))]);
    assert_eq!(error, ArgError::Type { expected: "bytes", got: "f32" });
}

#[test]
fn resources_are_the_callers() {
    for (model, labels, missing) in [(3, 0, 3), (1, 3, 3), (0, 3, 3), (u32::MAX, 0, u32::MAX)] {
        let params = ClassifyParams { model, labels };
        let mut slots = [0; 0];
        let mut args = [
            Arg::bytes(Data::In(params.as_bytes())),
            Arg::bytes(Data::In(b"picture")),
            Arg::bytes(Data::Out(&mut slots)),
        ];
        let error = refuse(Operation::ImageClassify, &mut args);
        assert!(matches!(error, AccelError::UnknownResource { id } if id == missing), "{error}");
        assert_eq!(error.status(), status::ENOENT);
    }
}

#[test]
fn a_classification_needs_a_picture_and_aligned_room() {
    let mut room = [0_u32; 33];
    let room = room.as_mut_bytes();
    let mut check = |picture: &[u8], range: std::ops::Range<usize>| {
        let args = &mut [
            Arg::bytes(Data::In(CLASSIFY.as_bytes())),
            Arg::bytes(Data::In(picture)),
            Arg::bytes(Data::Out(&mut room[range])),
        ];
        match decode(Operation::ImageClassify, args, resource) {
            Ok(Task::ImageClassify(task)) => Ok(task.ranking.room()),
            Err(AccelError::BadArg { index, source, .. }) => Err((index, source)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(check(b"x", 0..128), Ok(1));
    assert_eq!(check(b"", 0..128), Err((1, ArgError::Empty)));
    assert_eq!(check(b"x", 0..0), Err((2, ArgError::OutputTooSmall { needed: 128, got: 0 })));
    assert_eq!(check(b"x", 0..127), Err((2, ArgError::Ragged { element: 128, got: 127 })));
    assert_eq!(check(b"x", 1..129), Err((2, ArgError::Misaligned { align: 4 })));
}

#[test]
fn the_elements_of_a_matrix_are_f32_at_aligned_addresses() {
    let (a, b, mut c) = (vec![0.0_f32; 8], vec![0.0_f32; 8], vec![0.0_f32; 8]);
    let (a, b, c) = (a.as_bytes(), b.as_bytes(), c.as_mut_bytes());
    let mut check = |a: Arg<'_>| {
        let params = Arg::bytes(Data::In(PRODUCT.as_bytes()));
        wrong(Operation::BlasSgemm, &mut [params, a, f32s(Data::In(b)), f32s(Data::InOut(c))])
    };
    assert_eq!(check(f32s(Data::In(&a[1..13]))), (1, ArgError::Misaligned { align: 4 }));
    assert_eq!(check(f32s(Data::In(&a[..13]))), (1, ArgError::Ragged { element: 4, got: 13 }));
    assert_eq!(check(f32s(Data::In(&a[..4]))), (1, ArgError::InputTooShort { needed: 8, got: 4 }));
    let bytes = Arg::bytes(Data::In(a));
    assert_eq!(check(bytes), (1, ArgError::Type { expected: "f32", got: "bytes" }));
    let params = Arg::bytes(Data::In(PRODUCT.as_bytes()));
    let mut args = [params, f32s(Data::In(a)), f32s(Data::In(b)), f32s(Data::Out(c))];
    let (index, error) = wrong(Operation::BlasSgemm, &mut args);
    assert_eq!((index, error), (3, ArgError::Access { expected: "in-out", got: "out" }));
}

#[test]
fn a_matrix_counts_as_written_to_its_last_element() {
    let (a, b, mut c) = ([0.0_f32; 2], [0.0_f32; 3], [0.0_f32; 8]);
    let mut args = [
        Arg::bytes(Data::In(PRODUCT.as_bytes())),
        f32s(Data::In(a.as_bytes())),
        f32s(Data::In(b.as_bytes())),
        f32s(Data::InOut(c.as_mut_bytes())),
    ];
    decode(Operation::BlasSgemm, &mut args, resource).unwrap();
    assert_eq!(args[3].written, (4 + 3) * 4);
}

#[test]
fn a_tensor_is_as_long_as_its_shape_says() {
    let data = [0_i64; 6];
    let bytes = data.as_bytes();
    let run = |arg: Arg<'_>| {
        let params = ModelParams { model: 1, inputs: 1 };
        let mut args = [Arg::bytes(Data::In(params.as_bytes())), arg];
        match decode(Operation::OnnxModelRun, &mut args, resource) {
            Ok(Task::OnnxModelRun(task)) => Ok(task.inputs[0].elements().len()),
            Err(AccelError::BadArg { index: 1, source, .. }) => Err(source),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(run(tensor(Data::In(bytes), Dtype::I64, &[2, 3])), Ok(6));
    assert_eq!(run(tensor(Data::In(&bytes[..4]), Dtype::F32, &[])), Ok(1), "a scalar");
    assert_eq!(run(tensor(Data::In(&bytes[3..3]), Dtype::I64, &[4, 0])), Ok(0), "nothing lies anywhere");
    let dims = Dims::new(&[2, 2]).unwrap();
    let error = ArgError::ShapeMismatch { dims, needed: 32, got: 48 };
    assert_eq!(run(tensor(Data::In(bytes), Dtype::I64, &[2, 2])), Err(error));
    let dims = Dims::new(&[1 << 40, 1 << 40]).unwrap();
    assert_eq!(run(tensor(Data::In(bytes), Dtype::U8, dims.sizes())), Err(ArgError::ShapeOverflow { dims }));
    let dims = Dims::new(&[1 << 62]).unwrap();
    assert_eq!(run(tensor(Data::In(bytes), Dtype::I32, dims.sizes())), Err(ArgError::ShapeOverflow { dims }));
    let error = run(tensor(Data::In(&bytes[1..9]), Dtype::I64, &[1]));
    assert_eq!(error, Err(ArgError::Misaligned { align: 8 }));
    assert!(matches!(run(tensor(Data::In(bytes), Dtype::Bytes, &[48])), Err(ArgError::Type { .. })));
}

#[test]
fn outputs_follow_inputs() {
    let (input, mut output) = ([0.0_f32; 2], [0_u32; 2]);
    let mut run = |inputs, misaligned: usize| {
        let params = ModelParams { model: 2, inputs };
        let mut args = [
            Arg::bytes(Data::In(params.as_bytes())),
            tensor(Data::In(input.as_bytes()), Dtype::F32, &[2]),
            tensor(Data::Out(&mut output.as_mut_bytes()[misaligned..]), Dtype::I32, &[9, 9]),
        ];
        match decode(Operation::OnnxModelRun, &mut args, resource) {
            Ok(Task::OnnxModelRun(mut task)) => {
                assert!(matches!(task.inputs[0].elements(), Elements::F32([_, _])));
                task.outputs[0].claim::<i32>(Dims::new(&[2]).unwrap()).unwrap().fill(7);
                assert!(task.outputs[0].claim::<i32>(Dims::new(&[u64::MAX]).unwrap()).is_err());
                assert!(task.outputs[0].claim::<f32>(Dims::NONE).is_err());
            }
            Err(AccelError::BadArg { index, source, .. }) => return Err((index, source)),
            other => panic!("{other:?}"),
        }
        Ok((args[2].written, args[2].dims))
    };
    assert_eq!(run(1, 0), Ok((8, Dims::new(&[2]).unwrap())));
    assert_eq!(run(1, 2), Err((2, ArgError::Misaligned { align: 4 })));
    assert_eq!(run(3, 0), Err((0, ArgError::InputCount { announced: 3, given: 2 })));
    assert_eq!(run(u32::MAX, 0), Err((0, ArgError::InputCount { announced: u32::MAX, given: 2 })));
    assert_eq!(run(2, 0), Err((2, ArgError::Access { expected: "in", got: "out" })));
    assert_eq!(run(0, 0), Err((1, ArgError::Access { expected: "out", got: "in" })));
    assert_eq!(output, [7; 2]);
}

#[test]
fn a_shape_has_at_most_six_dimensions() {
    assert_eq!(Dims::new(&[1, 2, 3, 4, 5, 6]).unwrap().sizes(), [1, 2, 3, 4, 5, 6]);
    let error = Dims::new(&[1; 7]).unwrap_err();
    assert_eq!((error.status(), error.message().contains("7 dimensions")), (status::EINVAL, true));
    assert_eq!(Dtype::from_abi(200).unwrap_err().status(), status::EINVAL);
}

/// Sizes as a guest may write them: small, odd, or as large as they come.
fn size() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -1_i64..9, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(1 << 32)]
}

fn params() -> impl Strategy<Value = Vec<u8>> {
    let product = (size(), size(), size(), size(), size(), size(), any::<f32>(), any::<f32>()).prop_map(
        |(m, n, k, lda, ldb, ldc, alpha, beta)| SgemmParams { m, n, k, lda, ldb, ldc, alpha, beta }.as_bytes().to_vec(),
    );
    let pair = (0_u32..4, prop_oneof![0_u32..6, any::<u32>()])
        .prop_map(|(model, inputs)| ModelParams { model, inputs }.as_bytes().to_vec());
    prop_oneof![product, pair, prop::collection::vec(any::<u8>(), 0..80)]
}

#[derive(Clone, Debug)]
struct Raw {
    access: u8,
    dtype: u32,
    dims: Vec<u64>,
    /// Where the data begins, so that it is sometimes not aligned.
    shift: usize,
    bytes: Vec<u8>,
}

fn raw() -> impl Strategy<Value = Raw> {
    let dim = prop_oneof![4 => 0_u64..5, 1 => any::<u64>()];
    let bytes = prop_oneof![3 => prop::collection::vec(any::<u8>(), 0..300), 1 => params()];
    (0_u8..3, 0_u32..19, prop::collection::vec(dim, 0..=6), 0_usize..9, bytes)
        .prop_map(|(access, dtype, dims, shift, bytes)| Raw { access, dtype, dims, shift, bytes })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn no_arguments_make_the_decoder_panic(
        params in params(),
        raws in prop::collection::vec(raw(), 0..6),
        operation in prop::sample::select(Operation::ALL),
    ) {
        // The first argument is mostly plausible parameters, the rest anything.
        let mut buffers: Vec<_> = raws.iter().map(|raw| [vec![0; raw.shift], raw.bytes.clone()].concat()).collect();
        let mut args = vec![Arg::bytes(Data::In(&params))];
        for (raw, buffer) in raws.iter().zip(&mut buffers) {
            let bytes = &mut buffer[raw.shift..];
            let data = match raw.access {
                0 => Data::In(bytes),
                1 => Data::Out(bytes),
                _ => Data::InOut(bytes),
            };
            args.push(Arg::new(data, Dtype::from_abi(raw.dtype).unwrap(), Dims::new(&raw.dims).unwrap()));
        }
        match decode(operation, &mut args, resource) {
            Ok(task) => prop_assert_eq!(task.operation(), operation),
            Err(error) => {
                prop_assert_ne!(error.status(), status::OK);
                prop_assert!(error.message().len() as u64 <= kernlet_abi::accel::ERROR_MAX);
            }
        }
    }
}
