//! What happens to header fields between a client and a function: OpenFaaS's are added, those of one hop are taken out.
//! The proxy applies it to each request and each response, whose fields are copied once, from one message into the other.
//! It never touches a field that is the client's or the function's own business.

use crate::client::Reply;
use http::StatusCode;
use kernlet_http1::write::{field, number_field};
use kernlet_http1::{AnswerHead, Fields, RequestHead, may_have_body};
use kernlet_meter::UsageRecord;
use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CALL_ID: &str = "x-call-id";
const START_TIME: &str = "x-start-time";
const SERVED_BY: &str = "x-served-by";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_FOR: &str = "x-forwarded-for";
/// A client that sends it gets to know where its time went.
const TIMING: &str = "x-kernlet-timing";
/// What an invocation used: every watchdog says it, and a client that sends it gets to know it.
pub(crate) const USAGE: &str = UsageRecord::HEADER;
const SERVER_TIMING: &str = "server-timing";

/// The gateway's name and version.
const SERVED_BY_VALUE: &str = concat!("kernlet/", env!("CARGO_PKG_VERSION"));
/// Longest call id that is taken from a client, in bytes.
const CALL_ID_MAX: usize = 128;

/// The client of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address, as `X-Forwarded-For` has it.
    address: String,
}

impl Client {
    /// A client at this address.
    pub(crate) fn new(address: IpAddr) -> Client {
        Client { address: address.to_string() }
    }
}

/// What marks one call, the same in the request and in its response.
#[derive(Debug)]
pub(crate) struct Marks<'a> {
    /// The client's call id where it can be one, else a new UUID.
    call_id: CallId<'a>,
    /// Nanoseconds since 1970.
    start_time: u64,
}

#[derive(Debug)]
enum CallId<'a> {
    Given(&'a [u8]),
    New([u8; uuid::fmt::Hyphenated::LENGTH]),
}

impl<'a> Marks<'a> {
    /// Marks a request that has just come.
    pub(crate) fn new(request: &'a RequestHead) -> Marks<'a> {
        let call_id = match request.field(CALL_ID) {
            Some(given) if is_call_id(given) => CallId::Given(given),
            _ => CallId::New(new_call_id()),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Marks { call_id, start_time: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX) }
    }

    fn call_id(&self) -> &[u8] {
        match &self.call_id {
            CallId::Given(given) => given,
            CallId::New(new) => new,
        }
    }
}

/// Writes the fields of the request to the watchdog, but for those that say how its body ends.
pub(crate) fn forward_request(
    text: &mut Vec<u8>,
    request: &RequestHead,
    marks: &Marks<'_>,
    client: &Client,
    function: &str,
) {
    let fields = request.fields();
    let host = fields.get("host").unwrap_or(function.as_bytes());
    field(text, "host", host);
    let connected = fields.has("connection");
    let mut host_is_forwarded = false;
    for (name, value) in fields.iter() {
        match name {
            // They say where the message goes and where it ends: a client cannot ask to lose them.
            "host" | "content-length" => continue,
            // Our own, or the server's, which has answered it already where the client waited for the answer.
            CALL_ID | START_TIME | FORWARDED_FOR | "expect" => continue,
            _ if is_of_hop(fields, name, connected) => continue,
            FORWARDED_HOST => host_is_forwarded = true,
            _ => {}
        }
        field(text, name, value);
    }
    if !host_is_forwarded {
        field(text, FORWARDED_HOST, host);
    }
    forward_client(text, fields, connected, client);
    field(text, CALL_ID, marks.call_id());
    number_field(text, START_TIME, marks.start_time);
}

/// Whether a field is of one hop: by its name, or since `Connection` names it.
fn is_of_hop(fields: &Fields, name: &str, connected: bool) -> bool {
    name == "proxy-authorization" || fields.is_of_connection(name, connected)
}

fn forward_client(text: &mut Vec<u8>, fields: &Fields, connected: bool, client: &Client) {
    text.extend_from_slice(FORWARDED_FOR.as_bytes());
    text.extend_from_slice(b": ");
    if !is_of_hop(fields, FORWARDED_FOR, connected) {
        let before = fields.iter().filter(|(name, value)| *name == FORWARDED_FOR && is_text(value));
        for (_, value) in before {
            text.extend_from_slice(value);
            text.extend_from_slice(b", ");
        }
    }
    text.extend_from_slice(client.address.as_bytes());
    text.extend_from_slice(b"\r\n");
}

/// Writes the head of the response to the client, but for what says how its body ends. `took` is the gateway's own time.
pub(crate) fn forward_response(
    reply: &mut Reply,
    answer: &AnswerHead,
    request: &RequestHead,
    marks: &Marks<'_>,
    took: impl FnOnce() -> Duration,
) {
    let fields = answer.fields();
    let connected = fields.has("connection");
    let shows_usage = request.fields().has(USAGE);
    // What a body would have, where there is none.
    let keeps_length = request.method() == "HEAD" || answer.status() == StatusCode::NOT_MODIFIED;
    let mut timing = request.fields().has(TIMING).then(|| format!("gateway;dur={:.3}", took().as_secs_f64() * 1000.0));
    let mut typed = false;
    reply.begin(answer.status());
    for (name, value) in fields.iter() {
        match name {
            CALL_ID | START_TIME | SERVED_BY => continue,
            USAGE if !shows_usage => continue,
            "content-length" if !keeps_length => continue,
            _ if is_of_hop(fields, name, connected) => continue,
            SERVER_TIMING => {
                if let Some(own) = timing.take() {
                    reply.field(name, &[own.as_bytes(), b", ", value].concat());
                    continue;
                }
            }
            "content-type" => typed = true,
            _ => {}
        }
        reply.field(name, value);
    }
    if let Some(own) = timing {
        reply.field(SERVER_TIMING, own.as_bytes());
    }
    if !typed && may_have_body(answer.status()) {
        reply.field("content-type", request.field("content-type").unwrap_or(b"text/plain"));
    }
    sign(reply, marks);
}

/// Puts the marks and the gateway's name on an answer to an invocation, whoever made it.
pub(crate) fn sign(reply: &mut Reply, marks: &Marks<'_>) {
    reply.field(CALL_ID, marks.call_id());
    reply.number(START_TIME, marks.start_time);
    reply.field(SERVED_BY, SERVED_BY_VALUE.as_bytes());
}

/// 1 to 128 visible ASCII characters: what can stand in a log line without being mistaken for something else.
fn is_call_id(text: &[u8]) -> bool {
    (1..=CALL_ID_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// Visible ASCII characters, spaces and tabs.
fn is_text(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t'))
}

fn new_call_id() -> [u8; uuid::fmt::Hyphenated::LENGTH] {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    uuid::Builder::from_random_bytes(random_bytes()).into_uuid().hyphenated().encode_lower(&mut text);
    text
}

/// Bytes of the system's randomness that are fetched at once.
const RANDOM_STOCK: usize = 1024;

/// Random bytes, with a system call for every 64th caller.
fn random_bytes() -> [u8; 16] {
    thread_local! {
        static STOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    STOCK.with_borrow_mut(|stock| {
        if stock.is_empty() {
            stock.resize(RANDOM_STOCK, 0);
            if getrandom::fill(stock).is_err() {
                // Only on a kernel without it. Ids that repeat harm nobody: they name lines of logs.
                tracing::warn!("The system gives no randomness: call ids are not unique");
            }
        }
        let mut bytes = [0; 16];
        let rest = stock.len().saturating_sub(bytes.len());
        bytes.copy_from_slice(&stock[rest..]);
        stock.truncate(rest);
        bytes
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use http::{HeaderMap, HeaderValue};
    use kernlet_http1::{ResponseHead, is_hop_by_hop};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn client() -> Client {
        Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn lines(first: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{first}\r\n{fields}\r\n").into_bytes()
    }

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.read(&lines("GET / HTTP/1.1", fields), 0).unwrap().unwrap();
        head
    }

    /// The fields that the watchdog gets.
    fn forwarded(request: &RequestHead) -> HeaderMap {
        let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
        forward_request(&mut text, request, &Marks::new(request), &client(), "echo.openfaas-fn");
        text.extend_from_slice(b"\r\n");
        ResponseHead::read(&text, 0, false).unwrap().unwrap().headers
    }

    /// The fields that the client gets.
    fn answered(request: &RequestHead, first: &str, fields: &[(&str, &str)]) -> HeaderMap {
        let mut answer = AnswerHead::default();
        answer.read(&lines(first, fields), 0, false).unwrap().unwrap();
        let mut reply = Reply::default();
        forward_response(&mut reply, &answer, request, &Marks::new(request), || Duration::from_micros(1500));
        let text = [reply.bytes(), b"\r\n"].concat();
        ResponseHead::read(&text, 0, false).unwrap().unwrap().headers
    }

    #[test]
    fn headers_of_one_hop_and_those_that_connection_names_are_taken_out() {
        let fields = [
            ("connection", "keep-alive, X-Mine"),
            ("connection", "host"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "x"),
            ("host", "gateway:8080"),
            ("x-kept", "1"),
        ];
        let forwarded = forwarded(&request(&fields));
        let names: Vec<_> = forwarded.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x-kept", FORWARDED_HOST, FORWARDED_FOR, CALL_ID, START_TIME]);
        let answered = answered(&request(&[]), "HTTP/1.1 200 OK", &fields);
        assert!(
            ["x-mine", "te", "upgrade", "connection", "keep-alive"].iter().all(|name| !answered.contains_key(*name))
        );
        assert_eq!(answered["x-kept"], "1");
    }

    #[test]
    fn a_request_carries_its_marks_and_where_it_came_from() {
        let headers = forwarded(&request(&[
            ("host", "gateway:8080"),
            ("x-forwarded-for", "10.0.0.1"),
            ("X-Forwarded-For", "\u{e9}"),
            ("x-forwarded-for", "10.0.0.2, 10.0.0.3"),
            ("x-call-id", "mine"),
            ("x-start-time", "1"),
            ("expect", "100-continue"),
        ]));
        assert_eq!(headers[CALL_ID], "mine");
        assert_eq!(headers[FORWARDED_HOST], "gateway:8080");
        assert_eq!(headers[FORWARDED_FOR], "10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1");
        assert!(headers[START_TIME].to_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000_000_000_000);
        assert!(headers.get_all(START_TIME).iter().count() == 1 && !headers.contains_key("expect"));
        let kept = forwarded(&request(&[("host", "a"), ("x-forwarded-host", "b")]));
        assert_eq!(kept.get_all(FORWARDED_HOST).iter().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_request_without_a_host_gets_the_functions_name() {
        assert_eq!(forwarded(&request(&[]))["host"], "echo.openfaas-fn");
    }

    #[test]
    fn a_call_id_that_cannot_be_one_is_replaced() {
        let long = "a".repeat(129);
        for given in ["", "a b", "a\tb", long.as_str()] {
            let request = request(&[("x-call-id", given)]);
            let marks = Marks::new(&request);
            assert!(uuid::Uuid::try_parse_ascii(marks.call_id()).is_ok(), "{given}");
        }
        assert_eq!(Marks::new(&request(&[("x-call-id", &long[1..])])).call_id(), &long.as_bytes()[1..]);
    }

    #[test]
    fn no_two_call_ids_are_the_same() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| new_call_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| uuid::Uuid::try_parse_ascii(id).unwrap().get_version_num() == 4));
    }

    #[test]
    fn a_response_without_a_media_type_gets_the_requests_or_text() {
        let typed = request(&[("content-type", "image/png")]);
        let answer = |request, fields| answered(request, "HTTP/1.1 200 OK", fields)["content-type"].clone();
        let plain = request(&[]);
        assert_eq!(answer(&plain, &[]), "text/plain");
        assert_eq!(answer(&typed, &[]), "image/png");
        assert_eq!(answer(&typed, &[("content-type", "application/json")]), "application/json");
        assert!(!answered(&typed, "HTTP/1.1 204 No Content", &[]).contains_key("content-type"));
    }

    #[test]
    fn a_response_is_signed_whatever_the_function_says_of_itself() {
        let asked = request(&[("x-call-id", "mine")]);
        let forged =
            [("x-call-id", "other"), ("x-served-by", "nobody"), ("x-start-time", "0"), ("content-length", "7")];
        let headers = answered(&asked, "HTTP/1.1 200 OK", &forged);
        let all = |name| headers.get_all(name).iter().cloned().collect::<Vec<HeaderValue>>();
        assert_eq!(
            (all(CALL_ID), all(SERVED_BY)),
            (vec!["mine".parse().unwrap()], vec![SERVED_BY_VALUE.parse().unwrap()])
        );
        assert!(all(START_TIME).len() == 1 && headers[START_TIME] != "0" && !headers.contains_key("content-length"));
    }

    #[test]
    fn what_an_invocation_used_is_shown_to_who_asked_only() {
        let used = [("x-kernlet-usage", "wall=5")];
        assert!(!answered(&request(&[]), "HTTP/1.1 200 OK", &used).contains_key(USAGE));
        assert_eq!(answered(&request(&[(USAGE, "1")]), "HTTP/1.1 200 OK", &used)[USAGE], "wall=5");
    }

    #[test]
    fn the_gateways_time_comes_before_the_watchdogs() {
        let timed = request(&[(TIMING, "1")]);
        let answer = |fields| answered(&timed, "HTTP/1.1 200 OK", fields)[SERVER_TIMING].clone();
        assert_eq!(answer(&[("server-timing", "watchdog;dur=0.2")]), "gateway;dur=1.500, watchdog;dur=0.2");
        assert_eq!(answer(&[]), "gateway;dur=1.500");
    }

    proptest! {
        #[test]
        fn no_header_of_one_hop_ever_passes(pairs in proptest::collection::vec(("(connection|te|upgrade|x-[a-c]|host)", "[!-~]([ -~]{0,14}[!-~])?"), 0..12)) {
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let request = request(&pairs);
            let headers = forwarded(&request);
            prop_assert!(headers.keys().all(|name| !is_hop_by_hop(name.as_str())));
            let host = request.field("host").unwrap_or(b"echo.openfaas-fn");
            prop_assert_eq!(headers["host"].as_bytes(), host);
        }
    }
}
