//! Small requests through gateway, watchdog and a clean machine each, by `wrk` over loopback TCP; in turn with a plain
//! hyper server, and with one that starts a program for every request. And where the processor's time goes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;

use crate::{
    peer::Peer,
    platform::{Platform, exits},
    process::{Account, Cpu},
    stats::Summary,
    table::{Row, Target},
    workshop::Workshop,
    wrk::{Load, THREADS, Wrk},
};

/// Rounds of all sides.
const ROUNDS: usize = 5;

/// How long a side is loaded in a round, in seconds.
const SECONDS: u32 = 1;

/// A small body: 64 bytes that Lua needs no quotes for.
const BODY: &str = "sixty-four bytes of a body, which is what a small request has...";

const CLEAN: &str = "/function/echo";

/// What is loaded, and what its loads gave.
pub(super) struct Side {
    name: &'static str,
    address: SocketAddr,
    path: &'static str,
    connections: u32,
    /// The processes that serve it.
    processes: Vec<u32>,
    loads: Vec<Load>,
    used: Vec<Account>,
}

impl Side {
    pub(super) fn new(
        name: &'static str,
        address: SocketAddr,
        path: &'static str,
        connections: u32,
        processes: &[u32],
    ) -> Self {
        let used = vec![Account::default(); processes.len()];
        Self { name, address, path, connections, processes: processes.to_vec(), loads: Vec::new(), used }
    }

    pub(super) fn warm_up(&self, wrk: &Wrk) -> anyhow::Result<()> {
        wrk.run(self.address, self.path, self.connections, 1).map(drop).context(self.name)
    }

    pub(super) fn load(&mut self, wrk: &Wrk) -> anyhow::Result<()> {
        let before = self.accounts()?;
        let load = wrk.run(self.address, self.path, self.connections, SECONDS).context(self.name)?;
        let after = self.accounts()?;
        for ((used, before), after) in self.used.iter_mut().zip(before).zip(after) {
            let spent = after.since(before);
            used.cpu.user_us += spent.cpu.user_us;
            used.cpu.system_us += spent.cpu.system_us;
            used.switches += spent.switches;
        }
        self.loads.push(load);
        Ok(())
    }

    fn accounts(&self) -> anyhow::Result<Vec<Account>> {
        self.processes.iter().map(|pid| Account::of(*pid)).collect()
    }

    pub(super) fn of_each(&self, value: fn(&Load) -> f64) -> Summary {
        Summary::of(self.loads.iter().map(value))
    }

    fn requests(&self) -> f64 {
        self.loads.iter().map(|load| load.requests).sum()
    }

    /// Processor time of `wrk`, a request.
    fn wrk_us(&self) -> f64 {
        self.loads.iter().map(|load| load.cpu.sum()).sum::<f64>() / self.requests()
    }

    /// Processor time and context switches of one of the processes, a request.
    fn each_request(&self, process: usize) -> Account {
        let Account { cpu: Cpu { user_us, system_us }, switches } = self.used[process];
        let requests = self.requests();
        let cpu = Cpu { user_us: user_us / requests, system_us: system_us / requests };
        Account { cpu, switches: switches / requests }
    }

    /// Requests a second over those of `base`, round by round.
    pub(super) fn over(&self, base: &Self) -> Summary {
        let pairs = self.loads.iter().zip(&base.loads);
        Summary::of(pairs.map(|(ours, theirs)| ours.requests_per_second / theirs.requests_per_second))
    }
}

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let wrk = Wrk::open(BODY)?;
    let program = workshop.static_echo()?.to_str().context("the temporary folder's name is not UTF-8")?;
    workshop.echo()?;
    let hyper = Peer::start(&["--probe", "hyper-echo"])?;
    let fork = Peer::start(&["--probe", "hyper-fork", "--echo", program])?;
    let mut platform = Platform::start(workshop)?;
    platform.deploy("echo")?;
    let exits = exits_per_call(&mut platform)?;
    let ours = [platform.pid(), platform.watchdog()?];
    let address = platform.address();

    let mut sides = [
        Side::new("the platform, 1 connection", address, CLEAN, 1, &ours),
        Side::new("hyper, 1 connection", hyper.address, "/", 1, &[hyper.pid()]),
        Side::new("the platform, 16 connections", address, CLEAN, 16, &ours),
        Side::new("hyper, 16 connections", hyper.address, "/", 16, &[hyper.pid()]),
        Side::new("hyper that forks, 16 connections", fork.address, "/", 16, &[fork.pid()]),
    ];
    for side in &sides {
        side.warm_up(&wrk)?;
    }
    for _ in 0..ROUNDS {
        for side in &mut sides {
            side.load(&wrk)?;
        }
    }
    let [one, hyper_one, many, hyper_many, fork_many] = &sides;
    Ok(vec![
        ratio("http.c1_vs_hyper", 0.3, one, hyper_one).number("exits_per_call", exits),
        ratio("http.c16_vs_hyper", 0.2, many, hyper_many).number("exits_per_call", exits),
        Row::new("http.c16_vs_fork", many.over(fork_many).median, "times", Target::AtLeast(10.0))
            .summary("ratio_of_each_round", many.over(fork_many))
            .summary("requests_per_second", many.of_each(|load| load.requests_per_second))
            .summary("fork_requests_per_second", fork_many.of_each(|load| load.requests_per_second))
            .summary("fork_p50_us", fork_many.of_each(|load| load.p50_us))
            .summary("fork_p99_us", fork_many.of_each(|load| load.p99_us))
            .number("fork_cpu_us", fork_many.each_request(0).cpu.sum()),
    ])
}

fn ratio(name: &'static str, wanted: f64, ours: &Side, hyper: &Side) -> Row {
    let (gateway, watchdog) = (ours.each_request(0), ours.each_request(1));
    Row::new(name, ours.over(hyper).median, "times", Target::AtLeast(wanted))
        .summary("ratio_of_each_round", ours.over(hyper))
        .summary("requests_per_second", ours.of_each(|load| load.requests_per_second))
        .summary("p50_us", ours.of_each(|load| load.p50_us))
        .summary("p99_us", ours.of_each(|load| load.p99_us))
        .summary("hyper_requests_per_second", hyper.of_each(|load| load.requests_per_second))
        .summary("hyper_p50_us", hyper.of_each(|load| load.p50_us))
        .summary("hyper_p99_us", hyper.of_each(|load| load.p99_us))
        .number("gateway_cpu_user_us", gateway.cpu.user_us)
        .number("gateway_cpu_system_us", gateway.cpu.system_us)
        .number("gateway_context_switches", gateway.switches)
        .number("watchdog_cpu_user_us", watchdog.cpu.user_us)
        .number("watchdog_cpu_system_us", watchdog.cpu.system_us)
        .number("watchdog_context_switches", watchdog.switches)
        .number("wrk_cpu_us", ours.wrk_us())
        .number("wrk_threads", f64::from(THREADS))
        .number("hyper_cpu_us", hyper.each_request(0).cpu.sum())
        .number("hyper_context_switches", hyper.each_request(0).switches)
}

/// Exits of the guest in one call, once its machine is warm; and whether `echo` is what is measured.
fn exits_per_call(platform: &mut Platform) -> anyhow::Result<f64> {
    let mut call = || {
        let headers = [("x-kernlet-timing", "1"), ("content-type", "text/plain")];
        let answer = platform.call("echo", &headers, Bytes::from_static(BODY.as_bytes()))?;
        ensure!(answer.body == BODY.as_bytes(), "echo gave something else back");
        ensure!(answer.time < Duration::from_secs(10), "echo takes {:?}", answer.time);
        exits(&answer).context("the platform does not say how many exits a call took")
    };
    call()?;
    call()
}
