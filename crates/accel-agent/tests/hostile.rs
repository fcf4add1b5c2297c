//! Clients that lie to an agent, and agents that lie to a client: each costs its own connection and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    io::{ErrorKind, IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use kernlet_abi::{
    accel::{access, dtype},
    hypercall::status,
};
use kernlet_accel::{Operation, Resource};
use kernlet_accel_agent::{
    Address, AgentError, Connection, Limits, Options,
    wire::{
        ArgBody, ArgResult, Call, CallBody, FileEntry, Grants, HEAD, Head, Message, NO_LIMIT, Registration, Reply,
        VERSION, feature, kind,
    },
};
use proptest::prelude::*;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use support::{Home, home, home_with, numbers};

/// A client that says what a test makes it say.
struct Liar(UnixStream);

impl Liar {
    fn new(home: &Home) -> Self {
        let Address::Unix(path) = &home.address else { panic!("another address") };
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(socket)
    }

    fn say(&mut self, id: u64, message: &Message) {
        let body = message.body();
        let head = Head::new(message.kind(), id, body.len());
        // The agent may have had enough already.
        let _ = self.0.write_all(&[head.as_bytes(), &body].concat());
    }

    fn hear(&mut self) -> Option<(u64, u16, Vec<u8>)> {
        let mut head = [0; HEAD];
        self.0.read_exact(&mut head).ok()?;
        let head = Head::read_from_bytes(&head).unwrap();
        let mut body = vec![0; head.body_length().unwrap()];
        self.0.read_exact(&mut body).ok()?;
        Some((head.id.get(), head.kind.get(), body))
    }

    fn answer(&mut self) -> Message {
        let (_, kind, body) = self.hear().unwrap();
        Message::parse(kind, &body).unwrap()
    }

    fn greet(&mut self) {
        self.say(0, &hello(0, 0));
        assert!(matches!(self.answer(), Message::Welcome { .. }));
    }

    fn open(&mut self) -> u32 {
        self.say(1, &Message::Open { resources: 0, concurrency: 0, bytes: 0, hint: String::new() });
        let Message::Opened { session } = self.answer() else { panic!("no session") };
        session
    }

    /// The agent ends the conversation, be it before it has read everything.
    fn is_cut(&mut self) -> bool {
        let end = self.0.read_to_end(&mut Vec::new());
        end.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true)
    }
}

fn hello(features: u32, memory: u64) -> Message {
    Message::Hello { oldest: VERSION, newest: VERSION, features, memory, name: "liar".to_owned() }
}

/// Others are served as if nothing had happened.
fn serves(home: &Home) {
    let session = home.connect().session(None).unwrap();
    let mut to = [0; 3];
    numbers(&session, &[1, 2, 3], &mut to).unwrap();
    assert_eq!(to, [1, 2, 3]);
}

#[test]
fn what_is_no_greeting_ends_the_connection() {
    let home = home();
    let words: [Vec<u8>; 5] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        Head::new(1, 0, 1 << 30).as_bytes().to_vec(),
        [Head::new(3, 0, 0).as_bytes(), b""].concat(),
        Head::new(kind::CALL, 0, 24).as_bytes().to_vec(),
    ];
    for words in words {
        let mut liar = Liar::new(&home);
        liar.0.write_all(&words).unwrap();
        let _ = liar.0.shutdown(std::net::Shutdown::Write);
        assert!(liar.is_cut());
    }
    let mut liar = Liar::new(&home);
    liar.say(0, &Message::Hello { oldest: 7, newest: 9, features: 0, memory: 0, name: String::new() });
    let Message::Fail { status, message } = liar.answer() else { panic!("served") };
    assert_eq!(status, status::ENOTSUP);
    assert!(message.contains("version 1"), "{message}");
    serves(&home);
}

#[test]
fn lengths_that_lie_end_the_connection_or_are_refused() {
    let home = home();
    let args = |len: u64, access: u32, dtype: u32, rank: u32| {
        let result = ArgResult { rank: rank.into(), dtype: dtype.into(), ..ArgResult::default() };
        ArgBody { len: len.into(), access: access.into(), result, ..ArgBody::default() }
    };
    let lies = [
        args(u64::MAX, access::OUT, dtype::I32, 0),
        args(1 << 40, access::IN, dtype::I32, 0),
        args(8, 9, dtype::I32, 0),
        args(8, access::IN, 77, 0),
        args(8, access::IN, dtype::I32, 99),
    ];
    for lie in lies {
        let mut liar = Liar::new(&home);
        liar.greet();
        let session = liar.open();
        let head = CallBody {
            session: session.into(),
            operation: Operation::FpgaArrayCopy.abi_number().into(),
            time_left: NO_LIMIT.into(),
            args: 1.into(),
            ..CallBody::default()
        };
        let body = Call { head, args: vec![lie] }.body();
        let frame = [Head::new(kind::CALL, 5, body.len()).as_bytes(), &body, &[0; 8]].concat();
        liar.0.write_all(&frame).unwrap();
        let (id, answered, body) = liar.hear().unwrap();
        assert_eq!((id, answered), (5, kind::REPLY));
        assert_ne!(Reply::parse(&body).unwrap().head.status.get(), 0);
        assert!(liar.is_cut());
    }
    // A count that lies.
    let mut liar = Liar::new(&home);
    liar.greet();
    let head = CallBody { args: 5.into(), ..CallBody::default() };
    liar.0.write_all(&[Head::new(kind::CALL, 5, 24).as_bytes(), head.as_bytes()].concat()).unwrap();
    assert!(liar.is_cut());
    serves(&home);
}

#[test]
fn a_resource_that_is_not_what_its_digest_says_is_refused() {
    let home = home();
    let mut liar = Liar::new(&home);
    liar.greet();
    let session = liar.open();
    let file = |len| vec![FileEntry { name: "model".to_owned(), len }];
    let register = |len, digest| {
        Message::Register(Registration { session, kind: 2, digest, name: "model".to_owned(), files: file(len) })
    };
    liar.say(7, &register(4, [1; 32]));
    assert_eq!(liar.answer(), Message::Need);
    liar.0.write_all(&[Head::new(kind::DATA, 7, 4).as_bytes(), b"fake"].concat()).unwrap();
    assert!(matches!(liar.answer(), Message::Fail { status: status::EINVAL, .. }));
    // More than there is, and more than was announced.
    liar.say(8, &register(u64::MAX, [1; 32]));
    assert!(matches!(liar.answer(), Message::Fail { status: status::ENOMEM, .. }));
    liar.say(9, &register(2, [1; 32]));
    assert_eq!(liar.answer(), Message::Need);
    liar.0.write_all(&[Head::new(kind::DATA, 9, 4).as_bytes(), b"fake"].concat()).unwrap();
    assert!(matches!(liar.answer(), Message::Fail { status: status::EINVAL, .. }));
    // Somebody else's, whose digest is known, is found by the same user only; a session that there is not has none.
    liar.say(10, &Message::Unregister { session: 99, resource: 1 });
    assert!(matches!(liar.answer(), Message::Fail { status: status::ENOENT, .. }));
    assert_eq!(home.agent.stats().resources, 0);
    serves(&home);
}

fn share(liar: &Liar, file: BorrowedFd<'_>, size: u64) {
    let body = hello(feature::SHARED_MEMORY, size).body();
    let frame = [Head::new(1, 0, body.len()).as_bytes(), &body].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&liar.0, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
}

fn memory(size: u64, seals: SealFlags) -> OwnedFd {
    let file = memfd_create("liar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, size).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

const SIZE: u64 = 1 << 20;

#[test]
fn memory_that_could_shrink_is_refused() {
    let home = home();
    let tempfile: OwnedFd = tempfile::tempfile().unwrap().into();
    for file in [memory(SIZE, SealFlags::GROW), memory(4096, SealFlags::GROW | SealFlags::SHRINK), tempfile] {
        let mut liar = Liar::new(&home);
        share(&liar, file.as_fd(), SIZE);
        assert!(liar.is_cut());
    }
    serves(&home);
}

/// A ring that a liar writes by hand, as the layout in the crate's `ring` has it.
struct HandMade {
    file: std::fs::File,
    liar: Liar,
    tail: u32,
}

impl HandMade {
    fn new(home: &Home) -> Self {
        let file = memory(SIZE, SealFlags::GROW | SealFlags::SHRINK);
        let mut liar = Liar::new(home);
        share(&liar, file.as_fd(), SIZE);
        // The doorbell that comes with it is closed with the bytes that it comes with: plain reads drop it.
        assert!(matches!(liar.answer(), Message::Welcome { .. }));
        let session = liar.open();
        assert_eq!(session, 1);
        Self { file: file.into(), liar, tail: 0 }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, at).unwrap();
    }

    fn submit(&mut self, slot: u32, call: &Call) {
        self.put(0x1000 + u64::from(slot) * 4096 + 64, &call.body());
        self.put(0x1000 + u64::from(slot % 64) * 4096, &1_u32.to_le_bytes());
        self.put(0x80 + u64::from(self.tail % 64) * 4, &slot.to_le_bytes());
        self.tail += 1;
        self.put(0, &self.tail.to_le_bytes());
        // A message wakes the agent as well as the doorbell would.
        self.liar.say(77, &Message::Cancel { call: 1000 });
    }

    /// The status in a slot, once it is finished.
    fn status(&self, slot: u32) -> i32 {
        let read = |at: u64| {
            let mut bytes = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut bytes, at).unwrap();
            i32::from_le_bytes(bytes)
        };
        let at = 0x1000 + u64::from(slot) * 4096;
        support::wait_until(|| read(at) == 2, || "the slot is not finished".to_owned());
        read(at + 3008)
    }
}

fn copy(from: (u64, u64), to: (u64, u64)) -> Call {
    let arg = |(offset, len): (u64, u64), access: u32| {
        let result = ArgResult { dtype: dtype::I32.into(), ..ArgResult::default() };
        ArgBody { offset: offset.into(), len: len.into(), access: access.into(), result, ..ArgBody::default() }
    };
    let head = CallBody {
        session: 1.into(),
        operation: Operation::FpgaArrayCopy.abi_number().into(),
        time_left: NO_LIMIT.into(),
        args: 2.into(),
        ..CallBody::default()
    };
    Call { head, args: vec![arg(from, access::IN), arg(to, access::OUT)] }
}

#[test]
fn ranges_outside_of_the_payload_or_overlapping_are_refused() {
    const P: u64 = 0x41000;
    let home = home();
    let mut ring = HandMade::new(&home);
    ring.submit(0, &copy((P, 4096), (P + 4096, 4096)));
    assert_eq!(ring.status(0), 0);
    let lies = [
        ((0, 4096), (P, 4096)),
        ((P, 4096), (0x1000, 4096)),
        ((SIZE, 4), (P, 4)),
        ((P, u64::MAX), (P, u64::MAX)),
        ((u64::MAX, 8), (P, 8)),
        ((P, 4096), (P + 4, 4096)),
        ((P, 4096), (P + 4097, 4096)),
        ((P, 4), (P + 2, 400)),
    ];
    for (slot, (from, to)) in (1..).zip(lies) {
        ring.submit(slot, &copy(from, to));
        assert_eq!(ring.status(slot), status::EINVAL, "{from:?} {to:?}");
    }
    let mut stranger = copy((P, 8), (P + 8, 8));
    stranger.head.session = 2.into();
    ring.submit(20, &stranger);
    assert_eq!(ring.status(20), status::ENOENT);
    ring.submit(21, &copy((P, 4096), (P + 4096, 4096)));
    assert_eq!(ring.status(21), 0, "the connection serves on");
    serves(&home);
}

#[test]
fn a_ring_that_is_inconsistent_ends_the_connection() {
    let home = home();
    let mut no_such_slot = HandMade::new(&home);
    no_such_slot.put(0x80, &64_u32.to_le_bytes());
    no_such_slot.put(0, &1_u32.to_le_bytes());
    no_such_slot.liar.say(77, &Message::Cancel { call: 1000 });
    assert!(no_such_slot.liar.is_cut());
    let mut too_many = HandMade::new(&home);
    too_many.put(0, &65_u32.to_le_bytes());
    too_many.liar.say(77, &Message::Cancel { call: 1000 });
    assert!(too_many.liar.is_cut());
    let mut too_many_args = HandMade::new(&home);
    let head = CallBody { args: 33.into(), ..CallBody::default() };
    too_many_args.submit(0, &Call { head, args: Vec::new() });
    assert!(too_many_args.liar.is_cut());
    serves(&home);
    home.wait_until(|stats| stats.sessions == 0);
}

/// An agent that answers with whatever a test gives it.
fn lying_agent(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, Address) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("liar.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = [0; 64 * 1024];
        for answer in answers {
            let _ = socket.read(&mut buffer);
            let _ = socket.write_all(&answer);
        }
    });
    (folder, Address::Unix(path))
}

fn frame(id: u64, message: &Message) -> Vec<u8> {
    let body = message.body();
    [Head::new(message.kind(), id, body.len()).as_bytes(), &body].concat()
}

#[test]
fn a_client_survives_an_agent_that_lies() {
    let grants = Grants { calls: 8, sessions: 8, bytes: 1 << 20 };
    let welcome =
        |features| frame(0, &Message::Welcome { version: VERSION, features, grants, instance: 1, died: String::new() });
    let reply = |args: usize, written: u64| {
        let mut reply = Reply { args: vec![ArgResult::new(written, dtype::I32, &[]); args], ..Reply::default() };
        reply.head.args = 0.into();
        let body = reply.body();
        [Head::new(kind::REPLY, 2, body.len()).as_bytes(), &body].concat()
    };
    let list = frame(0, &Message::Operations(Vec::new()));
    let opened = frame(1, &Message::Opened { session: 1 });
    let stories: Vec<Vec<Vec<u8>>> = vec![
        vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()],
        vec![frame(0, &Message::Done)],
        vec![welcome(feature::LIFELINE)],
        vec![welcome(feature::SHARED_MEMORY)],
        vec![welcome(0), vec![0xff; 64]],
        vec![welcome(0), list.clone(), frame(1, &Message::Need)],
        vec![welcome(0), list.clone(), opened.clone(), reply(2, 1 << 40)],
        vec![welcome(0), list.clone(), opened.clone(), reply(1, 0)],
        vec![welcome(0), list.clone(), opened.clone(), frame(2, &Message::Done)],
        vec![welcome(0), list.clone(), opened, Head::new(kind::REPLY, 2, 1 << 30).as_bytes().to_vec()],
    ];
    for (index, story) in stories.into_iter().enumerate() {
        let (_folder, address) = lying_agent(story);
        let outcome = Connection::open(&address, &Options { memory: 0, ..Options::default() }).and_then(|connection| {
            let session = connection.session(None)?;
            let mut to = [0; 4];
            let outcome = numbers(&session, &[1, 2, 3, 4], &mut to);
            assert_eq!(to, [0; 4], "nothing was written");
            outcome.map(|_| ())
        });
        // A reply that is well-formed and writes less than was asked for is no lie that a client could see.
        match outcome {
            Err(error) => assert!(matches!(error.status(), status::EIO | status::ETIMEDOUT), "{index}: {error}"),
            Ok(()) => assert_eq!(index, 7),
        }
    }
}

#[test]
fn an_agent_that_never_answers_costs_the_deadline_and_no_more() {
    let (_folder, address) = lying_agent(vec![]);
    let options = Options { memory: 0, connect_time: Duration::from_millis(50), ..Options::default() };
    let error = Connection::open(&address, &options).unwrap_err();
    assert!(matches!(error, AgentError::TimedOut { .. } | AgentError::Lost { .. }), "{error}");
}

fn text() -> impl Strategy<Value = String> {
    "[a-z]{0,40}"
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u16>(), any::<u16>(), any::<u32>(), any::<u64>(), text()).prop_map(
            |(oldest, newest, features, memory, name)| Message::Hello { oldest, newest, features, memory, name }
        ),
        (any::<u32>(), any::<u64>(), any::<u64>(), text()).prop_map(|(features, bytes, instance, died)| {
            let grants = Grants { calls: features, sessions: 1, bytes };
            Message::Welcome { version: 1, features, grants, instance, died }
        }),
        (any::<u32>(), any::<u32>(), any::<u64>(), text())
            .prop_map(|(resources, concurrency, bytes, hint)| Message::Open { resources, concurrency, bytes, hint }),
        (any::<u32>(), any::<[u8; 32]>(), text(), prop::collection::vec((text(), any::<u64>()), 1..20)).prop_map(
            |(session, digest, name, files)| {
                let files = files.into_iter().map(|(name, len)| FileEntry { name, len }).collect();
                Message::Register(Registration { session, kind: 1, digest, name, files })
            }
        ),
        (any::<i32>(), text()).prop_map(|(status, message)| Message::Fail { status, message }),
        any::<u64>().prop_map(|call| Message::Cancel { call }),
        Just(Message::Goodbye),
    ]
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(message in message()) {
        prop_assert_eq!(Message::parse(message.kind(), &message.body()), Ok(message));
    }

    #[test]
    fn any_bytes_are_a_message_of_those_bytes_or_none(kind in 0_u16..80, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::parse(kind, &bytes) {
            prop_assert_eq!(message.body(), bytes.clone());
        }
        if let Ok(call) = Call::parse(&bytes) {
            prop_assert_eq!(call.body(), bytes.clone());
        }
        let _ = Reply::parse(&bytes);
    }

    #[test]
    fn a_message_that_is_cut_is_none(message in message(), cut in any::<prop::sample::Index>()) {
        let body = message.body();
        if !body.is_empty() {
            let cut = cut.index(body.len());
            let parsed = Message::parse(message.kind(), &body[..cut]);
            prop_assert!(parsed.as_ref() != Ok(&message));
        }
    }
}

#[test]
fn a_resource_needs_a_session_of_its_own_connection() {
    let home = home();
    let connection = home.connect();
    let session = connection.session(None).unwrap();
    session.register("model", &Resource::from_bytes(*b"mine")).unwrap();
    let mut liar = Liar::new(&home);
    liar.greet();
    liar.say(3, &Message::Unregister { session: session.id(), resource: 1 });
    assert!(matches!(liar.answer(), Message::Fail { status: status::ENOENT, .. }));
    liar.say(4, &Message::Close { session: session.id() });
    assert!(matches!(liar.answer(), Message::Fail { status: status::ENOENT, .. }));
    assert_eq!(home.agent.stats().resources, 1);
}

#[test]
fn a_batch_that_never_ends_or_is_too_large_costs_its_own_connection() {
    let home = home_with(Limits { calls: 8, bytes: 1000, ..Limits::default() });
    let call = |session: u32, count: u32| {
        let operation = Operation::FpgaArrayCopy.abi_number();
        let head = CallBody {
            session: session.into(),
            operation: operation.into(),
            time_left: NO_LIMIT.into(),
            args: 2.into(),
            more: 1.into(),
        };
        let arg = |access: u32| ArgBody {
            len: u64::from(count * 4).into(),
            access: access.into(),
            result: ArgResult::new(0, dtype::I32, &[]),
            ..ArgBody::default()
        };
        let body = Call { head, args: vec![arg(access::IN), arg(access::OUT)] }.body();
        (body, vec![0; count as usize * 4])
    };
    for count in [1, 100] {
        let mut liar = Liar::new(&home);
        liar.greet();
        let session = liar.open();
        for id in 2..100 {
            let (body, bulk) = call(session, count);
            let head = Head::new(kind::CALL, id, body.len());
            // The agent has had enough after eight of them, or a thousand bytes.
            if liar.0.write_all(&[head.as_bytes(), &body, &bulk].concat()).is_err() {
                break;
            }
        }
        assert!(liar.is_cut());
        serves(&home);
    }
    // One that waits for the rest of its batch takes nobody's time.
    let mut liar = Liar::new(&home);
    liar.greet();
    let session = liar.open();
    let (body, bulk) = call(session, 1);
    liar.0.write_all(&[Head::new(kind::CALL, 2, body.len()).as_bytes(), &body, &bulk].concat()).unwrap();
    serves(&home);
    drop(liar);
    home.wait_until(|stats| stats.connections == 0);
}
