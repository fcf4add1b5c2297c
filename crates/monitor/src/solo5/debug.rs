//! What a debugger needs of a Solo5 guest, at either ring. At ring 3 as of native guests: breakpoints and steps reach the
//! monitor by the fault stubs. At ring 0 the interrupt table is the guest's own: breakpoints are `hlt`, which leaves to the
//! monitor on every KVM, and steps are made by KVM. Used by the machine where somebody debugs it.

use std::ops::Range;

use kvm_bindings::kvm_fpu;

use super::{
    layout::LOW,
    machine::Machine,
    processor::{Processor, task_segment},
};
use crate::{
    crash::{Cause, kvm},
    debugger::{BREAKPOINT_CODE, Debuggee, Debugger, REFUSED_BREAKPOINT, Stub, StubOf},
    kvm::{OtherRegisters, Step},
    memory::GuestMemory,
    processor::{Fault, Registers},
};

/// `hlt`.
const HALT_CODE: u8 = 0xf4;

/// Whether an exception may be a debugger's doing.
pub(super) fn may_be_debuggers(vector: u8, error_code: u64) -> bool {
    match vector {
        Fault::DEBUG | Fault::BREAKPOINT => true,
        Fault::PROTECTION => error_code == REFUSED_BREAKPOINT,
        _ => false,
    }
}

impl Processor {
    /// Puts the guest where these registers say.
    fn resume_at(&mut self, registers: &Registers, step: Step) -> Result<(), Cause> {
        if !self.is_deprivileged() {
            return self.vm.resume_at_ring_0(registers, step);
        }
        self.vm.resume_at(registers, step)?;
        let vcpu = self.vm.vcpu();
        let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        // Another task's than a native guest's: it has more ports.
        sregs.tr = task_segment();
        vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))
    }

    /// Segment, floating-point and vector registers.
    pub(super) fn other_registers(&self) -> Result<OtherRegisters, Cause> {
        self.vm.other_registers()
    }

    /// Bases of FS and GS.
    pub(super) fn bases(&mut self) -> Result<[u64; 2], Cause> {
        let sregs = self.vm.vcpu().get_sregs().map_err(kvm("read the processor's state"))?;
        Ok([sregs.fs.base, sregs.gs.base])
    }

    /// The floating-point and SSE registers as `fxsave` stores them.
    pub(super) fn legacy_vectors(&mut self) -> Result<Vec<u8>, Cause> {
        let xsave = self.vm.vcpu().get_xsave().map_err(kvm("read the vector registers"))?;
        Ok(xsave.region[..128].iter().flat_map(|word| word.to_le_bytes()).collect())
    }
}

impl Machine {
    /// Lets somebody debug the guest from now on. While they do, it has no deadline.
    pub fn debug(&mut self, debugger: Box<Debugger>) {
        self.processor.is_debugged = true;
        self.debugger = Some(debugger);
    }

    /// Tells the debugger, if there is one, that the guest has ended: with a status, or not by itself.
    pub fn end_debugging(&mut self, status: Option<u8>) {
        crate::debugger::end(self, status);
    }
}

impl Debuggee for Machine {
    fn breakpoint(&self) -> u8 {
        if self.processor.is_deprivileged() { BREAKPOINT_CODE } else { HALT_CODE }
    }

    /// Its own handlers do.
    fn tells_faults(&self) -> bool {
        false
    }

    /// Not the tables and stubs of a guest at ring 3, which lie below and beyond.
    fn writable(&self) -> Range<u64> {
        LOW..self.layout.end()
    }

    fn has_request(&self) -> bool {
        self.has_request
    }

    fn debugger(&mut self) -> &mut Option<Box<Debugger>> {
        &mut self.debugger
    }

    fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    fn is_reporting(&mut self) -> Result<bool, Cause> {
        Ok(self.processor.is_deprivileged() && self.processor.vm.is_in_fault_stub())
    }

    fn finish_exit(&mut self) -> Result<(), Cause> {
        self.processor.vm.finish_exit()
    }

    fn registers(&mut self) -> Result<Registers, Cause> {
        let registers = self.processor.registers(&self.memory);
        Ok(Registers { rflags: registers.rflags & !TRAP_FLAG, ..registers })
    }

    fn resume_at(&mut self, registers: &Registers, step: Step) -> Result<(), Cause> {
        self.processor.resume_at(registers, step)
    }

    fn forget_traps(&mut self) -> Result<(), Cause> {
        self.processor.vm.forget_traps()
    }

    fn other_registers(&mut self) -> Result<OtherRegisters, Cause> {
        self.processor.other_registers()
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Cause> {
        self.processor.vm.set_fpu(fpu)
    }

    fn wrap(stub: StubOf<Self>) -> Stub {
        Stub::Solo5(stub)
    }

    fn unwrap(stub: Stub) -> Option<StubOf<Self>> {
        if let Stub::Solo5(stub) = stub { Some(stub) } else { None }
    }
}

const TRAP_FLAG: u64 = 1 << 8;
