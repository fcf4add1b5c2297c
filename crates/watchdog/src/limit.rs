//! How long an invocation may take and who said so, and how many may run at once.
//! Used wherever a request meets its function. It never stops anything itself: the monitor does.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_image::{FunctionConfig, GoDuration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::InvokeError;

/// Most machines, and so requests under way, of one function in one watchdog, whatever its limit says: each
/// machine is a thread, its memory and three descriptors, and a process usually has 1,024 descriptors.
pub const MACHINES_MAX: usize = 128;

/// In place of a limit when a function has none; the monitor's clocks need a number.
const UNLIMITED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The time one invocation may take, and what set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    duration: Duration,
    by_caller: bool,
}

impl TimeLimit {
    /// A function's `exec_timeout`; zero means none, as in OpenFaaS.
    #[must_use]
    pub fn of_function(exec_timeout: Duration) -> Self {
        let duration = if exec_timeout.is_zero() { UNLIMITED } else { exec_timeout.min(UNLIMITED) };
        Self { duration, by_caller: false }
    }

    /// This limit, shortened to what a caller asked for; a caller never lengthens it.
    #[must_use]
    pub fn shortened_to(self, duration: Duration) -> Self {
        if duration < self.duration { Self { duration, by_caller: true } } else { self }
    }

    /// The moment it is over for an invocation that begins at `start`.
    #[must_use]
    pub fn deadline(self, start: Instant) -> Instant {
        start + self.duration
    }

    /// The limit, unless there is none.
    pub(crate) fn bounded(self) -> Option<Duration> {
        (self.duration < UNLIMITED).then_some(self.duration)
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = GoDuration(self.duration);
        if self.by_caller {
            write!(f, "{duration}, which the request's X-Timeout header asked for")
        } else {
            write!(
                f,
                "{duration}, its exec_timeout (raise it with the annotation dev.kernlet.limits.timeout or the \
                 environment variable exec_timeout)"
            )
        }
    }
}

/// How many requests of a function may be under way.
#[derive(Clone, Debug)]
pub(crate) struct Inflight {
    function: Arc<str>,
    permits: Arc<Semaphore>,
    limit: usize,
    asked: u32,
}

/// The right of one request to be under way.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Inflight {
    pub(crate) fn new(function: Arc<str>, config: &FunctionConfig) -> Self {
        let asked = config.max_inflight;
        let limit = match usize::try_from(asked) {
            Ok(0) | Err(_) => MACHINES_MAX,
            Ok(asked) => asked.min(MACHINES_MAX),
        };
        Self { function, permits: Arc::new(Semaphore::new(limit)), limit, asked }
    }

    /// The limit in force.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the function's own limit is above what a watchdog allows.
    pub(crate) fn is_cut(&self) -> bool {
        usize::try_from(self.asked).is_ok_and(|asked| asked > self.limit)
    }

    pub(crate) fn enter(&self) -> Result<Permit, InvokeError> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Ok(Permit { _permit: permit }),
            Err(_) => Err(self.saturated()),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Requests that have entered and not left.
    pub(crate) fn under_way(&self) -> usize {
        self.limit.saturating_sub(self.permits.available_permits())
    }

    /// Why a request cannot enter.
    pub(crate) fn saturated(&self) -> InvokeError {
        let raise = if self.limit < MACHINES_MAX {
            "the annotation dev.kernlet.limits.inflight or the environment variable max_inflight"
        } else {
            "the number of replicas, since one watchdog runs no more machines"
        };
        InvokeError::Saturated { function: self.function.to_string(), limit: self.limit, raise }
    }

    /// Waits until no request is under way; none can enter afterwards.
    pub(crate) async fn drained(&self) {
        let all = u32::try_from(self.limit).unwrap_or(u32::MAX);
        if let Ok(permits) = self.permits.acquire_many(all).await {
            permits.forget();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn inflight(max_inflight: u32) -> Inflight {
        Inflight::new("echo".into(), &FunctionConfig { max_inflight, ..FunctionConfig::default() })
    }

    #[test]
    fn a_caller_shortens_a_limit_and_never_lengthens_it() {
        let own = TimeLimit::of_function(Duration::from_secs(2));
        assert_eq!(own.shortened_to(Duration::from_secs(3)), own);
        let shorter = own.shortened_to(Duration::from_secs(1));
        assert_eq!(shorter.to_string(), "1s, which the request's X-Timeout header asked for");
        assert_eq!(shorter.bounded(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_function_without_a_limit_may_be_given_one_by_its_caller() {
        let none = TimeLimit::of_function(Duration::ZERO);
        assert_eq!(none.bounded(), None);
        assert_eq!(none.shortened_to(Duration::from_secs(1)).bounded(), Some(Duration::from_secs(1)));
        assert!(none.deadline(Instant::now()) > Instant::now());
    }

    #[test]
    fn no_more_requests_than_the_limit_are_under_way() {
        let inflight = inflight(2);
        let first = inflight.enter().unwrap();
        assert!(!inflight.is_full());
        let _second = inflight.enter().unwrap();
        assert!(inflight.is_full());
        let refused = inflight.enter().unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.retry_after()), (429, Some(1)));
        assert!(refused.message().contains("max_inflight"), "{}", refused.message());
        drop(first);
        assert!(inflight.enter().is_ok());
    }

    #[test]
    fn any_number_of_requests_still_means_no_more_than_the_machines_of_one_watchdog() {
        assert_eq!(inflight(0).limit(), MACHINES_MAX);
        let many = inflight(u32::MAX);
        assert_eq!(many.limit(), MACHINES_MAX);
        assert!(many.is_cut());
        assert!(!inflight(0).is_cut());
        let permits: Vec<_> = (0..MACHINES_MAX).map(|_| many.enter().unwrap()).collect();
        let refused = many.enter().unwrap_err().message();
        assert!(refused.contains("replicas"), "{refused}");
        drop(permits);
    }
}
