//! Bodies on their way through: what the gateway answers with, and what it hands on from a client to a watchdog.
//! The server and the proxy use them.
//! They never hold more than the piece that is under way.

use crate::client::Intake;
use crate::link::Answer;
use crate::replica::Lease;
use bytes::Bytes;
use kernlet_http1::{BadChunk, BodyLength};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A response body.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    /// One piece; `None` for none.
    Whole(Option<Bytes>),
    /// A watchdog's, as it comes. The invocation counts as in flight until the body is gone.
    Watchdog {
        /// What comes.
        answer: Answer<'a>,
        /// Held, never read.
        _lease: Lease,
    },
    /// Pieces that a task sends as it has them.
    Pieces(mpsc::Receiver<Bytes>),
}

/// A body that is the gateway's own, or came whole.
#[derive(Debug)]
pub(crate) enum Ours {
    Whole(Bytes),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body<'_> {
    /// All but a watchdog's that is still to come, which is empty then.
    pub(crate) fn into_ours(self) -> Ours {
        match self {
            Body::Whole(data) => Ours::Whole(data.unwrap_or_default()),
            Body::Pieces(pieces) => Ours::Pieces(pieces),
            Body::Watchdog { .. } => Ours::Whole(Bytes::new()),
        }
    }

    /// How long it is; until the connection ends, where nobody knows.
    pub(crate) fn length(&self) -> BodyLength {
        match self {
            Body::Whole(bytes) => BodyLength::Known(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Watchdog { answer, .. } => answer.length(),
            Body::Pieces(_) => BodyLength::UntilClose,
        }
    }
}

impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        Body::Whole(Some(text.into()))
    }
}

/// Why a client's request body is not whole.
#[derive(Debug, Error)]
pub(crate) enum UploadError {
    /// The client hung up.
    #[error("The client's connection ended")]
    Ended,
    /// The client's connection failed.
    #[error("The client's connection failed")]
    Lost(#[source] io::Error),
    /// What came is no body in chunks.
    #[error("A body in chunks is not one")]
    Chunks(#[source] BadChunk),
}

/// A client's request body on its way to a watchdog. Dropped before its end, the rest is left to the connection.
#[derive(Debug)]
pub(crate) struct Upload<'a>(Option<(&'a mut Intake, &'a Progress)>);

/// How far an upload is: time that a client takes to send is not held against the function.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    /// Microseconds from `start` to when the watchdog's connection took the latest piece.
    latest: AtomicU64,
    /// The connection wants the next piece, and the client has not sent it.
    client_owes: AtomicBool,
    whole: AtomicBool,
}

impl<'a> Upload<'a> {
    /// The body of the request whose head was read last.
    pub(crate) fn new(intake: &'a mut Intake, progress: &'a Progress) -> Upload<'a> {
        Upload(Some((intake, progress)))
    }

    /// No body.
    pub(crate) fn none() -> Upload<'a> {
        Upload(None)
    }

    /// How long it is.
    pub(crate) fn length(&self) -> BodyLength {
        self.0.as_ref().map_or(BodyLength::Known(0), |(intake, _)| intake.length())
    }

    /// Whether all of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|(intake, _)| intake.is_over())
    }

    /// Waits until some of it is there; says how much lies together, which is nothing at its end.
    pub(crate) fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, UploadError>> {
        let Some((intake, progress)) = &mut self.0 else { return Poll::Ready(Ok(0)) };
        let some = intake.poll_some(cx);
        match &some {
            Poll::Pending => progress.client_owes.store(true, Ordering::Relaxed),
            Poll::Ready(Ok(0)) => progress.took(true),
            Poll::Ready(_) => {}
        }
        some
    }

    /// Takes what lies together out, or behind `text` where there is not much.
    pub(crate) fn take(&mut self, text: &mut Vec<u8>) -> Bytes {
        let Some((intake, progress)) = &mut self.0 else { return Bytes::new() };
        let data = intake.take(text);
        progress.took(intake.is_over());
        data
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, UploadError>> {
        match poll_fn(|cx| self.poll_some(cx)).await {
            Ok(0) => None,
            Ok(_) => {
                let mut short = Vec::new();
                let long = self.take(&mut short);
                Some(Ok(if short.is_empty() { long } else { short.into() }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Progress {
    /// Of an upload that begins, and may be over already.
    pub(crate) fn new(whole: bool) -> Progress {
        Progress {
            start: Instant::now(),
            latest: AtomicU64::new(0),
            client_owes: AtomicBool::new(false),
            whole: AtomicBool::new(whole),
        }
    }

    /// When the upload began.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// When the latest piece was taken; before the first, when the upload began.
    pub(crate) fn latest(&self) -> Instant {
        self.start + Duration::from_micros(self.latest.load(Ordering::Relaxed))
    }

    /// Whether it is the client that the upload waits for.
    pub(crate) fn client_owes(&self) -> bool {
        self.client_owes.load(Ordering::Relaxed)
    }

    /// Whether all of it was taken.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    fn took(&self, whole: bool) {
        let elapsed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latest.store(elapsed, Ordering::Relaxed);
        self.client_owes.store(false, Ordering::Relaxed);
        self.whole.store(whole, Ordering::Relaxed);
    }
}
