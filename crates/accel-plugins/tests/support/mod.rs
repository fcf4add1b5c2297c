//! What the tests of the plugins share: the demo's files, calls as a monitor makes them, and small ONNX models,
//! JPEG and PNG files written byte by byte.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{fs, path::PathBuf, time::Instant};

use kernlet_abi::accel::{Classification, ClassifyParams, ModelParams, operation};
use kernlet_accel::{AccelError, Arg, Data, Dims, Dtype, Report, Resource, ResourceId, Runtime, Session};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// What needs a library that may not be installed: `None`, said loudly, where it is missing, unless
/// `KERNLET_REQUIRE_NATIVE` is set, which makes that a failure.
pub(crate) fn native<T, E: std::fmt::Display>(name: &str, opened: Result<T, E>) -> Option<T> {
    match opened {
        Ok(opened) => Some(opened),
        Err(reason) if std::env::var_os("KERNLET_REQUIRE_NATIVE").is_some_and(|value| value == "1") => {
            panic!("{name} is required by KERNLET_REQUIRE_NATIVE and is not there: {reason}")
        }
        Err(reason) => {
            eprintln!("NOTHING WAS TESTED: {} IS NOT THERE: {reason}", name.to_uppercase());
            None
        }
    }
}

/// A session on one plugin.
pub(crate) fn session_on(plugin: impl kernlet_accel::Plugin + 'static) -> Session {
    Runtime::new(vec![std::sync::Arc::new(plugin)]).session()
}

pub(crate) fn session() -> Session {
    Runtime::new(kernlet_accel_plugins::default_plugins()).session()
}

/// A file of the demo.
pub(crate) fn models(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

pub(crate) fn mobilenet(session: &Session) -> u32 {
    let model = Resource::from_file(models("mobilenet_v2_fp16w.onnx")).unwrap();
    session.register("model", model).unwrap().get()
}

pub(crate) fn imagenet_labels(session: &Session) -> u32 {
    session.register("labels", Resource::from_file(models("imagenet_classes.txt")).unwrap()).unwrap().get()
}

pub(crate) fn picture(name: &str) -> Vec<u8> {
    fs::read(models("pictures").join(name)).unwrap()
}

pub(crate) fn register(session: &Session, name: &str, bytes: Vec<u8>) -> u32 {
    session.register(name, Resource::from_bytes(bytes)).map(ResourceId::get).unwrap()
}

/// A classification as a guest asks for it; gives the classes that were written.
pub(crate) fn classify(
    session: &Session,
    model: u32,
    labels: u32,
    picture: &[u8],
    slots: usize,
) -> Result<(Report, Vec<Classification>), AccelError> {
    classify_until(session, model, labels, picture, slots, None)
}

pub(crate) fn classify_until(
    session: &Session,
    model: u32,
    labels: u32,
    picture: &[u8],
    slots: usize,
    deadline: Option<Instant>,
) -> Result<(Report, Vec<Classification>), AccelError> {
    let params = ClassifyParams { model, labels };
    let mut ranking = vec![Classification::new_zeroed(); slots];
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        Arg::bytes(Data::In(picture)),
        Arg::bytes(Data::Out(ranking.as_mut_bytes())),
    ];
    let result = session.run(operation::IMAGE_CLASSIFY, &mut args, deadline);
    let written = usize::try_from(args[2].written).unwrap();
    let report = result.inspect_err(|_| assert_eq!(written, 0))?;
    ranking.truncate(written / size_of::<Classification>());
    Ok((report, ranking))
}

pub(crate) fn label(classification: &Classification) -> &str {
    let len = usize::try_from(classification.label_len).unwrap();
    std::str::from_utf8(&classification.label[..len]).unwrap()
}

pub(crate) fn load(session: &Session, model: u32) -> Result<Report, AccelError> {
    let params = ModelParams { model, inputs: 0 };
    session.run(operation::ONNX_MODEL_LOAD, &mut [Arg::bytes(Data::In(params.as_bytes()))], None)
}

/// Runs a model; inputs and outputs are arguments behind the parameters.
pub(crate) fn run(
    session: &Session,
    model: u32,
    inputs: u32,
    tensors: Vec<Arg<'_>>,
) -> (Result<Report, AccelError>, Vec<(u64, Dims)>) {
    let params = ModelParams { model, inputs };
    let mut args = vec![Arg::bytes(Data::In(params.as_bytes()))];
    args.extend(tensors);
    let result = session.run(operation::ONNX_MODEL_RUN, &mut args, None);
    let outputs = args.iter().skip(1 + usize::try_from(inputs).unwrap());
    let outputs = outputs.map(|arg| (arg.written, arg.dims)).collect();
    (result, outputs)
}

pub(crate) fn tensor_in<'a>(bytes: &'a [u8], dtype: Dtype, dims: &[u64]) -> Arg<'a> {
    Arg::new(Data::In(bytes), dtype, Dims::new(dims).unwrap())
}

pub(crate) fn tensor_out(bytes: &mut [u8], dtype: Dtype) -> Arg<'_> {
    Arg::new(Data::Out(bytes), dtype, Dims::NONE)
}

/// Small ONNX files. Field numbers are those of onnx.proto.
pub(crate) mod onnx {
    pub(crate) const FLOAT: u64 = 1;
    pub(crate) const INT32: u64 = 6;
    pub(crate) const INT64: u64 = 7;

    /// A dimension: fixed, or with a name.
    #[derive(Clone, Copy)]
    pub(crate) enum Dim {
        Fixed(u64),
        Named(&'static str),
    }

    pub(crate) fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    }

    pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub(crate) fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        [varint(field << 3 | 2), varint(u64::try_from(content.len()).unwrap()), content.to_vec()].concat()
    }

    pub(crate) fn value(name: &str, dtype: u64, dims: &[Dim]) -> Vec<u8> {
        let dims: Vec<u8> = dims
            .iter()
            .flat_map(|dim| match dim {
                Dim::Fixed(size) => bytes(1, number(1, *size)),
                Dim::Named(name) => bytes(1, bytes(2, name)),
            })
            .collect();
        let tensor = [number(1, dtype), bytes(2, dims)].concat();
        [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
    }

    pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[u8]) -> Vec<u8> {
        let inputs = inputs.iter().flat_map(|name| bytes(1, name));
        let outputs = outputs.iter().flat_map(|name| bytes(2, name));
        inputs.chain(outputs).chain(bytes(4, op)).chain(attributes.to_vec()).collect()
    }

    pub(crate) fn model(
        nodes: &[Vec<u8>],
        inputs: &[Vec<u8>],
        outputs: &[Vec<u8>],
        initializers: &[Vec<u8>],
    ) -> Vec<u8> {
        let mut graph = Vec::new();
        for node in nodes {
            graph.extend(bytes(1, node));
        }
        graph.extend(bytes(2, "graph"));
        for (field, values) in [(5, initializers), (11, inputs), (12, outputs)] {
            for value in values {
                graph.extend(bytes(field, value));
            }
        }
        [number(1, 8), bytes(7, graph), bytes(8, number(2, 13))].concat()
    }

    /// One operator with one input and one output.
    pub(crate) fn unary(op: &str, dtype: u64, input: &[Dim], output: &[Dim]) -> Vec<u8> {
        let nodes = [node(op, &["x"], &["y"], &[])];
        model(&nodes, &[value("x", dtype, input)], &[value("y", dtype, output)], &[])
    }

    /// A classifier of 8×8 pictures into red, green and blue, by the mean of each channel.
    pub(crate) fn mean_colour() -> Vec<u8> {
        let axes = [bytes(1, "axes"), number(8, 2), number(8, 3), number(20, 7)].concat();
        let keepdims = [bytes(1, "keepdims"), number(3, 0), number(20, 2)].concat();
        let attributes = [bytes(5, axes), bytes(5, keepdims)].concat();
        let nodes = [node("ReduceMean", &["x"], &["y"], &attributes)];
        let input = [Dim::Named("N"), Dim::Fixed(3), Dim::Fixed(8), Dim::Fixed(8)];
        let output = [Dim::Named("N"), Dim::Fixed(3)];
        model(&nodes, &[value("x", FLOAT, &input)], &[value("y", FLOAT, &output)], &[])
    }
}

pub(crate) fn png(width: u32, height: u32, color: png::ColorType, pixels: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    file
}

/// A baseline JPEG of blocks of 8×8 pixels of middle grey: one component, Huffman tables of one code each (no
/// difference, end of block), so that a block is two zero bits.
pub(crate) fn grey_jpeg(wide: u8, high: u8) -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xdb\x00\x43\x00".to_vec();
    file.extend([1; 64]);
    file.extend(b"\xff\xc0\x00\x0b\x08");
    file.extend([0, high * 8, 0, wide * 8]);
    file.extend(b"\x01\x01\x11\x00");
    for class in [0x00, 0x10] {
        file.extend([0xff, 0xc4, 0x00, 0x14, class, 1]);
        file.extend([0; 16]);
    }
    file.extend(b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00");
    let blocks = usize::from(wide) * usize::from(high);
    file.extend(vec![0; blocks / 4]);
    file.push(0xff >> (2 * (blocks % 4)));
    file.extend(b"\x00\xff\xd9");
    file
}
