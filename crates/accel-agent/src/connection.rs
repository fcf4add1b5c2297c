//! One connection at the agent: what it says, what it owns, and how its calls get to a worker and back.
//! Run by the agent on a thread for each connection. Whatever a client sends, it harms nothing but its own connection.

use std::{
    collections::HashMap,
    error::Error,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use kernlet_abi::{accel::operation, hypercall::status};
use kernlet_accel::{AccelError, Hint, Quota, RESOURCE_MAX, Resource, ResourceFile, ResourceKind, Session, chain};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::fcntl_get_seals,
    io::Errno,
};
use zerocopy::IntoBytes;

use crate::{
    bulk::{self, Bulk, BulkError},
    digest::digest,
    link::{Inbox, Link, is_readable, lock},
    memory::{AdoptError, SharedMemory},
    ring::{self, MEMORY_MIN, Ring, SLOTS},
    server::{Cached, HANDSHAKE, Shared},
    wire::{
        Call, CallBody, Grants, Head, MESSAGE_MAX, Message, Registration, Reply, ReplyBody, VERSION, WireError,
        feature, kind,
    },
};

/// How long a client may take nothing of what it asked for.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// Registrations of a connection whose bytes are on their way.
const UPLOADS_MAX: usize = 4;
/// Calls from the ring after which the socket is looked at, however many more there are.
const CALLS_A_LOOK: u32 = 64;
/// What is done without a worker has at most so many bytes, so that it takes no longer than waking one.
const BRIEF_MAX: u64 = 64 * 1024;

/// Who is at the other end.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    /// Whose resources it shares.
    pub(crate) principal: String,
    /// Whether descriptors can be passed.
    pub(crate) is_unix: bool,
}

/// Why a conversation ended before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the client breaks the protocol")]
    Wire(#[from] WireError),
    #[error("the client breaks the protocol: {0}")]
    Rule(&'static str),
    #[error("the client's shared memory cannot be used")]
    Memory(#[from] AdoptError),
    #[error("the client cannot be heard")]
    Io(#[from] io::Error),
}

/// A failure that the client is told of.
#[derive(Debug)]
struct Refusal {
    status: i32,
    message: String,
}

impl Refusal {
    fn new(status: i32, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<AccelError> for Refusal {
    fn from(error: AccelError) -> Self {
        Self::new(error.status(), error.message())
    }
}

/// What a connection owns.
#[derive(Debug)]
struct Connection {
    shared: Arc<Shared>,
    peer: Peer,
    link: Arc<Link>,
    sessions: Mutex<Sessions>,
    /// Calls that wait for a worker or have one, by their number; set when nobody waits for them any more.
    calls: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    bytes: AtomicU64,
    gate: Gate,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Sessions {
    last: u32,
    open: HashMap<u32, Arc<Owned>>,
}

/// A session and its resources.
#[derive(Debug)]
struct Owned {
    session: Session,
    held: Mutex<HashMap<u32, Held>>,
    shared: Arc<Shared>,
}

/// A resource of a session. It stays in the cache as long as somebody holds it.
#[derive(Debug)]
struct Held {
    size: u64,
    _cached: Arc<Cached>,
}

/// What is under way, where no memory is shared.
#[derive(Debug, Default)]
struct Gate {
    used: Mutex<(u32, u64)>,
    freed: Condvar,
}

impl Gate {
    /// Waits until there is room for one more call of so many bytes.
    fn enter(&self, bytes: u64, calls_max: u32, bytes_max: u64) {
        let used = lock(&self.used);
        let full = |used: &mut (u32, u64)| used.0 > 0 && (used.0 >= calls_max || used.1 + bytes > bytes_max);
        let mut used = self.freed.wait_while(used, full).unwrap_or_else(PoisonError::into_inner);
        *used = (used.0 + 1, used.1 + bytes);
    }

    fn leave(&self, bytes: u64) {
        let mut used = lock(&self.used);
        *used = (used.0.saturating_sub(1), used.1.saturating_sub(bytes));
        drop(used);
        self.freed.notify_all();
    }
}

/// Serves a client until one of both ends the conversation.
pub(crate) fn serve(shared: &Arc<Shared>, link: &Arc<Link>, peer: Peer) -> Result<(), Box<dyn Error>> {
    let mut inbox = Inbox::new(Arc::clone(link));
    let Greeting { memory, doorbell, features, id } = greet(shared, link, &mut inbox, &peer)?;
    let grants = Grants { calls: shared.limits.calls, sessions: shared.limits.sessions, bytes: shared.limits.bytes };
    let (instance, died) = (shared.instance, shared.died.clone());
    let welcome = Message::Welcome { version: VERSION, features, grants, instance, died };
    let lifeline = if features & feature::LIFELINE == 0 { None } else { shared.lifeline()? };
    let passed: Vec<BorrowedFd<'_>> = doorbell.iter().chain(&lifeline).map(AsFd::as_fd).collect();
    send(link, id, &welcome, &passed)?;
    drop(lifeline);
    let connection = Arc::new(Connection {
        shared: Arc::clone(shared),
        peer,
        link: Arc::clone(link),
        sessions: Mutex::default(),
        calls: Mutex::default(),
        bytes: AtomicU64::new(0),
        gate: Gate::default(),
        closed: AtomicBool::new(false),
    });
    let mut conversation =
        Conversation { connection: Arc::clone(&connection), inbox, uploads: HashMap::new(), batch: Vec::new() };
    let ended = match (memory, doorbell) {
        (Some(memory), Some(doorbell)) => conversation.serve_ring(&memory, &doorbell),
        _ => conversation.serve_stream(),
    };
    drop(conversation);
    connection.close();
    ended.map_err(Into::into)
}

/// What the first message leads to.
struct Greeting {
    memory: Option<Arc<SharedMemory>>,
    doorbell: Option<OwnedFd>,
    features: u32,
    id: u64,
}

fn greet(shared: &Shared, link: &Link, inbox: &mut Inbox, peer: &Peer) -> Result<Greeting, Broken> {
    if !link.await_input(Instant::now() + HANDSHAKE)? {
        return Err(Broken::Rule("it says nothing"));
    }
    let head = inbox.head()?.ok_or(Broken::Rule("it says nothing"))?;
    let body = inbox.body(head.body_length()?)?;
    let Message::Hello { oldest, newest, features, memory: size, name } = Message::parse(head.kind.get(), &body)?
    else {
        return Err(Broken::Rule("it does not begin with a greeting"));
    };
    let id = head.id.get();
    if !(oldest..=newest).contains(&VERSION) {
        let message =
            format!("this agent speaks version {VERSION} of the protocol, and the client {oldest} to {newest}");
        send(link, id, &Message::Fail { status: status::ENOTSUP, message }, &[])?;
        return Err(Broken::Rule("it speaks another version"));
    }
    tracing::debug!(connection = peer.id, peer = peer.principal, name, "A client says hello");
    let mut common = 0;
    let (mut memory, mut doorbell) = (None, None);
    if features & feature::SHARED_MEMORY != 0 && peer.is_unix && size > 0 {
        let file = inbox.descriptor().ok_or(Broken::Rule("it shares memory without a descriptor"))?;
        memory = Some(Arc::new(SharedMemory::adopt(file, MEMORY_MIN, shared.limits.memory)?));
        doorbell = Some(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
        common |= feature::SHARED_MEMORY;
    }
    if features & feature::LIFELINE != 0 && peer.is_unix && shared.lifelines.is_some() {
        common |= feature::LIFELINE;
    }
    Ok(Greeting { memory, doorbell, features: common, id })
}

fn send(link: &Link, id: u64, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = message.body();
    let head = Head::new(message.kind(), id, body.len());
    link.send(&[head.as_bytes(), &body], descriptors, Some(Instant::now() + SEND_LIMIT))
}

/// What is said on a connection, and where it stands.
struct Conversation {
    connection: Arc<Connection>,
    inbox: Inbox,
    uploads: HashMap<u64, Upload>,
    /// Calls of a batch whose last has not come yet.
    batch: Vec<Heard>,
}

/// A call that was heard, and what its arguments are until it is carried out.
struct Heard {
    /// Its id, or its slot.
    number: u64,
    call: Call,
    /// Bytes of its arguments.
    size: u64,
    /// Those that came with it; none where memory is shared.
    bulk: Option<Bulk>,
    received: Instant,
    cancelled: Arc<AtomicBool>,
}

/// Where replies go.
#[derive(Clone)]
enum Replies {
    Ring(Arc<SharedMemory>),
    Stream(mpsc::Sender<Outgoing>),
}

/// A registration whose bytes are on their way.
struct Upload {
    registration: Registration,
    files: Vec<Arc<[u8]>>,
    /// The file that is being received, and how much of it is there.
    at: (usize, usize),
}

/// A reply and what it says of outputs, for the thread that sends them.
type Outgoing = (u64, Reply, Option<(Bulk, u64)>);

impl Conversation {
    /// Takes calls from the ring, and messages from the socket; sleeps when there are neither.
    fn serve_ring(&mut self, memory: &Arc<SharedMemory>, doorbell: &OwnedFd) -> Result<(), Broken> {
        let mut ring = Ring::new(Arc::clone(memory));
        let mut calls = 0;
        loop {
            while let Some(slot) = ring.take().map_err(|_| Broken::Rule("its ring of calls is inconsistent"))? {
                self.call_in_slot(memory, slot)?;
                calls += 1;
            }
            if calls < CALLS_A_LOOK && self.connection.shared.spin(&ring) {
                continue;
            }
            calls = 0;
            if self.inbox.has_more() || is_readable(self.connection.link.socket()) {
                if !self.converse(None)? {
                    return Ok(());
                }
                continue;
            }
            if !ring.park() {
                continue;
            }
            let parked = Instant::now();
            let socket = self.connection.link.socket();
            let mut fds = [PollFd::new(&socket, PollFlags::IN), PollFd::new(doorbell, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            ring.unpark(Some(parked.elapsed()));
            // Empty when it was the socket that woke us.
            let _ = rustix::io::read(doorbell, &mut [0_u8; 8]);
        }
    }

    /// Takes messages and calls from the socket, one after the other; answers of workers are sent by a thread of its own.
    fn serve_stream(&mut self) -> Result<(), Broken> {
        let (outbox, outgoing) = mpsc::channel::<Outgoing>();
        let connection = Arc::clone(&self.connection);
        let sender = thread::Builder::new().name("accel-replies".to_owned()).spawn(move || {
            for (id, reply, bulk) in outgoing {
                let outputs = bulk.as_ref().map(|(bulk, _)| bulk.outputs(&reply.args)).unwrap_or_default();
                // A failed send has closed the link, which ends the conversation.
                let _ = connection.reply(id, &reply, &outputs);
                drop(outputs);
                if let Some((_, size)) = bulk {
                    connection.gate.leave(size);
                }
            }
        })?;
        let ended = loop {
            match self.converse(Some(&outbox)) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // Calls that wait hold the outbox as well; they are dropped, and the running ones are not waited for.
        self.connection.close();
        drop(outbox);
        drop(sender);
        ended
    }

    /// Hears one message and answers it. `false`: the conversation is over.
    fn converse(&mut self, outbox: Option<&mpsc::Sender<Outgoing>>) -> Result<bool, Broken> {
        let Some(head) = self.inbox.head()? else { return Ok(false) };
        let (kind, id, length) = (head.kind.get(), head.id.get(), head.body_length()?);
        if kind == kind::DATA {
            return self.data(id, length).map(|()| true);
        }
        let body = self.inbox.body(length)?;
        if kind == kind::CALL {
            let outbox = outbox.ok_or(Broken::Rule("it sends a call beside its ring"))?;
            let call = Call::parse(&body)?;
            return self.call(id, call, outbox).map(|()| true);
        }
        let answer = match Message::parse(kind, &body)? {
            Message::Goodbye => return Ok(false),
            Message::Cancel { call } => {
                self.connection.cancel(call);
                return Ok(true);
            }
            Message::Register(registration) => self.register(id, registration),
            message => self.connection.answer(message),
        };
        self.send_answer(id, answer).map(|()| true)
    }

    fn send_answer(&self, id: u64, answer: Result<Message, Refusal>) -> Result<(), Broken> {
        let message = answer.unwrap_or_else(|refusal| {
            let mut message = refusal.message;
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            Message::Fail { status: refusal.status, message }
        });
        Ok(send(&self.connection.link, id, &message, &[])?)
    }

    fn register(&mut self, id: u64, registration: Registration) -> Result<Message, Refusal> {
        let connection = &self.connection;
        let session = connection.session(registration.session)?;
        if let Some(cached) = connection.shared.cache.get(&connection.peer.principal, &registration.digest) {
            return connection.hold(&session, &registration.name, cached);
        }
        let size = registration.size().unwrap_or(u64::MAX);
        connection.check_size(size)?;
        let under_way: u64 = self.uploads.values().filter_map(|upload| upload.registration.size()).sum();
        connection.check_size(size.saturating_add(under_way))?;
        if self.uploads.len() >= UPLOADS_MAX || self.uploads.contains_key(&id) {
            return Err(Refusal::new(status::EBUSY, format!("{UPLOADS_MAX} resources are on their way already")));
        }
        let files = registration.files.iter();
        // The size was checked against what the connection may have, so that each fits.
        let files = files.map(|file| std::iter::repeat_n(0, usize::try_from(file.len).unwrap_or(0)).collect());
        let upload = Upload { files: files.collect(), registration, at: (0, 0) };
        if upload.registration.size() == Some(0) {
            return connection.complete(upload);
        }
        self.uploads.insert(id, upload);
        Ok(Message::Need)
    }

    /// A piece of a resource, or all of it in a memory file.
    fn data(&mut self, id: u64, length: usize) -> Result<(), Broken> {
        let Some(upload) = self.uploads.get_mut(&id) else {
            // The registration was refused while its bytes were on their way.
            self.inbox.body(length)?;
            return Ok(());
        };
        let done = if let Some(file) = self.inbox.descriptor() {
            self.inbox.body(length)?;
            upload.read(file)
        } else {
            upload.receive(&mut self.inbox, length)?
        };
        match done {
            Ok(false) => Ok(()),
            Ok(true) => {
                let upload = self.uploads.remove(&id);
                let answer = upload.map(|upload| self.connection.complete(upload));
                answer.map_or(Ok(()), |answer| self.send_answer(id, answer))
            }
            Err(refusal) => {
                self.uploads.remove(&id);
                self.send_answer(id, Err(refusal))
            }
        }
    }

    /// A call whose arguments follow on the stream.
    fn call(&mut self, id: u64, call: Call, outbox: &mpsc::Sender<Outgoing>) -> Result<(), Broken> {
        let received = Instant::now();
        let connection = &self.connection;
        let limits = &connection.shared.limits;
        let size = bulk::size(&call).unwrap_or(u64::MAX);
        // Those of a batch wait for its last, so that there has to be room for all of them.
        let under_way: u64 = self.batch.iter().map(|heard| heard.size).sum();
        let count = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        if count > 0 && (count >= limits.calls || under_way.saturating_add(size) > limits.bytes) {
            return Err(Broken::Rule("a batch of more calls than may be under way"));
        }
        if size <= limits.bytes {
            connection.gate.enter(size, limits.calls, limits.bytes);
        }
        let bulk = match Bulk::receive(&mut self.inbox, &call, limits.bytes) {
            Ok(bulk) => bulk,
            // Where the next frame begins can no longer be told, or would take too long to find out.
            Err(BulkError::Receive(error)) => return Err(error.into()),
            Err(error) => {
                connection.reply(id, &refused(call.args.len(), status::EINVAL, chain(&error)), &[])?;
                return Err(Broken::Rule("arguments that cannot be received"));
            }
        };
        if !call.head.has_more() && self.batch.is_empty() && is_brief(&call, size) {
            let mut bulk = bulk;
            let reply = connection.carry_out(&call.head, &mut bulk, received);
            connection.reply(id, &reply, &bulk.outputs(&reply.args))?;
            connection.gate.leave(size);
            return Ok(());
        }
        let cancelled = connection.begin(id);
        self.hear(
            Heard { number: id, call, size, bulk: Some(bulk), received, cancelled },
            &Replies::Stream(outbox.clone()),
        );
        Ok(())
    }

    /// Takes a call from a slot: carries it out at once if that is no work, else hands it to the workers.
    fn call_in_slot(&mut self, memory: &Arc<SharedMemory>, slot: u32) -> Result<(), Broken> {
        let received = Instant::now();
        let call = ring::call(memory, slot).map_err(|_| Broken::Rule("a call in its ring is inconsistent"))?;
        let size = bulk::size(&call).unwrap_or(u64::MAX);
        if !call.head.has_more() && self.batch.is_empty() && is_brief(&call, size) {
            self.connection.carry_out_in_slot(memory, slot, &call, received);
            return Ok(());
        }
        let number = u64::from(slot);
        let cancelled = self.connection.begin(number);
        self.hear(Heard { number, call, size, bulk: None, received, cancelled }, &Replies::Ring(Arc::clone(memory)));
        Ok(())
    }

    /// Takes a call, by itself or as one of a batch, and carries the batch out once its last is there: one worker does it,
    /// one call after the other.
    fn hear(&mut self, heard: Heard, replies: &Replies) {
        // A ring has no room for more.
        let is_last = !heard.call.head.has_more() || self.batch.len() + 1 >= SLOTS as usize;
        self.batch.push(heard);
        if !is_last {
            return;
        }
        let calls = std::mem::take(&mut self.batch);
        let size = calls.iter().fold(0_u64, |sum, heard| sum.saturating_add(heard.size));
        let (this, replies) = (Arc::clone(&self.connection), replies.clone());
        let is_brief = size <= BRIEF_MAX && calls.iter().all(|heard| is_brief(&heard.call, heard.size));
        let job = move || calls.into_iter().for_each(|heard| this.carry_out_heard(heard, &replies));
        if is_brief {
            job();
        } else {
            self.connection.shared.pool.push(self.connection.peer.id, Box::new(job));
        }
    }
}

/// Whether a call takes no longer than it takes to wake a worker: nothing, or a little arithmetic.
fn is_brief(call: &Call, size: u64) -> bool {
    match call.head.operation.get() {
        operation::NOOP => true,
        operation::BLAS_SGEMM | operation::FPGA_ARRAY_COPY..=operation::MINMAX => size <= BRIEF_MAX,
        _ => false,
    }
}

fn refused(args: usize, status: i32, message: impl Into<String>) -> Reply {
    let head = ReplyBody { status: status.into(), ..ReplyBody::default() };
    Reply { head, args: vec![crate::wire::ArgResult::default(); args], message: message.into() }
}

impl Upload {
    /// Takes a piece; whether it was the last.
    fn receive(&mut self, inbox: &mut Inbox, length: usize) -> io::Result<Result<bool, Refusal>> {
        let mut left = length;
        while left > 0 {
            let (index, filled) = self.at;
            let Some(file) = self.files.get_mut(index) else {
                inbox.body(left)?;
                return Ok(Err(Refusal::new(status::EINVAL, "the resource has more bytes than its registration says")));
            };
            let count = left.min(file.len() - filled);
            // Nobody else has it yet.
            if let Some(room) = Arc::get_mut(file).and_then(|file| file.get_mut(filled..filled + count)) {
                inbox.exact(room)?;
            }
            left -= count;
            self.at = if filled + count == file.len() { (index + 1, 0) } else { (index, filled + count) };
        }
        Ok(Ok(self.files.iter().skip(self.at.0).all(|file| file.is_empty())))
    }

    /// Takes everything from a memory file, whatever it says of itself: it is copied, and then recognised by its digest.
    fn read(&mut self, file: OwnedFd) -> Result<bool, Refusal> {
        if fcntl_get_seals(&file).is_err() {
            return Err(Refusal::new(status::EINVAL, "the resource does not come in a memory file"));
        }
        let file = File::from(file);
        let mut at = 0;
        for bytes in &mut self.files {
            let Some(bytes) = Arc::get_mut(bytes) else { continue };
            file.read_exact_at(bytes, at)
                .map_err(|error| Refusal::new(status::EINVAL, format!("the resource cannot be read: {error}")))?;
            at += bytes.len() as u64;
        }
        Ok(true)
    }
}

impl Connection {
    /// Everything that takes no bytes besides its own.
    fn answer(&self, message: Message) -> Result<Message, Refusal> {
        Ok(match message {
            Message::List => Message::Operations(self.shared.operations()),
            Message::Profile => Message::Profiled(self.shared.oversight.regions()),
            Message::Open { resources, concurrency, bytes, hint } => {
                let session = self.open(resources, concurrency, bytes, hint)?;
                Message::Opened { session }
            }
            Message::Close { session } => {
                let closed = lock(&self.sessions).open.remove(&session);
                closed.ok_or_else(|| unknown_session(session))?.clear(&self.bytes);
                Message::Done
            }
            Message::Unregister { session, resource } => {
                let owned = self.session(session)?;
                owned.session.unregister(resource)?;
                if let Some(held) = lock(&owned.held).remove(&resource) {
                    owned.forget(&held, &self.bytes);
                }
                Message::Done
            }
            other => return Err(Refusal::new(status::EINVAL, format!("an agent is not told {}", other.kind()))),
        })
    }

    fn open(&self, resources: u32, concurrency: u32, bytes: u64, hint: String) -> Result<u32, Refusal> {
        let most = self.shared.limits.session;
        let count = |wanted: u32, most: usize| match usize::try_from(wanted) {
            Ok(0) | Err(_) => most,
            Ok(wanted) => wanted.min(most),
        };
        let quota = Quota {
            resources: count(resources, most.resources),
            bytes: if bytes == 0 { most.bytes } else { bytes.min(most.bytes) },
            concurrency: count(concurrency, most.concurrency),
            operation_time: most.operation_time,
        };
        let session = self.shared.runtime.session_with(quota);
        if !hint.is_empty() {
            session.prefer(Hint { plugin: Some(hint), ..Hint::default() });
        }
        let mut sessions = lock(&self.sessions);
        let max = self.shared.limits.sessions;
        if u32::try_from(sessions.open.len()).unwrap_or(u32::MAX) >= max {
            return Err(Refusal::new(status::ENOMEM, format!("it would be one session too many; {max} may be open")));
        }
        let wrapped = || Refusal::new(status::ENOMEM, "the connection has used up its numbers of sessions");
        let id = sessions.last.checked_add(1).ok_or_else(wrapped)?;
        sessions.last = id;
        self.shared.counts.sessions.fetch_add(1, SeqCst);
        let owned = Owned { session, held: Mutex::default(), shared: Arc::clone(&self.shared) };
        sessions.open.insert(id, Arc::new(owned));
        Ok(id)
    }

    fn session(&self, id: u32) -> Result<Arc<Owned>, Refusal> {
        lock(&self.sessions).open.get(&id).cloned().ok_or_else(|| unknown_session(id))
    }

    fn check_size(&self, size: u64) -> Result<(), Refusal> {
        let left = self.shared.limits.resources.saturating_sub(self.bytes.load(SeqCst)).min(RESOURCE_MAX);
        if size <= left {
            return Ok(());
        }
        let message = format!("a resource of {size} bytes does not fit; this connection may register {left} more");
        Err(Refusal::new(status::ENOMEM, message))
    }

    /// Registers what was sent, if it is what was announced.
    fn complete(&self, upload: Upload) -> Result<Message, Refusal> {
        let Upload {
            registration: Registration { session, kind, digest: announced, name, files: entries }, files, ..
        } = upload;
        let files: Vec<ResourceFile> =
            entries.into_iter().zip(files).map(|(entry, bytes)| ResourceFile { name: entry.name, bytes }).collect();
        if digest(files.iter().map(|file| (file.name.as_str(), &*file.bytes))) != announced {
            return Err(Refusal::new(status::EINVAL, "the resource's bytes are not those that its digest announced"));
        }
        let kind = match kind {
            0 => ResourceKind::Library,
            2 => ResourceKind::Model,
            _ => ResourceKind::Data,
        };
        let owned = self.session(session)?;
        let cached = self.shared.cache.put(&self.peer.principal, announced, Resource::new(files, kind));
        self.hold(&owned, &name, cached)
    }

    fn hold(&self, owned: &Owned, name: &str, cached: Arc<Cached>) -> Result<Message, Refusal> {
        let size = cached.resource.size();
        self.check_size(size)?;
        let resource = cached.resource.clone();
        let registered =
            if name.is_empty() { owned.session.add(resource) } else { owned.session.register(name, resource) };
        let id = registered?.get();
        self.bytes.fetch_add(size, SeqCst);
        self.shared.counts.resources.fetch_add(1, SeqCst);
        self.shared.counts.bytes.fetch_add(size, SeqCst);
        lock(&owned.held).insert(id, Held { size, _cached: cached });
        if self.closed.load(SeqCst) {
            owned.clear(&self.bytes);
        }
        Ok(Message::Registered { resource: id })
    }

    /// Carries out a call that was heard, and says what became of it.
    fn carry_out_heard(&self, heard: Heard, replies: &Replies) {
        let Heard { number, call, size, bulk, received, cancelled } = heard;
        let unwanted = cancelled
            .load(Acquire)
            .then(|| refused(call.args.len(), status::ETIMEDOUT, "nobody waited for it any more"));
        match replies {
            Replies::Ring(memory) => {
                let reply = unwanted.unwrap_or_else(|| self.carry_out_before(memory, &call, received));
                self.end(number);
                if let Ok(slot) = u32::try_from(number) {
                    ring::finish(memory, slot, &reply);
                }
            }
            Replies::Stream(outbox) => {
                let mut bulk = bulk;
                let reply = match (unwanted, &mut bulk) {
                    (Some(refused), _) => refused,
                    (None, Some(bulk)) => self.carry_out(&call.head, bulk, received),
                    (None, None) => refused(call.args.len(), status::EINVAL, "its arguments did not come"),
                };
                self.end(number);
                // The thread that sends goes with the connection.
                let _ = outbox.send((number, reply, bulk.map(|bulk| (bulk, size))));
            }
        }
    }

    fn carry_out_in_slot(&self, memory: &Arc<SharedMemory>, slot: u32, call: &Call, received: Instant) {
        let reply = self.carry_out_before(memory, call, received);
        ring::finish(memory, slot, &reply);
    }

    /// Carries out a call in shared memory, to the last byte: what is then to be done is to say so.
    fn carry_out_before(&self, memory: &Arc<SharedMemory>, call: &Call, received: Instant) -> Reply {
        match Bulk::lend(memory, call) {
            Ok(mut bulk) => {
                let reply = self.carry_out(&call.head, &mut bulk, received);
                bulk.write_back(memory, &reply.args);
                reply
            }
            Err(error) => refused(call.args.len(), status::EINVAL, chain(&error)),
        }
    }

    fn carry_out(&self, head: &CallBody, bulk: &mut Bulk, received: Instant) -> Reply {
        let _under_way = self.shared.counts.calls();
        let args = usize::try_from(head.args.get()).unwrap_or(0);
        let owned = match self.session(head.session.get()) {
            Ok(owned) => owned,
            Err(refusal) => return refused(args, refusal.status, refusal.message),
        };
        let deadline = head.limit().and_then(|limit| received.checked_add(limit));
        let copied = bulk.copied;
        let (outcome, args) = bulk.run(|args| owned.session.run(head.operation.get(), args, deadline));
        let mut head = ReplyBody::default();
        let message = match outcome {
            Ok(report) => {
                head.elapsed = u64::try_from(report.elapsed.as_nanos()).unwrap_or(u64::MAX).into();
                head.copied = copied.saturating_add(report.bytes_copied).into();
                head.set_plugin(report.plugin);
                String::new()
            }
            Err(error) => {
                head.status = error.status().into();
                error.message()
            }
        };
        Reply { head, args, message }
    }

    fn reply(&self, id: u64, reply: &Reply, outputs: &[&[u8]]) -> io::Result<()> {
        let body = reply.body();
        let head = Head::new(kind::REPLY, id, body.len());
        let mut parts = vec![head.as_bytes(), &body];
        parts.extend(outputs);
        self.link.send(&parts, &[], Some(Instant::now() + SEND_LIMIT))
    }

    fn begin(&self, call: u64) -> Arc<AtomicBool> {
        let cancelled = Arc::new(AtomicBool::new(false));
        lock(&self.calls).insert(call, Arc::clone(&cancelled));
        cancelled
    }

    fn end(&self, call: u64) {
        lock(&self.calls).remove(&call);
    }

    fn cancel(&self, call: u64) {
        if let Some(cancelled) = lock(&self.calls).get(&call) {
            cancelled.store(true, SeqCst);
        }
    }

    /// Gives up everything that the client owned. What a running operation uses goes when it ends.
    fn close(&self) {
        self.closed.store(true, SeqCst);
        self.link.close();
        lock(&self.calls).values().for_each(|cancelled| cancelled.store(true, Relaxed));
        self.shared.pool.forget(self.peer.id);
        let sessions = std::mem::take(&mut lock(&self.sessions).open);
        sessions.values().for_each(|owned| owned.clear(&self.bytes));
    }
}

impl Owned {
    fn forget(&self, held: &Held, of_connection: &AtomicU64) {
        of_connection.fetch_sub(held.size, SeqCst);
        self.shared.counts.resources.fetch_sub(1, SeqCst);
        self.shared.counts.bytes.fetch_sub(held.size, SeqCst);
    }

    /// Gives its resources back, while an operation may still use one.
    fn clear(&self, of_connection: &AtomicU64) {
        for (id, held) in std::mem::take(&mut *lock(&self.held)) {
            // It has been unregistered if it is not there.
            let _ = self.session.unregister(id);
            self.forget(&held, of_connection);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.shared.counts.sessions.fetch_sub(1, SeqCst);
    }
}

fn unknown_session(id: u32) -> Refusal {
    Refusal::new(status::ENOENT, format!("this connection has no session {id}"))
}
