//! Accelerator operations from a guest, in turn with the same plugin called in this process: what the way through a
//! machine adds to an operation, whatever the operation is.

use std::{
    iter,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use kernlet_accel::{
    Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, Session, host::Sgemm, operation::Task,
};
use kernlet_accel_plugins::{Gemm, Noop, default_plugins};
use kernlet_monitor::{Machine, Request, Services, Template};

use super::invoke::NoLog;
use crate::{
    bare::BareKvm,
    native,
    stats::{Plan, in_turn, timed},
    table::{Row, Target},
    workshop::{Image, Workshop, picture},
};

/// Operations of one call, less one: what is measured is the difference between two calls.
const BATCH: u32 = 100;

/// Sizes of matrices; those from [`LARGE`] up have a target.
const ROWS: [(u32, &str, &str); 6] = [
    (64, "overhead_64_percent", "gflops_64"),
    (128, "overhead_128_percent", "gflops_128"),
    (256, "overhead_256_percent", "gflops_256"),
    (512, "overhead_512_percent", "gflops_512"),
    (1024, "overhead_1024_percent", "gflops_1024"),
    (2048, "overhead_2048_percent", "gflops_2048"),
];
const LARGE: u32 = 256;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    Ok(vec![noop(workshop)?, payloads(workshop)?, classify(workshop)?, sgemm(workshop)?, guests(workshop)?])
}

/// A machine with these plugins, kept between its requests, so that only what a request does counts.
struct Guest(Option<Machine>);

impl Guest {
    fn boot(image: &Image, session: Session) -> anyhow::Result<Self> {
        let (hypervisor, unikernel, config) = image.parts()?;
        let services = Services { accel: Arc::new(session), log: Arc::new(NoLog) };
        Ok(Self(Some(Template::boot(&hypervisor, &unikernel, &config, services, in_a_minute())?.1)))
    }

    /// The time of a request that must be answered by 200, and the answer's bytes that were copied.
    fn call(&mut self, path: &str, query: &str, body: &[u8]) -> anyhow::Result<(Duration, u64)> {
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
        Ok((time, response.usage.bytes_copied))
    }

    /// The time of one operation of many: that of a request with `count` more of them than another has.
    fn per_operation(&mut self, path: &str, parameters: &str, count: u32) -> anyhow::Result<Duration> {
        let (one, _) = self.call(path, &format!("{parameters}&count=1"), b"")?;
        let (many, _) = self.call(path, &format!("{parameters}&count={}", count + 1), b"")?;
        Ok(many.saturating_sub(one) / count)
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
        copied += guest.call("/payload", &format!("{parameters}&count=1"), b"")?.1;
    }
    let row =
        Row::new("accel.payload_guest_bytes_copied", super::classify::count(copied), "bytes", Target::AtMost(0.0));
    Ok(times.into_iter().fold(row, |row, (name, time)| row.summary(name, time)))
}

fn classify(workshop: &Workshop) -> anyhow::Result<Row> {
    let picture = Bytes::from(picture()?);
    let runtime = Runtime::new(default_plugins());
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
    Ok(Row::new("accel.classify_guest_overhead_percent", percent, "%", Target::AtMost(1.0))
        .summary("ratio_of_each_pair", ratio)
        .summary("guest_ms", through.millis())
        .summary("native_ms", directly.millis()))
}

fn sgemm(workshop: &Workshop) -> anyhow::Result<Row> {
    let runtime = Runtime::new(vec![Arc::new(Gemm::new())]);
    let session = runtime.session();
    let mut guest = Guest::boot(workshop.offload()?, runtime.session())?;
    let mut worst = f64::NEG_INFINITY;
    let mut details = Vec::new();
    for (rows, name, speed) in ROWS {
        let count = (1024 / rows).pow(2).clamp(4, 64);
        let elements = (rows * rows) as usize;
        let (a, b, mut c) = (vec![1.0; elements], vec![1.0; elements], vec![0.0; elements]);
        let n = i64::from(rows);
        let params = Sgemm { m: n, n, k: n, lda: n, ldb: n, ldc: n, alpha: 1.0, beta: 0.0 };
        let parameters = format!("n={rows}");
        let mut through = || guest.per_operation("/sgemm", &parameters, count);
        let mut directly = || {
            let mut multiply = || session.ops().sgemm(&params, &a, &b, &mut c).map(drop);
            let (one, ()) = timed(&mut multiply)?;
            let (many, ()) = timed(|| (0..=count).try_for_each(|_| multiply()))?;
            Ok(many.saturating_sub(one) / count)
        };
        let plan = Plan { warm_up: 2, ..Plan::singly(Duration::from_secs(4)) };
        let [through, directly] = in_turn(plan, [&mut through, &mut directly])?;
        let ratio = through.over(&directly);
        let percent = (ratio.median - 1.0) * 100.0;
        if rows >= LARGE {
            worst = worst.max(percent);
        }
        let gflops = 2.0 * f64::from(rows).powi(3) / (directly.micros().median * 1e3);
        details.push(((name, percent), (speed, gflops)));
    }
    let row = Row::new("accel.sgemm_overhead_percent", worst, "%", Target::AtMost(3.0));
    Ok(details
        .into_iter()
        .fold(row, |row, (overhead, speed)| row.number(overhead.0, overhead.1).number(speed.0, speed.1)))
}

/// How long so many guests work at a time.
const TOGETHER: Duration = Duration::from_secs(4);

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
