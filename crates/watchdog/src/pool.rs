//! The idle machines of a function, and the choice of one for each request. Used by the exchange, on the threads of
//! connections; the keeper ends those that are idle for long. It never queues: requests are let in first.
//!
//! ```text
//!  take ── idle? ─ yes ──► the one that this thread drove last, else the one that went idle last (its memory is warm)
//!            └──── no ───► is one being settled that nobody waits for? ─ yes ─► that one
//!                                            └──────────────────────── no ──► none yet: the request boots one
//!  request done ──► Unsettled: counts as coming back ── dropped after the answer is out ──► settled, idle
//! ```
//!
//! A machine goes to whichever thread has a request. Since Linux 6.12 that costs no more than the caches do (measured
//! here: below a microsecond); before, KVM waited for all processors when a machine met another thread, so that
//! there a thread rather boots a machine of its own than take another's, as long as the function may have more.

use std::{
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use kernlet_image::Isolation;

use crate::{function::Shared, worker::Worker};

/// How long a machine that is not the only idle one is kept without a request.
pub const IDLE_MAX: Duration = Duration::from_secs(30);

/// The first kernel whose KVM lets a machine change threads for nothing.
const CHEAP_MOVES: (u32, u32) = (6, 12);

/// A function's machines that serve no request.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    idle: Mutex<Idle<Worker>>,
    /// A machine became idle, or one that was to become so is lost.
    settled: Condvar,
    cheap_moves: bool,
}

/// A machine that has served a request. Dropped, it is made ready for the next one and becomes idle.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pool: Arc<Pool>,
    worker: Option<Worker>,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let release = rustix::system::uname();
        let cheap_moves = release.release().to_str().is_ok_and(moves_are_cheap);
        Arc::new(Self { shared, idle: Mutex::new(Idle::new()), settled: Condvar::new(), cheap_moves })
    }

    /// Machines that wait for a request, or will in a moment.
    pub(crate) fn idle(&self) -> usize {
        let idle = self.lock();
        idle.len() + idle.settling
    }

    /// A machine for a request that has been let in; one that has none yet boots it.
    pub(crate) fn take(&self) -> Worker {
        let thread = thread::current().id();
        let mut idle = self.lock();
        loop {
            let may_boot = idle.len() + idle.settling < self.shared.inflight.limit();
            match idle.take(thread, self.cheap_moves || !may_boot) {
                Taken::Idle(worker) => return worker,
                Taken::None => return Worker::new(Arc::clone(&self.shared)),
                Taken::Settling => {
                    idle.waiting += 1;
                    idle = self.settled.wait(idle).unwrap_or_else(PoisonError::into_inner);
                    idle.waiting -= 1;
                }
            }
        }
    }

    /// Takes a machine back that has to be settled. From here on the next request may count on it: the permit of the
    /// last one is to be dropped after this.
    pub(crate) fn give_back(self: &Arc<Self>, worker: Worker) -> Unsettled {
        if self.keeps_machines() {
            self.lock().settling += 1;
        }
        Unsettled { pool: Arc::clone(self), worker: Some(worker) }
    }

    /// Whether a machine that was used becomes idle, so that others may count on it.
    fn keeps_machines(&self) -> bool {
        self.shared.isolation != Isolation::Fresh
    }

    /// Ends machines that were idle for long; says when the next one will have been, if there is one.
    pub(crate) fn retire(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.lock();
        let (retired, next) = idle.retire(now);
        drop(idle);
        // Not under the lock: ending a machine takes a while.
        drop(retired);
        next
    }

    /// Drops the machines that are idle, and all that would become so.
    pub(crate) fn close(&self) {
        let mut idle = self.lock();
        idle.closed = true;
        drop((mem::take(&mut idle.items), idle));
    }

    fn lock(&self) -> MutexGuard<'_, Idle<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let Some(mut worker) = self.worker.take() else { return };
        worker.settle();
        if !self.pool.keeps_machines() {
            return;
        }
        let mut idle = self.pool.lock();
        idle.settling -= 1;
        if worker.has_machine() {
            idle.put(thread::current().id(), worker, Instant::now());
        }
        if idle.waiting > 0 {
            // All of them, since a machine that is lost lets another one boot its own.
            self.pool.settled.notify_all();
        }
    }
}

/// Idle ones of something, the last one to become idle on top; and how many are about to join them.
#[derive(Debug)]
struct Idle<T> {
    items: Vec<Item<T>>,
    /// Served their request, and will be idle in a moment.
    settling: usize,
    /// Requests that wait for one of those.
    waiting: usize,
    closed: bool,
}

#[derive(Debug)]
struct Item<T> {
    value: T,
    /// The thread that drove it last.
    driver: ThreadId,
    since: Instant,
}

/// What there is for a request.
#[derive(Debug, PartialEq, Eq)]
enum Taken<T> {
    /// This one.
    Idle(T),
    /// One will be idle in a moment.
    Settling,
    /// Nothing.
    None,
}

impl<T> Idle<T> {
    const fn new() -> Self {
        Self { items: Vec::new(), settling: 0, waiting: 0, closed: false }
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    /// The one that `driver` drove last. With `others`, else the one that went idle last.
    fn take(&mut self, driver: ThreadId, others: bool) -> Taken<T> {
        let own = self.items.iter().rposition(|item| item.driver == driver);
        let index = own.or_else(|| self.items.len().checked_sub(1).filter(|_| others));
        match index {
            Some(index) => Taken::Idle(self.items.remove(index).value),
            None if others && self.settling > self.waiting => Taken::Settling,
            None => Taken::None,
        }
    }

    /// Makes one idle; once closed, it is dropped.
    fn put(&mut self, driver: ThreadId, value: T, now: Instant) {
        if !self.closed {
            self.items.push(Item { value, driver, since: now });
        }
    }

    /// Those that were idle for long, but for one of all; and when the next one will have been.
    fn retire(&mut self, now: Instant) -> (Vec<T>, Option<Instant>) {
        let mut retired = Vec::new();
        while self.items.len() > 1 && now.saturating_duration_since(self.items[0].since) >= IDLE_MAX {
            retired.push(self.items.remove(0).value);
        }
        let next = (self.items.len() > 1).then(|| self.items[0].since + IDLE_MAX);
        (retired, next)
    }
}

/// Whether a kernel's release, such as `6.12.3-amd64`, is new enough.
fn moves_are_cheap(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|text| text.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= CHEAP_MOVES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn threads() -> [ThreadId; 2] {
        [thread::current().id(), thread::spawn(|| ()).thread().id()]
    }

    fn idle<const N: usize>(items: [(&'static str, ThreadId); N]) -> Idle<&'static str> {
        let mut idle = Idle::new();
        for (name, driver) in items {
            idle.put(driver, name, Instant::now());
        }
        idle
    }

    #[test]
    fn a_threads_own_machine_is_taken_first_and_then_the_one_that_went_idle_last() {
        let [one, other] = threads();
        let mut idle = idle([("a", one), ("b", other), ("c", other)]);
        assert_eq!(idle.take(one, true), Taken::Idle("a"));
        assert_eq!(idle.take(one, true), Taken::Idle("c"));
        assert_eq!(idle.take(one, true), Taken::Idle("b"));
        assert_eq!(idle.take(one, true), Taken::None);
    }

    #[test]
    fn where_moves_cost_much_the_machine_of_another_thread_is_taken_only_when_there_can_be_no_more() {
        let [one, other] = threads();
        let mut idle = idle([("a", other)]);
        assert_eq!(idle.take(one, false), Taken::None);
        assert_eq!(idle.take(one, true), Taken::Idle("a"));
    }

    #[test]
    fn a_request_waits_for_a_machine_that_is_being_settled_unless_another_one_does() {
        let [one, _] = threads();
        let mut idle = idle([]);
        idle.settling = 1;
        assert_eq!(idle.take(one, true), Taken::Settling);
        idle.waiting = 1;
        assert_eq!(idle.take(one, true), Taken::None);
    }

    #[test]
    fn idle_machines_leave_until_one_is_left() {
        let [one, _] = threads();
        let mut idle = idle([("a", one), ("b", one), ("c", one)]);
        let now = Instant::now();
        let (retired, next) = idle.retire(now);
        assert!(retired.is_empty() && next.is_some_and(|next| next > now), "{next:?}");
        assert_eq!(idle.retire(now + IDLE_MAX), (vec!["a", "b"], None));
        assert_eq!(idle.take(one, true), Taken::Idle("c"));
    }

    #[test]
    fn a_closed_pool_keeps_nothing() {
        let [one, _] = threads();
        let mut idle = Idle::new();
        idle.closed = true;
        let machine = Arc::new(());
        idle.put(one, Arc::clone(&machine), Instant::now());
        assert_eq!(Arc::strong_count(&machine), 1);
    }

    #[test]
    fn a_kernel_is_known_by_its_release() {
        for new in ["6.12.0", "6.18.44-fc-v669", "7.0-rc1", "10.1.2"] {
            assert!(moves_are_cheap(new), "{new}");
        }
        for old in ["6.1.0-18-amd64", "5.15.0", "6.9-rc4", "unknown", ""] {
            assert!(!moves_are_cheap(old), "{old}");
        }
    }
}
