//! What happens to headers between a client and a function: OpenFaaS's are added, those of one hop are taken out.
//! The proxy applies it to each request and each response.
//! It never touches a header that is the client's or the function's own business.

use http::header::{
    CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use kernlet_meter::UsageRecord;
use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
pub(crate) const START_TIME: HeaderName = HeaderName::from_static("x-start-time");
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// A client that sends it gets to know where its time went.
pub(crate) const TIMING: HeaderName = HeaderName::from_static("x-kernlet-timing");
/// What an invocation used: every watchdog says it, and a client that sends it gets to know it.
pub(crate) const USAGE: HeaderName = HeaderName::from_static(UsageRecord::HEADER);
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The gateway's name and version.
const SERVED_BY_VALUE: &str = concat!("kernlet/", env!("CARGO_PKG_VERSION"));
/// Longest call id that is taken from a client, in bytes.
const CALL_ID_MAX: usize = 128;

/// Headers that concern one connection only (RFC 9110, section 7.6.1, and the older ones it grew from).
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The client of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address, as `X-Forwarded-For` has it.
    address: HeaderValue,
}

impl Client {
    /// A client at this address.
    pub(crate) fn new(address: IpAddr) -> Client {
        let address = HeaderValue::from_str(&address.to_string());
        Client { address: address.unwrap_or(HeaderValue::from_static("unknown")) }
    }
}

/// What marks one call, the same in the request and in its response.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    /// The client's call id where it can be one, else a new UUID.
    pub(crate) call_id: HeaderValue,
    /// Nanoseconds since 1970.
    start_time: HeaderValue,
}

impl Marks {
    /// Marks a request that has just come.
    pub(crate) fn new(headers: &HeaderMap) -> Marks {
        let call_id = match headers.get(CALL_ID) {
            Some(given) if is_call_id(given.as_bytes()) => given.clone(),
            _ => new_call_id(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Marks { call_id, start_time: HeaderValue::from(nanoseconds) }
    }

    /// Writes the marks into a request or a response.
    pub(crate) fn insert_into(&self, headers: &mut HeaderMap) {
        headers.insert(CALL_ID, self.call_id.clone());
        headers.insert(START_TIME, self.start_time.clone());
    }
}

/// Makes a client's headers those of the request to the watchdog.
pub(crate) fn forward_request(headers: &mut HeaderMap, marks: &Marks, client: &Client, function: &str) {
    strip_hop_by_hop(headers);
    // The server has answered it already where the client waited for the answer.
    headers.remove(EXPECT);
    let host = match headers.get(HOST) {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(function).unwrap_or(HeaderValue::from_static("function")),
    };
    headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
    headers.insert(HOST, host);
    append_client(headers, client);
    marks.insert_into(headers);
}

/// Makes a watchdog's headers those of the response to the client. `request_type` is the request's media type, which
/// stands in where the function names none.
pub(crate) fn forward_response(status: StatusCode, headers: &mut HeaderMap, request_type: Option<HeaderValue>) {
    strip_hop_by_hop(headers);
    let has_content = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_content && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, request_type.unwrap_or(HeaderValue::from_static("text/plain")));
    }
}

/// Puts the marks and the gateway's name on an answer to an invocation, whoever made it.
pub(crate) fn sign(headers: &mut HeaderMap, marks: &Marks) {
    marks.insert_into(headers);
    headers.insert(SERVED_BY, HeaderValue::from_static(SERVED_BY_VALUE));
}

/// Adds the gateway's own time to what the watchdog measured.
pub(crate) fn append_timing(headers: &mut HeaderMap, own: Duration) {
    let gateway = format!("gateway;dur={:.3}", own.as_secs_f64() * 1000.0);
    let all = match headers.get(SERVER_TIMING).and_then(|timing| timing.to_str().ok()) {
        Some(rest) => format!("{gateway}, {rest}"),
        None => gateway,
    };
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(SERVER_TIMING, value);
    }
}

/// Takes out the headers of one hop, and those that `Connection` names.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // These say where the message goes and where it ends; a client cannot ask to lose them.
            .filter(|name| *name != HOST && *name != http::header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn append_client(headers: &mut HeaderMap, client: &Client) {
    let address = &client.address;
    let mut before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).peekable();
    let all = if before.peek().is_some() {
        let mut all = String::new();
        for value in before.chain(address.to_str()) {
            all.push_str(if all.is_empty() { "" } else { ", " });
            all.push_str(value);
        }
        HeaderValue::from_str(&all).unwrap_or_else(|_| address.clone())
    } else {
        address.clone()
    };
    headers.insert(FORWARDED_FOR, all);
}

/// 1 to 128 visible ASCII characters: what can stand in a log line without being mistaken for something else.
fn is_call_id(text: &[u8]) -> bool {
    (1..=CALL_ID_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

fn new_call_id() -> HeaderValue {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Builder::from_random_bytes(random_bytes()).into_uuid().hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
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
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn client() -> Client {
        Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn headers_of_one_hop_and_those_that_connection_names_are_taken_out() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"),
            ("connection", "host"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("host", "gateway:8080"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "gateway:8080"), ("x-kept", "1")]));
    }

    #[test]
    fn a_request_carries_its_marks_and_where_it_came_from() {
        let mut headers = map(&[
            ("host", "gateway:8080"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-call-id", "mine"),
            ("expect", "100-continue"),
        ]);
        let marks = Marks::new(&headers);
        forward_request(&mut headers, &marks, &client(), "echo.openfaas-fn");
        assert_eq!(headers[CALL_ID], "mine");
        assert_eq!(headers[FORWARDED_HOST], "gateway:8080");
        assert_eq!(headers[FORWARDED_FOR], "10.0.0.1, 127.0.0.1");
        assert!(headers[START_TIME].to_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000_000_000_000);
        assert!(!headers.contains_key(EXPECT));
    }

    #[test]
    fn a_request_without_a_host_gets_the_functions_name() {
        let mut headers = HeaderMap::new();
        let marks = Marks::new(&headers);
        forward_request(&mut headers, &marks, &client(), "echo.openfaas-fn");
        assert_eq!(headers[HOST], "echo.openfaas-fn");
    }

    #[test]
    fn a_call_id_that_cannot_be_one_is_replaced() {
        let long = "a".repeat(129);
        for given in ["", "a b", "a\tb", long.as_str()] {
            let marks = Marks::new(&map(&[("x-call-id", given)]));
            assert!(uuid::Uuid::parse_str(marks.call_id.to_str().unwrap()).is_ok(), "{given}");
        }
        assert_eq!(Marks::new(&map(&[("x-call-id", &long[1..])])).call_id, long[1..]);
    }

    #[test]
    fn no_two_call_ids_are_the_same() {
        let ids: std::collections::HashSet<HeaderValue> = (0..1000).map(|_| new_call_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id.to_str().unwrap()).unwrap().get_version_num() == 4));
    }

    #[test]
    fn a_response_without_a_media_type_gets_the_requests_or_text() {
        let mut headers = HeaderMap::new();
        forward_response(StatusCode::OK, &mut headers, None);
        assert_eq!(headers[CONTENT_TYPE], "text/plain");
        let mut headers = HeaderMap::new();
        forward_response(StatusCode::OK, &mut headers, Some(HeaderValue::from_static("image/png")));
        assert_eq!(headers[CONTENT_TYPE], "image/png");
        let mut headers = map(&[("content-type", "application/json")]);
        forward_response(StatusCode::OK, &mut headers, Some(HeaderValue::from_static("image/png")));
        assert_eq!(headers[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn the_gateways_time_comes_before_the_watchdogs() {
        let mut headers = map(&[("server-timing", "watchdog;dur=0.2")]);
        append_timing(&mut headers, Duration::from_micros(1500));
        assert_eq!(headers[SERVER_TIMING], "gateway;dur=1.500, watchdog;dur=0.2");
    }

    proptest! {
        #[test]
        fn no_header_of_one_hop_ever_passes(pairs in proptest::collection::vec(("(connection|te|upgrade|x-[a-c]|host)", "[ -~]{0,16}"), 0..12)) {
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let mut headers = map(&pairs);
            let host = headers.get(HOST).cloned();
            strip_hop_by_hop(&mut headers);
            for name in &HOP_BY_HOP {
                prop_assert!(!headers.contains_key(name));
            }
            prop_assert_eq!(headers.get(HOST).cloned(), host);
        }
    }
}
