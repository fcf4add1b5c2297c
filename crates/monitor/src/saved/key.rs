//! What a saved template is of: whatever decides over its contents. Made by the watchdog from what it is about to run;
//! a file with another key is refused. It holds digests only: an environment may have secrets in it.

use kernlet_abi::ABI_VERSION;
use kernlet_accel::Session;
use kvm_bindings::CpuId;
use sha2::{Digest as _, Sha256};

use super::{FORMAT, Header, MAGIC};
use crate::{Hypervisor, MachineConfig, Program, Unikernel, kvm, solo5};

/// Version of the program: another one may do anything else with its machines.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// What is added to the version of the guest interface where that is Solo5's.
const SOLO5: u32 = 0x5050_0000;

/// SHA-256 of something.
pub(super) type Sha = [u8; 32];

/// What a template depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateKey {
    abi: u32,
    program: Sha,
    unikernel: Sha,
    settings: Sha,
    processor: Sha,
    memory: u64,
}

impl TemplateKey {
    /// The key of what would be booted from these. `origin` says where the resources come from, so that others under the
    /// same names and of the same sizes are not taken for them: the image's digest.
    #[must_use]
    pub fn new(
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
        accel: &Session,
        origin: &str,
    ) -> Self {
        Self::of(hypervisor.cpuid(), unikernel, config, accel, origin)
    }

    /// The key of what would be booted from a program, of whichever machine type. None of one that serves by itself: its
    /// template has the other end of its network in it, which no file holds.
    #[must_use]
    pub fn of_program(
        hypervisor: &Hypervisor,
        program: &Program,
        config: &MachineConfig,
        accel: &Session,
        origin: &str,
    ) -> Option<Self> {
        match program {
            Program::Native(unikernel) => Some(Self::new(hypervisor, unikernel, config, accel, origin)),
            Program::Solo5(image) => Some(Self::of_solo5(hypervisor.cpuid(), image, config, accel, origin)),
            Program::Solo5Server(_) => None,
        }
    }

    pub(crate) fn of_solo5(
        cpuid: Option<&CpuId>,
        image: &solo5::Image,
        config: &MachineConfig,
        accel: &Session,
        origin: &str,
    ) -> Self {
        let memory = solo5::Config::round_memory(config.memory);
        let native = Self::of(cpuid, &Unikernel::of_symbols(image.bytes()), config, accel, origin);
        let mut settings = Parts::new().add(&native.settings);
        for (name, disk) in image.disks() {
            settings = settings.add(name.as_bytes()).add(&disk.capacity().to_le_bytes());
            settings = settings.add(&disk.sector().to_le_bytes());
        }
        Self { abi: SOLO5 | solo5::ABI_VERSION, settings: settings.finish(), memory, ..native }
    }

    pub(crate) fn of(
        cpuid: Option<&CpuId>,
        unikernel: &Unikernel,
        config: &MachineConfig,
        accel: &Session,
        origin: &str,
    ) -> Self {
        Self {
            abi: ABI_VERSION,
            program: Parts::new().add(PROGRAM.as_bytes()).finish(),
            unikernel: unikernel.digest(),
            settings: settings(config, accel, origin),
            // Of processes no template is saved.
            processor: Parts::new().add(&cpuid.map(kvm::describe_processor).unwrap_or_default()).finish(),
            memory: config.memory,
        }
    }

    /// The head of a file with this key, its counts still to be filled in.
    pub(super) fn header(&self) -> Header {
        let Self { abi, program, unikernel, settings, processor, memory } = *self;
        let counts = [0; 3];
        Header { magic: MAGIC, format: FORMAT, abi, program, unikernel, settings, processor, memory, counts }
    }

    /// What a file with this head is of, where that is something else.
    pub(super) fn first_difference(&self, found: &Header) -> Option<&'static str> {
        let wanted = self.header();
        [
            ("another format of such files", wanted.format == found.format),
            ("another version of the guest interface", wanted.abi == found.abi),
            ("another version of Kernlet", wanted.program == found.program),
            ("another unikernel", wanted.unikernel == found.unikernel),
            ("another memory size", wanted.memory == found.memory),
            ("other limits, resources or environment variables", wanted.settings == found.settings),
            ("another processor, or another kind of KVM", wanted.processor == found.processor),
        ]
        .into_iter()
        .find_map(|(what, equal)| (!equal).then_some(what))
    }
}

/// A guest sees its limits and its environment in the boot page, and gets ids and sizes of resources on demand.
fn settings(config: &MachineConfig, accel: &Session, origin: &str) -> Sha {
    let MachineConfig { memory: _, request_limit, response_limit, environment } = config;
    let mut parts = Parts::new().add(origin.as_bytes());
    parts = parts.add(&request_limit.to_le_bytes()).add(&response_limit.to_le_bytes());
    parts = parts.add(&(environment.len() as u64).to_le_bytes());
    for (name, value) in environment {
        parts = parts.add(name.as_bytes()).add(value.as_bytes());
    }
    for (id, name, size) in accel.resources() {
        parts = parts.add(&id.get().to_le_bytes()).add(name.as_bytes()).add(&size.to_le_bytes());
    }
    parts.finish()
}

/// A digest of several things, each with its length, so that no two lists of them give the same bytes.
struct Parts(Sha256);

impl Parts {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    fn finish(self) -> Sha {
        self.0.finalize().into()
    }
}
