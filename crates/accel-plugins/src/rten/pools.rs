//! The threads of inferences. Those that run at one time have pools of their own: in one pool a small inference would wait
//! until a large operator of another one is done, and so the system divides the processors between them.
//! Asked by the plugin for each inference. Never waits for a pool.

use std::{
    env,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rten::{RunOptions, ThreadPool};

/// Pools that there may be whatever the number of threads; inferences beyond share them.
const POOLS_MIN: usize = 8;

/// The pools of a plugin. Started by the inferences that need them: a process may have to stay single-threaded until it has
/// given its rights away.
#[derive(Debug)]
pub(super) struct Pools {
    /// Of the first. The second has half as many, the third a third, and so on: as many as its share of the processors,
    /// when the ones before it are at work.
    threads: NonZeroUsize,
    started: Mutex<Vec<Pool>>,
}

#[derive(Debug)]
struct Pool {
    threads: Arc<ThreadPool>,
    users: usize,
}

/// The right of one inference to a pool.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pools: &'a Pools,
    index: usize,
    /// What makes rten run on that pool.
    pub(super) options: RunOptions,
}

impl Default for Pools {
    /// As many threads as rten's own variable says, else one for each processor.
    fn default() -> Self {
        let said = env::var("RTEN_NUM_THREADS").ok().and_then(|threads| threads.parse().ok());
        let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::new(said.map_or(processors, |said: NonZeroUsize| said.min(processors)))
    }
}

impl Pools {
    pub(super) const fn new(threads: NonZeroUsize) -> Self {
        Self { threads, started: Mutex::new(Vec::new()) }
    }

    /// A pool that nobody uses, or else the one that fewest use.
    pub(super) fn turn(&self) -> Turn<'_> {
        let mut started = self.lock();
        let fewest = started.iter().enumerate().min_by_key(|(_, pool)| pool.users);
        let index = match fewest {
            Some((index, pool)) if pool.users == 0 || started.len() >= self.threads.get().max(POOLS_MIN) => index,
            _ => {
                let share = self.threads.get().div_ceil(started.len() + 1);
                started.push(Pool { threads: Arc::new(ThreadPool::with_num_threads(share)), users: 0 });
                started.len() - 1
            }
        };
        let pool = started.get_mut(index).map(|pool| {
            pool.users += 1;
            Arc::clone(&pool.threads)
        });
        Turn { pools: self, index, options: RunOptions::default().with_thread_pool(pool) }
    }

    // The list is whole between any two statements, so that a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, Vec<Pool>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pools.lock().get_mut(self.index) {
            pool.users -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(turns: &[Turn<'_>]) -> Vec<usize> {
        turns.iter().map(|turn| turn.index).collect()
    }

    #[test]
    fn inferences_at_one_time_have_pools_of_their_own_as_far_as_there_are_some() {
        let pools = Pools::new(NonZeroUsize::MIN);
        let mut turns: Vec<_> = (0..POOLS_MIN).map(|_| pools.turn()).collect();
        assert_eq!(indices(&turns), (0..POOLS_MIN).collect::<Vec<_>>());
        // What is free again goes first, and then they are shared evenly.
        drop(turns.swap_remove(2));
        turns.extend((0..=POOLS_MIN).map(|_| pools.turn()));
        assert_eq!(turns[POOLS_MIN - 1].index, 2);
        assert_eq!(indices(&turns[POOLS_MIN..]), (0..POOLS_MIN).collect::<Vec<_>>());
        drop(turns);
        assert_eq!(pools.turn().index, 0, "the largest one");
    }
}
