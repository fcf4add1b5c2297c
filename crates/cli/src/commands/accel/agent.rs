//! `kernlet accel agent`: carries out operations for other processes and machines, until it is told to stop.
//! Called by people and service managers, and by itself: what loads plugins is a worker process, which is replaced when
//! a plugin crashes or hangs. It never loads a plugin in the process that was started.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kernlet_accel::Quota;
use kernlet_accel_agent::{Address, Bound, Limits, ServerTls, Supervisor, TlsFiles, Worker};
use tracing_subscriber::filter::LevelFilter;

use super::{TlsArgs, config};
use crate::home::Home;
use crate::signals::StopSignals;
use crate::{Context, logging, output};

/// Carry out accelerator operations for other processes and machines
///
/// Clients over a unix socket pass their data in shared memory; who may open the socket's file may connect,
/// and that is this user alone. Over the network both sides show certificates. A plugin that crashes, or
/// hangs beyond its operation's deadline, costs a worker process, which is replaced: its callers get an
/// error that says so.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet accel agent
  kernlet accel agent --listen unix:///run/kernlet/accel.sock --plugins rten,gemm
  kernlet accel agent --listen tls://0.0.0.0:7443 --cert agent.crt --key agent.key --ca ca.crt \\
      --allow-client worker1.example
  VACCEL_RPC_ADDRESS=unix:///run/kernlet/accel.sock ./a-program-of-vaccel")]
pub(crate) struct Args {
    /// Where to listen, as often as you like [default: unix://<home>/accel.sock]
    #[arg(long, short, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// Plugins to use, by name [default: all that are found]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    plugins: Vec<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Clients that may connect by TLS: a DNS name of their certificate, or sha256:FINGERPRINT [default: all of the CA]
    #[arg(long, value_name = "NAME")]
    allow_client: Vec<String>,
    /// Allow tcp:// on loopback: whoever is on this host may then connect, and read along
    #[arg(long)]
    insecure_tcp: bool,
    /// Longest time of one operation, in seconds, whatever deadline its caller has
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    operation_time: u64,
    /// Serve what the supervisor passes by standard input
    #[arg(long, hide = true)]
    worker: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    logging::start(LevelFilter::INFO)?;
    let config = config(&args.plugins)?;
    let files = TlsFiles::from_config(&args.tls.over(config.tls.clone()));
    let files = files.context("TLS takes all of --cert, --key and --ca")?;
    let tls = files.as_ref().map(|files| ServerTls::new(files, &args.allow_client)).transpose()?;
    if args.worker {
        let worker = Worker::from_stdin()?;
        let plugins = kernlet_accel_plugins::load(&config).runtime();
        worker.serve(&plugins, limits(args), tls.as_ref()).context("the agent's worker cannot serve")?;
        return Ok(ExitCode::SUCCESS);
    }
    let bound = bind(args, tls.is_some(), context)?;
    let addresses: Vec<String> = bound.iter().map(|bound| bound.address().to_string()).collect();
    let options = std::env::args_os().skip(1).chain([OsString::from("--worker")]).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = StopSignals::new()?;
        let supervisor = supervise(bound, options)?;
        output::line(&format!("kernlet accel agent is listening on {}", addresses.join(" ")))?;
        signals.next().await;
        drop(supervisor);
        Ok(ExitCode::SUCCESS)
    })
}

/// An agent of this user's own at `<home>/accel.sock`, with all plugins that are found.
pub(in crate::commands) fn start(home: &Home) -> anyhow::Result<(Address, Supervisor)> {
    let address = Address::Unix(home.path().join("accel.sock"));
    std::fs::create_dir_all(home.path()).with_context(|| format!("cannot make {}", home.path().display()))?;
    let options = ["accel", "agent", "--worker"].map(OsString::from).to_vec();
    let supervisor = supervise(vec![Bound::bind(&address, false)?], options)?;
    Ok((address, supervisor))
}

/// Keeps workers running, which are this program with these options.
fn supervise(bound: Vec<Bound>, options: Vec<OsString>) -> anyhow::Result<Supervisor> {
    let program = std::env::current_exe().context("cannot tell where this program is, to start its workers")?;
    let start = move || -> io::Result<Command> {
        let mut command = Command::new(&program);
        command.args(&options);
        // Ctrl-C in a terminal reaches the supervisor alone, which then ends its worker.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command)
    };
    Supervisor::start(bound, Box::new(start)).context("the agent's worker cannot be started")
}

fn bind(args: &Args, has_tls: bool, context: &Context) -> anyhow::Result<Vec<Bound>> {
    let listen = if args.listen.is_empty() {
        let home = context.home()?.path().to_path_buf();
        std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        vec![Address::Unix(home.join("accel.sock"))]
    } else {
        args.listen.clone()
    };
    let needs_tls = listen.iter().any(|address| matches!(address, Address::Tls(_)));
    ensure!(has_tls || !needs_tls, "listening on tls:// takes --cert, --key and --ca");
    listen.iter().map(|address| Ok(Bound::bind(address, args.insecure_tcp)?)).collect()
}

fn limits(args: &Args) -> Limits {
    let session = Quota { operation_time: Some(Duration::from_secs(args.operation_time)), ..Quota::default() };
    Limits { session, ..Limits::default() }
}
