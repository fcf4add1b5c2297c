//! One function with 1,000 others deployed, over the same one alone: alone, among them, and alone again, so that a
//! machine that gets slower or faster meanwhile does not count as either.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use serde_json::json;

use super::size::kernel_kib;
use crate::{
    census::{Census, available_kib, children},
    platform::Platform,
    stats::{Plan, Summary, Times, alone},
    table::{Row, Target},
    workshop::Workshop,
};

const OTHERS: u32 = 1000;
const BODY: &[u8] = &[b'x'; 64];

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    workshop.echo()?;
    let mut platform = Platform::start(workshop)?;
    platform.deploy("echo")?;
    let before = measure(&mut platform)?;
    let (lonely, kernel, available) = (Census::of_family(platform.pid())?, kernel_kib(), available_kib()?);

    let names: Vec<String> = (0..OTHERS).map(|index| format!("scale-{index}")).collect();
    let mut deploys = Vec::new();
    let begun = Instant::now();
    for name in &names {
        let start = Instant::now();
        platform.begin_deploy(name, "echo", &json!({}))?;
        deploys.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let deployed = begun.elapsed();
    for name in &names {
        platform.wait_ready(name)?;
    }
    let ready = begun.elapsed();
    let crowd = Census::of_family(platform.pid())?;
    ensure!(crowd.processes - lonely.processes >= f64::from(OTHERS), "some of the functions have no process");
    let kernel = kernel_kib().zip(kernel).map_or(0.0, |(after, before)| after - before);
    let available = available - available_kib()?;
    let among = measure(&mut platform)?;

    for name in &names {
        platform.begin_remove(name)?;
    }
    // A process that is ending cannot be counted whole.
    while children(platform.pid())?.len() > 1 {}
    let again = measure(&mut platform)?;

    let each = |of: fn(&Census) -> f64| (of(&crowd) - of(&lonely)) / f64::from(OTHERS);
    let (first, with, last) = (before.micros(), among.micros(), again.micros());
    let row = Row::new("scale.p50_ratio", with.median * 2.0 / (first.median + last.median), "×", Target::AtMost(1.2))
        .summary("alone_us", first)
        .summary("among_us", with)
        .summary("alone_again_us", last)
        .summary("deploy_ms", Summary::of(deploys))
        .number("deploys_a_second", f64::from(OTHERS) / deployed.as_secs_f64())
        .number("all_ready_s", ready.as_secs_f64())
        .number("pss_kib_each", each(|census| census.pss_kib))
        .number("page_tables_kib_each", each(|census| census.page_tables_kib))
        .number("kernel_kib_each", kernel / f64::from(OTHERS))
        .number("less_available_kib_each", available / f64::from(OTHERS))
        .number("threads_each", each(|census| census.threads))
        .number("descriptors_each", each(|census| census.descriptors));
    Ok(vec![row])
}

fn measure(platform: &mut Platform) -> anyhow::Result<Times> {
    let mut call = || {
        let answer = platform.call("echo", &[], Bytes::from_static(BODY))?;
        ensure!(answer.body == BODY, "echo gave something else back");
        Ok(answer.time)
    };
    alone(Plan { warm_up: 200, ..Plan::singly(Duration::from_secs(5)) }, &mut call)
}
