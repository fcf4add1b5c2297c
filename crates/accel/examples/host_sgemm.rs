//! A host program that multiplies matrices, and one that runs a model on tensors of its own:
//! `cargo run --release -p kernlet-accel --example host_sgemm`.

use std::{error::Error, time::Duration};

use kernlet_accel::{
    Config, Resource,
    host::{Input, Model, Output, Sgemm},
    operation::TensorBuf,
};

fn main() -> Result<(), Box<dyn Error>> {
    let session = kernlet_accel_plugins::load(&Config::from_env()?).runtime().session();

    let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    let mut c = [0.0; 4];
    let params = Sgemm { m: 2, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2, alpha: 1.0, beta: 0.0 };
    let report = session.ops().within(Duration::from_secs(1)).sgemm(&params, &a, &b, &mut c)?;
    println!("A×B = {c:?}, by {} in {:?}, {} bytes copied", report.plugin, report.elapsed, report.bytes_copied);

    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let model = Resource::from_file(format!("{models}/mobilenet_v2_fp16w.onnx"))?;
    let model = Model::load(&session, &model)?;
    let (picture, mut logits) = (vec![0.0_f32; 3 * 224 * 224], TensorBuf::new());
    model.run(&[Input::new(&picture, &[1, 3, 224, 224])], &mut [Output::growing(&mut logits)])?;
    println!("a black picture's logits: {} {:?}", logits.dtype(), logits.dims().sizes());
    Ok(())
}
