//! `kernlet up`: the platform in the foreground, until it is told to stop.
//! Called by people, by service managers and by the end-to-end tests. It never forks into the background.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;

use anyhow::Context as _;
use kernlet_gateway::{Agents, Config, Gateway};
use kernlet_jail::Mode;
use kernlet_monitor::{Backend, Hypervisor};
use tracing_subscriber::filter::LevelFilter;

use super::accel;
use crate::client::GatewayUrl;
use crate::home::Home;
use crate::signals::StopSignals;
use crate::{Context, logging, output};

/// Run the platform in the foreground: gateway, functions, logs
///
/// Functions that were deployed before come back. The first start makes a password for the user `admin`
/// and keeps it in <home>/auth, readable by you alone. Ctrl-C (or SIGTERM) lets running requests finish
/// and stops; a second one stops at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet up
  kernlet up --listen 127.0.0.1:0 --home /tmp/try     any free port, a home to throw away
  kernlet up --backend process                        without KVM: functions as confined processes
  kernlet up --listen 0.0.0.0:8080                    reachable from elsewhere: put TLS in front")]
pub(crate) struct Args {
    /// Address to serve OpenFaaS's API and the functions on; port 0 takes a free one
    #[arg(long, short, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Most invocations at the same time, over all functions; more get 503, those of functions above their fair
    /// share first. Without it, as many as suit this machine
    #[arg(long, value_name = "NUMBER", env = "KERNLET_MAX_INFLIGHT")]
    max_inflight: Option<NonZero<usize>>,
    #[command(flatten)]
    jail: super::JailArgs,
    #[command(flatten)]
    backend: super::BackendArgs,
    #[command(flatten)]
    offload: super::OffloadArgs,
    /// Run an accelerator agent as well, at <home>/accel.sock, and send functions' operations there
    #[arg(long, env = "KERNLET_WITH_ACCEL_AGENT", hide_env_values = true, conflicts_with = "agent")]
    with_accel_agent: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    logging::start(LevelFilter::INFO)?;
    let home = context.home()?;
    let machines = check_backend(args.backend.chosen)?;
    runtime()?.block_on(async {
        let mut signals = StopSignals::new()?;
        let (backend, jail) = (args.backend.chosen, args.jail.mode);
        let agent = if args.with_accel_agent { Some(accel::agent::start(&home)?) } else { None };
        let offload = agent.as_ref().map_or_else(|| args.offload.clone(), |(address, _)| args.offload.at(address));
        offload.address(None)?;
        let gateway = start_gateway(&home, args.listen, args.max_inflight, backend, jail, offload).await?;
        output::line(&banner(gateway.address(), &home, &machines, context))?;
        signals.next().await;
        output::note("stopping; once more stops at once");
        stop(gateway, &mut signals).await;
        drop(agent);
        Ok(())
    })
}

/// What machines will be made of, in a few words; a warning where it is not what one would wish.
///
/// A backend that was asked for and does not work is an error. Where nothing works at all the platform comes up
/// nevertheless: each function says what is missing when it is called.
fn check_backend(backend: Backend) -> anyhow::Result<String> {
    let hypervisor = match Hypervisor::choose(backend) {
        Ok(hypervisor) => hypervisor,
        Err(error) if backend == Backend::Auto => {
            tracing::error!("no function can run on this host: {:#}", anyhow::Error::from(error));
            return Ok("none works; `kernlet doctor` says more".to_owned());
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("functions cannot run with --backend {backend}; `kernlet doctor` says more"));
        }
    };
    if let Some(warning) = hypervisor.warning() {
        tracing::warn!("functions run as confined processes, since KVM cannot be used: {warning}");
    }
    Ok(match hypervisor.backend() {
        Backend::Process => "process: functions run as confined processes".to_owned(),
        Backend::Kvm | Backend::Auto => "kvm: functions run in virtual machines".to_owned(),
    })
}

/// The runtime that a gateway needs.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    kernlet_jail::memory::keep_together();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the gateway's threads")
}

/// Starts a gateway in this process, which starts this very program as its functions' watchdogs.
pub(super) async fn start_gateway(
    home: &Home,
    listen: SocketAddr,
    max_inflight: Option<NonZero<usize>>,
    backend: Backend,
    jail: Mode,
    offload: super::OffloadArgs,
) -> anyhow::Result<Gateway> {
    let program =
        std::env::current_exe().context("cannot tell where this program is, to start it for every function")?;
    let options = [vec!["--backend".to_owned(), backend.to_string()], offload.to_options()].concat();
    let agents: Option<Arc<dyn Agents>> = Some(Arc::new(offload));
    let config = Config { home: home.path().to_path_buf(), listen, program, options, max_inflight, jail, agents };
    Gateway::start(config).await.context("cannot start the gateway")
}

/// Lets running requests finish, unless another signal comes.
pub(super) async fn stop(gateway: Gateway, signals: &mut StopSignals) {
    tokio::select! {
        () = gateway.shutdown() => {}
        () = signals.next() => {}
    }
}

/// What to do with a platform that has just come up. Its first line is fixed: scripts wait for it.
fn banner(address: SocketAddr, home: &Home, machines: &str, context: &Context) -> String {
    let url = GatewayUrl::from(address);
    let mut lines = vec![format!("kernlet is listening on {url}"), format!("  home    {}", home.path().display())];
    lines.push(format!("  backend {machines}"));
    lines.push(format!("  log in  {}", login_line(&url, home)));
    let gateway = (url != context.gateway).then(|| format!(" OPENFAAS_URL={url}"));
    let named = context.home_is_named();
    let home = named.then(|| format!(" KERNLET_HOME={}", output::shell_word(&home.path().display().to_string())));
    if gateway.is_some() || home.is_some() {
        lines.push(format!("  first   export{}{}", gateway.unwrap_or_default(), home.unwrap_or_default()));
    }
    lines.push(
        "  next    kernlet build functions/echo -t echo:latest && kernlet deploy echo --image echo:latest".to_owned(),
    );
    if !address.ip().is_loopback() {
        lines.push(
            "  beware  passwords and requests travel unencrypted: put a TLS proxy in front of this address".to_owned(),
        );
    }
    lines.push("  stop    Ctrl-C".to_owned());
    lines.join("\n")
}

/// How the stock client logs in to this gateway.
pub(super) fn login_line(url: &GatewayUrl, home: &Home) -> String {
    let password = output::shell_word(&home.password_file().display().to_string());
    format!("faas-cli login --gateway {url} --password-stdin < {password}")
}
