//! Requests to a Solo5 unikernel that serves HTTP by itself, through gateway and watchdog, by `wrk`: each on a machine that
//! is rewound after it, and sixteen at once on one that keeps its state; in turn with the native `echo` by the same way.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::http::Side;
use crate::{
    platform::Platform,
    table::{Row, Target},
    workshop::Workshop,
    wrk::Wrk,
};

/// What this gives.
pub(super) const FIGURES: &[&str] =
    &["solo5.server_vs_echo", "solo5.server_c16_vs_echo", "solo5.server_reuse_c16_vs_echo"];

/// Rounds of all sides.
const ROUNDS: usize = 5;

const BODY: &str = "sixty-four bytes of a body, which is what a small request has...";

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let wrk = Wrk::open(BODY)?;
    workshop.echo()?;
    build(workshop)?;
    let mut platform = Platform::start(workshop)?;
    platform.deploy("echo")?;
    for isolation in ["rewind", "reuse"] {
        platform.begin_deploy_isolated(isolation, "server", isolation)?;
        platform.wait_ready(isolation)?;
    }
    let (gateway, address) = ([platform.pid()], platform.address());
    let side = |name, path, connections| Side::new(name, address, path, connections, &gateway);
    let (echo, rewind, reuse) = ("/function/echo", "/function/rewind/echo", "/function/reuse/echo");
    let mut sides = [
        side("echo, 1 connection", echo, 1),
        side("a server that is rewound, 1 connection", rewind, 1),
        side("echo, 16 connections", echo, 16),
        side("a server that is rewound, 16 connections", rewind, 16),
        side("a server that keeps its state, 16 connections", reuse, 16),
    ];
    for side in &sides {
        side.warm_up(&wrk)?;
    }
    for _ in 0..ROUNDS {
        for side in &mut sides {
            side.load(&wrk)?;
        }
    }
    let [echo, rewound, echo_16, rewound_16, kept_16] = &sides;
    Ok(vec![row(FIGURES[0], rewound, echo), row(FIGURES[1], rewound_16, echo_16), row(FIGURES[2], kept_16, echo_16)])
}

fn row(name: &'static str, ours: &Side, echo: &Side) -> Row {
    Row::new(name, ours.over(echo).median, "times", Target::None)
        .summary("ratio_of_each_round", ours.over(echo))
        .summary("requests_per_second", ours.of_each(|load| load.requests_per_second))
        .summary("p50_us", ours.of_each(|load| load.p50_us))
        .summary("p99_us", ours.of_each(|load| load.p99_us))
        .summary("echo_requests_per_second", echo.of_each(|load| load.requests_per_second))
        .summary("echo_p50_us", echo.of_each(|load| load.p50_us))
}

/// An image of `functions/solo5/server.c`, as a server.
fn build(workshop: &Workshop) -> anyhow::Result<()> {
    let mut build = Command::new(workshop.program()?);
    build.arg("build").arg(workshop.solo5_guest("server")?).args(["-t", "server"]);
    build.args(["--annotation", "dev.kernlet.solo5.mode=server"]).env("KERNLET_HOME", workshop.home());
    let status = build.stdin(Stdio::null()).stdout(Stdio::null()).status().context("kernlet cannot be started")?;
    ensure!(status.success(), "no image could be made of a server");
    Ok(())
}
