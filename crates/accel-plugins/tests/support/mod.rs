//! What the tests of the plugins share: the demo's files, calls as a monitor makes them, and JPEG and PNG files
//! written byte by byte.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub(crate) mod onnx;

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
