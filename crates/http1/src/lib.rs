//! HTTP/1.1 messages as bytes: heads, and where bodies end (RFC 9112). Plain functions of bytes, without sockets, so that
//! they can be fuzzed and used by threads and event loops alike.
//! The watchdog reads requests with it, the gateway requests and responses. It never guesses: what can be read in two ways,
//! which is what request smuggling is made of, is an error.
//!
//! | module | duty |
//! |---|---|
//! | `request` | a request's head, as its server reads it |
//! | `response` | a response's head, as its client reads it |
//! | `fields` | header fields, kept until the next head |
//! | `body` | how long a body is; chunks |
//! | `write` | what stands in heads that are sent |
#![forbid(unsafe_code)]

mod body;
mod fields;
mod request;
mod response;
pub mod write;

pub use body::{BadChunk, BodyLength, Chunks, Step};
pub use fields::{Fields, is_hop_by_hop};
pub use request::RequestHead;
pub use response::{AnswerHead, ResponseHead, may_have_body};

use thiserror::Error;

/// Most header fields of a head: those that the gateway lets through, and what it adds.
pub const FIELDS_MAX: usize = 128;

/// A head shorter than this is looked at each time that something of it came; a longer one only when it is whole, so that
/// a client that sends it byte by byte does not cost the square of its length.
const SHORT: usize = 8 * 1024;

/// Why bytes are not the head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadHead {
    /// Against the grammar.
    #[error("it is not HTTP/1.1 ({0})")]
    Syntax(httparse::Error),
    /// Too many header fields.
    #[error("it has more than {FIELDS_MAX} header fields")]
    TooManyFields,
    /// `Content-Length` is no number, or is there twice.
    #[error("its Content-Length is not one number")]
    Length,
    /// `Transfer-Encoding` is something else than `chunked`, or stands where it may not.
    #[error("its Transfer-Encoding is not \"chunked\", or stands in a message of HTTP/1.0")]
    Encoding,
    /// Two statements of one body's length.
    #[error("it has a Content-Length and a Transfer-Encoding")]
    TwoLengths,
}

impl From<httparse::Error> for BadHead {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            error => Self::Syntax(error),
        }
    }
}

/// Whether it makes sense to parse a head of which the bytes before `seen` have been looked at before.
fn may_be_whole(bytes: &[u8], seen: usize) -> bool {
    let fresh = &bytes[seen.saturating_sub(3).min(bytes.len())..];
    bytes.len() < SHORT || fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|end| end == b"\n\r\n")
}

/// What the fields of a head say about its connection and its body.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Framing {
    /// Takes note of a field, whose name may be in any case.
    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), BadHead> {
        // By length first: most fields are none of these.
        match name.len() {
            14 if name.eq_ignore_ascii_case("content-length") => {
                if self.length.is_some() {
                    return Err(BadHead::Length);
                }
                self.length = Some(number(value).ok_or(BadHead::Length)?);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead::Encoding);
                }
                self.chunked = true;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The body's length as stated; `None` where nothing is.
    fn stated(self, version: u8) -> Result<Option<BodyLength>, BadHead> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(BadHead::TwoLengths),
            (None, true) if version == 0 => Err(BadHead::Encoding),
            (None, true) => Ok(Some(BodyLength::Chunked)),
            (Some(length), false) => Ok(Some(BodyLength::Known(length))),
            (None, false) => Ok(None),
        }
    }

    fn persists(self, version: u8) -> bool {
        !self.close && (version == 1 || self.keep_alive)
    }
}

/// Digits and nothing else, not even a sign.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}
