//! What an accelerator plugin is: a name, the operations it has and what they cost, and a way to run one.
//! Implemented by kernlet-accel-plugins; called by the runtime only.
//! A plugin never sees raw arguments or resource ids: it gets a [`Task`], whose lengths are checked.

use std::{error::Error, fmt::Debug, time::Instant};

use kernlet_abi::hypercall::status;

use crate::operation::{ArgError, Operation, Task};

/// Something that carries out operations: a library, a device, another process.
pub trait Plugin: Send + Sync + Debug {
    /// Its name in messages and reports, such as `rten`.
    fn name(&self) -> &'static str;

    /// The operations it has. Asked once, when a runtime is made.
    fn operations(&self) -> &[Offer];

    /// Carries out one operation; called from many threads at once.
    ///
    /// # Errors
    /// [`PluginError`] says whose fault it is; a task of an operation that was never offered is
    /// [`PluginError::NotOffered`].
    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError>;
}

/// One operation that a plugin has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Which.
    pub operation: Operation,
    /// What it costs there.
    pub cost: Cost,
}

/// Typical time of an operation, in microseconds, on what the plugin drives. Of several plugins that have an
/// operation, the cheapest gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(pub u32);

/// What a plugin says about an operation that it carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Done {
    /// Bytes of arguments that were copied instead of being used in place: inputs that were converted, and outputs
    /// that a library first made in memory of its own. What a plugin makes for itself (a decoded picture, a packed
    /// matrix) does not count.
    pub bytes_copied: u64,
}

/// The moment after which nobody waits for the result, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self(None);

    /// Whether it is over.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Goes on unless it is over. Plugins call it between steps; nothing interrupts a step that runs.
    ///
    /// # Errors
    /// [`PluginError::DeadlinePassed`], naming the step that was to begin.
    pub fn check(self, step: &'static str) -> Result<(), PluginError> {
        if self.has_passed() { Err(PluginError::DeadlinePassed { step }) } else { Ok(()) }
    }
}

impl From<Option<Instant>> for Deadline {
    fn from(deadline: Option<Instant>) -> Self {
        Self(deadline)
    }
}

/// Why a plugin did not carry out an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// What it was given is wrong: a picture that is none, a model that does not fit.
    #[error(transparent)]
    Invalid(Box<dyn Error + Send + Sync>),
    /// An argument does not fit what the operation turned out to need.
    #[error(transparent)]
    Arg(#[from] ArgError),
    /// It takes more memory than there is or than the plugin grants.
    #[error(transparent)]
    OutOfMemory(Box<dyn Error + Send + Sync>),
    /// The plugin or its hardware failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
    /// The deadline was over between two steps.
    #[error("the request's time was over before {step}")]
    DeadlinePassed {
        /// The step that was to begin.
        step: &'static str,
    },
    /// The plugin does not have the operation.
    #[error("it never offered {operation}")]
    NotOffered {
        /// Which.
        operation: Operation,
    },
}

impl PluginError {
    /// The fault of what was given.
    pub fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Invalid(error.into())
    }

    /// The fault of the plugin or its hardware.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// Too large to be done.
    pub fn out_of_memory(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::OutOfMemory(error.into())
    }

    /// What the guest gets as the call's status.
    pub(crate) const fn status(&self) -> i32 {
        match self {
            Self::Invalid(_) => status::EINVAL,
            Self::Arg(error) => error.status(),
            Self::OutOfMemory(_) => status::ENOMEM,
            Self::Failed(_) => status::EIO,
            Self::DeadlinePassed { .. } => status::ETIMEDOUT,
            Self::NotOffered { .. } => status::ENOTSUP,
        }
    }
}
