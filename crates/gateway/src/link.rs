//! Connections to one replica's watchdog over its unix socket: HTTP/1.1, kept alive and used again.
//! The proxy takes one for each invocation; the supervisor takes one to learn that a watchdog is ready.
//! It never sends a request twice: only one that did not leave the gateway at all is put on another connection.

use crate::body::Upload;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Least recently used first.
    idle: Arc<Mutex<VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: SendRequest<Upload>,
    since: Instant,
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

    /// Sends a request and returns the head of its response with the body to come.
    pub(crate) async fn send(&self, request: Request<Upload>) -> Result<Response<Incoming>, LinkError> {
        let mut request = request;
        while let Some(mut connection) = self.take_idle() {
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(connection, response)),
                Err(mut error) => match error.take_message() {
                    // The watchdog had closed this idle connection; nothing of the request was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(LinkError::Exchange(error.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        match connection.try_send_request(request).await {
            Ok(response) => Ok(self.keep(connection, response)),
            Err(error) => Err(LinkError::Exchange(error.into_error())),
        }
    }

    fn take_idle(&self) -> Option<SendRequest<Upload>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { connection, since }) = idle.pop_back() {
            if since.elapsed() >= IDLE_TIME {
                idle.clear();
            } else if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Puts the connection back once the response has been read to its end.
    fn keep(&self, mut connection: SendRequest<Upload>, response: Response<Incoming>) -> Response<Incoming> {
        let idle = Arc::clone(&self.idle);
        tokio::spawn(async move {
            if connection.ready().await.is_ok() {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() == IDLE_MAX || idle.front().is_some_and(|oldest| oldest.since.elapsed() >= IDLE_TIME) {
                    idle.pop_front();
                }
                idle.push_back(Idle { connection, since: Instant::now() });
            }
        });
        response
    }

    async fn connect(&self) -> Result<SendRequest<Upload>, LinkError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            // What a unix socket says when its backlog is full.
            io::ErrorKind::WouldBlock => LinkError::Full,
            _ => LinkError::Connect(error),
        })?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(PatientStream { stream, refused: false }))
            .await
            .map_err(LinkError::Exchange)?;
        // The connection's own errors reach whoever waits for a response on it.
        tokio::spawn(connection);
        Ok(sender)
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
        while !link.idle.lock().unwrap().front().is_some_and(state) {
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
        until(&link, |idle| idle.connection.is_ready()).await;
        drop(stream);
        until(&link, |idle| idle.connection.is_closed()).await;
        let server = tokio::spawn(serve(listener, 1));
        call(&link).await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_nobody_holds_is_an_error_of_connecting() {
        let link = Link::new("/nosuch/socket".into());
        let request = Request::get("/").body(Upload::none()).unwrap();
        assert!(matches!(link.send(request).await, Err(LinkError::Connect(_))));
    }
}
