//! A guest's processor, whichever backend it is of, and what it tells the monitor when it stops. Driven by `guest`.
//! Nothing here knows how a backend does it.

use std::time::Duration;

use crate::{
    crash::Cause,
    deadline::Kick,
    hypervisor::{Host, Hypervisor},
    kvm,
    layout::Layout,
    limits,
    memory::{FrozenMemory, GuestMemory},
    process,
};

/// What carries out a guest's instructions. It refers to the guest's memory, which must outlive it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a machine has one, and does not move it")]
pub(crate) enum Processor {
    /// A virtual machine under KVM.
    Kvm(kvm::Processor),
    /// A child process.
    Process(process::Processor),
}

/// The registers of a guest that waits for its first request, as a template keeps them.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a template has one, and does not move it")]
pub(crate) enum CpuState {
    /// Of a virtual machine under KVM.
    Kvm(kvm::CpuState),
    /// Of a child process.
    Process(process::CpuState),
}

impl Processor {
    /// A processor before the guest's first instruction, which is at `entry`.
    pub(crate) fn boot(
        hypervisor: &Hypervisor,
        memory: &GuestMemory,
        layout: &Layout,
        entry: u64,
    ) -> Result<Self, Cause> {
        match hypervisor.host() {
            Host::Kvm(host) => kvm::Processor::boot(host, memory, entry).map(Self::Kvm),
            Host::Processes(host) => process::Processor::boot(host, memory, layout, entry).map(Self::Process),
        }
    }

    /// A processor, and its memory, in the state in which a template was frozen.
    pub(crate) fn from_template(
        hypervisor: &Hypervisor,
        layout: &Layout,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(Self, GuestMemory), Cause> {
        match (hypervisor.host(), state) {
            (Host::Kvm(host), CpuState::Kvm(state)) => {
                let (processor, memory) = kvm::Processor::from_template(host, template, state)?;
                Ok((Self::Kvm(processor), memory))
            }
            (Host::Processes(host), CpuState::Process(state)) => {
                let (processor, memory) = process::Processor::from_template(host, layout, template, state)?;
                Ok((Self::Process(processor), memory))
            }
            _ => Err(Cause::OtherBackend),
        }
    }

    /// Freezes the memory and registers of a guest that waits for its first request; it goes on as a copy of them.
    pub(crate) fn freeze(&mut self, memory: &mut GuestMemory) -> Result<(FrozenMemory, CpuState), Cause> {
        match self {
            Self::Kvm(processor) => processor.freeze(memory).map(|(memory, state)| (memory, CpuState::Kvm(state))),
            Self::Process(processor) => {
                processor.freeze(memory).map(|(memory, state)| (memory, CpuState::Process(state)))
            }
        }
    }

    /// What a debugger needs; only a virtual machine has it.
    ///
    /// # Errors
    /// This backend's functions cannot be debugged.
    pub(crate) fn debuggable(&mut self) -> Result<&mut kvm::Processor, Cause> {
        match self {
            Self::Kvm(processor) => Ok(processor),
            Self::Process(_) => Err(Cause::OtherBackend),
        }
    }

    /// Makes memory, save the request window, and registers equal to the template's.
    pub(crate) fn rewind(
        &mut self,
        memory: &mut GuestMemory,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(), Cause> {
        match (self, state) {
            (Self::Kvm(processor), CpuState::Kvm(state)) => processor.rewind(memory, template, state),
            (Self::Process(processor), CpuState::Process(state)) => processor.rewind(memory, template, state),
            _ => Err(Cause::OtherBackend),
        }
    }

    /// Which of its registers differ from the template's, if any do.
    pub(crate) fn first_difference(
        &mut self,
        memory: &mut GuestMemory,
        state: &CpuState,
    ) -> Result<Option<&'static str>, Cause> {
        match (self, state) {
            (Self::Kvm(processor), CpuState::Kvm(state)) => processor.first_difference(memory, state),
            (Self::Process(processor), CpuState::Process(state)) => processor.first_difference(state),
            _ => Err(Cause::OtherBackend),
        }
    }

    /// Runs the guest until it needs the monitor.
    pub(crate) fn run(&mut self, memory: &mut GuestMemory) -> Result<Exit, Cause> {
        match self {
            Self::Kvm(processor) => processor.run(memory),
            Self::Process(processor) => processor.run(memory),
        }
    }

    /// How many pages a rewind would restore now.
    pub(crate) fn dirty_pages(&mut self, memory: &mut GuestMemory) -> usize {
        match self {
            Self::Kvm(processor) => processor.dirty_pages(memory),
            Self::Process(_) => process::pages_looked_at(memory),
        }
    }

    /// Processor time that the guest has used, counted from any moment; reading it may take a system call.
    pub(crate) fn clock(&self) -> Duration {
        match self {
            // The guest runs on the thread that asks.
            Self::Kvm(_) => limits::thread_clock(),
            Self::Process(processor) => processor.clock(),
        }
    }

    /// What ends a run from outside.
    pub(crate) fn kick(&mut self) -> Kick {
        match self {
            Self::Kvm(processor) => Kick::Kvm(processor.run_page()),
            Self::Process(processor) => Kick::Process(processor.handle()),
        }
    }

    /// The registers of the guest, which is stopped; `None` where the backend does not say.
    pub(crate) fn registers(&self, memory: &GuestMemory) -> Option<Registers> {
        match self {
            Self::Kvm(processor) => processor.registers(memory),
            Self::Process(processor) => Some(processor.registers()),
        }
    }

    /// Where the guest is; zero where the backend does not say.
    pub(crate) fn instruction_pointer(&self) -> u64 {
        match self {
            Self::Kvm(processor) => processor.instruction_pointer(),
            Self::Process(processor) => processor.instruction_pointer(),
        }
    }
}

/// Why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It makes the hypercall whose argument block is at this address.
    Hypercall {
        /// Guest-virtual address, unchecked.
        block: u32,
    },
    /// Its instruction raised an exception.
    Fault(Fault),
    /// A signal came: the deadline's kick, or one that has nothing to do with it.
    Interrupted,
    /// The backend had something to do that is done.
    Again,
    /// Something that no guest should be able to bring about.
    Unknown {
        /// What the backend says of it.
        detail: String,
    },
}

/// A processor exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// 0 to 31.
    pub(crate) vector: u8,
    /// Zero where the exception has none.
    pub(crate) error_code: u64,
    /// Address of the instruction.
    pub(crate) at: u64,
    /// Of a page fault: the address that was touched.
    pub(crate) address: u64,
}

/// The general registers of a stopped guest, as the guest itself would find them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they have the processor's names")]
pub struct Registers {
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Registers {
    /// Each with its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 18] {
        [
            ("rip", self.rip),
            ("rsp", self.rsp),
            ("rflags", self.rflags),
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rbp", self.rbp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
        ]
    }
}

impl Fault {
    pub(crate) const DEBUG: u8 = 1;
    pub(crate) const BREAKPOINT: u8 = 3;
    pub(crate) const PROTECTION: u8 = 13;
    /// The vector of a page fault.
    pub(crate) const PAGE_FAULT: u8 = 14;
    // Error code bits of a page fault (Intel SDM volume 3A, section 4.7).
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const FETCH: u64 = 1 << 4;

    /// The exception's name, with its article.
    pub(crate) fn name(&self) -> &'static str {
        match self.vector {
            0 => "a division error",
            1 => "a debug exception",
            3 => "a breakpoint",
            4 => "an overflow",
            5 => "a bound range exception",
            6 => "an invalid opcode",
            7 => "a missing coprocessor",
            8 => "a double fault",
            10..=12 => "a segment fault",
            13 => "a general protection fault (a privileged instruction, a forbidden port or a wild address)",
            16 | 19 => "a floating-point exception",
            17 => "an alignment check",
            18 => "a machine check",
            21 => "a control protection exception",
            _ => "an exception",
        }
    }
}
