//! Solo5 unikernels: hello from start to exit at both rings, as a process of spt's and beside one without any of it;
//! requests to a function with rewind and with a new machine each time; a loop of floating-point numbers beside the same
//! in a process; blocks; frames.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kernlet_accel::Runtime;
use kernlet_monitor::{
    Hypervisor, Level, LogSink, MachineConfig, Program, ProgramMachine, ProgramTemplate, Request, Response, Services,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use crate::{
    stats::{Plan, Side, alone, in_turn, timed},
    table::{Row, Target},
    workshop::Workshop,
};

/// What this suite gives.
pub(super) const FIGURES: &[&str] = &[
    "solo5.hello_cpl3_ms",
    "solo5.hello_spt_ms",
    "solo5.hello_ring0_times",
    "solo5.hello_vs_process",
    "solo5.rewind_per_second",
    "solo5.rewind_vs_new_times",
    "solo5.compute_vs_process",
    "solo5.block_read_mb_per_second",
    "solo5.net_ring_per_second",
];

/// Bytes of the disk that is written and read.
const DISK: usize = 8 << 20;

/// Frames that are exchanged before the figure is taken.
const FRAMES: u32 = 2000;

/// The loop of `functions/solo5/float.c`, in a process.
const FLOAT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double series(unsigned terms) {
    double sum = 0, sign = 1;
    for (unsigned i = 0; i < terms; i++, sign = -sign) sum += sign / (2 * i + 1);
    return 4 * sum;
}
int main(int argc, char **argv) {
    struct timespec a, b;
    volatile double pi = 0;
    (void)argc;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < atoi(argv[1]); i++) pi = series(1000000);
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("nanoseconds: %ld\n", (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec);
    return !(pi > 3.14);
}
"#;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    Ok([hello(workshop)?, requests(workshop)?, vec![compute(workshop)?, blocks(workshop)?, frames(workshop)?]].concat())
}

/// A guest under our tender for hvt.
fn tender(workshop: &Workshop, ring: &str, options: &[&str], name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(workshop.program()?);
    command.args(["solo5-hvt", "--mem=16", ring]).args(options).arg(workshop.solo5_guest(name)?);
    command.arg("--solo5:quiet").stdin(Stdio::null());
    Ok(command)
}

/// Hello, which says all that it says to people, under our tender for hvt or spt: the program of its own, or `kernlet`.
fn hello_by(workshop: &Workshop, kernlet: bool, target: &str, options: &[&str]) -> anyhow::Result<Command> {
    let tender = format!("solo5-{target}");
    let mut command =
        if kernlet { Command::new(workshop.program()?) } else { Command::new(workshop.tenders()?.join(&tender)) };
    command.args(kernlet.then_some(tender)).arg("--mem=16").args(options);
    command.arg(workshop.solo5_guest_for(target, "hello")?).stdin(Stdio::null());
    Ok(command)
}

fn hello(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let process = workshop.static_echo()?;
    let mut commands = [
        hello_by(workshop, false, "hvt", &["--ring=3"])?,
        hello_by(workshop, false, "hvt", &["--ring=0"])?,
        hello_by(workshop, false, "spt", &[])?,
        hello_by(workshop, true, "hvt", &["--ring=3"])?,
        Command::new(process),
    ];
    commands[4].stdin(Stdio::null());
    let [mut three, mut zero, mut spt, mut kernlet, mut process] = commands.each_mut().map(|command| {
        command.stdout(Stdio::null());
        move || {
            let (time, status) = timed(|| command.status())?;
            ensure!(status.success(), "hello failed");
            Ok(time)
        }
    });
    let sides: [Side<'_>; 5] = [&mut three, &mut zero, &mut spt, &mut kernlet, &mut process];
    let [three, zero, spt, kernlet, process] = in_turn(Plan::singly(Duration::from_secs(10)), sides)?;
    let times = zero.over(&three);
    let beside = three.over(&process);
    Ok(vec![
        Row::new("solo5.hello_cpl3_ms", three.millis().median, "ms", Target::None)
            .summary("cpl3_ms", three.millis())
            .summary("ring0_ms", zero.millis())
            .summary("spt_ms", spt.millis())
            .summary("by_kernlet_ms", kernlet.millis())
            .summary("process_ms", process.millis()),
        Row::new("solo5.hello_spt_ms", spt.millis().median, "ms", Target::None),
        Row::new("solo5.hello_ring0_times", times.median, "×", Target::AtLeast(5.0)).summary("ring0_times", times),
        Row::new("solo5.hello_vs_process", beside.median, "×", Target::None).summary("vs_process", beside),
    ])
}

#[derive(Debug)]
struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _call_id: &str, _level: Level, _text: &str) {}
}

fn requests(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let hypervisor = Hypervisor::open()?;
    hypervisor.keep_shells()?;
    let program = Program::parse(&fs::read(workshop.solo5_guest("echo")?)?)?;
    let config =
        MachineConfig { memory: 4 << 20, request_limit: 8192, response_limit: 1 << 20, environment: Vec::new() };
    let services = || Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log: Arc::new(NoLog) };
    let deadline = || Instant::now() + Duration::from_secs(60);
    let (template, first) = ProgramTemplate::boot(&hypervisor, &program, &config, services(), deadline())?;
    let request = Request { method: "POST", path: "/", query: "", headers: &[], body: b"hello", call_id: "bench" };
    let mut response = Response::default();
    let mut ask = |machine: ProgramMachine| -> anyhow::Result<_> {
        let used = machine.invoke_into(&request, deadline(), &mut response)?;
        ensure!(response.body == b"hello", "the guest gave no echo");
        Ok(used)
    };
    let mut kept = Some(ask(first)?.rewind()?);
    let mut rewind = || {
        let machine = kept.take().context("no machine")?;
        let (time, machine) = timed(|| anyhow::Ok(ask(machine)?.rewind()?))?;
        kept = Some(machine);
        Ok(time)
    };
    let plan = Plan { calls: 50, ..Plan::singly(Duration::from_secs(4)) };
    let rewound = alone(plan, &mut rewind)?;
    let mut fresh = || {
        let (time, used) = timed(|| ask(template.machine(&hypervisor, services())?))?;
        drop(used);
        Ok(time)
    };
    let created = alone(plan, &mut fresh)?;
    let per_second = rewound.per_second();
    Ok(vec![
        Row::new("solo5.rewind_per_second", per_second, "/s", Target::None)
            .summary("rewind_us", rewound.micros())
            .summary("new_us", created.micros()),
        Row::new("solo5.rewind_vs_new_times", per_second / created.per_second(), "×", Target::None),
    ])
}

/// The number behind `nanoseconds:` in what a program prints.
fn nanoseconds(command: &mut Command, which: usize) -> anyhow::Result<Duration> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers =
        text.lines().find_map(|line| line.strip_prefix("nanoseconds: ")).context("no time in what it prints")?;
    let number = numbers.split(' ').nth(which).context("too few times in what it prints")?;
    Ok(Duration::from_nanos(number.parse()?))
}

fn compute(workshop: &Workshop) -> anyhow::Result<Row> {
    let mut guest = tender(workshop, "--ring=3", &[], "float")?;
    guest.arg("50");
    let mut process = Command::new(workshop.static_program("float", FLOAT)?);
    process.arg("50");
    let mut guest = || nanoseconds(&mut guest, 0);
    let mut process = || nanoseconds(&mut process, 0);
    let [guest, process] =
        in_turn(Plan { warm_up: 1, ..Plan::singly(Duration::from_secs(8)) }, [&mut guest, &mut process])?;
    let ratio = guest.over(&process);
    Ok(Row::new("solo5.compute_vs_process", ratio.median, "×", Target::AtMost(1.05))
        .summary("vs_process", ratio)
        .summary("guest_ms", guest.millis())
        .summary("process_ms", process.millis()))
}

fn blocks(workshop: &Workshop) -> anyhow::Result<Row> {
    let disk = workshop.home().join("disk.img");
    fs::write(&disk, vec![0; DISK])?;
    let option = format!("--block:storage={}", disk.display());
    let megabytes = |time: Duration| DISK as f64 / time.as_secs_f64() / 1e6;
    let time = |sector: &str, which| -> anyhow::Result<f64> {
        let sector = format!("--block-sector-size:storage={sector}");
        let mut command = tender(workshop, "--ring=3", &[&option, &sector], "block")?;
        Ok(megabytes(nanoseconds(command.arg("time"), which)?))
    };
    let read = time("32768", 1)?;
    Ok(Row::new("solo5.block_read_mb_per_second", read, "MB/s", Target::None)
        .number("block_size", 32768.0)
        .number("write_mb_per_second", time("32768", 0)?)
        .number("read_512_mb_per_second", time("512", 1)?)
        .number("write_512_mb_per_second", time("512", 0)?))
}

fn frames(workshop: &Workshop) -> anyhow::Result<Row> {
    let ring = round_trip(workshop, "")?;
    let hypercalls = round_trip(workshop, "hypercalls")?;
    Ok(Row::new("solo5.net_ring_per_second", 1e6 / ring, "/s", Target::None)
        .number("hypercalls_per_second", 1e6 / hypercalls)
        .number("ring_us", ring)
        .number("hypercalls_us", hypercalls))
}

/// Microseconds from a frame to its answer, on average.
fn round_trip(workshop: &Workshop, how: &str) -> anyhow::Result<f64> {
    let (ours, theirs): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None)?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
    let net = format!("--net:service=@{}", theirs.as_raw_fd());
    let mut command = tender(workshop, "--ring=3", &[&net], "net")?;
    let limit = format!("limit {}", FRAMES + 1);
    let mut child = Ended(command.args([how, &limit]).stdout(Stdio::null()).spawn()?);
    drop(theirs);
    // An ARP request for 10.0.0.2.
    let question = [
        &[0xff; 6][..],
        &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1],
        &[0; 6],
        &[10, 0, 0, 2],
    ]
    .concat();
    let mut answer = [0; 64];
    let mut ask = || -> anyhow::Result<()> {
        rustix::io::write(&ours, &question)?;
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        ensure!(poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&patience))? == 1, "the guest does not answer");
        ensure!(rustix::io::read(&ours, &mut answer)? == question.len(), "the guest's answer is cut");
        Ok(())
    };
    ask()?;
    let (time, ()) = timed(|| (0..FRAMES).try_for_each(|_| ask()))?;
    ensure!(child.0.wait()?.success(), "the guest failed");
    Ok(time.as_secs_f64() * 1e6 / f64::from(FRAMES))
}

/// A process that does not outlive what it is for.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}
