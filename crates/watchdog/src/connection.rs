//! One connection, served on a thread of its own, guest included: from the socket to the machine and back no other thread
//! has to wake up. Started by the server for each connection.
//! It never waits while it holds a machine: that is settled first, once the answer is on its way.
//!
//! ```text
//!  serve ─► Line::read_head ─► Exchange::answer ─► Line::read_body ─► guest ─► Line::send ─► settle ─┐
//!             ▲     (waits for the socket, the drain, a limit)                                       │
//!             └──────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A request takes three system calls: `recv`, `KVM_RUN`, `send`; `poll` is one more for a client that was quiet for a moment,
//! and once an answer or the request does not fit the socket.

use std::{
    io::IoSlice,
    mem,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::StatusCode;
use kernlet_http1::{BadChunk, BadHead, BodyLength, Chunks, RequestHead, write::Date};
use kernlet_monitor::Response;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown},
};

use crate::{
    exchange::Exchange,
    keeper::{Caller, send_last},
    pool::Unsettled,
    request::Headers,
    response::Answer,
};

/// How long the next request is waited for in `recv`, where nothing else wakes the thread; after that in `poll`, as long as it
/// takes, together with the drain. Who sends one request after the other has sent the next by then.
pub(crate) const MOMENT: Duration = Duration::from_millis(20);

/// Bytes that are read from the socket at once.
const READ_MAX: usize = 64 * 1024;

/// Longest head of a request, in bytes: far more than the guest's window takes, so that who sends too much is told.
const HEAD_MAX: usize = 512 * 1024;

/// Memory that a connection keeps for a request's body, and as much for a response's, in bytes. Always exactly this much:
/// memory that grew with each body to its own size is what an allocator holds on to, thread by thread, once it is free.
const BODY_KEPT: usize = 64 * 1024;

/// How long the rest of a refused body is read and thrown away, so that its sender sees the answer instead of
/// a broken connection.
const LINGER: Duration = Duration::from_secs(5);

/// What a client gets that did not send the head of its request in time.
const HEAD_TOO_SLOW: &str = "the request's head did not arrive in time; send it in one go";

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a body is not whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client hung up.
    #[error("the connection ended")]
    Ended,
    /// The connection failed.
    #[error("the connection failed")]
    Socket(#[source] std::io::Error),
    /// What came is no body.
    #[error("a body in chunks is not one")]
    Chunks(#[source] BadChunk),
    /// There is more of it than it may have.
    #[error("there is more of it than {0} bytes")]
    TooLarge(u64),
    /// Its time is over.
    #[error("its time is over")]
    TooSlow,
}

/// What is still to come of a request's body.
#[derive(Debug)]
enum Rest {
    /// So many bytes; for none, the next request.
    Known(u64),
    Chunked(Chunks),
    /// Nobody knows where it ends.
    Unknown,
}

impl Rest {
    fn of(length: BodyLength) -> Self {
        match length {
            BodyLength::Known(length) => Self::Known(length),
            BodyLength::Chunked => Self::Chunked(Chunks::new()),
            BodyLength::UntilClose => Self::Unknown,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Known(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_over(),
            Self::Unknown => false,
        }
    }
}

/// A connection's socket and what has been read from it, all on its thread.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    socket: Arc<OwnedFd>,
    pub(crate) caller: Arc<Caller>,
    /// Becomes readable when the watchdog is to end; gone once that was seen.
    draining: Option<&'a OwnedFd>,
    /// What was read and not yet used is from `start` to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read took as much as it could, so that there may be more.
    more: bool,
    rest: Rest,
    /// Kept for its memory, as are the others.
    body: Vec<u8>,
    headers: Headers<'static>,
    head: Vec<u8>,
    response: Response,
    /// The machine of the request that was answered last.
    unsettled: Option<Unsettled>,
}

/// What a thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// The socket can be read, or written; or a signal came.
    Ready,
    Late,
    /// The watchdog is to end.
    Draining,
}

/// What came of waiting for a request's head.
enum Next {
    Request,
    /// The connection is over; what its client is told, if anything.
    End(Option<Answer>),
}

/// Bytes that a read gave.
enum Got {
    Some,
    None(Waited),
    End(Option<Errno>),
}

impl<'a> Line<'a> {
    fn new(socket: Arc<OwnedFd>, caller: Arc<Caller>, draining: &'a OwnedFd) -> Self {
        Self {
            socket,
            caller,
            draining: Some(draining),
            buffer: vec![0; READ_MAX],
            start: 0,
            end: 0,
            more: false,
            rest: Rest::Known(0),
            body: emptied(Vec::new()),
            headers: Vec::new(),
            head: Vec::new(),
            response: Response { body: emptied(Vec::new()), ..Response::default() },
            unsettled: None,
        }
    }

    /// Makes the machine of the last request ready for the next one, if that is still to be done.
    fn settle(&mut self) {
        drop(self.unsettled.take());
    }

    /// Keeps a machine until its request's answer is on its way.
    pub(crate) fn settle_later(&mut self, machine: Unsettled) {
        self.unsettled = Some(machine);
    }

    /// The next request's head, within `patience` from here on. Once the watchdog is to end only what has been sent already
    /// is read: it is a request, or the beginning of one.
    fn read_head(&mut self, head: &mut RequestHead, patience: Duration) -> Next {
        // Only looked at where the client keeps somebody waiting.
        let mut over = None;
        let mut seen = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            let read = if unread.is_empty() { Ok(None) } else { head.read(unread, seen) };
            seen = unread.len();
            match read {
                Ok(Some(length)) => {
                    self.start += length;
                    self.rest = Rest::of(head.body());
                    return Next::Request;
                }
                Err(error) => return Next::End(Some(bad_head(error))),
                Ok(None) if seen >= HEAD_MAX => return Next::End(Some(head_too_large())),
                Ok(None) => {}
            }
            if seen == 0 && over.is_none() && !self.more && self.draining.is_some() {
                match self.receive(RecvFlags::empty()) {
                    Got::Some => continue,
                    // The moment is over, or a signal came.
                    Got::None(_) => {}
                    Got::End(_) => return Next::End(None),
                }
            }
            let over = *over.get_or_insert_with(|| Instant::now() + patience);
            match self.fill(over) {
                Got::Some => {}
                Got::None(Waited::Late) if seen > 0 => {
                    return Next::End(Some(Answer::own(StatusCode::REQUEST_TIMEOUT, HEAD_TOO_SLOW)));
                }
                Got::None(Waited::Draining) => self.more = true,
                // One that is merely kept alive is closed without a word.
                Got::None(Waited::Late) | Got::End(_) => return Next::End(None),
                Got::None(Waited::Ready) if seen == 0 && self.draining.is_none() => return Next::End(None),
                Got::None(Waited::Ready) => {}
            }
        }
    }

    /// Reads the request's body. Refuses one that has more bytes than `limit`, or takes longer than `patience`.
    pub(crate) fn read_body(
        &mut self,
        head: &RequestHead,
        limit: u64,
        patience: Duration,
    ) -> Result<Vec<u8>, BodyError> {
        let mut body = mem::take(&mut self.body);
        if self.rest.is_over() {
            return Ok(body);
        }
        if head.expects_continue() && self.start == self.end {
            // It fits: the client has taken all that was sent before.
            let _ = send(&self.socket, CONTINUE, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        // Only looked at where something is still to come.
        let mut over = None;
        loop {
            self.take_read(&mut body)?;
            if body.len() as u64 > limit {
                return Err(BodyError::TooLarge(limit));
            }
            if self.rest.is_over() {
                return Ok(body);
            }
            let over = *over.get_or_insert_with(|| Instant::now() + patience);
            match self.fill(over) {
                Got::Some | Got::None(Waited::Ready | Waited::Draining) => {}
                Got::None(Waited::Late) => return Err(BodyError::TooSlow),
                Got::End(None) => return Err(BodyError::Ended),
                Got::End(Some(error)) => return Err(BodyError::Socket(error.into())),
            }
        }
    }

    /// Memory for the header fields of a request, as a machine takes them.
    pub(crate) fn take_headers(&mut self) -> Headers<'static> {
        mem::take(&mut self.headers)
    }

    /// Memory for the head of an answer.
    pub(crate) fn take_head(&mut self) -> Vec<u8> {
        mem::take(&mut self.head)
    }

    /// Keeps the memory of a request's body and header fields for the next one.
    pub(crate) fn done_with(&mut self, body: Vec<u8>, headers: Headers<'static>) {
        (self.body, self.headers) = (emptied(body), headers);
    }

    /// A response to fill.
    pub(crate) fn take_response(&mut self) -> Response {
        mem::take(&mut self.response)
    }

    /// Keeps a response's memory for the next one. Its body, if it went with the answer, comes back by [`Self::sent`].
    pub(crate) fn done_with_response(&mut self, response: Response) {
        self.response = response;
    }

    /// Keeps the memory of an answer that has been sent.
    fn sent(&mut self, answer: Answer) {
        let (head, body) = answer.into_memory();
        self.head = head;
        let kept = mem::take(&mut self.response.body);
        self.response.body = emptied(if kept.capacity() == BODY_KEPT { kept } else { body });
    }

    /// Takes what has been read already and belongs to the body.
    fn take_read(&mut self, body: &mut Vec<u8>) -> Result<(), BodyError> {
        let read = &self.buffer[self.start..self.end];
        match &mut self.rest {
            Rest::Known(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                body.extend_from_slice(&read[..length]);
                *left -= length as u64;
                self.start += length;
            }
            Rest::Chunked(chunks) => {
                while !chunks.is_over() {
                    let read = &self.buffer[self.start..self.end];
                    match chunks.step(read) {
                        Ok(step) if step.taken == 0 => break,
                        Ok(step) => {
                            body.extend_from_slice(&read[step.data]);
                            self.start += step.taken;
                        }
                        Err(error) => {
                            self.rest = Rest::Unknown;
                            return Err(BodyError::Chunks(error));
                        }
                    }
                }
            }
            Rest::Unknown => {}
        }
        Ok(())
    }

    /// Reads what there is into the buffer; waits for it, if nothing is.
    fn fill(&mut self, over: Instant) -> Got {
        if !self.more {
            match self.wait(PollFlags::IN, Some(over)) {
                Waited::Ready => {}
                other => return Got::None(other),
            }
        }
        self.receive(RecvFlags::DONTWAIT)
    }

    /// Reads what there is into the buffer, or waits a moment for it, unless `flags` say not to.
    fn receive(&mut self, flags: RecvFlags) -> Got {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > READ_MAX {
                // A longer head needed more.
                self.buffer = vec![0; READ_MAX];
            }
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() + READ_MAX, 0);
            }
        }
        let room = &mut self.buffer[self.end..];
        let asked = room.len();
        let got = retry(|| recv(&self.socket, &mut *room, flags).map(|(_, read)| read));
        self.more = got == Ok(asked);
        match got {
            Ok(0) => Got::End(None),
            Ok(read) => {
                self.end += read;
                Got::Some
            }
            Err(Errno::AGAIN) => Got::None(Waited::Ready),
            Err(error) => Got::End(Some(error)),
        }
    }

    /// Sends an answer, whole, however long its client takes for it; the machine is settled before it waits. `false`: the
    /// client is gone.
    fn send(&mut self, head: &[u8], body: &[u8]) -> bool {
        let (mut head, mut body) = (head, body);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        while !(head.is_empty() && body.is_empty()) {
            let sent = retry(|| match (head, body) {
                (all, []) | ([], all) => send(&self.socket, all, flags),
                _ => {
                    let slices = [IoSlice::new(head), IoSlice::new(body)];
                    sendmsg(&self.socket, &slices, &mut SendAncillaryBuffer::default(), flags)
                }
            });
            match sent {
                Ok(sent) => {
                    let of_head = sent.min(head.len());
                    head = &head[of_head..];
                    body = &body[sent - of_head..];
                }
                Err(Errno::AGAIN) => {
                    self.settle();
                    self.wait(PollFlags::OUT, None);
                }
                Err(_) => return false,
            }
        }
        self.settle();
        true
    }

    /// Throws away what comes until the body is over, for a while. `false`: it is not over, or the connection is.
    fn linger(&mut self) -> bool {
        let over = Instant::now() + LINGER;
        let mut thrown = Vec::new();
        loop {
            if self.take_read(&mut thrown).is_err() {
                self.rest = Rest::Unknown;
            }
            thrown.clear();
            if matches!(self.rest, Rest::Unknown) {
                self.start = self.end;
            }
            if self.rest.is_over() {
                return true;
            }
            match self.fill(over) {
                Got::Some | Got::None(Waited::Ready | Waited::Draining) => {}
                Got::None(Waited::Late) | Got::End(_) => return false,
            }
        }
    }

    /// Says the last word, in as far as the client takes it, and waits for its own where it still sends.
    fn close(mut self) {
        self.settle();
        if !self.rest.is_over() && shutdown(&self.socket, Shutdown::Write).is_ok() {
            self.linger();
        }
    }

    /// Waits until there is something to read or to write, as wanted, or the time for it is over, or the drain begins.
    fn wait(&mut self, wanted: PollFlags, over: Option<Instant>) -> Waited {
        let timeout = over.map(|over| timespec(over.saturating_duration_since(Instant::now())));
        let client = PollFd::new(&self.socket, wanted);
        // An interruption by a signal is as good as having been woken for nothing.
        let wait = |sources: &mut [PollFd<'_>]| poll(sources, timeout.as_ref()).unwrap_or(1);
        let (ready, drains) = match self.draining {
            Some(draining) => {
                let mut sources = [client, PollFd::new(draining, PollFlags::IN)];
                (wait(&mut sources), !sources[1].revents().is_empty())
            }
            None => (wait(&mut [client]), false),
        };
        if drains {
            self.draining = None;
            return Waited::Draining;
        }
        if ready == 0 { Waited::Late } else { Waited::Ready }
    }
}

/// No bytes, in memory for [`BODY_KEPT`]: the given one, or where that is of another size, new.
fn emptied(mut body: Vec<u8>) -> Vec<u8> {
    if body.capacity() != BODY_KEPT {
        return Vec::with_capacity(BODY_KEPT);
    }
    body.clear();
    body
}

fn timespec(time: Duration) -> Timespec {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() }
}

fn bad_head(error: BadHead) -> Answer {
    match error {
        BadHead::TooManyFields => {
            Answer::own(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &format!("the request's head: {error}"))
        }
        error => Answer::own(StatusCode::BAD_REQUEST, &format!("the request cannot be read: {error}")),
    }
}

fn head_too_large() -> Answer {
    let text = format!("the request's head is longer than {HEAD_MAX} bytes; send less");
    Answer::own(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &text)
}

/// Serves a connection to its end, on this thread. `draining` becomes readable when the watchdog is to end. Errors are
/// the client's: it hung up, or does not speak HTTP.
pub(crate) fn serve(socket: Arc<OwnedFd>, exchange: &Exchange, draining: &OwnedFd) {
    let caller = exchange.keeper.meet(Arc::clone(&socket));
    let mut line = Line::new(socket, caller, draining);
    let mut head = RequestHead::default();
    let mut date = Date::default();
    loop {
        // Who never waits for the client does not see the drain otherwise.
        if exchange.draining.load(Ordering::Relaxed) {
            (line.draining, line.more) = (None, true);
        }
        match line.read_head(&mut head, exchange.read_timeout) {
            Next::Request => {}
            Next::End(last) => {
                if let Some(last) = last {
                    send_last(&line.socket, last);
                    line.rest = Rest::Unknown;
                }
                break;
            }
        }
        // Where the time for an answer was over, the client has been told.
        let Ok(mut answer) = exchange.answer(&head, &mut line) else { break };
        let goes_on = head.persists() && !answer.closes() && line.draining.is_some();
        let (first, second) = answer.finish(&head, goes_on, &mut date);
        let is_sent = line.send(first, second);
        line.sent(answer);
        if !is_sent || !goes_on || !line.rest.is_over() && !line.linger() {
            break;
        }
    }
    line.close();
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
