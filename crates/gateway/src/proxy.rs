//! Invocations: `/function/NAME[.NAMESPACE][/path]` to a replica's watchdog and back, both bodies streamed.
//! The server calls it for every such request.
//! It never sends a request twice, follows no redirect, and decides nothing that the watchdog knows better.

use crate::Context;
use crate::admission::Refused;
use crate::answer::{self, chain};
use crate::body::{Body, Upload};
use crate::function::{Function, LeaseError, TIMEOUT_MARGIN};
use crate::headers::{self, Client, Marks, TIMING, USAGE};
use crate::link::{Answer, LinkError};
use crate::replica::{Failure, Lease};
use crate::route::Target;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};

/// What a function can be called with.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// How long a client may pause in the middle of its upload.
const UPLOAD_PAUSE: Duration = Duration::from_secs(60);
/// How long after the news of a dead process its last answer may still come out of the connection.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Why an invocation has no answer of its function. Each message goes on where "function NAME" left off.
#[derive(Debug, Error)]
enum Why {
    #[error("is not running, and is started again: its {}", .0.cause)]
    Failing(Arc<Failure>),
    #[error("{0}")]
    Overload(Refused),
    #[error("has no replica")]
    Start(#[source] LeaseError),
    #[error("takes no more requests just now: try again")]
    Full(#[source] LinkError),
    #[error("died while it worked on this request: its {0}")]
    Died(Arc<str>),
    #[error("gave no answer that can be passed on")]
    Broken(#[source] LinkError),
    #[error(
        "did not answer within {0:?}, which is its exec_timeout and {TIMEOUT_MARGIN:?} more: make it faster, or raise \
         exec_timeout"
    )]
    Timeout(Duration),
    #[error("waits for the rest of this request's body, of which nothing came for {UPLOAD_PAUSE:?}: send it again")]
    Stalled,
    #[error("got only a part of this request's body before it broke off: send it again")]
    Aborted,
    #[error("cannot be given this path")]
    Path(#[source] http::uri::InvalidUri),
}

impl Why {
    fn status(&self) -> StatusCode {
        match self {
            Why::Failing(_) | Why::Overload(_) | Why::Start(_) | Why::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            Why::Died(_) | Why::Broken(_) => StatusCode::BAD_GATEWAY,
            Why::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Why::Stalled => StatusCode::REQUEST_TIMEOUT,
            Why::Aborted | Why::Path(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// Seconds after which another try makes sense.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Why::Failing(failure) => {
                let pause = failure.retry_at.saturating_duration_since(Instant::now());
                Some(pause.as_secs() + 1)
            }
            Why::Overload(_) | Why::Start(_) | Why::Full(_) => Some(1),
            _ => None,
        }
    }

    fn into_answer(self, function: &Function) -> Response<Body> {
        let mut message = format!("function {} {}", function.full_name(), chain(&self));
        if self.status().is_server_error() {
            message = format!("{message}. See \"{}\"", function.log_command());
        }
        let mut answer = own(answer::text(self.status(), message));
        if let Some(seconds) = self.retry_after() {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// Marks an answer that the platform made and no function.
fn own(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(answer::INTERNAL, HeaderValue::from_static("gateway"));
    answer
}

/// Invokes a function.
pub(crate) async fn invoke(
    context: &Context,
    client: &Client,
    target: Target<'_>,
    request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let marks = Marks::new(request.headers());
    let mut answer = if is_allowed(request.method()) {
        Invocation { context, client, target, marks: &marks, began }.run(request).await
    } else {
        drop(Upload::new(request.into_body()));
        own(answer::wrong_method(METHODS))
    };
    headers::sign(answer.headers_mut(), &marks);
    answer
}

fn is_allowed(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS
    )
}

struct Invocation<'a> {
    context: &'a Context,
    client: &'a Client,
    target: Target<'a>,
    marks: &'a Marks,
    began: Instant,
}

impl Invocation<'_> {
    async fn run(&self, request: Request<Incoming>) -> Response<Body> {
        let request = request.map(Upload::new);
        loop {
            let function = match self.context.functions.find(self.target.name, self.target.namespace) {
                Ok(function) => function,
                Err(error) => return own(answer::text(StatusCode::NOT_FOUND, chain(&error))),
            };
            let asked = request.headers().contains_key(USAGE);
            let answered = match function.lease() {
                Ok(lease) => {
                    function.account().started().fetch_add(1, Ordering::Relaxed);
                    self.pass_on(&function, lease, request).await
                }
                // A newer deployment took its place between the two statements above, or the function is gone.
                Err(LeaseError::Retired) => continue,
                Err(LeaseError::Failing(failure)) => Err(Why::Failing(failure)),
                Err(LeaseError::Full(refused)) => Err(Why::Overload(refused)),
                Err(error @ LeaseError::Start(_)) => Err(Why::Start(error)),
            };
            let mut answer = answered.unwrap_or_else(|why| why.into_answer(&function));
            function.account().answered(answer.status(), answer.headers_mut(), self.began.elapsed(), asked);
            return answer;
        }
    }

    async fn pass_on(
        &self,
        function: &Function,
        lease: Lease,
        request: Request<Upload>,
    ) -> Result<Response<Body>, Why> {
        let (mut head, upload) = request.into_parts();
        let timed = head.headers.contains_key(TIMING);
        let request_type = head.headers.get(CONTENT_TYPE).cloned();
        headers::forward_request(&mut head.headers, self.marks, self.client, function.full_name());
        head.uri = uri(self.target.path, head.uri.query()).map_err(Why::Path)?;
        head.version = http::Version::HTTP_11;
        head.extensions.clear();

        let sent = Instant::now();
        let response = exchange(function.upstream_timeout(), &lease, Request::from_parts(head, upload)).await?;
        let round_trip = sent.elapsed();

        let (mut head, answer) = response.into_parts();
        headers::forward_response(head.status, &mut head.headers, request_type);
        if timed {
            headers::append_timing(&mut head.headers, self.began.elapsed().saturating_sub(round_trip));
        }
        let body = match answer {
            Answer::Whole(data) => Body::Whole(data),
            answer @ Answer::Coming(_) => Body::Watchdog { answer, _lease: lease },
        };
        Ok(Response::from_parts(head, body))
    }
}

/// The path and query that the function gets: the client's own, byte for byte, behind the function's name.
fn uri(path: &str, query: Option<&str>) -> Result<Uri, http::uri::InvalidUri> {
    let path = if path.is_empty() { "/" } else { path };
    let whole = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}"))?,
        None => PathAndQuery::try_from(path)?,
    };
    Ok(Uri::from(whole))
}

/// Sends the request and waits for the response's head, for the process's failure, or for the end of the time.
async fn exchange(limit: Option<Duration>, lease: &Lease, request: Request<Upload>) -> Result<Response<Answer>, Why> {
    let progress = request.body().progress();
    let sending = lease.link().send(request);
    tokio::pin!(sending);
    let answer = loop {
        // The function's time counts from the last byte that it took; a client's pauses are the client's.
        let clients_turn = progress.client_owes();
        let allowed = if clients_turn { Some(UPLOAD_PAUSE) } else { limit };
        // Without a limit it still looks up from time to time, since the turn may have become the client's.
        let deadline = allowed.map_or_else(|| Instant::now() + UPLOAD_PAUSE, |allowed| progress.latest() + allowed);
        tokio::select! {
            biased;
            answer = &mut sending => break answer,
            failure = lease.failure() => match timeout(LAST_ANSWER, &mut sending).await {
                Ok(answer) => break answer,
                Err(_) => return Err(Why::Failing(failure)),
            },
            () = progress.became_whole() => {}
            () = sleep_until(deadline) => {}
        }
        let same_turn = progress.client_owes() == clients_turn;
        if let Some(limit) = allowed.filter(|allowed| same_turn && progress.latest().elapsed() >= *allowed) {
            return Err(if clients_turn { Why::Stalled } else { Why::Timeout(limit) });
        }
    };
    match answer {
        Ok(response) => Ok(response),
        Err(error) => Err(explain(lease, error).await),
    }
}

async fn explain(lease: &Lease, error: LinkError) -> Why {
    match &error {
        LinkError::Full | LinkError::Connect(_) => Why::Full(error),
        LinkError::Upload(_) => Why::Aborted,
        LinkError::Head(_) | LinkError::LongHead | LinkError::Chunks(_) => Why::Broken(error),
        LinkError::Lost(_) | LinkError::CutShort => match lease.death().await {
            Some(cause) => Why::Died(cause),
            None => Why::Broken(error),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_path_is_the_root() {
        assert_eq!(uri("", None).unwrap(), "/");
        assert_eq!(uri("", Some("a=1")).unwrap(), "/?a=1");
    }

    #[test]
    fn every_answer_that_waiting_may_mend_says_when_to_come_back() {
        let failure = Failure { cause: "watchdog died".to_owned(), retry_at: Instant::now() + Duration::from_secs(3) };
        let encode = || serde_json::from_str::<u8>("").unwrap_err();
        let all = [
            Why::Failing(Arc::new(failure)),
            Why::Overload(crate::admission::Refused::example()),
            Why::Start(LeaseError::Start(crate::replica::StartError::Encode(encode()))),
            Why::Full(LinkError::Full),
            Why::Died("watchdog died".into()),
            Why::Timeout(Duration::from_secs(1)),
            Why::Stalled,
            Why::Aborted,
        ];
        for why in all {
            let mendable = matches!(why.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(why.retry_after().is_some(), mendable, "{why:?}");
        }
    }

    proptest! {
        #[test]
        fn path_and_query_pass_byte_for_byte(path in "(/[!$&-;=@-Z_a-z~%]{0,8}){1,4}", query in proptest::option::of("[!$&-;=?@-Z_a-z~%]{0,16}")) {
            let passed = uri(&path, query.as_deref()).unwrap();
            prop_assert_eq!(passed.path(), path);
            prop_assert_eq!(passed.query(), query.as_deref());
        }
    }
}
