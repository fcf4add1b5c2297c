//! The wire protocol: what client and agent say to each other, little-endian, each message bounded.
//! Used by both sides, which both feed it bytes that a hostile peer chose. Never allocates more than a message's own
//! length, and never trusts a count before its check.
//!
//! ```text
//!  frame:  Head (16 bytes: kind, flags, length, id)  body (length bytes)  bulk (what the body announces)
//! ```
//!
//! An answer has the id of its question. A call's bulk is its inputs one after the other; a reply's bulk what was
//! written of its outputs. Where client and agent share memory, neither has any: arguments are offsets there, and the
//! same [`CallBody`] stands in a slot of the ring.

use std::time::Duration;

use kernlet_abi::accel::{ARGS_MAX, ERROR_MAX, RANK_MAX};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{I32, U16, U32, U64},
};

/// What a conversation begins with.
pub const MAGIC: [u8; 8] = *b"KRNLACCL";
/// The version of this protocol.
pub const VERSION: u16 = 1;
/// Longest body of a message that is no call, reply or data.
pub const BODY_MAX: usize = 64 * 1024;
/// Longest piece of a resource in one frame.
pub const DATA_MAX: usize = 1024 * 1024;
/// Longest name of a plugin, a client, a session's hint, in bytes.
pub const NAME_MAX: usize = 64;
/// Most files of a resource.
pub const FILES_MAX: usize = 256;
/// Longest message of an error, in bytes.
#[allow(clippy::cast_possible_truncation, reason = "it is 1024")]
pub const MESSAGE_MAX: usize = ERROR_MAX as usize;
/// Largest number of arguments of a call.
pub const CALL_ARGS_MAX: usize = ARGS_MAX as usize;

/// What a peer can do besides the least; bits of [`Message::Hello`] and [`Message::Welcome`].
pub mod feature {
    /// Payload in memory that both map, and a ring of calls there.
    pub const SHARED_MEMORY: u32 = 1;
    /// Connections are handed over again, without connecting, when the agent's worker was replaced.
    pub const LIFELINE: u32 = 2;
}

/// Kinds of frames whose body is no [`Message`].
pub mod kind {
    /// A call, then its inputs.
    pub const CALL: u16 = 64;
    /// A reply, then its outputs.
    pub const REPLY: u16 = 65;
    /// A piece of a resource, or (with a descriptor) all of it.
    pub const DATA: u16 = 66;
}

/// A message breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A body is too short, too long, or not as its kind has it.
    #[error("a message of kind {kind} is malformed: {what}")]
    Malformed {
        /// Its kind.
        kind: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A kind that this version does not have.
    #[error("there is no message of kind {0}")]
    UnknownKind(u16),
    /// The length is more than the kind may have.
    #[error("a message of kind {kind} announces {length} bytes; the most is {max}")]
    TooLong {
        /// Its kind.
        kind: u16,
        /// What it announces.
        length: u32,
        /// The limit.
        max: usize,
    },
    /// The peer speaks something else.
    #[error("the peer does not speak this protocol")]
    NotOurs,
}

/// What stands before every body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head {
    /// What follows.
    pub kind: U16,
    /// Zero.
    pub flags: U16,
    /// Bytes of the body.
    pub length: U32,
    /// Which question this is, or is the answer to.
    pub id: U64,
}

/// Bytes of a [`Head`].
pub const HEAD: usize = size_of::<Head>();

impl Head {
    /// The head of a body of this kind and length.
    #[must_use]
    pub fn new(kind: u16, id: u64, length: usize) -> Self {
        // What is longer is refused by the receiver.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        Self { kind: kind.into(), flags: 0.into(), length: length.into(), id: id.into() }
    }

    /// The length of the body, when its kind may have one of that length.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn body_length(&self) -> Result<usize, WireError> {
        let (kind, length) = (self.kind.get(), self.length.get());
        let max = match kind {
            kind::CALL => size_of::<CallBody>() + CALL_ARGS_MAX * size_of::<ArgBody>(),
            kind::REPLY => size_of::<ReplyBody>() + CALL_ARGS_MAX * size_of::<ArgResult>() + MESSAGE_MAX,
            kind::DATA => DATA_MAX,
            _ => BODY_MAX,
        };
        let too_long = WireError::TooLong { kind, length, max };
        usize::try_from(length).ok().filter(|length| *length <= max).ok_or(too_long)
    }
}

/// A call as it stands on the wire and in a slot; its [`ArgBody`]s follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CallBody {
    /// Which session of this connection.
    pub session: U32,
    /// One of [`kernlet_abi::accel::operation`].
    pub operation: U32,
    /// Microseconds from now until nobody waits any more; all ones: no limit.
    pub time_left: U64,
    /// Number of arguments.
    pub args: U32,
    /// One where the next call is to be carried out after this one, in a batch with it; else zero.
    pub more: U32,
}

/// [`CallBody::time_left`] of a call without a deadline.
pub const NO_LIMIT: u64 = u64::MAX;

impl CallBody {
    /// Whether the next call belongs to the same batch.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.more.get() != 0
    }

    /// The time that is left, if it is limited.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        (self.time_left.get() != NO_LIMIT).then(|| Duration::from_micros(self.time_left.get()))
    }
}

/// An argument, with what [`kernlet_abi::accel::AccelArg`] says of it: its offset is one into the shared memory, and zero
/// where none is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArgBody {
    /// Offset in the shared memory.
    pub offset: U64,
    /// Length in bytes.
    pub len: U64,
    /// One of [`kernlet_abi::accel::access`].
    pub access: U32,
    /// Which custom type; zero for others.
    pub custom: U32,
    /// Type and shape; after the call, those of what was written, and how much that is.
    pub result: ArgResult,
}

/// What became of an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArgResult {
    /// Bytes written, from the start.
    pub written: U64,
    /// Dimensions in use.
    pub rank: U32,
    /// One of [`kernlet_abi::accel::dtype`].
    pub dtype: U32,
    /// Shape, outermost first.
    pub dims: [U64; RANK_MAX],
}

impl ArgResult {
    /// The shape, when its rank is one that there is.
    #[must_use]
    pub fn shape(&self) -> Option<Vec<u64>> {
        let rank = usize::try_from(self.rank.get()).ok()?;
        Some(self.dims.get(..rank)?.iter().map(|size| size.get()).collect())
    }

    /// This much written, of this type and shape.
    #[must_use]
    pub fn new(written: u64, dtype: u32, shape: &[u64]) -> Self {
        let mut dims = [U64::ZERO; RANK_MAX];
        let mut rank = 0;
        for (to, from) in dims.iter_mut().zip(shape) {
            *to = U64::new(*from);
            rank += 1;
        }
        Self { written: written.into(), rank: U32::new(rank), dtype: dtype.into(), dims }
    }
}

/// How a call went; on the wire an [`ArgResult`] for each argument and the message follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReplyBody {
    /// Zero, or one of [`kernlet_abi::hypercall::status`].
    pub status: I32,
    /// Number of arguments.
    pub args: U32,
    /// Bytes of the message.
    pub message: U32,
    /// Bytes of the plugin's name.
    pub plugin_len: U32,
    /// Nanoseconds in the plugin.
    pub elapsed: U64,
    /// Bytes that the agent or the plugin copied.
    pub copied: U64,
    /// The plugin that carried it out.
    pub plugin: [u8; 32],
}

impl ReplyBody {
    /// The plugin's name.
    #[must_use]
    pub fn plugin(&self) -> String {
        let len = usize::try_from(self.plugin_len.get()).unwrap_or(usize::MAX).min(self.plugin.len());
        String::from_utf8_lossy(self.plugin.get(..len).unwrap_or_default()).into_owned()
    }

    /// Sets the plugin's name, cut to what has room.
    pub fn set_plugin(&mut self, name: &str) {
        let len = name.floor_char_boundary(self.plugin.len());
        self.plugin = [0; 32];
        for (to, from) in self.plugin.iter_mut().zip(name.as_bytes().iter().take(len)) {
            *to = *from;
        }
        self.plugin_len = U32::new(u32::try_from(len).unwrap_or(0));
    }
}

const _: () = {
    assert!(size_of::<Head>() == 16);
    assert!(size_of::<CallBody>() == 24);
    assert!(size_of::<ArgBody>() == 88);
    assert!(size_of::<ArgResult>() == 64);
    assert!(size_of::<ReplyBody>() == 64);
};

/// What an agent grants a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Calls under way at the same time.
    pub calls: u32,
    /// Sessions at the same time.
    pub sessions: u32,
    /// Bytes of payload under way where none is shared.
    pub bytes: u64,
}

/// An operation that an agent has, and which plugin would do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its number.
    pub operation: u32,
    /// What the plugin is; bits of the runtime's kinds.
    pub kinds: u32,
    /// The plugin.
    pub plugin: String,
}

/// What a plugin did of an operation since the agent began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The operation.
    pub operation: u32,
    /// How often.
    pub count: u64,
    /// Nanoseconds in the plugin, all together.
    pub nanos: u64,
    /// Bytes copied.
    pub copied: u64,
    /// The plugin.
    pub plugin: String,
}

/// A file of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name; empty where the resource is plain bytes.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// A resource that a client registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The session that will have it.
    pub session: u32,
    /// What it is: a number of the runtime's kinds.
    pub kind: u32,
    /// SHA-256 of its [`Registration::files`] and their bytes; see [`crate::digest`].
    pub digest: [u8; 32],
    /// The name that the session gives it.
    pub name: String,
    /// Its files, whose bytes follow one after the other when they are needed.
    pub files: Vec<FileEntry>,
}

impl Registration {
    /// Bytes of all files; `None` beyond 64 bits.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.len))
    }
}

/// Everything that is said besides calls, replies and data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client: what I speak and can, and how much memory I share. The first message.
    Hello {
        /// Oldest version spoken.
        oldest: u16,
        /// Newest version spoken.
        newest: u16,
        /// Bits of [`feature`].
        features: u32,
        /// Bytes of shared memory, whose descriptor comes with it.
        memory: u64,
        /// Who this is, for logs. Who may do what is decided by the transport: its user, its certificate.
        name: String,
    },
    /// Agent: what we speak, and what you get.
    Welcome {
        /// The version from now on.
        version: u16,
        /// Bits of [`feature`] that both have.
        features: u32,
        /// What is granted.
        grants: Grants,
        /// Which worker process this is, counted from one.
        instance: u64,
        /// How the worker before it ended; empty when there was none.
        died: String,
    },
    /// Client: which operations are there?
    List,
    /// Agent: these.
    Operations(Vec<Offered>),
    /// Client: open a session.
    Open {
        /// Most resources; zero: as many as granted.
        resources: u32,
        /// Most calls at a time; zero: as many as granted.
        concurrency: u32,
        /// Most bytes of resources; zero: as many as granted.
        bytes: u64,
        /// The plugin that is to be preferred; empty: none.
        hint: String,
    },
    /// Agent: this is its number.
    Opened {
        /// Number of the session.
        session: u32,
    },
    /// Client: close a session.
    Close {
        /// Which.
        session: u32,
    },
    /// Client: register a resource.
    Register(Registration),
    /// Agent: its bytes, please.
    Need,
    /// Agent: registered.
    Registered {
        /// Its id in the session.
        resource: u32,
    },
    /// Client: forget a resource.
    Unregister {
        /// The session.
        session: u32,
        /// The resource.
        resource: u32,
    },
    /// Client: nobody waits for this call any more.
    Cancel {
        /// Its id, or its slot where memory is shared.
        call: u64,
    },
    /// Client: what was done so far?
    Profile,
    /// Agent: this.
    Profiled(Vec<Region>),
    /// Either: the conversation ends here.
    Goodbye,
    /// Agent: done.
    Done,
    /// Agent: that failed.
    Fail {
        /// One of [`kernlet_abi::hypercall::status`].
        status: i32,
        /// Why.
        message: String,
    },
}

impl Message {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 1,
            Self::Welcome { .. } => 2,
            Self::List => 3,
            Self::Operations(_) => 4,
            Self::Open { .. } => 5,
            Self::Opened { .. } => 6,
            Self::Close { .. } => 7,
            Self::Register(_) => 8,
            Self::Need => 9,
            Self::Registered { .. } => 10,
            Self::Unregister { .. } => 11,
            Self::Cancel { .. } => 12,
            Self::Profile => 13,
            Self::Profiled(_) => 14,
            Self::Goodbye => 15,
            Self::Done => 16,
            Self::Fail { .. } => 17,
        }
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut body = Writer::default();
        match self {
            Self::Hello { oldest, newest, features, memory, name } => {
                body.bytes(&MAGIC).u16(*oldest).u16(*newest).u32(*features).u64(*memory).text(name, NAME_MAX);
            }
            Self::Welcome { version, features, grants, instance, died } => {
                body.bytes(&MAGIC).u16(*version).u32(*features);
                body.u32(grants.calls).u32(grants.sessions).u64(grants.bytes);
                body.u64(*instance).text(died, MESSAGE_MAX);
            }
            Self::List | Self::Need | Self::Profile | Self::Goodbye | Self::Done => {}
            Self::Operations(offers) => {
                for offer in offers {
                    body.u32(offer.operation).u32(offer.kinds).text(&offer.plugin, NAME_MAX);
                }
            }
            Self::Open { resources, concurrency, bytes, hint } => {
                body.u32(*resources).u32(*concurrency).u64(*bytes).text(hint, NAME_MAX);
            }
            Self::Opened { session } | Self::Close { session } => {
                body.u32(*session);
            }
            Self::Register(Registration { session, kind, digest, name, files }) => {
                body.u32(*session).u32(*kind).bytes(digest).text(name, 255);
                for file in files {
                    body.u64(file.len).text(&file.name, 255);
                }
            }
            Self::Registered { resource } => {
                body.u32(*resource);
            }
            Self::Unregister { session, resource } => {
                body.u32(*session).u32(*resource);
            }
            Self::Cancel { call } => {
                body.u64(*call);
            }
            Self::Profiled(regions) => {
                for region in regions {
                    body.u32(region.operation).u64(region.count).u64(region.nanos).u64(region.copied);
                    body.text(&region.plugin, NAME_MAX);
                }
            }
            Self::Fail { status, message } => {
                body.u32(status.cast_unsigned()).text(message, MESSAGE_MAX);
            }
        }
        body.0
    }

    /// The message of a kind and a body.
    ///
    /// # Errors
    /// [`WireError`] when it is none.
    pub fn parse(kind: u16, body: &[u8]) -> Result<Self, WireError> {
        let mut body = Reader { kind, rest: body };
        let message = match kind {
            1 => {
                body.magic()?;
                let (oldest, newest, features) = (body.u16()?, body.u16()?, body.u32()?);
                Self::Hello { oldest, newest, features, memory: body.u64()?, name: body.text(NAME_MAX)? }
            }
            2 => {
                body.magic()?;
                let (version, features) = (body.u16()?, body.u32()?);
                let grants = Grants { calls: body.u32()?, sessions: body.u32()?, bytes: body.u64()? };
                Self::Welcome { version, features, grants, instance: body.u64()?, died: body.text(MESSAGE_MAX)? }
            }
            3 => Self::List,
            4 => Self::Operations(body.all(|body| {
                Ok(Offered { operation: body.u32()?, kinds: body.u32()?, plugin: body.text(NAME_MAX)? })
            })?),
            5 => {
                let (resources, concurrency) = (body.u32()?, body.u32()?);
                Self::Open { resources, concurrency, bytes: body.u64()?, hint: body.text(NAME_MAX)? }
            }
            6 => Self::Opened { session: body.u32()? },
            7 => Self::Close { session: body.u32()? },
            8 => Self::Register(body.registration()?),
            9 => Self::Need,
            10 => Self::Registered { resource: body.u32()? },
            11 => Self::Unregister { session: body.u32()?, resource: body.u32()? },
            12 => Self::Cancel { call: body.u64()? },
            13 => Self::Profile,
            14 => Self::Profiled(body.all(|body| {
                let (operation, count, nanos, copied) = (body.u32()?, body.u64()?, body.u64()?, body.u64()?);
                Ok(Region { operation, count, nanos, copied, plugin: body.text(NAME_MAX)? })
            })?),
            15 => Self::Goodbye,
            16 => Self::Done,
            17 => Self::Fail { status: body.u32()?.cast_signed(), message: body.text(MESSAGE_MAX)? },
            kind => return Err(WireError::UnknownKind(kind)),
        };
        body.end()?;
        Ok(message)
    }
}

/// A call with its arguments, read once from wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is called.
    pub head: CallBody,
    /// On what.
    pub args: Vec<ArgBody>,
}

impl Call {
    /// The call of a body.
    ///
    /// # Errors
    /// The length does not fit the number of arguments, or there are too many.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let wrong = |what| WireError::Malformed { kind: kind::CALL, what };
        let (head, rest) = CallBody::read_from_prefix(body).map_err(|_| wrong("it is cut short"))?;
        let count = usize::try_from(head.args.get()).unwrap_or(usize::MAX);
        if count > CALL_ARGS_MAX {
            return Err(wrong("it has too many arguments"));
        }
        let args = <[ArgBody]>::ref_from_bytes(rest).map_err(|_| wrong("its arguments are cut short"))?;
        if args.len() != count {
            return Err(wrong("it has another number of arguments than it says"));
        }
        Ok(Self { head, args: args.to_vec() })
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        [self.head.as_bytes(), self.args.as_bytes()].concat()
    }
}

/// A reply with what became of each argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// How it went.
    pub head: ReplyBody,
    /// What became of each argument.
    pub args: Vec<ArgResult>,
    /// Of an error: why.
    pub message: String,
}

impl Reply {
    /// The reply of a body.
    ///
    /// # Errors
    /// The length does not fit the number of arguments and the message.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let wrong = |what| WireError::Malformed { kind: kind::REPLY, what };
        let (head, rest) = ReplyBody::read_from_prefix(body).map_err(|_| wrong("it is cut short"))?;
        let count = usize::try_from(head.args.get()).unwrap_or(usize::MAX);
        if count > CALL_ARGS_MAX {
            return Err(wrong("it has too many arguments"));
        }
        let (args, message) =
            <[ArgResult]>::ref_from_prefix_with_elems(rest, count).map_err(|_| wrong("its arguments are cut short"))?;
        if message.len() > MESSAGE_MAX || message.len() != usize::try_from(head.message.get()).unwrap_or(usize::MAX) {
            return Err(wrong("its text has another length than it says"));
        }
        Ok(Self { head, args: args.to_vec(), message: String::from_utf8_lossy(message).into_owned() })
    }

    /// Its body; counts are made to fit.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let message = &self.message.as_bytes()[..self.message.floor_char_boundary(MESSAGE_MAX)];
        let count = |count: usize| U32::new(u32::try_from(count).unwrap_or(u32::MAX));
        let head = ReplyBody { args: count(self.args.len()), message: count(message.len()), ..self.head };
        [head.as_bytes(), self.args.as_bytes(), message].concat()
    }
}

/// Writes the fields of a body.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Its length in two bytes, then the text, cut between characters where it is too long.
    fn text(&mut self, text: &str, max: usize) -> &mut Self {
        let text = &text.as_bytes()[..text.floor_char_boundary(max)];
        self.u16(u16::try_from(text.len()).unwrap_or(0)).bytes(text)
    }
}

/// Reads the fields of a body.
struct Reader<'a> {
    kind: u16,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    const fn wrong(&self, what: &'static str) -> WireError {
        WireError::Malformed { kind: self.kind, what }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.wrong("it is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let wrong = self.wrong("it is cut short");
        self.take(N)?.try_into().map_err(|_| wrong)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn magic(&mut self) -> Result<(), WireError> {
        if self.array::<8>()? == MAGIC { Ok(()) } else { Err(WireError::NotOurs) }
    }

    fn text(&mut self, max: usize) -> Result<String, WireError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(self.wrong("a text is too long"));
        }
        let text = self.take(len)?;
        let text = std::str::from_utf8(text).map_err(|_| self.wrong("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    /// Items until the body is used up: as many as it is long, at most.
    fn all<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        let mut items = Vec::new();
        while !self.rest.is_empty() {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn registration(&mut self) -> Result<Registration, WireError> {
        let (session, kind, digest, name) = (self.u32()?, self.u32()?, self.array()?, self.text(255)?);
        let files = self.all(|body| Ok(FileEntry { len: body.u64()?, name: body.text(255)? }))?;
        if files.is_empty() || files.len() > FILES_MAX {
            return Err(self.wrong("it has no files, or too many"));
        }
        Ok(Registration { session, kind, digest, name, files })
    }

    const fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("it is too long")) }
    }
}
