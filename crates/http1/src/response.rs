//! A response's head, as its client reads it. The gateway's link reads its watchdogs' with it.
//! It never takes a watchdog's word for what the connection is for: a protocol cannot be switched.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{BadHead, BodyLength, FIELDS_MAX, Framing, may_be_whole};

/// A response's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Status.
    pub status: StatusCode,
    /// Header fields in their order.
    pub headers: HeaderMap,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether another request may be sent on the connection once the body is over.
    pub persists: bool,
    /// Bytes that it takes.
    pub length: usize,
}

impl ResponseHead {
    /// Reads a head from the beginning of `bytes`, of which the first `seen` were there at the last try; `None` where it is
    /// not whole yet. `to_head`: it answers a `HEAD` request, and has no body whatever it says.
    ///
    /// # Errors
    /// These bytes are not the beginning of a head, or it states its body's length in a way that has two readings.
    pub fn read(bytes: &[u8], seen: usize, to_head: bool) -> Result<Option<Self>, BadHead> {
        if !may_be_whole(bytes, seen) {
            return Ok(None);
        }
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut room)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let status = StatusCode::from_u16(response.code.unwrap_or_default());
        let status = status.map_err(|_| BadHead::Syntax(httparse::Error::Status))?;
        let version = response.version.unwrap_or_default();
        // One piece of memory for all values.
        let all = Bytes::copy_from_slice(&bytes[..length]);
        let mut headers = HeaderMap::with_capacity(response.headers.len());
        let mut framing = Framing::default();
        for field in response.headers.iter() {
            framing.note(field.name, field.value)?;
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let name = name.map_err(|_| BadHead::Syntax(httparse::Error::HeaderName))?;
            let start = field.value.as_ptr().addr() - bytes.as_ptr().addr();
            let value = HeaderValue::from_maybe_shared(all.slice(start..start + field.value.len()));
            headers.append(name, value.map_err(|_| BadHead::Syntax(httparse::Error::HeaderValue))?);
        }
        let stated = framing.stated(version)?;
        let has_none =
            to_head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if has_none { BodyLength::Known(0) } else { stated.unwrap_or(BodyLength::UntilClose) };
        let persists = framing.persists(version) && body != BodyLength::UntilClose;
        Ok(Some(Self { status, headers, body, persists, length }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, to_head: bool) -> Result<ResponseHead, BadHead> {
        ResponseHead::read(text.as_bytes(), 0, to_head).map(Option::unwrap)
    }

    #[test]
    fn a_head_says_what_was_sent_and_where_its_body_ends() {
        let head = read("HTTP/1.1 201 Created\r\nA: b\r\na:  c \r\nContent-Length: 5\r\n\r\nhello", false).unwrap();
        assert_eq!((head.status.as_u16(), head.body, head.persists), (201, BodyLength::Known(5), true));
        assert_eq!(head.headers.get_all("a").iter().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(head.length, 57);
        for (text, to_head, body, persists) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", false, BodyLength::Chunked, true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", false, BodyLength::Known(1), false),
            ("HTTP/1.1 200 OK\r\n\r\n", false, BodyLength::UntilClose, false),
            ("HTTP/1.1 200\r\nContent-Length: 9\r\n\r\n", true, BodyLength::Known(0), true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false, BodyLength::Known(0), true),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, BodyLength::Known(0), true),
            ("HTTP/1.1 100 Continue\r\n\r\n", false, BodyLength::Known(0), true),
        ] {
            let head = read(text, to_head).unwrap();
            assert_eq!((head.body, head.persists), (body, persists), "{text}");
        }
    }

    #[test]
    fn what_says_two_things_about_the_body_is_refused() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 2",
            "Transfer-Encoding: gzip",
        ] {
            assert!(read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), false).is_err(), "{fields}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, seen: usize, to_head: bool) {
            let _ = ResponseHead::read(&bytes, seen, to_head);
        }

        #[test]
        fn any_status_line_is_read_without_a_panic(line in "HTTP/1.[01] [0-9]{3}[ -~]{0,9}\r\n(a: [ -~]{0,9}\r\n){0,3}\r\n") {
            let _ = ResponseHead::read(line.as_bytes(), 0, false);
        }
    }
}
