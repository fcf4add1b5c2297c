//! `kernlet solo5-hvt` and `kernlet solo5-spt`, for the help: what they do is the tender's, whom `main` asks first.

use std::{error::Error, ffi::OsString, process::ExitCode, sync::Arc};

use kernlet_accel::{Config, Resource, Session};
use kernlet_tender::Target;

/// Run a Solo5 unikernel, with the arguments of Solo5's own tender
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_long_help = "\
Examples:
  kernlet solo5-hvt --mem=32 hello.hvt Hello
  kernlet solo5-hvt --accel --accel-resource:model=mobilenet.onnx guest.hvt
  kernlet solo5-hvt --block:storage=disk.img --net:service=tap0 server.hvt"
)]
pub(crate) struct Args {
    /// As for solo5-hvt; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Args {
    pub(crate) fn run(&self, target: Target) -> ExitCode {
        kernlet_tender::run(target, target.tender(), &self.arguments, Some(open_accelerators))
    }
}

/// Accelerators for a guest of a tender: plugins as the environment configures them, and these files by their names.
pub(crate) fn open_accelerators(resources: &[(String, String)]) -> Result<Arc<Session>, Box<dyn Error>> {
    let config = Config::from_env()?;
    let session = kernlet_accel_plugins::load(&config).runtime().session_with(config.quota());
    session.prefer(config.hint());
    for (name, path) in resources {
        session.register(name, Resource::from_file(path)?)?;
    }
    session.preload()?;
    Ok(Arc::new(session))
}
