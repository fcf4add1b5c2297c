//! Measures the classification of a picture, stage by stage, and matrix products, as a function sees them:
//! `cargo run --release -p kernlet-accel-plugins --example classify -- models/pictures/cat.jpg`.
//! Times are medians, then the shortest. What an inference leaves of a classification is decoding, resizing and
//! ranking.

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use kernlet_abi::accel::{Classification, ClassifyParams, ModelParams, SgemmParams, operation};
use kernlet_accel::{AccelError, Arg, Data, Dims, Dtype, Resource, Runtime, Session};
use zerocopy::{FromZeros as _, IntoBytes as _};

const ROUNDS: usize = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let picture = env::args().nth(1).unwrap_or_else(|| format!("{folder}/pictures/cat.jpg"));
    let picture = std::fs::read(picture)?;
    let session = Runtime::new(kernlet_accel_plugins::default_plugins()).session();
    let model = Resource::from_file(format!("{folder}/mobilenet_v2_fp16w.onnx"))?;
    let model = session.register("model", model)?.get();
    let labels = Resource::from_file(format!("{folder}/imagenet_classes.txt"))?;
    let labels = session.register("labels", labels)?.get();

    let start = Instant::now();
    session.preload()?;
    println!("load the model         {:9.3} ms", milliseconds(start.elapsed()));
    let mut ranking = [Classification::new_zeroed(); 5];
    let start = Instant::now();
    classify(&session, model, labels, &picture, &mut ranking)?;
    println!("first classification   {:9.3} ms", milliseconds(start.elapsed()));
    let whole = measure(|| classify(&session, model, labels, &picture, &mut ranking))?;
    let inference = measure(|| infer(&session, model))?;
    whole.print("classification");
    inference.print("  of it inference");
    Times { median: whole.median - inference.median, shortest: whole.shortest - inference.shortest }
        .print("  decode, resize, rank");
    measure(|| session.run(operation::NOOP, &mut [], None).map(drop))?.print("noop");
    for size in [64, 256, 1024] {
        let times = sgemm(&session, size)?;
        times.print(&format!("sgemm {size}"));
        println!("{:7.1} GFLOP/s at best", 2.0 * f64::from(size).powi(3) / times.shortest / 1e6);
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// In milliseconds.
struct Times {
    median: f64,
    shortest: f64,
}

impl Times {
    fn print(&self, what: &str) {
        println!("{what:22} {:9.4} ms {:9.4} ms", self.median, self.shortest);
    }
}

fn measure(mut work: impl FnMut() -> Result<(), AccelError>) -> Result<Times, AccelError> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        times.push(milliseconds(start.elapsed()));
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    Ok(Times { median: at(ROUNDS / 2), shortest: at(0) })
}

fn classify(
    session: &Session,
    model: u32,
    labels: u32,
    picture: &[u8],
    ranking: &mut [Classification],
) -> Result<(), AccelError> {
    let params = ClassifyParams { model, labels };
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        Arg::bytes(Data::In(picture)),
        Arg::bytes(Data::Out(ranking.as_mut_bytes())),
    ];
    session.run(operation::IMAGE_CLASSIFY, &mut args, None).map(drop)
}

fn infer(session: &Session, model: u32) -> Result<(), AccelError> {
    let params = ModelParams { model, inputs: 1 };
    let (input, mut output) = (vec![0.5_f32; 3 * 224 * 224], [0.0_f32; 1000]);
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        Arg::new(Data::In(input.as_bytes()), Dtype::F32, Dims::new(&[1, 3, 224, 224])?),
        Arg::new(Data::Out(output.as_mut_bytes()), Dtype::F32, Dims::NONE),
    ];
    session.run(operation::ONNX_MODEL_RUN, &mut args, None).map(drop)
}

fn sgemm(session: &Session, size: u16) -> Result<Times, AccelError> {
    let elements = usize::from(size) * usize::from(size);
    let (a, b, mut c) = (vec![0.5_f32; elements], vec![0.25_f32; elements], vec![0.0_f32; elements]);
    let size = i64::from(size);
    let params = SgemmParams { m: size, n: size, k: size, lda: size, ldb: size, ldc: size, alpha: 1.0, beta: 0.0 };
    measure(|| {
        let mut args = [
            Arg::bytes(Data::In(params.as_bytes())),
            Arg::new(Data::In(a.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::In(b.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::InOut(c.as_mut_bytes()), Dtype::F32, Dims::NONE),
        ];
        session.run(operation::BLAS_SGEMM, &mut args, None).map(drop)
    })
}
