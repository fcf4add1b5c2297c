//! The plugin that does nothing: it measures the way to a plugin and back.
//! Called by the runtime for noop. Never touches anything.

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, operation::Task};

/// The plugin `noop`.
#[derive(Debug, Default)]
pub struct Noop;

impl Noop {
    /// The plugin.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Plugin for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop]
    }

    fn cost(&self, _task: &Task<'_>) -> Cost {
        Cost::nanos(0)
    }

    fn run(&self, task: Task<'_>, _deadline: Deadline) -> Result<Done, PluginError> {
        match task {
            Task::Noop => Ok(Done::default()),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}
