//! The processor of a Solo5 guest under KVM: at CPL 3 inside its machine, where what it believes to do at ring 0 is
//! carried out by the monitor, or at ring 0 itself. Driven by the machine, always from one thread.
//!
//! At CPL 3 every exception enters a stub at ring 0, which reports it by one `out` and goes back by `iretq` with what the
//! monitor has made of its frame. Ports of hypercalls are open by the I/O bitmap of the task state segment.

use std::{fmt, ops::Range, str::FromStr};

use kernlet_abi::{map::PAGE_SIZE, solo5::EXTENSION_PORT};
use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO,
    KVM_EXIT_SHUTDOWN, Msrs, kvm_msr_entry, kvm_regs, kvm_run, kvm_segment, kvm_sregs, kvm_sync_regs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use zerocopy::IntoBytes as _;

use super::{
    GUEST_MIN, LARGE_PAGE,
    debug::may_be_debuggers,
    emulate::{Bases, Faulted, Outcome, PAGE_FAULT, Privileged},
    layout::{BOOT_INFO, LOW, Layout},
};
use crate::{
    crash::{Cause, kvm},
    hypervisor::KvmHost,
    kvm::{self as native, FaultFrame, PageTables, Purpose, Ring as PageRing},
    layout::{Area, LayoutError, Permission},
    memory::{FrozenMemory, GuestMemory, OutOfBounds},
    processor::{Fault, Registers},
};

// Supervisor pages, below all that a guest has.
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const STUBS: u64 = 0x3000;
const TSS: u64 = 0x4000;
const FAULT_STACK: u64 = 0x5000;
const FRAME: u64 = FAULT_STACK + PAGE_SIZE - size_of::<FaultFrame>() as u64;

/// Port that the stubs write to; the bitmap does not open it.
const FAULT_PORT: u16 = 0x40;

const VECTORS: u8 = 32;
const STUB_SIZE: u64 = 16;
const STUB_CODE: Range<u64> = STUBS..STUBS + VECTORS as u64 * STUB_SIZE;

/// `IA32_APIC_BASE` after a reset (SDM volume 3A, section 12.4.4).
const APIC_BASE: u64 = 0xfee0_0900;

// Selectors, as for native guests.
const KERNEL_CODE: u64 = 0x08;
const TASK_DESCRIPTOR: u64 = 0x30;

/// First port of a hypercall; its number is added.
pub(crate) const PORT_BASE: u16 = 0x500;
/// Hypercalls have numbers below this.
pub(crate) const HYPERCALLS: u16 = 9;
/// Port by which a guest says that it has put something into the ring.
pub(crate) const PORT_KICK: u16 = 0x600;

const IO_BITMAP: u64 = 104;
/// Bytes of the bitmap: up to the ring's port, whose access has four bytes.
const IO_BITMAP_LEN: usize = (PORT_KICK as usize + 4).div_ceil(8);
const TSS_LIMIT: u64 = IO_BITMAP + IO_BITMAP_LEN as u64;

/// 2 MiB pages of stock page tables: present, writable, large.
const LARGE_WRITABLE: u64 = 0x83;

/// Of the flags: the instruction that comes next is not to be trapped again.
const RESUME_FLAG: u64 = 1 << 16;

/// Which ring a guest runs at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ring {
    /// The one that a probe finds the better one here.
    #[default]
    Auto,
    /// The guest has its machine to itself, as under Solo5's own tender.
    Zero,
    /// The guest has no rights in its machine, and what needs them is carried out by the monitor.
    Three,
}

impl Ring {
    const NAMES: [(&str, Self); 3] = [("auto", Self::Auto), ("0", Self::Zero), ("3", Self::Three)];
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.into_iter().find(|(_, ring)| ring == self);
        f.write_str(named.map_or("auto", |(name, _)| name))
    }
}

impl FromStr for Ring {
    type Err = UnknownRing;

    fn from_str(text: &str) -> Result<Self, UnknownRing> {
        let named = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        named.map(|(_, ring)| ring).ok_or_else(|| UnknownRing { name: text.to_owned() })
    }
}

/// There is no such ring for guests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guests run at ring 0 or 3, or auto, not {name:?}")]
pub struct UnknownRing {
    name: String,
}

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It writes to a port.
    Out { port: u16, value: u32 },
    /// It does something else with a port.
    BadPort { port: u16 },
    /// It used memory that its page tables give it and the host does not.
    TranslationFault { rip: u64 },
    /// It looked at the command line, which it could not yet.
    LooksAtCommandLine,
    /// KVM could not go on.
    InternalError { suberror: u32 },
    /// It did something that no tender serves.
    Unhandled { reason: u32, rip: u64 },
    /// It executes something that is not carried out at CPL 3.
    Unsupported { name: &'static str, rip: u64 },
    /// An exception that may be a debugger's doing.
    Trapped(Fault),
    /// A signal came.
    Interrupted,
    /// There was something to do that is done.
    Again,
}

/// A machine's processor. It refers to the machine's memory, which must outlive it.
#[derive(Debug)]
pub(crate) struct Processor {
    pub(super) vm: native::Processor,
    /// What the guest believes to be its processor's; nothing where it is.
    privileged: Option<Privileged>,
    /// The command line is not there for it yet.
    hides_command_line: bool,
    /// What may be a debugger's doing is its to look at first.
    pub(super) is_debugged: bool,
}

/// A guest's processor when its template was made.
#[derive(Debug)]
pub(crate) struct CpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    privileged: Privileged,
}

impl Processor {
    /// A processor before a guest's first instruction.
    pub(crate) fn boot(
        host: &KvmHost,
        memory: &GuestMemory,
        layout: &Layout,
        entry: u64,
        ring: Ring,
        purpose: Purpose,
    ) -> Result<Self, Cause> {
        let purpose = if ring == Ring::Zero { Purpose::RingZero } else { purpose };
        let mut vm = native::Processor::bare(host, memory, purpose)?;
        let vcpu = vm.vcpu();
        show_registers(vcpu);
        let outside = |_| Cause::Layout(LayoutError::MemorySize { memory: memory.size() });
        // As after a call: eight below a multiple of sixteen.
        let regs = kvm_regs { rip: entry, rsp: layout.memory - 8, rdi: BOOT_INFO, rflags: 2, ..Default::default() };
        let privileged = if ring == Ring::Zero {
            write_stock_tables(memory, layout).map_err(outside)?;
            for (pages, access) in layout.restricted() {
                let protected = memory.protect(pages, access.read, access.write);
                protected.map_err(|source| Cause::Memory { size: memory.size(), source })?;
            }
            let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
            stock_registers(&mut sregs);
            vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))?;
            vcpu.set_regs(&regs).map_err(kvm("set the processor's registers"))?;
            None
        } else {
            write_tables(memory, layout)?;
            // All of them are known, so that KVM can take them with the first run.
            let mut sregs = kvm_sregs { apic_base: APIC_BASE, ..Default::default() };
            user_registers(&mut sregs, layout);
            let shown = vcpu.sync_regs_mut();
            (shown.regs, shown.sregs) = (regs, sregs);
            vcpu.set_sync_dirty_reg(SyncReg::Register);
            vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
            Some(Privileged::default())
        };
        Ok(Self { vm, privileged, hides_command_line: false, is_debugged: false })
    }

    /// Moves it to another instruction.
    pub(crate) fn go_to(&mut self, rip: u64) -> Result<(), Cause> {
        let vcpu = self.vm.vcpu();
        // Some KVMs go behind the instruction that it stopped with no sooner than with the next run.
        native::finish_exit(vcpu)?;
        let regs = vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        vcpu.set_regs(&kvm_regs { rip, ..regs }).map_err(kvm("set the processor's registers"))
    }

    /// Cycles of its clock in a second.
    pub(crate) fn cycles_per_second(&mut self) -> Result<u64, Cause> {
        Ok(u64::from(self.vm.clock_khz()?) * 1000)
    }

    /// What its clock shows.
    pub(crate) fn clock(&mut self) -> Result<u64, Cause> {
        let mut msrs = clock_register(&[0])?;
        self.vm.vcpu().get_msrs(&mut msrs).map_err(kvm("read the processor's clock"))?;
        Ok(msrs.as_slice()[0].data)
    }

    /// Sets its clock. KVM takes a value that is within a second of what the clock shows for an attempt to have it agree with
    /// other processors', and leaves it; so it is set to something far away first.
    pub(crate) fn set_clock(&mut self, cycles: u64) -> Result<(), Cause> {
        let msrs = clock_register(&[cycles ^ FAR_AWAY, cycles])?;
        self.vm.vcpu().set_msrs(&msrs).map(drop).map_err(kvm("set the processor's clock"))
    }

    /// The page whose `immediate_exit` ends a run.
    pub(crate) fn run_page(&mut self) -> *mut kvm_run {
        self.vm.run_page()
    }

    /// Where the guest is; zero where KVM does not say.
    pub(crate) fn instruction_pointer(&self) -> u64 {
        self.vm.instruction_pointer()
    }

    /// The registers of the guest, which is stopped, as it would find them itself; zeroes where KVM does not say.
    pub(crate) fn registers(&self, memory: &GuestMemory) -> Registers {
        let Some(registers) = self.vm.general_registers() else { return Registers::default() };
        match memory.load::<FaultFrame>(FRAME) {
            Ok(frame) if self.is_in_stub() => {
                Registers { rip: frame.rip, rsp: frame.rsp, rflags: frame.rflags, ..registers }
            }
            _ => registers,
        }
    }

    /// Runs the guest until it needs the monitor.
    pub(crate) fn run(&mut self, memory: &mut GuestMemory, layout: &Layout) -> Result<Exit, Cause> {
        let exit = match self.vm.vcpu().run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                let value = <[u8; 4]>::try_from(data).ok();
                if port == FAULT_PORT && self.privileged.is_some() {
                    let shown = self.vm.vcpu().sync_regs();
                    if STUB_CODE.contains(&shown.regs.rip) {
                        return self.fault(memory, layout, &shown, self.is_debugged);
                    }
                }
                value.map_or(Exit::BadPort { port }, |value| Exit::Out { port, value: u32::from_le_bytes(value) })
            }
            Ok(VcpuExit::IoIn(port, _)) => Exit::BadPort { port },
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
                self.vm.empty_dirty_ring(memory)?;
                Exit::Again
            }
            Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) if address < layout.end() => {
                Exit::TranslationFault { rip: self.instruction_pointer() }
            }
            Ok(VcpuExit::Hlt) if self.is_debugged => Exit::Trapped(self.trapped(Fault::BREAKPOINT)),
            Ok(VcpuExit::Debug(_)) if self.is_debugged => Exit::Trapped(self.trapped(Fault::DEBUG)),
            Ok(VcpuExit::InternalError) => Exit::InternalError { suberror: self.suberror() },
            Ok(_) => {
                let reason = self.reason();
                Exit::Unhandled { reason, rip: self.instruction_pointer() }
            }
            Err(error) if error.errno() == libc::EFAULT => Exit::TranslationFault { rip: self.instruction_pointer() },
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.vm.vcpu().set_kvm_immediate_exit(0);
                Exit::Interrupted
            }
            Err(error) => return Err(kvm("run the processor")(error)),
        };
        Ok(exit)
    }

    /// KVM's number for the last exit.
    fn reason(&mut self) -> u32 {
        self.vm.vcpu().get_kvm_run().exit_reason
    }

    /// What stopped a guest at ring 0 that is debugged.
    fn trapped(&self, vector: u8) -> Fault {
        Fault { vector, error_code: 0, at: self.instruction_pointer(), address: 0 }
    }

    /// What becomes of the exception that it stopped with last, which no debugger wants.
    pub(super) fn pass_fault(&mut self, memory: &mut GuestMemory, layout: &Layout) -> Result<Exit, Cause> {
        if self.is_in_stub() {
            // A debugger may have changed them since they were shown.
            let vcpu = self.vm.vcpu();
            let regs = vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
            let sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
            return self.fault(memory, layout, &kvm_sync_regs { regs, sregs, ..Default::default() }, false);
        }
        Ok(Exit::Unhandled { reason: self.reason(), rip: self.instruction_pointer() })
    }

    /// Whether the guest runs at ring 3, where the monitor sees its exceptions.
    pub(super) fn is_deprivileged(&self) -> bool {
        self.privileged.is_some()
    }

    fn suberror(&mut self) -> u32 {
        // SAFETY: the last exit was an internal error, for which KVM has filled in this field of the union.
        unsafe { self.vm.vcpu().get_kvm_run().__bindgen_anon_1.internal.suberror }
    }

    /// Whether it stands in a stub at ring 0, where no guest at CPL 3 gets by itself.
    fn is_in_stub(&self) -> bool {
        self.privileged.is_some() && STUB_CODE.contains(&self.instruction_pointer())
    }

    /// A stub reports an exception.
    fn fault(
        &mut self,
        memory: &mut GuestMemory,
        layout: &Layout,
        shown: &kvm_sync_regs,
        debugs: bool,
    ) -> Result<Exit, Cause> {
        let kvm_sync_regs { regs: stub, sregs, .. } = *shown;
        let frame: FaultFrame = memory.load(FRAME).map_err(|_| Cause::Shutdown)?;
        if frame.cs & 3 != 3 {
            // The stub itself, of which nothing is right any more.
            return Ok(Exit::Unhandled { reason: KVM_EXIT_SHUTDOWN, rip: frame.rip });
        }
        let vector = u8::try_from(frame.vector).unwrap_or(u8::MAX);
        if debugs && may_be_debuggers(vector, frame.error_code) {
            return Ok(Exit::Trapped(Fault { vector, error_code: frame.error_code, at: frame.rip, address: 0 }));
        }
        if self.hides_command_line && vector == PAGE_FAULT && is_command_line(sregs.cr2) {
            return Ok(Exit::LooksAtCommandLine);
        }
        let bases = Bases { fs: sregs.fs.base, gs: sregs.gs.base };
        let Some(state) = &mut self.privileged else { return Err(Cause::Shutdown) };
        let regs = kvm_regs { rip: frame.rip, rsp: frame.rsp, rflags: frame.rflags, ..stub };
        let mut faulted = Faulted { memory, layout, state, regs, bases };
        let outcome = faulted.exception(vector, frame.error_code, sregs.cr2);
        let Faulted { regs, bases: wanted, .. } = faulted;
        let rip = frame.rip;
        let exit = match outcome {
            Outcome::Resume => Exit::Again,
            Outcome::Out { port, value } => Exit::Out { port, value },
            Outcome::BadPort { port } => return Ok(Exit::BadPort { port }),
            Outcome::TranslationFault => return Ok(Exit::TranslationFault { rip }),
            Outcome::Halt => return Ok(Exit::Unhandled { reason: KVM_EXIT_HLT, rip: regs.rip }),
            Outcome::Shutdown => return Ok(Exit::Unhandled { reason: KVM_EXIT_SHUTDOWN, rip }),
            Outcome::Unsupported { name } => return Ok(Exit::Unsupported { name, rip: regs.rip }),
        };
        let regs = if let Exit::Out { .. } = exit { self.behind_out(memory, regs) } else { regs };
        let frame = FaultFrame { rip: regs.rip, rflags: regs.rflags, rsp: regs.rsp, ..frame };
        // The stub's own stack, which a rewind restores as the processor's writing it is logged.
        memory.store(FRAME, &frame).map_err(|_| Cause::Shutdown)?;
        let resumed = kvm_regs { rip: stub.rip, rsp: stub.rsp, rflags: stub.rflags, ..regs };
        let vcpu = self.vm.vcpu();
        if resumed != stub {
            vcpu.sync_regs_mut().regs = resumed;
            vcpu.set_sync_dirty_reg(SyncReg::Register);
        }
        if wanted != bases {
            let sregs = &mut vcpu.sync_regs_mut().sregs;
            (sregs.fs.base, sregs.gs.base) = (wanted.fs, wanted.gs);
            sregs.tr.type_ = native::TSS_AVAILABLE;
            vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        Ok(exit)
    }

    /// The registers behind an `out` that was refused: QEMU's TCG and some nested KVMs do not look at the I/O bitmap.
    fn behind_out(&self, memory: &GuestMemory, regs: kvm_regs) -> kvm_regs {
        let mut bytes = [0; 2];
        let prefixes =
            |byte: u8| matches!(byte, 0x40..=0x4f | 0x66 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65);
        let mut rip = regs.rip;
        // `out dx, eax` has one byte, `out imm8, eax` two; neither has a prefix that a compiler writes.
        while memory.read(rip, &mut bytes[..1]).is_ok() && prefixes(bytes[0]) {
            rip += 1;
        }
        let len = if bytes[0] == 0xe7 { 2 } else { 1 };
        kvm_regs { rip: rip + len, ..regs }
    }

    /// Takes the command line's pages away from the guest, or gives them to it.
    pub(crate) fn hide_command_line(
        &mut self,
        memory: &GuestMemory,
        layout: &Layout,
        hidden: bool,
    ) -> Result<(), Cause> {
        self.hides_command_line = hidden;
        let mut tables = PageTables::again(memory, layout.tables());
        let pages = super::layout::COMMAND_LINE..super::layout::COMMAND_LINE + super::layout::COMMAND_LINE_SIZE;
        if hidden {
            tables.unmap(pages)?;
        } else {
            tables.map(&Area { pages, permission: Permission { write: false, execute: true } }, PageRing::User)?;
        }
        Ok(())
    }

    /// Freezes a guest that looks at its command line, or has just made a hypercall: it will do so again.
    pub(crate) fn freeze(
        &mut self,
        memory: &mut GuestMemory,
        in_call: bool,
    ) -> Result<(FrozenMemory, CpuState), Cause> {
        let is_in_stub = self.is_in_stub();
        let vcpu = self.vm.vcpu();
        native::finish_exit(vcpu)?;
        let mut regs = vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        if is_in_stub {
            let frame: FaultFrame = memory.load(FRAME).map_err(|_| Cause::Shutdown)?;
            native::user_segments(&mut sregs);
            regs = kvm_regs { rip: frame.rip, rsp: frame.rsp, rflags: frame.rflags & !RESUME_FLAG, ..regs };
        }
        if in_call {
            regs.rip = before_out(memory, regs.rip);
        }
        sregs.tr = task_segment();
        let xsave = vcpu.get_xsave().map_err(kvm("read the vector registers"))?;
        let privileged = self.privileged.clone().ok_or(Cause::OtherBackend)?;
        let state = CpuState { regs, sregs, xsave, privileged };
        let frozen = self.vm.freeze_memory(memory)?;
        state.restore(&mut self.vm)?;
        Ok((frozen, state))
    }

    /// Whether the guest's last page fault was at this address.
    pub(crate) fn faulted_at(&self, address: u64) -> bool {
        self.privileged.as_ref().is_some_and(|state| state.fault_address == address && address != 0)
    }

    /// A processor in the state of a template, with a view of its memory.
    pub(crate) fn from_template(
        host: &KvmHost,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(Self, GuestMemory), Cause> {
        let (mut vm, memory) = native::Processor::bare_view(host, template)?;
        show_registers(vm.vcpu());
        state.restore(&mut vm)?;
        let privileged = Some(state.privileged.clone());
        Ok((Self { vm, privileged, hides_command_line: false, is_debugged: false }, memory))
    }

    /// Makes memory and registers equal to the template's.
    pub(crate) fn rewind(
        &mut self,
        memory: &mut GuestMemory,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(), Cause> {
        native::finish_exit(self.vm.vcpu())?;
        self.vm.rewind_memory(memory, template)?;
        self.privileged = Some(state.privileged.clone());
        state.restore(&mut self.vm)
    }

    /// How many pages a rewind would restore now.
    pub(crate) fn dirty_pages(&mut self, memory: &mut GuestMemory) -> usize {
        self.vm.dirty_pages(memory)
    }

    /// Which of its registers differ from the template's, if any do.
    pub(crate) fn first_difference(&mut self, state: &CpuState) -> Result<Option<&'static str>, Cause> {
        let vcpu = self.vm.vcpu();
        // What was set with the last rewind, KVM takes over here.
        native::finish_exit(vcpu)?;
        let regs = vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        sregs.tr.type_ = state.sregs.tr.type_;
        let xsave = vcpu.get_xsave().map_err(kvm("read the vector registers"))?;
        Ok(if regs != state.regs {
            Some("a general register")
        } else if sregs != state.sregs {
            Some("a system register")
        } else if native::vector_contents(&xsave) != native::vector_contents(&state.xsave) {
            Some("a vector register")
        } else {
            None
        })
    }
}

/// From now on KVM shows a processor's registers at every exit, in the page that it shares with us, and takes from there
/// those that are marked: a call for each would take longer than the exit.
fn show_registers(vcpu: &mut VcpuFd) {
    vcpu.set_sync_valid_reg(SyncReg::Register);
    vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
}

impl CpuState {
    /// Bytes that [`Self::encode`] gives.
    pub(super) const ENCODED_LEN: usize =
        size_of::<kvm_regs>() + size_of::<kvm_sregs>() + size_of::<kvm_xsave>() + size_of::<[u64; 10]>();

    /// KVM's structures one after the other, as they are, and what the guest believes to be its processor's.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { regs, sregs, xsave, privileged } = self;
        [regs.as_bytes(), sregs.as_bytes(), xsave.as_bytes(), privileged.encode().as_bytes()].concat()
    }

    /// Reads what a stranger may have written. What decides over the guest's rights has to be as the monitor sets it; the
    /// rest is the guest's own to change anyway, or else KVM refuses it when a machine is made.
    pub(super) fn decode(mut bytes: &[u8], layout: &Layout) -> Result<Self, &'static str> {
        let (regs, sregs): (kvm_regs, kvm_sregs) = (native::take_state(&mut bytes)?, native::take_state(&mut bytes)?);
        let (xsave, numbers) = (native::take_state(&mut bytes)?, native::take_state(&mut bytes)?);
        if !bytes.is_empty() {
            return Err("its registers are longer than they can be");
        }
        native::check_rights(&regs, &sregs, |right| user_registers(right, layout))?;
        let privileged = Privileged::decode(numbers).ok_or("its registers have impossible numbers")?;
        Ok(Self { regs, sregs, xsave, privileged })
    }

    /// The state of a guest that has not run, as far as its rights go.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn first(layout: &Layout) -> Self {
        let mut sregs = kvm_sregs::default();
        user_registers(&mut sregs, layout);
        let regs = kvm_regs { rflags: 2, ..Default::default() };
        Self { regs, sregs, xsave: kvm_xsave::default(), privileged: Privileged::default() }
    }

    /// By the next run, but for the vector registers.
    fn restore(&self, vm: &mut native::Processor) -> Result<(), Cause> {
        let vcpu = vm.vcpu();
        let shown = vcpu.sync_regs_mut();
        shown.regs = self.regs;
        let wanted = kvm_sregs { tr: task_segment(), ..self.sregs };
        // The processor may show a task as busy that we have made available.
        let same = kvm_sregs { tr: wanted.tr, ..shown.sregs } == wanted;
        shown.sregs = wanted;
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        if !same {
            vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        // SAFETY: KVM reads 4096 bytes, the size of `kvm_xsave`, unless a larger state was enabled by
        // ARCH_REQ_XCOMP_GUEST_PERM, which nothing here does.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(kvm("restore the vector registers"))
    }
}

/// Centuries, in cycles.
const FAR_AWAY: u64 = 1 << 62;

/// `IA32_TIME_STAMP_COUNTER`, with one value after the other.
fn clock_register(values: &[u64]) -> Result<Msrs, Cause> {
    let entries: Vec<_> =
        values.iter().map(|data| kvm_msr_entry { index: 0x10, data: *data, ..Default::default() }).collect();
    Msrs::from_entries(&entries).map_err(|_| Cause::Shutdown)
}

/// Where the `out` before an address begins: `out dx, eax` has one byte, `out imm8, eax` two.
fn before_out(memory: &GuestMemory, rip: u64) -> u64 {
    let byte = |at: u64| memory.load::<u8>(at).ok();
    if rip.checked_sub(1).and_then(byte) == Some(0xef) { rip - 1 } else { rip.saturating_sub(2) }
}

fn is_command_line(address: u64) -> bool {
    (super::layout::COMMAND_LINE..super::layout::COMMAND_LINE + super::layout::COMMAND_LINE_SIZE).contains(&address)
}

/// Descriptor tables, stubs and page tables of a guest at CPL 3.
pub(super) fn write_tables(memory: &GuestMemory, layout: &Layout) -> Result<(), Cause> {
    let mut tables = PageTables::within(memory, layout.tables());
    for (page, write, execute) in
        [(GDT, true, false), (IDT, false, false), (STUBS, false, true), (TSS, true, false), (FAULT_STACK, true, false)]
    {
        let area = Area { pages: page..page + PAGE_SIZE, permission: Permission { write, execute } };
        tables.map(&area, PageRing::Supervisor)?;
    }
    for area in layout.areas() {
        tables.map(&area, PageRing::User)?;
    }
    let extension = if layout.extension.is_some() { EXTENSION_PORT..EXTENSION_PORT + 4 } else { 0..0 };
    write_descriptors(memory, extension).map_err(|_| LayoutError::MemorySize { memory: memory.size() }.into())
}

fn write_descriptors(memory: &GuestMemory, further: Range<u16>) -> Result<(), OutOfBounds> {
    memory.store(GDT, &native::DESCRIPTORS)?;
    let task = 0x0000_8900_0000_0000 | TSS_LIMIT | (TSS << 16);
    memory.store(GDT + TASK_DESCRIPTOR, &[task, 0])?;
    for vector in 0..VECTORS {
        let stub = STUBS + u64::from(vector) * STUB_SIZE;
        memory.write(stub, &fault_stub(vector))?;
        // A 64-bit interrupt gate, present, DPL 0: software interrupts are seen as protection faults.
        let gate = (stub & 0xffff) | KERNEL_CODE << 16 | 0x8e00 << 32 | (stub >> 16) << 48;
        memory.store(IDT + u64::from(vector) * 16, &gate)?;
    }
    memory.store(TSS + 4, &(FAULT_STACK + PAGE_SIZE))?;
    memory.store(TSS + 102, &u16::try_from(IO_BITMAP).unwrap_or_default())?;
    let mut bitmap = [0xff_u8; IO_BITMAP_LEN + 1];
    for port in (PORT_BASE..PORT_BASE + HYPERCALLS + 3).chain(PORT_KICK..PORT_KICK + 4).chain(further) {
        bitmap[usize::from(port / 8)] &= !(1 << (port % 8));
    }
    memory.write(TSS + IO_BITMAP, &bitmap)
}

/// Pushes a zero where the processor pushes no error code, then the vector; tells the monitor; goes back with what that
/// has made of the frame.
#[allow(clippy::cast_possible_truncation, reason = "the port is below 256")]
fn fault_stub(vector: u8) -> [u8; STUB_SIZE as usize] {
    let mut code = [0x90; STUB_SIZE as usize];
    let tell_and_return = [0x6a, vector, 0xe6, FAULT_PORT as u8, 0x48, 0x83, 0xc4, 0x10, 0x48, 0xcf];
    let has_error_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    if has_error_code {
        code[..10].copy_from_slice(&tell_and_return);
    } else {
        code[..2].copy_from_slice(&[0x6a, 0]);
        code[2..12].copy_from_slice(&tell_and_return);
    }
    code
}

pub(super) fn task_segment() -> kvm_segment {
    kvm_segment {
        base: TSS,
        limit: u32::try_from(TSS_LIMIT).unwrap_or(u32::MAX),
        selector: u16::try_from(TASK_DESCRIPTOR).unwrap_or_default(),
        type_: native::TSS_AVAILABLE,
        present: 1,
        ..Default::default()
    }
}

/// Long mode at CPL 3, as native guests have it but for what stock guests do not find: the extended vector registers,
/// and alignment checks, which ring 0 has not.
fn user_registers(sregs: &mut kvm_sregs, layout: &Layout) {
    sregs.cr0 = 0x8001_0033;
    sregs.cr3 = layout.tables().start;
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10;
    sregs.efer = 0xd00;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x3f;
    sregs.idt.base = IDT;
    sregs.idt.limit = u16::from(VECTORS) * 16 - 1;
    sregs.ldt = kvm_segment::default();
    native::user_segments(sregs);
    sregs.tr = task_segment();
}

/// Long mode at ring 0, as Solo5's tender sets it up.
fn stock_registers(sregs: &mut kvm_sregs) {
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 0x10, type_: 3, db: 1, ..flat };
    sregs.cr0 = 0x8001_0021;
    sregs.cr3 = STOCK_PML4;
    sregs.cr4 = 0x620;
    sregs.efer = 0x500;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 23;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = kvm_segment { selector: 8, type_: 9, l: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { type_: 11, present: 1, ..Default::default() };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
}

// Where the tender has its page tables.
const STOCK_PML4: u64 = 0x2000;
const STOCK_POINTERS: u64 = 0x3000;
const STOCK_DIRECTORIES: u64 = 0x4000;
const STOCK_TABLE: u64 = 0x8000;

/// The first GDT and the page tables of a guest at ring 0.
fn write_stock_tables(memory: &GuestMemory, layout: &Layout) -> Result<(), OutOfBounds> {
    memory.store(GDT, &[0_u64, 0x00af_9900_0000_ffff, 0x00cf_9300_0000_ffff])?;
    memory.store(STOCK_PML4, &(STOCK_POINTERS | 3))?;
    for index in 0..4 {
        memory.store(STOCK_POINTERS + index * 8, &((STOCK_DIRECTORIES + index * PAGE_SIZE) | 3))?;
    }
    memory.store(STOCK_DIRECTORIES, &(STOCK_TABLE | 3))?;
    for index in 1..layout.end() / LARGE_PAGE {
        memory.store(STOCK_DIRECTORIES + index * 8, &((index * LARGE_PAGE) | LARGE_WRITABLE))?;
    }
    for page in (LOW..LARGE_PAGE).step_by(4096) {
        let bits = if page < GUEST_MIN { 1 } else { 3 };
        memory.store(STOCK_TABLE + page / PAGE_SIZE * 8, &(page | bits))?;
    }
    Ok(())
}

const _: () = {
    assert!(TSS + TSS_LIMIT < FAULT_STACK);
    assert!(EXTENSION_PORT > PORT_BASE + HYPERCALLS + 3 && EXTENSION_PORT + 4 <= PORT_KICK);
    assert!(KVM_EXIT_IO == 2 && KVM_EXIT_FAIL_ENTRY == 9 && KVM_EXIT_INTERNAL_ERROR == 17);
};
