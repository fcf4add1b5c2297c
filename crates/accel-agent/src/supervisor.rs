//! Keeps an agent's worker process running: a plugin that crashes or hangs costs that process, and another one takes its
//! place at the same sockets. The supervisor itself loads no plugin and reads nothing that a client sends.
//! Run by `kernlet accel agent`; its workers are that program again, with a socket to it as standard input.
//!
//! ```text
//!  supervisor ── sockets, black box, "go" ──► worker ── accepts, carries out
//!             ◄─ lifelines of clients ───────
//!  worker dies: what the black box has, and its signal, become the words that the next worker greets with; each lifeline
//!  gets one end of a new connection, and the next worker the other
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::ExitStatusExt as _,
        },
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kernlet_accel::Runtime;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Mode,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
    },
    process::{Signal, getpid, kill_process, umask},
};

use crate::{
    address::Address,
    link::lock,
    memory::SharedMemory,
    oversight::{BLACK_BOX, read_black_box},
    server::{Agent, Instance, Lifelines, Limits, Listener},
    tls::ServerTls,
};

/// A worker that lived this long did not die at once.
const STABLE_AFTER: Duration = Duration::from_secs(2);
/// First and longest pause before the next start, when workers die at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a worker may take to end when it is told to.
const END: Duration = Duration::from_secs(2);
/// Longest word between supervisor and worker.
const WORD_MAX: usize = 4096;

/// What supervisor and worker say to each other: a byte, perhaps words, perhaps a descriptor.
mod word {
    pub(super) const BLACK_BOX: u8 = b'B';
    pub(super) const UNIX: u8 = b'u';
    pub(super) const TCP: u8 = b't';
    pub(super) const TLS: u8 = b's';
    pub(super) const VSOCK: u8 = b'v';
    /// The number of the worker, a space, and how the one before it ended.
    pub(super) const GO: u8 = b'G';
    /// A connection whose other end a client has.
    pub(super) const CONNECTION: u8 = b'C';
    /// Worker: the keeper's end of a lifeline.
    pub(super) const LIFELINE: u8 = b'L';
    /// Worker: why it is about to end.
    pub(super) const REASON: u8 = b'R';
}

/// A socket that an agent listens on.
#[derive(Debug)]
pub struct Bound {
    kind: u8,
    socket: OwnedFd,
    /// What is to be deleted when nobody listens any more.
    path: Option<std::path::PathBuf>,
    address: Address,
}

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Plain TCP is readable and writable by everyone on the way.
    #[error("{0} would be an agent without TLS; use tls://, or, on loopback only, --insecure-tcp")]
    Insecure(Address),
    /// Another agent is there.
    #[error("another agent listens on {0}; stop it, or choose another address")]
    InUse(Address),
    /// The system refuses.
    #[error("cannot listen on {0}")]
    System(Address, #[source] io::Error),
}

impl Bound {
    /// Listens at an address. Plain TCP only where `insecure` allows it, and on loopback.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: &Address, insecure: bool) -> Result<Self, BindError> {
        let system = |error| BindError::System(address.clone(), error);
        let (kind, socket, path) = match address {
            Address::Unix(path) => (word::UNIX, bind_unix(path, address)?.into(), Some(path.clone())),
            Address::Tcp(at) | Address::Tls(at) => {
                let addresses = at.resolve().map_err(system)?;
                let plain = matches!(address, Address::Tcp(_));
                if plain && !(insecure && addresses.iter().all(|address| address.ip().is_loopback())) {
                    return Err(BindError::Insecure(address.clone()));
                }
                let listener = TcpListener::bind(&addresses[..]).map_err(system)?;
                (if plain { word::TCP } else { word::TLS }, listener.into(), None)
            }
            Address::Vsock { cid, port } => {
                let listener = vsock::VsockListener::bind_with_cid_port(*cid, *port).map_err(system)?;
                (word::VSOCK, listener.as_fd().try_clone_to_owned().map_err(system)?, None)
            }
        };
        let mut bound = Self { kind, socket, path, address: address.clone() };
        bound.learn_port().map_err(system)?;
        Ok(bound)
    }

    /// Where it is, with the port that was chosen where the address left that open.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    fn learn_port(&mut self) -> io::Result<()> {
        if let Address::Tcp(at) | Address::Tls(at) = &mut self.address
            && at.port == 0
        {
            at.port = TcpListener::from(self.socket.try_clone()?).local_addr()?.port();
        }
        Ok(())
    }

    /// Its listener; TLS needs certificates.
    ///
    /// # Errors
    /// It is to speak TLS, and there are none; or the system has no descriptor.
    pub fn listener(&self, tls: Option<&ServerTls>) -> io::Result<Listener> {
        listener(self.kind, self.socket.try_clone()?, tls)
    }
}

fn listener(kind: u8, socket: OwnedFd, tls: Option<&ServerTls>) -> io::Result<Listener> {
    Ok(match kind {
        word::UNIX => Listener::Unix(socket.into()),
        word::TCP => Listener::Tcp(socket.into()),
        word::VSOCK => Listener::Vsock(socket.into()),
        _ => {
            let tls = tls.ok_or_else(|| io::Error::other("there is no certificate for TLS"))?;
            Listener::Tls(socket.into(), tls.clone())
        }
    })
}

/// A unix socket that only this user can connect to. One that nobody listens on any more is replaced.
fn bind_unix(path: &Path, address: &Address) -> Result<UnixListener, BindError> {
    let system = |error| BindError::System(address.clone(), error);
    let bind = || {
        let before = umask(Mode::RWXG | Mode::RWXO);
        let bound = UnixListener::bind(path);
        umask(before);
        bound
    };
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(BindError::InUse(address.clone()));
            }
            std::fs::remove_file(path).map_err(system)?;
            bind().map_err(system)
        }
        bound => bound.map_err(system),
    }
}

/// Sends a word between supervisor and worker.
fn say(to: impl AsFd, kind: u8, words: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let words = &words.as_bytes()[..words.floor_char_boundary(WORD_MAX - 1)];
    let kind = [kind];
    let parts = [IoSlice::new(&kind), IoSlice::new(words)];
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    loop {
        match sendmsg(&to, &parts, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What was heard: a kind, words, and a descriptor if one came with it.
type Heard = (u8, String, Option<OwnedFd>);

/// Hears the next word; `None` when the other side is gone.
fn hear(from: impl AsFd) -> io::Result<Option<Heard>> {
    let mut bytes = [0; WORD_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let Some((kind, words)) = bytes.get(..received.bytes).and_then(<[u8]>::split_first) else { return Ok(None) };
    Ok(Some((*kind, String::from_utf8_lossy(words).into_owned(), descriptor)))
}

/// How a worker is started: its command, whose standard input the supervisor chooses.
pub type Start = Box<dyn Fn() -> io::Result<Command> + Send>;

/// Keeps workers running until it is dropped.
#[derive(Debug)]
pub struct Supervisor {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
    paths: Vec<std::path::PathBuf>,
}

#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    worker: AtomicU32,
    number: AtomicU32,
    control: Mutex<Option<OwnedFd>>,
}

impl Supervisor {
    /// Starts the first worker, and a thread that replaces it when it dies.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(bound: Vec<Bound>, start: Start) -> io::Result<Self> {
        let paths = bound.iter().filter_map(|bound| bound.path.clone()).collect();
        let state = Arc::new(State::default());
        let mut keeper = Keeper {
            state: Arc::clone(&state),
            bound,
            start,
            black_box: SharedMemory::create(BLACK_BOX)?,
            lifelines: Vec::new(),
            died: String::new(),
        };
        let first = keeper.spawn()?;
        let run = move || keeper.run(first);
        let thread = thread::Builder::new().name("accel-supervisor".to_owned()).spawn(run)?;
        Ok(Self { state, thread: Some(thread), paths })
    }

    /// The worker that serves at the moment: its process id, and which one it is, counted from one.
    #[must_use]
    pub fn worker(&self) -> (u32, u32) {
        (self.state.worker.load(SeqCst), self.state.number.load(SeqCst))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.state.stopping.store(true, SeqCst);
        if let Some(control) = &*lock(&self.state.control) {
            // The worker ends when it hears nothing more.
            let _ = shutdown(control, Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // It panicked if it cannot be joined, and then no worker is left either: they end with their control.
            let _ = thread.join();
        }
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What the supervisor's thread has.
struct Keeper {
    state: Arc<State>,
    bound: Vec<Bound>,
    start: Start,
    black_box: SharedMemory,
    lifelines: Vec<OwnedFd>,
    died: String,
}

impl Keeper {
    fn spawn(&mut self) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
        let child = (self.start)()?.stdin(Stdio::from(theirs)).spawn()?;
        self.state.worker.store(child.id(), SeqCst);
        let number = self.state.number.fetch_add(1, SeqCst) + 1;
        say(&ours, word::BLACK_BOX, "", Some(self.black_box.file()))?;
        for bound in &self.bound {
            say(&ours, bound.kind, "", Some(bound.socket.as_fd()))?;
        }
        say(&ours, word::GO, &format!("{number} {}", self.died), None)?;
        *lock(&self.state.control) = Some(ours.try_clone()?);
        self.reconnect(&ours);
        Ok((child, ours))
    }

    /// Gives each client that has a lifeline a connection to the new worker.
    fn reconnect(&mut self, control: &OwnedFd) {
        self.lifelines.retain(|lifeline| {
            let Ok((client, worker)) = UnixStream::pair() else { return false };
            let given = say(lifeline, word::CONNECTION, "", Some(client.as_fd()));
            given.is_ok() && say(control, word::CONNECTION, "", Some(worker.as_fd())).is_ok()
        });
    }

    fn run(&mut self, mut worker: (Child, OwnedFd)) {
        let mut pause = PAUSE.0;
        loop {
            let since = Instant::now();
            let (mut child, control) = worker;
            if self.state.stopping.load(SeqCst) {
                // It was told before this worker was there.
                let _ = shutdown(&control, Shutdown::Both);
            }
            let reason = self.attend(&control);
            let status = end(&mut child);
            if self.state.stopping.load(SeqCst) {
                return;
            }
            let running = read_black_box(&self.black_box);
            self.died = epitaph(&status, reason, &running);
            tracing::error!("An agent's worker ended: {}; another one is started", self.died);
            pause = if since.elapsed() >= STABLE_AFTER { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
            // The first death is mended at once.
            if pause > PAUSE.0 * 2 {
                thread::sleep(pause);
            }
            worker = loop {
                match self.spawn() {
                    Ok(worker) => break worker,
                    Err(error) => {
                        tracing::error!(%error, "An agent's worker cannot be started");
                        thread::sleep(PAUSE.1);
                    }
                }
                if self.state.stopping.load(SeqCst) {
                    return;
                }
            };
        }
    }

    /// Keeps what the worker hands over, until it is gone; says why, if the worker did.
    fn attend(&mut self, control: &OwnedFd) -> Option<String> {
        let mut reason = None;
        loop {
            let mut fds = vec![PollFd::new(control, PollFlags::IN)];
            // What a client sends there is of no interest, but its end is.
            fds.extend(self.lifelines.iter().map(|lifeline| PollFd::new(lifeline, PollFlags::RDHUP)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return reason,
            }
            let ended = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
            let gone: Vec<bool> = fds.iter().skip(1).map(|fd| fd.revents().intersects(ended)).collect();
            let speaks = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            let mut gone = gone.into_iter();
            self.lifelines.retain(|_| !gone.next().unwrap_or(false));
            if !speaks {
                continue;
            }
            match hear(control) {
                Ok(Some((word::LIFELINE, _, Some(lifeline)))) => self.lifelines.push(lifeline),
                Ok(Some((word::REASON, words, _))) => reason = Some(words),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return reason,
            }
        }
    }
}

/// Waits for a worker that is gone or about to go.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + END;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()
}

/// How a worker ended, in words that follow "it".
fn epitaph(status: &io::Result<ExitStatus>, reason: Option<String>, running: &[String]) -> String {
    if let Some(reason) = reason {
        return reason;
    }
    let ended = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (_, Some(signal)) => format!("its worker was killed by signal {signal}{}", name_of(signal)),
            (Some(code), None) => format!("its worker ended with exit status {code}"),
            (None, None) => "its worker ended".to_owned(),
        },
        Err(error) => format!("its worker ended, and cannot be asked why: {error}"),
    };
    if running.is_empty() { ended } else { format!("{ended} while {}", running.join(", and ")) }
}

fn name_of(signal: i32) -> String {
    let known = [
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    known.iter().find(|(number, _)| *number == signal).map(|(_, name)| format!(" ({name})")).unwrap_or_default()
}

/// What a worker process was given.
#[derive(Debug)]
pub struct Worker {
    control: Arc<OwnedFd>,
    sockets: Vec<(u8, OwnedFd)>,
    instance: Instance,
}

impl Worker {
    /// Takes what the supervisor passes by standard input. To be called first thing.
    ///
    /// # Errors
    /// There is no supervisor.
    pub fn from_stdin() -> io::Result<Self> {
        let control = Arc::new(io::stdin().as_fd().try_clone_to_owned()?);
        let (mut sockets, mut black_box) = (Vec::new(), None);
        let gone = || io::Error::other("there is no supervisor; `kernlet accel agent` starts its workers itself");
        loop {
            let (kind, words, descriptor) = hear(&control)?.ok_or_else(gone)?;
            match (kind, descriptor) {
                (word::BLACK_BOX, Some(file)) => {
                    let memory = SharedMemory::adopt(file, BLACK_BOX, BLACK_BOX);
                    black_box = Some(memory.map_err(io::Error::other)?);
                }
                (word::GO, _) => {
                    let (number, died) = words.split_once(' ').ok_or_else(gone)?;
                    let number = number.parse().map_err(|_| gone())?;
                    let keeper = Arc::clone(&control);
                    let keep = move |lifeline: OwnedFd| say(&keeper, word::LIFELINE, "", Some(lifeline.as_fd()));
                    let lifelines = Some(Lifelines(Box::new(keep)));
                    let instance = Instance { number, died: died.to_owned(), black_box, lifelines };
                    return Ok(Self { control, sockets, instance });
                }
                (kind, Some(socket)) => sockets.push((kind, socket)),
                (_, None) => return Err(gone()),
            }
        }
    }

    /// Serves until the supervisor is gone. An operation that overruns its deadline ends this process.
    ///
    /// # Errors
    /// It cannot begin.
    pub fn serve(self, runtime: &Runtime, limits: Limits, tls: Option<&ServerTls>) -> io::Result<()> {
        let Self { control, sockets, instance } = self;
        let told = Arc::clone(&control);
        let alarm = move |what: &str| {
            let reason = format!("its worker was ended because {what} beyond its deadline");
            // Nobody is there to tell when that fails.
            let _ = say(&told, word::REASON, &reason, None);
            end_at_once();
        };
        let agent = Agent::start_instance(runtime, limits, instance, Box::new(alarm))?;
        for (kind, socket) in sockets {
            agent.listen(listener(kind, socket, tls)?)?;
        }
        while let Ok(Some((kind, _, descriptor))) = hear(&control) {
            if let (word::CONNECTION, Some(socket)) = (kind, descriptor)
                && let Err(error) = agent.serve(socket.into())
            {
                tracing::warn!(%error, "A connection could not be taken over");
            }
        }
        // A plugin that hangs, or what its library does at an orderly end, is not waited for.
        end_at_once();
        Ok(())
    }
}

/// Ends this process without anything that an orderly end would do.
fn end_at_once() {
    let _ = kill_process(getpid(), Signal::KILL);
}
