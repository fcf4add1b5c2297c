//! Lets invocations in: so many at once over all functions, and when there is little room left, each function its fair
//! share. Every lease of a replica holds a seat. It never queues: who cannot enter is told to come back.
//!
//! ```text
//! seats  0 ─────────────── open ──────── total
//!          anybody enters  │ only functions below their fair share, open ÷ functions with seats
//! ```
//!
//! That is max-min fairness without taking anything away: what a function does not use, others may; a function that
//! comes late finds the room above `open`, and those above their share cannot take seats that come back before it has
//! its own.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use rustix::process::{Resource, getrlimit};
use thiserror::Error;

/// Invocations at once, for each processor: far more than it can work on, and few enough that the last one's answer
/// comes before its client gives up.
const PER_PROCESSOR: usize = 1024;
/// Descriptors for each invocation: its client's and its watchdog's connection take two, the rest is for replicas.
const DESCRIPTORS_EACH: usize = 8;
/// One in so many seats is kept for functions below their share.
const KEPT: usize = 8;

/// Why an invocation cannot enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "takes no more requests just now: {total} invocations of {functions} functions are under way, as many as this \
     gateway works on (\"kernlet up --max-inflight\"), and the function has its share of them, {held}: try again"
)]
pub(crate) struct Refused {
    total: usize,
    functions: usize,
    held: usize,
}

#[cfg(test)]
impl Refused {
    pub(crate) fn example() -> Refused {
        Refused { total: 8, functions: 1, held: 7 }
    }
}

/// How many seats there are. Plain arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seats {
    total: usize,
    open: usize,
}

impl Seats {
    fn new(total: NonZero<usize>) -> Seats {
        let total = total.get();
        let kept = (total / KEPT).max(1).min(total - 1);
        Seats { total, open: total - kept }
    }

    /// Whether a function that holds `held` seats gets another one, when `taken` are taken by `active` functions, the
    /// one that asks among them.
    fn admit(self, taken: usize, active: usize, held: usize) -> bool {
        let share = (self.open / active.max(1)).max(1);
        taken < self.open || (taken < self.total && held < share)
    }
}

/// The seats of one gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    seats: Seats,
    book: Mutex<Book>,
}

/// Who has what. Locked for a few instructions at a time.
#[derive(Debug, Default)]
struct Book {
    taken: usize,
    /// Functions that hold a seat.
    active: usize,
    /// Seats taken so far.
    entered: u64,
}

impl Admission {
    /// As many seats as were asked for, or as many as suit this machine.
    pub(crate) fn new(asked: Option<NonZero<usize>>) -> Arc<Admission> {
        let seats = Seats::new(asked.unwrap_or_else(suitable));
        Arc::new(Admission { seats, book: Mutex::default() })
    }

    /// A function's account.
    pub(crate) fn share(self: &Arc<Admission>) -> Arc<Share> {
        Arc::new(Share { admission: Arc::clone(self), held: AtomicUsize::new(0) })
    }

    /// How many seats were taken so far, and whether any is now.
    pub(crate) fn so_far(&self) -> (u64, bool) {
        let book = self.book();
        (book.entered, book.taken > 0)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // The book is right between any two statements.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn suitable() -> NonZero<usize> {
    let processors = available_parallelism().map_or(1, NonZero::get);
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let fit = descriptors.map_or(usize::MAX, |descriptors| descriptors / DESCRIPTORS_EACH);
    NonZero::new(fit.min(processors * PER_PROCESSOR)).unwrap_or(NonZero::<usize>::MIN)
}

/// What one function holds.
#[derive(Debug)]
pub(crate) struct Share {
    admission: Arc<Admission>,
    /// Changed with the book locked.
    held: AtomicUsize,
}

/// The right of one invocation to be under way.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Share>);

impl Share {
    /// Takes a seat.
    pub(crate) fn enter(self: &Arc<Share>) -> Result<Seat, Refused> {
        let Seats { total, .. } = self.admission.seats;
        let mut book = self.admission.book();
        let held = self.held.load(Ordering::Relaxed);
        let active = book.active + usize::from(held == 0);
        if !self.admission.seats.admit(book.taken, active, held) {
            return Err(Refused { total, functions: active, held });
        }
        book.taken += 1;
        book.entered += 1;
        book.active = active;
        self.held.store(held + 1, Ordering::Relaxed);
        Ok(Seat(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Seat(share) = self;
        let mut book = share.admission.book();
        let held = share.held.load(Ordering::Relaxed).saturating_sub(1);
        share.held.store(held, Ordering::Relaxed);
        book.taken = book.taken.saturating_sub(1);
        if held == 0 {
            book.active = book.active.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn admission(total: usize) -> Arc<Admission> {
        Admission::new(NonZero::new(total))
    }

    fn taken(admission: &Admission) -> (usize, usize) {
        let book = admission.book();
        (book.taken, book.active)
    }

    /// As many seats as the function gets.
    fn fill(share: &Arc<Share>) -> Vec<Seat> {
        std::iter::from_fn(|| share.enter().ok()).collect()
    }

    #[test]
    fn a_function_alone_takes_all_but_what_is_kept_for_others() {
        let admission = admission(80);
        let heavy = admission.share();
        let seats = fill(&heavy);
        assert_eq!(seats.len(), 70);
        let message = heavy.enter().unwrap_err().to_string();
        assert!(message.contains("80 invocations of 1 functions") && message.contains("--max-inflight"), "{message}");
        let light = admission.share();
        let _served = light.enter().unwrap();
        assert!(heavy.enter().is_err());
    }

    #[test]
    fn seats_are_counted_as_they_are_taken() {
        let admission = admission(8);
        assert_eq!(admission.so_far(), (0, false));
        let share = admission.share();
        let seat = share.enter().unwrap();
        assert_eq!(admission.so_far(), (1, true));
        drop(seat);
        drop(share.enter().unwrap());
        assert_eq!(admission.so_far(), (2, false));
    }

    #[test]
    fn who_is_above_its_share_takes_no_seat_that_comes_back_before_who_is_below_has_its_own() {
        let admission = admission(80);
        let (heavy, late) = (admission.share(), admission.share());
        let mut of_heavy = fill(&heavy);
        let mut of_late = fill(&late);
        assert_eq!(of_late.len(), 10, "what was kept");
        for _ in 0..100 {
            of_heavy.pop();
            assert!(heavy.enter().is_err() || of_heavy.len() < 35, "above its share");
            of_late.extend(fill(&late));
            of_heavy.extend(fill(&heavy));
        }
        assert!(of_heavy.len() >= 35 && of_late.len() >= 35, "{} and {}", of_heavy.len(), of_late.len());
    }

    #[test]
    fn what_a_function_does_not_use_others_may() {
        let admission = admission(80);
        let (light, heavy) = (admission.share(), admission.share());
        let _one = light.enter().unwrap();
        assert_eq!(fill(&heavy).len(), 69);
    }

    #[test]
    fn a_gateway_with_one_seat_serves_one_after_the_other() {
        let admission = admission(1);
        let (one, other) = (admission.share(), admission.share());
        let seat = one.enter();
        assert!(seat.is_ok() && other.enter().is_err());
        drop(seat);
        assert!(other.enter().is_ok());
    }

    #[test]
    fn what_suits_this_machine_is_within_its_descriptors() {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(suitable().get() as u64 <= (limit / 2).max(1));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Enter(usize),
        Leave(usize, usize),
    }

    fn step(functions: usize) -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..functions).prop_map(Step::Enter),
            (0..functions, any::<usize>()).prop_map(|(function, index)| Step::Leave(function, index)),
        ]
    }

    proptest! {
        #[test]
        fn seats_are_never_more_than_there_are_go_to_who_has_least_and_always_come_back(
            total in 1_usize..40,
            steps in proptest::collection::vec(step(5), 0..400),
        ) {
            let admission = admission(total);
            let shares: Vec<_> = (0..5).map(|_| admission.share()).collect();
            let mut held: Vec<Vec<Seat>> = (0..5).map(|_| Vec::new()).collect();
            for step in steps {
                match step {
                    Step::Enter(function) => {
                        let before = taken(&admission).0;
                        match shares[function].enter() {
                            Ok(seat) => held[function].push(seat),
                            Err(_) => {
                                let mine = held[function].len();
                                // There was no room at all, or somebody got as much as it may have.
                                let active = held.iter().filter(|seats| !seats.is_empty()).count() + usize::from(mine == 0);
                                let share = (admission.seats.open / active).max(1);
                                prop_assert!(before == total || (before >= admission.seats.open && mine >= share));
                            }
                        }
                    }
                    Step::Leave(function, index) => {
                        let seats = &mut held[function];
                        if !seats.is_empty() {
                            seats.swap_remove(index % seats.len());
                        }
                    }
                }
                let sum: usize = held.iter().map(Vec::len).sum();
                let active = held.iter().filter(|seats| !seats.is_empty()).count();
                prop_assert!(sum <= total);
                prop_assert_eq!(taken(&admission), (sum, active));
            }
            held.clear();
            prop_assert_eq!(taken(&admission), (0, 0));
        }

        /// Everybody asks all the time and seats come back at random, and then from who holds the most: in the end who
        /// wants its share has it, and who wants less has what it wants. (In between, who gives up its only seat may find
        /// the room taken when it comes again, until somebody above the share gives one back.)
        #[test]
        fn under_lasting_overload_everybody_gets_the_smaller_of_its_wish_and_its_share(
            wishes in proptest::collection::vec(1_usize..60, 1..6),
            returns in proptest::collection::vec(any::<usize>(), 1500),
        ) {
            let admission = admission(48);
            let shares: Vec<_> = wishes.iter().map(|_| admission.share()).collect();
            let mut held: Vec<Vec<Seat>> = wishes.iter().map(|_| Vec::new()).collect();
            let everybody_asks = |held: &mut Vec<Vec<Seat>>| {
                for ((share, seats), wish) in shares.iter().zip(held).zip(&wishes) {
                    while seats.len() < *wish && let Ok(seat) = share.enter() {
                        seats.push(seat);
                    }
                }
            };
            for at in returns {
                let mut index = at % held.iter().map(Vec::len).sum::<usize>().max(1);
                for seats in &mut held {
                    if index < seats.len() {
                        seats.swap_remove(index);
                        break;
                    }
                    index -= seats.len();
                }
                everybody_asks(&mut held);
            }
            for _ in 0..48 {
                held.iter_mut().max_by_key(|seats| seats.len()).and_then(Vec::pop);
                everybody_asks(&mut held);
            }
            let share = admission.seats.open / wishes.len();
            for (seats, wish) in held.iter().zip(&wishes) {
                prop_assert!(seats.len() >= share.min(*wish), "{} of {} with a share of {}", seats.len(), wish, share);
            }
        }
    }
}
