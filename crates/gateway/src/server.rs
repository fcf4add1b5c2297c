//! The HTTP server: accepts connections, finds each request's route, asks for credentials where they are due.
//! [`crate::Gateway`] starts it and stops it.
//! It never lets a request to `/system/*` pass without credentials, nor asks for any on anything else.

use crate::Context;
use crate::answer;
use crate::body::{Body, Progress, Upload};
use crate::client::{self, Desk};
use crate::crowd::Crowd;
use crate::event_loop::{Accepted, Arrivals, EventLoops};
use crate::headers::Client;
use crate::metrics;
use crate::proxy::Invocation;
use crate::route::Route;
use crate::system;
use http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Uri};
use kernlet_http1::RequestHead;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

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
    // Every connection holds a sender as long as it lasts.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    loop {
        tokio::select! {
            biased;
            arrived = arrivals.next() => match arrived {
                Some(accepted) => serve_connection(accepted, &context, open.clone()),
                None => return,
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(open);
    if timeout(DRAIN, all_closed.recv()).await.is_err() {
        tracing::warn!("Requests still under way after {DRAIN:?} are cut off");
    }
}

fn serve_connection(accepted: Accepted, context: &Arc<Context>, open: mpsc::Sender<()>) {
    let Accepted { stream, peer, guest, place } = accepted;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "A connection keeps small packets waiting");
    }
    if let Err(error) = let_go_when_unread(&stream, UNREAD) {
        tracing::debug!(%error, "A client that goes without a word is noticed late");
    }
    let context = Arc::clone(context);
    tokio::spawn(async move {
        client::serve(stream, &Client::new(peer.ip()), &guest, &context).await;
        drop((place, open));
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

/// Answers a request: the head of the answer is the desk's reply, its body is returned.
pub(crate) async fn answer<'a>(
    context: &'a Arc<Context>,
    client: &'a Client,
    head: &'a RequestHead,
    uri: &'a Uri,
    (upload, progress): (Upload<'a>, &'a Progress),
    desk: &mut Desk,
) -> Body<'a> {
    let (path, query) = head.plain_target().unwrap_or((uri.path(), uri.query()));
    let route = Route::parse(path);
    if let Route::Invoke(target) = route {
        return Invocation { context, client, request: head, target, query, progress }.run(upload, desk).await;
    }
    let answer = match to_request(head, upload) {
        Some(request) => answer_own(context, route, request).await,
        None => answer::text(StatusCode::BAD_REQUEST, "The request cannot be understood: its target is no URI"),
    };
    let (head, body) = answer.into_parts();
    desk.reply.fill(head.status, &head.headers);
    body
}

/// A request as everything but the invocation of functions takes it.
fn to_request<'a>(head: &RequestHead, upload: Upload<'a>) -> Option<Request<Upload<'a>>> {
    let mut request = Request::new(upload);
    *request.method_mut() = head.method().parse().ok()?;
    *request.uri_mut() = head.target().parse().ok()?;
    for (name, value) in head.fields().iter() {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(request)
}

/// Answers a request that is not for a function.
async fn answer_own(context: &Arc<Context>, route: Route<'_>, request: Request<Upload<'_>>) -> Response<Body<'static>> {
    match route {
        Route::Health => open_page(&request, ""),
        Route::Metrics => open_metrics(context, &request),
        Route::Home => open_page(&request, HOME),
        Route::Unknown | Route::Invoke(_) => {
            let message = format!(
                "There is nothing at {}: functions are at /function/NAME, the platform's calls under /system",
                request.uri().path()
            );
            answer::text(StatusCode::NOT_FOUND, message)
        }
        system if context.credentials.admit(request.headers()) => system::handle(context, system, request).await,
        _ => {
            let mut answer = answer::text(StatusCode::UNAUTHORIZED, "invalid credentials");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Restricted\""));
            answer
        }
    }
}

/// As in OpenFaaS, whose Prometheus has no credentials.
fn open_metrics(context: &Context, request: &Request<Upload<'_>>) -> Response<Body<'static>> {
    match *request.method() {
        Method::GET | Method::HEAD => answer::metrics(metrics::expose(&context.functions.all())),
        _ => answer::wrong_method("GET, HEAD"),
    }
}

fn open_page(request: &Request<Upload<'_>>, text: &str) -> Response<Body<'static>> {
    match *request.method() {
        Method::GET | Method::HEAD if text.is_empty() => answer::empty(StatusCode::OK),
        Method::GET | Method::HEAD => answer::text(StatusCode::OK, text),
        _ => answer::wrong_method("GET, HEAD"),
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
