//! What a stop of a child means: a hypercall, an exception, somebody's signal. Used by the process backend. What the guest
//! left in its registers and memory is a hostile guest's.

use kernlet_abi::map::{HYPERCALL_PAGE, PAGE_SIZE, STACK_TOP};

use crate::{
    crash::Cause,
    memory::GuestMemory,
    process::x86_64::{self, INSTRUCTION_MAX, PortAccess, Registers, VSYSCALL},
    processor::{Exit, Fault},
};

/// Room for a signal's frame at the end of the guest's stack, in bytes.
pub(crate) const FRAME_ROOM: u64 = 64 * 1024;

/// `SI_KERNEL` of `asm-generic/siginfo.h`: an exception without a code of its own.
const SI_KERNEL: i32 = 0x80;
/// `SYS_SECCOMP` of `asm-generic/siginfo.h`.
const SYS_SECCOMP: i32 = 1;

/// A child that has stopped.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub(crate) kind: StopKind,
    pub(crate) registers: Registers,
}

/// Why it stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StopKind {
    /// A signal came, of this `si_code` and `si_addr` (or what lies in its place).
    Signal { signal: i32, code: i32, address: u64 },
    /// It is about to make a system call.
    Call,
}

/// What follows from a stop.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// A hypercall by an instruction of so many bytes.
    Hypercall { block: u32, length: u64 },
    /// An exception of which the kernel knows more.
    Exception { signal: i32 },
    /// Anything else.
    Exit(Exit),
}

/// What a stop means; `memory` is for the instruction that the guest stands at.
pub(crate) fn meaning(stop: &Stop, memory: &GuestMemory) -> Result<Meaning, Cause> {
    let registers = &stop.registers;
    let StopKind::Signal { signal, code, address } = stop.kind else {
        let instruction = memory.load::<[u8; 2]>(registers.rip.wrapping_sub(2)).unwrap_or_default();
        return Ok(Meaning::Exit(Exit::Fault(x86_64::instead_of_call(instruction, registers.rip))));
    };
    match signal {
        libc::SIGSEGV if code == SI_KERNEL => Ok(match port_access(registers, memory) {
            Some(PortAccess::Hypercall { length }) => Meaning::Hypercall { block: low(registers.rax), length },
            Some(PortAccess::Forbidden { port }) => return Err(Cause::ForbiddenPort { port }),
            None => Meaning::Exception { signal },
        }),
        // The host has no memory left for a page that the guest touches.
        libc::SIGBUS if code == libc::BUS_ADRERR => {
            Err(Cause::Memory { size: memory.size(), source: std::io::Error::from_raw_os_error(libc::ENOMEM) })
        }
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP if code > 0 => {
            Ok(Meaning::Exception { signal })
        }
        // The one address of the kernel's that a process may execute. Under KVM nothing is there.
        libc::SIGSYS if code == SYS_SECCOMP && (VSYSCALL..VSYSCALL + PAGE_SIZE).contains(&address) => {
            let fault = Fault { vector: Fault::PAGE_FAULT, error_code: Fault::FETCH, at: address, address };
            Ok(Meaning::Exit(Exit::Fault(fault)))
        }
        libc::SIGSYS if code == SYS_SECCOMP => {
            let detail = "a system call was not intercepted, but filtered".to_owned();
            Ok(Meaning::Exit(Exit::Unknown { detail }))
        }
        // The deadline's, or anybody's: it is not given to the guest.
        _ => Ok(Meaning::Exit(Exit::Interrupted)),
    }
}

/// What the instruction at which the guest stands does to the hypercall port.
fn port_access(registers: &Registers, memory: &GuestMemory) -> Option<PortAccess> {
    // What it stands at it may execute, so it is the guest's own; near the end of memory fewer bytes are there.
    let there = memory.size().checked_sub(registers.rip)?.min(INSTRUCTION_MAX as u64);
    let mut code = [0; INSTRUCTION_MAX];
    let code = code.get_mut(..usize::try_from(there).ok()?)?;
    memory.read(registers.rip, code).ok()?;
    #[allow(clippy::cast_possible_truncation, reason = "the port is dx")]
    x86_64::port_access(code, registers.rdx as u16)
}

#[allow(clippy::cast_possible_truncation, reason = "the call's argument is eax")]
fn low(register: u64) -> u32 {
    register as u32
}

/// The exception, of the instruction at `at`, whose handler the child has been sent to.
pub(crate) fn read_frame(memory: &GuestMemory, registers: &Registers, at: u64) -> Option<Fault> {
    let context = registers.rdx;
    let room = STACK_TOP - FRAME_ROOM..STACK_TOP;
    if registers.rip != HYPERCALL_PAGE || !room.contains(&context) {
        return None;
    }
    let field = |offset| memory.load::<u64>(context + offset).ok();
    let vector = u8::try_from(field(x86_64::FRAME_VECTOR)?).ok().filter(|vector| *vector < 32)?;
    let address = if vector == Fault::PAGE_FAULT { field(x86_64::FRAME_ADDRESS)? } else { 0 };
    Some(Fault { vector, error_code: field(x86_64::FRAME_ERROR_CODE)?, at, address })
}
