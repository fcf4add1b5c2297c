//! An HTTP request as a machine takes it: whole, within the function's limits, without what belongs to the
//! connection. Used by the server and the worker. It never changes path, query or body.

use std::{
    future::poll_fn,
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts};
use http_body::Body as _;
use hyper::body::{Frame, Incoming};
use kernlet_abi::{fields, map::REQUEST_HEAD_ROOM, message::RequestHead};
use kernlet_image::GoDuration;
use kernlet_monitor::Request;

use crate::{connection::Line, error::InvokeError, function::Shared, limit::TimeLimit};

/// The call id, taken from the request or made here, and told to everyone.
pub(crate) const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");

/// A caller's own, shorter time limit.
const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");

/// Longest call id that is taken over from a request, in bytes.
const CALL_ID_MAX: usize = 128;

/// Header fields that belong to one connection (RFC 9110, 7.6.1), not to the request or the response in it.
pub(crate) const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Names one call in logs and answers: visible ASCII, at most [`CALL_ID_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallId(HeaderValue);

impl CallId {
    /// The request's, or a new one when it has none that can be used.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let fits = |value: &&HeaderValue| {
            (1..=CALL_ID_MAX).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        headers.get(CALL_ID).filter(fits).map_or_else(Self::new, |value| Self(value.clone()))
    }

    fn new() -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        Self(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none")))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn into_value(self) -> HeaderValue {
        self.0
    }
}

/// A request that owns its parts.
#[derive(Debug)]
pub(crate) struct OwnedRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    call_id: CallId,
    body: Bytes,
}

impl OwnedRequest {
    /// Takes a request's head, without the fields of its connection.
    ///
    /// Errors: its target is no path, or the head does not fit the guest's request window.
    pub(crate) fn new(parts: Parts, call_id: CallId) -> Result<Self, InvokeError> {
        let Parts { method, uri, mut headers, .. } = parts;
        if !uri.path().starts_with('/') || method == Method::CONNECT {
            return Err(InvokeError::BadTarget { target: uri.to_string() });
        }
        remove_named_by_connection(&mut headers);
        let request = Self { method, uri, headers, call_id, body: Bytes::new() };
        let (path, query) = (request.uri.path(), request.uri.query().unwrap_or_default());
        check_head(request.method.as_str(), path, query, request.call_id.as_str(), request.fields())?;
        Ok(request)
    }

    pub(crate) fn call_id(&self) -> &CallId {
        &self.call_id
    }

    /// The header fields that are the function's.
    fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let own = self.headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name));
        own.map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    pub(crate) fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    /// The time limit for this request: the function's, or a shorter one that it asks for.
    pub(crate) fn time_limit(&self, function: TimeLimit) -> Result<TimeLimit, InvokeError> {
        let Some(value) = self.headers.get(TIMEOUT) else { return Ok(function) };
        let asked = value.to_str().ok().and_then(|text| text.parse::<GoDuration>().ok());
        match asked {
            Some(GoDuration(duration)) => Ok(function.shortened_to(duration)),
            None => Err(InvokeError::BadTimeout { value: String::from_utf8_lossy(value.as_bytes()).into_owned() }),
        }
    }

    /// Shows the request as a machine takes it.
    pub(crate) fn with<R>(&self, see: impl FnOnce(&Request<'_>) -> R) -> R {
        let mut headers = Vec::with_capacity(self.headers.len());
        headers.extend(self.fields());
        see(&Request {
            method: self.method.as_str(),
            path: self.uri.path(),
            query: self.uri.query().unwrap_or_default(),
            headers: &headers,
            body: &self.body,
            call_id: self.call_id.as_str(),
        })
    }
}

/// Removes what the connection says belongs to it.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in &named {
        headers.remove(name);
    }
}

/// Refuses a head that does not fit the guest's request window beside the largest body.
pub(crate) fn check_head<'a>(
    method: &str,
    path: &str,
    query: &str,
    call_id: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), InvokeError> {
    let fields: usize = headers.into_iter().map(|(name, value)| fields::encoded_len(name.len(), value.len())).sum();
    let texts = method.len() + path.len() + query.len() + call_id.len();
    let size = (size_of::<RequestHead>() + texts + fields) as u64;
    if size > REQUEST_HEAD_ROOM {
        return Err(InvokeError::HeadTooLarge { size, limit: REQUEST_HEAD_ROOM });
    }
    Ok(())
}

/// Refuses a body of a known size that is over the function's limit.
pub(crate) fn check_body(function: &Shared, size: u64) -> Result<(), InvokeError> {
    let limit = function.machine.request_limit;
    if size > limit {
        return Err(InvokeError::BodyTooLarge { function: function.name.to_string(), size: Some(size), limit });
    }
    Ok(())
}

/// Reads a body of unknown size up to the function's limit, within `patience`.
pub(crate) async fn read_body(
    function: &Shared,
    body: &mut Incoming,
    line: &Line,
    patience: Duration,
) -> Result<Bytes, InvokeError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    line.await_body(Instant::now() + patience);
    let read = read_all(function, body, line, patience).await;
    line.await_head();
    read
}

async fn read_all(
    function: &Shared,
    body: &mut Incoming,
    line: &Line,
    patience: Duration,
) -> Result<Bytes, InvokeError> {
    let limit = function.machine.request_limit;
    let mut read = Vec::<Bytes>::new();
    let mut size = 0;
    while let Some(frame) = next_frame(body, line, patience).await? {
        let Ok(data) = frame.into_data() else { continue };
        size += data.len() as u64;
        if size > limit {
            return Err(InvokeError::BodyTooLarge { function: function.name.to_string(), size: None, limit });
        }
        if body.is_end_stream() && read.is_empty() {
            return Ok(data);
        }
        read.push(data);
    }
    Ok(join(read))
}

async fn next_frame(body: &mut Incoming, line: &Line, patience: Duration) -> Result<Option<Frame<Bytes>>, InvokeError> {
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(|source| InvokeError::BodyBroken { source })),
        Poll::Pending if line.body_is_late() => Poll::Ready(Err(InvokeError::BodyTooSlow { limit: patience })),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// The pieces as one; a single piece, which most bodies are, is not copied.
fn join(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 | 1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn parts(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
        build(http::Request::builder()).body(()).unwrap().into_parts().0
    }

    fn call_id(value: &str) -> CallId {
        CallId::of(&parts(|request| request.header(CALL_ID, value)).headers)
    }

    #[test]
    fn a_call_id_is_kept_when_it_can_be_written_anywhere() {
        assert_eq!(call_id("a-1_/=").as_str(), "a-1_/=");
        let long = "x".repeat(CALL_ID_MAX + 1);
        for value in ["", "two words", "caf\u{e9}", &long] {
            let made = call_id(value);
            assert!(uuid::Uuid::parse_str(made.as_str()).is_ok(), "{made:?}");
        }
        assert_ne!(call_id("").as_str(), call_id("").as_str());
    }

    #[test]
    fn path_query_and_headers_arrive_as_sent_without_those_of_the_connection() {
        let parts = parts(|request| {
            request
                .method("PATCH")
                .uri("/a%20b/?x=%2F&y")
                .header("Connection", "keep-alive, X-Hop")
                .header("X-Hop", "1")
                .header("Transfer-Encoding", "chunked")
                .header("X-Two", "1")
                .header("X-Two", &b"\xff2"[..])
        });
        let request = OwnedRequest::new(parts, call_id("c")).unwrap().with_body("body".into());
        request.with(|seen| {
            assert_eq!((seen.method, seen.path, seen.query), ("PATCH", "/a%20b/", "x=%2F&y"));
            assert_eq!(seen.headers, [("x-two", &b"1"[..]), ("x-two", &b"\xff2"[..])]);
            assert_eq!((seen.body, seen.call_id), (&b"body"[..], "c"));
        });
    }

    #[test]
    fn a_target_that_is_no_path_is_refused() {
        for (method, uri) in [("OPTIONS", "*"), ("CONNECT", "example.org:80")] {
            let error = OwnedRequest::new(parts(|request| request.method(method).uri(uri)), call_id("c")).unwrap_err();
            assert_eq!(error.status().as_u16(), 400);
            assert!(error.message().contains(uri), "{}", error.message());
        }
    }

    #[test]
    fn a_head_may_fill_its_room_exactly_and_not_a_byte_more() {
        let room = usize::try_from(REQUEST_HEAD_ROOM).unwrap() - size_of::<RequestHead>();
        let value = vec![b'v'; room - "GET/".len() - "id".len() - fields::encoded_len("n".len(), 0)];
        let check = |query: &str| check_head("GET", "/", query, "id", [("n", value.as_slice())]);
        check("").unwrap();
        let refused = check("q").unwrap_err();
        assert_eq!(refused.status().as_u16(), 431);
        assert!(refused.message().contains("65537 bytes; no more than 65536"), "{}", refused.message());
    }

    #[test]
    fn a_callers_timeout_is_a_go_duration() {
        let own = TimeLimit::of_function(Duration::from_secs(10));
        let limit = |value: &str| {
            OwnedRequest::new(parts(|request| request.header(TIMEOUT, value)), call_id("c")).unwrap().time_limit(own)
        };
        assert_eq!(limit("1.5s").unwrap().bounded(), Some(Duration::from_millis(1500)));
        assert_eq!(limit("1h").unwrap(), own);
        let refused = limit("soon").unwrap_err();
        assert_eq!(refused.status().as_u16(), 400);
        assert!(refused.message().contains("\"soon\" is not a duration"), "{}", refused.message());
    }

    #[test]
    fn a_body_in_pieces_is_joined_and_a_single_piece_is_not_copied() {
        let piece = Bytes::from(vec![1; 64]);
        assert_eq!(join(vec![piece.clone()]).as_ptr(), piece.as_ptr());
        assert_eq!(join(vec![piece.clone(), Bytes::from_static(&[2])]).len(), 65);
        assert!(join(Vec::new()).is_empty());
    }
}
