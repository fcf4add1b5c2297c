//! Plugins for the tests of the runtime: they do what a test says, or break.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use kernlet_accel::{Cost, Deadline, Done, Offer, Operation, Plugin, PluginError, Runtime, Session, operation::Task};

/// A plugin that says which resource it was given, by failing with its content.
#[derive(Debug)]
pub(crate) struct Tell {
    pub(crate) name: &'static str,
    pub(crate) offers: Vec<Offer>,
}

impl Plugin for Tell {
    fn name(&self) -> &'static str {
        self.name
    }

    fn operations(&self) -> &[Offer] {
        &self.offers
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

    fn operations(&self) -> &[Offer] {
        &[Offer { operation: Operation::Noop, cost: Cost(1) }]
    }

    fn run(&self, _: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        std::panic::panic_any("index out of bounds".to_owned())
    }
}

pub(crate) fn tell(name: &'static str, operations: &[(Operation, u32)]) -> Arc<dyn Plugin> {
    let offers = operations.iter().map(|&(operation, cost)| Offer { operation, cost: Cost(cost) }).collect();
    Arc::new(Tell { name, offers })
}

/// A session on a plugin that has everything.
pub(crate) fn session() -> Session {
    Runtime::new(vec![tell("all", &Operation::ALL.map(|operation| (operation, 1)))]).session()
}
