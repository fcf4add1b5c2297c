//! The agent's worker threads, and which connection's call is next.
//! Used by connections, which hand their calls over. Never lets one connection have all workers, nor wait behind all calls
//! of another: connections take turns.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::link::lock;

/// Stack of a worker, in bytes: plugins run on it.
const STACK: usize = 8 * 1024 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// What waits for a worker.
#[derive(Default)]
struct Queues {
    /// Of each connection that has calls: those that wait, and how many run.
    connections: HashMap<u64, Line>,
    /// Connections whose turn it is, in that order: each that has a call waiting and may have one more running.
    turns: VecDeque<u64>,
    closed: bool,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    running: usize,
    has_turn: bool,
}

/// The workers.
pub(crate) struct Pool {
    queues: Mutex<Queues>,
    work: Condvar,
    /// Most calls of one connection that run at a time: there is always a worker for others.
    share: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("share", &self.share).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts one worker more than one connection can have.
    pub(crate) fn start(share: usize) -> io::Result<Arc<Self>> {
        let share = share.max(1);
        let pool = Arc::new(Self { queues: Mutex::default(), work: Condvar::new(), share });
        for _ in 0..=share {
            let pool = Arc::clone(&pool);
            thread::Builder::new().name("accel-worker".to_owned()).stack_size(STACK).spawn(move || pool.work())?;
        }
        Ok(pool)
    }

    /// Adds a call of a connection. It is dropped, not run, when the connection is forgotten before its turn.
    pub(crate) fn push(&self, connection: u64, job: Job) {
        let mut queues = lock(&self.queues);
        queues.connections.entry(connection).or_default().waiting.push_back(job);
        queues.offer(connection, self.share);
        drop(queues);
        self.work.notify_one();
    }

    /// Drops the calls of a connection that wait.
    pub(crate) fn forget(&self, connection: u64) {
        let mut queues = lock(&self.queues);
        let dropped = queues.connections.get_mut(&connection).map(|line| std::mem::take(&mut line.waiting));
        queues.tidy(connection);
        drop(queues);
        // Outside of the lock, since what they hold may be large.
        drop(dropped);
    }

    /// Ends the workers when they have done what they do.
    pub(crate) fn close(&self) {
        lock(&self.queues).closed = true;
        self.work.notify_all();
    }

    fn work(&self) {
        let mut queues = lock(&self.queues);
        while !queues.closed {
            let Some((connection, job)) = queues.next(self.share) else {
                queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queues);
            job();
            queues = lock(&self.queues);
            if let Some(line) = queues.connections.get_mut(&connection) {
                line.running -= 1;
            }
            queues.offer(connection, self.share);
            queues.tidy(connection);
        }
    }
}

impl Queues {
    /// Lines a connection up if it has something to do and may.
    fn offer(&mut self, connection: u64, share: usize) {
        let Some(line) = self.connections.get_mut(&connection) else { return };
        if !line.has_turn && !line.waiting.is_empty() && line.running < share {
            line.has_turn = true;
            self.turns.push_back(connection);
        }
    }

    fn next(&mut self, share: usize) -> Option<(u64, Job)> {
        while let Some(connection) = self.turns.pop_front() {
            let Some(line) = self.connections.get_mut(&connection) else { continue };
            line.has_turn = false;
            let Some(job) = line.waiting.pop_front() else { continue };
            line.running += 1;
            // Behind the others.
            self.offer(connection, share);
            return Some((connection, job));
        }
        None
    }

    fn tidy(&mut self, connection: u64) {
        if self.connections.get(&connection).is_some_and(|line| line.waiting.is_empty() && line.running == 0) {
            self.connections.remove(&connection);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::sync::mpsc;

    use super::*;

    #[test]
    fn connections_take_turns_however_many_calls_one_has() {
        let mut queues = Queues::default();
        let (sender, done) = mpsc::channel();
        let mut add = |connection: u64| {
            let sender = sender.clone();
            let job: Job = Box::new(move || sender.send(connection).unwrap());
            queues.connections.entry(connection).or_default().waiting.push_back(job);
            queues.offer(connection, 100);
        };
        (0..5).for_each(|_| add(1));
        (0..2).for_each(|_| add(2));
        while let Some((_, job)) = queues.next(100) {
            job();
        }
        assert_eq!(done.try_iter().collect::<Vec<_>>(), [1, 2, 1, 2, 1, 1, 1]);
    }

    #[test]
    fn one_connection_never_has_all_workers() {
        let pool = Pool::start(2).unwrap();
        let (started, starts) = mpsc::channel();
        let hold = Arc::new((Mutex::new(true), Condvar::new()));
        for _ in 0..10 {
            let (started, hold) = (started.clone(), Arc::clone(&hold));
            pool.push(
                1,
                Box::new(move || {
                    started.send(1).unwrap();
                    let _free = hold.1.wait_while(lock(&hold.0), |held| *held).unwrap();
                }),
            );
        }
        assert_eq!((starts.recv().unwrap(), starts.recv().unwrap()), (1, 1));
        let other = started.clone();
        pool.push(2, Box::new(move || other.send(2).unwrap()));
        assert_eq!(starts.recv().unwrap(), 2, "the light one is served while the heavy one holds what it may");
        pool.forget(1);
        *lock(&hold.0) = false;
        hold.1.notify_all();
        pool.close();
        drop(started);
        assert_eq!(starts.iter().count(), 0, "calls of a connection that was forgotten are not run");
    }
}
