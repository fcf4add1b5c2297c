//! A machine: one VM, one vCPU, one function. Made and driven by the watchdog, always on one thread.
//! Its states are types, so that none can be mistaken for another:
//!
//! ```text
//! Template::boot ──► Machine ── invoke ──► Used ── rewind ──► Machine   (equal to the template, bit for bit)
//! Template::machine ────┘          │         └──── keep ────► Machine   (with what the request left behind)
//!                                  └──► Crash                           (the machine is gone)
//! ```

use std::time::Instant;

use crate::{
    crash::{Cause, Crash},
    deadline::Timer,
    debugger, exchange,
    guest::Guest,
    limits::Limits,
    message::{Request, Response, Usage},
    template::{Template, Watchers},
};

/// A machine whose guest waits for a request.
#[derive(Debug)]
pub struct Machine {
    timer: Timer,
    /// Boxed, as the machine is handed from state to state at every request.
    guest: Box<Guest>,
    template: Template,
    /// Head of the request being written; kept for its allocation.
    head: Vec<u8>,
}

/// A machine that has answered a request.
#[derive(Debug)]
pub struct Used {
    machine: Machine,
}

impl Used {
    /// Makes the machine equal to its template again: memory, registers, vector registers, request window. The
    /// next request meets nothing of the last.
    ///
    /// # Errors
    /// The machine is lost because KVM or the host did not do its part.
    pub fn rewind(self) -> Result<Machine, Box<Crash>> {
        let Machine { timer, mut guest, template, head } = self.machine;
        match guest.rewind(&template) {
            Ok(()) => Ok(Machine { timer, guest, template, head }),
            Err(cause) => Err(Crash::new(cause, Usage::default())),
        }
    }

    /// Ends the machine; those who watched it can watch another.
    #[must_use]
    pub fn into_watchers(self) -> Watchers {
        self.machine.guest.into_watchers()
    }

    /// Leaves the machine as the request left it.
    #[must_use]
    pub fn keep(self) -> Machine {
        self.machine
    }
}

impl Machine {
    pub(crate) fn new(guest: Guest, template: Template) -> Self {
        Self { timer: Timer::new(), guest: Box::new(guest), template, head: Vec::new() }
    }

    /// Ends the machine, and tells its debugger, if there is one, that all went well.
    pub fn finish(mut self) {
        debugger::end(&mut *self.guest, Some(0));
    }

    /// Lets somebody watch the machine from now on.
    pub fn watch(&mut self, watchers: Watchers) {
        self.guest.watch(watchers);
    }

    /// The machine, under these limits from now on.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.guest.context.limits = limits;
        self
    }

    /// Lets the function answer a request. A machine that crashes is consumed.
    ///
    /// # Errors
    /// How the guest ended, or what is wrong with its response.
    pub fn invoke(self, request: &Request<'_>, deadline: Instant) -> Result<(Used, Response), Box<Crash>> {
        let mut response = Response::default();
        let used = self.invoke_into(request, deadline, &mut response)?;
        Ok((used, response))
    }

    /// As [`Self::invoke`], in place of what `response` holds: once its memory suffices, an invocation takes none.
    ///
    /// # Errors
    /// How the guest ended, or what is wrong with its response; `response` then holds anything.
    pub fn invoke_into(
        mut self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<Used, Box<Crash>> {
        match self.try_invoke(request, deadline, response) {
            Ok(()) => Ok(Used { machine: self }),
            Err(cause) => Err(self.guest.crash(cause, Some(request))),
        }
    }

    /// Compares the machine with its template, bit for bit: all of its memory and every register that KVM shows.
    /// Takes milliseconds; for tests and audits.
    ///
    /// # Errors
    /// What differs first; or KVM did not show it.
    pub fn audit(&mut self) -> Result<(), String> {
        match self.guest.first_difference(&self.template) {
            Ok(None) => Ok(()),
            Ok(Some(difference)) => Err(difference),
            Err(cause) => Err(cause.to_string()),
        }
    }

    /// How many pages a rewind of this machine restores: those that requests wrote since it was made, or since they were
    /// too many and dropped.
    #[must_use]
    pub fn pages_restored(&mut self) -> usize {
        self.guest.view.memory.dirty().pages().len()
    }

    fn try_invoke(&mut self, request: &Request<'_>, deadline: Instant, response: &mut Response) -> Result<(), Cause> {
        let guest = &mut self.guest;
        guest.begin(request.call_id, deadline);
        guest.context.usage.bytes_in = request.body.len() as u64;
        let time_limit = deadline.saturating_duration_since(guest.begun);
        let window_used = exchange::write_request(&guest.view, &mut self.head, request, time_limit)?;
        // A machine that was kept still has the end of a longer request there.
        guest.window_used = guest.window_used.max(window_used);
        if let Some(trace) = &mut guest.trace {
            trace.request(request);
        }
        let head = guest.run_guarded(&self.timer)?;
        exchange::read_response(&guest.view, head, self.template.config().response_limit, response)?;
        guest.context.usage.bytes_out = response.body.len() as u64;
        response.usage = guest.usage();
        Ok(())
    }
}
