//! The gateway: OpenFaaS's HTTP API over Kernlet functions. It deploys, routes, scales and keeps logs.
//! The `kernlet` program runs one for `up` and `demo`; each replica of a function is a `kernlet watchdog` process.
//! It never opens a KVM handle, never reads a unikernel, and never asks for credentials to invoke a function.
//!
//! ```text
//! client ──HTTP──▶ server ─▶ route ─┬─▶ system ──▶ functions ──▶ state (redb), logs
//!                                   └─▶ proxy ───▶ function ───▶ replica ──unix socket──▶ watchdog process
//! ```
#![forbid(unsafe_code)]

mod admission;
mod agents;
mod answer;
mod auth;
mod body;
mod client;
mod confine;
mod crowd;
mod deploy;
mod event_loop;
mod function;
mod functions;
mod headers;
mod lines;
mod link;
mod lock;
mod logs;
mod metrics;
mod proxy;
mod query;
mod replica;
mod route;
mod server;
mod state;
mod supervisor;
mod system;
mod templates;
mod time;
mod usage;
mod wire;

pub use agents::Agents;
pub use auth::AuthError;
pub use state::StateError;

use admission::Admission;
use auth::Credentials;
use confine::Confinement;
use event_loop::EventLoops;
use functions::{Functions, FunctionsError};
use kernlet_jail::Mode;
use kernlet_jail::memory::{self, Look, QUIET, Quiet};
use lock::{HomeLock, LockError};
use logs::Logs;
use replica::Launcher;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use state::State;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use templates::Templates;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What a gateway needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds images, state, credentials, logs and sockets. It is made where it is missing.
    pub home: PathBuf,
    /// Where to listen; port 0 takes a free one, which [`Gateway::address`] then tells.
    pub listen: SocketAddr,
    /// The program that has the subcommand `watchdog`.
    pub program: PathBuf,
    /// What `watchdog` is given besides what this crate gives it.
    pub options: Vec<String>,
    /// Most invocations under way at the same time, over all functions; `None` takes what suits the machine.
    pub max_inflight: Option<NonZero<usize>>,
    /// How much of the watchdogs' jail has to hold.
    pub jail: Mode,
    /// The accelerator agents that functions may use, if there are any.
    pub agents: Option<Arc<dyn Agents>>,
}

/// Why a gateway could not start.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The home cannot be used.
    #[error("The home {} cannot be used: check who owns it, or choose another one with --home", path.display())]
    Home {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The home's path leaves no room for the sockets' names.
    #[error(
        "The home {} has too long a path: its sockets' paths may have {} bytes. Choose a shorter one with --home",
        .0.display(), replica::SOCKET_PATH_MAX
    )]
    LongHome(PathBuf),
    /// Another gateway uses the home.
    #[error(
        "Another gateway uses the home {}: {holder}. Use that one, stop it first, or choose another home with --home",
        home.display()
    )]
    Locked {
        /// The home.
        home: PathBuf,
        /// What the other gateway says of itself.
        holder: String,
    },
    /// Another program listens at the address.
    #[error("The address {0} is in use by another program: stop that one, or choose another address with --listen")]
    AddressInUse(SocketAddr),
    /// The address cannot be listened at.
    #[error("The address {address} cannot be listened at: choose another one with --listen")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The credentials cannot be loaded or made.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The deployments cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The image store cannot be opened.
    #[error("The image store in {} cannot be opened", home.display())]
    Images {
        /// The home.
        home: PathBuf,
        /// What the store said.
        source: Box<kernlet_image::StoreError>,
    },
    /// A part of the gateway failed while it started.
    #[error("The gateway failed while it started: {0}")]
    Start(String),
}

/// What every request handler can reach.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) functions: Functions,
    pub(crate) credentials: Credentials,
    /// Becomes true when the gateway is told to stop.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// A running gateway. Dropped without [`Gateway::shutdown`], it stops at once, and its watchdogs are killed.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    context: Arc<Context>,
    stop: watch::Sender<bool>,
    server: JoinSet<()>,
    /// To the very end: watchdogs are tied to the threads that started them.
    loops: Arc<EventLoops>,
    _lock: HomeLock,
}

impl Gateway {
    /// Takes the home, listens, brings back every deployed function, and serves. Has to be called on a thread that
    /// lives as long as the runtime, since watchdogs die with the thread that started them.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the home, the address, the credentials or the state, and what to do about it.
    pub async fn start(config: Config) -> Result<Gateway, GatewayError> {
        let home = prepare_home(&config.home)?;
        let mut lock = take_lock(&home)?;
        let listener = listen(config.listen).await?;
        let address =
            listener.local_addr().map_err(|source| GatewayError::Address { address: config.listen, source })?;
        lock.sign(address).map_err(|source| GatewayError::Home { path: home.join("gateway.lock"), source })?;
        raise_descriptor_limit();
        let sockets = empty_folder(&home.join("run"))?;
        let credentials = Credentials::load_or_create(&home)?;
        let opened = home.clone();
        let admission = Admission::new(config.max_inflight);
        let admitting = Arc::clone(&admission);
        let functions = tokio::task::spawn_blocking(move || {
            let confinement = Confinement::open(config.jail, &opened)
                .map_err(|error| GatewayError::Start(format!("the jail is required: {}", answer::chain(&error))))?;
            let launcher = Launcher {
                program: config.program,
                options: config.options,
                agents: config.agents,
                folder: sockets,
                templates: Templates::of(&opened),
                runtime: Handle::current(),
                confinement,
            };
            open_functions(&opened, launcher, admission)
        })
        .await
        .map_err(|error| GatewayError::Start(error.to_string()))??;
        functions.recover().await.map_err(|error| match error {
            FunctionsError::State(error) => GatewayError::State(error),
            error => GatewayError::Start(answer::chain(&error)),
        })?;
        let (stop, stopping) = watch::channel(false);
        let context = Arc::new(Context { functions, credentials, stopping: stopping.clone() });
        let mut server = JoinSet::new();
        let serving = Arc::clone(&context);
        let loops = EventLoops::start(move |arrivals| {
            server::serve_connections(arrivals, Arc::clone(&serving), serving.stopping.clone())
        });
        let loops = Arc::new(loops.map_err(|error| GatewayError::Start(error.to_string()))?);
        server.spawn(server::serve(listener, Arc::clone(&loops), stopping.clone()));
        server.spawn(give_memory_back(admitting, stopping));
        tracing::info!(%address, home = %home.display(), "The gateway serves");
        Ok(Gateway { address, context, stop, server, loops, _lock: lock })
    }

    /// Where the gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more connections, lets requests under way finish (up to 30 s), then ends every watchdog: first
    /// asked to, then killed. The deployments stay and come back with the next start.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.server.join_next().await.is_some() {}
        self.context.functions.shut_down().await;
        // Nobody else has one: the server has ended.
        if let Some(loops) = Arc::into_inner(self.loops) {
            loops.end().await;
        }
    }
}

/// Gives the system back what the allocator keeps of bodies and connections, whenever there is nothing else to do.
async fn give_memory_back(admission: Arc<Admission>, mut stop: watch::Receiver<bool>) {
    let mut quiet = Quiet::default();
    loop {
        let (begun, is_busy) = admission.so_far();
        let look = quiet.look(begun, is_busy, Instant::now());
        if look == Look::GiveBack {
            memory::give_back();
        }
        let pause = match look {
            Look::At(at) => at.saturating_duration_since(Instant::now()),
            Look::GiveBack | Look::Never => QUIET,
        };
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn prepare_home(home: &Path) -> Result<PathBuf, GatewayError> {
    let refused = |source| GatewayError::Home { path: home.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(refused)?;
    // Watchdogs are handed absolute paths, whatever folder they start in.
    let home = home.canonicalize().map_err(refused)?;
    let longest = home.join("run").join("00000000.sock");
    if longest.as_os_str().len() > replica::SOCKET_PATH_MAX {
        return Err(GatewayError::LongHome(home));
    }
    Ok(home)
}

fn take_lock(home: &Path) -> Result<HomeLock, GatewayError> {
    HomeLock::take(home).map_err(|error| match error {
        LockError::Held(holder) => GatewayError::Locked { home: home.to_owned(), holder },
        LockError::File(source) => GatewayError::Home { path: home.join("gateway.lock"), source },
    })
}

/// Lets this process, and the watchdogs after it, have as many descriptors as the system grants: each request under
/// way takes two, and the usual soft limit of 1,024 is there for programs older than `poll`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "The limit of open files cannot be raised: fewer requests run at the same time");
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => GatewayError::AddressInUse(address),
        _ => GatewayError::Address { address, source },
    })
}

/// Makes a folder of our own, without what a gateway that was killed left in it.
fn empty_folder(path: &Path) -> Result<PathBuf, GatewayError> {
    let made = match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => DirBuilder::new().mode(0o700).create(path),
    };
    made.map(|()| path.to_owned()).map_err(|source| GatewayError::Home { path: path.to_owned(), source })
}

fn open_functions(home: &Path, launcher: Launcher, admission: Arc<Admission>) -> Result<Functions, GatewayError> {
    let store = kernlet_image::Store::open(home)
        .map_err(|source| GatewayError::Images { home: home.to_owned(), source: Box::new(source) })?;
    let state = State::open(home)?;
    let logs = Logs::start(home).map_err(|error| GatewayError::Start(error.to_string()))?;
    Ok(Functions::new(store, state, logs, launcher, admission))
}
