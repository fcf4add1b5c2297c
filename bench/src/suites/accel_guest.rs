//! Accelerator operations from a guest, in turn with the same plugin called in this process: what the way through a
//! machine adds to an operation, whatever the operation is.

use std::{
    cell::RefCell,
    iter,
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use kernlet_accel::{
    Config, Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, Session, host::Sgemm, operation::Task,
};
use kernlet_accel_plugins::{Gemm, Noop, default_plugins, load};
use kernlet_monitor::{Machine, Request, Response, Services, Template};

use super::invoke::NoLog;
use crate::{
    bare::BareKvm,
    native,
    stats::{Plan, Times, alone, in_turn, timed},
    table::{Row, Target},
    workshop::{Image, Workshop, onnxruntime_of_the_checkout, picture},
};

/// Operations of one call, less one: what is measured is the difference between two calls.
const BATCH: u32 = 100;

/// A size of matrices, and what its details are called.
struct Size {
    rows: u32,
    one: &'static str,
    /// Of products in batches, where an exit is a noticeable share of one.
    at_once: Option<&'static str>,
    gemm: &'static str,
    openblas: &'static str,
    chosen: &'static str,
}

/// Names the details of a size.
macro_rules! size {
    ($rows:literal, $at_once:expr) => {
        Size {
            rows: $rows,
            one: concat!("single_", $rows, "_percent"),
            at_once: $at_once,
            gemm: concat!("gemm_", $rows, "_gflops"),
            openblas: concat!("openblas_", $rows, "_gflops"),
            chosen: concat!("openblas_chosen_at_", $rows),
        }
    };
}

/// Sizes of matrices; those from [`LARGE`] up have a target.
const SIZES: [Size; 6] = [
    size!(64, Some("in_batches_64_percent")),
    size!(128, Some("in_batches_128_percent")),
    size!(256, Some("in_batches_256_percent")),
    size!(512, Some("in_batches_512_percent")),
    size!(1024, None),
    size!(2048, None),
];
const LARGE: u32 = 256;

/// Products of a batch.
const AT_ONCE: u32 = 16;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![noop(workshop)?, payloads(workshop)?];
    rows.push(classify(workshop, "accel.classify_guest_overhead_percent", default_plugins())?);
    match plugin("onnxruntime") {
        Ok(plugin) => rows.push(classify(workshop, "accel.classify_onnxruntime_guest_overhead_percent", vec![plugin])?),
        Err(why) => eprintln!("SKIPPED accel.classify_onnxruntime_guest_overhead_percent: {why}"),
    }
    rows.extend(sgemm(workshop)?);
    rows.push(choice()?);
    rows.push(guests(workshop)?);
    Ok(rows)
}

/// A plugin whose library the host may have: where the plugin and the configuration look, and for ONNX Runtime where
/// `scripts/install-deps.sh --checks` puts it as well.
pub(super) fn plugin(name: &str) -> Result<Arc<dyn Plugin>, String> {
    let config = Config::from_env().map_err(|error| error.to_string())?;
    let config = Config { plugins: vec![name.to_owned()], ..config };
    lone(&config).or_else(|why| {
        let library = (name == "onnxruntime").then(onnxruntime_of_the_checkout).flatten().ok_or(why)?;
        let libraries = [(name.to_owned(), library)].into();
        lone(&Config { libraries, ..config })
    })
}

/// The one plugin that a configuration names, or why it is not there.
fn lone(config: &Config) -> Result<Arc<dyn Plugin>, String> {
    let mut loaded = load(config);
    let found = loaded.found.iter().find(|found| config.plugins.iter().any(|name| name == found.plugin));
    let why = found.and_then(|found| found.what.as_ref().err()).cloned();
    loaded.plugins.pop().ok_or_else(|| why.unwrap_or_else(|| "there is no such plugin".to_owned()))
}

/// A machine with these plugins, kept between its requests, so that only what a request does counts.
struct Guest(Option<Machine>);

impl Guest {
    fn boot(image: &Image, session: Session) -> anyhow::Result<Self> {
        let (hypervisor, unikernel, config) = image.parts()?;
        let services = Services { accel: Arc::new(session), log: Arc::new(NoLog) };
        Ok(Self(Some(Template::boot(&hypervisor, &unikernel, &config, services, in_a_minute())?.1)))
    }

    /// The time of a request that must be answered by 200, and its answer.
    fn call(&mut self, path: &str, query: &str, body: &[u8]) -> anyhow::Result<(Duration, Response)> {
        let machine = self.0.take().context("the machine is gone")?;
        let headers: &[(&str, &[u8])] = &[("content-type", b"application/octet-stream")];
        let request = Request { method: "POST", path, query, headers, body, call_id: "accel" };
        let (time, (used, response)) = timed(|| machine.invoke(&request, in_a_minute()))?;
        self.0 = Some(used.keep());
        ensure!(
            response.status == 200,
            "{path} answered {}: {}",
            response.status,
            String::from_utf8_lossy(&response.body)
        );
        Ok((time, response))
    }

    /// The time of one operation of many: that of a request with `count` more of them than another has.
    fn per_operation(&mut self, path: &str, parameters: &str, count: u32) -> anyhow::Result<Duration> {
        let (one, _) = self.call(path, &format!("{parameters}&count=1"), b"")?;
        let (many, _) = self.call(path, &format!("{parameters}&count={}", count + 1), b"")?;
        Ok(many.saturating_sub(one) / count)
    }

    /// The time of one of `count` operations, by the function's own clock.
    fn by_its_clock(&mut self, path: &str, parameters: &str, count: u32) -> anyhow::Result<Duration> {
        let (_, response) = self.call(path, &format!("{parameters}&count={count}"), b"")?;
        let nanos = std::str::from_utf8(&response.body)?.parse().context("the function gave no time")?;
        Ok(Duration::from_nanos(nanos) / count)
    }
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn noop(workshop: &Workshop) -> anyhow::Result<Row> {
    let kvm = BareKvm::open()?;
    let mut bare = kvm.create()?;
    let runtime = Runtime::new(vec![Arc::new(Noop::new())]);
    let mut guest = Guest::boot(workshop.offload()?, runtime.session())?;
    let session = runtime.session();
    let mut exit = || {
        let (time, ()) = timed(|| (0..BATCH).try_for_each(|_| bare.one_exit()))?;
        Ok(time / BATCH)
    };
    let mut through = || guest.per_operation("/noop", "", BATCH);
    // A single one is shorter than the clock's step.
    let mut directly = || {
        let (time, ()) = timed(|| (0..BATCH * 100).try_for_each(|_| session.ops().noop().map(drop)))?;
        Ok(time / 100)
    };
    let plan = Plan { warm_up: 3, ..Plan::singly(Duration::from_secs(5)) };
    let [exit, through, directly] = in_turn(plan, [&mut exit, &mut through, &mut directly])?;
    let ratio = through.over(&exit);
    // Of a batch, in microseconds; so a call's is ten times as many nanoseconds.
    let nanos = directly.micros().median * 1e3 / f64::from(BATCH);
    Ok(Row::new("accel.noop_guest_vs_exit", ratio.median, "×", Target::None)
        .summary("ratio_of_each_round", ratio)
        .summary("exit_us", exit.micros())
        .summary("guest_us", through.micros())
        .number("inprocess_ns", nanos))
}

/// A plugin that does nothing with matrices, so that what is left is the way to it.
#[derive(Debug)]
pub(super) struct Sink;

impl Plugin for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::BlasSgemm]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(0)
    }

    fn run(&self, _: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        Ok(Done::default())
    }
}

fn payloads(workshop: &Workshop) -> anyhow::Result<Row> {
    let mut guest = Guest::boot(workshop.offload()?, Runtime::new(vec![Arc::new(Sink)]).session())?;
    let mut copied = 0;
    let mut times = Vec::new();
    for (bytes, name) in
        [(0, "us_at_0"), (4 << 10, "us_at_4_KiB"), (1 << 20, "us_at_1_MiB"), (16 << 20, "us_at_16_MiB")]
    {
        let parameters = format!("bytes={bytes}");
        let mut through = || guest.per_operation("/payload", &parameters, BATCH);
        let [time] = in_turn(Plan::singly(Duration::from_secs(1)), [&mut through])?;
        times.push((name, time.micros()));
        copied += guest.call("/payload", &format!("{parameters}&count=1"), b"")?.1.usage.bytes_copied;
    }
    let row =
        Row::new("accel.payload_guest_bytes_copied", super::classify::count(copied), "bytes", Target::AtMost(0.0));
    Ok(times.into_iter().fold(row, |row, (name, time)| row.summary(name, time)))
}

fn classify(workshop: &Workshop, name: &'static str, plugins: Vec<Arc<dyn Plugin>>) -> anyhow::Result<Row> {
    let picture = Bytes::from(picture()?);
    let runtime = Runtime::new(plugins);
    let (direct, inside) = (runtime.session(), runtime.session());
    let params = native::register(&direct)?;
    native::register(&inside)?;
    direct.preload()?;
    inside.preload()?;
    let mut guest = Guest::boot(workshop.classify()?, inside)?;
    let resource = |id| direct.resource(id).context("a resource is gone");
    let (model, labels) = (resource(params.model)?, resource(params.labels)?);
    let mut through = || guest.call("/", "", &picture).map(|(time, _)| time);
    let mut directly = || {
        let (time, classes) = timed(|| direct.ops().classify(&picture, Some(&model), Some(&labels), 5))?;
        ensure!(classes.len() == 5, "the plugin gave {} classes", classes.len());
        Ok(time)
    };
    let plan = Plan { warm_up: 20, ..Plan::singly(Duration::from_secs(20)) };
    let [through, directly] = in_turn(plan, [&mut through, &mut directly])?;
    let ratio = through.over(&directly);
    let percent = (ratio.median - 1.0) * 100.0;
    Ok(Row::new(name, percent, "%", Target::AtMost(1.0))
        .summary("way_us", way(workshop, &picture)?.micros())
        .summary("ratio_of_each_pair", ratio)
        .summary("guest_ms", through.millis())
        .summary("native_ms", directly.millis()))
}

/// Says at once, of every picture, the same.
#[derive(Debug)]
struct Sayer;

impl Plugin for Sayer {
    fn name(&self) -> &'static str {
        "sayer"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::ImageClassify]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(0)
    }

    fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        if let Task::ImageClassify(mut task) = task {
            task.ranking.fill([(281, 0.5, "tabby"), (282, 0.3, "tiger cat")]);
        }
        Ok(Done::default())
    }
}

/// The whole request where the plugin takes no time: what a function adds, by itself.
fn way(workshop: &Workshop, picture: &[u8]) -> anyhow::Result<Times> {
    let session = Runtime::new(vec![Arc::new(Sayer)]).session();
    native::register(&session)?;
    let mut guest = Guest::boot(workshop.classify()?, session)?;
    alone(Plan { warm_up: 20, ..Plan::singly(Duration::from_secs(1)) }, &mut || {
        guest.call("/", "", picture).map(|(time, _)| time)
    })
}

/// Square matrices of ones.
struct Ones {
    params: Sgemm,
    a: Vec<f32>,
    c: Vec<f32>,
}

impl Ones {
    fn new(rows: u32) -> Self {
        let (n, elements) = (i64::from(rows), (rows * rows) as usize);
        let params = Sgemm { m: n, n, k: n, lda: n, ldb: n, ldc: n, alpha: 1.0, beta: 0.0 };
        Self { params, a: vec![1.0; elements], c: vec![0.0; elements * AT_ONCE as usize] }
    }

    fn multiply(&mut self, session: &Session) -> anyhow::Result<()> {
        let elements = self.a.len();
        Ok(session.ops().sgemm(&self.params, &self.a, &self.a, &mut self.c[..elements]).map(drop)?)
    }

    /// So many at once, each into a C of its own.
    fn multiply_at_once(&mut self, session: &Session) -> anyhow::Result<()> {
        let mut batch = session.batch();
        for c in self.c.chunks_exact_mut(self.a.len()) {
            batch.sgemm(&self.params, &self.a, &self.a, c);
        }
        Ok(batch.run().into_iter().try_for_each(|outcome| outcome.map(drop))?)
    }
}

/// The time of one of so many.
fn per_operation(count: u32, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let (time, ()) = timed(|| (0..count).try_for_each(|_| work()))?;
    Ok(time / count)
}

/// By how many percent the product in a guest takes longer than here, one by one and so many at once.
fn overhead(guest: &mut Guest, session: &Session, size: &Size, at_once: bool) -> anyhow::Result<f64> {
    // Some ten milliseconds, so that the pairs are many; and 64 products, so that the two exits to look at the clock are few.
    let count = (2048 / size.rows).pow(2).clamp(1, 64) / if at_once { AT_ONCE } else { 1 };
    let batch = if at_once { format!("&batch={AT_ONCE}") } else { String::new() };
    let parameters = format!("n={}{batch}", size.rows);
    let mut ones = Ones::new(size.rows);
    let mut through = || guest.by_its_clock("/sgemm", &parameters, count);
    let mut directly =
        || per_operation(count, || if at_once { ones.multiply_at_once(session) } else { ones.multiply(session) });
    let time = Duration::from_secs(if size.at_once.is_some() { 2 } else { 5 });
    let [through, directly] = in_turn(Plan { warm_up: 2, ..Plan::singly(time) }, [&mut through, &mut directly])?;
    Ok((through.over(&directly).median - 1.0) * 100.0)
}

fn sgemm(workshop: &Workshop) -> anyhow::Result<[Row; 2]> {
    let runtime = Runtime::new(vec![Arc::new(Gemm::new())]);
    let session = runtime.session();
    let mut guest = Guest::boot(workshop.offload()?, runtime.session())?;
    let (mut worst, mut worst_single) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let mut details = Vec::new();
    for size in &SIZES {
        let single = overhead(&mut guest, &session, size, false)?;
        details.push((size.one, single));
        let mut best_way = single;
        if let Some(name) = size.at_once {
            best_way = overhead(&mut guest, &session, size, true)?;
            details.push((name, best_way));
        }
        if size.rows >= LARGE {
            (worst, worst_single) = (worst.max(best_way), worst_single.max(single));
        }
    }
    let row = Row::new("accel.sgemm_overhead_percent", worst, "%", Target::AtMost(3.0))
        .number("products_of_a_batch", f64::from(AT_ONCE));
    let row = details.into_iter().fold(row, |row, (name, percent)| row.number(name, percent));
    let [of_two, of_one] = [None, NonZeroUsize::new(1)].map(after_a_pause);
    let single = Row::new("accel.sgemm_single_overhead_percent", worst_single, "%", Target::None)
        .number("native_256_after_30_us_percent", of_two?)
        .number("native_256_after_30_us_on_one_thread_percent", of_one?);
    Ok([row, single])
}

/// By how many percent a product of 256 rows takes longer here, without any guest, when nothing was multiplied for as long
/// as an exit takes: what comes of the plugin's threads and not of the way.
fn after_a_pause(threads: Option<NonZeroUsize>) -> anyhow::Result<f64> {
    let gemm = threads.map_or_else(Gemm::new, Gemm::with_threads);
    let session = Runtime::new(vec![Arc::new(gemm)]).session();
    let ones = RefCell::new(Ones::new(LARGE));
    let multiply = || timed(|| ones.borrow_mut().multiply(&session)).map(|(time, ())| time);
    let mut after_a_pause = || {
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_micros(30) {
            std::hint::spin_loop();
        }
        multiply()
    };
    let mut at_once = multiply;
    let plan = Plan { warm_up: 10, calls: 100, ..Plan::singly(Duration::from_secs(2)) };
    let [after_a_pause, at_once] = in_turn(plan, [&mut after_a_pause, &mut at_once])?;
    Ok((after_a_pause.over(&at_once).median - 1.0) * 100.0)
}

/// How fast each plugin multiplies, and how fast the one that the runtime chooses is beside the fastest: the worst of all
/// sizes.
fn choice() -> anyhow::Result<Row> {
    let (gemm, openblas): (Arc<dyn Plugin>, _) = (Arc::new(Gemm::new()), plugin("openblas"));
    let openblas = openblas.unwrap_or_else(|why| {
        eprintln!("openblas is left out of accel.sgemm_chosen_vs_fastest: {why}");
        Arc::clone(&gemm)
    });
    let alone = [&gemm, &openblas].map(|plugin| Runtime::new(vec![Arc::clone(plugin)]).session());
    let begun = Instant::now();
    let both = Runtime::new(vec![Arc::clone(&gemm), Arc::clone(&openblas)]).session();
    let calibration = begun.elapsed();
    let mut worst = f64::INFINITY;
    let mut details = Vec::new();
    for size in &SIZES {
        let count = (1024 / size.rows).pow(2).clamp(1, 64);
        let [mut of_gemm, mut of_openblas, mut here] = [(); 3].map(|()| Ones::new(size.rows));
        let mut by_gemm = || per_operation(count, || of_gemm.multiply(&alone[0]));
        let mut by_openblas = || per_operation(count, || of_openblas.multiply(&alone[1]));
        let plan = Plan { warm_up: 2, ..Plan::singly(Duration::from_secs(2)) };
        let [by_gemm, by_openblas] = in_turn(plan, [&mut by_gemm, &mut by_openblas])?;
        let elements = here.a.len();
        let report = both.ops().sgemm(&here.params, &here.a, &here.a, &mut here.c[..elements])?;
        let gflops = |micros: f64| 2.0 * f64::from(size.rows).powi(3) / (micros * 1e3);
        let (by_gemm, by_openblas) = (gflops(by_gemm.micros().median), gflops(by_openblas.micros().median));
        let is_openblas = report.plugin == "openblas";
        let chosen = if is_openblas { by_openblas } else { by_gemm };
        worst = worst.min(chosen / by_gemm.max(by_openblas));
        details.push([
            (size.gemm, by_gemm),
            (size.openblas, by_openblas),
            (size.chosen, f64::from(u8::from(is_openblas))),
        ]);
    }
    let row = Row::new("accel.sgemm_chosen_vs_fastest", worst, "×", Target::None)
        .number("calibration_ms", calibration.as_secs_f64() * 1e3);
    Ok(details.into_iter().flatten().fold(row, |row, (name, value)| row.number(name, value)))
}

/// How long so many guests work at a time.
const TOGETHER: Duration = Duration::from_secs(3);

/// Pictures a second that so many guests have classified together, each a machine with a thread of its own.
fn classified(workshop: &Workshop, runtime: &Runtime, guests: usize, picture: &[u8]) -> anyhow::Result<f64> {
    let boot = |()| {
        let session = runtime.session();
        native::register(&session)?;
        session.preload()?;
        Guest::boot(workshop.classify()?, session)
    };
    let machines: Vec<Guest> = iter::repeat_n((), guests).map(boot).collect::<Result<_, _>>()?;
    let begun = Instant::now();
    let work = |mut guest: Guest| {
        let mut done = 0_u32;
        while begun.elapsed() < TOGETHER {
            guest.call("/", "", picture)?;
            done += 1;
        }
        anyhow::Ok(done)
    };
    let done: u32 = thread::scope(|scope| {
        let threads: Vec<_> = machines.into_iter().map(|guest| scope.spawn(move || work(guest))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<u32>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a guest's thread panicked"))?
        };
        threads.into_iter().map(join).sum::<anyhow::Result<u32>>()
    })?;
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn guests(workshop: &Workshop) -> anyhow::Result<Row> {
    let (picture, runtime) = (picture()?, Runtime::new(default_plugins()));
    let [one, four, sixteen] = {
        let mut rates = [0.0; 3];
        for (rate, guests) in rates.iter_mut().zip([1, 4, 16]) {
            *rate = classified(workshop, &runtime, guests, &picture)?;
        }
        rates
    };
    Ok(Row::new("accel.guests_16_vs_1", sixteen / one, "×", Target::None)
        .number("pictures_per_second_of_1", one)
        .number("pictures_per_second_of_4", four)
        .number("pictures_per_second_of_16", sixteen))
}
