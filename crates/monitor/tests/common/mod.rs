//! Builds the test's unikernels and makes machines of them. Used by every test of this crate.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests; each uses a part")]

pub(crate) mod everything;
pub(crate) mod nature;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use kernlet_accel::Runtime;
use kernlet_monitor::{
    Backend, Crash, Hypervisor, HypervisorError, Level, LogSink, Machine, MachineConfig, Request, Response, Services,
    Template, Unikernel,
};

pub(crate) const MIB: u64 = 1 << 20;

/// Names a folder of unikernels built before, for a machine that has no cargo.
const PREBUILT: &str = "KERNLET_UNIKERNELS";

/// The ELF file of a function under `functions/`, built.
pub(crate) fn elf(function: &str) -> Vec<u8> {
    if let Some(folder) = std::env::var_os(PREBUILT) {
        return fs::read(Path::new(&folder).join(function)).expect("a unikernel built before");
    }
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "-p", function])
        .current_dir(&functions)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "functions/{function} builds");
    fs::read(functions.join("target/release").join(function)).expect("cargo made the unikernel")
}

/// Names a folder of Solo5 guests built before, for a machine that has no compiler.
const PREBUILT_SOLO5: &str = "KERNLET_SOLO5_GUESTS";

/// The file of a guest of `functions/solo5`, built for hvt.
pub(crate) fn solo5_guest(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        if let Some(folder) = std::env::var_os(PREBUILT_SOLO5) {
            return folder.into();
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions/solo5/build.sh");
        assert!(Command::new("sh").arg(script).arg("hvt").arg(&folder).status().unwrap().success());
        folder
    });
    fs::read(folder.join(format!("{name}.hvt"))).expect("a guest")
}

/// The hypervisors that the tests run on, one after the other: KVM, unless there is none and none is required (said in
/// a notice), and processes. `KERNLET_TEST_BACKEND=kvm|process` leaves one.
pub(crate) fn hypervisors() -> impl Iterator<Item = Hypervisor> {
    let only: Backend = std::env::var("KERNLET_TEST_BACKEND").map_or(Backend::Auto, |name| name.parse().unwrap());
    let wanted = [Backend::Kvm, Backend::Process].into_iter().filter(move |one| [Backend::Auto, *one].contains(&only));
    wanted.filter_map(|backend| {
        let hypervisor = hypervisor(backend)?;
        // Shown where a test fails.
        eprintln!("on backend {backend}");
        Some(hypervisor)
    })
}

fn hypervisor(backend: Backend) -> Option<Hypervisor> {
    match Hypervisor::choose(backend) {
        Ok(hypervisor) => Some(hypervisor),
        Err(error @ (HypervisorError::Missing | HypervisorError::NotPermitted))
            if std::env::var_os("KERNLET_REQUIRE_KVM").is_none() =>
        {
            eprintln!("SKIPPED, NO USABLE KVM: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Log lines, as (call id, level, text).
#[derive(Debug, Default)]
pub(crate) struct Lines(pub(crate) Mutex<Vec<(String, Level, String)>>);

impl LogSink for Lines {
    fn line(&self, call_id: &str, level: Level, text: &str) {
        self.0.lock().unwrap().push((call_id.to_owned(), level, text.to_owned()));
    }
}

/// A function that machines can be made of.
pub(crate) struct Function {
    pub(crate) hypervisor: Hypervisor,
    pub(crate) unikernel: Unikernel,
    pub(crate) config: MachineConfig,
    pub(crate) log: Arc<Lines>,
}

impl Function {
    /// The function under `functions/` of this name, for tests of what only KVM has; `None` without it.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let hypervisor = hypervisor(Backend::Kvm)?;
        Some(Self::of(hypervisor, &elf(name)))
    }

    /// The function under `functions/` of this name, on one backend after the other.
    pub(crate) fn on_each_backend(name: &str) -> impl Iterator<Item = Self> {
        let elf = elf(name);
        hypervisors().map(move |hypervisor| Self::of(hypervisor, &elf))
    }

    /// The function that an ELF file holds.
    pub(crate) fn of(hypervisor: Hypervisor, elf: &[u8]) -> Self {
        let unikernel = Unikernel::parse(elf).expect("a unikernel");
        let environment = vec![("GREETING".to_owned(), "hello".to_owned())];
        let config = MachineConfig { memory: 16 * MIB, request_limit: MIB, response_limit: MIB, environment };
        Self { hypervisor, unikernel, config, log: Arc::default() }
    }

    pub(crate) fn boot(&self) -> Result<Machine, Box<Crash>> {
        self.boot_until(in_seconds(5))
    }

    pub(crate) fn boot_until(&self, deadline: Instant) -> Result<Machine, Box<Crash>> {
        self.template_until(deadline).map(|(_, machine)| machine)
    }

    /// A template and its first machine.
    pub(crate) fn template(&self) -> Result<(Template, Machine), Box<Crash>> {
        self.template_until(in_seconds(5))
    }

    fn template_until(&self, deadline: Instant) -> Result<(Template, Machine), Box<Crash>> {
        Template::boot(&self.hypervisor, &self.unikernel, &self.config, self.services(), deadline)
    }

    pub(crate) fn services(&self) -> Services {
        let log: Arc<dyn LogSink> = self.log.clone();
        Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log }
    }

    /// The answer of a new machine to one request.
    pub(crate) fn ask(&self, path: &str, body: &[u8]) -> Result<Response, Box<Crash>> {
        self.boot()?.invoke(&request(path, body), in_seconds(5)).map(|(_, response)| response)
    }
}

/// How many times as long as here things may take, where everything is emulated.
pub(crate) fn patience() -> u32 {
    std::env::var("KERNLET_TEST_PATIENCE").ok().and_then(|value| value.parse().ok()).unwrap_or(1)
}

pub(crate) fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds) * patience()
}

pub(crate) fn request<'a>(path: &'a str, body: &'a [u8]) -> Request<'a> {
    Request { method: "POST", path, query: "", headers: &[], body, call_id: "call-1" }
}
