//! Makes the plugins that a configuration asks for, and says of each what was found, or why not.
//! Called once a process by the watchdog, an agent or a host program. Never fails: what is not there is said, and what
//! else is there works.

use std::sync::Arc;

use kernlet_accel::{Absent, Config, Operation, Plugin, Runtime, chain};

use crate::{
    CATALOGUE, Entry, Exec, Gemm, Mbench, Noop, OnnxRuntime, OnnxRuntimeOptions, OpenBlas, OpenBlasOptions, OpenCl,
    Rten,
};

/// What was made of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub plugin: &'static str,
    /// What it has, or would have.
    pub operations: Vec<Operation>,
    /// What was found, such as a library's version and file; or why it is not there.
    pub what: Result<String, String>,
}

/// The plugins of a process.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Those that are there, in the order of preference where the cost is the same.
    pub plugins: Vec<Arc<dyn Plugin>>,
    /// All that there could be.
    pub found: Vec<Found>,
    /// What the configuration names and this crate does not have: a plugin of vAccel's by its file, or a mistake.
    pub unknown: Vec<String>,
}

/// The plugin that lives in another crate, since it is a transport.
const REMOTE: &str = "remote";

/// Makes the plugins that `config` names, or all that are found and do nothing dangerous.
///
/// ```
/// use kernlet_accel::Config;
///
/// let loaded = kernlet_accel_plugins::load(&Config::default());
/// for found in &loaded.found {
///     println!("{}: {}", found.plugin, found.what.as_ref().unwrap_or_else(|why| why));
/// }
/// let session = loaded.runtime().session();
/// assert_eq!(session.ops().noop()?.plugin, "noop");
/// # Ok::<(), kernlet_accel::AccelError>(())
/// ```
#[must_use]
pub fn load(config: &Config) -> Loaded {
    let mut loaded = Loaded { plugins: Vec::new(), found: Vec::new(), unknown: Vec::new() };
    for name in &config.plugins {
        match CATALOGUE.iter().find(|entry| entry.name == name) {
            Some(entry) => loaded.add(entry, config),
            None => loaded.unknown.push(name.clone()),
        }
    }
    for entry in &CATALOGUE {
        if loaded.found.iter().any(|found| found.plugin == entry.name) {
            continue;
        }
        if config.plugins.is_empty() && entry.by_default {
            loaded.add(entry, config);
        } else {
            let why = if entry.by_default {
                "it is not among the configured plugins".to_owned()
            } else {
                entry.remedy.to_owned()
            };
            loaded.absent(entry, why);
        }
    }
    for Found { plugin, what, .. } in &loaded.found {
        match what {
            Ok(what) => tracing::debug!(plugin, what, "accelerator plugin"),
            Err(why) => tracing::debug!(plugin, why, "accelerator plugin is not there"),
        }
    }
    loaded
}

impl Loaded {
    /// A runtime with these plugins, which can say what would have an operation that none has.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        Runtime::with_absent(self.plugins.clone(), self.missing())
    }

    /// Adds a plugin of another crate, in the place that the catalogue has for it.
    pub fn with(&mut self, plugin: Arc<dyn Plugin>, what: String) {
        if let Some(found) = self.found.iter_mut().find(|found| found.plugin == plugin.name()) {
            (found.what, found.operations) = (Ok(what), plugin.operations().to_vec());
        } else {
            let operations = plugin.operations().to_vec();
            self.found.push(Found { plugin: plugin.name(), operations, what: Ok(what) });
        }
        self.plugins.push(plugin);
    }

    fn missing(&self) -> Vec<Absent> {
        let absent = |entry: &Entry| {
            let found = self.found.iter().find(|found| found.plugin == entry.name)?;
            let why = found.what.as_ref().err()?.clone();
            Some(Absent { plugin: entry.name, operations: entry.operations, why })
        };
        CATALOGUE.iter().filter_map(absent).collect()
    }

    fn add(&mut self, entry: &Entry, config: &Config) {
        if self.found.iter().any(|found| found.plugin == entry.name) {
            return;
        }
        match make(entry.name, config) {
            Ok((plugin, what)) => {
                let operations = plugin.operations().to_vec();
                self.found.push(Found { plugin: entry.name, operations, what: Ok(what) });
                self.plugins.push(plugin);
            }
            Err(why) => self.absent(entry, why),
        }
    }

    fn absent(&mut self, entry: &Entry, why: String) {
        self.found.push(Found { plugin: entry.name, operations: entry.operations.to_vec(), what: Err(why) });
    }
}

/// One plugin, and what was found of it.
fn make(name: &str, config: &Config) -> Result<(Arc<dyn Plugin>, String), String> {
    let threads = config.threads.get(name).copied();
    let library = config.libraries.get(name).cloned();
    let built_in = || "built in".to_owned();
    Ok(match name {
        // Without being asked for, it must not answer for plugins that are not there.
        "noop" if config.plugins.is_empty() => (Arc::new(Noop::new()), built_in()),
        "noop" => (Arc::new(Noop::dummy()), "built in, with a dummy for every operation".to_owned()),
        "rten" => (Arc::new(threads.map_or_else(Rten::new, Rten::with_threads)), built_in()),
        "gemm" => (Arc::new(threads.map_or_else(Gemm::new, Gemm::with_threads)), built_in()),
        "mbench" => (Arc::new(Mbench::new()), built_in()),
        "onnxruntime" => {
            let options = OnnxRuntimeOptions { library, threads, ..OnnxRuntimeOptions::default() };
            let plugin = OnnxRuntime::open(&options).map_err(|error| error.to_string())?;
            let what = plugin.found();
            (Arc::new(plugin), what)
        }
        "openblas" => {
            let plugin = OpenBlas::open(&OpenBlasOptions { library, threads }).map_err(|error| error.to_string())?;
            let what = plugin.found();
            (Arc::new(plugin), what)
        }
        "opencl" => {
            let plugin = OpenCl::open().map_err(|error| error.to_string())?;
            let what = plugin.found();
            (Arc::new(plugin), what)
        }
        "exec" => {
            let plugin = Exec::new(&config.exec).map_err(|error| chain(&error))?;
            let what = plugin.found();
            (Arc::new(plugin), what)
        }
        REMOTE => {
            return Err(
                "no agent is named; set KERNLET_ACCEL_AGENT, or agent in the configuration, to its address".to_owned()
            );
        }
        other => return Err(format!("there is no plugin {other}")),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    fn named(names: &[&str]) -> Loaded {
        load(&Config { plugins: names.iter().map(|&name| name.to_owned()).collect(), ..Config::default() })
    }

    fn names(loaded: &Loaded) -> Vec<&str> {
        loaded.plugins.iter().map(|plugin| plugin.name()).collect()
    }

    #[test]
    fn plugins_are_loaded_by_name_and_the_others_are_said_not_to_be() {
        let loaded = named(&["gemm", "mbench", "gemm", "libvaccel-x.so"]);
        assert_eq!(names(&loaded), ["gemm", "mbench"]);
        assert_eq!(loaded.unknown, ["libvaccel-x.so"]);
        assert_eq!(loaded.found.len(), CATALOGUE.len());
        let rten = loaded.found.iter().find(|found| found.plugin == "rten").unwrap();
        assert!(rten.what.as_ref().unwrap_err().contains("not among the configured plugins"));
    }

    #[test]
    fn what_is_dangerous_or_a_dummy_is_not_loaded_without_being_named() {
        let loaded = load(&Config::default());
        assert!(names(&loaded).starts_with(&["noop", "rten", "gemm"]));
        assert!(!names(&loaded).contains(&"exec") && !names(&loaded).contains(&"mbench"));
        let runtime = loaded.runtime();
        assert!(!runtime.has(Operation::ImageDetect) && !runtime.has(Operation::Exec));
        assert!(named(&["noop"]).runtime().has(Operation::ImageDetect));
    }

    #[test]
    fn a_missing_operation_names_the_plugins_that_would_have_it_and_how_to_get_them() {
        let session = named(&["gemm"]).runtime().session();
        let error = session.ops().resize((1, 1), 1, &[0], (1, 1), &mut [0]).unwrap_err().message();
        assert!(error.contains("opencl would have it: it is not among the configured plugins"), "{error}");
        let error = session.ops().exec("x", "f", Vec::new(), Vec::new()).unwrap_err().message();
        assert!(
            error.contains("exec would have it: name it in the configuration and list what it may call"),
            "{error}"
        );
        let broken = load(&Config {
            plugins: vec!["openblas".to_owned()],
            libraries: [("openblas".to_owned(), "/nowhere/libopenblas.so.0".into())].into(),
            ..Config::default()
        });
        let params =
            kernlet_abi::accel::SgemmParams { m: 1, n: 1, k: 1, lda: 1, ldb: 1, ldc: 1, alpha: 1.0, beta: 0.0 };
        let error = broken.runtime().session().ops().sgemm(&params, &[1.0], &[1.0], &mut [0.0]).unwrap_err().message();
        assert!(error.contains("openblas would have it: found no libopenblas.so in /nowhere"), "{error}");
        assert!(error.contains("apt-get install libopenblas0-pthread"), "{error}");
    }

    #[test]
    fn a_plugin_that_is_more_expensive_is_not_asked_first() {
        let session = named(&["noop", "gemm"]).runtime().session();
        let params =
            kernlet_abi::accel::SgemmParams { m: 1, n: 1, k: 1, lda: 1, ldb: 1, ldc: 1, alpha: 1.0, beta: 0.0 };
        let mut c = [0.0];
        assert_eq!(session.ops().sgemm(&params, &[2.0], &[3.0], &mut c).unwrap().plugin, "gemm");
        assert_eq!(c, [6.0]);
    }
}
