//! How soon a function answers again after its watchdog was killed: from `kill -9` to the first answer of the next one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    census::children,
    platform::Platform,
    stats::{Plan, Summary, alone},
    table::{Row, Target},
    workshop::Workshop,
};

/// How long the function is called before its watchdog is killed: one that lived for less than this would count as one
/// that only dies, and be replaced after a pause.
const WORKS_FOR: Duration = Duration::from_millis(400);

/// A function that does not answer again in this time never will.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    workshop.echo()?;
    let mut platform = Platform::start(workshop)?;
    platform.deploy("echo")?;
    let mut lost = Vec::new();
    let mut restart = || {
        let begun = Instant::now();
        while begun.elapsed() < WORKS_FOR {
            platform.call("echo", &[], Bytes::from_static(b"before"))?;
        }
        let watchdogs = children(platform.pid())?;
        ensure!(watchdogs.len() == 1, "one function has {} watchdogs", watchdogs.len());
        let watchdog = watchdogs.first().and_then(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
        let watchdog = watchdog.context("a process has no proper id")?;
        let killed = Instant::now();
        kill_process(watchdog, Signal::KILL)?;
        for failures in 0_u32.. {
            ensure!(killed.elapsed() < PATIENCE, "echo does not answer again after its watchdog was killed");
            if platform.try_call("echo", Bytes::from_static(b"after"))?.status.is_success() {
                lost.push(f64::from(failures));
                break;
            }
        }
        Ok(killed.elapsed())
    };
    let restart = alone(Plan { warm_up: 1, ..Plan::singly(Duration::from_secs(15)) }, &mut restart)?;
    let row = Row::new("faults.restart_ms", restart.millis().median, "ms", Target::AtMost(100.0))
        .summary("restart_ms", restart.millis())
        .summary("requests_lost_each", Summary::of(lost));
    Ok(vec![row])
}
