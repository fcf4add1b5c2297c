//! Runs a function's machine on the thread it lives on: boots it when there is none, keeps or drops it after
//! a request as the isolation mode says, and never uses one again that crashed.
//! Used by the pool's machine threads, and by in-process callers that want no hand-over between threads.

use std::{marker::PhantomData, sync::Arc, time::Instant};

use kernlet_image::Isolation;
use kernlet_monitor::{Machine, Request, Response};

use crate::{error::InvokeError, function::Shared, limit::TimeLimit, request};

/// Invokes a function on this thread.
///
/// It owns at most one machine, which stays on this thread: KVM is slow when a machine moves. An invocation here
/// is a machine's invocation plus the watchdog's checks and limits, without the hand-over to another thread
/// and back that the server needs.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    machine: Option<Machine>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, machine: None, stays_on_its_thread: PhantomData }
    }

    /// Lets the function answer a request, under all of its limits. The first one boots a machine.
    ///
    /// # Errors
    /// The request is over a limit, or the function crashed or took too long.
    pub fn invoke(&mut self, request: &Request<'_>) -> Result<Response, InvokeError> {
        let start = Instant::now();
        request::check_head(request.method, request.path, request.query, request.call_id, request.headers)?;
        request::check_body(&self.shared, request.body.len() as u64)?;
        let _permit = self.shared.inflight.enter()?;
        self.serve(request, self.shared.limit, start)
    }

    /// Serves a request that has been checked and let in.
    pub(crate) fn serve(
        &mut self,
        request: &Request<'_>,
        limit: TimeLimit,
        start: Instant,
    ) -> Result<Response, InvokeError> {
        let deadline = limit.deadline(start);
        self.shared.preload.wait(deadline)?;
        let shared = &self.shared;
        let served = match self.machine.take() {
            Some(machine) => machine.invoke(request, deadline),
            None => {
                let (hypervisor, services) = (&shared.hypervisor, shared.services.clone());
                Machine::boot(hypervisor, &shared.unikernel, &shared.machine, services, deadline)
                    .and_then(|machine| machine.invoke(request, deadline))
            }
        };
        let (machine, response) = served.map_err(|crash| shared.crashed(request.call_id, limit, crash))?;
        match shared.isolation {
            Isolation::Reuse => self.machine = Some(machine),
            // Before the answer, so that no more machines exist than requests are under way.
            Isolation::Fresh => drop(machine),
        }
        Ok(response)
    }

    /// Whether a machine waits for the next request.
    #[must_use]
    pub fn has_machine(&self) -> bool {
        self.machine.is_some()
    }
}
