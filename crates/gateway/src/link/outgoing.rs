//! A request on its way to a watchdog: its head, then the body as it comes from the client.
//! The link drives it. It never holds more than the frame that is under way.

use super::LinkError;
use super::Request;
use crate::body::Upload;
use bytes::Bytes;
use kernlet_http1::BodyLength;
use kernlet_http1::write::{field, number_field};
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
pub(super) struct Outgoing<'a> {
    /// The head; later what stands before a chunk.
    text: Vec<u8>,
    text_sent: usize,
    data: Bytes,
    /// What stands behind a chunk, or behind all.
    end: &'static [u8],
    framing: Framing,
    /// `None`: no more comes.
    upload: Option<Upload<'a>>,
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

impl<'a> Outgoing<'a> {
    /// A request, in memory of an earlier one.
    pub(super) fn new(request: &impl Request, upload: Upload<'a>, memory: Vec<u8>) -> Outgoing<'a> {
        let mut text = memory;
        text.clear();
        let framing = match upload.length() {
            BodyLength::Known(length) => Framing::Known(length),
            BodyLength::Chunked | BodyLength::UntilClose => Framing::Chunked,
        };
        let over = framing == Framing::Known(0);
        request.write_head(&mut text);
        match framing {
            Framing::Known(0) if !may_have_content(request.method()) => {}
            Framing::Known(length) => number_field(&mut text, "content-length", length),
            Framing::Chunked => field(&mut text, "transfer-encoding", b"chunked"),
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
        let Poll::Ready(length) = upload.poll_some(cx).map_err(LinkError::Upload)? else { return Ok(Poll::Pending) };
        if self.begun {
            self.text.clear();
            self.text_sent = 0;
        }
        match &mut self.framing {
            // The intake holds the client to what it stated.
            Framing::Known(left) => *left = left.saturating_sub(length as u64),
            Framing::Chunked if length == 0 => {}
            Framing::Chunked => {
                // Writing to memory does not fail.
                let _ = write!(self.text, "{length:x}\r\n");
                self.end = b"\r\n";
            }
        }
        self.data = upload.take(&mut self.text);
        if upload.is_over() {
            self.upload = None;
            if self.framing == Framing::Chunked {
                self.end = if self.end.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
            }
        }
        Ok(Poll::Ready(()))
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
            let (stream, text) = (Pin::new(&mut *stream), &self.text[self.text_sent..]);
            let sent = if self.data.is_empty() && self.end.is_empty() {
                stream.poll_write(cx, text)
            } else {
                stream.poll_write_vectored(cx, &[text, &self.data, self.end].map(IoSlice::new))
            };
            match ready!(sent) {
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
fn may_have_content(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}
