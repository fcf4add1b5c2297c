//! What a debugger needs of a stopped processor: its registers, to read and to change, and single steps. Used for a
//! guest with a debugger attached, and by nothing else. Steps and breakpoints reach the monitor as every exception does,
//! by the fault stubs: neither KVM's own guest debugging nor debug registers are needed, which not every KVM honours.

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_fpu, kvm_guest_debug, kvm_regs};

use super::{Processor, arch};
use crate::{
    crash::{Cause, kvm},
    memory::GuestMemory,
    processor::Registers,
};

/// DR6 after reset, Intel SDM volume 3A, table 10-1.
const DR6_INITIAL: u64 = 0xffff_0ff0;

/// Flags that a program may change, without the trap flag, which is the debugger's own.
const USER_FLAGS: u64 = 0x24_0cd5;
const TRAP_FLAG: u64 = 1 << 8;

/// Whether the guest stops after its next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    One,
    Many,
}

/// Registers besides the general ones.
#[derive(Clone, Debug)]
pub(crate) struct OtherRegisters {
    /// CS, SS, DS, ES, FS, GS.
    pub(crate) selectors: [u16; 6],
    pub(crate) fpu: kvm_fpu,
}

impl Processor {
    /// Lets KVM finish what the last exit left half done, so that the registers stand behind it.
    pub(crate) fn finish_exit(&mut self) -> Result<(), Cause> {
        arch::finish_exit(&mut self.vcpu)
    }

    /// Whether an exception is on its way from the guest to the monitor.
    pub(crate) fn is_in_fault_stub(&self) -> bool {
        self.vcpu.get_regs().is_ok_and(|regs| arch::is_in_fault_stub(&regs))
    }

    /// Puts the guest where these registers say, at CPL 3 wherever it was.
    pub(crate) fn resume_at(&mut self, registers: &Registers, step: Step) -> Result<(), Cause> {
        let mut sregs = self.vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        if sregs.cs.dpl != 3 {
            arch::user_segments(&mut sregs);
            self.vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))?;
        }
        let step = if step == Step::One { TRAP_FLAG } else { 0 };
        self.set_general(registers, step)
    }

    /// Sets the general registers, with these flags besides those that a program may change.
    fn set_general(&self, registers: &Registers, flags: u64) -> Result<(), Cause> {
        let Registers { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, .. } = *registers;
        let Registers { r8, r9, r10, r11, r12, r13, r14, r15, .. } = *registers;
        // Bit 1 is always set (SDM volume 1, section 3.4.3).
        let rflags = rflags & USER_FLAGS | 2 | flags;
        let regs =
            kvm_regs { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 };
        self.vcpu.set_regs(&regs).map_err(kvm("set the processor's registers"))
    }

    /// Puts a guest at ring 0 where these registers say: its flag is its own, and a step is KVM's to make.
    pub(crate) fn resume_at_ring_0(&mut self, registers: &Registers, step: Step) -> Result<(), Cause> {
        self.set_general(registers, 0)?;
        let control = if step == Step::One { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.vcpu.set_guest_debug(&debug).map_err(kvm("step through a guest"))
    }

    /// Makes the processor forget why debug exceptions came: what a step leaves there is no part of the guest's state.
    pub(crate) fn forget_traps(&mut self) -> Result<(), Cause> {
        let mut debug = self.vcpu.get_debug_regs().map_err(kvm("read the debug registers"))?;
        debug.dr6 = DR6_INITIAL;
        self.vcpu.set_debug_regs(&debug).map_err(kvm("set the debug registers"))
    }

    /// The guest's registers with the flag that this module adds taken away.
    pub(crate) fn registers_to_debug(&self, memory: &GuestMemory) -> Registers {
        let registers = self.registers(memory).unwrap_or_default();
        Registers { rflags: registers.rflags & !TRAP_FLAG, ..registers }
    }

    /// Segment, floating-point and vector registers.
    pub(crate) fn other_registers(&self) -> Result<OtherRegisters, Cause> {
        let sregs = self.vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        let selectors = [sregs.cs, sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs].map(|segment| segment.selector);
        let fpu = self.vcpu.get_fpu().map_err(kvm("read the vector registers"))?;
        Ok(OtherRegisters { selectors, fpu })
    }

    /// Sets the floating-point and SSE registers.
    pub(crate) fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Cause> {
        self.vcpu.set_fpu(fpu).map_err(kvm("set the vector registers"))
    }
}
