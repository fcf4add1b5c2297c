//! One connection to an agent, from the client's side: sessions, resources, calls, memory for their arguments.
//! Used by the plugin `remote`, by `kernlet accel bench`, and by tests. Never waits beyond a deadline, whatever the agent
//! does, and believes nothing that it says before a check.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use kernlet_abi::accel::access;
use kernlet_accel::{Arg, Data, Dims, Dtype, RawCall, Resource};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use zerocopy::IntoBytes;

use crate::{
    address::Address,
    arena::{Arena, Hold, SharedBuffer},
    dial::dial,
    digest::digest,
    error::AgentError,
    link::{Inbox, Link, lock},
    memory::SharedMemory,
    ring::{MEMORY_MIN, SLOTS, Submitter, Waited},
    tls::ClientTls,
    wire::{
        ArgBody, ArgResult, Call, CallBody, DATA_MAX, FileEntry, Grants, Head, Message, NO_LIMIT, Offered, Region,
        Registration, Reply, VERSION, WireError, feature, kind,
    },
};

/// How long connecting, and what is no call, may take where the caller does not say.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Most calls that are sent with one word: half of the ring, so that there is room for those of others.
const BATCH_MAX: usize = SLOTS as usize / 2;
/// How long a word to an agent that nobody waits for may take.
const LAST_WORD: Duration = Duration::from_millis(50);

/// What a client wants of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of memory to share over a unix socket: as much as the arguments of all calls under way take. It costs nothing
    /// until it is used. Zero: none is shared, and arguments are sent.
    pub memory: usize,
    /// Who this is, in the agent's log.
    pub name: String,
    /// Certificates, for addresses that ask for TLS.
    pub tls: Option<ClientTls>,
    /// How long connecting may take, until the agent has said what it has.
    pub connect_time: Duration,
    /// Called first thing on each thread that the connection starts.
    pub on_thread: Option<fn()>,
    /// Whether the agent's supervisor is to hand over a new connection when a worker ends, so that nobody needs to connect.
    pub lifeline: bool,
}

impl Default for Options {
    /// 256 MiB shared.
    fn default() -> Self {
        Self {
            memory: 256 * 1024 * 1024,
            name: "kernlet".to_owned(),
            tls: None,
            connect_time: PATIENCE,
            on_thread: None,
            lifeline: false,
        }
    }
}

/// How a call went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallReport {
    /// The agent's plugin that carried it out.
    pub plugin: String,
    /// Time inside the plugin.
    pub elapsed: Duration,
    /// Bytes of arguments that were copied or sent, on both sides.
    pub bytes_copied: u64,
}

/// A connection. Cheap to clone; clones are the same connection, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    operations: Vec<Offered>,
    grants: Grants,
    instance: u64,
    died: String,
    lifeline: Mutex<Option<OwnedFd>>,
    inbox: Mutex<Option<Inbox>>,
    reading: OnceLock<bool>,
    on_thread: Option<fn()>,
    passes_files: bool,
    ids: AtomicU64,
}

/// What the thread that listens needs.
#[derive(Debug)]
struct Core {
    address: String,
    link: Arc<Link>,
    ring: Option<ClientRing>,
    waiting: Mutex<Waiting>,
    /// Calls that were answered, for those who wait for room.
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    waiters: HashMap<u64, Arc<Waiter>>,
    lost: bool,
}

/// Somebody who waits for an answer.
#[derive(Debug, Default)]
struct Waiter {
    answer: Mutex<Option<Incoming>>,
    came: Condvar,
    /// Of a call on a stream: room of each argument that is written.
    outputs: Vec<Option<u64>>,
    /// Bytes of its arguments.
    size: u64,
    is_call: bool,
}

#[derive(Debug)]
enum Incoming {
    Message(Message),
    Reply(Reply, Vec<Vec<u8>>),
    Lost,
}

/// The ring, and the slots that are free.
#[derive(Debug)]
struct ClientRing {
    submitter: Submitter,
    arena: Arc<Arena>,
    doorbell: OwnedFd,
    slots: Mutex<Slots>,
    freed: Condvar,
}

#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    /// Slots that nobody waited for to the end, with what the agent may still write to.
    abandoned: Vec<(u32, Vec<Hold>)>,
    lost: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let body = Message::Goodbye.body();
        let head = Head::new(Message::Goodbye.kind(), 0, body.len());
        // It may be gone already.
        let _ = self.core.link.send(&[head.as_bytes(), &body], &[], Some(Instant::now() + LAST_WORD));
        self.core.link.close();
    }
}

impl Connection {
    /// Connects to an agent, and asks what it has. Starts no thread yet.
    ///
    /// # Errors
    /// Nobody answers there, or something else than an agent.
    pub fn open(address: &Address, options: &Options) -> Result<Self, AgentError> {
        let unreachable = |source| AgentError::Connect { address: address.to_string(), source };
        Self::over(dial(address, options.connect_time).map_err(unreachable)?, address, options)
    }

    /// The same over a socket that is connected to that address already.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn over(socket: OwnedFd, address: &Address, options: &Options) -> Result<Self, AgentError> {
        let text = address.to_string();
        match address {
            Address::Unix(_) => {
                let memory = match options.memory {
                    0 => None,
                    len => {
                        let memory = SharedMemory::create(len.max(MEMORY_MIN));
                        Some(Arc::new(memory.map_err(|error| AgentError::System("make memory to share", error))?))
                    }
                };
                Self::greet(Link::plain(socket), text, memory, options)
            }
            Address::Tcp(_) | Address::Vsock { .. } => Self::greet(Link::plain(socket), text, None, options),
            Address::Tls(at) => {
                let tls = options.tls.as_ref().ok_or_else(|| AgentError::NoCertificate { address: text.clone() })?;
                let wrong = |source| AgentError::Tls { address: text.clone(), source };
                let unreachable = |source| AgentError::Connect { address: text.clone(), source };
                let session = tls.connect(&at.host).map_err(wrong)?;
                let deadline = Instant::now() + options.connect_time;
                let link = Link::secured(socket, session, deadline).map_err(unreachable)?;
                Self::greet(link, text, None, options)
            }
        }
    }

    fn greet(
        link: Link,
        address: String,
        memory: Option<Arc<SharedMemory>>,
        options: &Options,
    ) -> Result<Self, AgentError> {
        let deadline = Instant::now() + options.connect_time;
        let link = Arc::new(link);
        let mut inbox = Inbox::new(Arc::clone(&link));
        let mut features = if memory.is_some() { feature::SHARED_MEMORY } else { 0 };
        if options.lifeline {
            features |= feature::LIFELINE;
        }
        let size = memory.as_ref().map_or(0, |memory| memory.len() as u64);
        let name = options.name.clone();
        let hello = Message::Hello { oldest: VERSION, newest: VERSION, features, memory: size, name };
        let file: Vec<BorrowedFd<'_>> = memory.iter().map(|memory| memory.file()).collect();
        let mut ask = |message: &Message, files: &[BorrowedFd<'_>]| -> Result<Message, AgentError> {
            let body = message.body();
            let head = Head::new(message.kind(), 0, body.len());
            let lost = |_| AgentError::Lost { address: address.clone(), why: String::new() };
            link.send(&[head.as_bytes(), &body], files, Some(deadline)).map_err(lost)?;
            if !inbox.has_more() && !link.await_input(deadline).map_err(lost)? {
                return Err(AgentError::TimedOut { address: address.clone() });
            }
            let head = inbox.head().map_err(lost)?;
            let head = head.ok_or(AgentError::Lost { address: address.clone(), why: String::new() })?;
            let protocol = |source| AgentError::Protocol { address: address.clone(), source };
            let body = inbox.body(head.body_length().map_err(protocol)?).map_err(lost)?;
            match Message::parse(head.kind.get(), &body).map_err(protocol)? {
                Message::Fail { status, message } => Err(AgentError::Refused { status, message }),
                message => Ok(message),
            }
        };
        let nonsense = |what| AgentError::Nonsense { address: address.clone(), what };
        let Message::Welcome { version, features: common, grants, instance, died } = ask(&hello, &file)? else {
            return Err(nonsense("it does not say welcome"));
        };
        if version != VERSION || common & !features != 0 {
            return Err(nonsense("it chose what was not offered"));
        }
        let Message::Operations(operations) = ask(&Message::List, &[])? else {
            return Err(nonsense("it does not say what it has"));
        };
        let mut ring = None;
        let passes_files = memory.is_some();
        if let Some(memory) = memory.filter(|_| common & feature::SHARED_MEMORY != 0) {
            let doorbell = inbox.descriptor().ok_or_else(|| nonsense("it shares memory without a doorbell"))?;
            ring = Some(ClientRing {
                submitter: Submitter::new(Arc::clone(&memory)),
                arena: Arc::new(Arena::new(memory)),
                doorbell,
                slots: Mutex::new(Slots { free: (0..SLOTS).rev().collect(), abandoned: Vec::new(), lost: false }),
                freed: Condvar::new(),
            });
        }
        let lifeline = if common & feature::LIFELINE == 0 { None } else { inbox.descriptor() };
        let core = Core { address, link, ring, waiting: Mutex::default(), answered: Condvar::new() };
        Ok(Self(Arc::new(Inner {
            core: Arc::new(core),
            operations,
            grants,
            instance,
            died,
            lifeline: Mutex::new(lifeline),
            inbox: Mutex::new(Some(inbox)),
            reading: OnceLock::new(),
            on_thread: options.on_thread,
            passes_files,
            ids: AtomicU64::new(1),
        })))
    }

    /// The operations that the agent has, and which plugin has them.
    #[must_use]
    pub fn operations(&self) -> &[Offered] {
        &self.0.operations
    }

    /// Which of an agent's worker processes answers, and how the one before it ended.
    #[must_use]
    pub fn instance(&self) -> (u64, &str) {
        (self.0.instance, &self.0.died)
    }

    /// Whether payload is in memory that both have.
    #[must_use]
    pub fn shares_memory(&self) -> bool {
        self.0.core.ring.is_some()
    }

    /// Whether the connection is at its end.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        lock(&self.0.core.waiting).lost
    }

    /// A buffer that calls use without copying it, where memory is shared: `None` where none is, or there is no room.
    #[must_use]
    pub fn allocate(&self, len: usize) -> Option<SharedBuffer> {
        self.0.core.ring.as_ref()?.arena.buffer(len)
    }

    /// Ends it at once, as the end of this process would.
    pub fn cut(&self) {
        self.0.core.link.close();
    }

    pub(crate) fn take_lifeline(&self) -> Option<OwnedFd> {
        lock(&self.0.lifeline).take()
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The agent refuses, or is lost.
    pub fn session(&self, hint: Option<&str>) -> Result<RemoteSession, AgentError> {
        self.session_by(hint, Instant::now() + PATIENCE)
    }

    pub(crate) fn session_by(&self, hint: Option<&str>, deadline: Instant) -> Result<RemoteSession, AgentError> {
        let hint = hint.unwrap_or_default().to_owned();
        let open = Message::Open { resources: 0, concurrency: 0, bytes: 0, hint };
        match self.ask(&open, Some(deadline))? {
            Message::Opened { session } => Ok(RemoteSession { connection: self.clone(), id: session }),
            _ => Err(self.nonsense("it opens no session")),
        }
    }

    /// What the agent's plugins did so far.
    ///
    /// # Errors
    /// The agent is lost.
    pub fn profile(&self) -> Result<Vec<Region>, AgentError> {
        match self.ask(&Message::Profile, Some(Instant::now() + PATIENCE))? {
            Message::Profiled(regions) => Ok(regions),
            _ => Err(self.nonsense("it has no profile")),
        }
    }

    fn nonsense(&self, what: &'static str) -> AgentError {
        // Whoever says nonsense once is not listened to any more.
        self.0.core.link.close();
        AgentError::Nonsense { address: self.0.core.address.clone(), what }
    }

    fn lost(&self) -> AgentError {
        self.0.core.lost()
    }

    fn timed_out(&self) -> AgentError {
        AgentError::TimedOut { address: self.0.core.address.clone() }
    }

    /// Starts the thread that listens, the first time.
    fn listen(&self) -> Result<(), AgentError> {
        let started = self.0.reading.get_or_init(|| {
            let Some(inbox) = lock(&self.0.inbox).take() else { return false };
            let core = Arc::clone(&self.0.core);
            let on_thread = self.0.on_thread;
            let listen = move || {
                if let Some(on_thread) = on_thread {
                    on_thread();
                }
                core.listen(inbox);
            };
            thread::Builder::new().name("accel-client".to_owned()).spawn(listen).is_ok()
        });
        if *started { Ok(()) } else { Err(self.lost()) }
    }

    fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Relaxed)
    }

    fn ask(&self, message: &Message, deadline: Option<Instant>) -> Result<Message, AgentError> {
        let id = self.next_id();
        let waiter = self.expect(id, Waiter::default())?;
        self.say(id, message, &[], deadline)?;
        self.hear(id, &waiter, deadline)
    }

    fn expect(&self, id: u64, waiter: Waiter) -> Result<Arc<Waiter>, AgentError> {
        self.listen()?;
        let waiter = Arc::new(waiter);
        let mut waiting = lock(&self.0.core.waiting);
        if waiting.lost {
            drop(waiting);
            return Err(self.lost());
        }
        waiting.waiters.insert(id, Arc::clone(&waiter));
        Ok(waiter)
    }

    fn say(
        &self,
        id: u64,
        message: &Message,
        files: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(), AgentError> {
        let body = message.body();
        let head = Head::new(message.kind(), id, body.len());
        self.send(&[head.as_bytes(), &body], files, deadline)
    }

    fn send(&self, parts: &[&[u8]], files: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<(), AgentError> {
        self.0.core.link.send(parts, files, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => self.timed_out(),
            _ => self.lost(),
        })
    }

    fn hear(&self, id: u64, waiter: &Waiter, deadline: Option<Instant>) -> Result<Message, AgentError> {
        match waiter.wait(deadline) {
            Some(Incoming::Message(Message::Fail { status, message })) => Err(AgentError::Refused { status, message }),
            Some(Incoming::Message(message)) => Ok(message),
            Some(Incoming::Reply(..)) => Err(self.nonsense("it replies to what was no call")),
            Some(Incoming::Lost) => Err(self.lost()),
            None => {
                lock(&self.0.core.waiting).waiters.remove(&id);
                Err(self.timed_out())
            }
        }
    }

    fn register(
        &self,
        session: u32,
        name: &str,
        resource: &Resource,
        deadline: Option<Instant>,
    ) -> Result<u32, AgentError> {
        let files = resource.files();
        let digest = digest_of(resource);
        let entry =
            |file: &kernlet_accel::ResourceFile| FileEntry { name: file.name.clone(), len: file.bytes.len() as u64 };
        let registration = Registration {
            session,
            kind: resource.kind() as u32,
            digest,
            name: name.to_owned(),
            files: files.iter().map(entry).collect(),
        };
        let message = Message::Register(registration);
        if message.body().len() > crate::wire::BODY_MAX || files.len() > crate::wire::FILES_MAX {
            return Err(AgentError::TooLarge(format!("a resource of {} files is too many for an agent", files.len())));
        }
        // A second for each 10 MB, so that a slow line is not mistaken for a dead one.
        let patience = Instant::now() + PATIENCE + Duration::from_secs(resource.size() / 10_000_000);
        let deadline = Some(deadline.map_or(patience, |deadline| deadline.min(patience)));
        let id = self.next_id();
        let waiter = self.expect(id, Waiter::default())?;
        self.say(id, &message, &[], deadline)?;
        let answer = match self.hear(id, &waiter, deadline)? {
            Message::Need => {
                let waiter = self.expect(id, Waiter::default())?;
                self.upload(id, resource, deadline)?;
                self.hear(id, &waiter, deadline)?
            }
            answer => answer,
        };
        match answer {
            Message::Registered { resource } => Ok(resource),
            _ => Err(self.nonsense("it registers nothing")),
        }
    }

    fn upload(&self, id: u64, resource: &Resource, deadline: Option<Instant>) -> Result<(), AgentError> {
        if self.0.passes_files {
            let file = memory_file(resource).map_err(|error| AgentError::System("make a memory file", error))?;
            return self.send(&[Head::new(kind::DATA, id, 0).as_bytes()], &[file.as_fd()], deadline);
        }
        let chunks = resource.files().iter().flat_map(|file| file.bytes.chunks(DATA_MAX));
        for chunk in chunks {
            self.send(&[Head::new(kind::DATA, id, chunk.len()).as_bytes(), chunk], &[], deadline)?;
        }
        Ok(())
    }

    fn call(
        &self,
        session: u32,
        operation: u32,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallReport, AgentError> {
        self.listen()?;
        let head = self.head(session, operation, args, deadline)?;
        match &self.0.core.ring {
            Some(ring) => self.call_by_ring(ring, head, args, deadline),
            None => self.call_by_stream(head, args, deadline),
        }
    }

    /// What a call begins with, if it can be made at all.
    fn head(
        &self,
        session: u32,
        operation: u32,
        args: &[Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallBody, AgentError> {
        if args.len() > crate::wire::CALL_ARGS_MAX {
            return Err(AgentError::TooLarge(format!("{} arguments are too many for a call", args.len())));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(self.timed_out());
        }
        let time_left = left.map_or(NO_LIMIT, |left| u64::try_from(left.as_micros()).unwrap_or(NO_LIMIT - 1).max(1));
        Ok(CallBody {
            session: session.into(),
            operation: operation.into(),
            time_left: time_left.into(),
            args: u32::try_from(args.len()).unwrap_or(u32::MAX).into(),
            ..CallBody::default()
        })
    }

    /// Several calls with one word, as many as there is room for, then the next ones.
    fn batch(
        &self,
        session: u32,
        calls: &mut [RawCall<'_, '_>],
        deadline: Option<Instant>,
    ) -> Vec<Result<CallReport, AgentError>> {
        let mut outcomes = Vec::with_capacity(calls.len());
        while let Some(rest) = calls.get_mut(outcomes.len()..).filter(|rest| !rest.is_empty()) {
            let sent = self.listen().and_then(|()| match &self.0.core.ring {
                Some(ring) => self.batch_by_ring(ring, session, rest, deadline),
                None => self.batch_by_stream(session, rest, deadline),
            });
            match sent {
                Ok(some) => outcomes.extend(some),
                Err(error) => outcomes.push(Err(error)),
            }
        }
        outcomes
    }

    /// The first of some calls, and those after it that there is room for now. An error is the first one's: then
    /// nothing is sent.
    fn batch_by_ring(
        &self,
        ring: &ClientRing,
        session: u32,
        calls: &mut [RawCall<'_, '_>],
        deadline: Option<Instant>,
    ) -> Result<Vec<Result<CallReport, AgentError>>, AgentError> {
        let mut sent: Vec<(u32, CallBody, Staged)> = Vec::new();
        for call in calls.iter().take(BATCH_MAX) {
            let staged = self.head(session, call.operation, call.args, deadline).and_then(|head| {
                let staged = ring.stage(call.args)?;
                Ok((head, staged))
            });
            let slot = match (&staged, sent.is_empty()) {
                (Ok(_), true) => Some(ring.slot(deadline).ok_or_else(|| self.timed_out())?.ok_or_else(|| self.lost())?),
                (Ok(_), false) => ring.slot_at_once(),
                (Err(_), _) => None,
            };
            match (staged, slot) {
                (Ok((head, staged)), Some(slot)) => sent.push((slot, head, staged)),
                (Err(error), _) if sent.is_empty() => return Err(error),
                // It goes with the next ones.
                _ => break,
            }
        }
        let last = sent.len().saturating_sub(1);
        for (index, (slot, head, staged)) in sent.iter_mut().enumerate() {
            head.more = u32::from(index < last).into();
            ring.submitter.fill(*slot, head, &staged.bodies);
        }
        self.submit(ring, sent.iter().map(|(slot, ..)| *slot))?;
        let finish = |((slot, _, staged), call): ((u32, CallBody, Staged), &mut RawCall<'_, '_>)| {
            self.finish(ring, slot, staged, call.args, deadline)
        };
        Ok(sent.into_iter().zip(calls).map(finish).collect())
    }

    fn call_by_ring(
        &self,
        ring: &ClientRing,
        head: CallBody,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallReport, AgentError> {
        let staged = ring.stage(args)?;
        let slot = ring.slot(deadline).ok_or_else(|| self.timed_out())?.ok_or_else(|| self.lost())?;
        ring.submitter.fill(slot, &head, &staged.bodies);
        self.submit(ring, [slot])?;
        self.finish(ring, slot, staged, args, deadline)
    }

    fn submit(&self, ring: &ClientRing, filled: impl IntoIterator<Item = u32>) -> Result<(), AgentError> {
        let slots = lock(&ring.slots);
        if slots.lost {
            drop(slots);
            return Err(self.lost());
        }
        // Under the lock, so that slots are queued one at a time, and none after the connection was lost.
        ring.submitter.submit(filled, &ring.doorbell);
        Ok(())
    }

    /// Waits for what was submitted, and takes its results.
    fn finish(
        &self,
        ring: &ClientRing,
        slot: u32,
        staged: Staged,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallReport, AgentError> {
        let Staged { holds, elsewhere, mut copied, .. } = staged;
        match ring.submitter.wait(slot, deadline) {
            Waited::Done => {}
            Waited::Lost => return Err(self.lost()),
            Waited::Late => {
                // The agent may still write there.
                lock(&ring.slots).abandoned.push((slot, holds));
                let cancel = Message::Cancel { call: slot.into() };
                let _ = self.say(0, &cancel, &[], Some(Instant::now() + LAST_WORD));
                return Err(self.timed_out());
            }
        }
        let reply = ring.submitter.reply(slot, args.len());
        let outcome = check(&reply);
        if outcome.is_ok() {
            for ((arg, result), elsewhere) in args.iter_mut().zip(&reply.args).zip(&elsewhere) {
                let written = take_result(arg, result);
                let room = match &mut arg.data {
                    Data::In(_) => continue,
                    // Of what was read and written all comes back, whatever part was written.
                    Data::InOut(bytes) => &mut bytes[..],
                    Data::Out(bytes) => bytes.get_mut(..written).unwrap_or_default(),
                };
                if let Some(at) = elsewhere {
                    // The block is at least as long as the bytes.
                    let _ = ring.arena.memory.read(*at, room);
                    copied += room.len() as u64;
                }
            }
        }
        drop(holds);
        ring.give_back(slot);
        outcome.map(|report| CallReport { bytes_copied: report.bytes_copied.saturating_add(copied), ..report })
    }

    fn call_by_stream(
        &self,
        head: CallBody,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallReport, AgentError> {
        let size = self.size_of(args)?;
        self.enter(size, deadline)?;
        let spoken = self.speak(head, args, size)?;
        self.send(&spoken.parts(args), &[], deadline)?;
        self.hear_reply(&spoken, args, deadline)
    }

    /// As [`Self::batch_by_ring`], on a stream.
    fn batch_by_stream(
        &self,
        session: u32,
        calls: &mut [RawCall<'_, '_>],
        deadline: Option<Instant>,
    ) -> Result<Vec<Result<CallReport, AgentError>>, AgentError> {
        let mut sizes = Vec::new();
        for call in calls.iter().take(BATCH_MAX) {
            let fits = self.head(session, call.operation, call.args, deadline).and_then(|head| {
                let size = self.size_of(call.args)?;
                Ok((head, size))
            });
            match fits {
                Err(error) if sizes.is_empty() => return Err(error),
                Ok((head, size)) if self.fits(&sizes, size) => sizes.push((head, size)),
                // It goes with the next ones.
                _ => break,
            }
        }
        self.enter_with(&sizes, deadline)?;
        let last = sizes.len().saturating_sub(1);
        let mut spoken = Vec::with_capacity(sizes.len());
        for (index, ((mut head, size), call)) in sizes.into_iter().zip(calls.iter()).enumerate() {
            head.more = u32::from(index < last).into();
            spoken.push(self.speak(head, call.args, size)?);
        }
        let parts: Vec<&[u8]> =
            spoken.iter().zip(calls.iter()).flat_map(|(spoken, call)| spoken.parts(call.args)).collect();
        self.send(&parts, &[], deadline)?;
        drop(parts);
        let hear = |(spoken, call): (&Spoken, &mut RawCall<'_, '_>)| self.hear_reply(spoken, call.args, deadline);
        Ok(spoken.iter().zip(calls).map(hear).collect())
    }

    /// Bytes of a call's arguments, if the agent takes so many.
    fn size_of(&self, args: &[Arg<'_>]) -> Result<u64, AgentError> {
        let size: u64 = args.iter().map(|arg| arg.data.len() as u64).sum();
        let max = self.0.grants.bytes;
        if size <= max {
            return Ok(size);
        }
        Err(AgentError::TooLarge(format!("arguments of {size} bytes are more than the {max} that the agent takes")))
    }

    /// Begins to wait for a call, before it is sent.
    fn speak(&self, head: CallBody, args: &[Arg<'_>], size: u64) -> Result<Spoken, AgentError> {
        let output = |arg: &Arg<'_>| (!matches!(arg.data, Data::In(_))).then(|| arg.data.len() as u64);
        let waiter = Waiter { outputs: args.iter().map(output).collect(), size, is_call: true, ..Waiter::default() };
        let id = self.next_id();
        let waiter = self.expect(id, waiter)?;
        let described = args.iter().map(|arg| {
            let (bytes, access) = look(&arg.data);
            describe(arg, 0, bytes.len(), access)
        });
        let body = Call { head, args: described.collect() }.body();
        Ok(Spoken { id, waiter, head: Head::new(kind::CALL, id, body.len()), body })
    }

    fn hear_reply(
        &self,
        spoken: &Spoken,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallReport, AgentError> {
        let read = args.iter().map(|arg| if let Data::Out(_) = arg.data { 0 } else { arg.data.len() as u64 });
        let mut copied: u64 = read.sum();
        let (reply, outputs) = match spoken.waiter.wait(deadline) {
            Some(Incoming::Reply(reply, outputs)) => (reply, outputs),
            Some(Incoming::Message(Message::Fail { status, message })) => {
                return Err(AgentError::Refused { status, message });
            }
            Some(Incoming::Message(_)) => return Err(self.nonsense("it answers a call with something else")),
            Some(Incoming::Lost) => return Err(self.lost()),
            None => {
                // The reply, when it comes, is read and forgotten.
                let _ = self.say(0, &Message::Cancel { call: spoken.id }, &[], Some(Instant::now() + LAST_WORD));
                return Err(self.timed_out());
            }
        };
        let report = check(&reply)?;
        let mut outputs = outputs.into_iter();
        for (arg, result) in args.iter_mut().zip(&reply.args) {
            take_result(arg, result);
            if let Data::Out(room) | Data::InOut(room) = &mut arg.data {
                let bytes = outputs.next().unwrap_or_default();
                if let Some(room) = room.get_mut(..bytes.len()) {
                    room.copy_from_slice(&bytes);
                    copied += bytes.len() as u64;
                }
            }
        }
        Ok(CallReport { bytes_copied: report.bytes_copied.saturating_add(copied), ..report })
    }

    /// Whether a call of so many bytes may be under way together with these.
    fn fits(&self, others: &[(CallBody, u64)], size: u64) -> bool {
        let grants = self.0.grants;
        let bytes: u64 = others.iter().map(|(_, size)| size).sum();
        others.is_empty() || ((others.len() as u64) < u64::from(grants.calls) && bytes + size <= grants.bytes)
    }

    /// Waits until there is room for one more call of so many bytes. The reader gives it back.
    fn enter(&self, size: u64, deadline: Option<Instant>) -> Result<(), AgentError> {
        self.enter_with(&[(CallBody::default(), size)], deadline)
    }

    /// The same for several calls, which are within what is granted.
    fn enter_with(&self, calls: &[(CallBody, u64)], deadline: Option<Instant>) -> Result<(), AgentError> {
        let grants = self.0.grants;
        let (more, size) = (calls.len() as u64, calls.iter().map(|(_, size)| size).sum::<u64>());
        let mut waiting = lock(&self.0.core.waiting);
        loop {
            if waiting.lost {
                drop(waiting);
                return Err(self.lost());
            }
            let under_way = waiting.waiters.values().filter(|waiter| waiter.is_call);
            let (count, bytes) = under_way.fold((0_u64, 0_u64), |(count, bytes), call| (count + 1, bytes + call.size));
            if count == 0 || (count + more <= u64::from(grants.calls) && bytes + size <= grants.bytes) {
                return Ok(());
            }
            let left = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                drop(waiting);
                return Err(self.timed_out());
            }
            waiting = self.0.core.answered.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A call on a stream that is about to be sent.
struct Spoken {
    id: u64,
    waiter: Arc<Waiter>,
    head: Head,
    body: Vec<u8>,
}

impl Spoken {
    /// What is sent of it: what it is, then what is read.
    fn parts<'a>(&'a self, args: &'a [Arg<'_>]) -> Vec<&'a [u8]> {
        let read = args.iter().map(|arg| look(&arg.data)).filter(|(_, access)| *access != access::OUT);
        [self.head.as_bytes(), &self.body].into_iter().chain(read.map(|(bytes, _)| bytes)).collect()
    }
}

/// Arguments in the memory that is shared.
struct Staged {
    bodies: Vec<ArgBody>,
    holds: Vec<Hold>,
    /// Where an argument that lies elsewhere is copied to, and from.
    elsewhere: Vec<Option<usize>>,
    copied: u64,
}

fn no_room(len: usize) -> AgentError {
    AgentError::TooLarge(format!("there is no room for {len} bytes in the memory that is shared with the agent"))
}

/// The bytes of an argument, and how they are used.
fn look<'a>(data: &'a Data<'_>) -> (&'a [u8], u32) {
    match data {
        Data::In(bytes) => (bytes, access::IN),
        Data::Out(bytes) => (bytes, access::OUT),
        Data::InOut(bytes) => (bytes, access::IN_OUT),
    }
}

fn describe(arg: &Arg<'_>, offset: u64, len: usize, access: u32) -> ArgBody {
    ArgBody {
        offset: offset.into(),
        len: (len as u64).into(),
        access: access.into(),
        custom: arg.custom.into(),
        result: ArgResult::new(0, arg.dtype.abi_number(), arg.dims.sizes()),
    }
}

/// What a reply says, if it says that all went well.
fn check(reply: &Reply) -> Result<CallReport, AgentError> {
    match reply.head.status.get() {
        0 => Ok(CallReport {
            plugin: reply.head.plugin(),
            elapsed: Duration::from_nanos(reply.head.elapsed.get()),
            bytes_copied: reply.head.copied.get(),
        }),
        status => Err(AgentError::Refused { status, message: reply.message.clone() }),
    }
}

/// Fills in what was written, as far as it can be; how many bytes that is.
fn take_result(arg: &mut Arg<'_>, result: &ArgResult) -> usize {
    if matches!(arg.data, Data::In(_)) {
        return 0;
    }
    let len = arg.data.len();
    let written = usize::try_from(result.written.get()).unwrap_or(usize::MAX).min(len);
    arg.written = written as u64;
    if let Ok(dtype) = Dtype::from_abi(result.dtype.get()) {
        arg.dtype = dtype;
    }
    arg.dims = result.shape().and_then(|shape| Dims::new(&shape).ok()).unwrap_or_default();
    written
}

/// What a resource is recognised by.
fn digest_of(resource: &Resource) -> [u8; 32] {
    digest(resource.files().iter().map(|file| (file.name.as_str(), &*file.bytes)))
}

/// A resource's bytes in a memory file that nobody can change any more.
fn memory_file(resource: &Resource) -> io::Result<OwnedFd> {
    let file = memfd_create("kernlet-resource", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, resource.size())?;
    let file = File::from(file);
    let mut at = 0;
    for part in resource.files() {
        file.write_all_at(&part.bytes, at)?;
        at += part.bytes.len() as u64;
    }
    let file = OwnedFd::from(file);
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

impl Waiter {
    /// The answer; `None` when it does not come in time.
    fn wait(&self, deadline: Option<Instant>) -> Option<Incoming> {
        let mut answer = lock(&self.answer);
        loop {
            if let Some(answer) = answer.take() {
                return Some(answer);
            }
            let left = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            answer = self.came.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give(&self, answer: Incoming) {
        *lock(&self.answer) = Some(answer);
        self.came.notify_all();
    }
}

impl Core {
    fn lost(&self) -> AgentError {
        AgentError::Lost { address: self.address.clone(), why: String::new() }
    }

    /// Hears answers until the connection ends, and then tells everybody who waits.
    fn listen(&self, mut inbox: Inbox) {
        while let Ok(true) = self.hear(&mut inbox) {}
        self.link.close();
        // First, so that whoever is woken finds it lost.
        let mut waiting = lock(&self.waiting);
        waiting.lost = true;
        let waiters = std::mem::take(&mut waiting.waiters);
        drop(waiting);
        if let Some(ring) = &self.ring {
            let mut slots = lock(&ring.slots);
            slots.lost = true;
            ring.submitter.lose_all();
            drop(slots);
            ring.freed.notify_all();
        }
        waiters.values().for_each(|waiter| waiter.give(Incoming::Lost));
        self.answered.notify_all();
    }

    /// Hears one answer. `false`, or an error: the connection is at its end.
    fn hear(&self, inbox: &mut Inbox) -> Result<bool, Box<dyn std::error::Error>> {
        let Some(head) = inbox.head()? else { return Ok(false) };
        let (kind, id) = (head.kind.get(), head.id.get());
        let body = inbox.body(head.body_length()?)?;
        let waiter = lock(&self.waiting).waiters.get(&id).cloned();
        if kind != kind::REPLY {
            let message = Message::parse(kind, &body)?;
            if matches!(message, Message::Goodbye) {
                return Ok(false);
            }
            // Nobody may wait for it any more.
            self.answer(id, Incoming::Message(message));
            return Ok(true);
        }
        let reply = Reply::parse(&body)?;
        // A reply whose outputs cannot be told apart from the next frame.
        let waiter = waiter.ok_or(WireError::Malformed { kind, what: "it replies to what was not asked" })?;
        let mut outputs = Vec::new();
        for (result, room) in reply.args.iter().zip(&waiter.outputs) {
            let Some(room) = room else { continue };
            let written = result.written.get();
            if written > *room {
                return Err(WireError::Malformed { kind, what: "it has more output than there is room for" }.into());
            }
            outputs.push(inbox.body(usize::try_from(written)?)?);
        }
        self.answer(id, Incoming::Reply(reply, outputs));
        Ok(true)
    }

    fn answer(&self, id: u64, incoming: Incoming) {
        let waiter = lock(&self.waiting).waiters.remove(&id);
        if let Some(waiter) = waiter {
            waiter.give(incoming);
        }
        self.answered.notify_all();
    }
}

impl ClientRing {
    /// A free slot; `Some(None)` when the connection is lost, `None` when there is none in time.
    fn slot(&self, deadline: Option<Instant>) -> Option<Option<u32>> {
        let mut slots = lock(&self.slots);
        loop {
            if slots.lost {
                return Some(None);
            }
            if let Some(slot) = slots.free.pop() {
                return Some(Some(slot));
            }
            let (done, rest) = std::mem::take(&mut slots.abandoned)
                .into_iter()
                .partition(|(slot, _): &(u32, _)| self.submitter.is_done(*slot));
            slots.abandoned = rest;
            let done: Vec<_> = done;
            if !done.is_empty() {
                slots.free.extend(done.iter().map(|(slot, _)| *slot));
                continue;
            }
            // An abandoned slot is looked at again after a while: nobody says when it is done.
            let left = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let left = left.min(Duration::from_millis(20));
            slots = self.freed.wait_timeout(slots, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A slot that is free now.
    fn slot_at_once(&self) -> Option<u32> {
        let mut slots = lock(&self.slots);
        if slots.lost { None } else { slots.free.pop() }
    }

    /// Puts arguments where both sides find them.
    fn stage(&self, args: &[Arg<'_>]) -> Result<Staged, AgentError> {
        let (bodies, holds) = (Vec::with_capacity(args.len()), Vec::with_capacity(args.len()));
        let mut staged = Staged { bodies, holds, elsewhere: vec![None; args.len()], copied: 0 };
        for (arg, elsewhere) in args.iter().zip(&mut staged.elsewhere) {
            let (bytes, access) = look(&arg.data);
            let mut at = 0;
            if !bytes.is_empty() {
                let (hold, start) = match self.arena.hold(bytes) {
                    Some(found) => found,
                    None => {
                        let hold = self.arena.take(bytes.len()).ok_or_else(|| no_room(bytes.len()))?;
                        let at = hold.at();
                        if access != access::OUT {
                            // The block is as long as the bytes.
                            let _ = self.arena.memory.write(at, bytes);
                            staged.copied += bytes.len() as u64;
                        }
                        *elsewhere = Some(at);
                        (hold, at)
                    }
                };
                staged.holds.push(hold);
                at = start;
            }
            staged.bodies.push(describe(arg, at as u64, bytes.len(), access));
        }
        Ok(staged)
    }

    fn give_back(&self, slot: u32) {
        self.submitter.retire(slot);
        let mut slots = lock(&self.slots);
        let waited_for = slots.free.is_empty();
        slots.free.push(slot);
        drop(slots);
        if waited_for {
            self.freed.notify_one();
        }
    }
}

/// A session at an agent. It ends when it is dropped, and everything that is registered in it.
#[derive(Debug)]
pub struct RemoteSession {
    connection: Connection,
    id: u32,
}

impl RemoteSession {
    /// The number of a session that was not opened: the first that an agent opens is one.
    const UNOPENED: u32 = 0;

    /// Keeps a connection whose session is opened later.
    pub(crate) const fn unopened(connection: Connection) -> Self {
        Self { connection, id: Self::UNOPENED }
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.id != Self::UNOPENED
    }

    /// Registers a resource under a name (or none, if that is empty), and says its id there. What the agent has from this
    /// user already is not sent.
    ///
    /// # Errors
    /// The agent refuses, or is lost.
    pub fn register(&self, name: &str, resource: &Resource) -> Result<u32, AgentError> {
        self.connection.register(self.id, name, resource, None)
    }

    /// The same without a name, in time.
    pub(crate) fn add(&self, resource: &Resource, deadline: Option<Instant>) -> Result<u32, AgentError> {
        self.connection.register(self.id, "", resource, deadline)
    }

    /// Takes a resource back without waiting for the answer.
    pub(crate) fn forget(&self, resource: u32) {
        let unregister = Message::Unregister { session: self.id, resource };
        let _ = self.connection.say(0, &unregister, &[], Some(Instant::now() + LAST_WORD));
    }

    /// Takes a resource back.
    ///
    /// # Errors
    /// The session does not have it, or the agent is lost.
    pub fn unregister(&self, resource: u32) -> Result<(), AgentError> {
        let unregister = Message::Unregister { session: self.id, resource };
        self.connection.ask(&unregister, Some(Instant::now() + PATIENCE)).map(|_| ())
    }

    /// Carries out an operation of [`kernlet_abi::accel::operation`], and fills in what was written, as
    /// [`kernlet_accel::Session::run`] does. Arguments in a [`SharedBuffer`] of this connection are not copied.
    ///
    /// # Errors
    /// The operation failed, the agent is lost, or nothing came in time.
    pub fn run(
        &self,
        operation: u32,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<CallReport, AgentError> {
        self.connection.call(self.id, operation, args, deadline)
    }

    /// Carries out several operations in their order, with one word to the agent, and says of each what became of it, as
    /// [`kernlet_accel::Session::run_batch`] does. More than there is room for are sent in parts.
    pub fn run_batch(
        &self,
        calls: &mut [RawCall<'_, '_>],
        deadline: Option<Instant>,
    ) -> Vec<Result<CallReport, AgentError>> {
        self.connection.batch(self.id, calls, deadline)
    }

    /// Its number on this connection.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The connection that it belongs to.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for RemoteSession {
    fn drop(&mut self) {
        if !self.is_open() {
            return;
        }
        // Nobody waits for the answer, and a connection that is lost has no sessions.
        let close = Message::Close { session: self.id };
        let _ = self.connection.say(0, &close, &[], Some(Instant::now() + LAST_WORD));
    }
}
