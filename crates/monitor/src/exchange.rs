//! A request into guest memory, a response out of it. Called by the machine, with the guest stopped; the response is
//! what a hostile guest wrote. Knows nothing of processors.

use std::time::Duration;

use kernlet_abi::{
    Span,
    fields::{Fields, encode_lengths},
    message::{RESPONSE_HEADERS_MAX, RequestHead, ResponseHead},
};
use zerocopy::IntoBytes;

use crate::{
    crash::Cause,
    hypercall::GuestView,
    message::{Request, Response, Usage},
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

/// Copies out the response whose head is at `offset`; `limit` is for its body, in bytes. Usage is not filled in.
pub(crate) fn read_response(view: &GuestView, offset: u64, limit: u64) -> Result<Response, Cause> {
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
    let headers = decode_headers(&view.read("a response's headers", head.headers)?)?;
    let body = view.read("a response's body", head.body)?;
    Ok(Response { status, headers, body, usage: Usage::default() })
}

fn too_large(size: u64, window: Span) -> Cause {
    Cause::RequestTooLarge { size, window: window.len }
}

pub(crate) fn bad_response(why: impl Into<String>) -> Cause {
    Cause::BadResponse { why: why.into() }
}

fn encode_headers(to: &mut Vec<u8>, headers: &[(&str, &[u8])]) -> Option<()> {
    for (name, value) in headers {
        to.extend_from_slice(&encode_lengths(name.len(), value.len())?);
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(value);
    }
    Some(())
}

/// Reads the headers of a response, which a hostile guest may have written.
fn decode_headers(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Cause> {
    Fields::new(bytes)
        .map(|field| {
            let (name, value) = field.map_err(|error| bad_response(error.to_string()))?;
            let name = std::str::from_utf8(name).map_err(|_| bad_response("a header's name is not UTF-8"))?;
            Ok((name.to_owned(), value.to_vec()))
        })
        .collect()
}
