//! A template: a guest frozen when it first asked for a request, of which machines are copy-on-write views.
//! Made once a function by the watchdog. It never runs, and nobody can write its memory.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    sync::Arc,
    time::Instant,
};

use crate::{
    crash::{Cause, Crash},
    deadline::Timer,
    debugger::Debugger,
    elf::Unikernel,
    guest::Guest,
    hypervisor::Hypervisor,
    kvm,
    layout::{Layout, MachineConfig},
    machine::Machine,
    memory::FrozenMemory,
    message::{Services, Usage},
    processor::CpuState,
    saved::{self, LoadError, TemplateKey},
    trace::Observer,
};

/// The clean state of a function's machines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: FrozenMemory,
    cpu: CpuState,
    layout: Layout,
    unikernel: Unikernel,
    config: MachineConfig,
}

/// Those who watch a guest, if anybody does.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Sees every hypercall.
    pub observer: Option<Box<dyn Observer>>,
    /// Stops it where it likes. While there is one, the machine has no deadline but that of its accelerator calls.
    pub debugger: Option<Box<Debugger>>,
}

impl Template {
    /// Boots a machine, runs the guest until it waits for its first request, and freezes it there. The machine
    /// is the template's first.
    ///
    /// # Errors
    /// The machine cannot be made, or the guest ended or overran `deadline` while it initialised.
    pub fn boot(
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<(Self, Machine), Box<Crash>> {
        Self::boot_watched(hypervisor, unikernel, config, services, deadline, Watchers::default())
    }

    /// As [`Template::boot`], with somebody who watches from the first instruction, and afterwards the machine.
    ///
    /// # Errors
    /// As [`Template::boot`].
    pub fn boot_watched(
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
        watchers: Watchers,
    ) -> Result<(Self, Machine), Box<Crash>> {
        let crash = |cause| Crash::new(cause, Usage::default());
        let mut guest = Guest::boot(hypervisor, unikernel, config, services, deadline).map_err(crash)?;
        guest.watch(watchers);
        let frozen = match guest.run_guarded(&Timer::new()) {
            Ok(0) => guest.freeze(),
            Ok(_) => Err(Cause::BadResponse { why: "it came before the first request".to_owned() }),
            Err(cause) => Err(cause),
        };
        let (memory, cpu) = frozen.map_err(|cause| guest.crash(cause, None))?;
        let layout = guest.view.layout.clone();
        let inner = Inner { memory, cpu, layout, unikernel: unikernel.clone(), config: config.clone() };
        let template = Self { inner: Arc::new(inner) };
        Ok((template.clone(), Machine::new(guest, template)))
    }

    /// A template that an earlier process saved under this key, for [`Self::machine`] to make the first one of.
    ///
    /// # Errors
    /// The file is of something else, is damaged, or cannot be put into memory; then [`Self::boot`] is the way.
    pub fn load(
        file: impl Read,
        key: &TemplateKey,
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
    ) -> Result<Self, LoadError> {
        let layout = Layout::new(unikernel, config).map_err(Cause::from)?;
        let file = BufReader::with_capacity(64 * 1024, file);
        let cpuid = hypervisor.cpuid().ok_or(Cause::OtherBackend)?;
        let (memory, cpu) = saved::read(file, key, &saved::Native { layout: &layout, config })?;
        let cpu = kvm::CpuState::decode(&cpu, cpuid).map_err(saved::damaged)?;
        cpu.place(&memory)?;
        let (memory, cpu) = (saved::freeze(memory)?, CpuState::Kvm(cpu));
        let inner = Inner { memory, cpu, layout, unikernel: unikernel.clone(), config: config.clone() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes the template to an empty file, for [`Self::load`]. Until it is there as a whole, the file is none. What the
    /// function keeps in memory is in it: the file should be its owner's alone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &File, key: &TemplateKey) -> io::Result<()> {
        let Inner { memory, cpu, layout, config, .. } = &*self.inner;
        // Of processes, registers are in a form that no file has.
        let CpuState::Kvm(cpu) = cpu else { return Err(io::ErrorKind::Unsupported.into()) };
        saved::write(file, key, memory, &saved::Native { layout, config }, &cpu.encode())
    }

    /// Another machine, in exactly the template's state.
    ///
    /// # Errors
    /// KVM or the host cannot give another machine.
    pub fn machine(&self, hypervisor: &Hypervisor, services: Services) -> Result<Machine, Box<Crash>> {
        let guest = Guest::from_template(hypervisor, self, services);
        let guest = guest.map_err(|cause| Crash::new(cause, Usage::default()))?;
        Ok(Machine::new(guest, self.clone()))
    }

    pub(crate) fn memory(&self) -> &FrozenMemory {
        &self.inner.memory
    }

    pub(crate) fn cpu(&self) -> &CpuState {
        &self.inner.cpu
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn unikernel(&self) -> &Unikernel {
        &self.inner.unikernel
    }

    pub(crate) fn config(&self) -> &MachineConfig {
        &self.inner.config
    }
}
