//! What a function may use of processors and accelerators, and how the processor time of one invocation is counted.
//! Set by the watchdog, kept by the guest's loop. It works without cgroups, and costs the usual invocation two looks
//! at a clock that takes no system call.
//!
//! Processor time is the time in which the guest runs. Up to a millisecond the monotonic clock measures it; a longer
//! run is measured by the thread's processor clock as well, a system call, so that it does not pay for the time in
//! which others had its processor: it took no more than the thread did since that clock was last read.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::deadline::TICK;

/// What an invocation may have used before its processor time is measured by the thread's clock.
const PRECISE_AFTER: Duration = Duration::from_millis(1);

thread_local! {
    /// What this thread's processor clock showed when it was last read.
    static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The period of a share: what is not used within it is not saved up. As the kernel's CPU controller has it.
const PERIOD: Duration = Duration::from_millis(100);

/// What a function's machines may use. Cheap to clone; clones have the share in common.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Processor time of one invocation; `None` is as much as it likes.
    pub cpu_time: Option<Duration>,
    /// Time of one invocation in accelerators; `None` is as much as it likes.
    pub accel_time: Option<Duration>,
    /// What all machines of the function use together; `None` is as much as there is.
    pub share: Option<Arc<CpuBucket>>,
}

/// A function's share of the processors: a bucket that fills with processor time at the share's rate, and from which
/// its machines take what they use.
///
/// A machine that finds it empty pauses until it is filled again. One that runs when it becomes empty is stopped within
/// some milliseconds, and what it took too much is paid back first, so that the share holds in each tenth of a second,
/// and exactly over longer times.
#[derive(Debug)]
pub struct CpuBucket {
    /// Thousandths of a processor.
    millis: u32,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Nanoseconds; below zero is a debt.
    left: i64,
    filled: Instant,
}

impl CpuBucket {
    /// A full bucket that gets so many thousandths of a processor.
    #[must_use]
    pub fn new(millis: u32) -> Self {
        let millis = millis.max(1);
        Self { millis, level: Mutex::new(Level { left: signed(size(millis)), filled: Instant::now() }) }
    }

    /// Takes what was used.
    fn take(&self, used: Duration) {
        let mut level = self.level();
        level.left = level.left.saturating_sub(signed(nanoseconds(used)));
    }

    /// How long until there is something in it; zero if there is.
    fn wait(&self, now: Instant) -> Duration {
        let mut level = self.level();
        let since = nanoseconds(now.saturating_duration_since(level.filled));
        let gained = (u128::from(since) * u128::from(self.millis) / 1000).min(u128::from(u64::MAX));
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        level.left = level.left.saturating_add(signed(gained)).min(signed(size(self.millis)));
        level.filled = level.filled.max(now);
        if level.left > 0 {
            return Duration::ZERO;
        }
        let missing = u128::from(level.left.unsigned_abs()) + 1;
        Duration::from_nanos(u64::try_from(missing * 1000 / u128::from(self.millis) + 1).unwrap_or(u64::MAX))
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        // Two numbers, right between any two statements.
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a bucket holds, in nanoseconds: its share of a period.
fn size(millis: u32) -> u64 {
    nanoseconds(PERIOD) * u64::from(millis) / 1000
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn signed(nanoseconds: u64) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(i64::MAX)
}

/// One run of a guest, from entering it to leaving it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    entered: Instant,
    /// The guest's processor clock, where the invocation is a long one.
    clock: Option<Duration>,
}

impl Limits {
    /// Waits until the function's share allows another run, no longer than until `deadline`; says how long.
    pub(crate) fn pause(&self, deadline: Instant) -> Duration {
        let Some(share) = &self.share else { return Duration::ZERO };
        let begun = Instant::now();
        let mut now = begun;
        loop {
            let wait = share.wait(now).min(deadline.saturating_duration_since(now));
            if wait.is_zero() {
                return now.saturating_duration_since(begun);
            }
            thread::sleep(wait);
            now = Instant::now();
        }
    }

    /// Begins a run of an invocation that has used `used` so far.
    /// `clock` reads the guest's processor clock.
    pub(crate) fn enter(used: Duration, clock: impl FnOnce() -> Duration) -> Run {
        let clock = (used >= PRECISE_AFTER).then(clock);
        Run { entered: Instant::now(), clock }
    }

    /// When a guest in this run is to be looked at, unless it stops earlier.
    pub(crate) fn look_at(&self, run: Run, used: Duration, deadline: Instant) -> Instant {
        let allowed = match (run.clock, self.cpu_time, &self.share) {
            (_, None, None) => None,
            (None, ..) => Some(PRECISE_AFTER.saturating_sub(used)),
            (Some(_), _, Some(_)) => Some(TICK),
            (Some(_), Some(limit), None) => Some(limit.saturating_sub(used)),
        };
        allowed.and_then(|allowed| run.entered.checked_add(allowed)).map_or(deadline, |look| look.min(deadline))
    }

    /// Ends a run; says what it took. `looked` tells whether it ended because it was looked at.
    pub(crate) fn leave(&self, run: Run, looked: bool, clock: impl FnOnce() -> Duration) -> Duration {
        let wall = run.entered.elapsed();
        let took = match run.clock {
            Some(entered) => clock().saturating_sub(entered).min(wall),
            // It may have waited for its processor: it ran no longer than until the look was due.
            None if looked && self.is_looked_at() => wall.min(PRECISE_AFTER + TICK),
            None if wall >= PRECISE_AFTER => {
                let last = LAST.get();
                clock().saturating_sub(last).min(wall)
            }
            None => wall,
        };
        self.charge(took);
        took
    }

    /// Takes from the function's share what the host did for a guest that could make it do much.
    pub(crate) fn charge(&self, took: Duration) {
        if let Some(share) = &self.share {
            share.take(took);
        }
    }

    fn is_looked_at(&self) -> bool {
        self.cpu_time.is_some() || self.share.is_some()
    }

    /// The limit of processor time, if it is used up.
    pub(crate) fn cpu_exceeded(&self, used: Duration) -> Option<Duration> {
        self.cpu_time.filter(|limit| used >= *limit)
    }
}

/// The processor time of this thread.
pub(crate) fn thread_clock() -> Duration {
    let time = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    LAST.set(time);
    time
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_full_bucket_holds_the_share_of_one_period() {
        let bucket = CpuBucket::new(500);
        let start = Instant::now();
        assert_eq!(bucket.wait(start), Duration::ZERO);
        bucket.take(49 * MS);
        assert_eq!(bucket.wait(start), Duration::ZERO);
        bucket.take(11 * MS);
        let wait = bucket.wait(start);
        assert!(wait > 19 * MS && wait < 21 * MS, "{wait:?}: 10 ms of debt at half a processor");
        assert_eq!(bucket.wait(start + wait), Duration::ZERO);
        // What was not used for long is not saved up.
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.wait(later), Duration::ZERO);
        bucket.take(51 * MS);
        assert!(bucket.wait(later) > Duration::ZERO);
    }

    #[test]
    fn a_run_is_looked_at_when_something_may_be_over() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let none = Limits::default();
        let first = Limits::enter(Duration::ZERO, thread_clock);
        let long = Limits::enter(5 * MS, thread_clock);
        for run in [first, long] {
            assert_eq!(none.look_at(run, Duration::ZERO, deadline), deadline, "nothing but the deadline");
        }
        let limits = Limits { cpu_time: Some(20 * MS), ..Limits::default() };
        assert_eq!(limits.look_at(first, Duration::ZERO, deadline), first.entered + MS);
        assert_eq!(limits.look_at(first, Duration::ZERO, first.entered), first.entered, "the deadline comes first");
        assert_eq!(limits.look_at(long, 5 * MS, deadline), long.entered + 15 * MS);
        assert_eq!((limits.cpu_exceeded(19 * MS), limits.cpu_exceeded(20 * MS)), (None, Some(20 * MS)));
        let shared = Limits { share: Some(Arc::new(CpuBucket::new(100))), ..limits };
        assert_eq!(shared.look_at(long, 5 * MS, deadline), long.entered + TICK);
    }

    #[test]
    fn a_long_run_does_not_pay_for_the_time_in_which_it_waited() {
        let limits = Limits::default();
        thread_clock();
        let waited = Limits::enter(Duration::ZERO, thread_clock);
        thread::sleep(20 * MS);
        let took = limits.leave(waited, false, thread_clock);
        assert!(took < waited.entered.elapsed() / 2, "{took:?}");
    }

    #[test]
    fn a_pause_ends_with_the_deadline() {
        let share = Arc::new(CpuBucket::new(1));
        share.take(Duration::from_secs(3600));
        let limits = Limits { share: Some(share), ..Limits::default() };
        let deadline = Instant::now() + 5 * MS;
        limits.pause(deadline);
        let now = Instant::now();
        assert!(now >= deadline && now < deadline + Duration::from_secs(60));
    }

    proptest! {
        /// Whoever only takes when there is something, and no more than `most` at a time, gets the share and one
        /// burst, whatever the times at which it asks.
        #[test]
        fn over_any_time_no_more_is_taken_than_the_share_and_one_burst(
            millis in 1_u32..8000,
            steps in proptest::collection::vec((0_u64..50_000_000, 0_u64..10_000_000), 1..200),
        ) {
            let bucket = CpuBucket::new(millis);
            let start = bucket.level().filled;
            let (mut now, mut taken, mut most) = (start, 0_u64, 0);
            for (pause, take) in steps {
                now += Duration::from_nanos(pause);
                let wait = bucket.wait(now);
                if wait.is_zero() {
                    bucket.take(Duration::from_nanos(take));
                    (taken, most) = (taken + take, most.max(take));
                } else {
                    // And it never waits for nothing.
                    prop_assert!(wait <= Duration::from_nanos(most * 1000 / u64::from(millis) + 2000));
                    prop_assert_eq!(bucket.wait(now + wait), Duration::ZERO);
                    now += wait;
                }
            }
            let share = nanoseconds(now - start) as u128 * u128::from(millis) / 1000;
            prop_assert!(u128::from(taken) <= share + u128::from(size(millis)) + u128::from(most));
        }
    }
}
