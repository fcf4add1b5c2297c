//! 2,000 idle machines of 20 functions at the same time, through gateway and watchdogs: what each takes of the host's
//! memory, everything counted, and whether each function answers on all of its machines.

use std::{net::SocketAddr, sync::Barrier, thread};

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::size::kernel_kib;
use crate::{
    census::{Census, available_kib},
    http::Client,
    platform::Platform,
    table::{Row, Target},
    workshop::Workshop,
};

const FUNCTIONS: usize = 20;
/// Machines of each. A watchdog has 128 at most.
const MACHINES: usize = 100;

/// How long the requests of a burst work at first, in milliseconds, so that they overlap and each needs a machine of its
/// own; doubled until they do.
const OVERLAP_MS: u32 = 200;
const OVERLAP_MAX_MS: u32 = 3200;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    workshop.faults()?;
    workshop.program()?;
    let (available, kernel) = (available_kib()?, kernel_kib());
    let mut platform = Platform::start(workshop)?;
    let names: Vec<String> = (0..FUNCTIONS).map(|index| format!("density-{index}")).collect();
    for name in &names {
        platform.begin_deploy(name, "faults", &json!({ "max_inflight": MACHINES.to_string() }))?;
    }
    for name in &names {
        platform.wait_ready(name)?;
    }
    let deployed = Census::of_family(platform.pid())?;

    // Within the 30 seconds after which idle machines go.
    let mut overlap = OVERLAP_MS;
    for (index, name) in names.iter().enumerate() {
        let wanted = count((index + 1) * MACHINES);
        while {
            burst(platform.address(), name, overlap)?;
            Census::of_family(platform.pid())?.machines < wanted
        } {
            overlap *= 2;
            ensure!(overlap <= OVERLAP_MAX_MS, "{name} never has {MACHINES} machines at the same time");
        }
    }
    let full = Census::of_family(platform.pid())?;
    let taken = available - available_kib()?;
    let kernel = kernel_kib().zip(kernel).map_or(0.0, |(after, before)| after - before);

    let mut unanswered = 0;
    for name in &names {
        unanswered += burst(platform.address(), name, overlap)?;
    }
    let after = Census::of_family(platform.pid())?;

    let machines = full.machines;
    let parts = [full.pss_kib, full.page_tables_kib, kernel].map(|kib| kib / machines);
    let memory = Row::new("density.kib_per_machine", parts.iter().sum(), "KiB", Target::AtMost(1024.0))
        .number("machines", machines)
        .number("machines_after_all_answered", after.machines)
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

/// As many requests at the same time as the function has machines, from clients of their own; how many failed.
fn burst(address: SocketAddr, name: &str, overlap: u32) -> anyhow::Result<usize> {
    let start = Barrier::new(MACHINES);
    thread::scope(|scope| {
        let client = || -> anyhow::Result<bool> {
            let client = Client::connect(address);
            start.wait();
            let path = format!("/function/{name}/spin/{overlap}");
            Ok(client?.send(Method::GET, &path, &[], Bytes::new())?.status.is_success())
        };
        let clients: Vec<_> = (0..MACHINES).map(|_| scope.spawn(client)).collect();
        let mut failed = 0;
        for client in clients {
            let answered = client.join().map_err(|_| anyhow!("a client panicked"))?;
            failed += usize::from(!answered?);
        }
        Ok(failed)
    })
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}
