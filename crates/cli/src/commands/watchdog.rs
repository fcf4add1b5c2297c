//! `kernlet watchdog`: one function behind HTTP. Hidden from `--help`: the gateway starts it.
//! It never returns before it is told to stop, unless it cannot start.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use kernlet_image::FunctionSpec;
use kernlet_watchdog::{Listen, WatchdogError};
use tracing_subscriber::filter::LevelFilter;

use crate::logging;

/// Serve one function over HTTP; started by the gateway
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// JSON file that says which function, from which files, under which limits
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Where to serve: `fd:0` (an inherited listener), `unix:PATH` or `tcp:ADDRESS:PORT`
    #[arg(long, value_name = "WHERE")]
    listen: Listen,
    #[command(flatten)]
    jail: super::JailArgs,
    #[command(flatten)]
    backend: super::BackendArgs,
    #[command(flatten)]
    offload: super::OffloadArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::start(LevelFilter::WARN)?;
    let text = std::fs::read(&args.spec)
        .with_context(|| format!("cannot read the function's description {}", args.spec.display()))?;
    let spec: FunctionSpec = serde_json::from_slice(&text)
        .with_context(|| format!("{} does not describe a function", args.spec.display()))?;
    let accelerators = args.offload.accelerators(spec.config.agent.as_deref())?;
    match kernlet_watchdog::run_with(&spec, &args.listen, args.backend.chosen, args.jail.mode, accelerators) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ WatchdogError::System { .. }) => Err(error.into()),
        // It is the log's last line, where whoever started this process reads it.
        Err(_logged) => Ok(ExitCode::FAILURE),
    }
}
