//! The `kernlet` program: reads the command line, runs one subcommand, prints its error, sets the exit code.
//! Called by people, by scripts, and by the gateway (which starts `kernlet watchdog` for every function).
//! It never decides anything about functions, images or machines itself: the crates it calls do.
#![forbid(unsafe_code)]
#![allow(rustdoc::invalid_html_tags, reason = "what documents an argument is its help, where <home> is no HTML")]

mod client;
mod commands;
mod credentials;
mod functions;
mod home;
mod logging;
mod output;
mod project;
mod signals;
mod timing;

use std::process::ExitCode;

use clap::Parser;

use crate::client::GatewayUrl;
use crate::commands::Command;
use crate::home::Home;

const LONG_ABOUT: &str = "\
Kernlet runs serverless functions as unikernels: every function is a tiny program that boots inside \
its own KVM micro-VM, and reaches accelerators (image models, matrices) through operations that the \
host carries out on the function's own memory. It speaks OpenFaaS's HTTP API, so faas-cli, curl and \
existing clients work unchanged.

Start with `kernlet demo`: it builds two functions, runs them and classifies a photograph. \
`kernlet doctor` says whether this machine can run functions, and what to do when it cannot.";

const AFTER_LONG_HELP: &str = "\
Examples:
  kernlet demo                                     see it work, from nothing
  kernlet up                                       run the platform in this terminal
  kernlet build functions/echo -t echo:latest      make an image of a function
  kernlet deploy echo --image echo:latest          run it
  echo hello | kernlet invoke echo                 call it
  curl -d hello http://127.0.0.1:8080/function/echo

Environment:
  KERNLET_HOME       where images, state, logs and the password live, as --home
                     (default: $XDG_DATA_HOME/kernlet, or ~/.local/share/kernlet)
  KERNLET_BACKEND    what functions run on: kvm, process or auto, as --backend
  OPENFAAS_URL       the gateway to talk to, as --gateway
  OPENFAAS_USER, OPENFAAS_PASSWORD
                     the gateway's credentials, when they are not the ones in <home>/auth
  KERNLET_ACCEL_AGENT
                     address of the accelerator agent to use, as --accel-agent and --agent
  KERNLET_LOG        what the platform reports on stderr, e.g. `debug` or `kernlet_gateway=trace`
  KERNLET_MAX_INFLIGHT
                     invocations at the same time, as --max-inflight of `kernlet up`
  NO_COLOR           when set and not empty, output has no colour

Exit codes:
  0  done
  1  failed: the reason is on stderr, and so is what to do about it
  2  the command line is wrong";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "kernlet",
    version,
    about = "Serverless functions as unikernels, behind OpenFaaS's API",
    long_about = LONG_ABOUT,
    after_long_help = AFTER_LONG_HELP,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every subcommand understands.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Folder of images, state, logs and the password [default: ~/.local/share/kernlet]
    #[arg(
        long,
        global = true,
        env = "KERNLET_HOME",
        value_name = "DIR",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    home: Option<std::path::PathBuf>,
    /// The gateway to talk to
    #[arg(
        long,
        short,
        global = true,
        env = "OPENFAAS_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    gateway: GatewayUrl,
}

/// What every subcommand is given besides its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    home: Option<std::path::PathBuf>,
    gateway: GatewayUrl,
}

impl Context {
    /// The home named on the command line or in the environment, else the user's own.
    fn home(&self) -> anyhow::Result<Home> {
        self.home.as_deref().map_or_else(Home::of_user, |path| Ok(Home::at(path)))
    }

    /// Whether a home was named, on the command line or in the environment.
    fn home_is_named(&self) -> bool {
        self.home.is_some()
    }
}

fn main() -> ExitCode {
    if let Some(code) = kernlet_tender::called(commands::tender::open_accelerators) {
        return code;
    }
    let CommandLine { global, command } = CommandLine::parse();
    let context = Context { home: global.home, gateway: global.gateway };
    match command.run(&context) {
        Ok(code) => code,
        Err(error) if error.is::<output::OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
