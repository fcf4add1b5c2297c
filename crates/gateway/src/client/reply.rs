//! An answer on its way to a client: its head, written as it comes, and how its end is told.
//! The proxy writes the answers of functions into it; the connection those of the gateway, and sends all.
//! It never lets a function's head say where the message ends.

use http::{HeaderMap, StatusCode};
use kernlet_http1::write::{Date, field, number_field, status_line};
use kernlet_http1::{BodyLength, RequestHead, may_have_body};

/// The head of an answer, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    head: Vec<u8>,
    status: StatusCode,
    /// It says when it was made.
    dated: bool,
    /// It says how long it is, as the answer to a request without a body for an answer may.
    stated: bool,
    date: Date,
}

/// How the client is told where the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length, or it has no body.
    Known,
    Chunked,
    UntilClose,
}

impl Reply {
    /// Begins an answer; what was written before is forgotten.
    pub(crate) fn begin(&mut self, status: StatusCode) {
        self.head.clear();
        (self.status, self.dated, self.stated) = (status, false, false);
        status_line(&mut self.head, status);
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Adds a field, whose name is in lower case.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        match name {
            "date" => self.dated = true,
            "content-length" => self.stated = true,
            _ => {}
        }
        field(&mut self.head, name, value);
    }

    /// Adds a field whose value is a number.
    pub(crate) fn number(&mut self, name: &str, number: u64) {
        number_field(&mut self.head, name, number);
    }

    /// An answer with these fields.
    pub(crate) fn fill(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.begin(status);
        for (name, value) in headers {
            self.field(name.as_str(), value.as_bytes());
        }
    }

    /// Ends the head, for a body of this length. Says how the body's end is told, and whether the connection goes on.
    pub(super) fn end(&mut self, request: &RequestHead, length: BodyLength, may_go_on: bool) -> (Framing, bool) {
        let to_head = request.method() == "HEAD";
        let framing = match length {
            _ if to_head || !may_have_body(self.status) => Framing::Known,
            BodyLength::Known(_) => Framing::Known,
            BodyLength::Chunked | BodyLength::UntilClose if request.is_old() => Framing::UntilClose,
            BodyLength::Chunked | BodyLength::UntilClose => Framing::Chunked,
        };
        match (framing, length) {
            (Framing::Chunked, _) => self.field("transfer-encoding", b"chunked"),
            (Framing::Known, BodyLength::Known(length)) if may_have_body(self.status) && !self.stated => {
                self.number("content-length", length);
            }
            _ => {}
        }
        let goes_on = may_go_on && framing != Framing::UntilClose;
        match (goes_on, request.is_old()) {
            (false, _) => self.field("connection", b"close"),
            (true, true) => self.field("connection", b"keep-alive"),
            (true, false) => {}
        }
        if !self.dated {
            field(&mut self.head, "date", self.date.now().as_bytes());
        }
        self.head.extend_from_slice(b"\r\n");
        (framing, goes_on)
    }

    /// Adds the body to the head: for a short one, so that both go in one piece.
    pub(super) fn add_body(&mut self, data: &[u8]) {
        self.head.extend_from_slice(data);
    }

    /// What is to be sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.head
    }
}
