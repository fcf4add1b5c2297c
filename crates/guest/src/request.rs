//! A request, read in place from the window that the monitor fills. Given to the function's handler.
//! Nothing is copied; the window is read-only.

use kernlet_abi::{fields::Fields, message::RequestHead};

use crate::hypercall::{boot_page, bytes_at};

/// An HTTP request.
#[derive(Debug)]
pub struct Request {
    head: &'static RequestHead,
}

impl Request {
    /// The request that lies in the window.
    ///
    /// # Safety
    /// The window must hold a request, and must not change while this value or anything borrowed from it lives.
    pub(crate) unsafe fn in_window() -> Self {
        let head = core::ptr::with_exposed_provenance(boot_page().request_window.offset as usize);
        // SAFETY: the caller's promise; the window is page-aligned and begins with a head.
        Self { head: unsafe { &*head } }
    }

    fn bytes(&self, span: kernlet_abi::Span) -> &[u8] {
        // SAFETY: the monitor laid these bytes into the window, which stays as it is while `self` lives.
        unsafe { bytes_at(span) }
    }

    fn text(&self, span: kernlet_abi::Span) -> &str {
        str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    /// Method, such as `POST`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.text(self.head.method)
    }

    /// Path after the function's name, percent-encoded as received; starts with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text(self.head.path)
    }

    /// Query without the `?`, as received.
    #[must_use]
    pub fn query(&self) -> &str {
        self.text(self.head.query)
    }

    /// Value of the first query parameter of this name, as received (still percent-encoded).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query().split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The call id, which also marks this request's log lines.
    #[must_use]
    pub fn call_id(&self) -> &str {
        self.text(self.head.call_id)
    }

    /// Body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes(self.head.body)
    }

    /// Names and values of the headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let fields = Fields::new(self.bytes(self.head.headers));
        fields.flatten().map(|(name, value)| (str::from_utf8(name).unwrap_or_default(), value))
    }

    /// Value of the first header of this name, in whatever case, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        str::from_utf8(value).ok()
    }
}
