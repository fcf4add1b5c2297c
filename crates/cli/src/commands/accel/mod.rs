//! `kernlet accel`: accelerators by themselves, without functions: an agent, what there is, how fast it is.
//! Called by people, by service managers, and by the agent, which starts its workers with it.

pub(super) mod agent;
mod bench;
mod list;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use kernlet_accel::{Config, TlsConfig};
use kernlet_accel_agent::{ClientTls, Connection, Options};
use kernlet_accel_plugins::CATALOGUE;

use crate::Context;

/// Accelerators by themselves: an agent for other processes and machines, what there is, how fast it is
///
/// An agent carries out operations for programs, bindings and functions of other processes or machines: over a
/// unix socket with their data in shared memory, over vsock, or over TCP with certificates on both sides.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet accel list
  kernlet accel agent --listen unix:///run/kernlet/accel.sock
  kernlet accel bench --agent unix:///run/kernlet/accel.sock")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Args),
    List(list::Args),
    Bench(bench::Args),
}

pub(crate) fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Agent(args) => agent::run(&args, context),
        Command::List(args) => list::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
    }
}

/// The configuration of the environment, with these plugins where any are named.
fn config(names: &[String]) -> anyhow::Result<Config> {
    let mut config = Config::from_env()?;
    if !names.is_empty() {
        config.plugins = names.to_vec();
    }
    let is_known = |name: &&String| CATALOGUE.iter().any(|entry| entry.name == name.as_str());
    if let Some(unknown) = config.plugins.iter().find(|name| !is_known(name)) {
        let known: Vec<_> = CATALOGUE.iter().map(|entry| entry.name).collect();
        bail!("there is no plugin `{unknown}`; there are {}", known.join(", "));
    }
    Ok(config)
}

/// Certificates, for `tls://`.
#[derive(Clone, Debug, clap::Args)]
struct TlsArgs {
    /// Certificate of this side, PEM, for tls://
    #[arg(long, value_name = "FILE", env = "KERNLET_ACCEL_CERT", hide_env_values = true)]
    cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "KERNLET_ACCEL_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
    /// The authority that the other side's certificate has to be from, PEM
    #[arg(long, value_name = "FILE", env = "KERNLET_ACCEL_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
}

impl TlsArgs {
    /// The files, over those of the configuration.
    fn over(&self, config: TlsConfig) -> TlsConfig {
        TlsConfig {
            certificate: self.cert.clone().or(config.certificate),
            key: self.key.clone().or(config.key),
            authority: self.ca.clone().or(config.authority),
        }
    }
}

/// Which agent to talk to.
#[derive(Clone, Debug, clap::Args)]
struct AgentArgs {
    /// An agent's address, unix:///PATH, tls://HOST:PORT, tcp://HOST:PORT or vsock://CID:PORT, or its name in the
    /// configuration
    #[arg(long, value_name = "AGENT", env = "KERNLET_ACCEL_AGENT", hide_env_values = true)]
    agent: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
}

impl AgentArgs {
    /// A connection to the agent that is named on the command line; none without one.
    fn connect(&self) -> anyhow::Result<Option<Connection>> {
        if self.agent.is_none() {
            return Ok(None);
        }
        let config = Config { agent: self.agent.clone(), ..Config::from_env()? };
        let Some(address) = config.agent_address(None)? else { return Ok(None) };
        let tls = ClientTls::from_config(&self.tls.over(config.tls.clone()));
        let tls = tls.context("TLS takes all of --cert, --key and --ca")?;
        Ok(Some(Connection::open(&address.parse()?, &Options { tls, ..Options::default() })?))
    }
}
