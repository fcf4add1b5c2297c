//! Promises about vAccel's generic operation: each of its layouts is understood, and no length that it leaves to the caller
//! is believed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};

use kernlet_abi::{
    accel::{access, operation},
    hypercall::status,
};
use kernlet_accel::{
    AccelError, ArgError, Cost, Deadline, Done, Dtype, Operation, Plugin, PluginError, Resource, Runtime, Session,
    operation::{Library, Task},
};
use proptest::prelude::*;
use support::given::{Given, args};

/// A plugin that keeps what it was asked for, in words, and does some of it.
#[derive(Debug, Default)]
struct Keep(Mutex<Vec<String>>);

impl Plugin for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn operations(&self) -> &[Operation] {
        Operation::ALL
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        let name = task.operation().name();
        let what = match task {
            Task::BlasSgemm(mut task) => {
                let (a, b, c) = task.matrices();
                let layouts = (a.layout(), b.layout(), c.layout());
                let sizes = |layout: kernlet_accel::operation::MatrixLayout| {
                    format!("{}x{}/{}", layout.rows(), layout.columns(), layout.stride())
                };
                c.elements_mut().fill(5.0);
                format!("{} {} {} {:?}", sizes(layouts.0), sizes(layouts.1), sizes(layouts.2), task.factors())
            }
            Task::ImageClassify(mut task) => {
                let label = task.labels.as_ref().map_or("", |labels| str::from_utf8(labels.bytes()).unwrap());
                task.ranking.fill([(7, 0.5, label)]);
                format!("{} bytes", task.picture.len())
            }
            Task::ImageDetect(mut task)
            | Task::ImageSegment(mut task)
            | Task::ImagePose(mut task)
            | Task::ImageDepth(mut task) => {
                task.text.fill("out.png")?;
                format!("{} bytes", task.picture.len())
            }
            Task::Exec(task) | Task::ExecWithResource(task) => {
                let library = match task.library {
                    Library::Name(name) => name.to_owned(),
                    Library::Resource(resource) => format!("{} bytes", resource.size()),
                };
                format!("{library} {} {}/{}", task.function, task.read.len(), task.write.len())
            }
            Task::OpenCv(task) => {
                let arrays = task.write.iter().filter(|arg| arg.array).count();
                format!("{}/{}, {arrays} arrays", task.read.len(), task.write.len())
            }
            Task::MinMax(task) => {
                (*task.min, *task.max) = (task.from[0], task.from[task.from.len() - 1]);
                task.to.copy_from_slice(task.from);
                format!("{} from {} to {}", task.from.len(), task.low, task.high)
            }
            Task::FpgaArrayCopy(task) => format!("{}", task.to.len()),
            Task::FpgaMmult(task) => format!("{}", task.size),
            Task::FpgaParallel(task) => format!("{}", task.product.len()),
            Task::FpgaVectorAdd(task) => format!("{}", task.sum.len()),
            other => format!("{:?}", other.operation()),
        };
        self.0.lock().unwrap().push(format!("{name}: {what}"));
        Ok(Done::default())
    }
}

fn session() -> (Session, Arc<Keep>) {
    let keep = Arc::new(Keep::default());
    let session = Runtime::new(vec![Arc::clone(&keep) as Arc<dyn Plugin>]).session();
    session.register("library", Resource::from_bytes(*b"library")).unwrap();
    (session, keep)
}

fn number(operation: u32) -> Given {
    value(Dtype::U8, &[u8::try_from(operation).unwrap()])
}

fn value(dtype: Dtype, bytes: &[u8]) -> Given {
    Given::new(access::IN, dtype, &[], bytes)
}

fn i64(number: i64) -> Given {
    value(Dtype::I64, &number.to_le_bytes())
}

fn i32(number: i32) -> Given {
    value(Dtype::I32, &number.to_le_bytes())
}

fn f32(number: f32) -> Given {
    value(Dtype::F32, &number.to_le_bytes())
}

fn floats(count: usize) -> Given {
    Given::read(Dtype::F32, &vec![1_f32; count])
}

fn text(text: &str) -> Given {
    value(Dtype::Text, text.as_bytes())
}

fn picture() -> Given {
    value(Dtype::Buffer, b"\xff\xd8")
}

fn room(dtype: Dtype, len: usize) -> Given {
    Given::update(dtype, len)
}

/// A product of 2×1 and 1×3, C's rows four apart.
fn product() -> Vec<Given> {
    let (m, n, k) = (i64(2), i64(3), i64(1));
    let (alpha, beta) = (f32(2.0), f32(0.5));
    let c = room(Dtype::F32, 4 * 7);
    vec![number(operation::BLAS_SGEMM), m, n, k, alpha, floats(2), i64(1), floats(3), i64(3), beta, i64(4), c]
}

fn minmax() -> Vec<Given> {
    let numbers = Given::read(Dtype::F64, &[1_f64, 2.0, 3.0]);
    let rooms = [room(Dtype::F64, 24), room(Dtype::F64, 8), room(Dtype::F64, 8)];
    [vec![number(operation::MINMAX), numbers, i32(3), i32(-5), i32(5)], rooms.to_vec()].concat()
}

/// Asks for the generic operation; gives what the plugin was asked for, and how many bytes of each argument it wrote.
fn ask(mut given: Vec<Given>) -> Result<(String, Vec<u64>), AccelError> {
    let (session, keep) = session();
    let mut args = args(&mut given);
    session.run(operation::GENERIC, &mut args, None)?;
    let asked = keep.0.lock().unwrap().pop().unwrap();
    Ok((asked, args.iter().map(|arg| arg.written).collect()))
}

/// What is wrong with which argument, counted from the operation's number.
fn wrong(given: Vec<Given>) -> (usize, ArgError) {
    match ask(given) {
        Err(AccelError::BadArg { index, source, .. }) => (index, source),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_layout_of_vaccels_generic_operation_is_understood() {
    let bytes = |len| room(Dtype::Uchar, len);
    let copies = Given::read(Dtype::I32, &[1_i32; 5]);
    for (given, asked) in [
        (vec![number(0)], "noop: Noop"),
        (product(), "blas-sgemm: 2x1/1 1x3/3 2x3/4 (2.0, 0.5)"),
        (vec![number(operation::IMAGE_CLASSIFY), picture(), bytes(8), bytes(64)], "image-classify: 2 bytes"),
        (vec![number(operation::IMAGE_DETECT), picture(), bytes(64)], "image-detect: 2 bytes"),
        (vec![number(operation::IMAGE_SEGMENT), picture(), bytes(64)], "image-segment: 2 bytes"),
        (vec![number(operation::IMAGE_POSE), picture(), bytes(64)], "image-pose: 2 bytes"),
        (vec![number(operation::IMAGE_DEPTH), picture(), bytes(64)], "image-depth: 2 bytes"),
        (
            vec![number(operation::EXEC), text("libx.so\0"), text("f\0"), i32(1), bytes(4), bytes(4)],
            "exec: libx.so f 1/2",
        ),
        (vec![number(operation::EXEC_WITH_RESOURCE), i64(1), text("f"), bytes(4)], "exec-with-resource: 7 bytes f 0/1"),
        (minmax(), "minmax: 3 from -5 to 5"),
        (vec![number(operation::FPGA_ARRAY_COPY), copies, room(Dtype::I32, 20)], "fpga-array-copy: 5"),
        (vec![number(operation::FPGA_MMULT), floats(9), floats(9), room(Dtype::F32, 36)], "fpga-mmult: 3"),
        (
            vec![number(operation::FPGA_PARALLEL), floats(2), floats(2), room(Dtype::F32, 8), room(Dtype::F32, 8)],
            "fpga-parallel: 2",
        ),
        (vec![number(operation::FPGA_VECTOR_ADD), floats(4), floats(4), room(Dtype::F32, 16)], "fpga-vector-add: 4"),
        (vec![number(operation::OPENCV), i32(1), i32(2), bytes(4)], "opencv: 2/1, 0 arrays"),
    ] {
        let (got, _) = ask(given).unwrap_or_else(|error| panic!("{asked}: {error:?}"));
        assert_eq!(got, asked);
    }
}

#[test]
fn arguments_without_types_are_those_of_older_programs() {
    for given in [product(), minmax()] {
        let untyped = given.into_iter().map(|given| Given { dtype: Dtype::Bytes, ..given }).collect();
        ask(untyped).unwrap();
    }
}

#[test]
fn what_is_written_stays_an_array_or_a_value() {
    let array = Given::new(access::OUT, Dtype::F32, &[2], &[0; 8]);
    let given = vec![number(operation::OPENCV), array.clone(), Given { access: access::IN_OUT, ..array }];
    let value = Given::write(Dtype::F32, 4);
    assert_eq!(ask([given, vec![value]].concat()).unwrap().0, "opencv: 0/3, 2 arrays");
}

#[test]
fn a_text_of_the_generic_classification_names_the_best_class() {
    let (session, _) = session();
    session.register("labels", Resource::from_bytes(*b"canoe")).unwrap();
    let rooms = [room(Dtype::Uchar, 8), room(Dtype::Uchar, 64)];
    let mut given = [vec![number(operation::IMAGE_CLASSIFY), picture()], rooms.to_vec()].concat();
    let mut lent = args(&mut given);
    session.run(operation::GENERIC, &mut lent, None).unwrap();
    assert_eq!((lent[2].written, lent[3].written), (0, 13));
    drop(lent);
    assert_eq!(&given[3].bytes()[..13], b"50.000% canoe");
    // Without labels it has a number.
    let short = vec![number(operation::IMAGE_CLASSIFY), picture(), room(Dtype::Uchar, 0), room(Dtype::Uchar, 4)];
    assert_eq!(wrong(short), (1, ArgError::OutputTooSmall { needed: 15, got: 4 }));
}

#[test]
fn a_products_sizes_are_checked_against_its_buffers() {
    let with = |index: usize, value: Given| {
        let mut given = product();
        given[index] = value;
        wrong(given)
    };
    // m, n and k are more than A, B and C have.
    assert_eq!(with(1, i64(3)), (5, ArgError::InputTooShort { needed: 12, got: 8 }));
    assert_eq!(with(1, i64(1 << 40)), (5, ArgError::InputTooShort { needed: 4 << 40, got: 8 }));
    let (_, error) = with(1, i64(i64::MAX));
    assert!(matches!(error, ArgError::MatrixOverflow { .. }), "{error}");
    assert!(matches!(with(2, i64(4)), (1, ArgError::Stride { field: "ldb", .. })));
    assert!(matches!(with(3, i64(2)), (1, ArgError::Stride { field: "lda", .. })));
    for index in [1, 2, 3, 6, 8, 10] {
        let (_, error) = with(index, i64(-1));
        assert!(matches!(error, ArgError::Size { value: -1, .. }), "{error}");
    }
    assert_eq!(with(10, i64(5)), (11, ArgError::OutputTooSmall { needed: 32, got: 28 }));
    assert_eq!(with(5, floats(1)), (5, ArgError::InputTooShort { needed: 8, got: 4 }));
    assert_eq!(with(7, floats(0)), (7, ArgError::InputTooShort { needed: 12, got: 0 }));
    assert_eq!(with(11, room(Dtype::F32, 8)), (11, ArgError::OutputTooSmall { needed: 28, got: 8 }));
    // Values of another size or type.
    assert_eq!(with(1, value(Dtype::I64, &[0; 4])), (1, ArgError::Length { expected: 8, got: 4 }));
    assert!(matches!(with(1, i32(2)), (1, ArgError::Type { .. })));
    assert!(matches!(with(4, i32(2)), (4, ArgError::Type { .. })));
}

#[test]
fn the_count_of_a_minmax_is_checked_against_its_buffers() {
    let with = |index: usize, value: Given| {
        let mut given = minmax();
        given[index] = value;
        wrong(given)
    };
    for count in [4, -1, i32::MAX, i32::MIN] {
        let size = ArgError::Size { field: "count", value: count.into(), min: 0, max: 3 };
        assert_eq!(with(2, i32(count)), (2, size));
    }
    assert_eq!(with(2, i32(0)), (1, ArgError::Empty));
    assert_eq!(with(5, room(Dtype::F64, 16)), (5, ArgError::OutputTooSmall { needed: 24, got: 16 }));
    assert_eq!(with(6, room(Dtype::F64, 16)), (6, ArgError::Length { expected: 8, got: 16 }));
    assert_eq!(with(7, room(Dtype::F64, 0)), (7, ArgError::Length { expected: 8, got: 0 }));
    // Fewer than there are is no lie.
    let mut given = minmax();
    given[2] = i32(2);
    assert_eq!(ask(given).unwrap().0, "minmax: 2 from -5 to 5");
}

#[test]
fn what_has_no_generic_layout_is_said_to_have_none() {
    for operation in [operation::TF_MODEL_RUN, operation::TFLITE_MODEL_LOAD, operation::TORCH_SGEMM] {
        let error = ask(vec![number(operation)]).unwrap_err();
        assert!(matches!(error, AccelError::NotGeneric { .. }), "{error}");
        assert_eq!(error.status(), status::ENOTSUP);
    }
    let error = ask(vec![number(24)]).unwrap_err();
    assert!(matches!(error, AccelError::UnknownOperation { number: 24 }), "{error}");
}

#[test]
fn a_generic_operation_has_a_number_and_as_many_arguments_as_its_layout() {
    assert!(matches!(ask(vec![]), Err(AccelError::WrongArgCount { count: 0, .. })));
    for first in [i32(17), value(Dtype::U8, &[]), value(Dtype::U8, &[17, 0]), text("\u{11}")] {
        assert!(matches!(wrong(vec![first]), (0, ArgError::Value { .. })));
    }
    for full in [product(), minmax()] {
        let mut short = full.clone();
        short.pop();
        assert!(matches!(ask(short), Err(AccelError::WrongArgCount { .. })));
        let long = [full, vec![i32(1)]].concat();
        assert!(matches!(ask(long), Err(AccelError::WrongArgCount { .. })));
    }
    let many = (0..33).map(|_| number(0)).collect();
    assert!(matches!(ask(many), Err(AccelError::TooManyArgs { count: 33, .. })));
    assert!(matches!(ask(vec![number(1), text("libx.so")]), Err(AccelError::WrongArgCount { .. })));
}

#[test]
fn a_generic_call_reaches_no_resource_but_the_callers() {
    for id in [0, -1, 2, i64::MAX, 1 << 32 | 1] {
        let error = ask(vec![number(operation::EXEC_WITH_RESOURCE), i64(id), text("f")]).unwrap_err();
        assert!(matches!(error, AccelError::UnknownResource { .. }), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn no_bytes_make_a_generic_operation_panic(
        operation in 0_u32..26,
        layout in prop::sample::select(vec![0_usize, 1, 2]),
        changes in prop::collection::vec((0_usize..12, 0_u32..3, prop::collection::vec(any::<u8>(), 0..40)), 0..4),
    ) {
        let mut given = match layout {
            0 => product(),
            1 => minmax(),
            _ => vec![number(operation)],
        };
        for (index, kind, bytes) in changes {
            let dtype = [Dtype::Bytes, Dtype::I64, Dtype::F32][index % 3];
            let arg = Given::new([access::IN, access::OUT, access::IN_OUT][kind as usize], dtype, &[], &bytes);
            match given.get_mut(index) {
                Some(there) => *there = arg,
                None => given.push(arg),
            }
        }
        if let Err(error) = ask(given) {
            prop_assert!(error.status() != status::OK && !error.message().is_empty());
        }
    }
}
