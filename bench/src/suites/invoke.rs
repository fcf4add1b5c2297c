//! One invocation of `echo` with a small body: a machine, the watchdog around it, its HTTP server around that.
//! All in turn with bare KVM's one exit.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use kernlet_accel::Runtime;
use kernlet_monitor::{Crash, Level, LogSink, Machine, Request, Response, Services, Template};
use kernlet_watchdog::{Function, Log};

use crate::{
    bare::BareKvm,
    platform::Watchdog,
    stats::{Plan, Times, in_turn, timed},
    table::{Row, Target},
    workshop::{Image, Workshop},
};

const TARGET: Target = Target::AtMost(2.5);

/// A small request, as a client of a function sends it.
pub(super) const BODY: &[u8; 64] = b"sixty-four bytes of a body, which is what a small request has.\r\n";
pub(super) const REQUEST: Request<'static> = Request {
    method: "POST",
    path: "/",
    query: "",
    headers: &[("host", b"127.0.0.1:8080"), ("content-type", b"text/plain"), ("content-length", b"64")],
    body: BODY,
    call_id: "0f4a2c3e-6f0d-4d0b-9a51-2f4f4c1c9d7e",
};

/// Where the machine's log lines go: `echo` writes none.
#[derive(Debug)]
pub(super) struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _: &str, _: Level, _: &str) {}
}

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let echo = workshop.echo()?;
    let inside = InProcess::measure(echo)?;
    let served = served(workshop, echo)?;
    let ratio = inside.worker.over(&inside.floor);
    let row = Row::new("invoke.echo_vs_floor", ratio.median, "×", TARGET)
        .summary("ratio_of_each_round", ratio)
        .summary("machine_over_floor", inside.machine.over(&inside.floor))
        .summary("machine_rewound_over_floor", inside.rewound.over(&inside.floor))
        .summary("floor_us", inside.floor.micros())
        .summary("machine_us", inside.machine.micros())
        .summary("machine_rewound_us", inside.rewound.micros())
        .summary("watchdog_us", inside.worker.micros())
        .summary("watchdog_over_its_socket_us", served.micros())
        .number("exits_per_call", inside.exits);
    Ok(vec![row])
}

/// What runs in this process, on this thread.
struct InProcess {
    floor: Times,
    machine: Times,
    rewound: Times,
    worker: Times,
    exits: f64,
}

impl InProcess {
    fn measure(echo: &Image) -> anyhow::Result<Self> {
        let kvm = BareKvm::open()?;
        let mut bare = kvm.create()?;
        let function = Function::open(&echo.spec()?, &Log::start(std::io::sink(), false)?)?;
        let mut worker = function.worker();
        let (mut kept, mut rewound) = (Some(boot(echo)?), Some(boot(echo)?));
        let mut exits = 0;

        let mut floor = || timed(|| bare.one_exit()).map(|(time, ())| time);
        let mut machine = || {
            let ready = kept.take().context("the machine is gone")?;
            let (time, (used, response)) = timed(|| ready.invoke(&REQUEST, in_a_minute()))?;
            kept = Some(used.keep());
            is_echo(&response)?;
            Ok(time)
        };
        let mut rewind = || {
            let ready = rewound.take().context("the machine is gone")?;
            let (time, (ready, response)) = timed(|| {
                let (used, response) = ready.invoke(&REQUEST, in_a_minute())?;
                Ok::<_, Box<Crash>>((used.rewind()?, response))
            })?;
            rewound = Some(ready);
            is_echo(&response)?;
            Ok(time)
        };
        let mut worker = || {
            let (time, response) = timed(|| worker.invoke(&REQUEST))?;
            is_echo(&response)?;
            exits = response.usage.exits;
            Ok(time)
        };
        // Each side for a hundred calls at a time, as it runs under load: after every change of sides the
        // processor's caches hold the other side's data.
        let plan = Plan { warm_up: 1000, calls: 100, ..Plan::singly(Duration::from_secs(8)) };
        let [floor, machine, rewound, worker] = in_turn(plan, [&mut floor, &mut machine, &mut rewind, &mut worker])?;
        Ok(Self { floor, machine, rewound, worker, exits: f64::from(exits) })
    }
}

pub(super) fn is_echo(response: &Response) -> anyhow::Result<()> {
    ensure!(response.body == BODY, "echo gave something else back");
    Ok(())
}

fn boot(echo: &Image) -> anyhow::Result<Machine> {
    let (hypervisor, unikernel, config) = echo.parts()?;
    let services = Services { accel: Runtime::new(Vec::new()).session().into(), log: std::sync::Arc::new(NoLog) };
    Ok(Template::boot(&hypervisor, &unikernel, &config, services, in_a_minute())?.1)
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// The same request to the watchdog's process, by HTTP over its unix socket.
fn served(workshop: &Workshop, echo: &Image) -> anyhow::Result<Times> {
    let mut watchdog = Watchdog::start(workshop.program()?, &echo.spec()?)?;
    let mut call = || {
        let answer = watchdog.call(&[("content-type", "text/plain")], Bytes::from_static(BODY))?;
        ensure!(answer.body == BODY[..], "echo gave something else back");
        Ok(answer.time)
    };
    super::for_a_second(&mut call)
}
