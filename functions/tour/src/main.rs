//! Shows what the guest library can do, one path each; `/` lists them. An example to copy from, and what the
//! platform's tests ask.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, string::String, vec};
use core::sync::atomic::{AtomicU64, Ordering};

use kernlet_guest::{
    Request, Response,
    accel::{self, AccelError, Input, Model, Output, Resource},
    clock, entropy, env, function, log,
};

function!(tour, start);

const PATHS: &str = "\
/request         the request as the function sees it
/clock           nanoseconds since 1970, and since the machine's first request
/entropy         32 random bytes
/env/NAME        a variable of the deployment
/log/TEXT        a line in the function's log
/start           when the function initialised, nanoseconds since 1970
/resource/NAME   size of a resource of the image
/noop            the way to an accelerator plugin and back
/model           the model's likeliest class of a picture that is all grey
";

/// When the function initialised; every request finds what `start` left here.
static STARTED: AtomicU64 = AtomicU64::new(0);

fn start() {
    STARTED.store(clock::now().as_nanos() as u64, Ordering::Relaxed);
}

fn tour(request: &Request) -> Response<'_> {
    let path = request.path().strip_prefix('/').unwrap_or_default();
    let (what, detail) = path.split_once('/').unwrap_or((path, ""));
    let answer = match what {
        "request" => Ok(describe(request)),
        "clock" => Ok(format!("{} {}\n", clock::now().as_nanos(), clock::monotonic().as_nanos())),
        "entropy" => {
            let mut bytes = vec![0; 32];
            entropy::fill(&mut bytes);
            return Response::new(200).body(bytes);
        }
        "env" => Ok(env::var(detail).unwrap_or("not set").into()),
        "log" => {
            log::info!("{detail}");
            Ok(String::new())
        }
        "start" => Ok(format!("{}\n", STARTED.load(Ordering::Relaxed))),
        "resource" => Resource::find(detail).map(|found| format!("{}\n", found.size())),
        "noop" => accel::noop().map(|()| "done\n".into()),
        "model" => likeliest_class(),
        _ => return Response::new(404).body(PATHS),
    };
    match answer {
        Ok(text) => Response::new(200).header("Content-Type", "text/plain; charset=utf-8").body(text),
        Err(error) => Response::new(500).body(format!("{error} (status {})\n", error.status)),
    }
}

fn describe(request: &Request) -> String {
    let mut text = format!(
        "method {}\npath {}\nquery {}\ncall id {}\nbody {} bytes\n",
        request.method(),
        request.path(),
        request.query(),
        request.call_id(),
        request.body().len()
    );
    for (name, value) in request.headers() {
        text.push_str(&format!("header {name} {}\n", String::from_utf8_lossy(value)));
    }
    text
}

/// Runs the model on a tensor of its own making: one picture of 3×224×224, all zeroes after normalisation.
fn likeliest_class() -> Result<String, AccelError> {
    let model = Model::load(Resource::find("model")?)?;
    let picture = vec![0_f32; 3 * 224 * 224];
    let mut logits = vec![0_f32; 1000];
    let mut outputs = [Output::new(&mut logits)];
    model.run(&[Input::new(&picture, &[1, 3, 224, 224])], &mut outputs)?;
    let shape = format!("{:?}", outputs[0].shape());
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    Ok(best.map_or(String::new(), |(class, logit)| format!("class {class}, logit {logit:.2}, output {shape}\n")))
}
