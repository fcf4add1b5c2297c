//! The watchdog's server: accepts connections, gives each a thread, and drains them when it is told to stop.
//! Called by [`crate::run`], whose thread does this and nothing else. It never reads from a connection.

use std::{
    future::Future,
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use kernlet_jail::{Role, confine};
use kernlet_monitor::Level;
use rustix::event::{EventfdFlags, eventfd};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    connection, error::InvokeError, exchange::Exchange, function::MACHINE_STACK, keeper::send_last, listen::Bound,
    oversight::Oversight, response::Answer,
};

/// Most connections at the same time; more wait in the socket. Each is a thread, which mostly waits.
const CONNECTIONS_MAX: u32 = 512;

/// How long to wait when the host has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a function without a time limit may take to finish when the watchdog stops.
const DRAIN_UNLIMITED: Duration = Duration::from_secs(60);

/// How long others may take to finish when it stops because of an operation that does not end: no request is served meanwhile.
const DRAIN_OVERRUN: Duration = Duration::from_secs(5);

/// How often it then looks whether they have.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// A socket that accepts connections.
#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A bound server, not yet serving.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Listener,
    exchange: Arc<Exchange>,
    connections: Arc<Semaphore>,
    /// Becomes readable for all connections at once when they are to end.
    draining: Arc<OwnedFd>,
}

impl Server {
    /// Takes over a bound socket. To be called inside a runtime.
    pub(crate) fn new(bound: Bound, exchange: Exchange) -> Result<Self, io::Error> {
        let listener = match bound {
            Bound::Unix(listener) => Listener::Unix(UnixListener::from_std(listener)?),
            Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
        };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        let draining = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { listener, exchange: Arc::new(exchange), connections, draining: Arc::new(draining) })
    }

    /// Serves until `stop`, then finishes what is under way, for no longer than one invocation may take.
    pub(crate) async fn serve_until(self, stop: impl Future<Output = ()>, oversight: &Oversight) {
        tokio::select! {
            () = self.accept_all() => {}
            () = stop => {}
        }
        let Self { listener, exchange, connections, draining } = self;
        exchange.draining.store(true, Ordering::Relaxed);
        drop(listener);
        // The counter takes it: it is written once.
        let _ = rustix::io::write(&draining, &1_u64.to_ne_bytes());
        exchange.log.watchdog("", Level::Info, "shutting down: no new requests, finishing those under way");
        let shared = exchange.function.shared();
        let patience = shared.limit.bounded().unwrap_or(DRAIN_UNLIMITED);
        let patience = if oversight.overrun().is_some() { patience.min(DRAIN_OVERRUN) } else { patience };
        let finished = tokio::time::timeout(patience, async {
            let all_done = async {
                let _all_closed = connections.acquire_many(CONNECTIONS_MAX).await;
                shared.inflight.drained().await;
            };
            // An operation that does not end is not waited for.
            let others_done = async {
                while oversight.overrun().is_none() || shared.inflight.under_way() > oversight.late(Instant::now()) {
                    tokio::time::sleep(DRAIN_LOOK).await;
                }
            };
            tokio::select! {
                () = all_done => {}
                () = others_done => {}
            }
        });
        if finished.await.is_err() {
            let text = format!("shut down with requests still under way after {patience:?}");
            exchange.log.watchdog("", Level::Warn, &text);
        }
        shared.log_profile();
    }

    async fn accept_all(&self) {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await {
            match self.accept().await {
                Ok(socket) => self.start(socket, permit),
                Err(error) => {
                    let text = format!("a connection could not be accepted: {error}");
                    self.exchange.log.watchdog("", Level::Warn, &text);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next connection. Reading and writing it blocks, unless a call says that it should not; reading for a moment only.
    async fn accept(&self) -> Result<OwnedFd, io::Error> {
        // None at all would be one without end.
        let moment = connection::MOMENT.min(self.exchange.read_timeout).max(Duration::from_millis(1));
        match &self.listener {
            Listener::Unix(listener) => {
                let stream = listener.accept().await?.0.into_std()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(moment))?;
                Ok(stream.into())
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(moment))?;
                Ok(stream.into())
            }
        }
    }

    /// Serves a connection on a thread of its own.
    fn start(&self, socket: OwnedFd, permit: OwnedSemaphorePermit) {
        let (exchange, draining) = (Arc::clone(&self.exchange), Arc::clone(&self.draining));
        let socket = Arc::new(socket);
        let served = Arc::clone(&socket);
        let run = move || {
            confine(Role::Connection);
            let _permit = permit;
            connection::serve(served, &exchange, &draining);
        };
        let started = thread::Builder::new().name("connection".to_owned()).stack_size(MACHINE_STACK).spawn(run);
        if let Err(source) = started {
            let function = self.exchange.function.shared().name.to_string();
            let error = InvokeError::NoThread { function, source };
            self.exchange.log.watchdog("", Level::Error, &error.message());
            send_last(&socket, Answer::of_error(&error));
        }
    }
}
