//! A request as the monitor lays it into the request window, and a response as the guest hands it over.
//! HTTP headers travel as [`crate::fields`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Span;

/// First bytes of the request window; every span lies in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHead {
    /// HTTP method, such as `POST`.
    pub method: Span,
    /// Path after the function's name, percent-encoded as received; starts with `/`.
    pub path: Span,
    /// Query without the `?`, as received; may be empty.
    pub query: Span,
    /// Headers, as [`crate::fields`].
    pub headers: Span,
    /// Body.
    pub body: Span,
    /// The call id, as in `X-Call-Id`.
    pub call_id: Span,
    /// Time left for this request, in nanoseconds; the machine is stopped when it is over.
    pub time_limit_ns: u64,
    /// Zero.
    pub reserved: u64,
}

/// A response; lies anywhere in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseHead {
    /// HTTP status, 200 to 599 (a response of any other status is refused).
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Headers, as [`crate::fields`]; at most [`RESPONSE_HEADERS_MAX`] bytes.
    pub headers: Span,
    /// Body, at most [`crate::boot::BootPage::response_limit`] bytes.
    pub body: Span,
}

/// Most bytes of encoded response headers.
pub const RESPONSE_HEADERS_MAX: u64 = 32 * 1024;

const _: () = {
    assert!(size_of::<RequestHead>() == 112);
    assert!(size_of::<ResponseHead>() == 40);
};
