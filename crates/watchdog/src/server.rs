//! The watchdog's HTTP/1.1 server: accepts connections, serves them until it is told to stop, then drains.
//! Called by [`crate::run`]. All of it runs on one thread: parsing takes a few microseconds a request, machines
//! have threads of their own, and a second server thread would only take a processor from them.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kernlet_monitor::Level;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use crate::{exchange::Exchange, listen::Bound};

/// Most connections at the same time; more wait in the socket.
const CONNECTIONS_MAX: u32 = 512;

/// Most header fields of a request.
const HEADERS_MAX: usize = 1024;

/// How long to wait when the host has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a function without a time limit may take to finish when the watchdog stops.
const DRAIN_UNLIMITED: Duration = Duration::from_secs(60);

/// What a client gets that did not send the head of its request in time; hyper only hangs up.
const HEAD_TOO_SLOW: &str = "the request's head did not arrive in time; send it in one go\n";

/// A socket that accepts connections.
#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A bound server, not yet serving.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Listener,
    exchange: Arc<Exchange>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Takes over a bound socket. To be called inside a runtime.
    pub(crate) fn new(bound: Bound, exchange: Exchange) -> Result<Self, io::Error> {
        let listener = match bound {
            Bound::Unix(listener) => Listener::Unix(UnixListener::from_std(listener)?),
            Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
        };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        Ok(Self { listener, exchange: Arc::new(exchange), connections })
    }

    /// Serves until `stop`, then finishes what is under way, for no longer than one invocation may take.
    pub(crate) async fn serve_until(self, stop: impl Future<Output = ()>) {
        let (drain, draining) = watch::channel(false);
        tokio::select! {
            () = self.accept_all(&draining) => {}
            () = stop => {}
        }
        let Self { listener, exchange, connections } = self;
        exchange.draining.store(true, Ordering::Relaxed);
        drop(listener);
        drain.send_replace(true);
        exchange.log.watchdog("", Level::Info, "shutting down: no new requests, finishing those under way");
        let shared = exchange.function.shared();
        let patience = shared.limit.bounded().unwrap_or(DRAIN_UNLIMITED);
        let finished = tokio::time::timeout(patience, async {
            let _all_closed = connections.acquire_many(CONNECTIONS_MAX).await;
            shared.inflight.drained().await;
        });
        if finished.await.is_err() {
            let text = format!("shut down with requests still under way after {patience:?}");
            exchange.log.watchdog("", Level::Warn, &text);
        }
    }

    async fn accept_all(&self, draining: &watch::Receiver<bool>) {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await {
            if let Err(error) = self.accept(permit, draining.clone()).await {
                let text = format!("a connection could not be accepted: {error}");
                self.exchange.log.watchdog("", Level::Warn, &text);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept(&self, permit: OwnedSemaphorePermit, draining: watch::Receiver<bool>) -> Result<(), io::Error> {
        let exchange = Arc::clone(&self.exchange);
        match &self.listener {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(serve_connection(stream, exchange, draining, permit));
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(serve_connection(stream, exchange, draining, permit));
            }
        }
        Ok(())
    }
}

/// Serves one connection to its end. Errors are the client's: it hung up, or does not speak HTTP.
async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    exchange: Arc<Exchange>,
    mut draining: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let read_timeout = exchange.read_timeout;
    let service = service_fn(move |request| {
        let exchange = Arc::clone(&exchange);
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = begun(&mut draining) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if ended.is_err_and(|error| error.is_timeout()) {
        let parts = connection.into_parts();
        // An idle connection that is kept alive times out in the same way, and is closed without a word.
        if !parts.read_buf.is_empty() {
            // The client may be gone.
            let _ = refuse_slow_head(parts.io.into_inner()).await;
        }
    }
}

/// Waits for the drain to begin; a sender that is gone means the same.
async fn begun(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

async fn refuse_slow_head<S: AsyncWrite + Unpin>(mut stream: S) -> Result<(), io::Error> {
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\nx-openfaas-internal: watchdog\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{HEAD_TOO_SLOW}",
        HEAD_TOO_SLOW.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
