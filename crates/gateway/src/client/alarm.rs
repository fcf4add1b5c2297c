//! A clock that rings once it is late enough: one for each connection, for all that it ever waits for.
//! It is set for every request, and asks the event loop's timer only when it has to ring earlier than it would.
//! It never rings too early, and may be looked at for nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A connection's clock.
#[derive(Debug)]
pub(crate) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// One that has not been set.
    pub(crate) fn new() -> Alarm {
        Alarm(Box::pin(sleep(Duration::from_secs(24 * 3600))))
    }

    /// Waits until `due`.
    pub(crate) fn poll_until(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.deadline() > due {
            self.0.as_mut().reset(due);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(due);
        }
    }
}
