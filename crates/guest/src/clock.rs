//! The clocks, by one hypercall each. Used by functions.

use core::time::Duration;

use kernlet_abi::hypercall::{CallHead, Clock, number};

use crate::hypercall;

fn read() -> Clock {
    let head = CallHead { number: number::CLOCK, status: 0 };
    let mut call = Clock { head, ..Clock::default() };
    hypercall::call(&mut call);
    call
}

/// Time since 1970-01-01 00:00 UTC.
#[must_use]
pub fn now() -> Duration {
    Duration::from_nanos(read().realtime_ns)
}

/// Time since the machine's first request, by a clock that never goes back.
#[must_use]
pub fn monotonic() -> Duration {
    Duration::from_nanos(read().monotonic_ns)
}
