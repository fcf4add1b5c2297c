//! A host program that says what is in a picture:
//! `cargo run --release -p kernlet-accel --example host_classify -- models/pictures/cat.jpg`.
//! Plugins are those that the environment configures, as for C and Python.

use std::{env, error::Error, fs};

use kernlet_accel::{Config, Resource, host};

fn main() -> Result<(), Box<dyn Error>> {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let path = env::args().nth(1).unwrap_or_else(|| format!("{models}/pictures/cat.jpg"));
    let picture = fs::read(&path).map_err(|error| format!("cannot read {path}: {error}"))?;

    let session = kernlet_accel_plugins::load(&Config::from_env()?).runtime().session();
    let model = Resource::from_file(format!("{models}/mobilenet_v2_fp16w.onnx"))?;
    let labels = Resource::from_file(format!("{models}/imagenet_classes.txt"))?;
    for class in session.ops().classify(&picture, Some(&model), Some(&labels), 3)? {
        println!("{:6.2} %  {}", class.probability * 100.0, host::label(&class));
    }
    Ok(())
}
