//! Plugins for the tests of the runtime: they do what a test says, or break.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "each test file uses its part; sizes are small"
)]

pub(crate) mod given;

use std::sync::Arc;

use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, Session, operation::Task};

/// A plugin that says which resource it was given, by failing with its content.
#[derive(Debug)]
pub(crate) struct Tell {
    pub(crate) name: &'static str,
    pub(crate) operations: Vec<Operation>,
    pub(crate) costs: Vec<u64>,
}

impl Plugin for Tell {
    fn name(&self) -> &'static str {
        self.name
    }

    fn operations(&self) -> &[Operation] {
        &self.operations
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        let index = self.operations.iter().position(|&operation| operation == task.operation()).unwrap();
        Cost::nanos(self.costs[index])
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        deadline.check("the work began")?;
        match task {
            Task::OnnxModelLoad(task) => {
                Err(PluginError::failed(String::from_utf8_lossy(task.model.bytes()).into_owned()))
            }
            _ => Ok(Done { bytes_copied: 3 }),
        }
    }
}

/// A plugin that panics.
#[derive(Debug)]
pub(crate) struct Break;

impl Plugin for Break {
    fn name(&self) -> &'static str {
        "break"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, _: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        std::panic::panic_any("index out of bounds".to_owned())
    }
}

pub(crate) fn tell(name: &'static str, operations: &[(Operation, u64)]) -> Arc<dyn Plugin> {
    let (operations, costs) = operations.iter().copied().unzip();
    Arc::new(Tell { name, operations, costs })
}

/// A session on a plugin that has everything.
pub(crate) fn session() -> Session {
    let everything: Vec<_> = Operation::ALL.iter().map(|&operation| (operation, 1)).collect();
    Runtime::new(vec![tell("all", &everything)]).session()
}
