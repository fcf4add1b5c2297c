//! Connections to one replica's watchdog over its unix socket: HTTP/1.1, kept alive and used again.
//! The proxy takes one for each invocation; the supervisor takes one to learn that a watchdog is ready.
//! It never sends a request twice: only one that did not leave the gateway at all is put on another connection.
//!
//! A connection has no task of its own: whoever waits for an answer on it drives it, so that nothing has to be woken
//! between the socket and the client. It stays on the event loop that made it.

use crate::body::Upload;
use crate::event_loop;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Idle connections kept to one watchdog; a burst of more closes the surplus.
const IDLE_MAX: usize = 64;
/// How long an idle connection is used again: well below the 30 s after which a watchdog closes it, so that no request
/// meets a connection that is just being closed.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Longest response head that is read from a watchdog, in bytes: as long as a request head may be.
const HEAD_MAX: usize = 1024 * 1024;

/// Why a watchdog gave no answer.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// So many connections wait for the watchdog that the system takes no more.
    #[error("Too many connections wait for the function's watchdog")]
    Full,
    /// No connection could be made.
    #[error("The function's watchdog cannot be reached on its socket")]
    Connect(#[source] io::Error),
    /// The connection ended, or what came is not HTTP.
    #[error("The function's watchdog gave no answer")]
    Exchange(#[source] hyper::Error),
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
    sender: SendRequest<Upload>,
    /// What moves bytes when it is polled; `None` once the connection has ended.
    driver: Option<http1::Connection<TokioIo<PatientStream>, Upload>>,
    /// The event loop whose sockets it is among.
    home: event_loop::Id,
}

/// A watchdog's answer after its head: there already, or still to come on the connection.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All of it; `None` once it is taken, or for none.
    Whole(Option<Bytes>),
    /// Not all of it yet.
    Coming(Box<Coming>),
}

/// The rest of an answer, and the connection that brings it.
#[derive(Debug)]
pub(crate) struct Coming {
    incoming: Incoming,
    /// What came with the head.
    first: Option<Frame<Bytes>>,
    connection: Option<Connection>,
    pool: Arc<Mutex<Pool>>,
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

    /// Sends a request and returns its response: whole where it came at once, else its head with the body to come.
    pub(crate) async fn send(&self, request: Request<Upload>) -> Result<Response<Answer>, LinkError> {
        let mut request = request;
        while let Some(mut connection) = self.take_idle() {
            if !connection.is_ready().await {
                continue;
            }
            match connection.exchange(request).await {
                Ok(response) => return Ok(self.answer(connection, response).await),
                Err(mut error) => match error.take_message() {
                    // The watchdog had closed this idle connection; nothing of the request was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(LinkError::Exchange(error.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        match connection.exchange(request).await {
            Ok(response) => Ok(self.answer(connection, response).await),
            Err(error) => Err(LinkError::Exchange(error.into_error())),
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

    /// Takes what has come of the body with its head. Most answers are whole then, and free their connection.
    async fn answer(&self, connection: Connection, response: Response<Incoming>) -> Response<Answer> {
        let (head, incoming) = response.into_parts();
        let pool = Arc::clone(&self.idle);
        let mut coming = Box::new(Coming { incoming, first: None, connection: Some(connection), pool });
        poll_fn(|cx| {
            if !coming.incoming.is_end_stream()
                && let Poll::Ready(Some(Ok(first))) = coming.poll_incoming(cx)
            {
                coming.first = Some(first);
            }
            if coming.incoming.is_end_stream() {
                coming.finish(cx);
            }
            Poll::Ready(())
        })
        .await;
        let body = if coming.connection.is_some() {
            Answer::Coming(coming)
        } else {
            Answer::Whole(coming.first.and_then(|first| first.into_data().ok()))
        };
        Response::from_parts(head, body)
    }

    async fn connect(&self) -> Result<Connection, LinkError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            // What a unix socket says when its backlog is full.
            io::ErrorKind::WouldBlock => LinkError::Full,
            _ => LinkError::Connect(error),
        })?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(PatientStream { stream, refused: false }))
            .await
            .map_err(LinkError::Exchange)?;
        Ok(Connection { sender, driver: Some(driver), home: event_loop::Id::current() })
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Moves what can be moved. Its errors reach whoever waits for a response on it.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            // A request that it has not taken up goes back to its sender.
            self.driver = None;
        }
    }

    /// Whether it can take another request. One that the watchdog closed meanwhile cannot.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        })
        .await
        .is_ok()
    }

    async fn exchange(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        let mut sending = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        poll_fn(|cx| {
            if let Some(moving) = driver
                && Pin::new(moving).poll(cx).is_ready()
            {
                *driver = None;
            }
            sending.as_mut().poll(cx)
        })
        .await
    }
}

/// Puts a connection back for the next request on its event loop.
fn keep(pool: &Arc<Mutex<Pool>>, connection: Connection) {
    let now = Instant::now();
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

impl Coming {
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let frame @ Poll::Ready(_) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return frame;
        }
        // Only now does the connection know that more is wanted.
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    /// Puts the connection back, unless it still has something to do: a request that was answered before its end.
    fn finish(&mut self, cx: &mut Context<'_>) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.drive(cx);
        if matches!(connection.sender.poll_ready(cx), Poll::Ready(Ok(()))) {
            keep(&self.pool, connection);
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let coming = match self.get_mut() {
            Answer::Whole(data) => return Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Answer::Coming(coming) => coming,
        };
        if let Some(first) = coming.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = coming.poll_incoming(cx);
        if matches!(frame, Poll::Ready(None)) || (frame.is_ready() && coming.incoming.is_end_stream()) {
            coming.finish(cx);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Whole(data) => data.is_none(),
            Answer::Coming(coming) => coming.first.is_none() && coming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            // What came with the head is no longer counted by hyper.
            Answer::Coming(coming) => match coming.first.as_ref().and_then(Frame::data_ref) {
                None => coming.incoming.size_hint(),
                Some(first) => {
                    let (mut hint, more) = (coming.incoming.size_hint(), first.len() as u64);
                    match hint.exact() {
                        Some(rest) => hint.set_exact(rest + more),
                        None => hint.set_lower(hint.lower() + more),
                    }
                    hint
                }
            },
        }
    }
}

/// A unix stream on which a peer that no longer reads can still be heard. A watchdog that refuses an upload (413)
/// answers and closes while the upload is under way: writing then fails, and without this the answer that is
/// already there would be lost. What was to be written is thrown away, and the reading side says how it ended.
#[derive(Debug)]
struct PatientStream {
    stream: UnixStream,
    refused: bool,
}

impl PatientStream {
    fn forgive(&mut self, written: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.refused = true;
                Poll::Ready(Ok(offered))
            }
            other => other,
        }
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.refused {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.forgive(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        if self.refused {
            return Poll::Ready(Ok(offered));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.forgive(written, offered)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

    async fn call(link: &Link) {
        let request = Request::get("/").header(http::header::HOST, "a").body(Upload::none()).unwrap();
        let body = link.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "hi");
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
        let request = Request::get("/").header(http::header::HOST, "a").body(Upload::none()).unwrap();
        let mut body = link.send(request).await.unwrap().into_body();
        assert!(lock(&link.idle).idle.is_empty());
        assert_eq!(body.size_hint().exact(), Some(4));
        let mut stream = server.await.unwrap();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((first.as_ref(), body.is_end_stream()), (&b"ab"[..], false));
        stream.write_all(b"cd").await.unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "cd");
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
        let request = Request::get("/").body(Upload::none()).unwrap();
        assert!(matches!(link.send(request).await, Err(LinkError::Connect(_))));
    }
}
