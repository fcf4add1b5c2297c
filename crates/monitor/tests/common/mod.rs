//! Builds the test's unikernels and makes machines of them. Used by every test of this crate.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests; each uses a part")]

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kernlet_accel::Runtime;
use kernlet_monitor::{
    Crash, Hypervisor, HypervisorError, Level, LogSink, Machine, MachineConfig, Request, Response, Services, Unikernel,
};

pub(crate) const MIB: u64 = 1 << 20;

/// The ELF file of a function under `functions/`, built.
pub(crate) fn elf(function: &str) -> Vec<u8> {
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "-p", function])
        .current_dir(&functions)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "functions/{function} builds");
    fs::read(functions.join("target/release").join(function)).expect("cargo made the unikernel")
}

/// KVM, or `None` (and a notice) where there is none and none is required.
pub(crate) fn hypervisor() -> Option<Hypervisor> {
    match Hypervisor::open() {
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
    /// The function under `functions/` of this name; `None` without KVM.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let hypervisor = hypervisor()?;
        let unikernel = Unikernel::parse(&elf(name)).expect("a unikernel");
        let environment = vec![("GREETING".to_owned(), "hello".to_owned())];
        let config = MachineConfig { memory: 16 * MIB, request_limit: MIB, response_limit: MIB, environment };
        Some(Self { hypervisor, unikernel, config, log: Arc::default() })
    }

    pub(crate) fn boot(&self) -> Result<Machine, Box<Crash>> {
        let log: Arc<dyn LogSink> = self.log.clone();
        let services = Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log };
        Machine::boot(&self.hypervisor, &self.unikernel, &self.config, services, in_seconds(5))
    }

    /// The answer of a new machine to one request.
    pub(crate) fn ask(&self, path: &str, body: &[u8]) -> Result<Response, Box<Crash>> {
        self.boot()?.invoke(&request(path, body), in_seconds(5)).map(|(_, response)| response)
    }
}

pub(crate) fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

pub(crate) fn request<'a>(path: &'a str, body: &'a [u8]) -> Request<'a> {
    Request { method: "POST", path, query: "", headers: &[], body, call_id: "call-1" }
}
