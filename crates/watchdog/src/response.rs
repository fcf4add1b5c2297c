//! Answers over HTTP: a function's response, checked since a hostile guest may have written it, and the
//! watchdog's own. Used by the exchange. It never lets a guest write what belongs to the connection or to us.

use std::{
    io::Write as _,
    mem,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use kernlet_http1::RequestHead;
use kernlet_meter::UsageRecord;
use kernlet_monitor::Usage;

use crate::{
    error::InvokeError,
    metering::USAGE,
    request::{CALL_ID, CallId, HOP_BY_HOP},
};

/// An answer, whole.
pub(crate) type HttpResponse = Response<Vec<u8>>;

/// Marks answers that the platform made and not the function; OpenFaaS's clients retry on it.
const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");

/// How long the request took, in seconds, as OpenFaaS's watchdogs say it.
const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");

/// Where the time went (W3C Server Timing), on demand.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A function's response, whose body is taken out of it. Fields that the connection or the watchdog writes are left out.
pub(crate) fn of_function(
    function: &str,
    response: &mut kernlet_monitor::Response,
) -> Result<HttpResponse, InvokeError> {
    let bad = |name: &str, why| InvokeError::BadHeader {
        function: function.to_owned(),
        header: name.escape_debug().take(NAME_SHOWN_MAX).collect(),
        why,
    };
    // The monitor lets only 200 to 599 through.
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let body = if has_no_body(status) { Vec::new() } else { mem::take(&mut response.body) };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in response.headers.iter() {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| bad(name, "a name has only letters, digits and !#$%&'*+-.^_`|~"))?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| bad(name, "its value has a line break or another control character"))?;
        if !is_ours(&parsed) {
            answer.headers_mut().try_append(parsed, value).map_err(|_| bad(name, "there are too many headers"))?;
        }
    }
    Ok(answer)
}

/// Characters of a bad header's name that an error shows.
const NAME_SHOWN_MAX: usize = 80;

fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether a field is not the function's to write.
fn is_ours(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || [header::CONTENT_LENGTH, CALL_ID, DURATION, INTERNAL, USAGE].contains(name)
}

/// The watchdog's own answer: one line of text.
pub(crate) fn own(status: StatusCode, text: &str) -> HttpResponse {
    let mut answer = Response::new(format!("{text}\n").into_bytes());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(INTERNAL, HeaderValue::from_static("watchdog"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(header::RETRY_AFTER, 1.into());
    }
    answer
}

/// The answer to a request that has no response from its function.
pub(crate) fn of_error(error: &InvokeError) -> HttpResponse {
    let mut answer = own(error.status(), &error.message());
    let headers = answer.headers_mut();
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if error.leaves_body_unread() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Whether an answer is its connection's last, whatever the client wants.
pub(crate) fn closes(answer: &HttpResponse) -> bool {
    answer.headers().get(header::CONNECTION).is_some_and(|connection| connection == "close")
}

/// Writes the heads of a connection's answers, one after the other into the same memory.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
    /// The second that `date` is of, after 1970.
    second: u64,
    date: String,
}

impl Encoder {
    /// The head of an answer to a request, after which the connection goes on or not.
    pub(crate) fn head(&mut self, answer: &HttpResponse, request: &RequestHead, goes_on: bool) -> &[u8] {
        let connection = match (goes_on, request.is_old()) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second {
            (self.second, self.date) = (second, httpdate::fmt_http_date(now));
        }
        self.bytes.clear();
        encode_head(&mut self.bytes, answer, connection, &self.date);
        &self.bytes
    }
}

fn encode_head(bytes: &mut Vec<u8>, answer: &HttpResponse, connection: Option<&str>, date: &str) {
    let status = answer.status();
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
    for (name, value) in answer.headers() {
        if *name != header::CONNECTION {
            field(bytes, name.as_str(), value.as_bytes());
        }
    }
    // Where there can be no content, its length is not stated either (RFC 9110, section 8.6).
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // Writing to memory does not fail.
        let _ = write!(bytes, "content-length: {}\r\n", answer.body().len());
    }
    if let Some(connection) = connection {
        field(bytes, "connection", connection.as_bytes());
    }
    if !answer.headers().contains_key(header::DATE) {
        field(bytes, "date", date.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
}

fn field(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

/// An answer as a connection's last bytes.
pub(crate) fn to_last_bytes(answer: &HttpResponse) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_head(&mut bytes, answer, Some("close"), &httpdate::fmt_http_date(SystemTime::now()));
    bytes.extend_from_slice(answer.body());
    bytes
}

/// Adds which call this was, how long it took and, on demand, where the time went.
pub(crate) fn add_measures(answer: &mut HttpResponse, call_id: &CallId, took: Duration, usage: Option<Usage>) {
    let headers = answer.headers_mut();
    headers.insert(CALL_ID, call_id.to_value());
    if let Ok(seconds) = HeaderValue::try_from(format!("{}.{:06}", took.as_secs(), took.subsec_micros())) {
        headers.insert(DURATION, seconds);
    }
    if let Some(timing) = usage.and_then(|usage| HeaderValue::try_from(server_timing(took, usage)).ok()) {
        headers.append(SERVER_TIMING, timing);
    }
}

/// Adds what the invocation used.
pub(crate) fn add_usage(answer: &mut HttpResponse, used: &UsageRecord) {
    if let Ok(record) = HeaderValue::try_from(used.to_string()) {
        answer.headers_mut().insert(USAGE, record);
    }
}

/// Each part's own time, in milliseconds: what the next part took is not in it.
fn server_timing(took: Duration, usage: Usage) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    format!(
        "watchdog;dur={:.3}, guest;dur={:.3}, accel;dur={:.3}, exits;desc=\"{}\"",
        milliseconds(took.saturating_sub(usage.wall)),
        milliseconds(usage.wall.saturating_sub(usage.accel)),
        milliseconds(usage.accel),
        usage.exits
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use kernlet_monitor::Headers;

    use super::*;

    fn guest(status: u16, headers: &[(&str, &[u8])]) -> kernlet_monitor::Response {
        kernlet_monitor::Response {
            status,
            headers: Headers::of(headers).unwrap(),
            body: b"body".to_vec(),
            usage: Usage::default(),
        }
    }

    fn size(answer: &HttpResponse) -> usize {
        answer.body().len()
    }

    #[test]
    fn a_guest_cannot_write_the_connections_headers_or_ours() {
        let forged: Vec<(&str, &[u8])> = [
            "Content-Length",
            "transfer-encoding",
            "Connection",
            "Keep-Alive",
            "Upgrade",
            "Trailer",
            "X-Call-Id",
            "X-Duration-Seconds",
            "X-OpenFaaS-Internal",
            "X-Kernlet-Usage",
        ]
        .map(|name| (name, &b"1"[..]))
        .into();
        let answer = of_function("f", &mut guest(200, &forged)).unwrap();
        assert!(answer.headers().is_empty(), "{:?}", answer.headers());
        let kept = of_function("f", &mut guest(201, &[("Set-Cookie", b"a"), ("Set-Cookie", b"b\xff")])).unwrap();
        assert_eq!(kept.status(), 201);
        assert_eq!(kept.headers().get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn a_header_that_is_none_is_named() {
        let long = "é".repeat(1000);
        for (name, value, shown) in [
            ("bad name", &b"v"[..], "bad name"),
            ("", b"v", "only letters"),
            ("a\r\nX: y", b"v", r"a\r\nX: y"),
            ("X-Split", b"a\r\nSet-Cookie: b", "X-Split"),
            ("X-Null", b"\0", "X-Null"),
            (&long, b"v", "é"),
        ] {
            let error = of_function("f", &mut guest(200, &[(name, value)])).unwrap_err();
            let text = error.message();
            assert_eq!(error.status(), 502);
            assert!(text.contains(shown) && text.len() < 400 && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn statuses_without_a_body_have_none() {
        assert_eq!(size(&of_function("f", &mut guest(200, &[])).unwrap()), 4);
        for status in [204, 205, 304] {
            assert_eq!(size(&of_function("f", &mut guest(status, &[])).unwrap()), 0);
        }
    }

    #[test]
    fn an_own_answer_is_marked_and_says_when_to_try_again() {
        let answer = of_error(&InvokeError::Loading { function: "f".to_owned() });
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["x-openfaas-internal"], "watchdog");
        assert_eq!(answer.headers()["retry-after"], "1");
    }

    #[test]
    fn every_answer_that_waiting_may_mend_says_when_to_come_back() {
        let function = || "f".to_owned();
        let all = [
            InvokeError::Saturated { function: function(), limit: 1, raise: "max_inflight" },
            InvokeError::Loading { function: function() },
            InvokeError::LoadFailed { function: function(), why: String::new() },
            InvokeError::NoThread { function: function(), source: std::io::ErrorKind::WouldBlock.into() },
            InvokeError::Lost { function: function() },
            InvokeError::BodyTooLarge { function: function(), size: None, limit: 1 },
        ];
        let own_words = own(StatusCode::SERVICE_UNAVAILABLE, "shutting down");
        for answer in all.iter().map(of_error).chain([own_words]) {
            let mendable = matches!(answer.status().as_u16(), 429 | 503);
            assert_eq!(answer.headers().contains_key("retry-after"), mendable, "{answer:?}");
        }
    }

    #[test]
    fn times_are_each_parts_own_and_add_up() {
        let usage = Usage {
            wall: Duration::from_micros(3500),
            accel: Duration::from_micros(3000),
            exits: 7,
            ..Usage::default()
        };
        let text = server_timing(Duration::from_millis(4), usage);
        assert_eq!(text, "watchdog;dur=0.500, guest;dur=0.500, accel;dur=3.000, exits;desc=\"7\"");
        let mut answer = own(StatusCode::OK, "OK");
        add_measures(&mut answer, &CallId::new(), Duration::from_millis(1500), Some(usage));
        assert_eq!(answer.headers()["x-duration-seconds"], "1.500000");
        assert!(answer.headers().contains_key("server-timing"));
    }
}
