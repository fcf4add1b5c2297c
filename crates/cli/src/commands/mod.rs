//! The subcommands, one file each, and what several of them share on the command line.
//! Called by `main` with the parsed command line. It never holds logic of its own beyond choosing the file.

mod accel;
mod build;
mod completions;
mod demo;
mod deploy;
mod describe;
mod doctor;
mod images;
mod invoke;
mod list;
mod logs;
mod remove;
mod rmi;
mod run;
mod scale;
mod tender;
mod up;
mod watchdog;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum as _};
use kernlet_accel::Config;
use kernlet_accel_agent::{Address, ClientTls, Dialler, Options, Preference, Remote, dial};
use kernlet_accel_plugins::built_in;
use kernlet_gateway::Agents;
use kernlet_jail::Mode;
use kernlet_monitor::Backend;
use kernlet_tender::Target;
use kernlet_watchdog::Accelerators;

use crate::Context;
use crate::credentials::{Credentials, LoginArgs};
use crate::functions::{DEFAULT_NAMESPACE, Gateway};

/// Every subcommand, in the order in which `--help` lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::Args),
    Up(up::Args),
    Build(build::Args),
    Images(images::Args),
    Rmi(rmi::Args),
    Run(Box<run::Args>),
    Deploy(deploy::Args),
    List(list::Args),
    Describe(describe::Args),
    Invoke(invoke::Args),
    Logs(logs::Args),
    Scale(scale::Args),
    Remove(remove::Args),
    Accel(accel::Args),
    Doctor(doctor::Args),
    #[command(name = "solo5-hvt")]
    Solo5Hvt(tender::Args),
    #[command(name = "solo5-spt", hide = true)]
    Solo5Spt(tender::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Watchdog(watchdog::Args),
}

impl Command {
    /// Runs the subcommand; a code other than 0 means that the reason is already on stderr.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Accel(args) => return accel::run(args, context),
            Self::Doctor(args) => return doctor::run(&args, context),
            Self::Invoke(args) => return invoke::run(args, context),
            Self::Run(args) => return run::run(&args, context),
            Self::Images(args) => return images::run(&args, context),
            Self::Solo5Hvt(args) => return Ok(args.run(Target::Hvt)),
            Self::Solo5Spt(args) => return Ok(args.run(Target::Spt)),
            Self::Watchdog(args) => return watchdog::run(&args),
            Self::Demo(args) => demo::run(&args, context),
            Self::Up(args) => up::run(&args, context),
            Self::Build(args) => build::run(&args, context),
            Self::Rmi(args) => rmi::run(&args, context),
            Self::Deploy(args) => deploy::run(args, context),
            Self::List(args) => list::run(&args, context),
            Self::Describe(args) => describe::run(&args, context),
            Self::Logs(args) => logs::run(&args, context),
            Self::Scale(args) => scale::run(&args, context),
            Self::Remove(args) => remove::run(&args, context),
            Self::Completions(args) => completions::run(&args),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// The namespace option of the subcommands that name functions.
#[derive(Debug, clap::Args)]
pub(crate) struct NamespaceArgs {
    /// Namespace of the function
    #[arg(long, short, value_name = "NS", default_value = DEFAULT_NAMESPACE)]
    pub(crate) namespace: String,
}

/// How the subcommands that run functions are told about the jail.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct JailArgs {
    /// Whether every layer of the watchdogs' jail has to hold: required, best-effort or off
    #[arg(
        id = "jail",
        long = "jail",
        env = "KERNLET_JAIL",
        value_name = "MODE",
        default_value_t = Mode::default(),
        hide_env_values = true
    )]
    pub(crate) mode: Mode,
}

/// How the subcommands that run functions are told what to run them on.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BackendArgs {
    /// What machines are made of: kvm, process (confined processes), or auto (KVM where it works, else processes)
    #[arg(
        id = "backend",
        long = "backend",
        env = "KERNLET_BACKEND",
        value_name = "BACKEND",
        default_value_t = Backend::default(),
        hide_env_values = true
    )]
    pub(crate) chosen: Backend,
}

/// How the subcommands that run functions are told where operations of accelerators go.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OffloadArgs {
    /// Send functions' accelerator operations to an agent at this address, such as unix:///run/kernlet/accel.sock, or
    /// to one of this name in the configuration
    #[arg(long = "accel-agent", env = "KERNLET_ACCEL_AGENT", value_name = "AGENT", hide_env_values = true)]
    agent: Option<String>,
    /// Which of them: all that the agent has, or those that are missing here
    #[arg(long = "accel-agent-for", value_name = "WHICH", value_enum, default_value_t = OffloadFor::All)]
    which: OffloadFor,
    /// Where connections to the agent come from, when this process must not make them
    #[arg(long = "accel-dialler", value_name = "SOCKET", hide = true)]
    dialler: Option<PathBuf>,
}

/// Which operations go to an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OffloadFor {
    /// All that it has
    #[default]
    All,
    /// Those that no plugin here has
    Missing,
}

impl OffloadArgs {
    /// How accelerators are configured, with the agent of the command line.
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config::from_env()?;
        config.agent = self.agent.clone().or(config.agent);
        Ok(config)
    }

    /// Where a function's agent is: that of the name it asks for, or the host's own choice.
    fn address(&self, name: Option<&str>) -> anyhow::Result<Option<Address>> {
        Ok(self.config()?.agent_address(name)?.map(str::parse).transpose()?)
    }

    /// What carries out the operations of a function that asks for an agent of this name, or none. Starts no thread.
    fn accelerators(&self, name: Option<&str>) -> anyhow::Result<Accelerators> {
        let config = self.config()?;
        let mut plugins = built_in(&config);
        let Some(address) = self.address(name)? else { return Ok(Accelerators { plugins, memory_files: None }) };
        let preference = match self.which {
            OffloadFor::All => Preference::Always,
            OffloadFor::Missing => Preference::Missing,
        };
        let on_thread = || kernlet_jail::confine(kernlet_jail::Role::Agent);
        // Inside the jail nothing can be connected to: who dials, or the agent's supervisor, hands over what is needed.
        let tls = ClientTls::from_config(&config.tls).context("TLS to an agent cannot be used")?;
        let options = Options { tls, on_thread: Some(on_thread), lifeline: true, ..Options::default() };
        let memory_files = Some(options.memory as u64);
        let remote = match &self.dialler {
            Some(path) => {
                let dialler = Dialler::at(path).context("nobody connects this function to its agent")?;
                Remote::connect_by(dialler, address, options, preference)?
            }
            None => Remote::connect(address, options, preference)?,
        };
        plugins.insert(0, Arc::new(remote));
        Ok(Accelerators { plugins, memory_files })
    }

    /// The same with another agent.
    fn at(&self, address: &Address) -> Self {
        Self { agent: Some(address.to_string()), ..self.clone() }
    }

    /// The same options, for a watchdog.
    fn to_options(&self) -> Vec<String> {
        let Some(agent) = &self.agent else { return Vec::new() };
        let which = self.which.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        vec!["--accel-agent".to_owned(), agent.clone(), "--accel-agent-for".to_owned(), which]
    }
}

/// How long connecting to an agent may take in a function's place.
const DIAL: Duration = Duration::from_secs(5);

/// The configuration is read anew each time, as watchdogs read it when they start.
impl Agents for OffloadArgs {
    fn has(&self, name: Option<&str>) -> Result<bool, String> {
        self.address(name).map(|address| address.is_some()).map_err(|error| format!("{error:#}"))
    }

    fn dial(&self, name: Option<&str>) -> io::Result<OwnedFd> {
        let address = self.address(name).map_err(io::Error::other)?;
        dial(&address.ok_or(io::ErrorKind::NotFound)?, DIAL)
    }
}

/// The gateway named on the command line, and what to log in with.
fn gateway(login: &LoginArgs, context: &Context) -> anyhow::Result<Gateway> {
    let credentials = Credentials::find(login, &context.home()?, &context.gateway)?;
    Ok(Gateway::new(context.gateway.clone(), credentials))
}

/// Parses `KEY=VALUE`; the value may be empty and may hold further `=`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        crate::CommandLine::command().debug_assert();
    }

    #[test]
    fn every_visible_subcommand_explains_itself_with_an_example() {
        for command in crate::CommandLine::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no summary");
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("kernlet {name}")), "{name} has no example");
        }
    }

    #[test]
    fn a_pair_is_split_at_its_first_equals_sign() {
        assert_eq!(key_value("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(key_value("a=").unwrap(), ("a".to_owned(), String::new()));
        assert!(key_value("=b").is_err());
        assert!(key_value("a").is_err());
    }
}
