//! Runs a function's machine: makes it when there is none, rewinds, keeps or drops it after a request as the
//! isolation mode says, and never uses one again that crashed.
//! Used by the exchange, whose pool keeps idle ones, and by in-process callers. Never hands work to another thread.

use std::{mem, sync::Arc, time::Instant};

use kernlet_image::Isolation;
use kernlet_monitor::{ProgramMachine, ProgramUsed, Request, Response};

use crate::{error::InvokeError, function::Shared, limit::TimeLimit, request};

/// Invokes a function on this thread.
///
/// It owns at most one machine. An invocation here is a machine's invocation plus the watchdog's checks and limits.
/// It may move to another thread between two invocations; on kernels before 6.12 that makes the next one slow.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    state: State,
}

/// What a worker has between two requests.
#[derive(Debug)]
enum State {
    /// No machine.
    Empty,
    /// A machine that waits for a request.
    Ready(ProgramMachine),
    /// A machine that has answered one and has not been settled since.
    Used(ProgramUsed),
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: State::Empty }
    }

    /// Lets the function answer a request, under all of its limits. The first one boots a machine.
    ///
    /// # Errors
    /// The request is over a limit, or the function crashed or took too long.
    pub fn invoke(&mut self, request: &Request<'_>) -> Result<Response, InvokeError> {
        let mut response = Response::default();
        self.invoke_into(request, &mut response)?;
        Ok(response)
    }

    /// As [`Self::invoke`], in place of what `response` holds: once its memory suffices, an invocation takes none.
    ///
    /// # Errors
    /// As [`Self::invoke`]; `response` then holds anything.
    pub fn invoke_into(&mut self, request: &Request<'_>, response: &mut Response) -> Result<(), InvokeError> {
        let start = Instant::now();
        request::check_head(
            request.method,
            request.path,
            request.query,
            request.call_id,
            request.headers.iter().copied(),
        )?;
        request::check_body(&self.shared, request.body.len() as u64)?;
        let _permit = self.shared.inflight.enter()?;
        let served = self.serve(request, self.shared.limit, start, response);
        self.settle();
        served
    }

    /// Serves a request that has been checked and let in, in place of what `response` holds. [`Self::settle`] is due
    /// afterwards.
    pub(crate) fn serve(
        &mut self,
        request: &Request<'_>,
        limit: TimeLimit,
        start: Instant,
        response: &mut Response,
    ) -> Result<(), InvokeError> {
        let deadline = limit.deadline(start);
        self.shared.preload.wait(deadline)?;
        let state = mem::replace(&mut self.state, State::Empty);
        let shared = &self.shared;
        let machine = match state {
            State::Ready(machine) => Ok(machine),
            // A used machine would have been settled; it is not shown another request.
            State::Empty | State::Used(_) => shared.new_machine(deadline),
        };
        let served = machine.and_then(|machine| machine.invoke_into(request, deadline, response));
        let used = served.map_err(|crash| shared.crashed(request.call_id, limit, crash))?;
        self.state = State::Used(used);
        Ok(())
    }

    /// Makes the machine ready for the next request, or ends it, once the answer to the last is out of the way.
    pub(crate) fn settle(&mut self) {
        let State::Used(used) = mem::replace(&mut self.state, State::Empty) else {
            return;
        };
        let settled = match self.shared.isolation {
            Isolation::Rewind => used.rewind(),
            Isolation::Reuse => used.keep(),
            // Closing it takes KVM as long as making it.
            Isolation::Fresh => return drop(used),
        };
        match settled {
            Ok(machine) => self.state = State::Ready(machine),
            Err(crash) => drop(self.shared.crashed("", self.shared.limit, crash)),
        }
    }

    /// Whether there is a machine, for the next request or still of the last one.
    #[must_use]
    pub fn has_machine(&self) -> bool {
        !matches!(self.state, State::Empty)
    }
}
