//! The suites, each a file: what is measured, against what, and what is wanted of it.
//! Called by `main`, which prints what they give.

mod accel_agent;
mod accel_guest;
mod classify;
mod cold;
mod density;
mod faults;
mod first_machine;
mod floor;
mod http;
mod invoke;
mod peers;
mod rewind;
mod scale;
mod size;
mod soak;
mod solo5;
mod solo5_server;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;

use crate::{
    peer,
    stats::{Plan, Side, alone},
    table::Row,
    workshop::Workshop,
};

/// A group of figures that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Bare KVM on this host: a new machine, one exit
    Floor,
    /// One invocation of `echo`, over the floor
    Invoke,
    /// A clean machine for every request: a rewind and a run, by the number of pages that requests write
    Rewind,
    /// A picture classified through the whole platform, over the same plugin called natively
    Classify,
    /// Accelerator operations from a guest, over the same plugins called natively
    AccelGuest,
    /// Accelerator operations at an agent in another process: the way there and back
    AccelAgent,
    /// Small requests under load, over plain hyper servers
    Http,
    /// The first request after a deployment
    Cold,
    /// Bytes of an image, memory of an idle machine
    Size,
    /// A clean invocation, over other ways to have one
    Peers,
    /// A watchdog killed, until its function answers again
    Faults,
    /// 2,000 idle machines of 20 functions
    Density,
    /// One function among 1,000 others
    Scale,
    /// Solo5 unikernels: hello from start to exit, requests, computing, blocks and frames
    Solo5,
    /// A Solo5 unikernel that serves HTTP by itself, over the native `echo` by the same way
    Solo5Server,
    /// A million invocations (see --invocations), each checked; never part of `all`
    Soak,
}

impl Suite {
    /// The figures that it gives.
    pub(crate) const fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Floor => &["floor.create_us", "floor.one_exit_us"],
            Self::Invoke => &["invoke.echo_vs_floor"],
            Self::Rewind => &["rewind.vs_floor", "rewind.exits"],
            Self::Classify => &["classify.http_overhead_percent", "classify.bytes_copied"],
            Self::AccelGuest => &[
                "accel.noop_guest_vs_exit",
                "accel.payload_guest_bytes_copied",
                "accel.classify_guest_overhead_percent",
                "accel.classify_onnxruntime_guest_overhead_percent",
                "accel.sgemm_overhead_percent",
                "accel.sgemm_single_overhead_percent",
                "accel.sgemm_chosen_vs_fastest",
                "accel.guests_16_vs_1",
            ],
            Self::AccelAgent => &[
                "accel.noop_inprocess_ns",
                "accel.noop_unix_us",
                "accel.noop_tcp_us",
                "accel.payload_unix_bytes_copied",
                "accel.payload_tcp_bytes_copied",
                "accel.classify_agent_overhead_percent",
                "accel.classify_onnxruntime_agent_overhead_percent",
                "accel.noop_unix_batch_times",
                "accel.fairness_index",
            ],
            Self::Http => &["http.c1_vs_hyper", "http.c16_vs_hyper", "http.c16_vs_fork"],
            Self::Cold => &["cold.first_request_ms", "cold.vs_floor_create", "cold.runc_times", "cold.ctr_times"],
            Self::Size => &["size.echo_image_bytes", "size.echo_machine_kib"],
            Self::Peers => peers::FIGURES,
            Self::Faults => &["faults.restart_ms"],
            Self::Density => &["density.kib_per_machine", "density.unanswered"],
            Self::Scale => &["scale.p50_ratio"],
            Self::Solo5 => solo5::FIGURES,
            Self::Solo5Server => solo5_server::FIGURES,
            Self::Soak => &["soak.wrong", "soak.growth_percent"],
        }
    }

    /// Whether it belongs to a table of all: one that takes minutes is asked for by its name.
    pub(crate) const fn is_short(self) -> bool {
        !matches!(self, Self::Soak)
    }

    /// Measures; the soak so many invocations.
    pub(crate) fn run(self, workshop: &Workshop, invocations: u64) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Floor => floor::run(),
            Self::Invoke => invoke::run(workshop),
            Self::Rewind => rewind::run(workshop),
            Self::Classify => classify::run(workshop),
            Self::AccelGuest => accel_guest::run(workshop),
            Self::AccelAgent => accel_agent::run(workshop),
            Self::Http => http::run(workshop),
            Self::Cold => Ok([cold::run(workshop)?, first_machine::run(workshop)?].concat()),
            Self::Size => size::run(workshop),
            Self::Peers => peers::run(workshop),
            Self::Faults => faults::run(workshop),
            Self::Density => density::run(workshop),
            Self::Scale => scale::run(workshop),
            Self::Solo5 => solo5::run(workshop),
            Self::Solo5Server => solo5_server::run(workshop),
            Self::Soak => soak::run(workshop, invocations),
        }
    }
}

/// A part of a suite that needs a process of its own, since its first time or its memory is what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probe {
    /// Memory of idle machines.
    IdleMachines,
    /// The first classification after the model was loaded.
    FirstClassification,
    /// A plain hyper server; serves until its standard input ends.
    HyperEcho,
    /// A hyper server that starts `--echo` for every request; serves until its standard input ends.
    HyperFork,
    /// An agent with its sockets in the folder `--echo`; serves until its standard input ends.
    AccelAgent,
}

impl Probe {
    /// Measures, in a process that does nothing else; the answer is JSON.
    pub(crate) fn run(self, workshop: &Workshop, echo: Option<PathBuf>) -> anyhow::Result<serde_json::Value> {
        match self {
            Self::IdleMachines => size::idle_machines(workshop),
            Self::FirstClassification => cold::first_classification(),
            Self::HyperEcho => peer::echo().map(|()| serde_json::Value::Null),
            Self::AccelAgent => {
                let folder = echo.context("there is no folder for the agent's sockets")?;
                accel_agent::serve(&folder).map(|()| serde_json::Value::Null)
            }
            Self::HyperFork => {
                let program = echo.context("there is no program to start for a request")?;
                peer::fork(program).map(|()| serde_json::Value::Null)
            }
        }
    }

    /// Runs it in a process of its own.
    fn ask(self) -> anyhow::Result<serde_json::Value> {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["--probe", &name])
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::inherit())
            .output()
            .with_context(|| format!("the probe {name} cannot be started"))?;
        anyhow::ensure!(output.status.success(), "the probe {name} failed ({})", output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("the probe {name} gave no JSON"))
    }
}

/// Measures something for a second, warmed up.
fn for_a_second(side: Side<'_>) -> anyhow::Result<crate::stats::Times> {
    alone(Plan { warm_up: 20, ..Plan::singly(Duration::from_secs(1)) }, side)
}
