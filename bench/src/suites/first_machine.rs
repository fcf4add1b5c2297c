//! The first machine of a function whose template is in a file: from the file to the function's first answer, in turn
//! with a bare machine's first exit, and with a container's run of the same echo.

use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use kernlet_accel::{Runtime, Session};
use kernlet_monitor::{Hypervisor, Machine, MachineConfig, Request, Services, Template, TemplateKey, Unikernel};

use super::invoke::NoLog;
use crate::{
    bare::BareKvm,
    containers::Containers,
    platform::Watchdog,
    stats::{Plan, Times, in_turn, timed},
    table::{Row, Target},
    workshop::{Image, Workshop},
};

/// A small request.
const BODY: &[u8; 64] = b"sixty-four bytes of a body, which is what a small request has.\r\n";

const REQUEST: Request<'static> = Request {
    method: "POST",
    path: "/",
    query: "",
    headers: &[("content-type", b"text/plain"), ("content-length", b"64")],
    body: BODY,
    call_id: "0f4a2c3e-6f0d-4d0b-9a51-2f4f4c1c9d7e",
};

/// What a watchdog has when it comes to its template.
struct Start {
    hypervisor: Hypervisor,
    unikernel: Unikernel,
    config: MachineConfig,
    accel: Arc<Session>,
    key: TemplateKey,
    file: PathBuf,
}

impl Start {
    /// Boots `echo` once and saves its template.
    fn new(echo: &Image, file: PathBuf) -> anyhow::Result<Self> {
        let (hypervisor, unikernel, config) = echo.parts()?;
        let accel = Arc::new(Runtime::new(Vec::new()).session());
        let key = TemplateKey::new(&hypervisor, &unikernel, &config, &accel, "");
        let start = Self { hypervisor, unikernel, config, accel, key, file };
        start.boot()?.0.save(&File::create(&start.file)?, &start.key)?;
        Ok(start)
    }

    fn services(&self) -> Services {
        Services { accel: Arc::clone(&self.accel), log: Arc::new(NoLog) }
    }

    fn boot(&self) -> anyhow::Result<(Template, Machine)> {
        let Self { hypervisor, unikernel, config, .. } = self;
        Ok(Template::boot(hypervisor, unikernel, config, self.services(), in_a_minute())?)
    }

    fn load(&self) -> anyhow::Result<Template> {
        let Self { hypervisor, unikernel, config, key, file, .. } = self;
        Ok(Template::load(File::open(file)?, key, hypervisor, unikernel, config)?)
    }

    /// From the file to the first answer. What is made goes after its time was taken.
    fn first_answer(&self) -> anyhow::Result<Duration> {
        let (time, _) = timed(|| {
            let template = self.load()?;
            answer(template.machine(&self.hypervisor, self.services())?)
        })?;
        Ok(time)
    }
}

/// The machine has to live until its time was taken.
fn answer(machine: Machine) -> anyhow::Result<impl Sized> {
    let (used, response) = machine.invoke(&REQUEST, in_a_minute())?;
    ensure!(response.body == BODY, "echo gave something else back");
    Ok(used)
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let echo = workshop.echo()?;
    let start = Start::new(echo, workshop.home().join("first-machine.template"))?;
    let mut rows = vec![whole_process(workshop, echo, over_floor(&start)?)?];
    match Containers::new() {
        Ok(containers) => rows.extend(over_containers(&start, &containers)?),
        Err(why) => eprintln!("SKIPPED cold.runc_times and cold.ctr_times: {why:#}"),
    }
    Ok(rows)
}

fn over_floor(start: &Start) -> anyhow::Result<Row> {
    let kvm = BareKvm::open()?;
    let template = start.load()?;
    let kept = Start {
        hypervisor: Hypervisor::open()?,
        unikernel: start.unikernel.clone(),
        config: start.config.clone(),
        accel: Arc::clone(&start.accel),
        key: start.key.clone(),
        file: start.file.clone(),
    };
    kept.hypervisor.keep_shells()?;
    let mut floor = || timed(|| kvm.create()).map(|(time, _)| time);
    let mut ours = || start.first_answer();
    let mut load = || timed(|| start.load()).map(|(time, _)| time);
    let mut further = || timed(|| answer(template.machine(&start.hypervisor, start.services())?)).map(|(time, _)| time);
    let mut booted = || timed(|| answer(start.boot()?.1)).map(|(time, _)| time);
    let mut shell = || kept.first_answer();
    let plan = Plan { warm_up: 10, ..Plan::singly(Duration::from_secs(8)) };
    let sides: [crate::stats::Side<'_>; 6] = [&mut floor, &mut ours, &mut load, &mut further, &mut booted, &mut shell];
    let [floor, ours, load, further, booted, shell] = in_turn(plan, sides)?;
    let ratio = ours.over(&floor);
    Ok(Row::new("cold.vs_floor_create", ratio.median, "×", Target::AtMost(2.0))
        .summary("ratio_of_each_round", ratio)
        .summary("floor_create_us", floor.micros())
        .summary("file_to_answer_us", ours.micros())
        .summary("load_us", load.micros())
        .summary("template_to_answer_us", further.micros())
        .summary("boot_to_answer_us", booted.micros())
        .summary("file_to_answer_with_a_shell_us", shell.micros()))
}

/// Adds a watchdog's process: from its start to its first answer, without and with a saved template.
fn whole_process(workshop: &Workshop, echo: &Image, row: Row) -> anyhow::Result<Row> {
    let program = workshop.program()?.to_owned();
    let booted = echo.spec()?;
    let mut saved = booted.clone();
    saved.template = Some(workshop.home().join("watchdog.template"));
    let answer = |spec| -> anyhow::Result<Duration> {
        let (time, watchdog) = timed(|| Watchdog::start_and_call(&program, spec, Bytes::from_static(BODY)))?;
        drop(watchdog);
        Ok(time)
    };
    let mut without = || answer(&booted);
    let mut with = || answer(&saved);
    let [without, with]: [Times; 2] = in_turn(Plan::singly(Duration::from_secs(4)), [&mut without, &mut with])?;
    Ok(row.summary("process_boot_to_answer_ms", without.millis()).summary("process_file_to_answer_ms", with.millis()))
}

fn over_containers(start: &Start, containers: &Containers) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let plan = Plan::singly(Duration::from_secs(5));
    let mut ours = || start.first_answer();
    let [own, runc] = in_turn(plan, [&mut ours, &mut || containers.runc(BODY)])?;
    rows.push(times("cold.runc_times", 10.0, "runc_run_ms", &own, &runc));
    match containers.containerd() {
        Ok(containerd) => {
            let [own, ctr] = in_turn(plan, [&mut ours, &mut || containers.ctr(&containerd, BODY)])?;
            rows.push(times("cold.ctr_times", 30.0, "ctr_run_ms", &own, &ctr));
        }
        Err(why) => eprintln!("SKIPPED cold.ctr_times: {why:#}"),
    }
    Ok(rows)
}

fn times(name: &'static str, least: f64, theirs: &'static str, own: &Times, other: &Times) -> Row {
    let ratio = other.over(own);
    Row::new(name, ratio.median, "×", Target::AtLeast(least))
        .summary("ratio_of_each_round", ratio)
        .summary("file_to_answer_us", own.micros())
        .summary(theirs, other.millis())
}
