//! Routes each operation to the best plugin that has it.
//! Made once a process by the watchdog, an agent or a host program, who take sessions from it.
//! Never binds a session to one plugin, and lets no plugin's panic reach the caller.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    AccelError, Answer, Cost, Deadline, Done, Hint, Operation, Plugin, PluginError, Quota, Report, Session,
    operation::Task,
};

/// What became of an operation, and how long it took.
pub(crate) type Timed = (Result<Report, AccelError>, Duration);

/// The plugins of a process. Cheap to clone; clones share the plugins.
#[derive(Clone, Debug)]
pub struct Runtime {
    plugins: Arc<[Arc<dyn Plugin>]>,
    absent: Arc<[Absent]>,
}

/// A plugin that could be there and is not, so that a missing operation can say what would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Its name.
    pub plugin: &'static str,
    /// What it would have.
    pub operations: &'static [Operation],
    /// Why it is not there, and what to do about it, such as `libopenblas.so.0 is not found; install libopenblas0`.
    pub why: String,
}

impl Runtime {
    /// A runtime with these plugins. Where several have an operation, the cheapest for the task gets it, and of equally
    /// cheap ones the first. Plugins that share an operation find out now what it takes here ([`Plugin::calibrate`]).
    #[must_use]
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self::with_absent(plugins, Vec::new())
    }

    /// The same, which also knows of plugins that are not there.
    #[must_use]
    pub fn with_absent(plugins: Vec<Arc<dyn Plugin>>, absent: Vec<Absent>) -> Self {
        let this = Self { plugins: plugins.into(), absent: absent.into() };
        this.calibrate();
        this
    }

    /// Lets the plugins that are to be compared find out what they cost. One that breaks down over it is compared as it is.
    fn calibrate(&self) {
        for plugin in self.plugins.iter() {
            let shares = |operation: &Operation| {
                self.plugins.iter().filter(|other| other.operations().contains(operation)).nth(1).is_some()
            };
            if plugin.operations().iter().any(shares)
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| plugin.calibrate()))
            {
                tracing::warn!(plugin = plugin.name(), panic = panic_text(&*panic), "a plugin cannot tell its speed");
            }
        }
    }

    /// A session for one function, without resources, with the default quota.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session_with(Quota::default())
    }

    /// A session for one function, without resources, with this quota.
    #[must_use]
    pub fn session_with(&self, quota: Quota) -> Session {
        Session::new(self.clone(), quota)
    }

    /// The plugins, in the order in which they were given.
    #[must_use]
    pub fn plugins(&self) -> &[Arc<dyn Plugin>] {
        &self.plugins
    }

    /// The plugins that are not there.
    #[must_use]
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }

    /// Whether any plugin has an operation.
    #[must_use]
    pub fn has(&self, operation: Operation) -> bool {
        self.plugins.iter().any(|plugin| plugin.operations().contains(&operation))
    }

    /// Goes on if an operation can be carried out at all.
    pub(crate) fn expect(&self, operation: Operation, hint: &Hint) -> Result<(), AccelError> {
        let batch = operation == Operation::OnnxModelRunBatch && self.has(Operation::OnnxModelRun);
        if self.has(operation) || batch { Ok(()) } else { Err(self.no_plugin(operation, hint)) }
    }

    /// Carries out a task on the best plugin, and on the next best when one declines.
    pub(crate) fn perform(&self, mut task: Task<'_>, hint: &Hint, deadline: Deadline) -> Result<Report, AccelError> {
        let operation = task.operation();
        let mut candidates = Candidates { plugins: &self.plugins, hint, tried: 0 };
        let Some(mut plugin) = candidates.next(&task) else {
            return self.missing(task, hint, deadline);
        };
        let mut fallback_from = None;
        loop {
            match run(plugin, task.reborrow(), deadline) {
                Err(AccelError::Plugin { source: PluginError::Declined { reason }, .. }) => {
                    let Some(next) = candidates.next(&task) else {
                        if let Some(outcome) = self.one_by_one(&mut task, hint, deadline) {
                            let from = fallback_from.unwrap_or(plugin.name());
                            tracing::info!(%operation, plugin = from, reason, "a batch that is declined is run set by set");
                            return outcome.map(|report| Report { fallback_from: Some(from), ..report });
                        }
                        let source = PluginError::Declined { reason };
                        return Err(AccelError::Plugin { plugin: plugin.name(), operation: operation.name(), source });
                    };
                    let (from, to) = (plugin.name(), next.name());
                    tracing::info!(%operation, plugin = from, next = to, reason, "accelerator plugin declines");
                    fallback_from = fallback_from.or(Some(from));
                    plugin = next;
                }
                outcome => return outcome.map(|report| Report { fallback_from, ..report }),
            }
        }
    }

    /// Whether a plugin takes several operations at once.
    pub(crate) fn takes_batches(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.batch_max() > 1)
    }

    /// Carries out several tasks in their order, and says what became of each and how long it took; those in a row that one
    /// plugin takes at once go there together. One that is declined is carried out after those that went with it.
    pub(crate) fn perform_batch(&self, tasks: Vec<Task<'_>>, hint: &Hint, deadline: Deadline) -> Vec<Timed> {
        let best = |task: &Task<'_>| Candidates { plugins: &self.plugins, hint, tried: 0 }.next(task);
        let mut outcomes = Vec::with_capacity(tasks.len());
        let mut tasks = tasks.into_iter().peekable();
        while let Some(task) = tasks.next() {
            let Some(plugin) = best(&task).filter(|plugin| plugin.batch_max() > 1) else {
                outcomes.push(self.perform_timed(task, hint, deadline));
                continue;
            };
            let mut group = vec![task];
            let same = |task: &Task<'_>| best(task).is_some_and(|other| std::ptr::addr_eq(other, plugin));
            while let Some(task) = tasks.next_if(|task| group.len() < plugin.batch_max() && same(task)) {
                group.push(task);
            }
            outcomes.extend(self.perform_together(plugin, group, hint, deadline));
        }
        outcomes
    }

    fn perform_timed(&self, task: Task<'_>, hint: &Hint, deadline: Deadline) -> Timed {
        let begun = Instant::now();
        let outcome = self.perform(task, hint, deadline);
        (outcome, begun.elapsed())
    }

    fn perform_together(
        &self,
        plugin: &dyn Plugin,
        mut group: Vec<Task<'_>>,
        hint: &Hint,
        deadline: Deadline,
    ) -> Vec<Timed> {
        let name = plugin.name();
        let lent = group.iter_mut().map(Task::reborrow).collect();
        let answers = catch_unwind(AssertUnwindSafe(|| plugin.run_batch(lent, deadline)));
        let panic = answers.as_ref().err().map(|panic| panic_text(&**panic));
        let mut answers = answers.unwrap_or_default().into_iter();
        let outcome = |task: Task<'_>| {
            let operation = task.operation().name();
            let failed = |source| AccelError::Plugin { plugin: name, operation, source };
            match (answers.next(), &panic) {
                (Some(Answer { outcome: Err(PluginError::Declined { .. }), .. }), _) => {
                    self.perform_timed(task, hint, deadline)
                }
                (Some(Answer { outcome, elapsed }), _) => {
                    let report =
                        |Done { bytes_copied }| Report { plugin: name, elapsed, bytes_copied, fallback_from: None };
                    (outcome.map(report).map_err(failed), elapsed)
                }
                (None, Some(panic)) => {
                    let panic = panic.clone();
                    (Err(AccelError::PluginPanic { plugin: name, operation, panic }), Duration::ZERO)
                }
                (None, None) => {
                    let silence = PluginError::failed("it does not say what became of the operation");
                    (Err(failed(silence)), Duration::ZERO)
                }
            }
        };
        group.into_iter().map(outcome).collect()
    }

    /// A task whose operation no plugin has: one that consists of others, or an error.
    fn missing(&self, mut task: Task<'_>, hint: &Hint, deadline: Deadline) -> Result<Report, AccelError> {
        let operation = task.operation();
        self.one_by_one(&mut task, hint, deadline).unwrap_or_else(|| Err(self.no_plugin(operation, hint)))
    }

    /// A batch as so many runs, if it is one and there is a plugin for them.
    fn one_by_one(&self, task: &mut Task<'_>, hint: &Hint, deadline: Deadline) -> Option<Result<Report, AccelError>> {
        let Task::OnnxModelRunBatch(batch) = task else { return None };
        self.has(Operation::OnnxModelRun).then(|| {
            batch.runs().try_fold(Report::default(), |total, run| {
                let report = self.perform(Task::OnnxModelRun(run), hint, deadline)?;
                Ok(Report {
                    elapsed: total.elapsed + report.elapsed,
                    bytes_copied: total.bytes_copied + report.bytes_copied,
                    fallback_from: total.fallback_from.or(report.fallback_from),
                    ..report
                })
            })
        })
    }

    /// That no plugin has an operation: those there are, and those that would have it.
    fn no_plugin(&self, operation: Operation, hint: &Hint) -> AccelError {
        let mut plugins = self.inventory();
        if hint.strict && self.has(operation) {
            plugins = format!("only {hint} is to be used, and {plugins}");
        }
        for absent in self.absent.iter().filter(|absent| absent.operations.contains(&operation)) {
            plugins = format!("{plugins}; {} would have it: {}", absent.plugin, absent.why);
        }
        AccelError::NoPlugin { operation: operation.name(), plugins }
    }

    /// The plugins and what they have, in words.
    fn inventory(&self) -> String {
        if self.plugins.is_empty() {
            return "no plugin is loaded".to_owned();
        }
        let describe = |plugin: &Arc<dyn Plugin>| {
            let operations: Vec<_> = plugin.operations().iter().map(|operation| operation.name()).collect();
            format!("{} ({})", plugin.name(), operations.join(", "))
        };
        let plugins: Vec<_> = self.plugins.iter().map(describe).collect();
        format!("loaded are {}", plugins.join(", "))
    }
}

/// The plugins that have an operation, best first: those that the hint names, then those of the kinds that it asks for,
/// then the others; of each, the cheapest.
struct Candidates<'a> {
    plugins: &'a [Arc<dyn Plugin>],
    hint: &'a Hint,
    /// A bit for each plugin that was there already. Plugins beyond 64 are not considered; there are about ten.
    tried: u64,
}

impl<'a> Candidates<'a> {
    fn next(&mut self, task: &Task<'_>) -> Option<&'a dyn Plugin> {
        let operation = task.operation();
        let mut fitting = (0_u32..64).zip(self.plugins).filter(|&(index, plugin)| {
            self.tried >> index & 1 == 0
                && plugin.operations().contains(&operation)
                && (!self.hint.strict || self.hint.rank(&**plugin) < Hint::LAST)
        });
        let first = fitting.next()?;
        // A lone plugin is not asked for its cost.
        let best = fitting
            .map(|(index, plugin)| (self.hint.rank(&**plugin), cost(&**plugin, task), index, plugin))
            .fold(None, |best: Option<(u8, Cost, u32, &Arc<dyn Plugin>)>, next| {
                let best =
                    best.unwrap_or_else(|| (self.hint.rank(&**first.1), cost(&**first.1, task), first.0, first.1));
                Some(if (next.0, next.1) < (best.0, best.1) { next } else { best })
            });
        let (index, plugin) = best.map_or(first, |(_, _, index, plugin)| (index, plugin));
        self.tried |= 1 << index;
        Some(&**plugin)
    }
}

/// What a plugin expects of a task; of one that breaks down over the question, the most there is.
fn cost(plugin: &dyn Plugin, task: &Task<'_>) -> Cost {
    catch_unwind(AssertUnwindSafe(|| plugin.cost(task))).unwrap_or(Cost::nanos(u64::MAX))
}

/// Runs a task on a plugin and measures it.
fn run(plugin: &dyn Plugin, task: Task<'_>, deadline: Deadline) -> Result<Report, AccelError> {
    let operation = task.operation().name();
    let name = plugin.name();
    let start = Instant::now();
    // Plugins parse pictures and models with other people's code, and one bad file must cost one request, not
    // the process. What the task borrows is bytes whose content nobody relies on after an error.
    let done: Result<Done, PluginError> = catch_unwind(AssertUnwindSafe(|| plugin.run(task, deadline)))
        .map_err(|panic| AccelError::PluginPanic { plugin: name, operation, panic: panic_text(&*panic) })?;
    let done = done.map_err(|source| AccelError::Plugin { plugin: name, operation, source })?;
    Ok(Report { plugin: name, elapsed: start.elapsed(), bytes_copied: done.bytes_copied, fallback_from: None })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
