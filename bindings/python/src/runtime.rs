//! The plugins of this process, as a configuration asks for them.
//! Called for every session. Sessions of one configuration share their plugins, as long as there is one.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use kernlet_accel::{Config, Operation, Runtime};
use kernlet_accel_agent::Remote;

use crate::error;

/// The plugin that sends operations to an agent.
const REMOTE: &str = "remote";

/// Plugins, and what else there could be.
#[derive(Debug)]
pub(crate) struct Plugins {
    pub(crate) runtime: Runtime,
}

/// What there is of one plugin: its name, its operations, its kinds, and why it is not there.
pub(crate) type Description = (&'static str, Vec<&'static str>, u32, Option<String>);

impl Plugins {
    /// Those that a configuration asks for.
    pub(crate) fn of(config: &Config) -> pyo3::PyResult<Arc<Self>> {
        static SHARED: Mutex<Vec<(Config, Weak<Plugins>)>> = Mutex::new(Vec::new());
        // What a session has for itself makes no difference to plugins.
        let key = Config {
            prefer: None,
            strict: false,
            profiling: false,
            operation_time_ms: None,
            concurrency: None,
            resources: None,
            resource_bytes: None,
            ..config.clone()
        };
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|(_, plugins)| plugins.strong_count() > 0);
        let found = shared.iter().find(|(other, _)| *other == key).and_then(|(_, plugins)| plugins.upgrade());
        if let Some(plugins) = found {
            return Ok(plugins);
        }
        let plugins = Arc::new(load(&key)?);
        shared.push((key, Arc::downgrade(&plugins)));
        Ok(plugins)
    }

    /// Every plugin that there is, then those that are not there.
    pub(crate) fn describe(&self) -> Vec<Description> {
        let names = |operations: &[Operation]| operations.iter().map(|operation| operation.name()).collect();
        let there = self.runtime.plugins().iter();
        let there = there.map(|plugin| (plugin.name(), names(plugin.operations()), plugin.kinds().bits(), None));
        let absent = self.runtime.absent().iter();
        let absent = absent.map(|absent| (absent.plugin, names(absent.operations), 0, Some(absent.why.clone())));
        there.chain(absent).collect()
    }
}

fn load(config: &Config) -> pyo3::PyResult<Plugins> {
    let mut loaded = kernlet_accel_plugins::load(config);
    // An agent that is configured is meant, unless plugins are named and it is not among them.
    if let Some(address) = &config.agent
        && (config.plugins.is_empty() || config.plugins.iter().any(|name| name == REMOTE))
    {
        let remote = Remote::from_config(config).map_err(|error| error::no_agent(address, &error))?;
        if let Some(remote) = remote {
            loaded.with(Arc::new(remote), format!("an agent at {address}"));
        }
    }
    if let Some(unknown) = loaded.unknown.first() {
        let known: Vec<_> = loaded.found.iter().map(|found| found.plugin).collect();
        return Err(error::bad_value(format!("there is no plugin {unknown:?}; there are {}", known.join(", "))));
    }
    Ok(Plugins { runtime: loaded.runtime() })
}
