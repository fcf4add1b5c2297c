//! How a program's accelerators are configured: a file, and vAccel's environment variables over it.
//! Read once by host programs, bindings, agents and watchdogs, before plugins are loaded; plugins get their part.
//! Never reads anything that was not named: without a file and variables, it is the default.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use kernlet_abi::accel::PROFILING_VARIABLES;
use serde::Deserialize;

use crate::{Hint, Kinds, Quota};

/// The variable that names the file.
pub const CONFIG_VARIABLE: &str = "KERNLET_ACCEL_CONFIG";

/// How much is said: vAccel's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what failed.
    #[default]
    Error = 1,
    /// What may be wrong as well.
    Warn = 2,
    /// What is done as well.
    Info = 3,
    /// Everything.
    Debug = 4,
}

/// How a program's accelerators are configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Names of plugins, or paths of vAccel's, in the order of preference where the cost is the same. Without any: every
    /// plugin that is found and does nothing dangerous.
    pub plugins: Vec<String>,
    /// How much is said.
    pub log_level: LogLevel,
    /// Where it is said; else on stderr.
    pub log_file: Option<PathBuf>,
    /// Whether sessions record what operations took.
    pub profiling: bool,
    /// Whether plugins of another version of vAccel are loaded.
    pub ignore_version: bool,
    /// Where the agent is that plugin `remote` sends operations to: `unix:///run/agent.sock`, `tls://host:port`,
    /// `tcp://127.0.0.1:port`, `vsock://2:2048`.
    pub agent: Option<String>,
    /// What sessions prefer: the name of a plugin.
    pub prefer: Option<String>,
    /// Whether an operation fails when that plugin does not have it.
    pub strict: bool,
    /// Longest time of one operation, in milliseconds.
    pub operation_time_ms: Option<u64>,
    /// Operations of a session at one time.
    pub concurrency: Option<usize>,
    /// Resources of a session.
    pub resources: Option<usize>,
    /// Sum of their sizes, in bytes.
    pub resource_bytes: Option<u64>,
    /// Libraries of plugins by the plugin's name, where they are not where the plugin looks.
    pub libraries: BTreeMap<String, PathBuf>,
    /// Threads that a plugin uses, by its name; else as many as there are processors.
    pub threads: BTreeMap<String, usize>,
    /// What plugin `exec` may call.
    pub exec: ExecConfig,
    /// Certificates for `tls://`.
    pub tls: TlsConfig,
}

/// What plugin `exec` may call, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExecConfig {
    /// Libraries that may be called, by the name that callers use.
    pub libraries: BTreeMap<String, PathBuf>,
    /// SHA-256 digests, in hexadecimal, of resources that may be called.
    pub digests: Vec<String>,
    /// Whether all symbols of a library are bound when it is opened, rather than when they are used.
    pub bind_now: bool,
    /// Whether libraries are kept open between calls.
    pub keep_open: bool,
}

/// Certificates, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsConfig {
    /// Who signs the other side's certificate.
    pub authority: Option<PathBuf>,
    /// Our own certificate.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {} (named by {CONFIG_VARIABLE})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something else than a configuration.
    #[error("{} is not a configuration of accelerators", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A variable has a value that it cannot have.
    #[error("{variable} is {value:?}; it must be {expected}")]
    Variable {
        /// Which.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Config {
    /// What the file that [`CONFIG_VARIABLE`] names says, and environment variables over it.
    ///
    /// # Errors
    /// [`ConfigError`] says which file or variable is wrong, and how.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// The same with variables from elsewhere.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut config = match variable(CONFIG_VARIABLE) {
            Some(path) => Self::from_file(Path::new(&path))?,
            None => Self::default(),
        };
        // Names of older versions of vAccel come second.
        let of = |names: &[&'static str]| {
            names.iter().find_map(|&name| Some((name, variable(name).filter(|value| !value.is_empty())?)))
        };
        if let Some((_, plugins)) = of(&["VACCEL_PLUGINS", "VACCEL_BACKENDS"]) {
            config.plugins = plugins.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        }
        if let Some((variable, value)) = of(&["VACCEL_LOG_LEVEL", "VACCEL_DEBUG_LEVEL"]) {
            config.log_level = match value.as_str() {
                "1" => LogLevel::Error,
                "2" => LogLevel::Warn,
                "3" => LogLevel::Info,
                "4" => LogLevel::Debug,
                _ => return Err(ConfigError::Variable { variable, value, expected: "from 1 (error) to 4 (debug)" }),
            };
        }
        if let Some((_, path)) = of(&["VACCEL_LOG_FILE"]) {
            config.log_file = Some(path.into());
        }
        if let Some(found) = of(&PROFILING_VARIABLES) {
            config.profiling = truth(found)?;
        }
        if let Some(found) = of(&["VACCEL_VERSION_IGNORE", "VACCEL_IGNORE_VERSION"]) {
            config.ignore_version = truth(found)?;
        }
        if let Some((_, address)) = of(&["KERNLET_ACCEL_AGENT", "VACCEL_RPC_ADDRESS", "VACCEL_RPC_ADDR"]) {
            config.agent = Some(address);
        }
        if let Some((variable, value)) = of(&["VACCEL_EXEC_DLOPEN_MODE"]) {
            config.exec.bind_now = match value.to_ascii_lowercase().as_str() {
                "lazy" => false,
                "now" => true,
                _ => return Err(ConfigError::Variable { variable, value, expected: "lazy or now" }),
            };
        }
        if let Some(found) = of(&["VACCEL_EXEC_DLCLOSE_ENABLED", "VACCEL_EXEC_DLCLOSE"]) {
            config.exec.keep_open = !truth(found)?;
        }
        Ok(config)
    }

    /// What a file says.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// What sessions prefer.
    #[must_use]
    pub fn hint(&self) -> Hint {
        Hint { plugin: self.prefer.clone(), kinds: Kinds::NONE, strict: self.strict }
    }

    /// What sessions may use.
    #[must_use]
    pub fn quota(&self) -> Quota {
        let default = Quota::default();
        Quota {
            resources: self.resources.unwrap_or(default.resources),
            bytes: self.resource_bytes.unwrap_or(default.bytes),
            concurrency: self.concurrency.unwrap_or(default.concurrency),
            operation_time: self.operation_time_ms.map(Duration::from_millis),
        }
    }
}

fn truth((variable, value): (&'static str, String)) -> Result<bool, ConfigError> {
    match value.to_ascii_lowercase().as_str() {
        "0" | "false" | "no" => Ok(false),
        "1" | "true" | "yes" => Ok(true),
        _ => Err(ConfigError::Variable { variable, value, expected: "0 or 1" }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::io::Write as _;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_configured_is_the_default() {
        assert_eq!(config(&[]).unwrap(), Config::default());
        assert_eq!(config(&[("VACCEL_PLUGINS", "")]).unwrap(), Config::default());
        assert_eq!(Config::default().quota(), Quota::default());
    }

    #[test]
    fn variables_are_vaccels_old_names_included() {
        let new = config(&[
            ("VACCEL_PLUGINS", "rten:libvaccel-x.so::exec"),
            ("VACCEL_LOG_LEVEL", "3"),
            ("VACCEL_PROFILING_ENABLED", "1"),
            ("VACCEL_VERSION_IGNORE", "true"),
            ("VACCEL_EXEC_DLOPEN_MODE", "now"),
            ("VACCEL_EXEC_DLCLOSE_ENABLED", "0"),
            ("VACCEL_RPC_ADDRESS", "unix:///run/a.sock"),
        ])
        .unwrap();
        assert_eq!(new.plugins, ["rten", "libvaccel-x.so", "exec"]);
        assert_eq!((new.log_level, new.profiling, new.ignore_version), (LogLevel::Info, true, true));
        assert_eq!((new.exec.bind_now, new.exec.keep_open), (true, true));
        assert_eq!(new.agent.as_deref(), Some("unix:///run/a.sock"));
        let old = config(&[("VACCEL_BACKENDS", "noop"), ("VACCEL_DEBUG_LEVEL", "4"), ("VACCEL_RPC_ADDR", "tcp://a:1")]);
        let old = old.unwrap();
        assert_eq!((old.plugins[0].as_str(), old.log_level), ("noop", LogLevel::Debug));
        assert_eq!(old.agent.as_deref(), Some("tcp://a:1"));
    }

    #[test]
    fn a_wrong_variable_is_named_with_its_value() {
        for (variable, value) in
            [("VACCEL_LOG_LEVEL", "5"), ("VACCEL_PROFILING_ENABLED", "maybe"), ("VACCEL_EXEC_DLOPEN_MODE", "soon")]
        {
            let error = config(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn variables_go_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "plugins = [\"gemm\"]\nprefer = \"openblas\"\nconcurrency = 2\n[exec]\ndigests = [\"00\"]\n[libraries]\nonnxruntime = \"/opt/libonnxruntime.so\"\n";
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let both = config(&[(CONFIG_VARIABLE, path), ("VACCEL_PLUGINS", "rten")]).unwrap();
        assert_eq!(both.plugins, ["rten"]);
        assert_eq!((both.hint().plugin.as_deref(), both.quota().concurrency), (Some("openblas"), 2));
        assert_eq!(both.libraries["onnxruntime"], Path::new("/opt/libonnxruntime.so"));
    }

    #[test]
    fn a_file_that_is_wrong_is_named_with_what_is_wrong() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"plugin = [\"gemm\"]\n").unwrap();
        let error = config(&[(CONFIG_VARIABLE, file.path().to_str().unwrap())]).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("unknown field `plugin`"));
        let error = config(&[(CONFIG_VARIABLE, "/nonexistent/accel.toml")]).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }));
    }
}
