//! What has to happen beside the threads that serve connections, on one thread of its own: it answers a client whose
//! request is still in an accelerator's step well after its deadline, ends machines that are idle for long, and gives
//! memory back when there is nothing else to do.
//! Started by the server. It never stops anything: guests are stopped by the monitor, plugins stop by themselves.
//!
//! A request costs it two uncontended locks; its thread is woken only by the first request after a pause, and looks up once
//! in a while as long as there are more.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use kernlet_jail::{
    Role, confine,
    memory::{self, Look, Quiet},
};
use kernlet_monitor::{Level, Usage};
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::{
    error::InvokeError, limit::TimeLimit, log::Log, oversight::Oversight, pool::Pool, request::CallId, response::Answer,
};

/// How long after its deadline an answer is still waited for: a machine is stopped at the deadline, but an
/// accelerator operation is let finish its step.
const GRACE: Duration = Duration::from_millis(250);

/// Looks after the connections and the machines of one function.
#[derive(Debug)]
pub(crate) struct Keeper {
    start: Instant,
    /// When its thread looks up next, in nanoseconds after `start`; the end of time, where a request is to wake it.
    next: AtomicU64,
    /// Calls that have begun.
    begun: AtomicU64,
    thread: OnceLock<Thread>,
    callers: Mutex<Vec<Weak<Caller>>>,
    oversight: Arc<Oversight>,
}

/// The client of one connection, as the keeper knows it.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: Arc<OwnedFd>,
    waiting: Mutex<Option<Waiting>>,
}

/// A client waits for this.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) call_id: CallId,
    pub(crate) limit: TimeLimit,
    pub(crate) start: Instant,
}

impl Keeper {
    /// Starts the keeper's thread, which runs as long as the process.
    pub(crate) fn start(
        function: Arc<str>,
        pool: Arc<Pool>,
        oversight: Arc<Oversight>,
        log: Log,
    ) -> Result<Arc<Self>, io::Error> {
        let keeper = Arc::new(Self::new(oversight));
        keeper.oversight.is_kept_by(&keeper);
        let keeping = Arc::clone(&keeper);
        let run = move || keeping.run(&function, &pool, &log);
        thread::Builder::new().name("keeper".to_owned()).spawn(run)?;
        Ok(keeper)
    }

    fn new(oversight: Arc<Oversight>) -> Self {
        let next = AtomicU64::new(u64::MAX);
        let begun = AtomicU64::new(0);
        Self { start: Instant::now(), next, begun, thread: OnceLock::new(), callers: Mutex::default(), oversight }
    }

    /// Introduces the client of a connection.
    pub(crate) fn meet(&self, socket: Arc<OwnedFd>) -> Arc<Caller> {
        let caller = Arc::new(Caller { socket, waiting: Mutex::new(None) });
        let mut callers = self.callers();
        // In proportion, so that it costs each connection little.
        if callers.len() == callers.capacity() {
            callers.retain(|caller| caller.strong_count() > 0);
        }
        callers.push(Arc::downgrade(&caller));
        caller
    }

    /// Watches over a call that begins now.
    pub(crate) fn begin(&self, caller: &Caller, waiting: Waiting) {
        let due = waiting.due();
        *caller.waiting() = Some(waiting);
        self.begun.fetch_add(1, SeqCst);
        self.expect(due);
    }

    /// Looks up at that moment at the latest, at what is there already.
    pub(crate) fn expect(&self, due: Instant) {
        // Sequentially consistent with `run`: either it finds what is due, or this finds it about to sleep for too long.
        if self.since_start(due) < self.next.load(SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn run(&self, function: &Arc<str>, pool: &Pool, log: &Log) {
        confine(Role::Keeper);
        // Before it looks at anything, so that what it does not find yet finds it.
        let _ = self.thread.set(thread::current());
        let mut quiet = Quiet::default();
        loop {
            self.next.store(u64::MAX, SeqCst);
            let now = Instant::now();
            let begun = self.begun.load(SeqCst);
            let overdue = self.answer_overdue(now, function, log);
            let quiet = match quiet.look(begun, overdue.is_some(), now) {
                Look::GiveBack => {
                    memory::give_back();
                    None
                }
                Look::At(at) => Some(at),
                Look::Never => None,
            };
            let late = self.oversight.look(now);
            match overdue.into_iter().chain(late).chain(pool.retire(now)).chain(quiet).min() {
                Some(due) => {
                    // While it is quiet, the next request has to wake it, however long that may take.
                    if quiet.is_some() {
                        self.next.store(self.since_start(due), SeqCst);
                    }
                    thread::park_timeout(due.saturating_duration_since(Instant::now()));
                }
                None => thread::park(),
            }
        }
    }

    /// Answers for threads that cannot; says when the next call will be overdue.
    fn answer_overdue(&self, now: Instant, function: &Arc<str>, log: &Log) -> Option<Instant> {
        let mut next = None;
        let mut overdue = Vec::new();
        self.callers().retain(|caller| {
            let Some(caller) = caller.upgrade() else { return false };
            let mut waiting = caller.waiting();
            match waiting.as_ref().map(Waiting::due) {
                Some(due) if due <= now => {
                    let late = waiting.take();
                    drop(waiting);
                    overdue.extend(late.map(|late| (caller, late)));
                }
                due => next = next.into_iter().chain(due).min(),
            }
            true
        });
        for (caller, late) in overdue {
            let call_id = late.call_id.clone();
            let error = InvokeError::TimedOut { function: function.to_string(), limit: late.limit, source: None };
            log.watchdog(call_id.as_str(), Level::Error, &error.message());
            caller.answer_late(&error, &late);
        }
        next
    }

    fn callers(&self) -> MutexGuard<'_, Vec<Weak<Caller>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Waiting {
    fn due(&self) -> Instant {
        self.limit.deadline(self.start) + GRACE
    }
}

impl Caller {
    /// Ends the call. `false`: the client has its answer already, and the connection is at its end.
    pub(crate) fn end(&self) -> bool {
        self.waiting().take().is_some()
    }

    /// Answers in place of the connection's thread, which then has nothing more to say on it.
    fn answer_late(&self, error: &InvokeError, late: &Waiting) {
        let mut answer = Answer::of_error(error);
        answer.add_measures(&late.call_id, late.start.elapsed(), None::<Usage>);
        send_last(&self.socket, answer);
        // The client may be gone.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the last answer of a connection. It fits the socket's buffer, which is empty; a client that is gone does not get
/// it.
pub(crate) fn send_last(socket: &OwnedFd, answer: Answer) {
    let _ = send(socket, &answer.into_last_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixStream};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    struct Call {
        keeper: Keeper,
        caller: Arc<Caller>,
        client: UnixStream,
        due: Instant,
    }

    /// A client that waits for an answer.
    fn call() -> Call {
        let (client, server) = UnixStream::pair().unwrap();
        let keeper = Keeper::new(Arc::default());
        let caller = keeper.meet(Arc::new(server.into()));
        let call_id = CallId::new();
        let waiting = Waiting { call_id, limit: TimeLimit::of_function(LIMIT), start: Instant::now() };
        let due = waiting.due();
        keeper.begin(&caller, waiting);
        Call { keeper, caller, client, due }
    }

    fn look(call: &Call, now: Instant) -> Option<Instant> {
        call.keeper.answer_overdue(now, &"slow".into(), &Log::start(io::sink(), false).unwrap())
    }

    #[test]
    fn a_call_that_outlasts_its_deadline_is_answered_while_its_thread_is_busy() {
        let mut call = call();
        assert_eq!(look(&call, call.due - Duration::from_millis(1)), Some(call.due));
        assert_eq!(look(&call, call.due), None);
        let mut answer = String::new();
        call.client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{answer}");
        for part in ["connection: close\r\n", "x-call-id: ", "x-openfaas-internal: watchdog\r\n", "slow", "100ms"] {
            assert!(answer.contains(part), "{part:?} is missing in {answer}");
        }
        assert!(!call.caller.end(), "the thread says no more");
    }

    #[test]
    fn a_call_that_ended_in_time_is_answered_by_its_thread_alone() {
        let mut call = call();
        assert!(call.caller.end());
        assert_eq!(look(&call, call.due), None);
        drop(call.caller);
        let mut nothing = String::new();
        call.client.read_to_string(&mut nothing).unwrap();
        assert_eq!(nothing, "");
    }

    #[test]
    fn connections_that_are_gone_are_forgotten() {
        let keeper = Keeper::new(Arc::default());
        for _ in 0..100 {
            let (_client, server) = UnixStream::pair().unwrap();
            keeper.meet(Arc::new(server.into()));
        }
        assert!(keeper.callers().len() < 10, "{} are remembered", keeper.callers().len());
    }
}
