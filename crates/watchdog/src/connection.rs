//! One connection, served by hyper on a thread of its own, guest included: from the socket to the machine and back no
//! other thread has to wake up. Started by the server for each connection.
//! It never waits while it holds a machine: that is settled first, once the answer is on its way.
//!
//! ```text
//!  serve ─► poll hyper ─► Io::read ─► Exchange::answer ─► guest ─► Io::write ─► settle ─► wait ─┐
//!             ▲                                                              (for the socket,   │
//!             └─────────────────────────────────────────────────────────── the drain, a limit) ◄┘
//! ```
//!
//! This is the smallest event loop that hyper needs: one future, one socket. A runtime of tokio for each thread would
//! take three descriptors more, and two microseconds of each request.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    io::{self, IoSlice},
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use http::StatusCode;
use http_body::Body as _;
use hyper::{body::Incoming, rt::ReadBufCursor, server::conn::http1, service::service_fn};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, writev},
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

use crate::{
    exchange::Exchange,
    keeper::{Caller, send_last},
    pool::Unsettled,
    response,
};

/// Most header fields of a request: hyper's own limit, which is the gateway's, and what the gateway adds.
const HEADERS_MAX: usize = 128;

/// Bytes that are read from the socket at once.
const READ_MAX: usize = 64 * 1024;

/// How long the rest of a refused body is read and thrown away, so that its sender sees the answer instead of
/// a broken connection.
const LINGER: Duration = Duration::from_secs(5);

/// What a client gets that did not send the head of its request in time.
const HEAD_TOO_SLOW: &str = "the request's head did not arrive in time; send it in one go";

/// What a connection's thread waits for, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    /// The head of the next request; from when on is known once it waits.
    Head(Option<Instant>),
    /// The rest of a body.
    Body(Instant),
    /// The rest of a body that nobody wants.
    Refused(Instant),
}

/// What the parts of a connection share, all on its thread.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Arc<OwnedFd>,
    pub(crate) caller: Arc<Caller>,
    awaiting: Cell<Awaiting>,
    /// The last read took all there was; nothing has come since as far as is known.
    drained: Cell<bool>,
    wants_read: Cell<bool>,
    wants_write: Cell<bool>,
    /// The socket did not take the last thing that was written, or not all of it.
    clogged: Cell<bool>,
    /// A body that was refused before its end.
    refused: RefCell<Option<Incoming>>,
    /// The machine of the request that was answered last.
    unsettled: RefCell<Option<Unsettled>>,
}

impl Line {
    /// Makes the machine of the last request ready for the next one, if that is still to be done.
    pub(crate) fn settle(&self) {
        drop(self.unsettled.take());
    }

    /// Keeps a machine until its request's answer is on its way.
    pub(crate) fn settle_later(&self, machine: Unsettled) {
        self.unsettled.replace(Some(machine));
    }

    /// Whether all that was to be sent is sent.
    pub(crate) fn is_free(&self) -> bool {
        !self.clogged.get()
    }

    /// Waits for a body until `over`, from here on.
    pub(crate) fn await_body(&self, over: Instant) {
        self.awaiting.set(Awaiting::Body(over));
    }

    /// Whether the time for a body is over.
    pub(crate) fn body_is_late(&self) -> bool {
        matches!(self.awaiting.get(), Awaiting::Body(over) if over <= Instant::now())
    }

    /// The request has been read, or refused; its answer comes next.
    pub(crate) fn await_head(&self) {
        self.awaiting.set(Awaiting::Head(None));
    }

    /// Reads what is left of a refused body, for a while.
    pub(crate) fn linger(&self, body: Incoming) {
        if !body.is_end_stream() {
            self.refused.replace(Some(body));
            self.awaiting.set(Awaiting::Refused(Instant::now() + LINGER));
        }
    }

    /// Throws away what has come of a refused body.
    fn poll_refused(&self, cx: &mut Context<'_>) {
        let mut refused = self.refused.borrow_mut();
        let Some(body) = refused.as_mut() else { return };
        let is_late = matches!(self.awaiting.get(), Awaiting::Refused(over) if over <= Instant::now());
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Pending if !is_late => return,
                Poll::Pending | Poll::Ready(_) => break,
            }
        }
        *refused = None;
        self.await_head();
        // Without the body's other end hyper has something to do.
        cx.waker().wake_by_ref();
    }

    /// Waits until there is something to read or to write, as wanted, or the time for it is over, or the drain begins.
    fn wait(&self, draining: Option<&OwnedFd>, head_time: Duration) -> Woken {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.wants_read.get());
        wanted.set(PollFlags::OUT, self.wants_write.get());
        let over = match self.awaiting.get() {
            // A client that does not take its answer has the time that it needs.
            _ if self.wants_write.get() => None,
            Awaiting::Head(since) => {
                let since = since.unwrap_or_else(Instant::now);
                self.awaiting.set(Awaiting::Head(Some(since)));
                Some(since + head_time)
            }
            Awaiting::Body(over) | Awaiting::Refused(over) => Some(over),
        };
        let timeout = over.map(|over| timespec(over.saturating_duration_since(Instant::now())));
        let client = PollFd::new(&self.socket, wanted);
        // An interruption by a signal is as good as having been woken for nothing.
        let wait = |sources: &mut [PollFd<'_>]| poll(sources, timeout.as_ref()).unwrap_or(1);
        let (ready, drains) = match draining {
            Some(draining) => {
                let mut sources = [client, PollFd::new(draining, PollFlags::IN)];
                (wait(&mut sources), !sources[1].revents().is_empty())
            }
            None => (wait(&mut [client]), false),
        };
        self.drained.set(false);
        match self.awaiting.get() {
            _ if drains => Woken::Draining,
            Awaiting::Head(_) if ready == 0 => Woken::HeadTooSlow,
            _ => Woken::Ready,
        }
    }
}

/// Why a thread no longer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// Hyper may go on.
    Ready,
    /// No request has come in time.
    HeadTooSlow,
    /// The watchdog is to end.
    Draining,
}

fn timespec(time: Duration) -> Timespec {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() }
}

/// Serves a connection to its end, on this thread. `draining` becomes readable when the watchdog is to end. Errors are
/// the client's: it hung up, or does not speak HTTP.
pub(crate) fn serve(socket: Arc<OwnedFd>, exchange: &Exchange, draining: &OwnedFd) {
    let line = Rc::new(Line {
        caller: exchange.keeper.meet(Arc::clone(&socket)),
        socket,
        awaiting: Cell::new(Awaiting::Head(None)),
        drained: Cell::new(false),
        wants_read: Cell::new(false),
        wants_write: Cell::new(false),
        clogged: Cell::new(false),
        refused: RefCell::default(),
        unsettled: RefCell::default(),
    });
    let io = Io { line: Rc::clone(&line), buffer: vec![0; READ_MAX] };
    let at: &Line = &line;
    let service = service_fn(move |request| exchange.answer(request, at));
    let mut connection = http1::Builder::new().max_headers(HEADERS_MAX).serve_connection(io, service);
    let progress = Arc::new(Progress::default());
    let waker = Waker::from(Arc::clone(&progress));
    let mut cx = Context::from_waker(&waker);
    let mut draining = Some(draining);
    loop {
        line.wants_read.set(false);
        line.wants_write.set(false);
        if Pin::new(&mut connection).poll(&mut cx).is_ready() {
            break;
        }
        line.poll_refused(&mut cx);
        if progress.is_made() {
            continue;
        }
        line.settle();
        match line.wait(draining, exchange.read_timeout) {
            Woken::Ready => {}
            Woken::HeadTooSlow => {
                line.settle();
                // A connection that is merely kept alive is closed without a word.
                if !connection.into_parts().read_buf.is_empty() {
                    send_last(&line.socket, response::own(StatusCode::REQUEST_TIMEOUT, HEAD_TOO_SLOW));
                }
                break;
            }
            Woken::Draining => {
                draining = None;
                // What has been sent already is read first: it is a request, or the beginning of one.
                if Pin::new(&mut connection).poll(&mut cx).is_ready() {
                    break;
                }
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// Tells a connection's thread that hyper has more to do before anything has to be waited for.
#[derive(Debug, Default)]
struct Progress(AtomicBool);

impl Progress {
    fn is_made(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Progress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The connection's socket, as hyper reads and writes it. Where it would block, the thread is to wait on the line.
#[derive(Debug)]
struct Io {
    line: Rc<Line>,
    /// What is read goes through here, since hyper's own buffer may only be filled by copying.
    buffer: Vec<u8>,
}

impl hyper::rt::Read for Io {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut to: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Self { line, buffer } = self.get_mut();
        let room = buffer.len().min(to.remaining());
        let room = &mut buffer[..room];
        if line.drained.get() {
            line.wants_read.set(true);
            return Poll::Pending;
        }
        let asked = room.len();
        match retry(|| recv(&line.socket, &mut *room, RecvFlags::empty()).map(|(_, read)| read)) {
            Ok(read) => {
                // At its end it is asked again, and says so again.
                line.drained.set(read < asked && read > 0);
                to.put_slice(&room[..read]);
                Poll::Ready(Ok(()))
            }
            Err(Errno::AGAIN) => {
                line.wants_read.set(true);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Io {
    fn written(&self, written: Result<usize, Errno>, all: usize) -> Poll<io::Result<usize>> {
        self.line.clogged.set(written != Ok(all));
        match written {
            Err(Errno::AGAIN) => {
                self.line.wants_write.set(true);
                Poll::Pending
            }
            written => Poll::Ready(written.map_err(io::Error::from)),
        }
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written(retry(|| send(&self.line.socket, bytes, SendFlags::NOSIGNAL)), bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        self.written(retry(|| writev(&self.line.socket, slices)), all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&self.line.socket, Shutdown::Write).map_err(io::Error::from))
    }
}

/// Kicks of the monitor may come late, after their guest.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
