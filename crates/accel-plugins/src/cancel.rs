//! Ends work that runs when its deadline is over: one thread for all that is under way.
//! Called by the plugins whose libraries can be told to stop. Never holds up a call: to watch takes a lock for the
//! time of an insertion.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

/// What is to be called at which moment.
#[derive(Clone, Default)]
pub(crate) struct Canceller(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<(Instant, u64), Box<dyn FnOnce() + Send>>,
    next: u64,
    thread: bool,
    /// When the thread wakes by itself.
    until: Option<Instant>,
}

/// Work that is watched until this is dropped.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    key: (Instant, u64),
}

impl Canceller {
    /// Calls `cancel` at `deadline`, unless the watch is dropped before. Work that cannot be watched, because no thread
    /// can be had, runs to its end.
    pub(crate) fn watch(&self, deadline: Instant, cancel: impl FnOnce() + Send + 'static) -> Watch {
        let mut state = self.0.lock();
        let key = (deadline, state.next);
        state.next += 1;
        state.waiting.insert(key, Box::new(cancel));
        if !state.thread {
            let shared = Arc::clone(&self.0);
            state.thread =
                thread::Builder::new().name("accel-deadlines".to_owned()).spawn(move || shared.serve()).is_ok();
        }
        // A thread that wakes before the deadline anyway is left asleep: to wake it takes as long as a short inference's step.
        if state.until.is_none_or(|until| deadline < until) {
            self.0.changed.notify_one();
        }
        Watch { shared: Arc::clone(&self.0), key }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.key);
    }
}

impl Shared {
    // The map is whole between any two statements, so that a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(entry) = state.waiting.first_entry() else {
                state.until = None;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let deadline = entry.key().0;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Under the lock, so that no watch is dropped while its work is being cancelled.
                entry.remove()();
            } else {
                state.until = Some(deadline);
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("waiting", &self.0.lock().waiting.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn what_is_late_is_cancelled_in_order_and_what_ended_is_not() {
        let (canceller, (sender, receiver)) = (Canceller::default(), mpsc::channel());
        let now = Instant::now();
        let watch = |millis: u64, name: &'static str| {
            let sender = sender.clone();
            canceller.watch(now + Duration::from_millis(millis), move || sender.send(name).unwrap_or_default())
        };
        let late = watch(30, "late");
        let ended = watch(20, "ended");
        let early = watch(10, "early");
        drop(ended);
        assert_eq!(receiver.recv(), Ok("early"));
        assert_eq!(receiver.recv(), Ok("late"));
        drop((late, early));
        assert!(canceller.0.lock().waiting.is_empty());
    }

    #[test]
    fn work_is_cancelled_whatever_was_watched_before_it_and_ended() {
        let (canceller, (sender, receiver)) = (Canceller::default(), mpsc::channel());
        let watch = |millis: u64| {
            let sender = sender.clone();
            let deadline = Instant::now() + Duration::from_millis(millis);
            canceller.watch(deadline, move || sender.send(millis).unwrap_or_default())
        };
        // The thread sleeps until the first one's deadline, and wakes for nothing.
        drop(watch(5));
        let _later = watch(20);
        assert_eq!(receiver.recv(), Ok(20));
        drop(watch(60_000));
        let _sooner = watch(10);
        assert_eq!(receiver.recv(), Ok(10));
    }
}
