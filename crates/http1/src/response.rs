//! A response's head, as its client reads it: as fields to be passed on, which the gateway does, or in a map.
//! It never takes a watchdog's word for what the connection is for: a protocol cannot be switched.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{BadHead, BodyLength, FIELDS_MAX, Fields, Framing, may_be_whole};

/// A response's head, as a proxy passes it on. Made once for a connection, and used again for each response: its memory is
/// kept.
#[derive(Clone, Debug, Default)]
pub struct AnswerHead {
    status: StatusCode,
    fields: Fields,
    body: BodyLength,
    persists: bool,
}

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

impl AnswerHead {
    /// Reads a head from the beginning of `bytes`, of which the first `seen` were there at the last try. Says how many bytes
    /// it takes; `None` where it is not whole yet, and then this holds anything. `to_head`: it answers a `HEAD` request, and
    /// has no body whatever it says.
    ///
    /// # Errors
    /// These bytes are not the beginning of a head, or it states its body's length in a way that has two readings.
    pub fn read(&mut self, bytes: &[u8], seen: usize, to_head: bool) -> Result<Option<usize>, BadHead> {
        if !may_be_whole(bytes, seen) {
            return Ok(None);
        }
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut room)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let status = StatusCode::from_u16(response.code.unwrap_or_default());
        self.status = status.map_err(|_| BadHead::Syntax(httparse::Error::Status))?;
        let version = response.version.unwrap_or_default();
        let mut framing = Framing::default();
        self.fields.clear();
        for field in response.headers.iter() {
            framing.note(field.name, field.value)?;
            self.fields.push(field.name, field.value);
        }
        let stated = framing.stated(version)?;
        let has_none = to_head || self.status.is_informational() || !may_have_body(self.status);
        self.body = if has_none { BodyLength::Known(0) } else { stated.unwrap_or(BodyLength::UntilClose) };
        self.persists = framing.persists(version) && self.body != BodyLength::UntilClose;
        Ok(Some(length))
    }

    /// Status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Header fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// How long the body is.
    #[must_use]
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// Whether another request may be sent on the connection once the body is over.
    #[must_use]
    pub fn persists(&self) -> bool {
        self.persists
    }
}

/// Whether a response of this status may have a body; where it may not, its length is not stated either (RFC 9110, section
/// 8.6).
#[must_use]
pub fn may_have_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

impl ResponseHead {
    /// As [`AnswerHead::read`], into a map.
    ///
    /// # Errors
    /// As [`AnswerHead::read`].
    pub fn read(bytes: &[u8], seen: usize, to_head: bool) -> Result<Option<Self>, BadHead> {
        let mut head = AnswerHead::default();
        let Some(length) = head.read(bytes, seen, to_head)? else { return Ok(None) };
        let AnswerHead { status, fields, body, persists } = head;
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter() {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| BadHead::Syntax(httparse::Error::HeaderName))?;
            let value = HeaderValue::from_bytes(value);
            headers.append(name, value.map_err(|_| BadHead::Syntax(httparse::Error::HeaderValue))?);
        }
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
