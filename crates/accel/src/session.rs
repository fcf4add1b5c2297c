//! A function's own view of the accelerators: its resources under their names and ids, and operations on them.
//! One a function, made by the watchdog, called by the monitor for every accelerator hypercall; or one a client of an
//! agent, or as many as a host program likes.
//! Never reaches another session's resources: ids are looked up in the session's own table.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kernlet_abi::accel::{Classification, LABEL_MAX};

use crate::{
    AccelError, Arg, Data, Deadline, Dims, Hint, Operation, Profile, Resource, Runtime,
    decode::{self, Generic},
    operation::{Classify, ModelLoad, Ranking, Task, TextOut, TypedIn, TypedOut},
};

/// Longest name of a resource, in bytes: that of a file on Linux.
pub const RESOURCE_NAME_MAX: usize = 255;

/// What a function calls a resource: one for the first registered, then counting up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceId(NonZeroU32);

impl ResourceId {
    /// The number that the guest gets.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// What a session may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Number of resources.
    pub resources: usize,
    /// Sum of their sizes, in bytes.
    pub bytes: u64,
    /// Operations at one time; more are refused.
    pub concurrency: usize,
    /// Time of one operation, whatever its caller's deadline.
    pub operation_time: Option<Duration>,
}

impl Default for Quota {
    /// 64 resources of 4 GiB together: more than any model that runs on a CPU within a request. As many operations as a
    /// function has machines, hence no limit of its own; no time but the caller's.
    fn default() -> Self {
        Self { resources: 64, bytes: 4 * 1024 * 1024 * 1024, concurrency: usize::MAX, operation_time: None }
    }
}

/// How an operation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The plugin that carried it out.
    pub plugin: &'static str,
    /// Time inside the plugin.
    pub elapsed: Duration,
    /// Bytes of arguments that were copied instead of being used in place.
    pub bytes_copied: u64,
    /// The first plugin that declined it, if one did.
    pub fallback_from: Option<&'static str>,
}

/// An operation as raw arguments, for [`Session::run_batch`].
#[derive(Debug)]
pub struct RawCall<'a, 'd> {
    /// One of [`kernlet_abi::accel::operation`].
    pub operation: u32,
    /// Its arguments, where [`Session::run`] fills in what was written.
    pub args: &'a mut [Arg<'d>],
}

/// The accelerators as one function sees them.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    quota: Quota,
    /// Shared with the operations that run, so that none of them keeps another from being set.
    hint: RwLock<Arc<Hint>>,
    resources: RwLock<Table>,
    running: AtomicUsize,
    profile: Profile,
}

/// A session's resources by id. Ids count up, and one that was taken back is not given again.
#[derive(Debug, Default)]
struct Table {
    last: u32,
    entries: BTreeMap<u32, Entry>,
}

#[derive(Debug)]
struct Entry {
    name: Option<String>,
    resource: Resource,
}

impl Session {
    pub(crate) fn new(runtime: Runtime, quota: Quota) -> Self {
        Self {
            runtime,
            quota,
            hint: RwLock::default(),
            resources: RwLock::default(),
            running: AtomicUsize::new(0),
            profile: Profile::default(),
        }
    }

    /// The plugins that it uses.
    #[must_use]
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What it may use.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// What its operations took, if [`Profile::enable`] was called.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Says which plugins it would like best from now on.
    pub fn prefer(&self, hint: Hint) {
        *self.hint.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hint);
    }

    /// Adds a resource under a name of its own.
    ///
    /// # Errors
    /// When the name is taken or no name, or the resource exceeds the session's quota.
    pub fn register(&self, name: &str, contents: Resource) -> Result<ResourceId, AccelError> {
        self.insert(Some(name), contents)
    }

    /// Adds a resource without a name; it is found by its id only.
    ///
    /// # Errors
    /// When the resource exceeds the session's quota.
    pub fn add(&self, contents: Resource) -> Result<ResourceId, AccelError> {
        self.insert(None, contents)
    }

    fn insert(&self, name: Option<&str>, contents: Resource) -> Result<ResourceId, AccelError> {
        let mut table = self.write();
        if let Some(name) = name {
            check_name(&table, name)?;
        }
        self.check_quota(&table, name, &contents)?;
        let id = table.last.checked_add(1).and_then(NonZeroU32::new);
        let id = id.ok_or_else(|| too_many(name, self.quota.resources))?;
        table.last = id.get();
        table.entries.insert(id.get(), Entry { name: name.map(str::to_owned), resource: contents });
        Ok(ResourceId(id))
    }

    /// Takes a resource back. Operations that use it already go on with it.
    ///
    /// # Errors
    /// [`AccelError::UnknownResource`] when the session does not have it, or does not have it any more.
    pub fn unregister(&self, id: u32) -> Result<Resource, AccelError> {
        let entry = self.write().entries.remove(&id);
        entry.map(|entry| entry.resource).ok_or(AccelError::UnknownResource { id })
    }

    /// The resource of this name, and its size in bytes.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(ResourceId, u64)> {
        let table = self.read();
        let (&id, found) = table.entries.iter().find(|(_, entry)| entry.name.as_deref() == Some(name))?;
        Some((ResourceId(NonZeroU32::new(id)?), found.resource.size()))
    }

    /// The resource of this id; of zero, the first that looks like an ONNX model.
    #[must_use]
    pub fn resource(&self, id: u32) -> Option<Resource> {
        let table = self.read();
        let found = match id {
            0 => table.entries.values().find(|entry| entry.resource.is_onnx_model()),
            id => table.entries.get(&id),
        };
        found.map(|entry| entry.resource.clone())
    }

    /// Every resource that has a name: its id, its name, and its size in bytes, in the order of their ids.
    #[must_use]
    pub fn resources(&self) -> Vec<(ResourceId, String, u64)> {
        let named = |(&id, entry): (&u32, &Entry)| {
            Some((ResourceId(NonZeroU32::new(id)?), entry.name.clone()?, entry.resource.size()))
        };
        self.read().entries.iter().filter_map(named).collect()
    }

    /// Loads every ONNX model that is registered, so that the first request does not wait for it.
    /// Does nothing when no plugin runs ONNX models.
    ///
    /// # Errors
    /// [`AccelError::Preload`] naming the first resource that looks like an ONNX model and cannot be loaded.
    pub fn preload(&self) -> Result<(), AccelError> {
        self.preload_until(None)
    }

    /// The same until a moment, after which no model is begun, and plugins are told to be done.
    ///
    /// # Errors
    /// As [`Session::preload`].
    pub fn preload_until(&self, deadline: Option<Instant>) -> Result<(), AccelError> {
        if !self.runtime.has(Operation::OnnxModelLoad) {
            return Ok(());
        }
        let is_model = |entry: &&Entry| entry.resource.is_onnx_model();
        let take = |entry: &Entry| (entry.name.clone().unwrap_or_default(), entry.resource.clone());
        let models: Vec<_> = self.read().entries.values().filter(is_model).map(take).collect();
        for (name, model) in models {
            self.perform(Task::OnnxModelLoad(ModelLoad { model }), deadline)
                .map_err(|error| AccelError::Preload { name, source: Box::new(error) })?;
        }
        Ok(())
    }

    /// Carries out an operation of [`kernlet_abi::accel::operation`] on arguments in place, and fills in
    /// [`Arg::written`] and, of output tensors, [`Arg::dims`].
    ///
    /// A `deadline` that is over before the operation begins is an error. A step that runs is not interrupted:
    /// an inference or a large product may end later than its deadline, though never by more than that step.
    ///
    /// # Errors
    /// [`AccelError`]; then nothing counts as written, though outputs may hold anything.
    pub fn run(&self, operation: u32, args: &mut [Arg<'_>], deadline: Option<Instant>) -> Result<Report, AccelError> {
        args.iter_mut().for_each(|arg| arg.written = 0);
        let result = self.decode_and_perform(operation, args, deadline);
        if result.is_err() {
            forget_results(args);
        }
        result
    }

    /// Carries out several operations in their order, each as [`Session::run`] does, and says of each what became of it. No
    /// bytes that one of them writes may be another's, which the borrows see to.
    ///
    /// Plugins that take several at once, such as an agent, get them at once.
    pub fn run_batch(
        &self,
        calls: &mut [RawCall<'_, '_>],
        deadline: Option<Instant>,
    ) -> Vec<Result<Report, AccelError>> {
        let is_task = |call: &RawCall<'_, '_>| {
            !matches!(Operation::from_abi(call.operation), Ok(Operation::Generic | Operation::Profile))
        };
        if !self.takes_batches() || !calls.iter().all(is_task) {
            return calls.iter_mut().map(|call| self.run(call.operation, call.args, deadline)).collect();
        }
        let tasks = calls.iter_mut().map(|call| {
            call.args.iter_mut().for_each(|arg| arg.written = 0);
            let operation = Operation::from_abi(call.operation)?;
            self.runtime.expect(operation, &self.hint())?;
            decode::decode(operation, call.args, |id| self.resource(id))
        });
        let outcomes = self.perform_batch(tasks.collect(), deadline);
        for (call, _) in calls.iter_mut().zip(&outcomes).filter(|(_, outcome)| outcome.is_err()) {
            forget_results(call.args);
        }
        outcomes
    }

    /// Whether several operations at once gain anything by it: where a plugin takes them so, and the time of an
    /// operation by itself has no limit.
    #[must_use]
    pub fn takes_batches(&self) -> bool {
        self.quota.operation_time.is_none() && self.runtime.takes_batches()
    }

    /// Carries out tasks in their order, as [`Session::run_batch`] does. Of what is no task already, the error is what became
    /// of it.
    pub fn perform_batch(
        &self,
        tasks: Vec<Result<Task<'_>, AccelError>>,
        deadline: Option<Instant>,
    ) -> Vec<Result<Report, AccelError>> {
        if !self.takes_batches() {
            return tasks.into_iter().map(|task| self.perform(task?, deadline)).collect();
        }
        let mut good = Vec::with_capacity(tasks.len());
        let wrong = tasks.into_iter().map(|task| task.map(|task| good.push(task)).err());
        let wrong: Vec<_> = wrong.collect();
        let mut done = self.perform_together(good, deadline.into()).into_iter();
        wrong.into_iter().filter_map(|wrong| wrong.map(Err).or_else(|| done.next())).collect()
    }

    /// Several tasks as one of the operations that the session may have at a time.
    fn perform_together(&self, tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Result<Report, AccelError>> {
        let operations: Vec<_> = tasks.iter().map(|task| task.operation().name()).collect();
        let refused = |why: &dyn Fn(&'static str) -> AccelError| operations.iter().map(|name| Err(why(name))).collect();
        let _running = match operations.first().map(|name| self.begin(name)) {
            None => return Vec::new(),
            Some(Ok(running)) => running,
            Some(Err(_)) => {
                let max = self.quota.concurrency;
                return refused(&|operation| AccelError::TooManyOperations { operation, max });
            }
        };
        if deadline.has_passed() {
            return refused(&|operation| AccelError::DeadlinePassed { operation });
        }
        let outcomes = self.runtime.perform_batch(tasks, &self.hint(), deadline);
        let record = |(operation, (outcome, time)): (&&'static str, (Result<Report, AccelError>, Duration))| {
            self.record(operation, &outcome, time);
            outcome
        };
        operations.iter().zip(outcomes).map(record).collect()
    }

    fn decode_and_perform(
        &self,
        operation: u32,
        args: &mut [Arg<'_>],
        deadline: Option<Instant>,
    ) -> Result<Report, AccelError> {
        let operation = Operation::from_abi(operation)?;
        match operation {
            Operation::Profile => return decode::profile(args, &self.profile),
            Operation::Generic => return self.run_generic(args, deadline),
            _ => (),
        }
        // Nobody is told what is wrong with the arguments of an operation that is not there.
        self.runtime.expect(operation, &self.hint())?;
        self.perform(decode::decode(operation, args, |id| self.resource(id))?, deadline)
    }

    /// Carries out a task whose arguments are checked already, as [`Session::run`] does.
    ///
    /// # Errors
    /// [`AccelError`]; then outputs may hold anything.
    pub fn perform(&self, task: Task<'_>, deadline: Option<Instant>) -> Result<Report, AccelError> {
        let operation = task.operation().name();
        let _running = self.begin(operation)?;
        let allowed = self.quota.operation_time.and_then(|time| Instant::now().checked_add(time));
        let deadline = Deadline::from(deadline).min(allowed.into());
        if deadline.has_passed() {
            return Err(AccelError::DeadlinePassed { operation });
        }
        let hint = self.hint();
        if !self.profile.is_enabled() {
            return self.runtime.perform(task, &hint, deadline);
        }
        let begun = Instant::now();
        let outcome = self.runtime.perform(task, &hint, deadline);
        self.record(operation, &outcome, begun.elapsed());
        outcome
    }

    /// Keeps what an operation took, if that is wanted.
    fn record(&self, operation: &'static str, outcome: &Result<Report, AccelError>, time: Duration) {
        if !self.profile.is_enabled() {
            return;
        }
        match outcome {
            Ok(report) => self.profile.record(&format!("{operation} ({})", report.plugin), report.elapsed),
            Err(_) => self.profile.record(&format!("{operation} (failed)"), time),
        }
    }

    fn run_generic(&self, args: &mut [Arg<'_>], deadline: Option<Instant>) -> Result<Report, AccelError> {
        let (read, write) = decode::typed(args)?;
        self.perform_generic(read, write, deadline)
    }

    /// Carries out vAccel's generic operation: the first of `read` is the operation's number.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn perform_generic(
        &self,
        read: Vec<TypedIn<'_>>,
        write: Vec<TypedOut<'_>>,
        deadline: Option<Instant>,
    ) -> Result<Report, AccelError> {
        match decode::generic(read, write, |id| self.resource(id))? {
            Generic::Task(task) => self.perform(task, deadline),
            Generic::ClassifyText { picture, text } => self.classify_text(picture, text, deadline),
        }
    }

    /// Classifies a picture with the session's first ONNX model and says the best class as vAccel's plugins do, as in
    /// `90.771% canoe`. The labels are the
    /// resource named `labels`, if there is one.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn classify_text(
        &self,
        picture: &[u8],
        mut text: TextOut<'_>,
        deadline: Option<Instant>,
    ) -> Result<Report, AccelError> {
        const OPERATION: Operation = Operation::ImageClassify;
        let mut best = [Classification { class: 0, probability: 0.0, label_len: 0, label: [0; LABEL_MAX] }];
        let mut written = 0;
        let labels = self.find("labels").and_then(|(id, _)| self.resource(id.get()));
        let ranking =
            Ranking::new(&mut best, &mut written).map_err(|e| AccelError::bad_arg(OPERATION, 1, "text", e))?;
        let task = Classify { model: self.resource(0), labels, picture, ranking };
        let report = self.perform(Task::ImageClassify(task), deadline)?;
        let [Classification { class, probability, label_len, label }] = &best;
        let label = usize::try_from(*label_len).ok().and_then(|len| str::from_utf8(label.get(..len)?).ok());
        let line = match label.unwrap_or_default() {
            "" => format!("{:.3}% class {class}", probability * 100.0),
            // A plugin that is not sure of anything has no probability to give.
            label if *probability == 0.0 => label.to_owned(),
            label => format!("{:.3}% {label}", probability * 100.0),
        };
        text.fill(&line).map_err(|error| AccelError::bad_arg(OPERATION, 1, "text", error))?;
        Ok(report)
    }

    fn hint(&self) -> Arc<Hint> {
        Arc::clone(&self.hint.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes one of the places for operations.
    fn begin(&self, operation: &'static str) -> Result<Running<'_>, AccelError> {
        let max = self.quota.concurrency;
        let more = |running: usize| (running < max).then_some(running + 1);
        match self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Running(&self.running)),
            Err(_) => Err(AccelError::TooManyOperations { operation, max }),
        }
    }

    fn check_quota(&self, table: &Table, name: Option<&str>, contents: &Resource) -> Result<(), AccelError> {
        if table.entries.len() >= self.quota.resources {
            return Err(too_many(name, self.quota.resources));
        }
        let used: u64 = table.entries.values().map(|entry| entry.resource.size()).sum();
        let left = self.quota.bytes.saturating_sub(used);
        let size = contents.size();
        if size > left {
            return Err(AccelError::ResourcesTooLarge { name: shown(name), size, left });
        }
        Ok(())
    }

    // The table is whole between any two statements, so that a panic elsewhere leaves it usable.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.resources.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.resources.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the operations of a session, given back when dropped.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_name(table: &Table, name: &str) -> Result<(), AccelError> {
    if name.is_empty() || name.len() > RESOURCE_NAME_MAX || name.contains(char::is_control) {
        return Err(AccelError::BadResourceName { name: name.escape_debug().to_string(), max: RESOURCE_NAME_MAX });
    }
    if table.entries.values().any(|entry| entry.name.as_deref() == Some(name)) {
        return Err(AccelError::DuplicateResource { name: name.to_owned() });
    }
    Ok(())
}

fn too_many(name: Option<&str>, max: usize) -> AccelError {
    AccelError::TooManyResources { name: shown(name), max }
}

fn shown(name: Option<&str>) -> String {
    name.unwrap_or("(without a name)").to_owned()
}

/// Nothing is written, and outputs have no shape.
fn forget_results(args: &mut [Arg<'_>]) {
    for arg in args {
        arg.written = 0;
        if matches!(arg.data, Data::Out(_)) {
            arg.dims = Dims::NONE;
        }
    }
}
