//! A request on its way to a watchdog: its head, then the body as it comes from the client.
//! The link drives it. It never holds more than the frame that is under way.

use super::LinkError;
use crate::body::Upload;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, request};
use http_body::Body as _;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite as _;
use tokio::net::UnixStream;

/// How the watchdog is told where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Known(u64),
    Chunked,
}

/// What is left to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The head; later what stands before a chunk.
    text: Vec<u8>,
    text_sent: usize,
    data: Bytes,
    /// What stands behind a chunk, or behind all.
    end: &'static [u8],
    framing: Framing,
    /// `None`: no more comes.
    upload: Option<Upload>,
    begun: bool,
    /// The body was asked for once.
    asked: bool,
    /// The watchdog reads no more. It refused the upload (413), answered and closed; the answer is there to be read, so that
    /// the rest is thrown away instead of failing.
    refused: bool,
    is_last_try: bool,
}

/// Nothing of a request was sent: it can be put on another connection.
#[derive(Debug)]
pub(super) struct Unsent;

impl Outgoing {
    /// A request, whose headers are those that the watchdog gets, but for how the body is framed.
    pub(super) fn new(head: &request::Parts, upload: Upload, memory: Vec<u8>) -> Outgoing {
        let mut text = memory;
        text.clear();
        let exact = upload.size_hint().exact();
        let over = upload.is_end_stream();
        let framing = match exact {
            _ if over => Framing::Known(0),
            Some(length) => Framing::Known(length),
            None => Framing::Chunked,
        };
        write_head(&mut text, &head.method, &head.uri, &head.headers);
        match framing {
            Framing::Known(0) if !may_have_content(&head.method) => {}
            // Writing to memory does not fail.
            Framing::Known(length) => drop(write!(text, "content-length: {length}\r\n")),
            Framing::Chunked => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        text.extend_from_slice(b"\r\n");
        Outgoing {
            text,
            text_sent: 0,
            data: Bytes::new(),
            end: b"",
            framing,
            upload: Some(upload).filter(|_| !over),
            begun: false,
            asked: false,
            refused: false,
            is_last_try: false,
        }
    }

    /// Whether all of it was sent, to a watchdog that took it.
    pub(super) fn is_sent(&self) -> bool {
        self.upload.is_none() && self.is_written() && !self.refused
    }

    /// Whether the watchdog has something of it.
    pub(super) fn has_begun(&self) -> bool {
        self.begun || self.refused
    }

    /// From here on it is not given up where the watchdog reads nothing of it: on a new connection it may have said why.
    pub(super) fn goes_nowhere_else(&mut self) {
        self.is_last_try = true;
    }

    /// The memory of what was sent.
    pub(super) fn take_memory(&mut self) -> Vec<u8> {
        self.text_sent = 0;
        std::mem::take(&mut self.text)
    }

    /// Sends what can be sent. Done once there is no more to send.
    pub(super) fn poll_send(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<(), Unsent>, LinkError>> {
        loop {
            // Head and body in one go, where the body is there: the client's bytes are only asked for here.
            let next = if self.data.is_empty() { self.poll_next(cx)? } else { Poll::Ready(()) };
            if next.is_pending() && !self.begun && !self.asked {
                self.asked = true;
                return Poll::Pending;
            }
            if ready!(self.poll_write(stream, cx)?).is_err() {
                return Poll::Ready(Ok(Err(Unsent)));
            }
            if self.upload.is_none() && self.is_written() {
                return Poll::Ready(Ok(Ok(())));
            }
            ready!(next);
        }
    }

    /// Takes the client's next bytes up.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LinkError> {
        // A chunk's frame has to be gone first; the head may wait for the first one.
        if self.begun && !self.is_written() {
            return Ok(Poll::Ready(()));
        }
        let Some(upload) = &mut self.upload else { return Ok(Poll::Ready(())) };
        let Poll::Ready(frame) = Pin::new(&mut *upload).poll_frame(cx) else { return Ok(Poll::Pending) };
        match frame.transpose().map_err(LinkError::Upload)? {
            // Trailers are not passed on.
            Some(frame) => self.take_up(frame.into_data().unwrap_or_default()),
            None => self.upload = None,
        }
        if self.upload.as_ref().is_none_or(Upload::is_end_stream) {
            self.upload = None;
            if self.framing == Framing::Chunked {
                self.end = if self.end.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
            }
        }
        Ok(Poll::Ready(()))
    }

    fn take_up(&mut self, data: Bytes) {
        if self.begun {
            self.text.clear();
            self.text_sent = 0;
        }
        match &mut self.framing {
            // Hyper holds the client to what it stated.
            Framing::Known(left) => *left = left.saturating_sub(data.len() as u64),
            Framing::Chunked if data.is_empty() => {}
            Framing::Chunked => {
                // Writing to memory does not fail.
                let _ = write!(self.text, "{:x}\r\n", data.len());
                self.end = b"\r\n";
            }
        }
        self.data = data;
    }

    fn is_written(&self) -> bool {
        self.text_sent == self.text.len() && self.data.is_empty() && self.end.is_empty()
    }

    fn poll_write(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<(), Unsent>, LinkError>> {
        while !self.is_written() {
            if self.refused {
                self.advance(usize::MAX);
                break;
            }
            let slices = [&self.text[self.text_sent..], &self.data, self.end].map(IoSlice::new);
            match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices)) {
                Ok(sent) => {
                    self.begun = true;
                    self.advance(sent);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    if !(self.begun || self.is_last_try) {
                        return Poll::Ready(Ok(Err(Unsent)));
                    }
                    self.refused = true;
                }
                Err(error) => return Poll::Ready(Err(LinkError::Lost(error))),
            }
        }
        Poll::Ready(Ok(Ok(())))
    }

    fn advance(&mut self, sent: usize) {
        let of_text = sent.min(self.text.len() - self.text_sent);
        self.text_sent += of_text;
        let of_data = (sent - of_text).min(self.data.len());
        self.data = self.data.split_off(of_data);
        let of_end = (sent - of_text - of_data).min(self.end.len());
        self.end = &self.end[of_end..];
    }
}

/// Whether a request without a body says so.
fn may_have_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn write_head(text: &mut Vec<u8>, method: &Method, uri: &Uri, headers: &HeaderMap) {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(name) {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
}
