//! Routes each operation to the best plugin that has it.
//! Made once a process by the watchdog or the bench, who take sessions from it.
//! Never binds a session to one plugin, and lets no plugin's panic reach the caller.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use crate::{AccelError, Deadline, Done, Operation, Plugin, PluginError, Quota, Report, Session, operation::Task};

/// The plugins of a process. Cheap to clone; clones share the plugins.
#[derive(Clone, Debug)]
pub struct Runtime {
    plugins: Arc<[Arc<dyn Plugin>]>,
}

impl Runtime {
    /// A runtime with these plugins. Where several have an operation, the cheapest gets it, and of equally
    /// cheap ones the first.
    #[must_use]
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self { plugins: plugins.into() }
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

    /// The plugin that gets an operation.
    ///
    /// # Errors
    /// [`AccelError::NoPlugin`], which says what plugins there are.
    pub(crate) fn route(&self, operation: Operation) -> Result<&dyn Plugin, AccelError> {
        let cost = |plugin: &dyn Plugin| {
            let mut offers = plugin.operations().iter();
            offers.find(|offer| offer.operation == operation).map(|offer| offer.cost)
        };
        self.plugins
            .iter()
            .filter_map(|plugin| Some((cost(&**plugin)?, &**plugin)))
            .min_by_key(|&(cost, _)| cost)
            .map(|(_, plugin)| plugin)
            .ok_or_else(|| AccelError::NoPlugin { operation: operation.name(), plugins: self.inventory() })
    }

    /// Whether any plugin has an operation.
    #[must_use]
    pub fn has(&self, operation: Operation) -> bool {
        self.route(operation).is_ok()
    }

    /// The plugins and what they have, in words.
    fn inventory(&self) -> String {
        if self.plugins.is_empty() {
            return "no plugin is loaded".to_owned();
        }
        let describe = |plugin: &Arc<dyn Plugin>| {
            let operations: Vec<_> = plugin.operations().iter().map(|offer| offer.operation.name()).collect();
            format!("{} ({})", plugin.name(), operations.join(", "))
        };
        let plugins: Vec<_> = self.plugins.iter().map(describe).collect();
        format!("loaded are {}", plugins.join(", "))
    }
}

/// Runs a task on a plugin and measures it.
pub(crate) fn run(plugin: &dyn Plugin, task: Task<'_>, deadline: Deadline) -> Result<Report, AccelError> {
    let operation = task.operation().name();
    let name = plugin.name();
    let start = Instant::now();
    // Plugins parse pictures and models with other people's code, and one bad file must cost one request, not
    // the process. What the task borrows is bytes whose content nobody relies on after an error.
    let done: Result<Done, PluginError> = catch_unwind(AssertUnwindSafe(|| plugin.run(task, deadline)))
        .map_err(|panic| AccelError::PluginPanic { plugin: name, operation, panic: panic_text(&*panic) })?;
    let done = done.map_err(|source| AccelError::Plugin { plugin: name, operation, source })?;
    Ok(Report { plugin: name, elapsed: start.elapsed(), bytes_copied: done.bytes_copied })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
