//! Everything that can be wrong with an operation, a resource or the way to a plugin.
//! Made by this crate, turned into a status and a message for the guest by the monitor.
//! A message never repeats its source; [`AccelError::message`] joins the chain.

use std::{error::Error, fmt::Write as _, io, path::PathBuf, time::Duration};

use kernlet_abi::{
    accel::{ARGS_MAX, RANK_MAX},
    hypercall::status,
};

use crate::{Operation, PluginError, operation::ArgError};

/// Why an operation did not run, or a resource was not registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccelError {
    /// The number is no operation of this version.
    #[error("there is no accelerator operation {number}; use one of kernlet_abi::accel::operation")]
    UnknownOperation {
        /// As the guest gave it.
        number: u32,
    },
    /// Nothing that is loaded has the operation.
    #[error("no plugin has {operation}; {plugins}")]
    NoPlugin {
        /// What was asked for.
        operation: &'static str,
        /// The plugins there are and what they have.
        plugins: String,
    },
    /// The number is no element type.
    #[error("there is no element type {number}; use one of kernlet_abi::accel::dtype")]
    UnknownDtype {
        /// As the guest gave it.
        number: u32,
    },
    /// A shape has too many dimensions.
    #[error("a tensor of {rank} dimensions is not supported; the most is {RANK_MAX}")]
    TooManyDims {
        /// As the guest gave it.
        rank: usize,
    },
    /// More arguments than any operation takes.
    #[error("{operation} got {count} arguments; the most is {ARGS_MAX}")]
    TooManyArgs {
        /// What was asked for.
        operation: &'static str,
        /// Arguments given.
        count: usize,
    },
    /// The operation takes another number of arguments.
    #[error("{operation} takes {expected} arguments and got {count}")]
    WrongArgCount {
        /// What was asked for.
        operation: &'static str,
        /// What it takes, in words.
        expected: &'static str,
        /// Arguments given.
        count: usize,
    },
    /// An argument is not what the operation takes.
    #[error("argument {index} ({name}) of {operation} is wrong")]
    BadArg {
        /// What was asked for.
        operation: &'static str,
        /// Which argument, from zero.
        index: usize,
        /// What the argument is.
        name: &'static str,
        /// What is wrong with it.
        source: ArgError,
    },
    /// The session has no resource of this id.
    #[error("the function has no resource {id}; look ids up by the names that its image gives them")]
    UnknownResource {
        /// As the guest gave it.
        id: u32,
    },
    /// A name is registered twice.
    #[error("the function already has a resource `{name}`; give each resource a name of its own")]
    DuplicateResource {
        /// The name.
        name: String,
    },
    /// The name cannot be a resource's.
    #[error("`{name}` cannot name a resource; use 1 to {max} bytes without control characters")]
    BadResourceName {
        /// The name.
        name: String,
        /// Longest name, in bytes.
        max: usize,
    },
    /// The session has as many resources as it may.
    #[error("resource `{name}` is one too many; a function may have {max}")]
    TooManyResources {
        /// The resource that was refused.
        name: String,
        /// The quota.
        max: usize,
    },
    /// The session's resources would take more memory than they may.
    #[error("resource `{name}` of {size} bytes does not fit; the function has {left} bytes left for resources")]
    ResourcesTooLarge {
        /// The resource that was refused.
        name: String,
        /// Its size, in bytes.
        size: u64,
        /// What is left of the quota, in bytes.
        left: u64,
    },
    /// A resource's file is larger than any resource may be.
    #[error("{} has {size} bytes; a resource may have {max}", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, in bytes.
        size: u64,
        /// The limit, in bytes.
        max: u64,
    },
    /// vAccel's generic operation cannot carry this one.
    #[error("{operation} cannot be asked for as a generic operation; call it by its own number")]
    NotGeneric {
        /// What was asked for.
        operation: &'static str,
    },
    /// Only ONNX models are run on several sets of inputs at once.
    #[error("{operation} takes one set of inputs; run the model once for each")]
    NotBatched {
        /// What was asked for.
        operation: &'static str,
    },
    /// A resource has too many files.
    #[error("{} is one file too many; a resource may have {max}", path.display())]
    TooManyFiles {
        /// The file that was refused.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// The session has as many operations running as it may.
    #[error("{operation} is one operation too many; {max} may run at a time: try again when one has ended")]
    TooManyOperations {
        /// What was asked for.
        operation: &'static str,
        /// The quota.
        max: usize,
    },
    /// A resource's path names a folder, a socket or a device.
    #[error("{} is not a file; a resource must be one", path.display())]
    NotAFile {
        /// What the path names.
        path: PathBuf,
    },
    /// A resource's file cannot be read.
    #[error("cannot read {} as a resource", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A model could not be made ready.
    #[error("cannot load resource `{name}` as an ONNX model")]
    Preload {
        /// The resource.
        name: String,
        /// Why.
        source: Box<AccelError>,
    },
    /// The deadline was over before the operation began.
    #[error("the request's time was over before {operation} began")]
    DeadlinePassed {
        /// What was asked for.
        operation: &'static str,
    },
    /// The invocation may take no more time in accelerators.
    #[error("the invocation used up its {limit:?} of accelerator time (raise dev.kernlet.limits.accel-time)")]
    TimeUsedUp {
        /// The time that it had.
        limit: Duration,
    },
    /// A plugin took the operation and could not carry it out.
    #[error("plugin {plugin} cannot carry out {operation}")]
    Plugin {
        /// Which plugin.
        plugin: &'static str,
        /// What was asked for.
        operation: &'static str,
        /// Why.
        source: PluginError,
    },
    /// A plugin broke while it carried out the operation.
    #[error("plugin {plugin} broke down during {operation}: {panic}; this is a bug of the plugin")]
    PluginPanic {
        /// Which plugin.
        plugin: &'static str,
        /// What was asked for.
        operation: &'static str,
        /// What it said.
        panic: String,
    },
}

impl AccelError {
    /// What the guest gets as the call's status: one of [`kernlet_abi::hypercall::status`], never `OK`.
    #[must_use]
    pub fn status(&self) -> i32 {
        match self {
            Self::UnknownOperation { .. }
            | Self::NoPlugin { .. }
            | Self::NotGeneric { .. }
            | Self::NotBatched { .. } => status::ENOTSUP,
            Self::UnknownDtype { .. }
            | Self::TooManyDims { .. }
            | Self::TooManyArgs { .. }
            | Self::WrongArgCount { .. }
            | Self::DuplicateResource { .. }
            | Self::BadResourceName { .. }
            | Self::NotAFile { .. } => status::EINVAL,
            Self::BadArg { source, .. } => source.status(),
            Self::UnknownResource { .. } => status::ENOENT,
            Self::TooManyOperations { .. } => status::EAGAIN,
            Self::TooManyResources { .. }
            | Self::ResourcesTooLarge { .. }
            | Self::FileTooLarge { .. }
            | Self::TooManyFiles { .. } => status::ENOMEM,
            Self::ReadFile { source, .. } if source.kind() == io::ErrorKind::NotFound => status::ENOENT,
            Self::ReadFile { .. } | Self::PluginPanic { .. } => status::EIO,
            Self::Preload { source, .. } => source.status(),
            Self::DeadlinePassed { .. } | Self::TimeUsedUp { .. } => status::ETIMEDOUT,
            Self::Plugin { source, .. } => source.status(),
        }
    }

    /// The whole story in one line for the guest and for logs: this error and its causes, joined by `: `.
    #[must_use]
    pub fn message(&self) -> String {
        chain(self)
    }

    pub(crate) const fn bad_arg(operation: Operation, index: usize, name: &'static str, source: ArgError) -> Self {
        Self::BadArg { operation: operation.name(), index, name, source }
    }
}

/// An error and its causes in one line, joined by `: `.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
