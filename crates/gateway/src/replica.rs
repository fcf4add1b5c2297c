//! One replica: a watchdog process behind a socket, as the rest of the gateway sees it.
//! A function owns its replicas and takes a [`Lease`] of one for each invocation.
//! It never closes the socket while the replica lives: clients connect and queue while no process is there.

use crate::admission::Seat;
use crate::agents::Agents;
use crate::confine::Confinement;
use crate::link::Link;
use crate::logs::FunctionLog;
use crate::supervisor::Supervisor;
use crate::templates::Templates;
use kernlet_image::FunctionSpec;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long an invocation whose connection broke waits to learn whether the process has died: its output has to be
/// read first.
const DEATH_NEWS: Duration = Duration::from_secs(2);
/// Longest path of a unix socket on Linux: `sun_path` holds 108 bytes and ends with a zero.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// Why a replica could not be started.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// Its socket or its specification could not be made.
    #[error("{} cannot be made: check the disk and who owns the folder", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Its specification could not be written as JSON.
    #[error("The function's specification cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// Its process could not be started.
    #[error("The watchdog {} cannot be started", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

/// How watchdogs are started.
#[derive(Debug)]
pub(crate) struct Launcher {
    /// The program that has the subcommand `watchdog`.
    pub(crate) program: PathBuf,
    /// Its further options.
    pub(crate) options: Vec<String>,
    /// The agents that functions may use.
    pub(crate) agents: Option<Arc<dyn Agents>>,
    /// The folder of sockets and specifications.
    pub(crate) folder: PathBuf,
    /// Where functions' templates are kept.
    pub(crate) templates: Templates,
    /// Where their supervisors run, whoever starts them.
    pub(crate) runtime: Handle,
    /// What confines them from the outside.
    pub(crate) confinement: Confinement,
}

/// Where a replica is in its life.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Its process runs and has not said that it is ready; requests queue on its socket.
    Starting,
    /// Its process said that it is ready.
    Ready,
    /// Its process keeps dying.
    Failing(Arc<Failure>),
}

/// Why a replica has no process.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process ended and what it last said, to be put after "its" or "the".
    pub(crate) cause: String,
    /// When the next one is started.
    pub(crate) retry_at: Instant,
}

/// The processes that the replica has lost.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    pub(crate) count: u64,
    /// How the latest one ended.
    pub(crate) latest: Arc<str>,
}

/// What the supervisor tells the replica.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) deaths: watch::Sender<Deaths>,
    /// The process's id, while one runs.
    pub(crate) process: watch::Sender<Option<u32>>,
}

/// One running replica.
#[derive(Debug)]
pub(crate) struct Replica {
    link: Link,
    phase: watch::Receiver<Phase>,
    deaths: watch::Receiver<Deaths>,
    process: watch::Receiver<Option<u32>>,
    in_flight: AtomicUsize,
    became_idle: Notify,
    stop: watch::Sender<bool>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// The right to send one invocation to a replica, and its seat in the gateway. The replica outlives it.
#[derive(Debug)]
pub(crate) struct Lease {
    replica: Arc<Replica>,
    deaths_before: u64,
    _seat: Seat,
}

impl Replica {
    /// Binds the socket, starts the process and its supervisor. Has to be called on a thread that lives as long as
    /// the gateway (not on one of a runtime's blocking threads): a watchdog dies with the thread that started it.
    pub(crate) fn start(
        launcher: &Arc<Launcher>,
        spec: &FunctionSpec,
        log: &Arc<FunctionLog>,
    ) -> Result<Arc<Replica>, StartError> {
        let _supervised = launcher.runtime.enter();
        let id = format!("{:08x}", uuid::Uuid::new_v4().as_fields().0);
        let supervisor = Supervisor::prepare(launcher, spec, log, &id)?;
        let (phase, phase_receiver) = watch::channel(Phase::Starting);
        let (deaths, deaths_receiver) = watch::channel(Deaths::default());
        let (process, process_receiver) = watch::channel(None);
        let (stop, stop_receiver) = watch::channel(false);
        let link = Link::new(supervisor.socket().to_owned());
        let first = match supervisor.spawn() {
            Ok(child) => child,
            Err(source) => {
                supervisor.clean_up();
                return Err(StartError::Spawn { program: launcher.program.clone(), source });
            }
        };
        let task = tokio::spawn(supervisor.run(first, Reports { phase, deaths, process }, stop_receiver));
        Ok(Arc::new(Replica {
            link,
            phase: phase_receiver,
            deaths: deaths_receiver,
            process: process_receiver,
            in_flight: AtomicUsize::new(0),
            became_idle: Notify::new(),
            stop,
            supervisor: Mutex::new(Some(task)),
        }))
    }

    /// Where the replica is now.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// The id of its process, if one runs.
    pub(crate) fn process(&self) -> Option<u32> {
        *self.process.borrow()
    }

    /// Invocations under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes the replica for one invocation.
    pub(crate) fn lease(self: &Arc<Replica>, seat: Seat) -> Lease {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Lease { replica: Arc::clone(self), deaths_before: self.deaths.borrow().count, _seat: seat }
    }

    /// Waits for the invocations under way (no new ones come: the function has let go of it) as long as `patience`,
    /// then ends the process, first asking, then not.
    pub(crate) async fn retire(&self, patience: Duration) {
        if timeout(patience, self.idle()).await.is_err() {
            tracing::warn!(socket = %self.link.socket().display(), "A replica is ended with invocations under way");
        }
        self.stop.send_replace(true);
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.await
        {
            tracing::error!(%error, "The supervisor of a replica had failed");
        }
    }

    async fn idle(&self) {
        loop {
            let notified = self.became_idle.notified();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Lease {
    /// The way to the watchdog.
    pub(crate) fn link(&self) -> &Link {
        &self.replica.link
    }

    /// Waits until the replica's processes keep dying, and says why. Never returns while one runs.
    pub(crate) async fn failure(&self) -> Arc<Failure> {
        let mut phase = self.replica.phase.clone();
        loop {
            if let Phase::Failing(failure) = &*phase.borrow_and_update() {
                return Arc::clone(failure);
            }
            if phase.changed().await.is_err() {
                // The supervisor has ended the process in order; the connection says what that means.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Lease {
    /// Waits a moment for the news that the process has died during this invocation, and says how.
    pub(crate) async fn death(&self) -> Option<Arc<str>> {
        let mut deaths = self.replica.deaths.clone();
        let died = deaths.wait_for(|deaths| deaths.count > self.deaths_before);
        match timeout(DEATH_NEWS, died).await {
            Ok(Ok(deaths)) => Some(Arc::clone(&deaths.latest)),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.replica.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.replica.became_idle.notify_waiters();
        }
    }
}
