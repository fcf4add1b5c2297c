//! The operations: each goes to the session's plugin library, if that has it, and otherwise to Kernlet's runtime.
//! Called by C programs, directly or through the generic operation. A pointer goes to Kernlet's plugins only as a slice
//! whose length was checked; two slices of one operation never overlap where one of them is written.

mod arrays;
mod exec;
mod generic;
mod image;
mod matrix;
mod model;

use std::{
    ffi::{c_int, c_void},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use kernlet_accel::{AccelError, Operation, operation::Task};

use crate::{
    binding::Binding,
    core,
    errno::{EBACKEND, EINVAL, EIO, EPERM, Errno, Result},
    library::Library,
    registry::{self, Place},
    types::{OPERATIONS, Resource, Session},
};

/// An operation under way in a session.
pub(crate) struct Call {
    place: Place<Session>,
    binding: Arc<Binding>,
    operation: Operation,
}

impl Call {
    /// Carries out a task on Kernlet's own plugins.
    pub(crate) fn run(&self, task: Task<'_>) -> Result {
        self.finish(self.binding.session().perform(task, None))
    }

    /// What C gets for an outcome of the runtime's; what failed is in the log.
    pub(crate) fn finish<T>(&self, outcome: std::result::Result<T, AccelError>) -> Result {
        outcome.map(|_| ()).map_err(|error| {
            error!("{}", error.message());
            errno_of(&error)
        })
    }
}

/// Carries out an operation in a session: `call` on a plugin library's function for it, or `own` on Kernlet's plugins.
///
/// # Safety
/// `F` is the type of the functions that plugins have for the operation.
pub(crate) unsafe fn perform<F: Copy>(
    session: Option<NonNull<Session>>,
    operation: Operation,
    call: impl Fn(F, *mut Session) -> c_int,
    own: impl FnOnce(&Call) -> Result,
) -> Result {
    let place = Place::new(session)?;
    let binding = registry::read().binding(place)?;
    let _timed = Timed::begin(operation);
    let index = index(operation);
    let run = |library: &Library, function: NonNull<c_void>| {
        debug!("{operation} goes to plugin {}", library.name());
        // SAFETY: a plugin's function for the operation has this type, as the caller promises.
        Errno::check(call(unsafe { as_function(function) }, place.as_ptr()))
    };
    if let Some(library) = binding.library() {
        if let Some(function) = library.function(index) {
            return run(library, function);
        }
        if library.is_remote() {
            error!("remote plugin {} does not have {operation}", library.name());
            return Err(crate::errno::ENOTSUP);
        }
        info!("plugin {} does not have {operation}; another is asked", library.name());
    }
    if !binding.session().runtime().has(operation) {
        let other = binding.others().find_map(|library| Some((library, library.function(index)?)));
        if let Some((library, function)) = other {
            info!("Kernlet's plugins do not have {operation}; plugin {} does", library.name());
            return run(library, function);
        }
    }
    own(&Call { place, binding: Arc::clone(&binding), operation })
}

/// The place of an operation among a plugin's.
fn index(operation: Operation) -> usize {
    usize::try_from(operation.abi_number()).unwrap_or(usize::MAX)
}

/// A plugin's function as what it is.
///
/// # Safety
/// The function has this type.
unsafe fn as_function<F: Copy>(function: NonNull<c_void>) -> F {
    const { assert!(size_of::<F>() == size_of::<NonNull<c_void>>()) };
    // SAFETY: a function pointer is as large as any, and of this type as the caller promises.
    unsafe { std::mem::transmute_copy(&function) }
}

/// A resource that an operation names: of this type, and registered in the session.
pub(crate) fn checked(
    session: Option<NonNull<Session>>,
    resource: Option<NonNull<Resource>>,
    kind: u32,
) -> Result<Place<Resource>> {
    let (session, resource) = (Place::new(session)?, Place::new(resource)?);
    if resource.kind() != kind {
        error!("resource {} is not of the type that the operation takes", resource.id());
        return Err(EINVAL);
    }
    if !registry::read().is_registered(resource, session) {
        error!("resource {} is not registered in the session", resource.id());
        return Err(EPERM);
    }
    Ok(resource)
}

/// What C gets for an error of the runtime's.
pub(crate) fn errno_of(error: &AccelError) -> Errno {
    match error {
        AccelError::PluginPanic { .. } => EBACKEND,
        error => Errno::check(error.status()).err().unwrap_or(EIO),
    }
}

/// How often each operation was carried out, and how long that took, while profiling is enabled.
static PROFILE: [(AtomicU64, AtomicU64); OPERATIONS] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; OPERATIONS];

struct Timed {
    operation: Operation,
    begun: Option<Instant>,
}

impl Timed {
    fn begin(operation: Operation) -> Self {
        Self { operation, begun: core::profiling_enabled().then(Instant::now) }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let (Some(begun), Some((count, total))) = (self.begun, PROFILE.get(index(self.operation))) else { return };
        count.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Logs what the operations took, and begins anew.
pub(crate) fn print_profile() {
    for operation in Operation::ALL {
        let Some((count, total)) = PROFILE.get(index(*operation)) else { continue };
        let (count, total) = (count.swap(0, Ordering::Relaxed), total.swap(0, Ordering::Relaxed));
        if count > 0 {
            info!("[prof] {operation}: total_time: {total} nsec nr_entries: {count}");
        }
    }
}

/// An error when ranges of memory, one of which is written, have bytes in common.
pub(crate) fn check_apart<T, U>(written: *const T, written_len: usize, other: *const U, other_len: usize) -> Result {
    let bytes = |len: usize, size: usize| len.checked_mul(size).ok_or(EINVAL);
    let (written_size, other_size) = (bytes(written_len, size_of::<T>())?, bytes(other_len, size_of::<U>())?);
    let (written, other) = (written.addr(), other.addr());
    let apart = written_size == 0
        || other_size == 0
        || written.saturating_add(written_size) <= other
        || other.saturating_add(other_size) <= written;
    if apart {
        return Ok(());
    }
    error!("an operation reads what it writes");
    Err(EINVAL)
}

type NoopFunction = unsafe extern "C" fn(*mut Session) -> c_int;

api! {
    fn vaccel_noop(session: Option<NonNull<Session>>) {
        noop(session)
    }
}

fn noop(session: Option<NonNull<Session>>) -> Result {
    // SAFETY: that is the function's type; it gets the session that C gave.
    let call = |f: NoopFunction, s| unsafe { f(s) };
    // SAFETY: as above.
    unsafe { perform(session, Operation::Noop, call, |call| call.run(Task::Noop)) }
}
