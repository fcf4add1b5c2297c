//! Connections to one replica's watchdog over its unix socket: HTTP/1.1, kept alive and used again.
//! The proxy takes one for each invocation; the supervisor takes one to learn that a watchdog is ready.
//! It never sends a request twice: only one that did not leave the gateway at all is put on another connection.
//!
//! A connection has no task of its own: whoever waits for an answer on it drives it, so that nothing has to be woken
//! between the socket and the client. It stays on the event loop that made it.

mod answer;
mod outgoing;

pub(crate) use answer::Answer;

use crate::body::{Upload, UploadError};
use crate::event_loop;
use bytes::{Buf as _, BytesMut};
use kernlet_http1::{AnswerHead, BadChunk, BadHead};
use outgoing::{Outgoing, Unsent};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

/// Idle connections kept to one watchdog; a burst of more closes the surplus.
const IDLE_MAX: usize = 64;
/// How long an idle connection is used again: well below the 30 s after which a watchdog closes it, so that no request
/// meets a connection that is just being closed.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Longest response head that is read from a watchdog, in bytes: as long as a request head may be.
const HEAD_MAX: usize = 1024 * 1024;
/// Room for what is read from a watchdog at once, in bytes.
const READ_ROOM: usize = 16 * 1024;
/// Memory that a connection keeps from one request to the next, in bytes.
const MEMORY_MAX: usize = 64 * 1024;

/// Why a watchdog gave no answer, or not all of one.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// So many connections wait for the watchdog that the system takes no more.
    #[error("Too many connections wait for the function's watchdog")]
    Full,
    /// No connection could be made.
    #[error("The function's watchdog cannot be reached on its socket")]
    Connect(#[source] io::Error),
    /// The connection failed.
    #[error("The connection to the function's watchdog failed")]
    Lost(#[source] io::Error),
    /// The connection ended before the answer did.
    #[error("The function's watchdog gave no whole answer")]
    CutShort,
    /// What came is not HTTP.
    #[error("The function's watchdog gave an answer that is none")]
    Head(#[source] BadHead),
    /// Its head has no end.
    #[error("The function's watchdog gave an answer with a head of more than {HEAD_MAX} bytes")]
    LongHead,
    /// What came is no body in chunks.
    #[error("The function's watchdog gave an answer whose body is not one")]
    Chunks(#[source] BadChunk),
    /// The client's request broke off.
    #[error("The request's body broke off")]
    Upload(#[source] UploadError),
}

/// The head of a request, but for how its body is framed.
pub(crate) trait Request {
    /// Its method.
    fn method(&self) -> &str;

    /// Writes its first line and its fields.
    fn write_head(&self, text: &mut Vec<u8>);
}

/// The connections to one watchdog's socket.
#[derive(Debug)]
pub(crate) struct Link {
    socket: PathBuf,
    idle: Arc<Mutex<Pool>>,
}

#[derive(Debug, Default)]
struct Pool {
    /// Least recently used first.
    idle: VecDeque<Idle>,
    /// Somebody closes those that are idle for long.
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection, with one request at a time.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// What has come and was not used yet.
    buffer: BytesMut,
    /// For the next request's head.
    memory: Vec<u8>,
    /// The event loop whose sockets it is among.
    home: event_loop::Id,
}

impl Link {
    /// Connections to this socket, made when they are needed.
    pub(crate) fn new(socket: PathBuf) -> Link {
        Link { socket, idle: Arc::default() }
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request and returns its response, whose head `head` then is: whole where it came at once, else to come. Where
    /// the request is put on a new connection, which nobody may take yet, `waits` says so from then on.
    pub(crate) async fn send<'a>(
        &self,
        request: &impl Request,
        upload: Upload<'a>,
        head: &mut AnswerHead,
        waits: &AtomicBool,
    ) -> Result<Answer<'a>, LinkError> {
        let to_head = request.method() == "HEAD";
        let mut idle = self.take_usable().await;
        let memory = idle.as_mut().map(|connection| std::mem::take(&mut connection.memory));
        let mut outgoing = Outgoing::new(request, upload, memory.unwrap_or_default());
        while let Some(mut connection) = idle {
            if connection.exchange(&mut outgoing, head, to_head).await?.is_ok() {
                return Ok(Answer::new(head, connection, outgoing, &self.idle));
            }
            // The watchdog had closed this idle connection; nothing of the request was sent.
            idle = self.take_usable().await;
        }
        waits.store(true, Ordering::Relaxed);
        outgoing.goes_nowhere_else();
        let mut connection = self.connect().await?;
        match connection.exchange(&mut outgoing, head, to_head).await? {
            Ok(()) => Ok(Answer::new(head, connection, outgoing, &self.idle)),
            Err(Unsent) => Err(LinkError::CutShort),
        }
    }

    /// An idle connection that the watchdog has not closed: it has nothing to say before it is asked.
    async fn take_usable(&self) -> Option<Connection> {
        loop {
            let mut connection = self.take_idle()?;
            if poll_fn(|cx| Poll::Ready(connection.poll_read(cx).is_pending())).await {
                return Some(connection);
            }
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let home = event_loop::Id::current();
        let mut pool = lock(&self.idle);
        let index = pool.idle.iter().rposition(|idle| idle.connection.home == home)?;
        let Idle { connection, since } = pool.idle.remove(index)?;
        if since.elapsed() >= IDLE_TIME {
            // Those used before it are no younger.
            pool.idle.drain(..index);
            return None;
        }
        Some(connection)
    }

    async fn connect(&self) -> Result<Connection, LinkError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            // What a unix socket says when its backlog is full.
            io::ErrorKind::WouldBlock => LinkError::Full,
            _ => LinkError::Connect(error),
        })?;
        let (buffer, memory) = (BytesMut::new(), Vec::new());
        Ok(Connection { stream, buffer, memory, home: event_loop::Id::current() })
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Reads what has come, behind what has not been used yet; zero at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        self.buffer.reserve(READ_ROOM);
        pin!(self.stream.read_buf(&mut self.buffer)).poll(cx).map_err(LinkError::Lost)
    }

    /// Forgets what has been used.
    fn drop_read(&mut self, length: usize) {
        self.buffer.advance(length);
        if self.buffer.is_empty() {
            // The same memory again, from its beginning.
            self.buffer.clear();
        }
    }

    /// Sends a request and reads the head of its response, after which the request may go on.
    async fn exchange(
        &mut self,
        outgoing: &mut Outgoing<'_>,
        head: &mut AnswerHead,
        to_head: bool,
    ) -> Result<Result<(), Unsent>, LinkError> {
        let (mut sending, mut seen) = (true, 0);
        poll_fn(|cx| {
            if sending && let Poll::Ready(sent) = outgoing.poll_send(&mut self.stream, cx)? {
                sending = false;
                if sent.is_err() {
                    return Poll::Ready(Ok(Err(Unsent)));
                }
            }
            // Before that there is nothing to answer.
            if !outgoing.has_begun() {
                return Poll::Pending;
            }
            self.poll_head(head, &mut seen, to_head, cx).map(|read| read.map(Ok))
        })
        .await
    }

    fn poll_head(
        &mut self,
        head: &mut AnswerHead,
        seen: &mut usize,
        to_head: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        loop {
            if self.buffer.len() > *seen
                && let Some(length) = head.read(&self.buffer, *seen, to_head).map_err(LinkError::Head)?
            {
                self.drop_read(length);
                *seen = 0;
                // Else it is about the request's way, and the answer is still to come.
                if !head.status().is_informational() {
                    return Poll::Ready(Ok(()));
                }
            }
            *seen = self.buffer.len();
            if *seen >= HEAD_MAX {
                return Poll::Ready(Err(LinkError::LongHead));
            }
            if ready!(self.poll_read(cx)?) == 0 {
                return Poll::Ready(Err(LinkError::CutShort));
            }
        }
    }
}

/// Puts a connection back for the next request on its event loop.
fn keep(pool: &Arc<Mutex<Pool>>, mut connection: Connection) {
    let now = Instant::now();
    if connection.buffer.capacity() > MEMORY_MAX || connection.memory.capacity() > MEMORY_MAX {
        (connection.buffer, connection.memory) = (BytesMut::new(), Vec::new());
    }
    let mut held = lock(pool);
    if held.idle.len() == IDLE_MAX {
        held.idle.pop_front();
    }
    held.idle.push_back(Idle { connection, since: now });
    if !held.swept
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        held.swept = true;
        runtime.spawn(sweep(Arc::downgrade(pool)));
    }
}

/// Closes connections that are idle for long, until there are none: nobody else would see that a watchdog closes them.
async fn sweep(pool: Weak<Mutex<Pool>>) {
    loop {
        tokio::time::sleep(IDLE_TIME).await;
        let Some(pool) = pool.upgrade() else { return };
        if lock(&pool).sweep(Instant::now()) {
            return;
        }
    }
}

impl Pool {
    /// Closes those that are idle for long; `true`: there are none left.
    fn sweep(&mut self, now: Instant) -> bool {
        self.idle.retain(|idle| now.saturating_duration_since(idle.since) < IDLE_TIME);
        self.swept = !self.idle.is_empty();
        !self.swept
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use kernlet_http1::BodyLength;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixListener;

    /// Answers `count` requests on one connection, which it returns open.
    async fn serve(listener: UnixListener, count: usize) -> (UnixListener, UnixStream) {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..count {
            let mut head = [0; 4096];
            assert_ne!(stream.read(&mut head).await.unwrap(), 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        }
        (listener, stream)
    }

    struct Get;

    impl Request for Get {
        fn method(&self) -> &'static str {
            "GET"
        }

        fn write_head(&self, text: &mut Vec<u8>) {
            text.extend_from_slice(b"GET / HTTP/1.1\r\nhost: a\r\n");
        }
    }

    async fn send(link: &Link) -> Result<Answer<'static>, LinkError> {
        link.send(&Get, Upload::none(), &mut AnswerHead::default(), &AtomicBool::default()).await
    }

    async fn call(link: &Link) {
        let mut answer = send(link).await.unwrap();
        assert_eq!(answer.data().await.unwrap().unwrap(), "hi");
        assert!(answer.data().await.is_none());
    }

    /// Waits until the one idle connection is in this state.
    async fn until(link: &Link, state: fn(&Idle) -> bool) {
        while !lock(&link.idle).idle.front().is_some_and(state) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_connection_carries_one_request_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let link = Link::new(folder.path().join("s"));
        let server = tokio::spawn(serve(UnixListener::bind(link.socket()).unwrap(), 3));
        for _ in 0..3 {
            call(&link).await;
            until(&link, |_| true).await;
        }
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_the_watchdog_closed_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let link = Link::new(folder.path().join("s"));
        let server = tokio::spawn(serve(UnixListener::bind(link.socket()).unwrap(), 1));
        call(&link).await;
        let (listener, stream) = server.await.unwrap();
        until(&link, |_| true).await;
        drop(stream);
        // The event loop looks at its sockets between two rounds of tasks.
        tokio::task::yield_now().await;
        let server = tokio::spawn(serve(listener, 1));
        call(&link).await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_comes_in_pieces_brings_its_connection_back_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let link = Link::new(folder.path().join("s"));
        let listener = UnixListener::bind(link.socket()).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
            stream
        });
        let mut answer = send(&link).await.unwrap();
        assert!(lock(&link.idle).idle.is_empty());
        assert_eq!(answer.length(), BodyLength::Known(4));
        let mut stream = server.await.unwrap();
        assert_eq!(answer.data().await.unwrap().unwrap(), "ab");
        assert_eq!(answer.length(), BodyLength::Known(2));
        stream.write_all(b"cd").await.unwrap();
        assert_eq!(answer.data().await.unwrap().unwrap(), "cd");
        assert_eq!(lock(&link.idle).idle.len(), 1);
    }

    #[tokio::test]
    async fn connections_that_are_idle_for_long_are_closed() {
        let folder = tempfile::tempdir().unwrap();
        let link = Link::new(folder.path().join("s"));
        let server = tokio::spawn(serve(UnixListener::bind(link.socket()).unwrap(), 1));
        call(&link).await;
        let (_listener, mut stream) = server.await.unwrap();
        let now = Instant::now();
        assert!(!lock(&link.idle).sweep(now));
        assert!(lock(&link.idle).sweep(now + IDLE_TIME));
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the gateway closes it");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_holds_is_an_error_of_connecting() {
        let link = Link::new("/nosuch/socket".into());
        assert!(matches!(send(&link).await, Err(LinkError::Connect(_))));
    }
}
