//! Memory that a process was done with and its allocator keeps. Given back by watchdogs and the gateway when they have
//! nothing to do, so that what a process holds, which its control group counts, is what it needs.
//! Never called while there is work: it locks the allocator for as long as it takes.

use std::time::{Duration, Instant};

/// How long there may have been no work before memory is given back.
pub const QUIET: Duration = Duration::from_secs(1);

/// Notices that there has been no work for a while.
#[derive(Debug, Default)]
pub struct Quiet {
    /// What had begun at the last look.
    begun: u64,
    /// Since when there was nothing, until that has had its effect.
    since: Option<Instant>,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is quiet: now is the time, once.
    GiveBack,
    /// Look again then.
    At(Instant),
    /// Nothing has happened since it was quiet.
    Never,
}

impl Quiet {
    /// Looks: so many pieces of work have begun so far, and some are under way or not.
    pub fn look(&mut self, begun: u64, is_busy: bool, now: Instant) -> Look {
        if is_busy || begun != self.begun {
            *self = Self { begun, since: Some(now) };
        }
        match self.since.map(|since| since + QUIET) {
            Some(over) if over <= now => {
                self.since = None;
                Look::GiveBack
            }
            Some(over) => Look::At(over),
            None => Look::Never,
        }
    }
}

/// Lets all threads take memory from one place, from whose end, too, it can be given back. To be called before there are
/// more threads.
///
/// The C library gives each thread an arena of its own, keeps freed memory at the end of each, up to twice the largest
/// block that was freed, and the arenas of threads that have ended. After large bodies on many connections that is
/// as much as the process uses, and which arena keeps how much is chance. Small blocks come from a cache of
/// each thread's all the same, so that threads rarely wait for each other.
pub fn keep_together() {
    // SAFETY: it takes numbers, and changes where memory is taken from in the future.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives what is free back to the system.
pub fn give_back() {
    // SAFETY: it takes a number, and nothing but what is free is touched.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod tests {
    use std::{fs, hint::black_box, thread};

    use super::*;

    fn resident_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_threads_freed_and_the_allocator_kept_goes_back() {
        const BLOCK: usize = 1 << 20;
        keep_together();
        // Blocks on the heap of which every second one stays: what is free has no neighbour to become the end of an arena with.
        let fragment = || {
            drop(black_box(vec![1_u8; 8 * BLOCK]));
            let mut blocks: Vec<_> = (0..32).map(|_| vec![1_u8; BLOCK]).collect();
            black_box(&mut blocks);
            blocks.into_iter().step_by(2).collect::<Vec<_>>()
        };
        let kept = thread::spawn(fragment).join().unwrap();
        let before = resident_kib();
        give_back();
        let after = resident_kib();
        assert!(after + 8 * 1024 < before, "{before} KiB before, {after} KiB after");
        drop(kept);
    }

    #[test]
    fn memory_is_given_back_once_after_no_request_came_for_a_while() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.look(0, false, start), Look::Never);
        assert_eq!(quiet.look(1, true, start), Look::At(start + QUIET));
        let later = start + 3 * QUIET;
        assert_eq!(quiet.look(1, true, later), Look::At(later + QUIET), "one is still under way");
        assert_eq!(quiet.look(2, false, later + QUIET), Look::At(later + 2 * QUIET), "another one came and went");
        assert_eq!(quiet.look(2, false, later + 2 * QUIET), Look::GiveBack);
        assert_eq!(quiet.look(2, false, later + 3 * QUIET), Look::Never);
        assert_eq!(quiet.look(3, false, later + 4 * QUIET), Look::At(later + 5 * QUIET));
    }
}
