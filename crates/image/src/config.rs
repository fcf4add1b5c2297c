//! How a function is to run: memory, limits, isolation, from `dev.kernlet.*` annotations of its image and
//! from its deployment. Used by the store, the gateway and the watchdog. It never enforces a limit itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use kernlet_abi::map;
use serde::{Deserialize, Serialize};

use crate::{
    BlockSettings, ByteSize, CpuShare, GoDuration, Solo5Config,
    block::{self, is_block_name},
    duration::as_go,
    solo5::{parse_arguments, parse_port},
};

/// What all annotations and labels of ours begin with.
pub(crate) const PREFIX: &str = "dev.kernlet.";

/// The machine types that a `dev.kernlet.machine` annotation may name. What a program is, it says itself as well.
const MACHINE_NATIVE: &str = "native";
const MACHINE_SOLO5: &str = "solo5-hvt";

/// Longest name of an accelerator operation or agent, in bytes.
const ACCEL_NAME_MAX: usize = 64;

/// What happens to a machine's memory between two requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// After each request the machine is made equal to the function's template again, so that every request
    /// meets the same pristine machine.
    #[default]
    Rewind,
    /// Every request gets a machine of its own, made of the template, which ends with it.
    Fresh,
    /// A machine keeps its state and serves one request after the other, as a process behind
    /// OpenFaaS's of-watchdog does.
    Reuse,
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reuse" => Ok(Self::Reuse),
            "fresh" => Ok(Self::Fresh),
            "rewind" => Ok(Self::Rewind),
            _ => Err(format!("{text:?} is not an isolation mode: use rewind, fresh or reuse")),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rewind => "rewind",
            Self::Reuse => "reuse",
            Self::Fresh => "fresh",
        })
    }
}

/// Lines a second that a function's log takes when nobody says otherwise.
const fn default_log_rate() -> u32 {
    500
}

/// Limits and isolation of one function. What came after the first version has a default, so that a
/// deployment that was stored before still loads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// Memory of each machine.
    pub memory: ByteSize,
    /// What happens between two requests.
    pub isolation: Isolation,
    /// Largest request body.
    pub request_limit: ByteSize,
    /// Largest response body.
    pub response_limit: ByteSize,
    /// Requests that may be under way at the same time; 0 means any number, as in OpenFaaS.
    pub max_inflight: u32,
    /// Longest that one invocation may take; zero means as long as it likes, as in OpenFaaS.
    #[serde(with = "as_go")]
    pub exec_timeout: Duration,
    /// Processors that the machines of one replica may use together.
    #[serde(default)]
    pub cpu: CpuShare,
    /// Processor time that one invocation may take inside its machine; zero means as much as it likes.
    #[serde(default, with = "as_go")]
    pub cpu_time: Duration,
    /// Time that one invocation may take in accelerators; zero means as much as it likes.
    #[serde(default, with = "as_go")]
    pub accel_time: Duration,
    /// Log lines that one replica may write in a second, on average; zero means any number.
    #[serde(default = "default_log_rate")]
    pub log_rate: u32,
    /// How a Solo5 unikernel is a function.
    #[serde(default)]
    pub solo5: Solo5Config,
    /// Accelerator operations that the function says it uses; empty if it says nothing.
    pub operations: BTreeSet<String>,
    /// What the block devices of a Solo5 unikernel are made of, by their names.
    #[serde(default)]
    pub blocks: BTreeMap<String, BlockSettings>,
    /// The accelerator agent that its operations go to, by the name that the operator gave it; the host's choice without.
    #[serde(default)]
    pub agent: Option<String>,
}

impl Default for FunctionConfig {
    fn default() -> Self {
        Self {
            memory: ByteSize::mebibytes(32),
            isolation: Isolation::default(),
            request_limit: ByteSize::mebibytes(8),
            response_limit: ByteSize::mebibytes(8),
            max_inflight: 16,
            exec_timeout: Duration::from_secs(30),
            cpu: CpuShare::default(),
            cpu_time: Duration::ZERO,
            accel_time: Duration::ZERO,
            log_rate: default_log_rate(),
            solo5: Solo5Config::default(),
            operations: BTreeSet::new(),
            blocks: BTreeMap::new(),
            agent: None,
        }
    }
}

/// What a deployment says about running its function, beside the image. Stronger ones come later:
/// labels, annotations, then OpenFaaS's own fields.
#[derive(Clone, Copy, Debug)]
pub struct Overrides<'a> {
    /// Labels; those that begin with `dev.kernlet.` count.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations; those that begin with `dev.kernlet.` count.
    pub annotations: &'a BTreeMap<String, String>,
    /// Environment variables; of-watchdog's `exec_timeout` and `max_inflight` count.
    pub environment: &'a BTreeMap<String, String>,
    /// `limits.memory`, a Kubernetes quantity.
    pub memory_limit: Option<&'a str>,
    /// `limits.cpu`, a Kubernetes quantity.
    pub cpu_limit: Option<&'a str>,
}

/// Everything that is wrong with a function's settings, not only the first thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    pub(crate) fn new(problems: Vec<String>) -> Self {
        Self(problems)
    }

    /// One sentence a wrong setting, each beginning with the setting's name.
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

/// What can be set, each under an annotation `dev.kernlet.…` and most under a shorter name in a function's
/// `Cargo.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Abi,
    Machine,
    Memory,
    Isolation,
    Request,
    Response,
    Inflight,
    Timeout,
    Cpu,
    CpuTime,
    AccelTime,
    LogRate,
    Solo5Mode,
    Solo5Ipv4,
    Solo5Port,
    Solo5Arguments,
    Operations,
    Agent,
}

impl Setting {
    const ALL: [Self; 18] = [
        Self::Abi,
        Self::Machine,
        Self::Memory,
        Self::Isolation,
        Self::Request,
        Self::Response,
        Self::Inflight,
        Self::Timeout,
        Self::Cpu,
        Self::CpuTime,
        Self::AccelTime,
        Self::LogRate,
        Self::Solo5Mode,
        Self::Solo5Ipv4,
        Self::Solo5Port,
        Self::Solo5Arguments,
        Self::Operations,
        Self::Agent,
    ];

    /// Its key under `[package.metadata.kernlet]` of a function's `Cargo.toml`, if it can be set there.
    fn metadata(self) -> Option<&'static str> {
        match self {
            Self::Abi | Self::Machine => None,
            // Functions that have a Cargo.toml are none of Solo5's.
            Self::Solo5Mode | Self::Solo5Ipv4 | Self::Solo5Port | Self::Solo5Arguments => None,
            Self::Memory => Some("memory"),
            Self::Isolation => Some("isolation"),
            Self::Request => Some("request"),
            Self::Response => Some("response"),
            Self::Inflight => Some("inflight"),
            Self::Timeout => Some("timeout"),
            Self::Cpu => Some("cpu"),
            Self::CpuTime => Some("cpu-time"),
            Self::AccelTime => Some("accel-time"),
            Self::LogRate => Some("log-rate"),
            Self::Operations => Some("operations"),
            Self::Agent => Some("agent"),
        }
    }

    /// Name of its annotation without [`PREFIX`].
    fn annotation(self) -> &'static str {
        match self {
            Self::Abi => "abi",
            Self::Machine => "machine",
            Self::Memory => "memory",
            Self::Isolation => "isolation",
            Self::Request => "limits.request",
            Self::Response => "limits.response",
            Self::Inflight => "limits.inflight",
            Self::Timeout => "limits.timeout",
            Self::Cpu => "limits.cpu",
            Self::CpuTime => "limits.cpu-time",
            Self::AccelTime => "limits.accel-time",
            Self::LogRate => "limits.log-rate",
            Self::Solo5Mode => "solo5.mode",
            Self::Solo5Ipv4 => "solo5.ipv4",
            Self::Solo5Port => "solo5.port",
            Self::Solo5Arguments => "solo5.arguments",
            Self::Operations => "accel.operations",
            Self::Agent => "accel.agent",
        }
    }
}

/// A configuration under construction with what was wrong so far.
#[derive(Debug)]
struct Draft {
    config: FunctionConfig,
    problems: Vec<String>,
}

impl Draft {
    fn new(config: FunctionConfig) -> Self {
        Self { config, problems: Vec::new() }
    }

    /// Takes everything in `values` whose key begins with `dev.kernlet.`; an unknown one is a problem, since a
    /// limit that nobody enforces would be worse than none.
    fn apply_all(&mut self, values: &BTreeMap<String, String>) {
        for (key, value) in values {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            if let Some(device) = name.strip_prefix(block::ANNOTATION) {
                self.block(key, device, value);
                continue;
            }
            match Setting::ALL.iter().find(|setting| setting.annotation() == name) {
                Some(setting) => self.apply(key, *setting, value),
                None => self.problems.push(format!("{key} is unknown; known are {}", known_annotations())),
            }
        }
    }

    /// Takes a block device.
    fn block(&mut self, key: &str, device: &str, value: &str) {
        if !is_block_name(device) {
            let why = format!("{device:?} is not the name of a device; use 1 to 67 letters and digits");
            self.problems.push(format!("{key}: {why}"));
            return;
        }
        match value.parse() {
            Ok(settings) => _ = self.config.blocks.insert(device.to_owned(), settings),
            Err(why) => self.problems.push(format!("{key}: {why}")),
        }
    }

    /// Takes one value; `key` is the name under which its author knows it.
    fn apply(&mut self, key: &str, setting: Setting, value: &str) {
        if let Err(why) = self.set(setting, value) {
            self.problems.push(format!("{key}: {why}"));
        }
    }

    fn set(&mut self, setting: Setting, value: &str) -> Result<(), String> {
        let config = &mut self.config;
        match setting {
            Setting::Abi => check_abi(value)?,
            Setting::Machine => check_machine(value)?,
            Setting::Memory => config.memory = parse(value)?,
            Setting::Isolation => config.isolation = parse(value)?,
            Setting::Request => config.request_limit = parse(value)?,
            Setting::Response => config.response_limit = parse(value)?,
            Setting::Inflight => config.max_inflight = parse_count(value, "requests", "16")?,
            Setting::Timeout => config.exec_timeout = parse::<GoDuration>(value)?.0,
            Setting::Cpu => config.cpu = parse(value)?,
            Setting::CpuTime => config.cpu_time = parse::<GoDuration>(value)?.0,
            Setting::AccelTime => config.accel_time = parse::<GoDuration>(value)?.0,
            Setting::LogRate => config.log_rate = parse_count(value, "log lines a second", "500")?,
            Setting::Solo5Mode => config.solo5.mode = parse(value)?,
            Setting::Solo5Ipv4 => config.solo5.ipv4 = parse(value)?,
            Setting::Solo5Port => config.solo5.port = parse_port(value)?,
            Setting::Solo5Arguments => config.solo5.arguments = parse_arguments(value)?,
            Setting::Operations => config.operations = parse_operations(value)?,
            Setting::Agent => config.agent = Some(parse_agent(value)?),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<FunctionConfig, ConfigError> {
        if self.problems.is_empty() {
            self.problems.extend(check_memory(&self.config));
            self.problems.extend(block::check(&self.config.blocks));
        }
        if self.problems.is_empty() { Ok(self.config) } else { Err(ConfigError(self.problems)) }
    }
}

impl FunctionConfig {
    /// The configuration that an image's annotations ask for; what they leave out has its default.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut draft = Draft::new(Self::default());
        draft.apply_all(annotations);
        draft.finish()
    }

    /// This configuration with what a deployment says in its place.
    pub fn overridden_by(self, overrides: &Overrides<'_>) -> Result<Self, ConfigError> {
        let mut draft = Draft::new(self);
        draft.apply_all(overrides.labels);
        draft.apply_all(overrides.annotations);
        for (variable, setting) in [("exec_timeout", Setting::Timeout), ("max_inflight", Setting::Inflight)] {
            if let Some(value) = overrides.environment.get(variable) {
                draft.apply(variable, setting, value);
            }
        }
        for (name, value, setting) in [
            ("limits.memory", overrides.memory_limit, Setting::Memory),
            ("limits.cpu", overrides.cpu_limit, Setting::Cpu),
        ] {
            if let Some(value) = value {
                draft.apply(name, setting, value);
            }
        }
        draft.finish()
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn parse_count(value: &str, what: &str, example: &str) -> Result<u32, String> {
    let refused = || format!("{value:?} is not a number of {what}; write it as {example}, or 0 for any number");
    // `parse` would take a plus sign.
    if value.bytes().all(|byte| byte.is_ascii_digit()) { value.parse().map_err(|_| refused()) } else { Err(refused()) }
}

fn parse_operations(value: &str) -> Result<BTreeSet<String>, String> {
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    match names.clone().find(|name| !is_accel_name(name)) {
        Some(name) => Err(format!("{name:?} is not an operation's name; write them as noop,sgemm")),
        None => Ok(names.map(str::to_owned).collect()),
    }
}

/// A name and never an address: what the host connects to is not the function's to say.
fn parse_agent(value: &str) -> Result<String, String> {
    if is_accel_name(value) {
        return Ok(value.to_owned());
    }
    Err(format!(
        "{value:?} is not an agent's name; use one that the operator gave, of letters, digits, \".\", \"_\" and \"-\""
    ))
}

fn is_accel_name(name: &str) -> bool {
    (1..=ACCEL_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn check_abi(value: &str) -> Result<(), String> {
    let ours = kernlet_abi::ABI_VERSION;
    if value == ours.to_string() {
        return Ok(());
    }
    Err(format!("{value:?} is another version than this program's, which is {ours}; build the image again"))
}

fn check_machine(value: &str) -> Result<(), String> {
    if [MACHINE_NATIVE, MACHINE_SOLO5].contains(&value) {
        return Ok(());
    }
    Err(format!("{value:?} is not a machine type; use {MACHINE_NATIVE} or {MACHINE_SOLO5}"))
}

/// Memory must hold what every machine has at fixed addresses, and the largest request.
fn check_memory(config: &FunctionConfig) -> Option<String> {
    let (memory, request) = (config.memory, config.request_limit);
    let (least, most) = (ByteSize::new(map::MEMORY_MIN), ByteSize::new(map::MEMORY_MAX));
    if memory < least || memory > most {
        return Some(format!("{PREFIX}memory: {memory} is not possible; use {least} to {most}"));
    }
    let used = request.bytes().saturating_add(map::IMAGE_BASE + map::REQUEST_HEAD_ROOM);
    (used >= memory.bytes()).then(|| {
        format!(
            "{PREFIX}memory: {memory} cannot hold a request of {request}; raise it, or lower {PREFIX}limits.request"
        )
    })
}

/// What the metadata table of a function's `Cargo.toml` calls itself in errors.
const METADATA: &str = "package.metadata.kernlet";

/// The annotations for an image of this program's kind of unikernel, with the settings of its
/// `[package.metadata.kernlet]`, given as text by their keys there.
pub(crate) fn annotations_from_metadata(
    metadata: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut draft = Draft::new(FunctionConfig::default());
    let mut annotations = BTreeMap::new();
    let mut annotate = |setting: Setting, value: &str| {
        annotations.insert(format!("{PREFIX}{}", setting.annotation()), value.to_owned());
    };
    annotate(Setting::Abi, &kernlet_abi::ABI_VERSION.to_string());
    annotate(Setting::Machine, MACHINE_NATIVE);
    for (key, value) in metadata {
        match Setting::ALL.iter().find(|setting| setting.metadata() == Some(key)) {
            Some(setting) => {
                draft.apply(&format!("{METADATA}.{key}"), *setting, value);
                annotate(*setting, value);
            }
            None => draft.problems.push(format!("{METADATA}.{key} is unknown; known are {}", known_metadata())),
        }
    }
    draft.finish().map(|_| annotations)
}

/// The annotations for an image of a Solo5 unikernel with these block devices.
pub(crate) fn annotations_of_solo5(blocks: &BTreeMap<String, BlockSettings>) -> BTreeMap<String, String> {
    let machine = (format!("{PREFIX}{}", Setting::Machine.annotation()), MACHINE_SOLO5.to_owned());
    let blocks =
        blocks.iter().map(|(name, device)| (format!("{PREFIX}{}{name}", block::ANNOTATION), device.to_string()));
    [machine].into_iter().chain(blocks).collect()
}

fn known_metadata() -> String {
    let keys: Vec<&str> = Setting::ALL.iter().filter_map(|setting| setting.metadata()).chain(["resources"]).collect();
    keys.join(", ")
}

fn known_annotations() -> String {
    let blocks = format!("{PREFIX}{}NAME", block::ANNOTATION);
    let plain = Setting::ALL.iter().map(|setting| format!("{PREFIX}{}", setting.annotation()));
    plain.chain([blocks]).collect::<Vec<_>>().join(", ")
}
