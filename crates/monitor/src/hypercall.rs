//! Serves hypercalls: reads an argument block that a hostile guest wrote, checks every range in it against
//! the machine's layout, acts, and writes the answer back. Called by the run loop, with the guest stopped.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kernlet_abi::{
    ABI_VERSION, Span,
    hypercall::{
        CallHead, Clock, ENTROPY_MAX, Entropy, Exit, FindResource, LOG_MESSAGE_MAX, Log, NextRequest, exit_reason,
        number, status,
    },
};
use kernlet_accel::Report;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    accelerate,
    crash::Cause,
    layout::Layout,
    limits::Limits,
    memory::GuestMemory,
    message::{Level, Services, Usage},
    report::LastLines,
};

/// What the block of a call is called.
pub(crate) const BLOCK: &str = "a hypercall's arguments";

/// Longest resource name looked up, in bytes.
const RESOURCE_NAME_MAX: u64 = 256;

/// What the run loop does after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Lets the guest go on.
    Continue,
    /// The guest waits for a request; address of its response, zero for none.
    Wait {
        /// Address of the response head.
        response: u64,
    },
}

/// Guest memory with its map: what the guest names is looked up here.
#[derive(Debug)]
pub(crate) struct GuestView {
    pub(crate) memory: GuestMemory,
    pub(crate) layout: Layout,
}

impl GuestView {
    /// Checks that the guest may use a range so.
    pub(crate) fn check(&self, what: &'static str, span: Span, write: bool) -> Result<(), Cause> {
        if self.layout.allows(span, write) {
            Ok(())
        } else {
            Err(Cause::BadPointer { what, offset: span.offset, len: span.len, write })
        }
    }

    /// Reads a structure that the guest may use so.
    pub(crate) fn load<T: FromBytes + IntoBytes>(
        &self,
        what: &'static str,
        offset: u64,
        write: bool,
    ) -> Result<T, Cause> {
        let span = Span { offset, len: size_of::<T>() as u64 };
        self.check(what, span, write)?;
        self.memory.load(offset).map_err(|_| Cause::BadPointer { what, offset, len: span.len, write })
    }

    /// Copies out a range that the guest may read; an empty one may be anywhere.
    pub(crate) fn read(&self, what: &'static str, span: Span) -> Result<Vec<u8>, Cause> {
        let mut bytes = Vec::new();
        self.read_into(what, span, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`Self::read`], in place of what `to` holds.
    pub(crate) fn read_into(&self, what: &'static str, span: Span, to: &mut Vec<u8>) -> Result<(), Cause> {
        self.check(what, span, false)?;
        let Span { offset, len } = span;
        self.memory.read_span(span, to).map_err(|_| Cause::BadPointer { what, offset, len, write: false })
    }

    pub(crate) fn store<T: IntoBytes + Immutable>(&self, offset: u64, value: &T) -> Result<(), Cause> {
        self.write(offset, value.as_bytes())
    }

    /// Writes to a range that was checked before.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Cause> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len() as u64;
        self.memory.write(offset, bytes).map_err(|_| Cause::BadPointer { what: "an answer", offset, len, write: true })
    }

    /// Text of at most `max` bytes; the rest is cut, bad UTF-8 is replaced.
    fn text(&self, what: &'static str, span: Span, max: u64) -> Result<String, Cause> {
        self.check(what, span, false)?;
        let bytes = self.read(what, Span { offset: span.offset, len: span.len.min(max) })?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

/// What calls need besides memory.
#[derive(Debug)]
pub(crate) struct CallContext {
    pub(crate) services: Services,
    pub(crate) limits: Limits,
    pub(crate) usage: Usage,
    pub(crate) call_id: String,
    pub(crate) deadline: Instant,
    /// When the machine got its first request.
    pub(crate) started: Option<Instant>,
    /// The last lines that the guest logged in this invocation.
    pub(crate) last_lines: LastLines,
    /// How its last accelerator operation went.
    pub(crate) accelerated: Option<Report>,
}

impl CallContext {
    /// Of a machine that has had no request.
    pub(crate) fn new(services: Services, deadline: Instant) -> Self {
        Self {
            services,
            limits: Limits::default(),
            usage: Usage::default(),
            call_id: String::new(),
            deadline,
            started: None,
            last_lines: LastLines::default(),
            accelerated: None,
        }
    }
}

/// Serves the call whose argument block is at `block`.
pub(crate) fn serve(guest: &mut GuestView, context: &mut CallContext, block: u64) -> Result<Flow, Cause> {
    let head: CallHead = guest.load(BLOCK, block, true)?;
    let mut result = status::OK;
    let mut flow = Flow::Continue;
    match head.number {
        number::NEXT_REQUEST => {
            let call: NextRequest = guest.load(BLOCK, block, true)?;
            flow = Flow::Wait { response: call.response };
        }
        number::LOG => log(guest, context, &guest.load(BLOCK, block, true)?)?,
        number::CLOCK => {
            let call: Clock = guest.load(BLOCK, block, true)?;
            guest.store(block, &clock(context, call))?;
        }
        number::ENTROPY => result = entropy(guest, &guest.load(BLOCK, block, true)?)?,
        number::ACCEL => result = accelerate::one(guest, context, block)?,
        number::ACCEL_BATCH => result = accelerate::batch(guest, context, &guest.load(BLOCK, block, true)?)?,
        number::FIND_RESOURCE => {
            let call: FindResource = guest.load(BLOCK, block, true)?;
            result = find_resource(guest, context, block, call)?;
        }
        number::EXIT => return Err(exit(guest, &guest.load(BLOCK, block, true)?)?),
        number => return Err(Cause::UnknownHypercall { number }),
    }
    guest.store(block, &CallHead { number: head.number, status: result })?;
    Ok(flow)
}

fn log(guest: &GuestView, context: &mut CallContext, call: &Log) -> Result<(), Cause> {
    let text = guest.text("a log message", call.message, LOG_MESSAGE_MAX)?;
    let (level, text) = (Level::from_abi(call.level), text.trim_end_matches('\n'));
    context.services.log.line(&context.call_id, level, text);
    context.last_lines.push(level, text);
    Ok(())
}

fn clock(context: &CallContext, call: Clock) -> Clock {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Clock {
        realtime_ns: nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        monotonic_ns: nanos(context.started.map(|started| started.elapsed()).unwrap_or_default()),
        ..call
    }
}

fn entropy(guest: &GuestView, call: &Entropy) -> Result<i32, Cause> {
    guest.check("the buffer for entropy", call.buffer, true)?;
    if call.buffer.len > ENTROPY_MAX {
        return Ok(status::EINVAL);
    }
    let mut offset = call.buffer.offset;
    let mut left = usize::try_from(call.buffer.len).unwrap_or_default();
    let mut chunk = [0; 256];
    while left > 0 {
        let part = &mut chunk[..left.min(256)];
        if getrandom::fill(part).is_err() {
            return Ok(status::EIO);
        }
        guest.write(offset, part)?;
        offset += part.len() as u64;
        left -= part.len();
    }
    Ok(status::OK)
}

fn find_resource(guest: &GuestView, context: &CallContext, block: u64, call: FindResource) -> Result<i32, Cause> {
    let name = guest.text("a resource's name", call.name, RESOURCE_NAME_MAX)?;
    let Some((id, size)) = context.services.accel.find(&name) else {
        return Ok(status::ENOENT);
    };
    guest.store(block, &FindResource { id: id.get(), size, ..call })?;
    Ok(status::OK)
}

/// The cause that a guest gives for its own end.
fn exit(guest: &GuestView, call: &Exit) -> Result<Cause, Cause> {
    let message = guest.text("the message of an exit", call.message, LOG_MESSAGE_MAX)?;
    Ok(match call.reason {
        exit_reason::PANIC => Cause::Panic {
            message,
            file: guest.text("the file name of an exit", call.file, LOG_MESSAGE_MAX)?,
            line: call.line,
            column: call.column,
        },
        exit_reason::OUT_OF_MEMORY => Cause::OutOfMemory { message, memory: guest.layout.memory },
        exit_reason::ABI_MISMATCH => Cause::AbiMismatch { expected: ABI_VERSION },
        _ => Cause::Finished,
    })
}
