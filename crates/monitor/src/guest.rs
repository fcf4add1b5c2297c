//! The guest inside a machine: its VM, vCPU and memory, and the loop that runs it from one exit to the next.
//! Used by machines and templates. It knows hypercalls and faults, but nothing of requests.

use std::time::Instant;

use kernlet_abi::{
    ABI_VERSION, Span,
    boot::{BOOT_MAGIC, BootPage},
    hypercall::HYPERCALL_PORT,
    map::{BOOT_BASE, BOOT_SIZE, HYPERCALL_PAGE},
};
use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, KVM_MEM_LOG_DIRTY_PAGES, kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::{
    arch::{self, CpuState, FAULT_PORT, FaultFrame},
    crash::{Cause, CodeAddress, FaultAccess, kvm},
    deadline::Timer,
    dirty::{self, DirtyRing},
    elf::Unikernel,
    hypercall::{self, CallContext, Flow, GuestView},
    hypervisor::Hypervisor,
    layout::{Layout, LayoutError, MachineConfig},
    memory::{FrozenMemory, GuestMemory},
    message::{Services, Usage},
    paging::{PageTables, Ring},
    template::Template,
};

/// Dirty pages beyond which a rewind drops them all instead of copying them back: 8 MiB, so that a function
/// that once touched much memory does not keep it.
const DROP_ABOVE: usize = 2048;

/// A guest between two runs.
#[derive(Debug)]
pub(crate) struct Guest {
    // The vCPU and the VM go before the memory that they refer to.
    vcpu: VcpuFd,
    vm: VmFd,
    ring: DirtyRing,
    pub(crate) view: GuestView,
    unikernel: Unikernel,
    pub(crate) context: CallContext,
    pub(crate) begun: Instant,
    /// Bytes of the request window that hold something.
    pub(crate) window_used: u64,
}

/// Whether the pages that a guest writes are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracking {
    Off,
    On,
}

impl Guest {
    /// A guest before its first instruction, in memory of its own.
    pub(crate) fn boot(
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<Self, Cause> {
        let layout = Layout::new(unikernel, config)?;
        let size = layout.memory;
        let memory = GuestMemory::new(size).map_err(|source| Cause::Memory { size, source })?;
        write_image(&memory, &layout, unikernel, config)?;
        let context = CallContext::new(services, deadline);
        let guest = Self::new(hypervisor, GuestView { memory, layout }, unikernel, context, Tracking::Off)?;
        arch::set_up_vcpu(&guest.vcpu, hypervisor.cpuid(), unikernel.entry())?;
        Ok(guest)
    }

    /// A guest that stands where its template was taken.
    pub(crate) fn from_template(
        hypervisor: &Hypervisor,
        template: &Template,
        services: Services,
    ) -> Result<Self, Cause> {
        let size = template.layout().memory;
        let memory = GuestMemory::view(template.memory()).map_err(|source| Cause::Memory { size, source })?;
        let view = GuestView { memory, layout: template.layout().clone() };
        let context = CallContext::new(services, Instant::now());
        let mut guest = Self::new(hypervisor, view, template.unikernel(), context, Tracking::On)?;
        template.cpu().set_up(&mut guest.vcpu, hypervisor.cpuid())?;
        Ok(guest)
    }

    fn new(
        hypervisor: &Hypervisor,
        view: GuestView,
        unikernel: &Unikernel,
        context: CallContext,
        tracking: Tracking,
    ) -> Result<Self, Cause> {
        let vm = hypervisor.create_vm()?;
        DirtyRing::enable(&vm)?;
        let vcpu = vm.create_vcpu(0).map_err(kvm("create a processor"))?;
        let size = view.layout.memory;
        let ring = DirtyRing::map(&vcpu).map_err(|source| Cause::Memory { size, source })?;
        let (unikernel, begun) = (unikernel.clone(), Instant::now());
        let guest = Self { vcpu, vm, ring, view, unikernel, context, begun, window_used: 0 };
        guest.give_memory(tracking)?;
        Ok(guest)
    }

    /// Tells KVM of the guest's memory, or of a change in how it is tracked.
    fn give_memory(&self, tracking: Tracking) -> Result<(), Cause> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: if tracking == Tracking::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: 0,
            memory_size: self.view.memory.size(),
            userspace_addr: self.view.memory.host_address(),
        };
        // SAFETY: the region is the whole mapping of the memory, which lives until after the VM (field order of
        // `Guest`); the host looks at it only through volatile copies or with the vCPU stopped (`borrow`).
        unsafe { self.vm.set_user_memory_region(region) }.map_err(kvm("give the machine its memory"))
    }

    /// Freezes the guest, which waits for its first request, as a template; it goes on as a view of it.
    pub(crate) fn freeze(&mut self) -> Result<(FrozenMemory, CpuState), Cause> {
        let size = self.view.layout.memory;
        let memory = self.view.memory.freeze().map_err(|source| Cause::Memory { size, source })?;
        self.give_memory(Tracking::On)?;
        let cpu = CpuState::capture(&mut self.vcpu)?;
        Ok((memory, cpu))
    }

    /// Makes the guest equal to its template.
    pub(crate) fn rewind(&mut self, template: &Template) -> Result<(), Cause> {
        let Self { ring, view: GuestView { memory, layout }, .. } = self;
        let size = layout.memory;
        let dirty = memory.dirty();
        ring.collect(|page| dirty.insert(page));
        if dirty.pages().len() > DROP_ABOVE {
            memory.drop_written().map_err(|source| Cause::Memory { size, source })?;
            dirty::reset_rings(&self.vm)?;
        } else {
            let restored = memory.restore(template.memory());
            let restored = restored.and_then(|()| memory.zero_unmarked(layout.window.offset, self.window_used));
            restored.map_err(|_| Cause::Layout(LayoutError::MemorySize { memory: size }))?;
        }
        self.window_used = 0;
        self.context.started = None;
        template.cpu().restore(&mut self.vcpu)
    }

    /// What of the guest differs from its template, if anything does.
    pub(crate) fn first_difference(&mut self, template: &Template) -> Result<Option<String>, Cause> {
        let memory = self.view.memory.first_difference(template.memory());
        let memory = memory.map_err(|_| LayoutError::MemorySize { memory: self.view.layout.memory })?;
        if let Some(address) = memory {
            return Ok(Some(format!("memory at {address:#x}")));
        }
        Ok(template.cpu().first_difference(&mut self.vcpu)?.map(str::to_owned))
    }

    /// Runs on this thread until the guest waits for a request or its deadline is over.
    pub(crate) fn run_guarded(&mut self, timer: &Timer) -> Result<u64, Cause> {
        let run: *mut kvm_run = self.vcpu.get_kvm_run();
        timer.guard(self.context.deadline, run, || self.run())
    }

    /// Begins an invocation.
    pub(crate) fn begin(&mut self, call_id: &str, deadline: Instant) {
        self.begun = Instant::now();
        self.context.started.get_or_insert(self.begun);
        self.context.deadline = deadline;
        self.context.usage = Usage::default();
        self.context.call_id.clear();
        self.context.call_id.push_str(call_id);
    }

    /// What the invocation took so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage { wall: self.begun.elapsed(), ..self.context.usage }
    }

    /// Runs until the guest waits for a request; the address of its response, zero for none.
    fn run(&mut self) -> Result<u64, Cause> {
        loop {
            self.context.usage.exits += 1;
            let block = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(HYPERCALL_PORT, data)) => match data.first_chunk::<4>() {
                    Some(block) if data.len() == 4 => u32::from_le_bytes(*block),
                    _ => return Err(Cause::ForbiddenPort { port: HYPERCALL_PORT }),
                },
                Ok(VcpuExit::IoOut(FAULT_PORT, _)) => self.fault()?,
                Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => return Err(Cause::ForbiddenPort { port }),
                Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
                    return Err(Cause::OutsideMemory { address });
                }
                Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
                    self.ring_full()?;
                    continue;
                }
                Ok(VcpuExit::Shutdown) => return Err(Cause::Shutdown),
                Ok(exit) => {
                    let detail = format!("{exit:?}");
                    return Err(Cause::Stuck { at: self.code_address(), detail });
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    self.interrupted()?;
                    continue;
                }
                Err(error) => return Err(kvm("run the processor")(error)),
            };
            match hypercall::serve(&mut self.view, &mut self.context, u64::from(block))? {
                Flow::Continue => {}
                Flow::Wait { response } => return Ok(response),
            }
        }
    }

    /// The ring has no room for another page.
    fn ring_full(&mut self) -> Result<(), Cause> {
        let dirty = self.view.memory.dirty();
        self.ring.collect(|page| dirty.insert(page));
        dirty::reset_rings(&self.vm)
    }

    /// A signal came: the deadline's kick, or one that has nothing to do with it.
    fn interrupted(&mut self) -> Result<(), Cause> {
        self.vcpu.set_kvm_immediate_exit(0);
        if Instant::now() < self.context.deadline {
            return Ok(());
        }
        let limit = self.context.deadline.saturating_duration_since(self.begun);
        Err(Cause::Timeout { limit, at: self.code_address() })
    }

    fn code_address(&self) -> CodeAddress {
        let rip = self.vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default();
        CodeAddress::new(rip, &self.unikernel)
    }

    /// A fault stub reported an exception: its cause, or the argument block of a refused hypercall.
    fn fault(&mut self) -> Result<u32, Cause> {
        let regs = self.vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        if !arch::is_in_fault_stub(&regs) {
            return Err(Cause::ForbiddenPort { port: FAULT_PORT });
        }
        let frame = FaultFrame::read(&self.view.memory).map_err(|_| Cause::Shutdown)?;
        if frame.is_refused_hypercall() {
            frame.resume_after_hypercall(&self.vcpu, regs)?;
            #[allow(clippy::cast_possible_truncation, reason = "the call's argument is eax")]
            return Ok(regs.rax as u32);
        }
        let at = CodeAddress::new(frame.rip, &self.unikernel);
        let vector = u8::try_from(frame.vector).unwrap_or(u8::MAX);
        if vector != arch::PAGE_FAULT {
            let name = arch::exception_name(vector);
            return Err(Cause::Exception { name, vector, error_code: frame.error_code, at });
        }
        let address = self.vcpu.get_sregs().map_err(kvm("read the processor's state"))?.cr2;
        let access = match frame.error_code {
            code if code & arch::PAGE_FAULT_FETCH != 0 => FaultAccess::Execute,
            code if code & arch::PAGE_FAULT_WRITE != 0 => FaultAccess::Write,
            _ => FaultAccess::Read,
        };
        Err(Cause::PageFault { access, address, region: self.view.layout.describe(address), at })
    }
}

/// Fills a new machine's memory: page tables, descriptor tables, boot page, the image's segments.
pub(crate) fn write_image(
    memory: &GuestMemory,
    layout: &Layout,
    unikernel: &Unikernel,
    config: &MachineConfig,
) -> Result<(), Cause> {
    let outside = |_| Cause::Layout(LayoutError::MemorySize { memory: layout.memory });
    let mut tables = PageTables::new(memory);
    for area in arch::supervisor_areas() {
        tables.map(&area, Ring::Supervisor)?;
    }
    for area in &layout.areas {
        tables.map(area, Ring::User)?;
    }
    arch::write_tables(memory).map_err(outside)?;
    write_boot_page(memory, layout, config)?;
    for segment in unikernel.segments() {
        memory.write(segment.memory.start, unikernel.contents(segment)).map_err(outside)?;
    }
    Ok(())
}

fn write_boot_page(memory: &GuestMemory, layout: &Layout, config: &MachineConfig) -> Result<(), Cause> {
    let mut environment = Vec::new();
    for (name, value) in &config.environment {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            environment.extend_from_slice(part);
        }
    }
    let offset = BOOT_BASE + size_of::<BootPage>() as u64;
    let max = BOOT_SIZE - size_of::<BootPage>() as u64;
    if environment.len() as u64 > max {
        return Err(LayoutError::Environment { size: environment.len(), max }.into());
    }
    let page = BootPage {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        size: BootPage::SIZE,
        hypercall_entry: HYPERCALL_PAGE,
        memory_size: layout.memory,
        heap: layout.heap,
        request_window: layout.window,
        response_limit: config.response_limit,
        environment: Span { offset, len: environment.len() as u64 },
    };
    let written = memory.store(BOOT_BASE, &page).and_then(|()| memory.write(offset, &environment));
    written.map_err(|_| LayoutError::MemorySize { memory: layout.memory }.into())
}
