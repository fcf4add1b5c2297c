//! Promises about the arguments of each operation: what fits is taken as it is, and of what does not fit the caller is
//! told which argument and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use kernlet_abi::{
    accel::{BatchParams, ClassifyParams, ModelParams, ResizeParams, ResourceParams, SgemmParams, access},
    hypercall::status,
};
use kernlet_accel::{
    AccelError, ArgError, Dtype, Operation, Resource, decode,
    operation::{Library, Task},
};
use support::given::{Given, Sizes, args, decoded, fitting};
use zerocopy::IntoBytes as _;

/// A function with two resources, of which the second is also what it has when it names none.
fn resource(id: u32) -> Option<Resource> {
    (id <= 2).then(|| Resource::from_bytes([u8::try_from(id).unwrap()]))
}

/// Takes the arguments.
fn take(operation: Operation, given: &mut [Given]) {
    let mut args = args(given);
    let task = decode(operation, &mut args, resource).unwrap_or_else(|error| panic!("{operation}: {error:?}"));
    assert_eq!(task.operation(), operation);
}

fn refuse(operation: Operation, given: &mut [Given]) -> AccelError {
    match decode(operation, &mut args(given), resource) {
        Ok(task) => panic!("{operation} takes {task:?}"),
        Err(error) => error,
    }
}

/// What is wrong with which argument.
fn wrong(operation: Operation, given: &mut [Given]) -> (usize, ArgError) {
    match refuse(operation, given) {
        AccelError::BadArg { index, source, .. } => (index, source),
        other => panic!("{operation}: {other}"),
    }
}

/// The arguments of an operation with another one in a place.
fn with(operation: Operation, index: usize, change: impl FnOnce(&mut Given)) -> Vec<Given> {
    let mut given = fitting(operation, &Sizes::SOME);
    change(&mut given[index]);
    given
}

#[test]
fn arguments_that_fit_are_taken() {
    let nothing = Sizes { m: 0, n: 1, k: 0, gap: 0, ..Sizes::SOME };
    for operation in decoded() {
        take(operation, &mut fitting(operation, &Sizes::SOME));
        if operation != Operation::OnnxModelRunBatch {
            take(operation, &mut fitting(operation, &nothing));
        }
    }
}

/// Arguments whose callee alone knows what they must be.
fn is_free(operation: Operation, index: usize) -> bool {
    match operation {
        Operation::OpenCv => true,
        Operation::Exec | Operation::ExecWithResource => index >= 2,
        _ => false,
    }
}

#[test]
fn an_argument_that_is_passed_for_another_use_is_refused() {
    for operation in decoded() {
        for index in 0..fitting(operation, &Sizes::SOME).len() {
            for access in [access::IN, access::OUT, access::IN_OUT] {
                let mut given = with(operation, index, |given| given.access = access);
                if is_free(operation, index) || given == fitting(operation, &Sizes::SOME) {
                    take(operation, &mut given);
                    continue;
                }
                let (found, error) = wrong(operation, &mut given);
                assert!(matches!(error, ArgError::Access { .. }), "{operation} {index}: {error}");
                assert_eq!(found, index, "{operation}");
            }
        }
    }
}

#[test]
fn an_argument_of_another_type_is_refused() {
    for operation in decoded() {
        for index in (0..fitting(operation, &Sizes::SOME).len()).filter(|&index| !is_free(operation, index)) {
            let mut given = with(operation, index, |given| given.dtype = Dtype::Custom);
            let (found, error) = wrong(operation, &mut given);
            assert!(matches!(error, ArgError::Type { got: "custom", .. }), "{operation} {index}: {error}");
            assert_eq!(found, index, "{operation}");
        }
    }
}

#[test]
fn elements_that_are_not_aligned_or_not_whole_are_refused() {
    for operation in decoded() {
        for index in 0..fitting(operation, &Sizes::SOME).len() {
            let before = &fitting(operation, &Sizes::SOME)[index];
            let size = before.dtype.size() as u64;
            if is_free(operation, index) || size == 1 {
                continue;
            }
            let mut moved = with(operation, index, |given| given.range = given.range.start + 1..given.range.end + 1);
            assert_eq!(wrong(operation, &mut moved), (index, ArgError::Misaligned { align: size }), "{operation}");
            // A tensor has to have the length that its shape says, and its room may be larger.
            if !operation.name().contains("model") {
                let mut ragged = with(operation, index, |given| given.range.end += 1);
                let (found, error) = wrong(operation, &mut ragged);
                assert!(matches!(error, ArgError::Ragged { .. }), "{operation} {index}: {error}");
                assert_eq!(found, index, "{operation}");
            }
        }
    }
}

#[test]
fn arrays_of_different_lengths_are_refused() {
    let operations = [
        Operation::FpgaArrayCopy,
        Operation::FpgaMmult,
        Operation::FpgaParallel,
        Operation::FpgaVectorAdd,
        Operation::MinMax,
        Operation::ImageResize,
    ];
    for operation in operations {
        for index in 0..fitting(operation, &Sizes::SOME).len() {
            let mut short = with(operation, index, |given| given.range.end -= given.dtype.size());
            let mut long = with(operation, index, |given| given.range.end += given.dtype.size());
            for given in [&mut short, &mut long] {
                let (_, error) = wrong(operation, given);
                assert!(matches!(error, ArgError::Length { .. }), "{operation} {index}: {error}");
            }
        }
    }
}

#[test]
fn a_product_of_what_is_no_square_matrix_is_refused() {
    for elements in [2, 3, 5, 8, 15, 1000] {
        let numbers = Given::read(Dtype::F32, &vec![0_f32; elements]);
        let mut given = [numbers.clone(), numbers, Given::write(Dtype::F32, 4 * elements)];
        let error = ArgError::NotSquare { elements: elements as u64 };
        assert_eq!(wrong(Operation::FpgaMmult, &mut given), (0, error));
    }
    take(Operation::FpgaMmult, &mut fitting(Operation::FpgaMmult, &Sizes { n: 31, ..Sizes::SOME }));
}

#[test]
fn nothing_has_no_smallest_number() {
    let mut given = fitting(Operation::MinMax, &Sizes { n: 0, ..Sizes::SOME });
    assert_eq!(wrong(Operation::MinMax, &mut given), (2, ArgError::Empty));
    for index in [3, 4] {
        let mut given = with(Operation::MinMax, index, |given| given.range.end = 0);
        assert_eq!(wrong(Operation::MinMax, &mut given), (index, ArgError::Length { expected: 8, got: 0 }));
    }
}

#[test]
fn numbers_that_are_none_are_taken_as_they_are() {
    for value in [f32::NAN, f32::NEG_INFINITY, f32::MIN_POSITIVE / 4.0, -0.0] {
        for operation in decoded() {
            take(operation, &mut fitting(operation, &Sizes { value, ..Sizes::SOME }));
        }
    }
}

#[test]
fn a_picture_has_the_size_that_it_is_said_to_have() {
    let resize = |params: ResizeParams| {
        let mut given = fitting(Operation::ImageResize, &Sizes::SOME);
        given[0] = Given::params(&params);
        wrong(Operation::ImageResize, &mut given)
    };
    // What fits is 3 by 3 to 3 by 2, of three bytes a pixel.
    let fits = ResizeParams { width: 3, height: 3, channels: 3, to_width: 3, to_height: 2 };
    for channels in [0, 5, u32::MAX] {
        let size = ArgError::Size { field: "channels", value: channels.into(), min: 1, max: 4 };
        assert_eq!(resize(ResizeParams { channels, ..fits }), (0, size));
    }
    for zero in [
        ResizeParams { width: 0, ..fits },
        ResizeParams { height: 0, ..fits },
        ResizeParams { to_width: 0, ..fits },
        ResizeParams { to_height: 0, ..fits },
    ] {
        assert_eq!(resize(zero), (0, ArgError::Empty));
    }
    let length = |expected, got| (0, ArgError::Length { expected, got });
    assert_eq!(resize(ResizeParams { width: 4, ..fits }), length(36, 27));
    assert_eq!(resize(ResizeParams { to_height: 1, ..fits }), length(9, 18));
    // A product that overflows 64 bits does not come out small.
    let huge = ResizeParams { width: u32::MAX, height: u32::MAX, channels: 4, ..fits };
    assert_eq!(resize(huge), length(u64::MAX, 27));
    let huge = ResizeParams { to_width: 1 << 31, to_height: 1 << 31, channels: 4, width: 9, height: 1 };
    assert!(matches!(resize(huge), (0, ArgError::Length { .. })));
}

#[test]
fn sizes_of_a_product_that_are_negative_or_enormous_are_refused() {
    let fits = SgemmParams { m: 2, n: 3, k: 1, lda: 2, ldb: 4, ldc: 4, alpha: 1.0, beta: 1.0 };
    for operation in [Operation::BlasSgemm, Operation::TorchSgemm] {
        let product = |params: SgemmParams| {
            let mut given = fitting(operation, &Sizes::SOME);
            given[0] = Given::params(&params);
            wrong(operation, &mut given)
        };
        for value in [-1, i64::MIN] {
            for params in [
                SgemmParams { m: value, ..fits },
                SgemmParams { n: value, ..fits },
                SgemmParams { k: value, ..fits },
                SgemmParams { lda: value, ..fits },
                SgemmParams { ldb: value, ..fits },
                SgemmParams { ldc: value, ..fits },
            ] {
                let (index, error) = product(params);
                assert!(matches!(error, ArgError::Size { value: got, .. } if got == value), "{error}");
                assert_eq!(index, 0);
            }
        }
        for (params, field) in [
            (SgemmParams { lda: 0, ..fits }, "lda"),
            (SgemmParams { ldb: 2, ..fits }, "ldb"),
            (SgemmParams { ldc: 2, ..fits }, "ldc"),
            (SgemmParams { k: i64::MAX, ..fits }, "lda"),
        ] {
            let (_, error) = product(params);
            assert!(matches!(error, ArgError::Stride { field: got, .. } if got == field), "{error}");
        }
        let (_, error) = product(SgemmParams { lda: i64::MAX, ..fits });
        assert!(matches!(error, ArgError::MatrixOverflow { .. }), "{error}");
        let (_, error) = product(SgemmParams { m: 1 << 40, ..fits });
        assert!(matches!(error, ArgError::InputTooShort { .. }), "{error}");
        let (index, error) = product(SgemmParams { ldc: 1 << 40, ..fits });
        assert_eq!(index, 3);
        assert!(matches!(error, ArgError::OutputTooSmall { .. }), "{error}");
    }
}

#[test]
fn sets_are_as_many_as_they_are_said_to_be() {
    let batch = |inputs, outputs, sets| {
        let mut given = fitting(Operation::OnnxModelRunBatch, &Sizes::SOME);
        assert_eq!(given.len(), 10, "three sets of two inputs and one output");
        given[0] = Given::params(&BatchParams { model: 1, inputs, outputs, sets });
        wrong(Operation::OnnxModelRunBatch, &mut given)
    };
    for (inputs, outputs, sets) in [
        (2, 1, 2),
        (2, 1, 4),
        (2, 1, 0),
        (0, 0, 3),
        (0, 0, 0),
        (u32::MAX, u32::MAX, u32::MAX),
        (1 << 31, 1 << 31, 1 << 31),
    ] {
        let (index, error) = batch(inputs, outputs, sets);
        assert!(matches!(error, ArgError::SetCount { given: 9, .. }), "{error}");
        assert_eq!(index, 0);
    }
    // As many tensors, but other ones.
    let (index, error) = batch(1, 2, 3);
    assert_eq!((index, error), (2, ArgError::Access { expected: "out", got: "in" }));
    let (index, error) = batch(9, 0, 1);
    assert_eq!((index, error), (3, ArgError::Access { expected: "in", got: "out" }));
}

#[test]
fn every_tensor_of_tensorflow_has_a_name() {
    let names = |text: &[u8]| {
        let mut given = fitting(Operation::TfModelRun, &Sizes::SOME);
        given[2] = Given::new(access::IN, Dtype::Text, &[], text);
        decode(Operation::TfModelRun, &mut args(&mut given), resource).map(|_| ()).map_err(|error| match error {
            AccelError::BadArg { index: 2, source, .. } => source,
            other => panic!("{other}"),
        })
    };
    names(b"a:0\nb:0\nc:0").unwrap();
    names(b"a:0\nb:0\nc:0\n").unwrap();
    for few_or_many in [&b""[..], b"a:0", b"a:0\nb:0", b"a\nb\nc\nd"] {
        assert!(matches!(names(few_or_many), Err(ArgError::Value { .. })));
    }
    assert_eq!(names(b"a:0\nb:0\n\xff"), Err(ArgError::NotText));
}

#[test]
fn a_library_and_a_function_have_names() {
    for operation in [Operation::Exec, Operation::ExecWithResource] {
        let named = |index: usize, name: &[u8]| {
            let mut given = fitting(operation, &Sizes::SOME);
            given[index] = Given::new(access::IN, Dtype::Text, &[], name);
            given
        };
        take(operation, &mut named(1, b"as C has it\0"));
        for bad in [&b""[..], b"\0", b"a\0b", &[b'x'; 4097]] {
            assert_eq!(wrong(operation, &mut named(1, bad)), (1, ArgError::BadName { max: 4096 }));
        }
        assert_eq!(wrong(operation, &mut named(1, b"\xff")), (1, ArgError::NotText));
    }
    let mut given = fitting(Operation::Exec, &Sizes::SOME);
    given[0] = Given::new(access::IN, Dtype::Text, &[], b"../../lib/../\0/x");
    assert!(matches!(wrong(Operation::Exec, &mut given), (0, ArgError::BadName { .. })));
}

#[test]
fn a_library_that_is_a_resource_is_the_callers() {
    let call = |id| {
        let mut given = fitting(Operation::ExecWithResource, &Sizes::SOME);
        given[0] = Given::params(&ResourceParams { resource: id });
        match decode(Operation::ExecWithResource, &mut args(&mut given), resource) {
            Ok(Task::ExecWithResource(task)) => match task.library {
                Library::Resource(library) => Ok(library.bytes().to_vec()),
                Library::Name(name) => panic!("{name}"),
            },
            Err(AccelError::UnknownResource { id }) => Err(id),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(call(2), Ok(vec![2]));
    // Zero means a model, and a model is no library.
    for id in [0, 3, u32::MAX] {
        assert_eq!(call(id), Err(id));
    }
}

#[test]
fn a_model_is_the_callers_whatever_is_done_with_it() {
    for operation in decoded() {
        let mut given = fitting(operation, &Sizes::SOME);
        let block = match given.first().map(|first| first.bytes().len()) {
            Some(8) if operation.name().starts_with("image") => {
                ClassifyParams { model: 3, labels: 0 }.as_bytes().to_vec()
            }
            Some(8) if operation.name().contains("model") => {
                let inputs = if operation.name().ends_with("run") { 2 } else { 0 };
                ModelParams { model: 3, inputs }.as_bytes().to_vec()
            }
            Some(16) => BatchParams { model: 3, inputs: 2, outputs: 1, sets: 3 }.as_bytes().to_vec(),
            _ => continue,
        };
        given[0] = Given::new(access::IN, Dtype::Bytes, &[], &block);
        let error = refuse(operation, &mut given);
        assert!(matches!(error, AccelError::UnknownResource { id: 3 }), "{operation}: {error}");
        assert_eq!(error.status(), status::ENOENT);
    }
}

#[test]
fn a_picture_without_a_byte_is_refused() {
    for operation in [Operation::ImageClassify, Operation::ImageDetect, Operation::ImageSegment, Operation::ImagePose] {
        let mut given = with(operation, 1, |given| given.range.end = 0);
        assert_eq!(wrong(operation, &mut given), (1, ArgError::Empty));
    }
    // Room for no text is no mistake: it may be that there is nothing to say.
    take(Operation::ImageDepth, &mut with(Operation::ImageDepth, 2, |given| given.range.end = 0));
}

#[test]
fn a_text_for_which_there_is_no_room_is_said_to_be_too_long() {
    let mut given = with(Operation::ImageDetect, 2, |given| given.range.end = 3);
    let mut given = args(&mut given);
    let Task::ImageDetect(mut task) = decode(Operation::ImageDetect, &mut given, resource).unwrap() else {
        panic!("another task");
    };
    assert_eq!(task.text.fill("four"), Err(ArgError::OutputTooSmall { needed: 4, got: 3 }));
    task.text.fill("abc").unwrap();
    drop(task);
    assert_eq!(given[2].written, 3);
}
