//! Invocations: `/function/NAME[.NAMESPACE][/path]` to a replica's watchdog and back, both bodies streamed.
//! The server calls it for every such request.
//! It never sends a request twice, follows no redirect, and decides nothing that the watchdog knows better.

use crate::Context;
use crate::admission::Refused;
use crate::answer::{self, chain};
use crate::body::{Body, Progress, Upload};
use crate::client::Desk;
use crate::function::{Function, LeaseError, TIMEOUT_MARGIN};
use crate::headers::{self, Client, Marks, USAGE};
use crate::link::{self, Answer, LinkError};
use crate::replica::{Failure, Lease};
use crate::route::Target;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use kernlet_http1::RequestHead;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, timeout};

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
}

impl Why {
    fn status(&self) -> StatusCode {
        match self {
            Why::Failing(_) | Why::Overload(_) | Why::Start(_) | Why::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            Why::Died(_) | Why::Broken(_) => StatusCode::BAD_GATEWAY,
            Why::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Why::Stalled => StatusCode::REQUEST_TIMEOUT,
            Why::Aborted => StatusCode::BAD_REQUEST,
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

    fn into_answer(self, function: &Function) -> Response<Body<'static>> {
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
fn own(mut answer: Response<Body<'static>>) -> Response<Body<'static>> {
    answer.headers_mut().insert(answer::INTERNAL, HeaderValue::from_static("gateway"));
    answer
}

/// An invocation, as the client asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Invocation<'a> {
    pub(crate) context: &'a Context,
    pub(crate) client: &'a Client,
    pub(crate) request: &'a RequestHead,
    pub(crate) target: Target<'a>,
    /// Behind the path.
    pub(crate) query: Option<&'a str>,
    pub(crate) progress: &'a Progress,
}

fn is_allowed(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS")
}

/// What the watchdog gets.
struct Forwarded<'a> {
    invocation: &'a Invocation<'a>,
    marks: &'a Marks<'a>,
    function: &'a str,
}

impl link::Request for Forwarded<'_> {
    fn method(&self) -> &str {
        self.invocation.request.method()
    }

    fn write_head(&self, text: &mut Vec<u8>) {
        let Invocation { request, target, query, client, .. } = self.invocation;
        text.extend_from_slice(request.method().as_bytes());
        text.push(b' ');
        write_target(text, target.path, *query);
        text.extend_from_slice(b" HTTP/1.1\r\n");
        headers::forward_request(text, request, self.marks, client, self.function);
    }
}

/// The path and query that the function gets: the client's own, byte for byte, behind the function's name.
fn write_target(text: &mut Vec<u8>, path: &str, query: Option<&str>) {
    text.extend_from_slice(if path.is_empty() { b"/" } else { path.as_bytes() });
    if let Some(query) = query {
        text.push(b'?');
        text.extend_from_slice(query.as_bytes());
    }
}

impl<'a> Invocation<'a> {
    /// Invokes the function. The head of the answer is the desk's reply, its body is returned.
    pub(crate) async fn run(&self, upload: Upload<'a>, desk: &mut Desk) -> Body<'a> {
        let marks = Marks::new(self.request);
        let answer = if is_allowed(self.request.method()) {
            match self.call(&marks, upload, desk).await {
                Ok(body) => return body,
                Err(answer) => answer,
            }
        } else {
            own(answer::wrong_method(METHODS))
        };
        let (head, body) = answer.into_parts();
        desk.reply.fill(head.status, &head.headers);
        headers::sign(&mut desk.reply, &marks);
        body
    }

    /// The function's answer, or ours.
    async fn call(
        &self,
        marks: &Marks<'_>,
        upload: Upload<'a>,
        desk: &mut Desk,
    ) -> Result<Body<'a>, Response<Body<'static>>> {
        let (function, leased) = loop {
            let function = match self.context.functions.find(self.target.name, self.target.namespace) {
                Ok(function) => function,
                Err(error) => return Err(own(answer::text(StatusCode::NOT_FOUND, chain(&error)))),
            };
            match function.lease() {
                // A newer deployment took its place between the two statements above, or the function is gone.
                Err(LeaseError::Retired) => {}
                leased => break (function, leased),
            }
        };
        let answered = match leased {
            Ok(lease) => {
                function.account().started().fetch_add(1, Ordering::Relaxed);
                self.pass_on(&function, lease, marks, upload, desk).await
            }
            Err(LeaseError::Failing(failure)) => Err(Why::Failing(failure)),
            Err(LeaseError::Full(refused)) => Err(Why::Overload(refused)),
            Err(error @ (LeaseError::Start(_) | LeaseError::Retired)) => Err(Why::Start(error)),
        };
        let took = self.progress.start().elapsed();
        match answered {
            Ok(body) => {
                function.account().answered(desk.reply.status(), took, desk.answer.fields().get(USAGE));
                Ok(body)
            }
            Err(why) => {
                let answer = why.into_answer(&function);
                function.account().answered(answer.status(), took, None);
                Err(answer)
            }
        }
    }

    async fn pass_on(
        &self,
        function: &Function,
        lease: Lease,
        marks: &Marks<'_>,
        upload: Upload<'a>,
        desk: &mut Desk,
    ) -> Result<Body<'a>, Why> {
        let sent = Instant::now();
        let answer = self.exchange(function, &lease, marks, upload, desk).await?;
        let own_time = || self.progress.start().elapsed().saturating_sub(sent.elapsed());
        headers::forward_response(&mut desk.reply, &desk.answer, self.request, marks, own_time);
        Ok(match answer {
            Answer::Whole(data) => Body::Whole(data),
            answer @ Answer::Coming(_) => Body::Watchdog { answer, _lease: lease },
        })
    }

    /// Sends the request and waits for the response's head, for the process's failure, or for the end of the time.
    async fn exchange(
        &self,
        function: &Function,
        lease: &Lease,
        marks: &Marks<'_>,
        upload: Upload<'a>,
        desk: &mut Desk,
    ) -> Result<Answer<'a>, Why> {
        let (limit, progress) = (function.upstream_timeout(), self.progress);
        let request = Forwarded { invocation: self, marks, function: function.full_name() };
        let waits = AtomicBool::new(false);
        let Desk { answer: head, alarm, .. } = desk;
        let mut sending = pin!(lease.link().send(&request, upload, head, &waits));
        let mut failing = pin!(lease.failure());
        let ended = poll_fn(|cx| {
            if let Poll::Ready(answer) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            // A process that has taken the connection ends it when it dies; only one that never does has to be explained.
            if waits.load(Ordering::Relaxed)
                && let Poll::Ready(failure) = failing.as_mut().poll(cx)
            {
                return Poll::Ready(Err(Why::Failing(failure)));
            }
            // The function's time counts from the last byte that it took; a client's pauses are the client's.
            let clients_turn = progress.client_owes();
            let Some(allowed) = (if clients_turn { Some(UPLOAD_PAUSE) } else { limit }) else { return Poll::Pending };
            alarm
                .poll_until(progress.latest() + allowed, cx)
                .map(|()| Err(if clients_turn { Why::Stalled } else { Why::Timeout(allowed) }))
        });
        let answer = match ended.await {
            Ok(answer) => answer,
            Err(why @ Why::Failing(_)) => timeout(LAST_ANSWER, sending).await.map_err(|_| why)?,
            Err(why) => return Err(why),
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => Err(explain(lease, error).await),
        }
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

    fn target(path: &str, query: Option<&str>) -> String {
        let mut text = Vec::new();
        write_target(&mut text, path, query);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_empty_path_is_the_root() {
        assert_eq!((target("", None), target("", Some("a=1"))), ("/".to_owned(), "/?a=1".to_owned()));
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
            let passed: http::Uri = target(&path, query.as_deref()).parse().unwrap();
            prop_assert_eq!(passed.path(), path);
            prop_assert_eq!(passed.query(), query.as_deref());
        }
    }
}
