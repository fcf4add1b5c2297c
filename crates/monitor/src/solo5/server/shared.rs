//! One machine that serves many requests at once and keeps its state. No thread is its own: of those that wait for an answer
//! one runs the guest, until it has its own; then another one goes on. Without requests the guest stands still.
//! A machine that let a request's time pass serves those that it has and no further ones; one that ended, none.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Answer, Engine, Link, Template, answer_of, cannot_be_sent, encode, ending, link::Turn};
use crate::{
    crash::{Cause, Crash},
    limits::Limits,
    message::{Request, Response, Services, Usage},
    solo5::{End, machine::Stopped},
};

/// The machine that serves all requests that come, if there is one.
#[derive(Debug, Default)]
pub(super) struct Current(Mutex<Option<Arc<Shared>>>);

/// A machine that serves many.
#[derive(Debug)]
pub(super) struct Shared {
    link: Arc<Link>,
    /// Gone once the guest has ended, and why.
    machine: Mutex<Result<Engine, String>>,
    /// It serves no further requests.
    closed: AtomicBool,
}

/// A place at the machine that serves all, whichever that is when a request comes.
#[derive(Debug)]
pub struct Place {
    template: Template,
    services: Services,
    limits: Limits,
}

/// How a try to have a request served ended.
enum Tried {
    Answered(Usage),
    Failed(Box<Crash>),
    /// The machine had ended before it was told of the request.
    Missed,
}

impl Current {
    pub(super) fn set(&self, engine: Engine) -> Arc<Shared> {
        let shared = Arc::new(Shared {
            link: Arc::clone(&engine.link),
            machine: Mutex::new(Ok(engine)),
            closed: AtomicBool::new(false),
        });
        *self.lock() = Some(Arc::clone(&shared));
        shared
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn new(template: Template, services: Services) -> Self {
        Self { template, services, limits: Limits::default() }
    }

    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    pub(super) fn invoke_into(
        self,
        request: &Request<'_>,
        deadline: Instant,
        response: &mut Response,
    ) -> Result<Self, Box<Crash>> {
        let began = Instant::now();
        loop {
            let bytes = match encode(request, self.template.inner.server.serve.address) {
                Ok(bytes) => bytes,
                Err(why) => {
                    cannot_be_sent(why, response);
                    return Ok(self);
                }
            };
            let shared = self.machine()?;
            match self.try_at(&shared, bytes, request, (began, deadline), response) {
                Tried::Answered(usage) => {
                    response.usage = Usage { bytes_out: response.body.len() as u64, ..usage };
                    return Ok(self);
                }
                Tried::Failed(crash) => return Err(crash),
                Tried::Missed => {}
            }
        }
    }

    /// The machine that serves now; a new one where there is none.
    fn machine(&self) -> Result<Arc<Shared>, Box<Crash>> {
        let current = &self.template.inner.current;
        let mut held = current.lock();
        if let Some(shared) = &*held
            && !shared.closed.load(Relaxed)
        {
            return Ok(Arc::clone(shared));
        }
        *held = None;
        drop(held);
        // Whoever comes meanwhile makes one as well, and the last one stays.
        Ok(current.set(self.template.engine(&self.template.inner.hypervisor, &self.services)?))
    }

    fn try_at(
        &self,
        shared: &Shared,
        bytes: Vec<u8>,
        request: &Request<'_>,
        (began, deadline): (Instant, Instant),
        response: &mut Response,
    ) -> Tried {
        let template = &self.template.inner;
        let link = &shared.link;
        let call = link.call(bytes, Answer::new(request.method, template.response_limit));
        let mut usage = Usage { bytes_in: request.body.len() as u64, ..Usage::default() };
        match link.turn(call, deadline) {
            Turn::Over => {}
            Turn::Late => {
                shared.closed.store(true, Relaxed);
                let cpu = link.give_up(call).cpu;
                let cause = Cause::Unanswered { limit: deadline.saturating_duration_since(began) };
                return Tried::Failed(Crash::new(cause, Usage { wall: began.elapsed(), cpu, ..usage }));
            }
            Turn::Drive => match self.drive(shared, request, (began, deadline), &mut usage) {
                Ok(()) => {}
                Err(Undriven::Failed(crash)) => {
                    link.give_up(call);
                    return Tried::Failed(crash);
                }
                Err(Undriven::Gone(_)) if !link.give_up(call).begun => return Tried::Missed,
                Err(Undriven::Gone(why)) => {
                    let cause = Cause::EndedWithAnother { why };
                    return Tried::Failed(Crash::new(cause, Usage { wall: began.elapsed(), ..usage }));
                }
            },
        }
        let outcome = link.outcome(call);
        usage.cpu += outcome.as_ref().map_or(Duration::ZERO, |(_, cpu)| *cpu);
        usage.wall = began.elapsed();
        match answer_of(outcome.map(|(outcome, _)| outcome), response) {
            Ok(()) => Tried::Answered(usage),
            Err(cause) => Tried::Failed(Crash::new(cause, usage)),
        }
    }

    /// Runs the guest on this thread until the call's answer is there.
    fn drive(
        &self,
        shared: &Shared,
        request: &Request<'_>,
        times: (Instant, Instant),
        usage: &mut Usage,
    ) -> Result<(), Undriven> {
        let _turn = Driving(&shared.link);
        let mut held = shared.machine.lock().unwrap_or_else(PoisonError::into_inner);
        // Should the host's side fail, nobody meets what that leaves.
        let mut engine = match mem::replace(&mut *held, Err("the monitor failed".to_owned())) {
            Ok(engine) => engine,
            Err(why) => {
                shared.closed.store(true, Relaxed);
                *held = Err(why.clone());
                return Err(Undriven::Gone(why));
            }
        };
        engine.machine.limits = self.limits.clone();
        let ran = engine.run("", &self.services, usage.bytes_in, times.1);
        *usage = engine.usage();
        if let Ok(Stopped::ByLink) = ran {
            *held = Ok(engine);
            return Ok(());
        }
        shared.closed.store(true, Relaxed);
        // Others may still have their answers of a guest that is only late for this one.
        let goes_on = matches!(ran, Err(End::Timeout | End::CpuTime { .. }));
        let symbols = &self.template.inner.symbols;
        let failure = ending(ran, &mut engine.machine, symbols, &engine.last_lines, times);
        let why = failure.0.to_string();
        let crash = engine.crash(failure, symbols, request);
        *held = if goes_on { Ok(engine) } else { Err(why) };
        Err(Undriven::Failed(crash))
    }
}

/// Why a guest did not answer the call of the thread that was to run it.
enum Undriven {
    Failed(Box<Crash>),
    /// It had ended, and this is why.
    Gone(String),
}

/// This thread's turn to run the guest.
struct Driving<'a>(&'a Link);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.drive(None);
    }
}
