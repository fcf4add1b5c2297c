//! How a program's accelerators are configured: a file, and vAccel's environment variables over it.
//! Read once by host programs, bindings, agents and watchdogs, before plugins are loaded; plugins get their part.
//! Never reads anything that was not named: without a file and variables, it is the default.

use std::{
    collections::BTreeMap,
    env, fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use kernlet_abi::accel::PROFILING_VARIABLES;
use serde::{Deserialize, Deserializer, de};

use crate::{Hint, Kinds, Quota, resource::RESOURCE_MAX};

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
    /// `tcp://127.0.0.1:port`, `vsock://2:2048`; or the name of one of `agents`.
    pub agent: Option<String>,
    /// The agents that the operator names, by name: their addresses. A function asks for one by its name, since it must not
    /// choose what the host connects to.
    pub agents: BTreeMap<String, String>,
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
    #[serde(deserialize_with = "libraries")]
    pub libraries: BTreeMap<String, PathBuf>,
    /// Threads that a plugin uses, by its name; else as many as there are processors.
    #[serde(deserialize_with = "threads")]
    pub threads: BTreeMap<String, NonZeroUsize>,
    /// What plugin `exec` may call.
    pub exec: ExecConfig,
    /// Certificates for `tls://`.
    pub tls: TlsConfig,
    /// What programs of the host may have fetched as resources. Nothing is for functions.
    pub fetch: FetchConfig,
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

/// Which resources are fetched from http and https addresses, for programs of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FetchConfig {
    /// What addresses may begin with, such as `https://models.example/public/`. Without any, none is fetched.
    pub allow: Vec<String>,
    /// The authorities of servers' certificates, in PEM; else those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Longest resource, in bytes.
    pub bytes: Option<u64>,
    /// Longest time that one may take, in milliseconds.
    pub time_ms: Option<u64>,
}

impl FetchConfig {
    /// Longest resource, in bytes: as long as one from a file, unless that is configured.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.unwrap_or(RESOURCE_MAX)
    }

    /// Longest time that one may take: ten minutes, unless that is configured; no more than a day.
    #[must_use]
    pub fn time(&self) -> Duration {
        let (usual, most) = (Duration::from_secs(600), Duration::from_secs(86_400));
        self.time_ms.map_or(usual, Duration::from_millis).min(most)
    }
}

/// Certificates, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsConfig {
    /// Who signs the other side's certificate: `ca` in the file.
    #[serde(rename = "ca")]
    pub authority: Option<PathBuf>,
    /// Our own certificate.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// The plugins whose library can be named.
const WITH_LIBRARY: [&str; 2] = ["onnxruntime", "openblas"];
/// The plugins whose threads can be counted.
const WITH_THREADS: [&str; 4] = ["gemm", "onnxruntime", "openblas", "rten"];

fn libraries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, PathBuf>, D::Error> {
    let remedy = "its loader, libOpenCL.so.1, finds the devices' drivers by the files in /etc/OpenCL/vendors; \
                  OCL_ICD_VENDORS names another folder of them";
    of_plugins("libraries", &WITH_LIBRARY, ("opencl", remedy), deserializer)
}

fn threads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, NonZeroUsize>, D::Error> {
    let remedy = "the device's driver decides; PoCL takes POCL_MAX_PTHREAD_COUNT, and from version 4 on \
                  POCL_CPU_MAX_CU_COUNT";
    of_plugins("threads", &WITH_THREADS, ("opencl", remedy), deserializer)
}

/// A table whose keys are plugins for which it means something: what is set and has no effect would mislead.
fn of_plugins<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    table: &str,
    known: &[&str],
    (refused, remedy): (&str, &str),
    deserializer: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    let values = BTreeMap::<String, T>::deserialize(deserializer)?;
    match values.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(values),
        Some(name) if name == refused => Err(de::Error::custom(format!("{table}.{name} cannot be set: {remedy}"))),
        Some(name) => Err(de::Error::custom(format!("{table}.{name} cannot be set; what can is {}", known.join(", ")))),
    }
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
    /// An agent is asked for by a name that nobody gave to one.
    #[error(
        "the operator names no accelerator agent {name:?}{}; name it under [agents] in the file of {CONFIG_VARIABLE}",
        known_agents(known)
    )]
    UnknownAgent {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
}

fn known_agents(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!(", only {}", known.join(", ")) }
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
        let tls = &mut config.tls;
        for (name, file) in [
            ("KERNLET_ACCEL_CERT", &mut tls.certificate),
            ("KERNLET_ACCEL_KEY", &mut tls.key),
            ("KERNLET_ACCEL_CA", &mut tls.authority),
        ] {
            if let Some((_, path)) = of(&[name]) {
                *file = Some(path.into());
            }
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

    /// The address of an agent: of the one with that name, or of the one to use where no name is said, if any.
    ///
    /// # Errors
    /// [`ConfigError::UnknownAgent`].
    pub fn agent_address(&self, name: Option<&str>) -> Result<Option<&str>, ConfigError> {
        let name = match (name, &self.agent) {
            (Some(name), _) => name,
            (None, None) => return Ok(None),
            (None, Some(address)) if address.contains("://") => return Ok(Some(address)),
            (None, Some(name)) => name,
        };
        let unknown =
            || ConfigError::UnknownAgent { name: name.to_owned(), known: self.agents.keys().cloned().collect() };
        self.agents.get(name).map(|address| Some(address.as_str())).ok_or_else(unknown)
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

    fn file(text: &str) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::from_file(file.path()).map_err(|error| crate::chain(&error))
    }

    #[test]
    fn an_agent_is_an_address_or_one_of_the_names_that_the_operator_gave() {
        let agents = "[agents]\ngpu = \"tls://accel.example:7443\"\nedge.1 = \"vsock://2:2048\"\n";
        let agents = agents.replace("edge.1", "\"edge.1\"");
        let named = file(&format!("agent = \"gpu\"\n{agents}")).unwrap();
        assert_eq!(named.agent_address(None).unwrap(), Some("tls://accel.example:7443"));
        assert_eq!(named.agent_address(Some("edge.1")).unwrap(), Some("vsock://2:2048"));
        // An address in place of a name is none: whoever may say a name only cannot say where to connect to.
        for name in ["fpga", "tcp://127.0.0.1:22", "unix:///run/docker.sock", ""] {
            let error = named.agent_address(Some(name)).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")) && error.contains("edge.1, gpu"), "{error}");
        }
        let direct = config(&[("KERNLET_ACCEL_AGENT", "unix:///run/a.sock")]).unwrap();
        assert_eq!(direct.agent_address(None).unwrap(), Some("unix:///run/a.sock"));
        assert_eq!(Config::default().agent_address(None).unwrap(), None);
    }

    #[test]
    fn certificates_are_named_by_the_file_or_by_variables_over_it() {
        let written = file("[tls]\nca = \"/ca\"\ncertificate = \"/crt\"\nkey = \"/key\"\n").unwrap();
        assert_eq!(written.tls.authority.as_deref(), Some(Path::new("/ca")));
        let variables = [("KERNLET_ACCEL_CA", "/a"), ("KERNLET_ACCEL_CERT", "/b"), ("KERNLET_ACCEL_KEY", "/c")];
        let tls = config(&variables).unwrap().tls;
        let expected = ["/a", "/b", "/c"].map(|path| Some(PathBuf::from(path)));
        assert_eq!([tls.authority, tls.certificate, tls.key], expected);
    }

    #[test]
    fn a_setting_that_would_have_no_effect_is_refused_by_name_with_the_remedy() {
        assert_eq!(file("[threads]\nrten = 2\n").unwrap().threads["rten"].get(), 2);
        for (text, words) in [
            ("[libraries]\nopencl = \"/x.so\"\n", ["libraries.opencl", "OCL_ICD_VENDORS"]),
            ("[threads]\nopencl = 2\n", ["threads.opencl", "POCL_MAX_PTHREAD_COUNT"]),
            ("[threads]\nrtne = 2\n", ["threads.rtne", "gemm, onnxruntime, openblas, rten"]),
            ("[libraries]\nrten = \"/x.so\"\n", ["libraries.rten", "onnxruntime, openblas"]),
            ("[threads]\nrten = 0\n", ["rten", "0"]),
            ("[tls]\nauthority = \"/ca\"\n", ["authority", "ca"]),
            ("[warp]\nspeed = 9\n", ["warp", "unknown field"]),
        ] {
            let error = file(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
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
