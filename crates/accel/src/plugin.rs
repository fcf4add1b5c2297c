//! What an accelerator plugin is: a name, the operations it has and what they cost, and a way to run one.
//! Implemented by kernlet-accel-plugins; called by the runtime only.
//! A plugin never sees raw arguments or resource ids: it gets a [`Task`], whose lengths are checked.

use std::{
    error::Error,
    fmt::Debug,
    time::{Duration, Instant},
};

use kernlet_abi::hypercall::status;

use crate::operation::{ArgError, Operation, Task};

/// Something that carries out operations: a library, a device, another process.
pub trait Plugin: Send + Sync + Debug {
    /// Its name in messages, reports and configuration, such as `rten`.
    fn name(&self) -> &'static str;

    /// The operations it has; the same ones as long as it lives.
    fn operations(&self) -> &[Operation];

    /// What it expects this very task to take. Of several plugins that have an operation, the cheapest gets it.
    /// Called for each task where there is a choice, so it has to be a matter of nanoseconds.
    fn cost(&self, task: &Task<'_>) -> Cost;

    /// Finds out what its operations take on this host, so that [`Plugin::cost`] can say it. Called when a runtime is made in
    /// which another plugin has one of its operations too, so that it may take some milliseconds; once is enough. A plugin
    /// that knows by itself has nothing to do.
    fn calibrate(&self) {}

    /// What it is, for callers who ask for a kind.
    fn kinds(&self) -> Kinds {
        Kinds::CPU | Kinds::SOFTWARE
    }

    /// Carries out one operation; called from many threads at once.
    ///
    /// # Errors
    /// [`PluginError`] says whose fault it is; a task of an operation that is not among [`Plugin::operations`] is
    /// [`PluginError::NotOffered`]. After [`PluginError::Declined`], nothing of the task may have been written.
    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError>;

    /// Most operations that it takes at once: one, unless several take less together than one after the other.
    fn batch_max(&self) -> usize {
        1
    }

    /// Carries out at most [`Plugin::batch_max`] operations, in their order, and says of each what became of it. None of them
    /// writes what another one uses.
    fn run_batch(&self, tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Answer> {
        let run = |task| {
            let begun = Instant::now();
            let outcome = self.run(task, deadline);
            Answer { outcome, elapsed: begun.elapsed() }
        };
        tasks.into_iter().map(run).collect()
    }
}

/// What became of one operation of a batch.
#[derive(Debug)]
pub struct Answer {
    /// As of [`Plugin::run`].
    pub outcome: Result<Done, PluginError>,
    /// The time that it took, without that of the others.
    pub elapsed: Duration,
}

/// What a task is expected to take, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(u64);

impl Cost {
    /// This many nanoseconds.
    #[must_use]
    pub const fn nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// This many microseconds.
    #[must_use]
    pub const fn micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1000))
    }

    /// A time that does not depend on the size, and `work` steps of which a device does `per_micro` in a microsecond.
    /// A device that does none takes for ever.
    #[must_use]
    pub const fn of_work(fixed: Self, work: u64, per_micro: u64) -> Self {
        match work.saturating_mul(1000).checked_div(per_micro) {
            Some(nanos) => Self(fixed.0.saturating_add(nanos)),
            None => Self(u64::MAX),
        }
    }

    /// In nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

/// Kinds of plugins, with vAccel's numbers (`VACCEL_PLUGIN_*`); a plugin can be of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// Of no kind: as a hint, any will do.
    pub const NONE: Self = Self(0);
    /// Runs on the processor.
    pub const CPU: Self = Self(0x1);
    /// Runs on a graphics processor.
    pub const GPU: Self = Self(0x2);
    /// Runs on an FPGA.
    pub const FPGA: Self = Self(0x4);
    /// Is software only.
    pub const SOFTWARE: Self = Self(0x8);
    /// Runs TensorFlow.
    pub const TENSORFLOW: Self = Self(0x10);
    /// Runs Torch.
    pub const TORCH: Self = Self(0x20);
    /// Runs on a Jetson board.
    pub const JETSON: Self = Self(0x40);
    /// Is of no special kind.
    pub const GENERIC: Self = Self(0x80);
    /// Is for finding faults.
    pub const DEBUG: Self = Self(0x100);
    /// Runs in another process or on another machine.
    pub const REMOTE: Self = Self(0x4000);

    /// The kinds of these bits; unknown ones are kept.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Their bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether they have one in common.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Kinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

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

    /// When it is, if there is one.
    #[must_use]
    pub const fn instant(self) -> Option<Instant> {
        self.0
    }

    /// The earlier of both.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(other)) => Self(Some(one.min(other))),
            (one, other) => Self(one.or(other)),
        }
    }

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
    /// It has the operation, but not for this: an operator that it does not know, a size that its device has no memory
    /// for. Another plugin is asked.
    #[error("it declines: {reason}")]
    Declined {
        /// Why.
        reason: String,
    },
    /// The plugin is not to do this for this caller.
    #[error(transparent)]
    Denied(Box<dyn Error + Send + Sync>),
    /// What carried the operation to another process or machine failed, or that process did.
    #[error(transparent)]
    Lost(Box<dyn Error + Send + Sync>),
    /// The operation failed elsewhere, with this status and this message.
    #[error("{message}")]
    Elsewhere {
        /// One of [`kernlet_abi::hypercall::status`].
        status: i32,
        /// What was wrong, in the words of who carried it out.
        message: String,
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

    /// Not for this task; another plugin may do it.
    pub fn declined(reason: impl Into<String>) -> Self {
        Self::Declined { reason: reason.into() }
    }

    /// Not for this caller.
    pub fn denied(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Denied(error.into())
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
            Self::Denied(_) => status::EACCES,
            Self::Lost(_) => status::EIO,
            Self::Elsewhere { status, .. } => match *status {
                // A failure must not look like success.
                status::OK => status::EIO,
                status => status,
            },
            Self::Declined { .. } | Self::NotOffered { .. } => status::ENOTSUP,
        }
    }
}
