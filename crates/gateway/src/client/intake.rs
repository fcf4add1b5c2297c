//! What comes from a client: heads, and the bodies behind them. Its connection reads heads, the proxy takes the body.
//! It never reads ahead of what somebody waits for by more than one buffer.

use crate::body::UploadError;
use bytes::{Buf as _, Bytes, BytesMut};
use kernlet_http1::{BadHead, BodyLength, Chunks, RequestHead};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

/// Longest request head, in bytes: OpenFaaS's own limit.
const HEAD_MAX: usize = 1024 * 1024;
/// Most header fields of a request, so that those which the gateway adds still fit what a watchdog takes.
const FIELDS_MAX: usize = 100;
/// Room for what is read at once, in bytes; bodies are passed on in pieces of that.
const READ_ROOM: usize = 16 * 1024;
/// Room for a large body's pieces, in bytes.
const BODY_ROOM: usize = 128 * 1024;
/// Longest piece of a body that is copied, in bytes, so that the buffer keeps its memory.
const COPIED_MAX: usize = 4096;
/// Memory that a connection keeps from one request to the next, in bytes.
const MEMORY_MAX: usize = 64 * 1024;
/// How long the rest of a refused upload is read and thrown away, so that the client gets to read the refusal
/// instead of a connection reset. The two limits are those of nginx's `lingering_time` and `lingering_timeout`.
const LINGER: Duration = Duration::from_secs(30);
/// How long such a client may pause.
const LINGER_PAUSE: Duration = Duration::from_secs(5);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's bytes, as they come.
#[derive(Debug)]
pub(crate) struct Intake {
    stream: OwnedReadHalf,
    /// What has come and was not used yet.
    buffer: BytesMut,
    rest: Rest,
    /// The client waits for a word before it sends the body.
    wants_word: bool,
}

/// What is still to come of a request's body.
#[derive(Debug)]
enum Rest {
    Known(u64),
    /// And how many of the bytes that have come are the body's own.
    Chunked(Chunks, usize),
    /// It broke off, or is none: nobody knows where it ends.
    Broken,
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The client has gone, or said nothing.
    Gone,
    Bad(BadHead),
    Long,
    ManyFields,
}

impl Intake {
    /// The bytes of a connection.
    pub(super) fn new(stream: OwnedReadHalf) -> Intake {
        Intake { stream, buffer: BytesMut::new(), rest: Rest::Known(0), wants_word: false }
    }

    /// Whether a head has begun to come.
    pub(super) fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads the next request's head, of which the first `seen` bytes were looked at before.
    pub(super) fn poll_head(
        &mut self,
        head: &mut RequestHead,
        seen: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), NoHead>> {
        loop {
            if self.buffer.len() > *seen
                && let Some(length) = head.read(&self.buffer, *seen).map_err(NoHead::Bad)?
            {
                if head.fields().len() > FIELDS_MAX {
                    return Poll::Ready(Err(NoHead::ManyFields));
                }
                self.drop_read(length);
                self.rest = match head.body() {
                    BodyLength::Known(length) => Rest::Known(length),
                    BodyLength::Chunked => Rest::Chunked(Chunks::new(), 0),
                    BodyLength::UntilClose => Rest::Broken,
                };
                self.wants_word = head.expects_continue();
                return Poll::Ready(Ok(()));
            }
            *seen = self.buffer.len();
            if *seen >= HEAD_MAX {
                return Poll::Ready(Err(NoHead::Long));
            }
            if !matches!(ready!(self.poll_read(READ_ROOM, cx)), Ok(1..)) {
                return Poll::Ready(Err(NoHead::Gone));
            }
        }
    }

    fn poll_read(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() && self.buffer.capacity() > MEMORY_MAX && room < MEMORY_MAX {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(room);
        pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)
    }

    fn drop_read(&mut self, length: usize) {
        self.buffer.advance(length);
        if self.buffer.is_empty() {
            // The same memory again, from its beginning.
            self.buffer.clear();
        }
    }

    /// How long the body is, or what of it is left.
    pub(crate) fn length(&self) -> BodyLength {
        match &self.rest {
            Rest::Known(left) => BodyLength::Known(*left),
            Rest::Chunked(chunks, 0) if chunks.is_over() => BodyLength::Known(0),
            Rest::Chunked(..) => BodyLength::Chunked,
            Rest::Broken => BodyLength::UntilClose,
        }
    }

    /// Whether all of the body was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.length() == BodyLength::Known(0)
    }

    /// Waits until some of the body is there; says how much lies together, which is nothing at its end.
    pub(crate) fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, UploadError>> {
        loop {
            let room = match &mut self.rest {
                Rest::Known(0) => return Poll::Ready(Ok(0)),
                Rest::Known(left) => {
                    let there = at_most(*left, self.buffer.len());
                    if there > 0 {
                        return Poll::Ready(Ok(there));
                    }
                    at_most(*left, BODY_ROOM).max(READ_ROOM)
                }
                Rest::Chunked(_, there @ 1..) => return Poll::Ready(Ok(*there)),
                Rest::Chunked(chunks, _) if chunks.is_over() => return Poll::Ready(Ok(0)),
                Rest::Chunked(..) => {
                    if self.step()? {
                        continue;
                    }
                    READ_ROOM
                }
                Rest::Broken => return Poll::Ready(Err(UploadError::Ended)),
            };
            if std::mem::take(&mut self.wants_word) && self.buffer.is_empty() {
                // It fits: the client has taken all that was sent before, or it would not ask.
                let _ = self.stream.as_ref().try_write(CONTINUE);
            }
            match ready!(self.poll_read(room, cx)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Err(self.broke_off(UploadError::Ended))),
                Err(error) => return Poll::Ready(Err(self.broke_off(UploadError::Lost(error)))),
            }
        }
    }

    /// Goes on in a body in chunks. `false`: more has to come first.
    fn step(&mut self) -> Result<bool, UploadError> {
        let Rest::Chunked(chunks, there) = &mut self.rest else { return Ok(true) };
        match chunks.step(&self.buffer) {
            Ok(step) if step.taken == 0 => Ok(chunks.is_over()),
            Ok(step) => {
                *there = step.data.len();
                // Chunks say the body's own bytes alone, or what stands between them.
                if step.data.is_empty() {
                    self.drop_read(step.taken);
                }
                Ok(true)
            }
            Err(error) => Err(self.broke_off(UploadError::Chunks(error))),
        }
    }

    fn broke_off(&mut self, error: UploadError) -> UploadError {
        self.rest = Rest::Broken;
        error
    }

    /// Takes what lies together out, or behind `text` where there is not much.
    pub(crate) fn take(&mut self, text: &mut Vec<u8>) -> Bytes {
        let length = match &mut self.rest {
            Rest::Known(left) => {
                let length = at_most(*left, self.buffer.len());
                *left -= length as u64;
                length
            }
            Rest::Chunked(_, there) => std::mem::take(there),
            Rest::Broken => 0,
        };
        // The end of a body in chunks may have come with its last one; it is known before somebody waits for it.
        let data = if length > COPIED_MAX {
            self.buffer.split_to(length).freeze()
        } else {
            text.extend_from_slice(&self.buffer[..length]);
            self.drop_read(length);
            Bytes::new()
        };
        while matches!(&self.rest, Rest::Chunked(chunks, 0) if !chunks.is_over()) && matches!(self.step(), Ok(true)) {}
        data
    }

    /// Reads on and throws away what comes, until the body is over. Nobody asks for it.
    pub(super) async fn discard(&mut self) -> Result<(), UploadError> {
        let mut thrown = Vec::new();
        if self.wants_word {
            return Ok(());
        }
        while poll_fn(|cx| self.poll_some(cx)).await? > 0 {
            drop(self.take(&mut thrown));
            thrown.clear();
        }
        Ok(())
    }

    /// Reads to the end of the body, for a while. `false`: it is not over, or the connection is.
    pub(super) async fn linger(&mut self) -> bool {
        if self.is_over() {
            return true;
        }
        // Who waits for a word that was never said may send the body or the next request: nobody can tell which.
        if self.wants_word {
            return false;
        }
        let reading = async {
            loop {
                match timeout(LINGER_PAUSE, poll_fn(|cx| self.poll_some(cx))).await {
                    Ok(Ok(0)) => return true,
                    Ok(Ok(_)) => drop(self.take(&mut Vec::new())),
                    _ => return false,
                }
            }
        };
        timeout(LINGER, reading).await.unwrap_or(false)
    }

    /// Reads until the client has ended its side, for a while.
    pub(super) async fn linger_to_the_end(&mut self) {
        let reading = async {
            self.buffer.clear();
            while let Ok(Ok(1..)) = timeout(LINGER_PAUSE, poll_fn(|cx| self.poll_read(READ_ROOM, cx))).await {
                self.buffer.clear();
            }
        };
        let _ = timeout(LINGER, reading).await;
    }
}

fn at_most(left: u64, length: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(length)
}
