//! An HTTP request as a machine takes it: whole, within the function's limits, without what belongs to the
//! connection. Used by the exchange and the worker. It never changes path, query or body.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri, header};
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
pub(crate) const CALL_ID: HeaderName = HeaderName::from_static(CALL_ID_NAME);

const CALL_ID_NAME: &str = "x-call-id";

/// A caller's own, shorter time limit.
const TIMEOUT: &str = "x-timeout";

/// Longest call id that is taken over from a request, in bytes.
const CALL_ID_MAX: usize = 128;

/// Characters of a target that is no path that an error shows.
const TARGET_SHOWN_MAX: usize = 200;

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
pub(crate) struct CallId(Arc<str>);

impl CallId {
    /// The request's, or a new one when it has none that can be used.
    pub(crate) fn of(head: &RequestHead) -> Self {
        let given = head
            .field(CALL_ID_NAME)
            .filter(|value| (1..=CALL_ID_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic));
        given.and_then(|value| str::from_utf8(value).ok()).map_or_else(Self::new, |value| Self(value.into()))
    }

    pub(crate) fn new() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        Self((&*uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer)).into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn to_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("none"))
    }
}

/// A request whose head may be shown to the function.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    method: &'a str,
    uri: Uri,
    headers: Vec<(&'a str, &'a [u8])>,
    timeout: Option<&'a [u8]>,
    call_id: &'a CallId,
}

impl<'a> Checked<'a> {
    /// Checks a request's head, and leaves out the fields of its connection.
    ///
    /// Errors: its target is no path, or the head does not fit the guest's request window.
    pub(crate) fn new(head: &'a RequestHead, call_id: &'a CallId) -> Result<Self, InvokeError> {
        let (method, target) = (head.method(), head.target());
        if target.len() as u64 > REQUEST_HEAD_ROOM {
            return Err(InvokeError::HeadTooLarge { size: target.len() as u64, limit: REQUEST_HEAD_ROOM });
        }
        let uri = target.parse::<Uri>().ok().filter(|uri| uri.path().starts_with('/') && method != "CONNECT");
        let bad_target = || InvokeError::BadTarget { target: target.chars().take(TARGET_SHOWN_MAX).collect() };
        let uri = uri.ok_or_else(bad_target)?;
        let connection = head.field("connection").is_some();
        let is_own = |name: &str| !(is_hop_by_hop(name) || connection && is_named_by_connection(head, name));
        let headers: Vec<_> = head.fields().filter(|(name, _)| is_own(name)).collect();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        check_head(method, path, query, call_id.as_str(), headers.iter().copied())?;
        Ok(Self { method, uri, headers, timeout: head.field(TIMEOUT), call_id })
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
        Request {
            method: self.method,
            path: self.uri.path(),
            query: self.uri.query().unwrap_or_default(),
            headers: &self.headers,
            body,
            call_id: self.call_id.as_str(),
        }
    }
}

/// As [`HOP_BY_HOP`], for names as they are read.
fn is_hop_by_hop(name: &str) -> bool {
    // By length first: most names are none of these.
    matches!(name.len(), 2 | 7 | 10 | 16..=18) && HOP_BY_HOP.iter().any(|own| own.as_str() == name)
}

/// Whether the connection's fields say that this one belongs to it.
fn is_named_by_connection(head: &RequestHead, name: &str) -> bool {
    let options =
        head.fields().filter(|(own, _)| *own == "connection").flat_map(|(_, value)| value.split(|b| *b == b','));
    options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
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
        let request = Checked::new(&head, &call_id).unwrap();
        let seen = request.with_body(b"body");
        assert_eq!((seen.method, seen.path, seen.query), ("PATCH", "/a%20b/", "x=%2F&y"));
        assert_eq!(seen.headers, [("x-two", &b"1"[..]), ("x-two", &b"\xff2"[..])]);
        assert_eq!((seen.body, seen.call_id), (&b"body"[..], "c"));
    }

    #[test]
    fn no_name_that_belongs_to_a_connection_is_missed() {
        assert!(HOP_BY_HOP.iter().all(|name| is_hop_by_hop(name.as_str())));
    }

    #[test]
    fn a_target_that_is_no_path_is_refused() {
        for (method, uri) in [("OPTIONS", "*"), ("CONNECT", "example.org:80"), ("GET", "/a\"b<")] {
            let (head, call_id) = (head(format!("{method} {uri} HTTP/1.1").as_bytes()), call_id("c"));
            let error = Checked::new(&head, &call_id).unwrap_err();
            assert_eq!(error.status().as_u16(), 400);
            assert!(error.message().contains(uri.trim_start_matches("/a\"")), "{}", error.message());
        }
        let long = head(format!("GET /{} HTTP/1.1", "a".repeat(100_000)).as_bytes());
        assert_eq!(Checked::new(&long, &call_id("c")).unwrap_err().status().as_u16(), 431);
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
            Checked::new(&head, &call_id("c")).unwrap().time_limit(own)
        };
        assert_eq!(limit("1.5s").unwrap().bounded(), Some(Duration::from_millis(1500)));
        assert_eq!(limit("1h").unwrap(), own);
        let refused = limit("soon").unwrap_err();
        assert_eq!(refused.status().as_u16(), 400);
        assert!(refused.message().contains("\"soon\" is not a duration"), "{}", refused.message());
    }
}
