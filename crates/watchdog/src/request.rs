//! An HTTP request as a machine takes it: whole, within the function's limits, without what belongs to the
//! connection. Used by the exchange and the worker. It never changes path, query or body.

use std::{fmt, time::Duration};

use http::Uri;
use kernlet_abi::{fields, map::REQUEST_HEAD_ROOM, message::RequestHead as GuestHead};
use kernlet_http1::{BodyLength, RequestHead};
use kernlet_image::GoDuration;
use kernlet_monitor::Request;

use crate::{
    connection::{BodyError, Line},
    error::InvokeError,
    function::Shared,
    limit::TimeLimit,
};

/// The call id, taken from the request or made here, and told to everyone.
pub(crate) const CALL_ID: &str = "x-call-id";

/// A caller's own, shorter time limit.
const TIMEOUT: &str = "x-timeout";

/// Longest call id that is taken over from a request, in bytes.
const CALL_ID_MAX: usize = 128;

/// Characters of a target that is no path that an error shows.
const TARGET_SHOWN_MAX: usize = 200;

/// Names one call in logs and answers: visible ASCII, at most [`CALL_ID_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CallId {
    length: usize,
    bytes: [u8; CALL_ID_MAX],
}

impl CallId {
    /// The request's, or a new one when it has none that can be used.
    pub(crate) fn of(head: &RequestHead) -> Self {
        let given = head
            .field(CALL_ID)
            .filter(|value| (1..=CALL_ID_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic));
        given.map_or_else(Self::new, Self::of_ascii)
    }

    pub(crate) fn new() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        Self::of_ascii(uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer).as_bytes())
    }

    fn of_ascii(text: &[u8]) -> Self {
        let (mut bytes, length) = ([0; CALL_ID_MAX], text.len().min(CALL_ID_MAX));
        bytes[..length].copy_from_slice(&text[..length]);
        Self { length, bytes }
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Path and query of a request.
#[derive(Debug)]
enum Target<'a> {
    Plain(&'a str, &'a str),
    /// Any other URI.
    Parsed(Uri),
}

impl<'a> Target<'a> {
    fn of(head: &'a RequestHead) -> Option<Self> {
        if head.method() == "CONNECT" {
            return None;
        }
        match head.plain_target() {
            Some((path, query)) => Some(Self::Plain(path, query.unwrap_or_default())),
            None => head.target().parse::<Uri>().ok().filter(|uri| uri.path().starts_with('/')).map(Self::Parsed),
        }
    }

    fn parts(&self) -> (&str, &str) {
        match self {
            Self::Plain(path, query) => (path, query),
            Self::Parsed(uri) => (uri.path(), uri.query().unwrap_or_default()),
        }
    }
}

/// Header fields, as a machine takes them.
pub(crate) type Headers<'a> = Vec<(&'a str, &'a [u8])>;

/// The memory of header fields, for those of another request.
fn emptied<'a>(headers: Headers<'_>) -> Headers<'a> {
    let mut headers = headers;
    headers.clear();
    // In place.
    headers.into_iter().map(|_| ("", &[][..])).collect()
}

/// A request whose head may be shown to the function.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    method: &'a str,
    target: Target<'a>,
    headers: Headers<'a>,
    timeout: Option<&'a [u8]>,
    call_id: &'a CallId,
}

impl<'a> Checked<'a> {
    /// Checks a request's head, and leaves out the fields of its connection. `memory` is that of an earlier one's.
    ///
    /// Errors: its target is no path, or the head does not fit the guest's request window.
    pub(crate) fn new(head: &'a RequestHead, call_id: &'a CallId, memory: Headers<'_>) -> Result<Self, InvokeError> {
        let (method, size) = (head.method(), head.target().len() as u64);
        if size > REQUEST_HEAD_ROOM {
            return Err(InvokeError::HeadTooLarge { size, limit: REQUEST_HEAD_ROOM });
        }
        let bad_target = || InvokeError::BadTarget { target: head.target().chars().take(TARGET_SHOWN_MAX).collect() };
        let target = Target::of(head).ok_or_else(bad_target)?;
        let (path, query) = target.parts();
        let fields = head.fields();
        let connected = fields.has("connection");
        let mut headers = emptied(memory);
        headers.extend(fields.iter().filter(|(name, _)| !fields.is_of_connection(name, connected)));
        check_head(method, path, query, call_id.as_str(), headers.iter().copied())?;
        Ok(Self { method, target, headers, timeout: head.field(TIMEOUT), call_id })
    }

    /// The memory of its header fields.
    pub(crate) fn into_memory(self) -> Headers<'static> {
        emptied(self.headers)
    }

    /// The time limit for this request: the function's, or a shorter one that it asks for.
    pub(crate) fn time_limit(&self, function: TimeLimit) -> Result<TimeLimit, InvokeError> {
        let Some(value) = self.timeout else { return Ok(function) };
        let asked = str::from_utf8(value).ok().and_then(|text| text.parse::<GoDuration>().ok());
        match asked {
            Some(GoDuration(duration)) => Ok(function.shortened_to(duration)),
            None => Err(InvokeError::BadTimeout { value: String::from_utf8_lossy(value).into_owned() }),
        }
    }

    /// The request as a machine takes it.
    pub(crate) fn with_body<'b>(&'b self, body: &'b [u8]) -> Request<'b> {
        let (path, query) = self.target.parts();
        Request { method: self.method, path, query, headers: &self.headers, body, call_id: self.call_id.as_str() }
    }
}

/// The body's length where the head states it.
pub(crate) fn stated_length(head: &RequestHead) -> u64 {
    match head.body() {
        BodyLength::Known(length) => length,
        BodyLength::Chunked | BodyLength::UntilClose => 0,
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
    let size = (size_of::<GuestHead>() + texts + fields) as u64;
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

/// Reads a body up to the function's limit, within `patience`.
pub(crate) fn read_body(
    function: &Shared,
    head: &RequestHead,
    line: &mut Line<'_>,
    patience: Duration,
) -> Result<Vec<u8>, InvokeError> {
    let limit = function.machine.request_limit;
    line.read_body(head, limit, patience).map_err(|error| match error {
        BodyError::TooLarge(limit) => {
            InvokeError::BodyTooLarge { function: function.name.to_string(), size: None, limit }
        }
        BodyError::TooSlow => InvokeError::BodyTooSlow { limit: patience },
        source => InvokeError::BodyBroken { source },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn head(lines: &[u8]) -> RequestHead {
        let mut head = RequestHead::default();
        head.read(&[lines, b"\r\n\r\n"].concat(), 0).unwrap().unwrap();
        head
    }

    fn call_id(value: &str) -> CallId {
        CallId::of(&head(format!("GET / HTTP/1.1\r\nX-Call-Id: {value}").as_bytes()))
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
        let lines = b"PATCH /a%20b/?x=%2F&y HTTP/1.1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
            Transfer-Encoding: chunked\r\nX-Two: 1\r\nTE: trailers\r\nX-Two: \xff2";
        let (head, call_id) = (head(lines), call_id("c"));
        let request = Checked::new(&head, &call_id, Vec::new()).unwrap();
        let seen = request.with_body(b"body");
        assert_eq!((seen.method, seen.path, seen.query), ("PATCH", "/a%20b/", "x=%2F&y"));
        assert_eq!(seen.headers, [("x-two", &b"1"[..]), ("x-two", &b"\xff2"[..])]);
        assert_eq!((seen.body, seen.call_id), (&b"body"[..], "c"));
    }

    #[test]
    fn a_target_that_is_no_path_is_refused() {
        for (method, uri) in [("OPTIONS", "*"), ("CONNECT", "example.org:80"), ("GET", "/a\"b<")] {
            let (head, call_id) = (head(format!("{method} {uri} HTTP/1.1").as_bytes()), call_id("c"));
            let error = Checked::new(&head, &call_id, Vec::new()).unwrap_err();
            assert_eq!(error.status().as_u16(), 400);
            assert!(error.message().contains(uri.trim_start_matches("/a\"")), "{}", error.message());
        }
        let long = head(format!("GET /{} HTTP/1.1", "a".repeat(100_000)).as_bytes());
        assert_eq!(Checked::new(&long, &call_id("c"), Vec::new()).unwrap_err().status().as_u16(), 431);
    }

    #[test]
    fn a_head_may_fill_its_room_exactly_and_not_a_byte_more() {
        let room = usize::try_from(REQUEST_HEAD_ROOM).unwrap() - size_of::<GuestHead>();
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
            let head = head(format!("GET / HTTP/1.1\r\nX-Timeout: {value}").as_bytes());
            Checked::new(&head, &call_id("c"), Vec::new()).unwrap().time_limit(own)
        };
        assert_eq!(limit("1.5s").unwrap().bounded(), Some(Duration::from_millis(1500)));
        assert_eq!(limit("1h").unwrap(), own);
        let refused = limit("soon").unwrap_err();
        assert_eq!(refused.status().as_u16(), 400);
        assert!(refused.message().contains("\"soon\" is not a duration"), "{}", refused.message());
    }
}
