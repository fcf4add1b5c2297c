//! A guest's processor under KVM: one VM with one vCPU at CPL 3, and the log of the pages that it writes.
//! Driven by `guest`, always from one thread; it knows exits and registers, and nothing of what a hypercall means.

mod arch;
mod debug;
mod dirty_ring;
mod paging;
mod shell;

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use kernlet_abi::hypercall::HYPERCALL_PORT;
use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, KVM_MEM_LOG_DIRTY_PAGES, kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use arch::supervisor_areas;
pub(crate) use arch::{
    CpuState, DESCRIPTORS, FaultFrame, TSS_AVAILABLE, check_rights, contents as vector_contents, describe_processor,
    finish_exit, take as take_state, user_segments,
};
pub(crate) use debug::{OtherRegisters, Step};
pub(crate) use paging::{PageTables, Ring};
pub(crate) use shell::{Purpose, Shell, Stock};

use crate::{
    crash::{Cause, kvm},
    hypervisor::KvmHost,
    kvm::{arch::FAULT_PORT, dirty_ring::DirtyRing},
    layout::{Layout, LayoutError},
    memory::{FrozenMemory, GuestMemory},
    processor::{Exit, Fault, Registers},
};

/// Dirty pages beyond which a rewind drops them all instead of copying them back: 8 MiB, so that a function
/// that once touched much memory does not keep it.
const DROP_ABOVE: usize = 2048;

/// How often that may be. A page that was dropped costs a page fault when it is written next, a hundred times what copying
/// it takes where KVM is nested, so a function that always touches much memory is copied back most of the time.
const DROP_EVERY: Duration = Duration::from_secs(1);

/// `KVM_GET_TSC_KHZ`, `_IO(KVMIO, 0xa3)` of `linux/kvm.h`, which kvm-ioctls has of vCPUs alone. A VM says it as well since Linux
/// 6.0, in a fraction of the time.
const GET_TSC_KHZ: libc::c_ulong = 0xaea3;

/// A VM with its vCPU. It refers to a guest's memory, which must outlive it.
#[derive(Debug)]
pub(crate) struct Processor {
    vcpu: VcpuFd,
    vm: VmFd,
    /// None of a machine that runs once.
    ring: Option<DirtyRing>,
    /// When the pages that it wrote were dropped last.
    dropped: Option<Instant>,
    /// Where the VM is closed; here, where there is none.
    stock: Option<Stock>,
}

impl Drop for Processor {
    fn drop(&mut self) {
        let Some(stock) = &self.stock else { return };
        // With a descriptor elsewhere, dropping ours only unmaps; what nobody runs any more touches no memory.
        if let (Ok(vcpu), Ok(vm)) = (duplicate(&self.vcpu), duplicate(&self.vm)) {
            stock.end(vcpu, vm);
        }
    }
}

fn duplicate(descriptor: &impl AsRawFd) -> Result<OwnedFd, io::Error> {
    // SAFETY: the descriptor is open for as long as what owns it is borrowed.
    unsafe { BorrowedFd::borrow_raw(descriptor.as_raw_fd()) }.try_clone_to_owned()
}

/// Whether the pages that a guest writes are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracking {
    Off,
    On,
}

/// Writes what a guest needs of its processor into a new machine's memory: page tables, descriptor tables, the
/// hypercall page.
pub(crate) fn write_tables(memory: &GuestMemory, layout: &Layout) -> Result<(), Cause> {
    let mut tables = PageTables::new(memory);
    for area in arch::supervisor_areas() {
        tables.map(&area, Ring::Supervisor)?;
    }
    for area in &layout.areas {
        tables.map(area, Ring::User)?;
    }
    arch::write_tables(memory).map_err(|_| LayoutError::MemorySize { memory: layout.memory }.into())
}

impl Processor {
    /// A processor before the guest's first instruction, which is at `entry`.
    pub(crate) fn boot(host: &KvmHost, memory: &GuestMemory, entry: u64) -> Result<Self, Cause> {
        let processor = Self::new(host, memory, Tracking::Off, Purpose::Function)?;
        arch::set_up_vcpu(&processor.vcpu, host.cpuid()?, entry)?;
        Ok(processor)
    }

    /// A processor in the state in which a template was frozen, with a view of its memory.
    pub(crate) fn from_template(
        host: &KvmHost,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(Self, GuestMemory), Cause> {
        let (mut processor, memory) = Self::bare_view(host, template)?;
        state.set_up(&mut processor.vcpu, host.cpuid()?)?;
        Ok((processor, memory))
    }

    /// A processor whose registers and tables a machine of another type than the native one sets up.
    pub(crate) fn bare(host: &KvmHost, memory: &GuestMemory, purpose: Purpose) -> Result<Self, Cause> {
        Self::new(host, memory, Tracking::Off, purpose)
    }

    /// The same, with a view of a template's memory.
    pub(crate) fn bare_view(host: &KvmHost, template: &FrozenMemory) -> Result<(Self, GuestMemory), Cause> {
        let memory = GuestMemory::view(template);
        let memory = memory.map_err(|source| Cause::Memory { size: template.size(), source })?;
        Ok((Self::new(host, &memory, Tracking::On, Purpose::Function)?, memory))
    }

    /// The vCPU, for whoever sets up its registers.
    pub(crate) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }

    fn new(host: &KvmHost, memory: &GuestMemory, tracking: Tracking, purpose: Purpose) -> Result<Self, Cause> {
        let (Shell { vcpu, vm, ring }, stock) = host.shell(purpose, memory.size())?;
        let processor = Self { vcpu, vm, ring, dropped: None, stock };
        processor.give_memory(memory, tracking)?;
        Ok(processor)
    }

    /// Tells KVM of the guest's memory, or of a change in how it is tracked.
    fn give_memory(&self, memory: &GuestMemory, tracking: Tracking) -> Result<(), Cause> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: if tracking == Tracking::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: 0,
            memory_size: memory.size(),
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the region is the whole mapping of the memory, which lives until after the VM (field order of
        // `Guest`); the host looks at it only through volatile copies or with the vCPU stopped (`borrow`).
        unsafe { self.vm.set_user_memory_region(region) }.map_err(kvm("give the machine its memory"))
    }

    /// Freezes the memory of a guest that waits for its first request, which goes on as a view of it.
    pub(crate) fn freeze(&mut self, memory: &mut GuestMemory) -> Result<(FrozenMemory, CpuState), Cause> {
        let state = self.settle(memory)?;
        Ok((self.freeze_memory(memory)?, state))
    }

    /// Freezes the memory alone.
    pub(crate) fn freeze_memory(&mut self, memory: &mut GuestMemory) -> Result<FrozenMemory, Cause> {
        let frozen = memory.freeze().map_err(|source| Cause::Memory { size: memory.size(), source })?;
        self.give_memory(memory, Tracking::On)?;
        Ok(frozen)
    }

    /// The state in which a guest that has just left by a hypercall is to wait: where it loads its vector registers
    /// itself, if doing so gives what is there now.
    fn settle(&mut self, memory: &mut GuestMemory) -> Result<CpuState, Cause> {
        let mut state = CpuState::capture(&mut self.vcpu)?;
        if let Some(before) = state.try_loading(memory)? {
            state.restore_general(&mut self.vcpu);
            if self.first_difference(memory, &state)?.is_some() {
                state.give_up_loading(&mut self.vcpu, before)?;
            }
        }
        Ok(state)
    }

    /// Makes memory, save the request window, and registers equal to the template's.
    pub(crate) fn rewind(
        &mut self,
        memory: &mut GuestMemory,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(), Cause> {
        self.rewind_memory(memory, template)?;
        state.restore(&mut self.vcpu)
    }

    /// Makes memory, save the request window, equal to the template's.
    pub(crate) fn rewind_memory(&mut self, memory: &mut GuestMemory, template: &FrozenMemory) -> Result<(), Cause> {
        let size = memory.size();
        self.collect_dirty(memory);
        if memory.dirty().pages().len() > DROP_ABOVE && self.dropped.is_none_or(|at| at.elapsed() >= DROP_EVERY) {
            self.dropped = Some(Instant::now());
            memory.drop_written().map_err(|source| Cause::Memory { size, source })?;
            dirty_ring::reset(&self.vm)?;
        } else {
            memory.restore(template).map_err(|_| LayoutError::MemorySize { memory: size })?;
        }
        Ok(())
    }

    /// How many pages a rewind would restore now.
    pub(crate) fn dirty_pages(&mut self, memory: &mut GuestMemory) -> usize {
        self.collect_dirty(memory);
        memory.dirty().pages().len()
    }

    /// Which of its registers differ from the template's, if any do. Where the guest loads its vector registers when
    /// it is resumed, it does so here as it would for a request, and no further.
    pub(crate) fn first_difference(
        &mut self,
        memory: &mut GuestMemory,
        state: &CpuState,
    ) -> Result<Option<&'static str>, Cause> {
        if let Some(difference) = state.first_difference(&mut self.vcpu)? {
            return Ok(Some(difference));
        }
        let loads = state.resume_to_out(&mut self.vcpu);
        if loads && !self.reaches_out(memory)? {
            return Ok(Some("a vector register that cannot be loaded"));
        }
        let differ = state.vectors_differ(&self.vcpu)?;
        if loads {
            state.restore_general(&mut self.vcpu);
        }
        Ok(differ.then_some("a vector register"))
    }

    /// Runs the guest until it makes a hypercall; false where it does something else.
    fn reaches_out(&mut self, memory: &mut GuestMemory) -> Result<bool, Cause> {
        loop {
            match self.run(memory)? {
                Exit::Hypercall { .. } => return Ok(true),
                Exit::Interrupted | Exit::Again => {}
                _ => return Ok(false),
            }
        }
    }

    /// Runs the guest until it needs the monitor.
    pub(crate) fn run(&mut self, memory: &mut GuestMemory) -> Result<Exit, Cause> {
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(HYPERCALL_PORT, data)) => match data.first_chunk::<4>() {
                Some(block) if data.len() == 4 => Ok(Exit::Hypercall { block: u32::from_le_bytes(*block) }),
                _ => Err(Cause::ForbiddenPort { port: HYPERCALL_PORT }),
            },
            Ok(VcpuExit::IoOut(FAULT_PORT, _)) => self.fault(memory),
            Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => Err(Cause::ForbiddenPort { port }),
            Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
                Err(Cause::OutsideMemory { address })
            }
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
                self.empty_dirty_ring(memory)?;
                Ok(Exit::Again)
            }
            Ok(VcpuExit::Shutdown) => Err(Cause::Shutdown),
            Ok(exit) => Ok(Exit::Unknown { detail: format!("{exit:?}") }),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.vcpu.set_kvm_immediate_exit(0);
                Ok(Exit::Interrupted)
            }
            Err(error) => Err(kvm("run the processor")(error)),
        }
    }

    /// Thousands of cycles of its clock in a second.
    pub(crate) fn clock_khz(&self) -> Result<u32, Cause> {
        // SAFETY: the call has no argument and changes nothing; the descriptor is a VM's.
        let khz = unsafe { libc::ioctl(self.vm.as_raw_fd(), GET_TSC_KHZ) };
        match u32::try_from(khz) {
            Ok(khz) if khz > 0 => Ok(khz),
            _ => self.vcpu.get_tsc_khz().map_err(kvm("tell the speed of its clock")),
        }
    }

    /// The page whose `immediate_exit` ends a run.
    pub(crate) fn run_page(&mut self) -> *mut kvm_run {
        self.vcpu.get_kvm_run()
    }

    /// Where the guest is; zero where KVM does not say.
    pub(crate) fn instruction_pointer(&self) -> u64 {
        self.vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default()
    }

    /// The vCPU's general registers, whoever's they are; `None` where KVM does not say.
    pub(crate) fn general_registers(&self) -> Option<Registers> {
        self.vcpu.get_regs().ok().map(|regs| arch::registers(&regs))
    }

    /// The registers of the guest, which is stopped; `None` where KVM does not say.
    pub(crate) fn registers(&self, memory: &GuestMemory) -> Option<Registers> {
        let regs = self.vcpu.get_regs().ok()?;
        if !arch::is_in_fault_stub(&regs) {
            return Some(arch::registers(&regs));
        }
        Some(FaultFrame::read(memory).ok()?.registers(&regs))
    }

    /// Lets KVM log on after its log of written pages was full.
    pub(crate) fn empty_dirty_ring(&mut self, memory: &mut GuestMemory) -> Result<(), Cause> {
        self.collect_dirty(memory);
        dirty_ring::reset(&self.vm)
    }

    fn collect_dirty(&mut self, memory: &mut GuestMemory) {
        let dirty = memory.dirty();
        if let Some(ring) = &mut self.ring {
            ring.collect(|page| dirty.insert(page));
        }
    }

    /// A fault stub reported an exception, which may be a hypercall that was refused.
    fn fault(&self, memory: &GuestMemory) -> Result<Exit, Cause> {
        let regs = self.vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        if !arch::is_in_fault_stub(&regs) {
            return Err(Cause::ForbiddenPort { port: FAULT_PORT });
        }
        let frame = FaultFrame::read(memory).map_err(|_| Cause::Shutdown)?;
        if frame.is_refused_hypercall() {
            frame.resume_after_hypercall(&self.vcpu, regs)?;
            #[allow(clippy::cast_possible_truncation, reason = "the call's argument is eax")]
            return Ok(Exit::Hypercall { block: regs.rax as u32 });
        }
        let vector = u8::try_from(frame.vector).unwrap_or(u8::MAX);
        let address = match vector {
            Fault::PAGE_FAULT => self.vcpu.get_sregs().map_err(kvm("read the processor's state"))?.cr2,
            _ => 0,
        };
        Ok(Exit::Fault(Fault { vector, error_code: frame.error_code, at: frame.rip, address }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_shuts_down_is_a_named_end() {
        let host = match KvmHost::open() {
            Ok(host) => host,
            Err(error) => {
                let required = std::env::var_os("KERNLET_REQUIRE_KVM").is_some_and(|value| value == "1");
                assert!(!required, "KERNLET_REQUIRE_KVM=1, and {error}");
                return;
            }
        };
        // Without page tables the first instruction faults, and so does whatever would report that: a triple fault,
        // which a guest cannot bring about with the tables that it gets.
        let mut memory = GuestMemory::new(16 << 20).unwrap();
        let mut processor = Processor::boot(&host, &memory, 0x20_0000).unwrap();
        match processor.run(&mut memory) {
            Err(cause @ Cause::Shutdown) => assert!(cause.to_string().contains("shut down"), "{cause}"),
            other => panic!("{other:?}"),
        }
    }
}
