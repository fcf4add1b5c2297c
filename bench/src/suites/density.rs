//! 2,000 idle machines of 20 functions at the same time, through gateway and watchdogs: what each takes of the host's
//! memory, everything counted, and whether each function answers on all of its machines.

use std::{net::SocketAddr, thread};

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

/// How long a function takes to initialise, in milliseconds: the requests that come meanwhile are all given to a thread of
/// their own, and so each to a machine of its own, once there is a template.
const START_MS: u32 = 500;
/// How long a request works when all machines are asked at the same time, in milliseconds.
const OVERLAP_MS: u32 = 200;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    workshop.faults()?;
    workshop.program()?;
    let (available, kernel) = (available_kib()?, kernel_kib());
    let mut platform = Platform::start(workshop)?;
    let names: Vec<String> = (0..FUNCTIONS).map(|index| format!("density-{index}")).collect();
    let limits = json!({ "max_inflight": MACHINES.to_string(), "START_MS": START_MS.to_string() });
    // Within the 30 seconds after which idle machines go.
    for name in &names {
        platform.begin_deploy(name, "faults", &limits)?;
        let unanswered = burst(platform.address(), &format!("/function/{name}/count"))?;
        ensure!(unanswered == 0, "{unanswered} first requests to {name} failed");
    }
    let full = Census::of_family(platform.pid())?;
    // Each watchdog keeps a shell or two beside its machines.
    let machines = count(FUNCTIONS * MACHINES);
    ensure!(full.vms >= machines, "{} VMs are not {machines} machines", full.vms);
    let taken = available - available_kib()?;
    let kernel = kernel_kib().zip(kernel).map_or(0.0, |(after, before)| after - before);

    let mut unanswered = 0;
    for name in &names {
        unanswered += burst(platform.address(), &format!("/function/{name}/spin/{OVERLAP_MS}"))?;
    }
    let after = Census::of_family(platform.pid())?;

    let parts = [full.pss_kib, full.page_tables_kib, kernel].map(|kib| kib / machines);
    let memory = Row::new("density.kib_per_machine", parts.iter().sum(), "KiB", Target::AtMost(1024.0))
        .number("machines", machines)
        .number("vms_after_all_answered", after.vms)
        .number("vms", full.vms)
        .number("pss_kib", parts[0])
        .number("page_tables_kib", parts[1])
        .number("kernel_kib", parts[2])
        .number("less_available_kib", taken / machines)
        .number("processes", full.processes)
        .number("threads", full.threads)
        .number("descriptors", full.descriptors);
    let answers = Row::new("density.unanswered", count(unanswered), "", Target::AtMost(0.0))
        .number("requests", count(FUNCTIONS * MACHINES));
    Ok(vec![memory, answers])
}

/// As many requests at the same time as a function may have machines, from clients of their own; how many failed.
fn burst(address: SocketAddr, path: &str) -> anyhow::Result<usize> {
    thread::scope(|scope| {
        let client = || -> anyhow::Result<bool> {
            let answer = Client::connect(address)?.send(Method::GET, path, &[], Bytes::new())?;
            Ok(answer.status.is_success())
        };
        let clients: Vec<_> = (0..MACHINES).map(|_| scope.spawn(client)).collect();
        let mut failed = 0;
        for client in clients {
            failed += usize::from(!client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(failed)
    })
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}
