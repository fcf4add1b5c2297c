//! Bodies on their way through: what the gateway answers with, and what it hands on from a client to a watchdog.
//! The server and the proxy use them.
//! They never hold more than the frame that is under way.

use crate::link::{Answer, LinkError};
use crate::replica::Lease;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// How long the rest of a refused upload is read and thrown away, so that the client gets to read the refusal
/// instead of a connection reset. The two limits are those of nginx's `lingering_time` and `lingering_timeout`.
const LINGER: Duration = Duration::from_secs(30);
/// How long such a client may pause.
const LINGER_PAUSE: Duration = Duration::from_secs(5);

/// A response body.
#[derive(Debug)]
pub(crate) enum Body {
    /// One piece; `None` once it is sent, or for none.
    Whole(Option<Bytes>),
    /// A watchdog's, as it comes. The invocation counts as in flight until the body is gone.
    Watchdog {
        /// What comes.
        answer: Answer,
        /// Held, never read.
        _lease: Lease,
    },
    /// Pieces that a task sends as it has them.
    Pieces(mpsc::Receiver<Bytes>),
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::Whole(Some(text.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = LinkError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Watchdog { answer, .. } => Pin::new(answer).poll_frame(cx),
            Body::Pieces(receiver) => receiver.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_none(),
            Body::Watchdog { answer, .. } => answer.is_end_stream(),
            Body::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Watchdog { answer, .. } => answer.size_hint(),
            Body::Pieces(_) => SizeHint::default(),
        }
    }
}

/// A client's request body on its way to a watchdog. Dropped before its end, it reads on for a while in the
/// background and throws away what comes.
#[derive(Debug)]
pub(crate) struct Upload {
    incoming: Option<Incoming>,
    progress: Arc<Progress>,
}

/// How far an upload is: time that a client takes to send is not held against the function.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    /// Microseconds from `start` to the latest frame that the watchdog's connection took.
    latest: AtomicU64,
    /// The connection wants the next frame, and the client has not sent it.
    client_owes: AtomicBool,
    whole: AtomicBool,
    became_whole: Notify,
}

impl Upload {
    /// Wraps a request's body.
    pub(crate) fn new(incoming: Incoming) -> Upload {
        let progress = Arc::new(Progress::new(incoming.is_end_stream()));
        Upload { incoming: Some(incoming), progress }
    }

    /// No body.
    pub(crate) fn none() -> Upload {
        Upload { incoming: None, progress: Arc::new(Progress::new(true)) }
    }

    /// Watches the upload from outside.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Progress {
    fn new(whole: bool) -> Progress {
        Progress {
            start: Instant::now(),
            latest: AtomicU64::new(0),
            client_owes: AtomicBool::new(false),
            whole: AtomicBool::new(whole),
            became_whole: Notify::new(),
        }
    }

    /// When the latest frame was taken; before the first, when the upload began.
    pub(crate) fn latest(&self) -> Instant {
        self.start + Duration::from_micros(self.latest.load(Ordering::Relaxed))
    }

    /// Whether it is the client that the upload waits for.
    pub(crate) fn client_owes(&self) -> bool {
        self.client_owes.load(Ordering::Relaxed)
    }

    /// Waits until the client has sent everything; for ever where it had from the start.
    pub(crate) async fn became_whole(&self) {
        self.became_whole.notified().await;
    }

    fn took(&self, whole: bool) {
        let elapsed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latest.store(elapsed, Ordering::Relaxed);
        self.client_owes.store(false, Ordering::Relaxed);
        if whole && !self.whole.swap(true, Ordering::Relaxed) {
            self.became_whole.notify_one();
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
            self.progress.client_owes.store(true, Ordering::Relaxed);
            return Poll::Pending;
        };
        let whole = frame.is_none() || incoming.is_end_stream();
        if !matches!(frame, Some(Ok(_))) {
            self.incoming = None;
        }
        self.progress.took(whole);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            linger(incoming);
        }
    }
}

/// Reads the rest of a request body in the background, within limits, and throws it away.
pub(crate) fn linger(mut incoming: Incoming) {
    if incoming.is_end_stream() {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(tokio::time::timeout(LINGER, async move {
        while let Ok(Some(Ok(_))) = tokio::time::timeout(LINGER_PAUSE, incoming.frame()).await {}
    }));
}
