//! Accelerator operations that go on long after their deadline. Nothing stops a plugin in the middle of a step, which with a hostile
//! model never ends: the process ends then, in place of one of its threads, and another one serves.
//! Wraps the function's plugins; the keeper asks it what is late. Never changes what a plugin does.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use kernlet_accel::{Answer, Cost, Deadline, Done, Kinds, Operation, Plugin, PluginError, operation::Task};
use tokio::sync::Notify;

use crate::keeper::Keeper;

/// How long a step may go on after the deadline of its operation, as in an agent.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// The operations that are under way.
#[derive(Debug, Default)]
pub(crate) struct Oversight {
    running: Mutex<Running>,
    /// Whose thread has to look up before an operation is late.
    keeper: OnceLock<Arc<Keeper>>,
    overrun: OnceLock<Overrun>,
    alarm: Notify,
}

#[derive(Debug, Default)]
struct Running {
    last: u64,
    operations: BTreeMap<u64, (Instant, Overrun)>,
}

/// An operation that does not end.
#[derive(Clone, Copy, Debug)]
pub struct Overrun {
    plugin: &'static str,
    operation: Operation,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {} carried out {} for more than {GRACE:?} beyond its deadline", self.plugin, self.operation)
    }
}

impl Oversight {
    /// The same plugins, watched.
    pub(crate) fn over(self: &Arc<Self>, plugins: Vec<Arc<dyn Plugin>>) -> Vec<Arc<dyn Plugin>> {
        let over = |plugin| Arc::new(Overseen { plugin, oversight: Arc::clone(self) }) as Arc<dyn Plugin>;
        plugins.into_iter().map(over).collect()
    }

    /// Says whose thread looks at it from now on.
    pub(crate) fn is_kept_by(&self, keeper: &Arc<Keeper>) {
        let _ = self.keeper.set(Arc::clone(keeper));
    }

    /// Raises the alarm if an operation is late; says when the next one will be.
    pub(crate) fn look(&self, now: Instant) -> Option<Instant> {
        let running = self.running();
        if let Some((_, overrun)) = running.operations.values().find(|(due, _)| *due <= now)
            && self.overrun.set(*overrun).is_ok()
        {
            self.alarm.notify_one();
        }
        running.operations.values().map(|(due, _)| *due).filter(|due| *due > now).min()
    }

    /// Waits until an operation is late.
    pub(crate) async fn alarm(&self) {
        self.alarm.notified().await;
    }

    /// The first operation that was late.
    pub(crate) fn overrun(&self) -> Option<Overrun> {
        self.overrun.get().copied()
    }

    /// How many are late by now.
    pub(crate) fn late(&self, now: Instant) -> usize {
        self.running().operations.values().filter(|(due, _)| *due <= now).count()
    }

    fn begin(&self, plugin: &'static str, operation: Operation, deadline: Deadline) -> Option<Under<'_>> {
        let due = deadline.instant()?.checked_add(GRACE)?;
        let mut running = self.running();
        running.last += 1;
        let id = running.last;
        running.operations.insert(id, (due, Overrun { plugin, operation }));
        drop(running);
        if let Some(keeper) = self.keeper.get() {
            keeper.expect(due);
        }
        Some(Under { oversight: self, id })
    }

    // The map is whole between any two statements, so that a panic elsewhere leaves it usable.
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation while it runs.
struct Under<'a> {
    oversight: &'a Oversight,
    id: u64,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.oversight.running().operations.remove(&self.id);
    }
}

/// A plugin that is watched.
#[derive(Debug)]
struct Overseen {
    plugin: Arc<dyn Plugin>,
    oversight: Arc<Oversight>,
}

impl Plugin for Overseen {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn operations(&self) -> &[Operation] {
        self.plugin.operations()
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        self.plugin.cost(task)
    }

    fn calibrate(&self) {
        self.plugin.calibrate();
    }

    fn kinds(&self) -> Kinds {
        self.plugin.kinds()
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let _under = self.oversight.begin(self.plugin.name(), task.operation(), deadline);
        self.plugin.run(task, deadline)
    }

    fn batch_max(&self) -> usize {
        self.plugin.batch_max()
    }

    fn run_batch(&self, tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Answer> {
        let first = tasks.first().map(Task::operation);
        let _under = first.map(|operation| self.oversight.begin(self.plugin.name(), operation, deadline));
        self.plugin.run_batch(tasks, deadline)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_late_when_it_goes_on_after_its_deadline_and_not_before() {
        let (oversight, now) = (Oversight::default(), Instant::now());
        let begin = |millis| {
            let deadline = Some(now + Duration::from_millis(millis)).into();
            oversight.begin("slow", Operation::Noop, deadline).unwrap()
        };
        assert!(oversight.begin("slow", Operation::Noop, Deadline::NONE).is_none());
        let (early, late) = (begin(1), begin(2));
        let due = |millis| now + GRACE + Duration::from_millis(millis);
        assert_eq!(oversight.look(now), Some(due(1)));
        drop(early);
        assert_eq!(oversight.look(due(1)), Some(due(2)));
        assert!(oversight.overrun().is_none());
        assert_eq!(oversight.look(due(2)), None);
        assert_eq!(oversight.late(due(2)), 1);
        assert!(oversight.overrun().unwrap().to_string().starts_with("plugin slow carried out noop for more than 2s"));
        drop(late);
        assert_eq!(oversight.late(due(2)), 0);
    }
}
