//! The machines behind the server, each on a thread of its own, and the choice of one for each request.
//! Used by [`crate::Function`]. It never lets a machine change threads, and never queues: requests are let in first.
//!
//! ```text
//!   server's thread                        machine threads
//!   hand_over(call) ── idle? ─ yes ──► the one that went idle last (its memory is warm)
//!                        └──── no ───► a new thread, which boots a machine
//!   answer ◄── oneshot ── the thread puts itself back on the stack, frees the permit, then answers
//! ```
//!
//! A thread ends with its machine: after a crash, after every request in `fresh` mode, and when it was idle for
//! [`IDLE_MAX`] while another one is idle too. Handing over costs one wake-up each way, together about 30 µs on a
//! cloud VM with nested KVM, where the echo function takes 45 µs. Running the guest on the server's own thread would
//! save both, but a function that takes long would then stall every other connection and the health checks; who
//! wants that path takes a [`Worker`], which adds less than 1 µs to a machine's own time.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use kernlet_monitor::Response;
use tokio::sync::oneshot;

use crate::{
    error::InvokeError,
    function::Shared,
    limit::{Permit, TimeLimit},
    request::OwnedRequest,
    worker::Worker,
};

/// How long a machine that is not the only idle one is kept without a request.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// Stack of a machine's thread, in bytes: accelerator plugins run on it. Committed as it is used.
pub(crate) const MACHINE_STACK: usize = 2 * 1024 * 1024;

/// What a machine gave.
pub(crate) type Answer = Result<Response, InvokeError>;

/// One request on its way to a machine and back.
#[derive(Debug)]
pub(crate) struct Call {
    request: OwnedRequest,
    limit: TimeLimit,
    start: Instant,
    permit: Permit,
    reply: oneshot::Sender<Answer>,
}

impl Call {
    pub(crate) fn new(request: OwnedRequest, limit: TimeLimit, permit: Permit) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { request, limit, start: Instant::now(), permit, reply }, answer)
    }

    /// Gives the answer. The permit goes first: who has the answer may send the next request at once.
    fn finish(self, answer: Answer) {
        drop(self.permit);
        // A client that hung up has dropped the other end.
        let _ = self.reply.send(answer);
    }
}

/// A function's machine threads.
#[derive(Debug)]
pub(crate) struct Pool {
    threads: Arc<Threads>,
}

struct Threads {
    shared: Arc<Shared>,
    roster: Mutex<Roster<Seat>>,
}

/// Where an idle thread waits. It travels with the call, so that an idle thread does not hold its own sender
/// and wakes when the roster is dropped.
#[derive(Debug)]
struct Seat {
    calls: mpsc::Sender<(Call, Seat)>,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { threads: Arc::new(Threads { shared, roster: Mutex::new(Roster::new()) }) }
    }

    /// Gives a call to an idle machine, or to a new one.
    pub(crate) fn hand_over(&self, call: Call) -> Result<(), InvokeError> {
        let mut call = call;
        loop {
            // The lock is not held while a thread starts.
            let idle = self.threads.roster().take();
            let Some(seat) = idle else { break };
            let calls = seat.calls.clone();
            match calls.send((call, seat)) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError((unsent, _))) => call = unsent,
            }
        }
        self.threads
            .start(call)
            .map_err(|source| InvokeError::NoThread { function: self.threads.shared.name.to_string(), source })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.threads.roster().close();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("function", &self.shared.name).finish_non_exhaustive()
    }
}

impl Threads {
    fn roster(&self) -> MutexGuard<'_, Roster<Seat>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, first: Call) -> Result<(), io::Error> {
        let threads = Arc::clone(self);
        let run = move || threads.run(first);
        thread::Builder::new().name("machine".to_owned()).stack_size(MACHINE_STACK).spawn(run).map(drop)
    }

    /// A machine's thread.
    fn run(&self, first: Call) {
        let mut worker = Worker::new(Arc::clone(&self.shared));
        let (sender, calls) = mpsc::channel();
        let (mut call, mut seat) = (first, Seat { calls: sender });
        loop {
            let answer = call.request.with(|request| worker.serve(request, call.limit, call.start));
            if !worker.has_machine() {
                return call.finish(answer);
            }
            let place = self.roster().put(seat);
            call.finish(answer);
            // The next request may already wait in the channel: it gets this machine, rewound, not another one.
            worker.settle();
            match self.next(&calls, place) {
                Some(next) => (call, seat) = next,
                None => return,
            }
        }
    }

    /// Waits for a call; `None` when the thread is to end.
    fn next(&self, calls: &mpsc::Receiver<(Call, Seat)>, place: Place) -> Option<(Call, Seat)> {
        loop {
            match calls.recv_timeout(IDLE_MAX) {
                Ok(next) => return Some(next),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => match self.roster().retire(place) {
                    Retired::Left => return None,
                    Retired::Needed => {}
                    Retired::Taken => return calls.recv().ok(),
                },
            }
        }
    }
}

/// Idle ones of something, the last one to become idle on top.
#[derive(Debug)]
struct Roster<T> {
    idle: Vec<(Place, T)>,
    next: u64,
    closed: bool,
}

/// One stay in a roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u64);

/// What became of one that was idle for long.
#[derive(Debug, PartialEq, Eq)]
enum Retired {
    /// It has left the roster.
    Left,
    /// It is the only one, and stays.
    Needed,
    /// It was taken in the meantime.
    Taken,
}

impl<T> Roster<T> {
    fn new() -> Self {
        Self { idle: Vec::new(), next: 0, closed: false }
    }

    /// The one that went idle last.
    fn take(&mut self) -> Option<T> {
        self.idle.pop().map(|(_, item)| item)
    }

    /// Makes one idle; a closed roster drops it.
    fn put(&mut self, item: T) -> Place {
        let place = Place(self.next);
        self.next += 1;
        if !self.closed {
            self.idle.push((place, item));
        }
        place
    }

    fn retire(&mut self, place: Place) -> Retired {
        let Some(index) = self.idle.iter().position(|(at, _)| *at == place) else { return Retired::Taken };
        if self.idle.len() == 1 {
            return Retired::Needed;
        }
        self.idle.remove(index);
        Retired::Left
    }

    /// Drops all that are idle, and all that would become so.
    fn close(&mut self) {
        self.closed = true;
        self.idle.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_machine_that_went_idle_last_is_taken_first() {
        let mut roster = Roster::new();
        for machine in ["a", "b", "c"] {
            roster.put(machine);
        }
        assert_eq!([roster.take(), roster.take()], [Some("c"), Some("b")]);
        roster.put("b");
        assert_eq!([roster.take(), roster.take(), roster.take()], [Some("b"), Some("a"), None]);
    }

    #[test]
    fn idle_machines_leave_until_one_is_left() {
        let mut roster = Roster::new();
        let (first, second) = (roster.put("a"), roster.put("b"));
        assert_eq!(roster.retire(first), Retired::Left);
        assert_eq!(roster.retire(second), Retired::Needed);
        assert_eq!(roster.take(), Some("b"));
    }

    #[test]
    fn a_machine_taken_while_it_retires_still_gets_its_call() {
        let mut roster = Roster::new();
        let (first, second) = (roster.put("a"), roster.put("b"));
        assert_eq!(roster.take(), Some("b"));
        assert_eq!(roster.retire(second), Retired::Taken);
        let again = roster.put("b");
        assert_eq!(roster.retire(second), Retired::Taken, "a later stay is not this one");
        assert_eq!([roster.retire(first), roster.retire(again)], [Retired::Left, Retired::Needed]);
    }

    #[test]
    fn a_closed_roster_keeps_nothing() {
        let mut roster = Roster::new();
        let machine = Arc::new(());
        roster.put(Arc::clone(&machine));
        roster.close();
        roster.put(Arc::clone(&machine));
        assert_eq!(Arc::strong_count(&machine), 1);
        assert_eq!(roster.take(), None);
    }
}
