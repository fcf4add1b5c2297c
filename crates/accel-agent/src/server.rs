//! The agent: accepts connections, keeps what each of them owns, and carries out their operations.
//! Made by `kernlet accel agent`, by its worker processes, by benchmarks and tests. Never lets a connection name what
//! another one owns: numbers are looked up in the connection's own tables.

use std::{
    collections::HashMap,
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::{
        Arc, Mutex, Weak,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use kernlet_accel::{Plugin, Quota, Resource, Runtime, chain};
use rustix::net::{Shutdown, shutdown, sockopt};

use crate::{
    connection::{self, Peer},
    link::{Link, lock},
    memory::SharedMemory,
    oversight::{Alarm, Counter, Oversight},
    pool::Pool,
    ring::Ring,
    tls::ServerTls,
    wire::{Offered, Region},
};

/// How long a client may take for the handshake of TLS, and for its first message.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause when the host has no descriptor, or no thread, for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What clients may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at the same time, of all clients.
    pub connections: usize,
    /// Sessions of a connection.
    pub sessions: u32,
    /// Calls of a connection under way.
    pub calls: u32,
    /// Bytes of arguments of a connection under way, where it shares no memory.
    pub bytes: u64,
    /// Bytes of memory that a connection may share.
    pub memory: usize,
    /// Bytes of resources of a connection, over all its sessions.
    pub resources: u64,
    /// What a session may use.
    pub session: Quota,
    /// Calls that run at the same time of one connection; one more run of all together.
    pub workers: usize,
    /// How long an operation may go on after its deadline before its plugin counts as hung.
    pub grace: Duration,
}

impl Default for Limits {
    /// As many workers as processors; five minutes an operation.
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            connections: 1024,
            sessions: 4096,
            calls: crate::ring::SLOTS,
            bytes: 256 * 1024 * 1024,
            memory: 1024 * 1024 * 1024,
            resources: 8 * 1024 * 1024 * 1024,
            session: Quota { operation_time: Some(Duration::from_secs(300)), ..Quota::default() },
            workers: processors,
            grace: Duration::from_secs(2),
        }
    }
}

/// Which worker process an agent is, as far as there is a supervisor.
#[derive(Debug, Default)]
pub struct Instance {
    /// Counted from one.
    pub number: u64,
    /// How the one before it ended; empty when there was none.
    pub died: String,
    /// Where it writes down what its plugins do.
    pub(crate) black_box: Option<SharedMemory>,
    /// Who reconnects clients when this process ends.
    pub(crate) lifelines: Option<Lifelines>,
}

/// Takes the keeper's end of a lifeline: a socket over which its client gets a new connection when this process ends.
pub(crate) struct Lifelines(pub(crate) Box<dyn Fn(OwnedFd) -> io::Result<()> + Send + Sync>);

impl std::fmt::Debug for Lifelines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lifelines")
    }
}

/// What an agent holds for its clients at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections.
    pub connections: usize,
    /// Sessions of all connections.
    pub sessions: usize,
    /// Resources of all sessions; what several have counts for each.
    pub resources: usize,
    /// Their bytes.
    pub resource_bytes: u64,
    /// Calls under way.
    pub calls: usize,
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Arc<OwnedFd>>>,
}

/// What all connections have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) limits: Limits,
    pub(crate) pool: Arc<Pool>,
    pub(crate) oversight: Arc<Oversight>,
    pub(crate) cache: Cache,
    pub(crate) counts: Counts,
    pub(crate) instance: u64,
    pub(crate) died: String,
    pub(crate) lifelines: Option<Lifelines>,
    /// Connections that look for calls again and again at the moment.
    pub(crate) spinning: AtomicUsize,
    ids: Counter,
    connections: Mutex<HashMap<u64, Weak<Link>>>,
    closed: AtomicBool,
}

/// How much there is of everything.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sessions: AtomicUsize,
    pub(crate) resources: AtomicUsize,
    pub(crate) bytes: AtomicU64,
    pub(crate) calls: AtomicUsize,
}

/// Where an agent waits for clients.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket. Who may open its file may connect.
    Unix(UnixListener),
    /// Plain TCP, for loopback only: whoever is on this host may connect.
    Tcp(TcpListener),
    /// TCP under TLS. Whose certificate the configuration accepts may connect.
    Tls(TcpListener, ServerTls),
    /// A virtual machine's socket. Whoever is on this host, or its guest, may connect.
    Vsock(vsock::VsockListener),
}

impl Agent {
    /// An agent with these plugins, of which it tells `alarm` when one hangs.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(plugins: Vec<Arc<dyn Plugin>>, limits: Limits, alarm: Alarm) -> io::Result<Self> {
        Self::start_instance(&Runtime::new(plugins), limits, Instance::default(), alarm)
    }

    /// An agent as one of the worker processes of a supervisor.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start_instance(runtime: &Runtime, limits: Limits, instance: Instance, alarm: Alarm) -> io::Result<Self> {
        let oversight = Oversight::new(instance.black_box);
        oversight.watch(limits.grace, alarm)?;
        let plugins = runtime.plugins().iter().map(|plugin| oversight.over(Arc::clone(plugin))).collect();
        let shared = Shared {
            runtime: Runtime::with_absent(plugins, runtime.absent().to_vec()),
            pool: Pool::start(limits.workers)?,
            limits,
            oversight,
            cache: Cache::default(),
            counts: Counts::default(),
            instance: instance.number,
            died: instance.died,
            lifelines: instance.lifelines,
            spinning: AtomicUsize::new(0),
            ids: Counter::default(),
            connections: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), listeners: Mutex::default() })
    }

    /// Accepts clients there, on a thread of its own, until the agent is dropped.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn listen(&self, listener: Listener) -> io::Result<()> {
        let socket = match &listener {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) | Listener::Tls(listener, _) => listener.as_fd(),
            Listener::Vsock(listener) => listener.as_fd(),
        };
        lock(&self.listeners).push(Arc::new(socket.try_clone_to_owned()?));
        let shared = Arc::clone(&self.shared);
        let accept = move || {
            while !shared.closed.load(SeqCst) {
                let accepted = accept(&listener).and_then(|accepted| shared.start(accepted));
                if let Err(error) = accepted.as_ref().map_err(ToString::to_string)
                    && !shared.closed.load(SeqCst)
                {
                    tracing::warn!(error, "A connection could not be accepted");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        };
        thread::Builder::new().name("accel-accept".to_owned()).spawn(accept).map(|_| ())
    }

    /// Serves a client whose connection exists already.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn serve(&self, socket: std::os::unix::net::UnixStream) -> io::Result<()> {
        let peer = unix_peer(&socket);
        self.shared.start(Accepted { socket: socket.into(), peer, tls: None, is_unix: true })
    }

    /// What is held at the moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = &self.shared.counts;
        Stats {
            connections: lock(&self.shared.connections).len(),
            sessions: counts.sessions.load(SeqCst),
            resources: counts.resources.load(SeqCst),
            resource_bytes: counts.bytes.load(SeqCst),
            calls: counts.calls.load(SeqCst),
        }
    }

    /// What was done so far, by plugin and operation.
    #[must_use]
    pub fn profile(&self) -> Vec<Region> {
        self.shared.oversight.regions()
    }

    /// The operations there are.
    #[must_use]
    pub fn operations(&self) -> Vec<Offered> {
        self.shared.operations()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        for listener in lock(&self.listeners).drain(..) {
            // Wakes who accepts there.
            let _ = shutdown(&listener, Shutdown::Both);
        }
        lock(&self.shared.connections).values().filter_map(Weak::upgrade).for_each(|link| link.close());
        self.shared.pool.close();
        self.shared.oversight.close();
    }
}

/// A connection that was accepted, before anything was said.
struct Accepted {
    socket: OwnedFd,
    peer: String,
    tls: Option<ServerTls>,
    is_unix: bool,
}

fn accept(listener: &Listener) -> io::Result<Accepted> {
    Ok(match listener {
        Listener::Unix(listener) => {
            let (socket, _) = listener.accept()?;
            Accepted { peer: unix_peer(&socket), socket: socket.into(), tls: None, is_unix: true }
        }
        Listener::Tcp(listener) => {
            let (socket, from) = listener.accept()?;
            socket.set_nodelay(true)?;
            if !from.ip().is_loopback() {
                return Err(io::Error::other(format!("{from} is not on this host, and may connect by TLS only")));
            }
            Accepted { socket: socket.into(), peer: "tcp".to_owned(), tls: None, is_unix: false }
        }
        Listener::Tls(listener, tls) => {
            let (socket, from) = listener.accept()?;
            socket.set_nodelay(true)?;
            Accepted { socket: socket.into(), peer: from.to_string(), tls: Some(tls.clone()), is_unix: false }
        }
        Listener::Vsock(listener) => {
            let (socket, from) = listener.accept()?;
            let peer = format!("vsock:{}", from.cid());
            Accepted { socket: socket.as_fd().try_clone_to_owned()?, peer, tls: None, is_unix: false }
        }
    })
}

/// Who is at the other end of a unix socket: what it registered is found again by the same user only.
fn unix_peer(socket: impl AsFd) -> String {
    sockopt::socket_peercred(&socket).map_or_else(|_| "uid:?".to_owned(), |peer| format!("uid:{}", peer.uid.as_raw()))
}

impl Shared {
    /// Serves a connection on a thread of its own.
    fn start(self: &Arc<Self>, accepted: Accepted) -> io::Result<()> {
        if lock(&self.connections).len() >= self.limits.connections {
            let max = self.limits.connections;
            return Err(io::Error::other(format!("it would be one too many; {max} may be at a time")));
        }
        let id = self.ids.next();
        let shared = Arc::clone(self);
        lock(&self.connections).insert(id, Weak::new());
        let serve = move || {
            if let Err(error) = shared.serve(id, accepted) {
                tracing::debug!(connection = id, error = %chain(&*error), "A connection ended");
            }
            lock(&shared.connections).remove(&id);
        };
        let started = thread::Builder::new().name("accel-connection".to_owned()).spawn(serve);
        if started.is_err() {
            lock(&self.connections).remove(&id);
        }
        started.map(|_| ())
    }

    fn serve(self: &Arc<Self>, id: u64, accepted: Accepted) -> Result<(), Box<dyn std::error::Error>> {
        let Accepted { socket, mut peer, tls, is_unix } = accepted;
        let link = match tls {
            None => Link::plain(socket),
            Some(tls) => {
                let link = Link::secured(socket, tls.accept()?, Instant::now() + HANDSHAKE)?;
                peer = tls.identity(&link.certificates()).map_err(|error| format!("{peer}: {error}"))?;
                link
            }
        };
        let link = Arc::new(link);
        lock(&self.connections).insert(id, Arc::downgrade(&link));
        if self.closed.load(SeqCst) {
            return Ok(());
        }
        connection::serve(self, &link, Peer { id, principal: peer, is_unix })
    }

    /// A new lifeline: the client's end.
    pub(crate) fn lifeline(&self) -> io::Result<Option<OwnedFd>> {
        let Some(Lifelines(keep)) = &self.lifelines else { return Ok(None) };
        let (kept, given) = std::os::unix::net::UnixStream::pair()?;
        keep(kept.into())?;
        Ok(Some(given.into()))
    }

    /// Looks for a call for a while, unless as many connections do so already as there are processors to spare.
    pub(crate) fn spin(&self, ring: &Ring) -> bool {
        let may = self.spinning.fetch_add(1, Relaxed) < self.limits.workers.saturating_sub(1).max(1);
        let found = may && ring.spin();
        self.spinning.fetch_sub(1, Relaxed);
        found
    }

    /// Which plugin has which operation.
    pub(crate) fn operations(&self) -> Vec<Offered> {
        let of = |plugin: &Arc<dyn Plugin>| {
            let offered = plugin.operations().iter().map(|operation| Offered {
                operation: operation.abi_number(),
                kinds: plugin.kinds().bits(),
                plugin: plugin.name().to_owned(),
            });
            offered.collect::<Vec<_>>()
        };
        self.runtime.plugins().iter().flat_map(of).collect()
    }
}

/// Resources that somebody has, by who brought them and what they hold, so that a second registration by the same
/// client's user sends nothing. Somebody else's are not found, however well their digests are known.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<CacheKey, Weak<Cached>>>);

/// Who brought a resource, and its digest.
type CacheKey = (String, [u8; 32]);

/// A resource with its place in the cache.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) resource: Resource,
}

impl Cache {
    pub(crate) fn get(&self, principal: &str, digest: &[u8; 32]) -> Option<Arc<Cached>> {
        lock(&self.0).get(&(principal.to_owned(), *digest))?.upgrade()
    }

    pub(crate) fn put(&self, principal: &str, digest: [u8; 32], resource: Resource) -> Arc<Cached> {
        let cached = Arc::new(Cached { resource });
        let mut cache = lock(&self.0);
        cache.retain(|_, cached| cached.strong_count() > 0);
        cache.insert((principal.to_owned(), digest), Arc::downgrade(&cached));
        cached
    }
}

impl Counts {
    pub(crate) fn calls(&self) -> CallGuard<'_> {
        self.calls.fetch_add(1, Relaxed);
        CallGuard(self)
    }
}

/// A call under way.
pub(crate) struct CallGuard<'a>(&'a Counts);

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, SeqCst);
    }
}
