//! How many clients may be connected at the same time, and which of them goes when more come: the one that has sent no
//! request for longest. The server asks for each connection.
//! It never takes the place of a client whose request is under way.

use rustix::process::{Resource, getrlimit};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Most connections where the system sets no limit.
const MAX: usize = 100_000;
/// What a seat says while a request is under way.
const BUSY: u64 = u64::MAX;

/// Everyone who is connected.
#[derive(Debug)]
pub(crate) struct Crowd {
    max: usize,
    opened: Instant,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: HashMap<u64, Arc<Seat>>,
}

/// What one connection does.
#[derive(Debug)]
pub(crate) struct Seat {
    opened: Instant,
    /// Microseconds from `opened` to when it began to wait for a request, or [`BUSY`].
    waits_since: AtomicU64,
    has_to_go: Notify,
}

/// The right to be connected.
#[derive(Debug)]
pub(crate) struct Guest {
    crowd: Arc<Crowd>,
    number: u64,
    seat: Arc<Seat>,
}

/// One request of a guest, from its head to the end of its answer.
#[derive(Debug)]
pub(crate) struct Visit(Arc<Seat>);

impl Crowd {
    /// Half as many places as this process may have descriptors: a request under way takes two, and each replica takes
    /// some.
    pub(crate) fn within_descriptors() -> Arc<Crowd> {
        let descriptors = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        Crowd::of(descriptors.map_or(MAX, |limit| (limit / 2).min(MAX)))
    }

    fn of(max: usize) -> Arc<Crowd> {
        Arc::new(Crowd { max, opened: Instant::now(), seats: Mutex::default() })
    }

    /// A place, which somebody who waits may have to make; `None` where everybody's request is under way.
    pub(crate) fn enter(self: &Arc<Crowd>) -> Option<Guest> {
        let mut seats = self.seats();
        if seats.taken.len() >= self.max {
            let longest = seats.taken.iter().min_by_key(|(_, seat)| seat.waits_since.load(Ordering::Relaxed));
            let (number, seat) = longest.filter(|(_, seat)| seat.waits_since.load(Ordering::Relaxed) != BUSY)?;
            seat.has_to_go.notify_one();
            let number = *number;
            seats.taken.remove(&number);
        }
        let number = seats.next;
        seats.next += 1;
        let seat = Arc::new(Seat {
            opened: self.opened,
            waits_since: AtomicU64::new(micros_since(self.opened)),
            has_to_go: Notify::new(),
        });
        seats.taken.insert(number, Arc::clone(&seat));
        Some(Guest { crowd: Arc::clone(self), number, seat })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// What its requests are noted on.
    pub(crate) fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.seat)
    }

    /// Waits until another client needs the place. For ever where a request came in just then: it is answered, and its
    /// connection is one more than there should be from then on.
    pub(crate) async fn has_to_go(&self) {
        self.seat.has_to_go.notified().await;
        if self.seat.waits_since.load(Ordering::Relaxed) == BUSY {
            std::future::pending().await
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.crowd.seats().taken.remove(&self.number);
    }
}

impl Seat {
    /// A request begins.
    pub(crate) fn visit(self: &Arc<Seat>) -> Visit {
        self.waits_since.store(BUSY, Ordering::Relaxed);
        Visit(Arc::clone(self))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.waits_since.store(micros_since(self.0.opened), Ordering::Relaxed);
    }
}

fn micros_since(moment: Instant) -> u64 {
    u64::try_from(moment.elapsed().as_micros()).unwrap_or(BUSY - 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn has_to_go(guest: &Guest) -> bool {
        pin!(guest.has_to_go()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Waits until the clock of the crowd goes on, so that who comes later has waited less.
    fn tick(crowd: &Crowd) {
        let now = micros_since(crowd.opened);
        while micros_since(crowd.opened) == now {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn who_has_waited_longest_makes_room() {
        let crowd = Crowd::of(2);
        let first = crowd.enter().unwrap();
        tick(&crowd);
        let second = crowd.enter().unwrap();
        tick(&crowd);
        // The first one has just been served, so the second has waited longer.
        drop(first.seat().visit());
        let third = crowd.enter().unwrap();
        assert_eq!([&first, &second, &third].map(has_to_go), [false, true, false]);
        drop(second);
        assert_eq!(crowd.seats().taken.len(), 2);
    }

    #[test]
    fn nobody_whose_request_is_under_way_makes_room() {
        let crowd = Crowd::of(2);
        let (first, second) = (crowd.enter().unwrap(), crowd.enter().unwrap());
        let (_one, other) = (first.seat().visit(), second.seat().visit());
        assert!(crowd.enter().is_none());
        drop(other);
        let third = crowd.enter().unwrap();
        assert_eq!([&first, &second, &third].map(has_to_go), [false, true, false]);
    }

    #[test]
    fn a_place_that_is_given_up_is_free() {
        let crowd = Crowd::of(1);
        let first = crowd.enter().unwrap();
        let _busy = first.seat().visit();
        assert!(crowd.enter().is_none());
        drop(first);
        assert!(crowd.enter().is_some());
    }
}
