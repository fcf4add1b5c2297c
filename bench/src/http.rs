//! A client with one connection that it keeps, as a load balancer in front of the platform would.
//! Used by suites that measure from outside. One request at a time; it never retries.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
};

/// A kept connection.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From sending the request to having all of the answer.
    pub(crate) time: Duration,
}

impl Answer {
    /// Insists on success.
    pub(crate) fn ok(self) -> anyhow::Result<Self> {
        let text = || String::from_utf8_lossy(&self.body).trim_end().to_owned();
        ensure!(self.status.is_success(), "the platform answered {}: {}", self.status, text());
        Ok(self)
    }
}

impl Client {
    /// Connects to a TCP port.
    pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            handshake(TokioIo::new(stream)).await
        })?;
        Ok(Self { runtime, sender })
    }

    /// Connects to a unix socket, which must be listened on.
    pub(crate) fn connect_unix(socket: &Path) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let sender = runtime.block_on(async { handshake(TokioIo::new(UnixStream::connect(socket).await?)).await })?;
        Ok(Self { runtime, sender })
    }

    /// Sends a request and takes the whole answer.
    pub(crate) fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let Self { runtime, sender } = self;
        runtime.block_on(async {
            sender.ready().await.context("the platform closed the connection")?;
            let start = Instant::now();
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body, time: start.elapsed() })
        })
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("the client's event loop cannot be started")
}

async fn handshake<S>(stream: TokioIo<S>) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // An error of the connection reaches whoever waits for an answer on it.
    tokio::spawn(connection);
    Ok(sender)
}
