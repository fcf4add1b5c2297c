//! `wrk`, the load generator, as a process: it POSTs a small body over so many connections for some seconds.
//! Used by suites that measure under load. Its figures come from a script of ours, not from its table; never retries.

use std::{fs, io, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::process::Cpu;

/// Threads of `wrk`, whatever the number of connections: it takes a few microseconds a request, and more threads
/// would only take processors from what is measured.
pub(crate) const THREADS: u32 = 1;

/// Runs inside `wrk`: sets the request, and prints what was measured as one line of JSON behind [`MARK`]. Latencies
/// are in microseconds; `errors` has everything that is no answer of 2xx or 3xx.
const SCRIPT: &str = r#"
wrk.method = "POST"
wrk.headers["Content-Type"] = "text/plain"
wrk.body = "BODY"

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'figures {"requests":%d,"micros":%d,"errors":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"#;

/// What stands before the figures.
const MARK: &str = "figures ";

/// The load generator, ready to run.
#[derive(Debug)]
pub(crate) struct Wrk {
    script: PathBuf,
    _folder: TempDir,
}

/// What one run measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) requests: f64,
    /// Processor time of `wrk` itself.
    pub(crate) cpu: Cpu,
}

/// The script's line.
#[derive(Debug, Deserialize)]
struct Figures {
    requests: f64,
    micros: f64,
    errors: u64,
    p50_us: f64,
    p99_us: f64,
}

impl Wrk {
    /// Finds `wrk` and writes the script; `body` may not need quoting in Lua.
    pub(crate) fn open(body: &str) -> anyhow::Result<Self> {
        match Command::new("wrk").arg("--version").output() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "this suite drives its load with wrk, which is not installed; install it (Debian: apt install wrk)"
                )
            }
            Err(error) => return Err(error).context("wrk cannot be run"),
        }
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("post.lua");
        fs::write(&script, SCRIPT.replace("BODY", body))?;
        Ok(Self { script, _folder: folder })
    }

    /// Loads `path` at `address` for so many seconds over so many connections, each with one request at a time.
    ///
    /// # Errors
    /// Anything but success for any request is one: its time would be that of something else.
    pub(crate) fn run(&self, address: SocketAddr, path: &str, connections: u32, seconds: u32) -> anyhow::Result<Load> {
        let before = Cpu::of_ended_children()?;
        let output = Command::new("wrk")
            .arg(format!("--threads={THREADS}"))
            .arg(format!("--connections={connections}"))
            .arg(format!("--duration={seconds}s"))
            .arg("--script")
            .arg(&self.script)
            .arg(format!("http://{address}{path}"))
            .output()
            .context("wrk cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures = text.lines().find_map(|line| line.strip_prefix(MARK));
        let Some(figures) = figures.filter(|_| output.status.success()) else {
            bail!("wrk gave no figures ({}): {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        };
        let figures: Figures = serde_json::from_str(figures).with_context(|| format!("wrk printed {figures}"))?;
        ensure!(figures.errors == 0, "{} of {} requests to {path} failed", figures.errors, figures.requests);
        ensure!(figures.requests > 0.0, "wrk got no answer from {address}");
        Ok(Load {
            requests_per_second: figures.requests / (figures.micros / 1e6),
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            requests: figures.requests,
            cpu: Cpu::of_ended_children()?.since(before),
        })
    }
}
