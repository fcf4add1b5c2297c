//! One HTTP request and its answer: the watchdog's own paths, or an invocation of the function.
//! Called for every request on the thread of its connection, where the guest runs as well. It never queues.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use kernlet_http1::RequestHead;
use kernlet_meter::UsageRecord;
use kernlet_monitor::{Level, Request, Response, Usage};

use crate::{
    Function,
    connection::Line,
    error::InvokeError,
    keeper::{Keeper, Waiting},
    limit::{Permit, TimeLimit},
    log::Log,
    metering::{self, Metering},
    request::{self, CallId, Checked},
    response::Answer,
};

/// Asks for a `Server-Timing` header in the answer.
const TIMING: &str = "x-kernlet-timing";

/// What serves the connections of one watchdog.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) function: Function,
    pub(crate) log: Log,
    pub(crate) keeper: Arc<Keeper>,
    /// How long a client may take for a request's head, and then for its body.
    pub(crate) read_timeout: Duration,
    pub(crate) draining: AtomicBool,
    pub(crate) metering: Metering,
    /// Whether a gateway is at the other end, which adds up what every invocation used.
    pub(crate) tells_gateway: bool,
}

/// The client was told by the keeper that its time is over; its connection ends without another word.
#[derive(Debug, thiserror::Error)]
#[error("the answer came too late")]
pub(crate) struct Overdue;

/// Why a call has no response of its function.
enum Unanswered {
    Failed(InvokeError),
    /// And what the invocation used all the same.
    Overdue(Usage),
}

impl From<InvokeError> for Unanswered {
    fn from(error: InvokeError) -> Self {
        Self::Failed(error)
    }
}

impl Exchange {
    /// Answers one request, whose body is still to be read.
    pub(crate) fn answer(&self, head: &RequestHead, line: &mut Line<'_>) -> Result<Answer, Overdue> {
        let (path, _) = head.target().split_once('?').unwrap_or((head.target(), ""));
        match path {
            "/_/health" => Ok(self.health()),
            "/_/ready" => Ok(self.ready()),
            "/_/metrics" => Ok(self.metering.expose(&self.function)),
            _ => self.invoke(head, line),
        }
    }

    fn health(&self) -> Answer {
        if self.draining.load(Ordering::Relaxed) { draining() } else { Answer::own(StatusCode::OK, "OK") }
    }

    fn ready(&self) -> Answer {
        if self.draining.load(Ordering::Relaxed) {
            return draining();
        }
        match self.function.ready() {
            Ok(()) => Answer::own(StatusCode::OK, "OK"),
            Err(error) => Answer::of_error(&error),
        }
    }

    fn invoke(&self, head: &RequestHead, line: &mut Line<'_>) -> Result<Answer, Overdue> {
        let start = Instant::now();
        let call_id = CallId::of(head);
        let wants_usage = head.field(UsageRecord::HEADER).is_some();
        let method = metering::method_name(head.method());
        let (mut answer, usage) = match self.call(head, &call_id, line) {
            Ok(answered) => answered,
            Err(Unanswered::Overdue(usage)) => {
                let used = metering::record(&usage);
                self.metering.answered(method, StatusCode::GATEWAY_TIMEOUT, start.elapsed(), &used);
                return Err(Overdue);
            }
            Err(Unanswered::Failed(error)) => {
                self.report(&call_id, &error);
                (Answer::of_error(&error), error.usage())
            }
        };
        let took = start.elapsed();
        let used = metering::record(&usage);
        self.metering.answered(method, answer.status(), took, &used);
        if wants_usage || (self.tells_gateway && used != UsageRecord::default()) {
            answer.add_usage(&used);
        }
        if self.log.debugs() {
            let text = format!("{} in {took:?}, {} exits", answer.status().as_u16(), usage.exits);
            self.log.invocation(call_id.as_str(), Level::Debug, &text, &used);
        }
        let timing = head.field(TIMING).map(|_| usage);
        answer.add_measures(&call_id, took, timing);
        Ok(answer)
    }

    /// Lets a request in, gives it to a machine, and checks what comes back. In the order that costs least: what can be
    /// refused by its head is not read further.
    fn call(&self, head: &RequestHead, call_id: &CallId, line: &mut Line<'_>) -> Result<(Answer, Usage), Unanswered> {
        let shared = self.function.shared();
        let request = Checked::new(head, call_id, line.take_headers())?;
        let limit = request.time_limit(shared.limit)?;
        request::check_body(shared, request::stated_length(head))?;
        if let Err(failed @ InvokeError::LoadFailed { .. }) = shared.preload.ready() {
            return Err(failed.into());
        }
        // Before the body, so that no more bodies are held in memory than requests may be under way.
        let permit = shared.inflight.enter()?;
        let body = request::read_body(shared, head, line, self.read_timeout)?;
        let mut response = line.take_response();
        let ran = self.run(&request.with_body(&body), call_id, limit, permit, line, &mut response);
        line.done_with(body, request.into_memory());
        let usage = response.usage;
        let answer = ran.and_then(|()| Ok(Answer::of_function(&shared.name, &mut response, line.take_head())?));
        line.done_with_response(response);
        Ok((answer?, usage))
    }

    /// Runs the guest, here and now. Whatever keeps it longer than its time allows, the client is not kept waiting:
    /// the keeper answers then.
    fn run(
        &self,
        request: &Request<'_>,
        call_id: &CallId,
        limit: TimeLimit,
        permit: Permit,
        line: &mut Line<'_>,
        response: &mut Response,
    ) -> Result<(), Unanswered> {
        let start = Instant::now();
        self.keeper.begin(&line.caller, Waiting { call_id: call_id.clone(), limit, start });
        let pool = self.function.pool();
        let mut worker = pool.take();
        // A plugin that panics is caught where it is called; this is for what is wrong with ourselves.
        let served = catch_unwind(AssertUnwindSafe(|| {
            let answer = worker.serve(request, limit, start, response);
            (answer, worker)
        }));
        let answer = match served {
            Ok((answer, worker)) => {
                if worker.has_machine() {
                    line.settle_later(pool.give_back(worker));
                }
                answer
            }
            Err(_) => Err(InvokeError::Lost { function: self.function.shared().name.to_string() }),
        };
        // Before the answer: who has that may send the next request at once.
        drop(permit);
        if line.caller.end() {
            return Ok(answer?);
        }
        Err(Unanswered::Overdue(answer.map_or_else(|error| error.usage(), |()| response.usage)))
    }

    /// Logs what only this side knows; the end of a machine was logged when it happened.
    fn report(&self, call_id: &CallId, error: &InvokeError) {
        let logged = matches!(
            error,
            InvokeError::Crashed { .. } | InvokeError::UsedUp { .. } | InvokeError::TimedOut { source: Some(_), .. }
        );
        if error.status().is_server_error() && !logged {
            let used = metering::record(&error.usage());
            self.log.invocation(call_id.as_str(), Level::Error, &error.message(), &used);
        }
    }
}

fn draining() -> Answer {
    Answer::own(StatusCode::SERVICE_UNAVAILABLE, "this watchdog is shutting down; another one will serve")
}
