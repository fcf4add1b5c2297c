//! A clean machine for every request: what a rewind and a run take, by the number of pages that a request writes.
//! All in turn with bare KVM, which sets registers and runs, and rewinds nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kernlet_accel::Runtime;
use kernlet_monitor::{Hypervisor, Machine, Request, Response, Services, Template};
use kernlet_watchdog::{Function, Log, Worker};

use crate::{
    allocations,
    bare::BareKvm,
    stats::{Plan, Summary, Times, alone, in_turn, timed},
    suites::invoke::NoLog,
    table::{Row, Target},
    workshop::{Image, Workshop},
};

/// Pages that a request of the figure writes.
const WRITTEN: u8 = 50;

/// Others, for the details.
const NONE: &str = "0";
const TEN: &str = "10";
const FIFTY: &str = "50";
const MANY: &str = "200";
const THOUSAND: &str = "1000";

fn request(pages: &'static str) -> Request<'static> {
    Request {
        method: "POST",
        path: "/",
        query: "",
        headers: &[("host", b"127.0.0.1:8080"), ("content-type", b"text/plain")],
        body: pages.as_bytes(),
        call_id: "0f4a2c3e-6f0d-4d0b-9a51-2f4f4c1c9d7e",
    }
}

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let image = workshop.pages()?;
    let fifty = Fifty::measure(image)?;
    let ratio = fifty.worker.over(&fifty.floor);
    let parts = Parts::measure(image, FIFTY)?;
    let mut row = Row::new("rewind.vs_floor", ratio.median, "×", Target::AtMost(1.3))
        .summary("ratio_of_each_round", ratio)
        .summary("over_a_floor_that_writes_50_pages", fifty.worker.over(&fifty.writing))
        .summary("floor_us", fifty.floor.micros())
        .summary("floor_that_writes_50_pages_us", fifty.writing.micros())
        .summary("watchdog_us", fifty.worker.micros())
        .summary("run_us", parts.run)
        .summary("rewind_us", parts.rewind)
        .summary("run_without_rewind_us", fifty.kept.micros())
        .summary("new_machine_us", new_machine(image)?)
        .number("pages_restored", parts.pages)
        .number("allocations_per_call", fifty.allocations);
    for (pages, names) in [
        (NONE, ["run_0_pages_us", "rewind_0_pages_us"]),
        (TEN, ["run_10_pages_us", "rewind_10_pages_us"]),
        (MANY, ["run_200_pages_us", "rewind_200_pages_us"]),
        (THOUSAND, ["run_1000_pages_us", "rewind_1000_pages_us"]),
        ("2000", ["run_2000_pages_us", "rewind_2000_pages_us"]),
        ("2500", ["run_2500_pages_us", "rewind_2500_pages_us"]),
    ] {
        let parts = Parts::measure(image, pages)?;
        row = row.summary(names[0], parts.run).summary(names[1], parts.rewind);
    }
    Ok(vec![row, Row::new("rewind.exits", fifty.exits, "", Target::AtMost(1.0))])
}

/// Requests that write 50 pages, to the watchdog's worker and to bare KVM.
struct Fifty {
    floor: Times,
    writing: Times,
    kept: Times,
    worker: Times,
    exits: f64,
    allocations: f64,
}

impl Fifty {
    fn measure(image: &Image) -> anyhow::Result<Self> {
        let (bare, writing) = (BareKvm::open()?, BareKvm::writing(WRITTEN)?);
        let (mut bare, mut writing) = (bare.create()?, writing.create()?);
        let function = Function::open(&image.spec()?, &Log::start(std::io::sink(), false)?)?;
        let mut worker = function.worker();
        let mut kept = Some(Maker::new(image)?.first);
        let mut exits = 0;
        let asked = request(FIFTY);

        let mut floor = || timed(|| bare.one_exit()).map(|(time, ())| time);
        let mut touching = || timed(|| writing.one_exit()).map(|(time, ())| time);
        let mut keep = || {
            let ready = kept.take().context("the machine is gone")?;
            let (time, (used, response)) = timed(|| ready.invoke(&asked, in_a_minute()))?;
            kept = Some(used.keep());
            ensure!(response.status == 200, "the function answered {}", response.status);
            Ok(time)
        };
        let mut response = Response::default();
        let mut call = || {
            let (time, ()) = timed(|| worker.invoke_into(&asked, &mut response))?;
            is_clean(&response)?;
            exits = response.usage.exits;
            Ok(time)
        };
        // Each side for a hundred calls at a time, as it runs under load: see the suite `invoke`.
        let plan = Plan { warm_up: 1000, calls: 100, ..Plan::singly(Duration::from_secs(8)) };
        let sides = [&mut floor as crate::stats::Side<'_>, &mut touching, &mut keep, &mut call];
        let [floor, writing, kept, times] = in_turn(plan, sides)?;
        let allocations = allocations_per_call(&mut worker, &asked)?;
        Ok(Self { floor, writing, kept, worker: times, exits: f64::from(exits), allocations })
    }
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn allocations_per_call(worker: &mut Worker, asked: &Request<'_>) -> anyhow::Result<f64> {
    const CALLS: u32 = 1000;
    let mut response = worker.invoke(asked)?;
    let before = allocations::so_far();
    for _ in 0..CALLS {
        worker.invoke_into(asked, &mut response)?;
        is_clean(&response)?;
    }
    Ok((allocations::so_far() - before) as f64 / f64::from(CALLS))
}

/// A machine's run and its rewind, each by itself.
struct Parts {
    run: Summary,
    rewind: Summary,
    pages: f64,
}

impl Parts {
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    fn measure(image: &Image, pages: &'static str) -> anyhow::Result<Self> {
        let mut machine = Some(Maker::new(image)?.first);
        let mut rewinds = Vec::new();
        let asked = request(pages);
        let mut run = || {
            let ready = machine.take().context("the machine is gone")?;
            let (run, (used, response)) = timed(|| ready.invoke(&asked, in_a_minute()))?;
            is_clean(&response)?;
            let (rewind, ready) = timed(|| used.rewind())?;
            machine = Some(ready);
            rewinds.push(rewind.as_secs_f64() * 1e6);
            Ok(run)
        };
        let plan = Plan { warm_up: 1000, ..Plan::singly(Duration::from_secs(1)) };
        let run = alone(plan, &mut run)?.micros();
        let pages = machine.map_or(0, |mut machine| machine.pages_restored()) as f64;
        Ok(Self { run, rewind: Summary::of(rewinds), pages })
    }
}

/// A further machine of a template, ready for its first request; its end is not counted.
fn new_machine(image: &Image) -> anyhow::Result<Summary> {
    let maker = Maker::new(image)?;
    let make = || timed(|| maker.template.machine(&maker.hypervisor, services())).map(|(time, _)| time);
    let mut make = || make().map_err(anyhow::Error::from);
    Ok(super::for_a_second(&mut make)?.micros())
}

/// Makes machines without a watchdog.
struct Maker {
    hypervisor: Hypervisor,
    template: Template,
    first: Machine,
}

impl Maker {
    fn new(image: &Image) -> anyhow::Result<Self> {
        let (hypervisor, unikernel, config) = image.parts()?;
        let (template, first) = Template::boot(&hypervisor, &unikernel, &config, services(), in_a_minute())?;
        Ok(Self { hypervisor, template, first })
    }
}

fn services() -> Services {
    Services { accel: Runtime::new(Vec::new()).session().into(), log: Arc::new(NoLog) }
}

fn is_clean(response: &Response) -> anyhow::Result<()> {
    ensure!(response.body == b"clean", "the machine was not clean");
    Ok(())
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
