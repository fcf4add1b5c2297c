//! A request into guest memory, a response out of it. Called by the machine, with the guest stopped; the response is
//! what a hostile guest wrote. Knows nothing of processors.

use std::time::Duration;

use kernlet_abi::{
    Span,
    message::{RESPONSE_HEADERS_MAX, RequestHead, ResponseHead},
};
use zerocopy::IntoBytes;

use crate::{
    crash::Cause,
    hypercall::{GuestAccess, GuestView},
    message::{Request, Response, encode_headers},
};

/// Alignment of a request's body in guest memory, so that numbers in it can be used in place.
const BODY_ALIGNMENT: u64 = 64;

/// Lays a request into the window, and says how many bytes from its start it takes. `head` is for its structure,
/// headers and the like; kept for its allocation.
pub(crate) fn write_request(
    view: &GuestView,
    head: &mut Vec<u8>,
    request: &Request<'_>,
    time_limit: Duration,
) -> Result<u64, Cause> {
    let window = view.layout.window;
    head.clear();
    head.resize(size_of::<RequestHead>(), 0);
    let mut append = |bytes: &[u8]| {
        let span = Span { offset: window.offset + head.len() as u64, len: bytes.len() as u64 };
        head.extend_from_slice(bytes);
        span
    };
    let mut message = RequestHead {
        method: append(request.method.as_bytes()),
        path: append(request.path.as_bytes()),
        query: append(request.query.as_bytes()),
        call_id: append(request.call_id.as_bytes()),
        time_limit_ns: u64::try_from(time_limit.as_nanos()).unwrap_or(u64::MAX),
        ..RequestHead::default()
    };
    let headers = head.len() as u64;
    encode_headers(head, request.headers).ok_or_else(|| too_large(u64::MAX, window))?;
    message.headers = Span { offset: window.offset + headers, len: head.len() as u64 - headers };
    let body = (head.len() as u64).next_multiple_of(BODY_ALIGNMENT);
    message.body = Span { offset: window.offset + body, len: request.body.len() as u64 };
    let size = body + message.body.len;
    if size > window.len {
        return Err(too_large(size, window));
    }
    head[..size_of::<RequestHead>()].copy_from_slice(message.as_bytes());
    let memory = &view.memory;
    let written = memory.write_unmarked(window.offset, head);
    let written = written.and_then(|()| memory.write_unmarked(message.body.offset, request.body));
    written.map_err(|_| too_large(size, window))?;
    Ok(size)
}

/// Copies the response whose head is at `offset` into `to`, in place of what was there; `limit` is for its body, in
/// bytes. Usage is not filled in.
pub(crate) fn read_response(view: &impl GuestAccess, offset: u64, limit: u64, to: &mut Response) -> Result<(), Cause> {
    if offset == 0 {
        return Err(bad_response("the function asked for the next request without answering this one"));
    }
    let head: ResponseHead = view.load("a response", offset, false)?;
    let status = u16::try_from(head.status).ok().filter(|status| (200..=599).contains(status));
    let status = status.ok_or_else(|| bad_response(format!("status {} is not from 200 to 599", head.status)))?;
    if head.headers.len > RESPONSE_HEADERS_MAX {
        let why = format!("its headers take {} bytes, the most is {RESPONSE_HEADERS_MAX}", head.headers.len);
        return Err(bad_response(why));
    }
    if head.body.len > limit {
        return Err(Cause::ResponseTooLarge { size: head.body.len, limit });
    }
    to.status = status;
    view.read_into("a response's headers", head.headers, to.headers.fields_mut())?;
    to.headers.check().map_err(bad_response)?;
    view.read_into("a response's body", head.body, &mut to.body)
}

fn too_large(size: u64, window: Span) -> Cause {
    Cause::RequestTooLarge { size, window: window.len }
}

pub(crate) fn bad_response(why: impl Into<String>) -> Cause {
    Cause::BadResponse { why: why.into() }
}
