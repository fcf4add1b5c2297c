//! The HTTP server: accepts connections, finds each request's route, asks for credentials where they are due.
//! [`crate::Gateway`] starts it and stops it.
//! It never lets a request to `/system/*` pass without credentials, nor asks for any on anything else.

use crate::Context;
use crate::answer;
use crate::body::{Body, Upload};
use crate::crowd::{Attended, Crowd};
use crate::event_loop::{Accepted, Arrivals, EventLoops};
use crate::headers::Client;
use crate::metrics;
use crate::proxy;
use crate::route::Route;
use crate::system;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Longest request head, in bytes: OpenFaaS's own limit.
const HEAD_MAX: usize = 1024 * 1024;
/// How long a connection may take to send a request's head, or stay idle between two requests.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// Pause after a connection could not be accepted: the process has no descriptors left, and gets some back as
/// connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long requests under way may go on after the gateway was told to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// How long a client may take nothing of an answer that waits for it, or leave what was sent unacknowledged: then it is
/// gone, whether it said so or not, and its connection and the function's with it.
const UNREAD: Duration = Duration::from_secs(60);
/// What a client gets that nobody made room for.
const CROWDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 59\r\n\r\n\
    The gateway has as many requests as it can take: try again\n";

const HOME: &str = "This is a Kernlet gateway. Functions answer at /function/NAME; the platform's own calls are under /system \
    and take the credentials in the gateway's auth folder. \"kernlet --help\" says more.";

/// Accepts connections until it is told to stop, then waits for the requests under way.
pub(crate) async fn serve(listener: TcpListener, loops: Arc<EventLoops>, mut stop: watch::Receiver<bool>) {
    let crowd = Crowd::within_descriptors();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let handed = accepted.and_then(|(stream, peer)| match crowd.enter() {
            Some(guest) => loops.hand(stream, peer, guest),
            None => {
                tokio::spawn(send_away(stream));
                Ok(())
            }
        });
        if let Err(error) = handed {
            tracing::warn!(%error, "A connection cannot be accepted");
            sleep(ACCEPT_PAUSE).await;
        }
    }
    drop(listener);
    loops.drained().await;
}

/// Serves the connections of one event loop until the gateway is told to stop, then the requests under way.
pub(crate) async fn serve_connections(mut arrivals: Arrivals, context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_MAX);
    loop {
        tokio::select! {
            biased;
            arrived = arrivals.next() => match arrived {
                Some(accepted) => serve_connection(&http, accepted, &context, &graceful),
                None => return,
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("Requests still under way after {DRAIN:?} are cut off");
    }
}

fn serve_connection(http: &http1::Builder, accepted: Accepted, context: &Arc<Context>, graceful: &GracefulShutdown) {
    let Accepted { stream, peer, guest, place } = accepted;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "A connection keeps small packets waiting");
    }
    if let Err(error) = let_go_when_unread(&stream, UNREAD) {
        tracing::debug!(%error, "A client that goes without a word is noticed late");
    }
    let (context, seat, client) = (Arc::clone(context), guest.seat(), Arc::new(Client::new(peer.ip())));
    let service = service_fn(move |request| {
        let (context, visit, client) = (Arc::clone(&context), seat.visit(), Arc::clone(&client));
        async move {
            let answer = answer(&context, &client, request).await;
            Ok::<_, Infallible>(answer.map(|body| Attended::new(body, visit)))
        }
    });
    let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, %peer, "A connection ended early");
            },
            () = guest.has_to_go() => tracing::debug!(%peer, "A connection without a request made room for another"),
        }
    });
}

/// Lets the system end the connection when its client takes nothing for so long (tcp(7), `TCP_USER_TIMEOUT`).
fn let_go_when_unread(stream: &TcpStream, after: Duration) -> rustix::io::Result<()> {
    rustix::net::sockopt::set_tcp_user_timeout(stream, u32::try_from(after.as_millis()).unwrap_or(u32::MAX))
}

async fn send_away(mut stream: TcpStream) {
    // The client may be gone; what it has sent is not read.
    let _ = timeout(Duration::from_secs(1), stream.write_all(CROWDED)).await;
}

async fn answer(context: &Arc<Context>, client: &Client, request: Request<Incoming>) -> Response<Body> {
    let uri = request.uri().clone();
    match Route::parse(uri.path()) {
        Route::Invoke(target) => proxy::invoke(context, client, target, request).await,
        Route::Health => open_page(request, ""),
        Route::Metrics => open_metrics(context, &request),
        Route::Home => open_page(request, HOME),
        Route::Unknown => {
            drop(Upload::new(request.into_body()));
            let message = format!(
                "There is nothing at {}: functions are at /function/NAME, the platform's calls under /system",
                uri.path()
            );
            answer::text(StatusCode::NOT_FOUND, message)
        }
        system if context.credentials.admit(request.headers()) => system::handle(context, system, request).await,
        _ => {
            drop(Upload::new(request.into_body()));
            let mut answer = answer::text(StatusCode::UNAUTHORIZED, "invalid credentials");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Restricted\""));
            answer
        }
    }
}

/// As in OpenFaaS, whose Prometheus has no credentials.
fn open_metrics(context: &Context, request: &Request<Incoming>) -> Response<Body> {
    match *request.method() {
        Method::GET | Method::HEAD => answer::metrics(metrics::expose(&context.functions.all())),
        _ => answer::wrong_method("GET, HEAD"),
    }
}

fn open_page(request: Request<Incoming>, text: &str) -> Response<Body> {
    match *request.method() {
        Method::GET | Method::HEAD if text.is_empty() => answer::empty(StatusCode::OK),
        Method::GET | Method::HEAD => answer::text(StatusCode::OK, text),
        _ => {
            drop(Upload::new(request.into_body()));
            answer::wrong_method("GET, HEAD")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_let_go_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        let_go_when_unread(&served, Duration::from_millis(100)).unwrap();
        let ended = loop {
            if let Err(error) = served.write_all(&[0; 65536]).await {
                break error;
            }
        };
        assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
    }
}
