//! HTTP/1.1 as the watchdog speaks it to a guest that serves: a request as bytes, and the answer out of whatever comes
//! back. Used by the link. It never lets a request say more than one thing, nor an answer be longer than it may.

use std::{fmt::Write as _, net::Ipv4Addr};

use kernlet_http1::{BodyLength, Chunks, ResponseHead};

use crate::{
    crash::Cause,
    message::{Headers, Request, Response, encode_headers},
};

/// Most bytes of an answer's heads, those of interim answers with it.
const HEAD_MAX: usize = 64 * 1024;

/// Fields that belong to a connection or say where a body ends: those are ours to write.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why a guest's answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadAnswer {
    /// Its body has more bytes than it may.
    TooLarge { size: u64, limit: u64 },
    /// Anything else.
    Not(String),
}

impl From<BadAnswer> for Cause {
    fn from(bad: BadAnswer) -> Self {
        match bad {
            BadAnswer::TooLarge { size, limit } => Self::ResponseTooLarge { size, limit },
            BadAnswer::Not(why) => Self::BadResponse { why },
        }
    }
}

/// A request as a server reads it, the only one of its connection; an error says what cannot be sent.
pub(super) fn encode(request: &Request<'_>, address: Ipv4Addr) -> Result<Vec<u8>, &'static str> {
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    if !is_token(request.method) {
        return Err("its method is none");
    }
    let target_is_plain = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if !request.path.starts_with('/') || !target_is_plain(request.path) || !target_is_plain(request.query) {
        return Err("its target has a space or a control character");
    }
    let mut head = String::with_capacity(512);
    let _ = write!(head, "{} {}", request.method, request.path);
    if !request.query.is_empty() {
        let _ = write!(head, "?{}", request.query);
    }
    head.push_str(" HTTP/1.1\r\n");
    if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let _ = write!(head, "host: {address}\r\n");
    }
    let mut bytes = head.into_bytes();
    for (name, value) in request.headers {
        if OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) || name.eq_ignore_ascii_case("x-call-id") {
            continue;
        }
        if !is_token(name) || value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err("one of its headers has a line break or a name that is none");
        }
        field(&mut bytes, name, value);
    }
    if target_is_plain(request.call_id) && !request.call_id.is_empty() {
        field(&mut bytes, "x-call-id", request.call_id.as_bytes());
    }
    let may_have_body = !matches!(request.method, "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE");
    if may_have_body || !request.body.is_empty() {
        field(&mut bytes, "content-length", request.body.len().to_string().as_bytes());
    }
    field(&mut bytes, "connection", b"close");
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(request.body);
    Ok(bytes)
}

fn field(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    to_head: bool,
    /// Of its body, in bytes.
    limit: u64,
    /// What came and belongs to nothing yet.
    unread: Vec<u8>,
    /// How much of that was looked at before.
    seen: usize,
    /// Bytes of interim heads.
    interim: usize,
    head: Option<ResponseHead>,
    chunks: Chunks,
    body: Vec<u8>,
}

impl Answer {
    /// One to a request of this method, whose body has no more bytes than `limit`.
    pub(super) fn new(method: &str, limit: u64) -> Self {
        Self {
            to_head: method == "HEAD",
            limit,
            unread: Vec::new(),
            seen: 0,
            interim: 0,
            head: None,
            chunks: Chunks::new(),
            body: Vec::new(),
        }
    }

    /// Takes what came next; tells whether the answer is whole.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, BadAnswer> {
        self.unread.extend_from_slice(bytes);
        while self.head.is_none() {
            if !self.take_head()? {
                return Ok(false);
            }
        }
        self.take_body()
    }

    /// The connection ended in order; tells whether the answer is whole.
    pub(super) fn end(&self) -> Result<(), BadAnswer> {
        match &self.head {
            Some(head) if head.body == BodyLength::UntilClose => Ok(()),
            Some(_) => Err(BadAnswer::Not("its connection ended before its body did".to_owned())),
            None => Err(BadAnswer::Not("its connection ended before its head did".to_owned())),
        }
    }

    /// Reads a head, if it is whole.
    fn take_head(&mut self) -> Result<bool, BadAnswer> {
        let too_long = || BadAnswer::Not(format!("its head has more than {HEAD_MAX} bytes"));
        let read = ResponseHead::read(&self.unread, self.seen, self.to_head);
        let Some(head) = read.map_err(|error| BadAnswer::Not(error.to_string()))? else {
            self.seen = self.unread.len();
            return if self.interim + self.seen > HEAD_MAX { Err(too_long()) } else { Ok(false) };
        };
        if self.interim + head.length > HEAD_MAX {
            return Err(too_long());
        }
        self.unread.drain(..head.length);
        self.seen = 0;
        match head.status.as_u16() {
            101 => return Err(BadAnswer::Not("it changes the protocol, which nobody asked for".to_owned())),
            100..=199 => {
                self.interim += head.length;
                return Ok(!self.unread.is_empty());
            }
            200..=599 => {}
            status => return Err(BadAnswer::Not(format!("its status is {status}"))),
        }
        if let BodyLength::Known(size) = head.body
            && size > self.limit
        {
            return Err(BadAnswer::TooLarge { size, limit: self.limit });
        }
        self.head = Some(head);
        Ok(true)
    }

    fn take_body(&mut self) -> Result<bool, BadAnswer> {
        let Some(head) = &self.head else { return Ok(false) };
        match head.body {
            BodyLength::Known(size) => {
                let left = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(self.body.len());
                self.body.extend(self.unread.drain(..left.min(self.unread.len())));
                Ok(self.body.len() as u64 == size)
            }
            BodyLength::UntilClose => {
                self.body.append(&mut self.unread);
                self.fits()?;
                Ok(false)
            }
            BodyLength::Chunked => {
                let mut done = 0;
                while !self.chunks.is_over() {
                    let rest = &self.unread[done..];
                    let step = self.chunks.step(rest).map_err(|error| BadAnswer::Not(error.to_string()))?;
                    self.body.extend_from_slice(&rest[step.data]);
                    self.fits()?;
                    if step.taken == 0 {
                        break;
                    }
                    done += step.taken;
                }
                self.unread.drain(..done);
                Ok(self.chunks.is_over())
            }
        }
    }

    fn fits(&self) -> Result<(), BadAnswer> {
        let size = self.body.len() as u64;
        if size > self.limit { Err(BadAnswer::TooLarge { size, limit: self.limit }) } else { Ok(()) }
    }

    /// Puts a whole answer in the place of what `response` holds.
    pub(super) fn finish(self, response: &mut Response) -> Result<(), BadAnswer> {
        let Some(head) = self.head else { return Err(BadAnswer::Not("it has no head".to_owned())) };
        response.status = head.status.as_u16();
        response.headers = Headers::default();
        // The body's framing was its connection's.
        let fields = head.headers.iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
        let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        encode_headers(response.headers.fields_mut(), &fields)
            .ok_or_else(|| BadAnswer::Not("one of its headers is too long".to_owned()))?;
        response.body = self.body;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn request<'a>(method: &'a str, headers: &'a [(&'a str, &'a [u8])], body: &'a [u8]) -> Request<'a> {
        Request { method, path: "/a", query: "b=c", headers, body, call_id: "call" }
    }

    fn answer(bytes: &[u8], pieces: usize, method: &str) -> Result<Option<Response>, BadAnswer> {
        let mut answer = Answer::new(method, 100);
        let mut whole = false;
        for piece in bytes.chunks(pieces) {
            whole = answer.take(piece)?;
            if whole {
                break;
            }
        }
        if !whole {
            answer.end()?;
        }
        let mut response = Response::default();
        answer.finish(&mut response)?;
        Ok(Some(response))
    }

    #[test]
    fn a_request_says_where_it_ends_once_and_that_it_is_the_last() {
        let headers: [(&str, &[u8]); 5] = [
            ("X-A", b"1"),
            ("Content-Length", b"99"),
            ("transfer-encoding", b"chunked"),
            ("X-A", b"2"),
            ("expect", b"x"),
        ];
        let sent = encode(&request("POST", &headers, b"body"), ADDRESS).unwrap();
        assert_eq!(
            String::from_utf8(sent).unwrap(),
            "POST /a?b=c HTTP/1.1\r\nhost: 10.0.0.2\r\nX-A: 1\r\nX-A: 2\r\nx-call-id: call\r\ncontent-length: 4\r\n\
             connection: close\r\n\r\nbody"
        );
        let sent = encode(&request("GET", &[("Host", b"f")], b""), ADDRESS).unwrap();
        assert_eq!(sent, b"GET /a?b=c HTTP/1.1\r\nHost: f\r\nx-call-id: call\r\nconnection: close\r\n\r\n");
    }

    #[test]
    fn a_request_cannot_hold_another_one() {
        for headers in [[("X", &b"a\r\nY: b"[..])], [("X", b"\0")], [("X: y\r\nZ", b"a")], [("", b"a")]] {
            assert!(encode(&request("GET", &headers, b""), ADDRESS).is_err(), "{headers:?}");
        }
        assert!(encode(&request("GET /x HTTP/1.1\r\n", &[], b""), ADDRESS).is_err());
        assert!(encode(&Request { path: "/ HTTP/1.1\r\nX: y", ..request("GET", &[], b"") }, ADDRESS).is_err());
        assert!(encode(&Request { query: "a b", ..request("GET", &[], b"") }, ADDRESS).is_err());
    }

    #[test]
    fn an_answer_is_read_however_it_says_where_it_ends() {
        let texts = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\n\r\nhello",
        ];
        for (text, pieces) in texts.iter().flat_map(|text| [1, 7, 1000].map(|pieces| (text, pieces))) {
            let response = answer(text.as_bytes(), pieces, "GET").unwrap().unwrap();
            assert_eq!((response.status, response.body.as_slice()), (200, &b"hello"[..]), "{text}");
            assert_eq!(response.headers.iter().collect::<Vec<_>>(), [("x-a", &b"b"[..])]);
        }
        let head = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", 3, "HEAD").unwrap().unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0));
    }

    #[test]
    fn an_answer_that_lies_is_none() {
        let not = |text: &str, why: &str| match answer(text.as_bytes(), 4096, "GET").unwrap_err() {
            BadAnswer::Not(said) => assert!(said.contains(why), "{text}: {said}"),
            large @ BadAnswer::TooLarge { .. } => assert_eq!(why, "large", "{large:?}"),
        };
        not("", "before its head");
        not("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", "before its body");
        not("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\nhello", "Content-Length");
        not("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\nhello", "Transfer-Encoding");
        not("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", "large");
        not("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff0\r\n", "before its body");
        not(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101)), "large");
        not(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}", "x".repeat(101)), "large");
        not("HTTP/1.1 101 Switching Protocols\r\n\r\n", "protocol");
        not("HTTP/1.1 999 Wrong\r\n\r\n", "status is 999");
        not("SSH-2.0-x\r\n\r\n", "not HTTP");
        not(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000)), "more than 65536 bytes");
        not(&"HTTP/1.1 102 Processing\r\n\r\n".repeat(3000), "more than 65536 bytes");
        not(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(200)), "header fields");
    }

    proptest! {
        #[test]
        fn any_answer_is_the_same_in_whatever_pieces_it_comes(
            text in "(HTTP/1.1 (200|100|204) OK\r\n)?(Content-Length: [0-9]\r\n|Transfer-Encoding: chunked\r\n)?\r\n[0-3a\r\n]{0,30}",
            pieces in 1_usize..9,
        ) {
            prop_assert_eq!(answer(text.as_bytes(), pieces, "GET"), answer(text.as_bytes(), 1, "GET"));
        }

        #[test]
        fn any_bytes_are_an_answer_or_none(bytes: Vec<u8>, pieces in 1_usize..50) {
            let _ = answer(&bytes, pieces, "GET");
        }
    }
}
