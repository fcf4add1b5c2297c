//! One HTTP request and its answer: the watchdog's own paths, or an invocation of the function.
//! Called by the server for every request on every connection. It never runs a guest on the server's thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, Request, StatusCode, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kernlet_monitor::{Level, Usage};

use crate::{
    Function,
    error::InvokeError,
    limit::{Permit, TimeLimit},
    log::Log,
    request::{self, CallId, OwnedRequest},
    response::{self, HttpResponse},
};

/// Asks for a `Server-Timing` header in the answer.
const TIMING: HeaderName = HeaderName::from_static("x-kernlet-timing");

/// How long after its deadline an answer is still waited for: a machine is stopped at the deadline, but an
/// accelerator operation is let finish its step.
const GRACE: Duration = Duration::from_millis(250);

/// How long the rest of a refused body is read and thrown away, so that its sender sees the answer instead of
/// a broken connection.
const LINGER: Duration = Duration::from_secs(5);

/// What serves the connections of one watchdog.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) function: Function,
    pub(crate) log: Log,
    /// How long a client may take for a request's head, and then for its body.
    pub(crate) read_timeout: Duration,
    pub(crate) draining: AtomicBool,
}

impl Exchange {
    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> HttpResponse {
        match request.uri().path() {
            "/_/health" => self.health(),
            "/_/ready" => self.ready(),
            _ => self.invoke(request).await,
        }
    }

    fn health(&self) -> HttpResponse {
        if self.draining.load(Ordering::Relaxed) { draining() } else { response::own(StatusCode::OK, "OK") }
    }

    fn ready(&self) -> HttpResponse {
        if self.draining.load(Ordering::Relaxed) {
            return draining();
        }
        match self.function.ready() {
            Ok(()) => response::own(StatusCode::OK, "OK"),
            Err(error) => response::of_error(&error),
        }
    }

    async fn invoke(&self, request: Request<Incoming>) -> HttpResponse {
        let start = Instant::now();
        let (parts, body) = request.into_parts();
        let call_id = CallId::of(&parts.headers);
        let wants_timing = parts.headers.contains_key(TIMING);
        let (mut answer, usage) = match self.call(parts, call_id.clone(), body).await {
            Ok(answered) => answered,
            Err(error) => {
                self.report(&call_id, &error);
                (response::of_error(&error), error.usage())
            }
        };
        let took = start.elapsed();
        response::add_measures(&mut answer, &call_id, took, wants_timing.then_some(usage));
        if self.log.debugs() {
            let text = format!("{} in {took:?}, {} exits", answer.status().as_u16(), usage.exits);
            self.log.watchdog(call_id.as_str(), Level::Debug, &text);
        }
        answer
    }

    /// Lets a request in, gives it to a machine, and checks what comes back.
    async fn call(
        &self,
        parts: Parts,
        call_id: CallId,
        mut body: Incoming,
    ) -> Result<(HttpResponse, Usage), InvokeError> {
        let received = self.receive(parts, call_id, &mut body).await;
        let (request, limit, permit) = match received {
            Ok(received) => received,
            Err(error) => {
                linger(body);
                return Err(error);
            }
        };
        let function = &self.function.shared().name;
        let patience = limit.deadline(Instant::now()) + GRACE;
        let answer = self.function.call(request, limit, permit)?;
        let response = match tokio::time::timeout_at(patience.into(), answer).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(InvokeError::Lost { function: function.to_string() }),
            Err(_) => return Err(InvokeError::TimedOut { function: function.to_string(), limit, source: None }),
        };
        let usage = response.usage;
        Ok((response::of_function(function, response)?, usage))
    }

    /// Reads a request, in the order that costs least: what can be refused by its head is not read further.
    async fn receive(
        &self,
        parts: Parts,
        call_id: CallId,
        body: &mut Incoming,
    ) -> Result<(OwnedRequest, TimeLimit, Permit), InvokeError> {
        let shared = self.function.shared();
        let request = OwnedRequest::new(parts, call_id)?;
        let limit = request.time_limit(shared.limit)?;
        request::check_body(shared, body.size_hint().lower())?;
        if let Err(failed @ InvokeError::LoadFailed { .. }) = shared.preload.ready() {
            return Err(failed);
        }
        // Before the body, so that no more bodies are held in memory than requests may be under way.
        let permit = shared.inflight.enter()?;
        let body = request::read_body(shared, body, self.read_timeout).await?;
        Ok((request.with_body(body), limit, permit))
    }

    /// Logs what only this side knows; the end of a machine was logged when it happened.
    fn report(&self, call_id: &CallId, error: &InvokeError) {
        let logged = matches!(error, InvokeError::Crashed { .. } | InvokeError::TimedOut { source: Some(_), .. });
        if error.status().is_server_error() && !logged {
            self.log.watchdog(call_id.as_str(), Level::Error, &error.message());
        }
    }
}

fn draining() -> HttpResponse {
    response::own(StatusCode::SERVICE_UNAVAILABLE, "this watchdog is shutting down; another one will serve")
}

/// Reads what is left of a refused body, for a while.
fn linger(mut body: Incoming) {
    if !body.is_end_stream() {
        let rest = async move { while let Some(Ok(_)) = body.frame().await {} };
        tokio::spawn(tokio::time::timeout(LINGER, rest));
    }
}
