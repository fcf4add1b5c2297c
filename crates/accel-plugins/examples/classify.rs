//! Measures what is there: the classification of a picture, stage by stage, and matrix products, of every plugin that is
//! found: `cargo run --release -p kernlet-accel-plugins --example classify -- models/pictures/cat.jpg [THREADS]`.
//! Times are medians, then the shortest. What an inference leaves of a classification is decoding, resizing and
//! ranking. The number of threads is that of every plugin that takes one.

use std::{
    env,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::accel::{Classification, ClassifyParams, ModelParams, SgemmParams, operation};
use kernlet_accel::{AccelError, Arg, Config, Data, Dims, Dtype, Operation, Plugin, Resource, Runtime, Session};
use zerocopy::{FromZeros as _, IntoBytes as _};

const ROUNDS: usize = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let mut arguments = env::args().skip(1);
    let picture = arguments.next().unwrap_or_else(|| format!("{folder}/pictures/cat.jpg"));
    let picture = std::fs::read(picture)?;
    let mut config = Config::default();
    if let Some(threads) = arguments.next() {
        for plugin in ["gemm", "openblas", "onnxruntime", "rten"] {
            config.threads.insert(plugin.to_owned(), threads.parse()?);
        }
    }
    let loaded = kernlet_accel_plugins::load(&config);
    for found in &loaded.found {
        println!("{:12} {}", found.plugin, found.what.as_ref().unwrap_or_else(|why| why));
    }
    for plugin in &loaded.plugins {
        let session = Runtime::new(vec![Arc::clone(plugin)]).session();
        if plugin.operations().contains(&Operation::ImageClassify) {
            println!("\n{}", plugin.name());
            pictures(&session, folder, &picture)?;
        }
        if plugin.operations().contains(&Operation::BlasSgemm) {
            println!("\n{}", plugin.name());
            products(&session, &**plugin)?;
        }
    }
    measure(ROUNDS, || loaded.runtime().session().run(operation::NOOP, &mut [], None).map(drop))?.print("noop");
    Ok(())
}

fn pictures(session: &Session, folder: &str, picture: &[u8]) -> Result<(), Box<dyn Error>> {
    let model = Resource::from_file(format!("{folder}/mobilenet_v2_fp16w.onnx"))?;
    let model = session.register("model", model)?.get();
    let labels = Resource::from_file(format!("{folder}/imagenet_classes.txt"))?;
    let labels = session.register("labels", labels)?.get();
    let start = Instant::now();
    session.preload()?;
    println!("load the model         {:9.3} ms", milliseconds(start.elapsed()));
    let mut ranking = [Classification::new_zeroed(); 5];
    let start = Instant::now();
    classify(session, model, labels, picture, &mut ranking)?;
    println!("first classification   {:9.3} ms", milliseconds(start.elapsed()));
    let whole = measure(ROUNDS, || classify(session, model, labels, picture, &mut ranking))?;
    let inference = measure(ROUNDS, || infer(session, model))?;
    whole.print("classification");
    inference.print("  of it inference");
    Times { median: whole.median - inference.median, shortest: whole.shortest - inference.shortest }
        .print("  decode, resize, rank");
    Ok(())
}

fn products(session: &Session, plugin: &dyn Plugin) -> Result<(), Box<dyn Error>> {
    for size in [16, 64, 128, 256, 512, 1024, 2048] {
        // At least a twentieth of a second of each.
        let rounds = (ROUNDS * 4_000_000 / usize::from(size).pow(2)).clamp(3, 2_000);
        let times = sgemm(session, size, rounds)?;
        times.print(&format!("sgemm {size}"));
        let rate = |milliseconds| 2.0 * f64::from(size).powi(3) / milliseconds / 1e6;
        println!(
            "{:22} {:7.1} GFLOP/s at the median, {:.1} at best",
            plugin.name(),
            rate(times.median),
            rate(times.shortest)
        );
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

fn measure(rounds: usize, mut work: impl FnMut() -> Result<(), AccelError>) -> Result<Times, AccelError> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        work()?;
        times.push(milliseconds(start.elapsed()));
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    Ok(Times { median: at(rounds / 2), shortest: at(0) })
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

fn sgemm(session: &Session, size: u16, rounds: usize) -> Result<Times, AccelError> {
    let elements = usize::from(size) * usize::from(size);
    let (a, b, mut c) = (vec![0.5_f32; elements], vec![0.25_f32; elements], vec![0.0_f32; elements]);
    let size = i64::from(size);
    let params = SgemmParams { m: size, n: size, k: size, lda: size, ldb: size, ldc: size, alpha: 1.0, beta: 0.0 };
    measure(rounds, || {
        let mut args = [
            Arg::bytes(Data::In(params.as_bytes())),
            Arg::new(Data::In(a.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::In(b.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::InOut(c.as_mut_bytes()), Dtype::F32, Dims::NONE),
        ];
        session.run(operation::BLAS_SGEMM, &mut args, None).map(drop)
    })
}
