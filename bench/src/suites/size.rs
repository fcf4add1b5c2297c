//! How small things are: bytes of echo's image, and the memory that one more idle machine takes.

use std::{
    fs,
    path::Path,
    sync::mpsc,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, ensure};
use kernlet_image::FunctionSpec;
use kernlet_monitor::Request;
use kernlet_watchdog::{Function, Log};
use serde_json::{Value, json};

use super::{Probe, classify::count};
use crate::{
    table::{Row, Target},
    workshop::Workshop,
};

/// Idle machines whose memory is measured.
const MACHINES: u32 = 32;

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let bytes = count(workshop.echo()?.info.size);
    let image = Row::new("size.echo_image_bytes", bytes, "bytes", Target::Below(100_000.0));

    let memory = Probe::IdleMachines.ask()?;
    let kib = |name: &str| memory[name].as_f64().with_context(|| format!("the probe gave no {name}"));
    let parts = [kib("pss_kib")?, kib("page_tables_kib")?, kib("kernel_kib").unwrap_or_default()];
    let machine = Row::new("size.echo_machine_kib", parts.iter().sum(), "KiB", Target::Below(2048.0))
        .number("machines", f64::from(MACHINES))
        .number("rss_kib", kib("rss_kib")?)
        .number("pss_kib", parts[0])
        .number("page_tables_kib", parts[1])
        .number("kernel_kib", parts[2]);
    Ok(vec![image, machine])
}

/// Memory in use, in KiB.
#[derive(Clone, Copy, Debug)]
struct Usage {
    rss: f64,
    pss: f64,
    page_tables: f64,
    /// Of the kernel on behalf of this control group: VMs, vCPUs, KVM's page tables, stacks of threads.
    kernel: Option<f64>,
}

impl Usage {
    fn now() -> anyhow::Result<Self> {
        let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
        let status = fs::read_to_string("/proc/self/status")?;
        Ok(Self {
            rss: kib(&rollup, "Rss")?,
            pss: kib(&rollup, "Pss")?,
            page_tables: kib(&status, "VmPTE")?,
            kernel: kernel_kib(),
        })
    }
}

/// A line `name:   123 kB`.
fn kib(text: &str, name: &str) -> anyhow::Result<f64> {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut numbers = values.filter_map(|value| value.split_whitespace().next()?.parse().ok());
    numbers.next().with_context(|| format!("/proc does not say {name}"))
}

/// Kernel memory of this process's control group, where it can be read; whatever else runs in the group is in it.
pub(super) fn kernel_kib() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let lines = groups.lines().filter_map(|line| line.split_once(':').and_then(|(_, rest)| rest.split_once(':')));
    let find = |controllers: &str| lines.clone().find(|(found, _)| *found == controllers).map(|(_, path)| path);
    let read = |folder: &str, path: &str, file: &str| {
        fs::read_to_string(Path::new(folder).join(path.trim_start_matches('/')).join(file)).ok()
    };
    // Control groups of the second version, then of the first.
    let second = || {
        let stat = read("/sys/fs/cgroup", find("")?, "memory.stat")?;
        let bytes = stat.lines().find_map(|line| line.strip_prefix("kernel ")?.parse::<f64>().ok())?;
        Some(bytes / 1024.0)
    };
    let first = || {
        let bytes = read("/sys/fs/cgroup/memory", find("memory")?, "memory.kmem.usage_in_bytes")?;
        Some(bytes.trim().parse::<f64>().ok()? / 1024.0)
    };
    second().or_else(first)
}

/// The probe: what each of many idle machines adds, on threads as the watchdog's. One more is made first, for
/// what all share.
pub(super) fn idle_machines(workshop: &Workshop) -> anyhow::Result<Value> {
    let spec: FunctionSpec = workshop.echo()?.spec()?;
    let function = Function::open(&spec, &Log::start(std::io::sink(), false)?)?;
    thread::scope(|scope| {
        let mut idle = vec![Idle::start(scope, &function)?];
        let before = Usage::now()?;
        for _ in 0..MACHINES {
            idle.push(Idle::start(scope, &function)?);
        }
        let after = Usage::now()?;
        let each = |usage: fn(&Usage) -> Option<f64>| Some((usage(&after)? - usage(&before)?) / f64::from(MACHINES));
        for idle in idle {
            idle.end()?;
        }
        Ok(json!({
            "rss_kib": each(|usage| Some(usage.rss)),
            "pss_kib": each(|usage| Some(usage.pss)),
            "page_tables_kib": each(|usage| Some(usage.page_tables)),
            "kernel_kib": each(|usage| usage.kernel),
        }))
    })
}

/// A thread whose machine has served a request and waits for the next.
struct Idle<'s> {
    end: mpsc::Sender<()>,
    thread: ScopedJoinHandle<'s, anyhow::Result<()>>,
}

impl<'s> Idle<'s> {
    fn start<'e: 's>(scope: &'s thread::Scope<'s, 'e>, function: &'e Function) -> anyhow::Result<Self> {
        let (end, ended) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = scope.spawn(move || {
            let request = Request { method: "POST", path: "/", query: "", headers: &[], body: b"hi", call_id: "idle" };
            let mut worker = function.worker();
            let response = worker.invoke(&request)?;
            ensure!(response.body == request.body && worker.has_machine(), "echo keeps no machine");
            ready.send(())?;
            // Until the other end is dropped.
            let _ = ended.recv();
            Ok(())
        });
        match is_ready.recv() {
            Ok(()) => Ok(Self { end, thread }),
            Err(_) => match thread.join() {
                Ok(result) => result.and_then(|()| anyhow::bail!("the machine's thread ended")),
                Err(_) => anyhow::bail!("the machine's thread panicked"),
            },
        }
    }

    fn end(self) -> anyhow::Result<()> {
        drop(self.end);
        self.thread.join().map_err(|_| anyhow::anyhow!("the machine's thread panicked"))?
    }
}
