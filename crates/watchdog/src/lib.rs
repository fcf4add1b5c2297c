//! One function behind HTTP: its machines, limits and logs, in a process of its own.
//! Started by the gateway (or by hand) as `kernlet watchdog`; [`Function`] is also used in-process, without HTTP.
//! It never decides which function runs or where: that is the gateway's, who hands it a [`FunctionSpec`].
//!
//! ```text
//!  socket ──► server ──► connection ──► exchange ──► worker ──────────────► kernlet_monitor::Machine
//!            accepts     a thread each  limits in    boots, rewinds, drops    the guest
//!                                          └── pool: idle machines, for whichever thread has a request
//! ```
//!
//! | module | duty |
//! |---|---|
//! | `listen` | the socket |
//! | `server` | accepting, drain |
//! | `connection` | one connection on its thread |
//! | `exchange` | one request and its answer |
//! | `request`, `response` | HTTP to the machine's terms and back |
//! | `limit` | time limits; requests under way |
//! | `function` | what the machines of a function share |
//! | `pool`, `worker` | idle machines; one machine and what becomes of it after a request |
//! | `keeper` | answers that are overdue; machines that are idle for long |
//! | `oversight` | accelerator operations that go on after their deadline |
//! | `preload` | loads models before the first request |
//! | `saved` | the template in a file |
//! | `metering` | what requests took and used, for headers, log and `/_/metrics` |
//! | `log` | lines of the function and of the watchdog, to standard output |
//! | `report` | crash reports, for the log and for people |
//! | `error` | everything that can go wrong, with its HTTP status |
#![forbid(unsafe_code)]

mod connection;
mod error;
mod exchange;
mod function;
mod keeper;
mod limit;
mod listen;
mod log;
mod metering;
mod oversight;
mod pool;
mod preload;
mod report;
mod request;
mod response;
mod saved;
mod server;
mod worker;

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use kernlet_accel::{Plugin, chain};
use kernlet_accel_plugins::default_plugins;
use kernlet_image::{FunctionSpec, GoDuration};
use kernlet_jail::{Jail, Limits, Machines, Mode, Report, memory};
use kernlet_monitor::{Backend, Level};
use rustix::process::set_parent_process_death_signal;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

pub use connection::BodyError;
pub use error::{InvokeError, WatchdogError};
pub use function::{Function, Parts, open_disks};
pub use limit::{MACHINES_MAX, TimeLimit};
pub use listen::{Listen, ListenError, ListenParseError};
pub use log::{BACKLOG_MAX, Log};
pub use oversight::Overrun;
pub use pool::IDLE_MAX;
pub use report::CrashReport;
pub use worker::Worker;

use crate::{
    exchange::Exchange, function::Opened, keeper::Keeper, listen::Bound, metering::Metering, oversight::Oversight,
    server::Server,
};

/// How long a client may take to send the head of a request, and then its body, unless the function's
/// environment variable `read_timeout` (of-watchdog's name) says otherwise.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What a watchdog adds to the badness by which the system chooses a process when memory runs out (proc(5),
/// `oom_score_adj`): a function that takes too much goes, with its requests, and not the gateway.
const OUT_OF_MEMORY_SCORE: &str = "500";

/// How long the last log lines may take to be read when the process ends.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Serves a function until SIGTERM or SIGINT, then finishes the requests under way and returns.
/// Log lines go to standard output, one JSON object each. Unless the jail is off, the process gives up all rights but what
/// it needs to serve; it should have one thread only, and not expect to do anything else afterwards.
///
/// # Errors
/// The function cannot be served; the reason is also the log's last line.
pub fn run(spec: &FunctionSpec, listen: &Listen, backend: Backend, jail: Mode) -> Result<(), WatchdogError> {
    run_with(spec, listen, backend, jail, Accelerators::default())
}

/// What carries out a function's operations.
#[derive(Debug)]
pub struct Accelerators {
    /// Plugins, which have opened all they need, and started no thread.
    pub plugins: Vec<Arc<dyn Plugin>>,
    /// The longest memory file that they make, in bytes, and whether they make files of resources as well.
    pub memory_files: Option<u64>,
}

impl Default for Accelerators {
    /// Those that need nothing.
    fn default() -> Self {
        Self { plugins: default_plugins(), memory_files: None }
    }
}

/// The same with other plugins, such as one that has a connection to an agent.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    spec: &FunctionSpec,
    listen: &Listen,
    backend: Backend,
    jail: Mode,
    accelerators: Accelerators,
) -> Result<(), WatchdogError> {
    if *listen == Listen::Stdin {
        die_with_parent()?;
    }
    memory::keep_together();
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(system("open standard output"))?;
    // of-watchdog's name for it.
    let debug = spec.environment.get("write_debug").is_some_and(|value| matches!(value.as_str(), "true" | "1"));
    let log = Log::new(debug, spec.config.log_rate);
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE) {
        log.watchdog("", Level::Warn, &format!("the system may end others first when memory runs out: {error}"));
    }
    let prepared = Prepared::open(spec, listen, backend, jail, accelerators, &log);
    log.write_to(File::from(stdout)).map_err(system("start the log's thread"))?;
    let served = prepared.and_then(|prepared| prepared.serve(spec, listen, &log));
    if let Err(error) = &served {
        log.watchdog("", Level::Error, &chain(error));
    }
    log.flush(LAST_LINES);
    served
}

/// Ends this process when the one that handed it the socket ends, however that happens. By SIGKILL: nobody is
/// left who could pass on an answer, and whoever comes next starts watchdogs of its own. (The kernel counts
/// the end of the *thread* that started this process as the parent's end.)
fn die_with_parent() -> Result<(), WatchdogError> {
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| system("tie itself to its parent")(error.into()))
}

/// The longest file that a watchdog may have is its machines' memory, a memory file; this much may be added to it.
const FILE_MARGIN: u64 = 16 * 1024 * 1024;

/// That of a function whose operations go elsewhere may be what is shared with an agent, or a resource on its way there.
fn longest_memory_file(spec: &FunctionSpec, memory_files: Option<u64>) -> u64 {
    let memory = spec.config.memory.bytes();
    let Some(longest) = memory_files else { return memory };
    let size = |path| fs::metadata(path).map_or(0, |file| file.len());
    let resource = spec.resources.iter().map(|(_, path)| size(path)).max().unwrap_or(0);
    memory.max(longest).max(resource)
}

/// A watchdog that has opened all it needs and is in its jail, with one thread still.
struct Prepared {
    opened: Opened,
    oversight: Arc<Oversight>,
    bound: Bound,
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    jailed: Report,
}

impl Prepared {
    fn open(
        spec: &FunctionSpec,
        listen: &Listen,
        backend: Backend,
        mode: Mode,
        accelerators: Accelerators,
        log: &Log,
    ) -> Result<Self, WatchdogError> {
        let memory_file = longest_memory_file(spec, accelerators.memory_files);
        let oversight = Arc::<Oversight>::default();
        let opened = Opened::open(spec, backend, oversight.over(accelerators.plugins), log)?;
        let bound = listen.bind()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("start its event loop"))?;
        let (terminate, interrupt) = {
            let _inside = runtime.enter();
            let terminate = signal(SignalKind::terminate()).map_err(system("handle SIGTERM"))?;
            (terminate, signal(SignalKind::interrupt()).map_err(system("handle SIGINT"))?)
        };
        let file_size = memory_file.saturating_add(FILE_MARGIN);
        let machines = match opened.backend() {
            Backend::Process => Machines::Processes,
            Backend::Kvm | Backend::Auto => Machines::Kvm,
        };
        let mut jail = Jail::plan(mode).machines(machines).limits(Limits { file_size, ..Limits::default() });
        if *listen == Listen::Stdin {
            jail = jail.ends_with_parent();
        }
        Ok(Self { opened, oversight, bound, runtime, terminate, interrupt, jailed: jail.enter()? })
    }

    fn serve(self, spec: &FunctionSpec, listen: &Listen, log: &Log) -> Result<(), WatchdogError> {
        let Self { opened, oversight, bound, runtime, mut terminate, mut interrupt, jailed } = self;
        let function = Function::start(opened, spec, log)?;
        log_start(spec, listen, &function, log);
        match jailed.warning() {
            Some(warning) => log.watchdog("", Level::Warn, &warning),
            None => log.watchdog("", Level::Info, &jailed.to_string()),
        }
        let read_timeout = spec.environment.get("read_timeout").and_then(|text| text.parse::<GoDuration>().ok());
        let name = Arc::clone(&function.shared().name);
        let keeper = Keeper::start(name, Arc::clone(function.pool()), Arc::clone(&oversight), log.clone());
        let exchange = Exchange {
            function,
            log: log.clone(),
            keeper: keeper.map_err(system("start the thread that watches over requests"))?,
            read_timeout: read_timeout.map_or(READ_TIMEOUT, |GoDuration(timeout)| timeout),
            draining: AtomicBool::new(false),
            metering: Metering::default(),
            tells_gateway: *listen == Listen::Stdin,
        };
        runtime.block_on(async {
            let server = Server::new(bound, exchange).map_err(system("wait for connections"))?;
            let stop = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = oversight.alarm() => {}
                }
            };
            server.serve_until(stop, &oversight).await;
            let function = || spec.name.to_string();
            oversight.overrun().map_or(Ok(()), |overrun| Err(WatchdogError::Overrun { function: function(), overrun }))
        })
    }
}

fn log_start(spec: &FunctionSpec, listen: &Listen, function: &Function, log: &Log) {
    let config = &spec.config;
    let inflight = &function.shared().inflight;
    let requests = inflight.limit();
    let time = match config.exec_timeout {
        Duration::ZERO => "no time limit".to_owned(),
        timeout => format!("{} each", GoDuration(timeout)),
    };
    let text = format!(
        "serving {}.{} on {listen}: image {}, {} a machine, {requests} requests at once, {time}, isolation {}, \
         backend {}",
        spec.name,
        spec.namespace,
        spec.digest,
        config.memory,
        config.isolation,
        function.shared().hypervisor.backend()
    );
    log.watchdog("", Level::Info, &text);
    if let Some(warning) = function.shared().hypervisor.warning() {
        let text = format!("machines are confined processes, since KVM cannot be used: {warning}");
        log.watchdog("", Level::Warn, &text);
    }
    if inflight.is_cut() {
        let text =
            format!("max_inflight {} is more than one watchdog serves; it serves {requests}", config.max_inflight);
        log.watchdog("", Level::Warn, &text);
    }
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> WatchdogError {
    move |source| WatchdogError::System { action, source }
}
