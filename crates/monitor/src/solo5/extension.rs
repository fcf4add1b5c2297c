//! What Kernlet has for Solo5's guests beyond Solo5's interface, where it is turned on: accelerators, and the request and
//! its response as bytes. Called by the machine for each `out` to its port; operations are carried out by the very code that
//! native guests' are. Every address that a guest gives is checked. Without it the port is one that there is not.

use std::{sync::Arc, time::Instant};

use kernlet_abi::{
    Span,
    hypercall::{CallHead, FindResource, number, status},
    solo5::{self, ReadRequest, Respond, feature, part},
};
use kernlet_accel::Session;

use super::{
    layout::Layout,
    machine::{Console, End},
};
use crate::{
    accelerate,
    crash::Cause,
    exchange,
    hypercall::{self, BLOCK, GuestAccess, Operations},
    limits::Limits,
    memory::GuestMemory,
    message::{Request, Response, Usage, encode_headers},
};

/// What a guest has besides what Solo5 gives it.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its accelerators.
    pub session: Arc<Session>,
    /// Whether it answers requests.
    pub requests: bool,
}

/// What a guest is told of it that may or may not ask for requests.
pub(crate) fn told(requests: bool) -> solo5::Extension {
    let requests = if requests { feature::REQUESTS } else { 0 };
    solo5::Extension {
        magic: solo5::EXTENSION_MAGIC,
        version: solo5::EXTENSION_VERSION,
        port: solo5::EXTENSION_PORT.into(),
        features: feature::ACCELERATOR | requests,
        reserved: 0,
    }
}

/// The request under way and where its response goes, for a guest that asks for the one and hands over the other.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) response: &'a mut Response,
    /// Largest body of a response, in bytes.
    pub(crate) limit: u64,
    /// Whether there is a response.
    pub(crate) answered: &'a mut bool,
}

/// A guest's memory for as long as it is stopped.
struct Access<'a> {
    memory: &'a mut GuestMemory,
    layout: &'a Layout,
}

impl GuestAccess for Access<'_> {
    fn memory(&self) -> &GuestMemory {
        self.memory
    }

    fn memory_mut(&mut self) -> &mut GuestMemory {
        self.memory
    }

    fn allows(&self, span: Span, write: bool) -> bool {
        span.len == 0 || self.layout.allows(span, write)
    }
}

/// All that a call can see and change.
pub(crate) struct Call<'a> {
    pub(crate) memory: &'a mut GuestMemory,
    pub(crate) layout: &'a Layout,
    pub(crate) extension: &'a Extension,
    pub(crate) limits: &'a Limits,
    pub(crate) usage: &'a mut Usage,
    pub(crate) console: &'a mut dyn Console,
    pub(crate) deadline: Option<Instant>,
}

impl Call<'_> {
    /// Serves the call whose argument block is at `at`.
    pub(crate) fn serve(self, at: u32) -> Result<(), End> {
        self.try_serve(at.into()).map_err(|cause| match cause {
            Cause::BadPointer { offset, len, .. } => End::access(Span { offset, len }),
            cause => End::Call(cause),
        })
    }

    fn try_serve(self, at: u64) -> Result<(), Cause> {
        let Self { memory, layout, extension, limits, usage, console, deadline } = self;
        let mut guest = Access { memory, layout };
        let head: CallHead = guest.load(BLOCK, at, true)?;
        let result = match head.number {
            number::ACCEL | number::ACCEL_BATCH => {
                let (session, report) = (&extension.session, &mut None);
                let mut operations = Operations { session, limits, usage, deadline, report };
                if head.number == number::ACCEL {
                    accelerate::one(&mut guest, &mut operations, at)?
                } else {
                    let batch = guest.load(BLOCK, at, true)?;
                    accelerate::batch(&mut guest, &mut operations, &batch)?
                }
            }
            number::FIND_RESOURCE => {
                let call: FindResource = guest.load(BLOCK, at, true)?;
                hypercall::find_resource(&guest, &extension.session, at, call)?
            }
            solo5::number::REQUEST => match console.exchange() {
                Some(exchange) => read_request(&guest, exchange.request, at)?,
                None => status::ENOTSUP,
            },
            solo5::number::RESPOND => match console.exchange() {
                Some(exchange) => respond(&guest, exchange, at)?,
                None => status::ENOTSUP,
            },
            _ => status::ENOTSUP,
        };
        guest.store(at, &CallHead { number: head.number, status: result })
    }
}

/// Whether the call whose block is at `at` is about a request.
pub(crate) fn is_about_request(memory: &GuestMemory, at: u32) -> bool {
    let number = memory.load::<u32>(at.into());
    number.is_ok_and(|number| matches!(number, solo5::number::REQUEST | solo5::number::RESPOND))
}

fn read_request(guest: &Access<'_>, request: &Request<'_>, at: u64) -> Result<i32, Cause> {
    let call: ReadRequest = guest.load("a hypercall's arguments", at, true)?;
    guest.check("the buffer for a part of the request", call.buffer, true)?;
    let mut fields = Vec::new();
    let bytes = match call.part {
        part::BODY => request.body,
        part::METHOD => request.method.as_bytes(),
        part::PATH => request.path.as_bytes(),
        part::QUERY => request.query.as_bytes(),
        part::HEADERS => {
            encode_headers(&mut fields, request.headers).ok_or(Cause::RequestTooLarge { size: u64::MAX, window: 0 })?;
            &fields
        }
        part::CALL_ID => request.call_id.as_bytes(),
        _ => return Ok(status::EINVAL),
    };
    let wanted = usize::try_from(call.offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    let room = usize::try_from(call.buffer.len).unwrap_or(usize::MAX);
    let copied = wanted.get(..room).unwrap_or(wanted);
    guest.write(call.buffer.offset, copied)?;
    guest.store(at, &ReadRequest { size: bytes.len() as u64, copied: copied.len() as u64, ..call })?;
    Ok(status::OK)
}

fn respond(guest: &Access<'_>, exchange: Exchange<'_>, at: u64) -> Result<i32, Cause> {
    let _whole: Respond = guest.load("a hypercall's arguments", at, true)?;
    let head = at + std::mem::offset_of!(Respond, response) as u64;
    let Exchange { response, limit, answered, .. } = exchange;
    exchange::read_response(guest, head, limit, response)?;
    *answered = true;
    Ok(status::OK)
}
