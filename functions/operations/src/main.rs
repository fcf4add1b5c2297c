//! Asks the host for every accelerator operation that the guest library has, one a path, and says what came of it. An
//! example of each, and what the platform's tests ask.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use kernlet_guest::{
    Request, Response,
    accel::{
        self, AccelError, Framework, Input, Model, Output, Resource, RunOptions, Sgemm, TypedIn, TypedOut, dtype,
        profile,
    },
    function,
};

function!(answer);

fn answer(request: &Request) -> Response<'_> {
    let operation = request.path().strip_prefix('/').unwrap_or_default();
    match carry_out(operation, request.body()) {
        Some(Ok(text)) => Response::new(200).header("Content-Type", "text/plain; charset=utf-8").body(text),
        Some(Err(error)) => Response::new(500).body(format!("{error} (status {})", error.status)),
        None => Response::new(404).body("there is no such operation"),
    }
}

fn carry_out(operation: &str, body: &[u8]) -> Option<Result<String, AccelError>> {
    Some(match operation {
        "noop" => accel::noop().map(|()| "done".into()),
        "exec" | "exec-with-resource" | "opencv" => typed(operation),
        "image-classify" => classify(body, true),
        "image-classify-by-default" => classify(body, false),
        "image-detect" | "image-segment" | "image-pose" | "image-depth" => say(operation, body),
        "image-resize" => resize(),
        "tf-model" => tf(),
        "tflite-model" => of_framework(Framework::TfLite, &[2]),
        "torch-model" => of_framework(Framework::Torch, &[2, 1]),
        "onnx-model" => onnx(),
        "onnx-model-of-any-type" => onnx_of_any_type(),
        "onnx-model-batch" => several_sets(),
        "batch" => batch(),
        "batch-of-none" => Ok(format!("{:?}", accel::batch().run())),
        "batch-of-many" => batch_of_many(),
        "onnx-model-uneven-batch" => uneven_batch(),
        "onnx-model-options" => options_for_none(),
        "blas-sgemm" | "torch-sgemm" => product(operation),
        "fpga-array-copy" => copy(),
        "fpga-mmult" => square(),
        "fpga-parallel" => parallel(),
        "fpga-vector-add" => sums(),
        "minmax" => minmax(),
        "generic-sgemm" => generic_product(),
        "generic-minmax" => generic_minmax(),
        "generic-classify" => generic_classify(body),
        "generic-nothing" => accel::generic(&[TypedIn::value(&250_u8)], &mut []).map(|()| "done".into()),
        "too-many-arguments" => accel::opencv(&[TypedIn::bytes(b"x"); 33], &mut []).map(|()| "done".into()),
        "profile" => regions(),
        "profile-without-report" => Ok(profile::region("unreported", || "done".into())),
        _ => return None,
    })
}

/// One of each kind.
fn typed_inputs() -> [TypedIn<'static>; 5] {
    [
        TypedIn::value(&-7_i64),
        TypedIn::array(&[0.5_f32, 1.5]),
        TypedIn::text("text"),
        TypedIn::bytes(b"\0\x01"),
        TypedIn::custom(9, b"mine"),
    ]
}

fn typed(operation: &str) -> Result<String, AccelError> {
    let read = typed_inputs();
    let (mut value, mut array, mut custom) = (3_u16, [1_i32, 2, 3], [b'a'; 4]);
    let mut write = [TypedOut::value(&mut value), TypedOut::array(&mut array), TypedOut::custom(8, &mut custom)];
    match operation {
        "exec" => accel::exec("libexample.so", "example", &read, &mut write)?,
        "exec-with-resource" => accel::exec_with_resource(Resource::find("labels")?, "example", &read, &mut write)?,
        _ => accel::opencv(&read, &mut write)?,
    }
    let written: Vec<_> = write.iter().map(|out| out.written).collect();
    Ok(format!("{value} {array:?} {} {written:?}", String::from_utf8_lossy(&custom)))
}

fn classify(picture: &[u8], named: bool) -> Result<String, AccelError> {
    let found = if named {
        accel::classify(picture, Resource::find("model")?, Resource::find("labels")?, 2)?
    } else {
        accel::classify(picture, None, None, 2)?
    };
    let line = |found: &accel::Classification| format!("{} {} {}", found.class, found.probability, accel::label(found));
    Ok(found.iter().map(line).collect::<Vec<_>>().join(", "))
}

fn say(operation: &str, picture: &[u8]) -> Result<String, AccelError> {
    let mut text = [0; 200];
    let said = match operation {
        "image-detect" => accel::detect(picture, Resource::find("model")?, &mut text),
        "image-segment" => accel::segment(picture, None, &mut text),
        "image-pose" => accel::pose(picture, Resource::find("labels")?, &mut text),
        _ => accel::depth(picture, None, &mut text),
    };
    said.map(ToString::to_string)
}

fn resize() -> Result<String, AccelError> {
    let mut to = [0; 24];
    accel::resize((2, 1), 3, &[1, 2, 3, 4, 5, 6], (4, 2), &mut to)?;
    Ok(format!("{to:?}"))
}

/// What an output holds, as text.
fn shown(output: &Output<'_>) -> String {
    let elements = match output.dtype() {
        dtype::F32 => format!("{:?}", output.elements::<f32>()),
        dtype::I64 => format!("{:?}", output.elements::<i64>()),
        other => format!("{:?} of type {other}", output.bytes()),
    };
    format!("{:?} {elements}", output.shape())
}

fn tf() -> Result<String, AccelError> {
    let model = accel::load(Framework::TensorFlow, Resource::find("model")?)?;
    let (mut one, mut other) = ([0_f32; 4], [0_i64; 4]);
    let mut outputs = [Output::new(&mut one), Output::new(&mut other)];
    let inputs = [Input::new(&[1_f32, 2.0], &[1, 2])];
    let options = RunOptions { options: b"options", names: "input:0\noutput:0\noutput:1" };
    model.run_with(&options, &inputs, &mut outputs)?;
    model.unload()?;
    Ok(outputs.iter().map(shown).collect::<Vec<_>>().join(", "))
}

fn of_framework(framework: Framework, shape: &[u64]) -> Result<String, AccelError> {
    let model = accel::load(framework, Resource::find("model")?)?;
    let mut room = [0_f32; 2];
    let mut outputs = [Output::new(&mut room)];
    model.run(&[Input::new(&[1_f32, 2.0], shape)], &mut outputs)?;
    model.unload()?;
    Ok(shown(&outputs[0]))
}

fn onnx() -> Result<String, AccelError> {
    let model = Model::load(Resource::find("model")?)?;
    let (mut one, mut other) = ([0_f32; 4], [0_i64; 4]);
    let mut outputs = [Output::new(&mut one), Output::new(&mut other)];
    model.run(&[Input::new(&[1_f32, 2.0], &[2]), Input::new(&[-1_i64], &[])], &mut outputs)?;
    model.unload()?;
    Ok(outputs.iter().map(shown).collect::<Vec<_>>().join(", "))
}

/// A binary16, aligned as one.
#[repr(align(2))]
struct Half([u8; 2]);

impl Half {
    const ONE: &Self = &Self([0, 0x3c]);
}

fn onnx_of_any_type() -> Result<String, AccelError> {
    let model = Model::load(Resource::find("model")?)?;
    let (mut one, mut other, mut last) = ([0; 4], [0; 4], [0; 4]);
    let mut outputs = [Output::any(&mut one), Output::any(&mut other), Output::any(&mut last)];
    let half = Input::from_bytes(dtype::F16, &Half::ONE.0, &[1]);
    model.run(&[Input::new(&[1_f32, 2.0], &[2]), Input::new(&[-1_i64], &[]), half], &mut outputs)?;
    Ok(outputs.iter().map(shown).collect::<Vec<_>>().join(", "))
}

fn several_sets() -> Result<String, AccelError> {
    let model = Model::load(Resource::find("model")?)?;
    let (mut one, mut other) = ([0_f32; 2], [0_f32; 2]);
    let mut first = [Output::new(&mut one)];
    let mut second = [Output::new(&mut other)];
    model.run_batch(&mut [
        (&[Input::new(&[1_f32, 2.0], &[2])], &mut first),
        (&[Input::new(&[3_f32], &[1])], &mut second),
    ])?;
    Ok(format!("{}, {}", shown(&first[0]), shown(&second[0])))
}

fn uneven_batch() -> Result<String, AccelError> {
    let model = Model::load(Resource::find("model")?)?;
    let mut room = [0_f32; 2];
    model.run_batch(&mut [(&[Input::new(&[1_f32], &[1])], &mut []), (&[], &mut [Output::new(&mut room)])])?;
    Ok(String::new())
}

/// Options for a framework that has none.
fn options_for_none() -> Result<String, AccelError> {
    let options = RunOptions { options: b"options", names: "" };
    Model::load(Resource::find("model")?)?.run_with(&options, &[], &mut []).map(|()| String::new())
}

/// A and B of the products, and their sizes: C has a gap behind each row.
const PRODUCT: Sgemm = Sgemm { m: 2, n: 2, k: 1, lda: 1, ldb: 2, ldc: 3, alpha: 2.0, beta: 1.0 };
const A: [f32; 2] = [1.0, 2.0];
const B: [f32; 2] = [3.0, 4.0];

fn product(operation: &str) -> Result<String, AccelError> {
    let mut c = [1.0; 5];
    match operation {
        "blas-sgemm" => accel::sgemm(&PRODUCT, &A, &B, &mut c)?,
        _ => accel::torch_sgemm(&PRODUCT, &A, &B, &mut c)?,
    }
    Ok(format!("{c:?}"))
}

fn copy() -> Result<String, AccelError> {
    let mut to = [0; 3];
    accel::array_copy(&[1, -2, i32::MAX], &mut to)?;
    Ok(format!("{to:?}"))
}

fn square() -> Result<String, AccelError> {
    let mut c = [0.0; 4];
    accel::mmult(&[1.0, 2.0, 3.0, 4.0], &[0.0, 1.0, 1.0, 0.0], &mut c)?;
    Ok(format!("{c:?}"))
}

fn parallel() -> Result<String, AccelError> {
    let (mut sum, mut product) = ([0.0; 2], [0.0; 2]);
    accel::parallel(&A, &B, &mut sum, &mut product)?;
    Ok(format!("{sum:?} {product:?}"))
}

fn sums() -> Result<String, AccelError> {
    let mut sum = [0.0; 2];
    accel::vector_add(&A, &B, &mut sum)?;
    Ok(format!("{sum:?}"))
}

fn minmax() -> Result<String, AccelError> {
    let mut held = [0.0; 4];
    let (smallest, largest) = accel::minmax(&[-100.0, 3.5, 200.0, 0.0], -5, 50, &mut held)?;
    Ok(format!("{smallest} {largest} {held:?}"))
}

fn generic_product() -> Result<String, AccelError> {
    let mut c = [1.0_f32; 5];
    let read = [
        TypedIn::value(&17_u8),
        TypedIn::value(&PRODUCT.m),
        TypedIn::value(&PRODUCT.n),
        TypedIn::value(&PRODUCT.k),
        TypedIn::value(&PRODUCT.alpha),
        TypedIn::array(&A),
        TypedIn::value(&PRODUCT.lda),
        TypedIn::array(&B),
        TypedIn::value(&PRODUCT.ldb),
        TypedIn::value(&PRODUCT.beta),
        TypedIn::value(&PRODUCT.ldc),
    ];
    accel::generic(&read, &mut [TypedOut::array(&mut c)])?;
    Ok(format!("{c:?}"))
}

fn generic_minmax() -> Result<String, AccelError> {
    let (mut held, mut smallest, mut largest) = ([0.0_f64; 3], 0.0_f64, 0.0_f64);
    let read = [
        TypedIn::value(&22_u8),
        TypedIn::array(&[-100.0_f64, 3.5, 200.0]),
        TypedIn::value(&3_i32),
        TypedIn::value(&-5_i32),
        TypedIn::value(&50_i32),
    ];
    let mut write = [TypedOut::array(&mut held), TypedOut::value(&mut smallest), TypedOut::value(&mut largest)];
    accel::generic(&read, &mut write)?;
    Ok(format!("{smallest} {largest} {held:?}"))
}

fn generic_classify(picture: &[u8]) -> Result<String, AccelError> {
    let (mut name, mut text) = ([0; 16], vec![0; 64]);
    let mut write = [TypedOut::bytes(&mut name), TypedOut::bytes(&mut text)];
    accel::generic(&[TypedIn::value(&3_u8), TypedIn::bytes(picture)], &mut write)?;
    let written = write[1].written as usize;
    Ok(String::from_utf8_lossy(&text[..written]).into_owned())
}

fn regions() -> Result<String, AccelError> {
    profile::region("outer", || {
        for _ in 0..2 {
            profile::region("inner", accel::noop)?;
        }
        let stopped = profile::start("stopped");
        stopped.stop();
        Ok::<_, AccelError>(())
    })?;
    let line = |region: &accel::Region| {
        let ordered = region.min_ns <= region.max_ns && region.max_ns <= region.total_ns;
        format!("{} {} {}", region.name(), region.entries, if ordered { "in order" } else { "out of order" })
    };
    Ok(profile::report()?.iter().map(line).collect::<Vec<_>>().join(", "))
}

/// Each method of a batch, and operations that fail among them: what each wrote, and what became of each.
fn batch() -> Result<String, AccelError> {
    let model = Model::load(Resource::find("model")?)?;
    let (mut c, mut torch, mut to, mut square) = ([1.0; 5], [1.0; 5], [0; 3], [0.0; 4]);
    let (mut sum, mut product, mut sums) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    let (mut held, mut extremes, mut pixels, mut doubled) = ([0.0; 2], (0.0, 0.0), [0; 2], [0_f32; 2]);
    let read = typed_inputs();
    let (mut value, mut array, mut custom) = (3_u16, [1_i32, 2, 3], [b'a'; 4]);
    let mut write = [TypedOut::value(&mut value), TypedOut::array(&mut array), TypedOut::custom(8, &mut custom)];
    let mut outputs = [Output::new(&mut doubled)];
    let (mut short, mut nothing) = ([0.0; 1], [TypedOut::bytes(&mut [])]);
    let mut batch = accel::batch();
    batch
        .noop()
        .sgemm(&PRODUCT, &A, &B, &mut c)
        .torch_sgemm(&PRODUCT, &A, &B, &mut torch)
        .vector_add(&A, &B, &mut short)
        .array_copy(&[1, -2, i32::MAX], &mut to)
        .mmult(&[1.0, 2.0, 3.0, 4.0], &[0.0, 1.0, 1.0, 0.0], &mut square)
        .exec("libexample.so", "example", &[TypedIn::bytes(b"x"); 33], &mut nothing)
        .parallel(&A, &B, &mut sum, &mut product)
        .vector_add(&A, &B, &mut sums)
        .minmax(&[-100.0, 200.0], -5, 50, &mut held, &mut extremes)
        .resize((1, 1), 1, &[7], (2, 1), &mut pixels)
        .exec("libexample.so", "example", &read, &mut write)
        .model(&model, &[Input::new(&[1_f32, 2.0], &[2])], &mut outputs);
    let results: Vec<String> = batch.run().iter().map(outcome).collect();
    let written: Vec<u64> = write.iter().map(|out| out.written).collect();
    let model = shown(&outputs[0]);
    Ok(format!(
        "{c:?} {torch:?} {to:?} {square:?} {sum:?} {product:?} {sums:?} {extremes:?} {held:?} {pixels:?} {value} \
         {written:?} {model}\n{}",
        results.join("\n")
    ))
}

fn outcome(outcome: &Result<(), AccelError>) -> String {
    match outcome {
        Ok(()) => "done".into(),
        Err(error) => format!("{error} (status {})", error.status),
    }
}

/// More operations than one call of the host has room for: each adds one to its number.
fn batch_of_many() -> Result<String, AccelError> {
    let mut numbers: Vec<[f32; 1]> = vec![[0.0]; 600];
    let ones: Vec<[f32; 1]> = (0..600_u16).map(|number| [f32::from(number)]).collect();
    let mut batch = accel::batch();
    for (number, one) in numbers.iter_mut().zip(&ones) {
        batch.vector_add(one, &[1.0], number);
    }
    batch.run().into_iter().collect::<Result<(), _>>()?;
    let right = numbers.iter().zip(&ones).filter(|(number, one)| number[0] == one[0] + 1.0).count();
    Ok(right.to_string())
}
