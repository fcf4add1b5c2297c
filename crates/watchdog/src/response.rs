//! Answers over HTTP: a function's response, checked since a hostile guest may have written it, and the
//! watchdog's own. Used by the exchange. It never lets a guest write what belongs to the connection or to us.

use std::{mem, time::Duration};

use http::StatusCode;
use kernlet_http1::{
    RequestHead, is_hop_by_hop, may_have_body,
    write::{Date, field, is_field_value, is_token, number_field, status_line},
};
use kernlet_meter::UsageRecord;
use kernlet_monitor::Usage;

use crate::{
    error::InvokeError,
    request::{CALL_ID, CallId},
};

/// Longest body that goes in one piece with its head, in bytes: copying that much costs less than a second piece.
const JOINED_MAX: usize = 4096;

/// Marks answers that the platform made and not the function; OpenFaaS's clients retry on it.
const INTERNAL: &str = "x-openfaas-internal";

/// How long the request took, in seconds, as OpenFaaS's watchdogs say it.
const DURATION: &str = "x-duration-seconds";

/// Where the time went (W3C Server Timing), on demand.
const SERVER_TIMING: &str = "server-timing";

/// The media type of our own words.
const TEXT: &str = "text/plain; charset=utf-8";

/// An answer: its head as the client gets it, but for how it ends, and its body.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    head: Vec<u8>,
    body: Vec<u8>,
    /// It is its connection's last, whatever the client wants.
    closes: bool,
    /// The function said when it answered.
    dated: bool,
}

impl Answer {
    /// An answer without fields, in memory of an earlier one.
    fn new(status: StatusCode, memory: Vec<u8>, body: Vec<u8>) -> Self {
        let mut head = memory;
        head.clear();
        status_line(&mut head, status);
        Self { status, head, body, closes: false, dated: false }
    }

    /// A function's response, whose body is taken out of it. Fields that the connection or the watchdog writes are left out.
    pub(crate) fn of_function(
        function: &str,
        response: &mut kernlet_monitor::Response,
        memory: Vec<u8>,
    ) -> Result<Self, InvokeError> {
        let bad = |name: &str, why| InvokeError::BadHeader {
            function: function.to_owned(),
            header: name.escape_debug().take(NAME_SHOWN_MAX).collect(),
            why,
        };
        // The monitor lets only 200 to 599 through.
        let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let body = if has_no_body(status) { Vec::new() } else { mem::take(&mut response.body) };
        let mut answer = Self::new(status, memory, body);
        for (name, value) in response.headers.iter() {
            if !is_token(name.as_bytes()) {
                return Err(bad(name, "a name has only letters, digits and !#$%&'*+-.^_`|~"));
            }
            if !is_field_value(value) {
                return Err(bad(name, "its value has a line break or another control character"));
            }
            let start = answer.head.len();
            field(&mut answer.head, name, value);
            let written = &mut answer.head[start..start + name.len()];
            written.make_ascii_lowercase();
            if is_ours(written) {
                answer.head.truncate(start);
            } else {
                answer.dated |= written == b"date";
            }
        }
        Ok(answer)
    }

    /// The watchdog's own answer: one line of text.
    pub(crate) fn own(status: StatusCode, text: &str) -> Self {
        Self::typed(status, TEXT, text, 1)
    }

    /// The watchdog's own metrics.
    pub(crate) fn metrics(text: &str) -> Self {
        Self::typed(StatusCode::OK, kernlet_meter::Text::MEDIA_TYPE, text, 1)
    }

    fn typed(status: StatusCode, media_type: &str, text: &str, retry_after: u64) -> Self {
        let mut answer = Self::new(status, Vec::new(), format!("{text}\n").into_bytes());
        field(&mut answer.head, "content-type", media_type.as_bytes());
        field(&mut answer.head, INTERNAL, b"watchdog");
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            number_field(&mut answer.head, "retry-after", retry_after);
        }
        answer
    }

    /// The answer to a request that has no response from its function.
    pub(crate) fn of_error(error: &InvokeError) -> Self {
        let mut answer = Self::typed(error.status(), TEXT, &error.message(), error.retry_after().unwrap_or(1).into());
        answer.closes = error.leaves_body_unread();
        answer
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether it is its connection's last, whatever the client wants.
    pub(crate) fn closes(&self) -> bool {
        self.closes
    }

    /// Adds which call this was, how long it took and, on demand, where the time went.
    pub(crate) fn add_measures(&mut self, call_id: &CallId, took: Duration, usage: Option<Usage>) {
        field(&mut self.head, CALL_ID, call_id.as_str().as_bytes());
        written_field(&mut self.head, DURATION, |head| push_seconds(head, took));
        if let Some(usage) = usage {
            field(&mut self.head, SERVER_TIMING, server_timing(took, usage).as_bytes());
        }
    }

    /// Adds what the invocation used.
    pub(crate) fn add_usage(&mut self, used: &UsageRecord) {
        written_field(&mut self.head, UsageRecord::HEADER, |head| used.append_to(head));
    }

    /// Writes the end of the head, for a client that gets the body or not. What is returned goes out after that.
    fn end_head(&mut self, connection: Option<&str>, date: &str, with_body: bool) {
        if may_have_body(self.status) {
            number_field(&mut self.head, "content-length", self.body.len() as u64);
        }
        if let Some(connection) = connection {
            field(&mut self.head, "connection", connection.as_bytes());
        }
        if !self.dated {
            field(&mut self.head, "date", date.as_bytes());
        }
        self.head.extend_from_slice(b"\r\n");
        if with_body && self.body.len() <= JOINED_MAX {
            self.head.extend_from_slice(&self.body);
        }
    }

    /// Makes it ready to be sent to the client of a request, after which the connection goes on or not. It goes out in two
    /// pieces, of which the second is empty where the first holds all.
    pub(crate) fn finish(&mut self, request: &RequestHead, goes_on: bool, date: &mut Date) -> (&[u8], &[u8]) {
        let connection = match (goes_on, request.is_old()) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        let with_body = request.method() != "HEAD";
        self.end_head(connection, date.now(), with_body);
        let rest: &[u8] = if with_body && self.body.len() > JOINED_MAX { &self.body } else { &[] };
        (&self.head, rest)
    }

    /// It as a connection's last bytes.
    pub(crate) fn into_last_bytes(mut self) -> Vec<u8> {
        self.end_head(Some("close"), Date::default().now(), true);
        if self.body.len() > JOINED_MAX {
            self.head.extend_from_slice(&self.body);
        }
        self.head
    }

    /// The memory of its head and of its body.
    pub(crate) fn into_memory(self) -> (Vec<u8>, Vec<u8>) {
        (self.head, self.body)
    }
}

/// Characters of a bad header's name that an error shows.
const NAME_SHOWN_MAX: usize = 80;

fn has_no_body(status: StatusCode) -> bool {
    status == StatusCode::RESET_CONTENT || !may_have_body(status)
}

/// Whether a field of this name, in lower case, is not the function's to write.
fn is_ours(name: &[u8]) -> bool {
    const OURS: [&str; 5] = ["content-length", CALL_ID, DURATION, INTERNAL, UsageRecord::HEADER];
    let Ok(name) = str::from_utf8(name) else { return false };
    is_hop_by_hop(name) || OURS.contains(&name)
}

/// A field whose value is written in place.
fn written_field(head: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    write(head);
    head.extend_from_slice(b"\r\n");
}

/// Seconds, to the microsecond.
fn push_seconds(text: &mut Vec<u8>, time: Duration) {
    let mut buffer = itoa::Buffer::new();
    text.extend_from_slice(buffer.format(time.as_secs()).as_bytes());
    text.push(b'.');
    // Six digits, whatever they are: behind a leading one.
    text.extend_from_slice(&buffer.format(1_000_000 + time.subsec_micros()).as_bytes()[1..]);
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
    use http::HeaderName;
    use kernlet_http1::ResponseHead;
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

    fn of_function(status: u16, headers: &[(&str, &[u8])]) -> Result<Answer, InvokeError> {
        Answer::of_function("f", &mut guest(status, headers), b"of the last answer".to_vec())
    }

    /// As a client reads it.
    fn seen(answer: Answer) -> ResponseHead {
        ResponseHead::read(&answer.into_last_bytes(), 0, false).unwrap().unwrap()
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
        let answer = seen(of_function(200, &forged).unwrap());
        assert!(answer.headers.values().all(|value| value != "1"), "{:?}", answer.headers);
        let names: Vec<_> = answer.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "connection", "date"]);
        let cookies: [(&str, &[u8]); 3] = [("Set-Cookie", b"a"), ("Set-Cookie", b"b\xff"), ("DATE", b"then")];
        let kept = seen(of_function(201, &cookies).unwrap());
        assert_eq!((kept.status.as_u16(), kept.headers.get_all("set-cookie").iter().count()), (201, 2));
        assert_eq!(kept.headers.get_all("date").iter().collect::<Vec<_>>(), ["then"]);
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
            let error = of_function(200, &[(name, value)]).unwrap_err();
            let text = error.message();
            assert_eq!(error.status(), 502);
            assert!(text.contains(shown) && text.len() < 400 && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn statuses_without_a_body_have_none() {
        let length = |status| seen(of_function(status, &[]).unwrap()).headers.get("content-length").cloned();
        assert_eq!(length(200).unwrap(), "4");
        assert_eq!(length(205).unwrap(), "0");
        assert_eq!((length(204), length(304)), (None, None));
        for status in [204, 205, 304] {
            assert!(of_function(status, &[]).unwrap().into_last_bytes().ends_with(b"\r\n\r\n"));
        }
    }

    #[test]
    fn an_own_answer_is_marked_and_says_when_to_try_again() {
        let answer = seen(Answer::of_error(&InvokeError::Loading { function: "f".to_owned() }));
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["x-openfaas-internal"], "watchdog");
        assert_eq!(answer.headers["retry-after"], "1");
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
        let own_words = Answer::own(StatusCode::SERVICE_UNAVAILABLE, "shutting down");
        for answer in all.iter().map(Answer::of_error).chain([own_words]).map(seen) {
            let mendable = matches!(answer.status.as_u16(), 429 | 503);
            assert_eq!(answer.headers.contains_key("retry-after"), mendable, "{answer:?}");
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
        let mut answer = Answer::own(StatusCode::OK, "OK");
        answer.add_measures(&CallId::new(), Duration::from_micros(1_000_042), Some(usage));
        let answer = seen(answer);
        assert_eq!(answer.headers["x-duration-seconds"], "1.000042");
        assert!(answer.headers.contains_key("server-timing"));
    }
}
