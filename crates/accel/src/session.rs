//! A function's own view of the accelerators: its resources under their names and ids, and operations on them.
//! One a function, made by the watchdog, called by the monitor for every accelerator hypercall.
//! Never reaches another session's resources: ids index the session's own table.

use std::{
    num::NonZeroU32,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use crate::{
    AccelError, Arg, Data, Deadline, Dims, Operation, Resource, Runtime,
    decode::decode,
    operation::{ModelLoad, Task},
    runtime,
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

/// How much a session may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Number of resources.
    pub resources: usize,
    /// Sum of their sizes, in bytes.
    pub bytes: u64,
}

impl Default for Quota {
    /// 64 resources of 4 GiB together: more than any model that runs on a CPU within a request.
    fn default() -> Self {
        Self { resources: 64, bytes: 4 * 1024 * 1024 * 1024 }
    }
}

/// How an operation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The plugin that carried it out.
    pub plugin: &'static str,
    /// Time inside the plugin.
    pub elapsed: Duration,
    /// Bytes of arguments that were copied instead of being used in place.
    pub bytes_copied: u64,
}

/// The accelerators as one function sees them.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    quota: Quota,
    resources: RwLock<Vec<Named>>,
}

#[derive(Debug)]
struct Named {
    name: String,
    resource: Resource,
}

impl Session {
    pub(crate) const fn new(runtime: Runtime, quota: Quota) -> Self {
        Self { runtime, quota, resources: RwLock::new(Vec::new()) }
    }

    /// Adds a resource under a name of its own.
    ///
    /// # Errors
    /// When the name is taken or no name, or the resource exceeds the session's quota.
    pub fn register(&self, name: &str, contents: Resource) -> Result<ResourceId, AccelError> {
        let mut resources = self.write();
        check_name(&resources, name)?;
        self.check_quota(&resources, name, &contents)?;
        resources.push(Named { name: name.to_owned(), resource: contents });
        let id = u32::try_from(resources.len()).ok().and_then(NonZeroU32::new);
        id.map(ResourceId).ok_or_else(|| too_many(name, self.quota.resources))
    }

    /// The resource of this name, and its size in bytes.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(ResourceId, u64)> {
        let resources = self.read();
        let (id, found) = (1..).zip(resources.iter()).find(|(_, named)| named.name == name)?;
        Some((ResourceId(NonZeroU32::new(id)?), found.resource.size()))
    }

    /// Every resource: its id, its name, and its size in bytes, in the order of their ids.
    #[must_use]
    pub fn resources(&self) -> Vec<(ResourceId, String, u64)> {
        let ids = (1..).filter_map(NonZeroU32::new).map(ResourceId);
        ids.zip(self.read().iter()).map(|(id, named)| (id, named.name.clone(), named.resource.size())).collect()
    }

    /// Loads every ONNX model that is registered, so that the first request does not wait for it.
    /// Does nothing when no plugin runs ONNX models.
    ///
    /// # Errors
    /// [`AccelError::Preload`] naming the first resource that looks like an ONNX model and cannot be loaded.
    pub fn preload(&self) -> Result<(), AccelError> {
        let Ok(plugin) = self.runtime.route(Operation::OnnxModelLoad) else {
            return Ok(());
        };
        let is_model = |named: &&Named| named.resource.is_onnx_model();
        let take = |named: &Named| (named.name.clone(), named.resource.clone());
        let models: Vec<_> = self.read().iter().filter(is_model).map(take).collect();
        for (name, model) in models {
            runtime::run(plugin, Task::OnnxModelLoad(ModelLoad { model }), Deadline::NONE)
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
        forget_results(args);
        let result = self.decode_and_run(operation, args, deadline.into());
        if result.is_err() {
            forget_results(args);
        }
        result
    }

    fn decode_and_run(&self, operation: u32, args: &mut [Arg<'_>], deadline: Deadline) -> Result<Report, AccelError> {
        let operation = Operation::from_abi(operation)?;
        let plugin = self.runtime.route(operation)?;
        let task = decode(operation, args, |id| self.resource(id))?;
        if deadline.has_passed() {
            return Err(AccelError::DeadlinePassed { operation: operation.name() });
        }
        runtime::run(plugin, task, deadline)
    }

    fn resource(&self, id: u32) -> Option<Resource> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        self.read().get(index).map(|named| named.resource.clone())
    }

    fn check_quota(&self, resources: &[Named], name: &str, contents: &Resource) -> Result<(), AccelError> {
        if resources.len() >= self.quota.resources {
            return Err(too_many(name, self.quota.resources));
        }
        let used: u64 = resources.iter().map(|named| named.resource.size()).sum();
        let left = self.quota.bytes.saturating_sub(used);
        let size = contents.size();
        if size > left {
            return Err(AccelError::ResourcesTooLarge { name: name.to_owned(), size, left });
        }
        Ok(())
    }

    // The table is whole between any two statements, so that a panic elsewhere leaves it usable.
    fn read(&self) -> RwLockReadGuard<'_, Vec<Named>> {
        self.resources.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Named>> {
        self.resources.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_name(resources: &[Named], name: &str) -> Result<(), AccelError> {
    if name.is_empty() || name.len() > RESOURCE_NAME_MAX || name.contains(char::is_control) {
        return Err(AccelError::BadResourceName { name: name.escape_debug().to_string(), max: RESOURCE_NAME_MAX });
    }
    if resources.iter().any(|named| named.name == name) {
        return Err(AccelError::DuplicateResource { name: name.to_owned() });
    }
    Ok(())
}

fn too_many(name: &str, max: usize) -> AccelError {
    AccelError::TooManyResources { name: name.to_owned(), max }
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
