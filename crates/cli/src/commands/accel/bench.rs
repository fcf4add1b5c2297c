//! `kernlet accel bench`: how long the way to an agent takes, with nothing and with payload, and how much is copied.
//! Called by people who choose a transport. It never measures a plugin's own work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kernlet_abi::accel::{SgemmParams, operation};
use kernlet_accel::{Arg, Data, Dims, Dtype};
use kernlet_accel_agent::{Connection, RemoteSession};
use serde::Serialize;

use super::AgentArgs;
use crate::output;

/// Sizes of payload, in bytes.
const PAYLOADS: [usize; 3] = [4 << 10, 1 << 20, 16 << 20];

/// Measure the way to an agent: round trips of nothing, and with 4 KiB, 1 MiB and 16 MiB
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet accel bench --agent unix:///run/kernlet/accel.sock
  kernlet accel bench --agent tcp://127.0.0.1:7000 --seconds 5 --json

The payload is a matrix of which nothing is computed. After a pause both sides sleep and have to be woken;
without one they look for each other's words for some microseconds before they sleep.")]
pub(crate) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// How long each line is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Print an array of objects: what, p50_us, p99_us, bytes_copied, count
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    what: String,
    p50_us: f64,
    p99_us: f64,
    bytes_copied: u64,
    count: usize,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let connection = args
        .agent
        .connect()?
        .context("name an agent with --agent ADDRESS or KERNLET_ACCEL_AGENT; `kernlet accel agent` starts one")?;
    let session = connection.session(None)?;
    let time = Duration::from_secs(args.seconds);
    let mut lines = Vec::new();
    let noop = || Ok(session.run(operation::NOOP, &mut [], None)?.bytes_copied);
    lines.push(measure("noop", time, Duration::ZERO, noop)?);
    lines.push(measure("noop after 1 ms of silence", time, Duration::from_millis(1), noop)?);
    if connection.operations().iter().any(|offered| offered.operation == operation::BLAS_SGEMM) {
        for size in PAYLOADS {
            lines.push(payload(&connection, &session, size, time)?);
        }
    } else {
        output::note("the agent has no plugin for blas-sgemm, so payload is not measured");
    }
    if args.json {
        return output::json(&lines);
    }
    let rows: Vec<[String; 5]> = lines
        .into_iter()
        .map(|line| {
            let Line { what, p50_us, p99_us, bytes_copied, count } = line;
            [what, format!("{p50_us:.1}"), format!("{p99_us:.1}"), bytes_copied.to_string(), count.to_string()]
        })
        .collect();
    output::line(&output::table(["ROUND TRIP", "P50 µs", "P99 µs", "BYTES COPIED", "COUNT"], &rows))
}

/// A matrix goes there, to be multiplied by one without columns.
fn payload(connection: &Connection, session: &RemoteSession, size: usize, time: Duration) -> anyhow::Result<Line> {
    let columns = i64::try_from(size / 4)?;
    let params = SgemmParams { m: 1, k: columns, lda: columns, alpha: 1.0, ..SgemmParams::default() };
    let params = zerocopy::IntoBytes::as_bytes(&params);
    let shared = connection.allocate(size);
    let elsewhere = if shared.is_some() { Vec::new() } else { vec![0.0_f32; size / 4] };
    let matrix = shared.as_deref().unwrap_or_else(|| zerocopy::IntoBytes::as_bytes(elsewhere.as_slice()));
    let what = format!("{} of payload", output::bytes(size as u64));
    measure(&what, time, Duration::ZERO, || {
        let float = |data| Arg::new(data, Dtype::F32, Dims::NONE);
        let mut args =
            [Arg::bytes(Data::In(params)), float(Data::In(matrix)), float(Data::In(&[])), float(Data::InOut(&mut []))];
        Ok(session.run(operation::BLAS_SGEMM, &mut args, None)?.bytes_copied)
    })
}

fn measure(
    what: &str,
    time: Duration,
    pause: Duration,
    mut once: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Line> {
    for _ in 0..10 {
        once()?;
    }
    let (mut times, mut bytes_copied, start) = (Vec::new(), 0, Instant::now());
    while start.elapsed() < time {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let begun = Instant::now();
        bytes_copied = once()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    ensure!(!times.is_empty(), "nothing was measured");
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Ok(Line { what: what.to_owned(), p50_us: at(50), p99_us: at(99), bytes_copied, count: times.len() })
}
