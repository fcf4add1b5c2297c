//! 2,000 idle machines of 20 functions at the same time, through gateway and watchdogs: what each takes of the host's
//! memory, everything counted, and whether each function answers on all of its machines.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::size::kernel_kib;
use crate::{
    census::{Census, available_kib, children},
    http::Client,
    platform::Platform,
    table::{Row, Target},
    workshop::Workshop,
};

const FUNCTIONS: usize = 20;
/// Machines of each. A watchdog has 128 at most.
const MACHINES: usize = 100;

/// How long a request of a burst works, in milliseconds, so that all are under way together.
const OVERLAP_MS: u32 = 400;
/// How long the requests of a burst may take to reach the watchdog, which stands still until then.
const ARRIVAL: Duration = Duration::from_millis(150);
/// Bursts after which a function has as many machines as requests, or never will.
const BURSTS: usize = 6;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    workshop.faults()?;
    workshop.program()?;
    let (available, kernel) = (available_kib()?, kernel_kib());
    let mut platform = Platform::start(workshop)?;
    let mut functions = Vec::new();
    for index in 0..FUNCTIONS {
        let name = format!("density-{index}");
        platform.begin_deploy(&name, "faults", &json!({ "max_inflight": MACHINES.to_string() }))?;
        platform.wait_ready(&name)?;
        let known: Vec<u32> = functions.iter().map(|function: &Deployed| function.watchdog).collect();
        let mut started = children(platform.pid())?.into_iter().filter(|pid| !known.contains(pid));
        let watchdog = started.next().with_context(|| format!("{name} has no process"))?;
        functions.push(Deployed { name, watchdog });
    }
    let deployed = Census::of_family(platform.pid())?;

    // Within the 30 seconds after which idle machines go.
    for function in &functions {
        let mut bursts = 0;
        while Census::of_family(function.watchdog)?.machines < count(MACHINES) {
            ensure!(bursts < BURSTS, "{} never has {MACHINES} machines at the same time", function.name);
            function.burst(platform.address())?;
            bursts += 1;
        }
    }
    let full = Census::of_family(platform.pid())?;
    ensure!(full.machines >= count(FUNCTIONS * MACHINES), "machines have gone: it took longer than they stay idle");
    let taken = available - available_kib()?;
    let kernel = kernel_kib().zip(kernel).map_or(0.0, |(after, before)| after - before);

    let mut unanswered = 0;
    for function in &functions {
        unanswered += function.burst(platform.address())?;
    }
    let after = Census::of_family(platform.pid())?;

    let machines = full.machines;
    let parts = [full.pss_kib, full.page_tables_kib, kernel].map(|kib| kib / machines);
    let memory = Row::new("density.kib_per_machine", parts.iter().sum(), "KiB", Target::AtMost(1024.0))
        .number("machines", machines)
        .number("machines_after_all_answered", after.machines)
        .number("vms", full.vms)
        .number("pss_kib", parts[0])
        .number("page_tables_kib", parts[1])
        .number("kernel_kib", parts[2])
        .number("less_available_kib", taken / machines)
        .number("processes", full.processes)
        .number("threads", full.threads)
        .number("descriptors", full.descriptors)
        .number("watchdogs_without_machines_kib", (deployed.pss_kib + deployed.page_tables_kib) / machines);
    let answers = Row::new("density.unanswered", count(unanswered), "", Target::AtMost(0.0))
        .number("requests", count(FUNCTIONS * MACHINES));
    Ok(vec![memory, answers])
}

/// A function and the process that serves it.
struct Deployed {
    name: String,
    watchdog: u32,
}

impl Deployed {
    /// As many requests at the same time as the function may have machines, from clients of their own; how many failed.
    /// The watchdog stands still until they are all there, so that each is given to a machine before one is done.
    fn burst(&self, address: SocketAddr) -> anyhow::Result<usize> {
        let process = i32::try_from(self.watchdog).ok().and_then(Pid::from_raw).context("no proper process id")?;
        let path = format!("/function/{}/spin/{OVERLAP_MS}", self.name);
        kill_process(process, Signal::STOP)?;
        thread::scope(|scope| {
            let client = || -> anyhow::Result<bool> {
                let answer = Client::connect(address)?.send(Method::GET, &path, &[], Bytes::new())?;
                Ok(answer.status.is_success())
            };
            let clients: Vec<_> = (0..MACHINES).map(|_| scope.spawn(client)).collect();
            thread::sleep(ARRIVAL);
            kill_process(process, Signal::CONT)?;
            let mut failed = 0;
            for client in clients {
                failed += usize::from(!client.join().map_err(|_| anyhow!("a client panicked"))??);
            }
            Ok(failed)
        })
    }
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}
