//! A response under construction, and the form in which the monitor reads it. Made by the function's handler.
//! A borrowed body stays where it is until the monitor copies it out.

use alloc::{borrow::Cow, vec::Vec};

use kernlet_abi::{fields, message::ResponseHead};

use crate::hypercall::span;

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    status: u16,
    headers: Vec<u8>,
    body: Cow<'a, [u8]>,
}

impl<'a> Response<'a> {
    /// A response with this status, 200 to 599, and an empty body.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Cow::Borrowed(&[]) }
    }

    /// Status 200 and this body.
    #[must_use]
    pub const fn ok(body: &'a [u8]) -> Self {
        Self { status: 200, headers: Vec::new(), body: Cow::Borrowed(body) }
    }

    /// Adds a header. One whose name or value is longer than 65,535 bytes is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some(lengths) = fields::encode_lengths(name.len(), value.len()) {
            self.headers.extend_from_slice(&lengths);
            self.headers.extend_from_slice(name.as_bytes());
            self.headers.extend_from_slice(value.as_bytes());
        }
        self
    }

    /// Sets the body: bytes or text, borrowed or owned.
    #[must_use]
    pub fn body(mut self, body: impl Into<Body<'a>>) -> Self {
        self.body = body.into().0;
        self
    }

    pub(crate) fn encode(self) -> Encoded<'a> {
        let head = ResponseHead {
            status: u32::from(self.status),
            reserved: 0,
            headers: span(&self.headers),
            body: span(&self.body),
        };
        Encoded { head, _response: self }
    }
}

/// A response as the monitor reads it, together with what its head points to.
pub(crate) struct Encoded<'a> {
    pub(crate) head: ResponseHead,
    _response: Response<'a>,
}

/// What can be a response's body.
#[derive(Clone, Debug)]
pub struct Body<'a>(Cow<'a, [u8]>);

impl<'a> From<&'a [u8]> for Body<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl<'a> From<&'a str> for Body<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Body<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl From<alloc::string::String> for Body<'_> {
    fn from(text: alloc::string::String) -> Self {
        Self(Cow::Owned(text.into_bytes()))
    }
}
