//! Takes everything from a new child but its machine's memory: descriptors, address space, system calls. Called by the
//! driver before the child runs its first instruction of guest code. Whatever fails here fails the machine.

use std::{
    arch::naked_asm,
    os::fd::{AsRawFd, BorrowedFd},
};

use kernlet_abi::map::{HYPERCALL_PAGE, PAGE_SIZE};
use libc::c_long;
use zerocopy::{Immutable, IntoBytes};

use crate::{
    crash::Cause,
    layout::{Area, Layout, LayoutError},
    memory::{GuestMemory, OutOfBounds},
    process::{
        tracee::{Failure, Tracee},
        x86_64::Registers,
    },
};

/// Where the workbench lies: in the unused part of the hypercall page, which is mapped from first to last.
const WORKBENCH: u64 = HYPERCALL_PAGE + 0x800;
const SYSCALL: u64 = WORKBENCH;
const ACTION: u64 = WORKBENCH + 0x40;
const PROGRAM: u64 = WORKBENCH + 0x80;
const FILTER: u64 = WORKBENCH + 0xc0;
const POP: u64 = WORKBENCH + 0xd0;
const FLAGS: u64 = WORKBENCH + 0xe0;
const WORKBENCH_LEN: usize = 0x100;

const PAGE_END: u64 = HYPERCALL_PAGE + PAGE_SIZE;

/// `syscall; ud2`.
const SYSCALL_CODE: [u8; 4] = [0x0f, 0x05, 0x0f, 0x0b];

/// Ends of the lower half of the address space, with five and with four levels of page tables, less the page that
/// Linux leaves out.
const ADDRESS_SPACES: [u64; 2] = [(1 << 56) - PAGE_SIZE, (1 << 47) - PAGE_SIZE];

/// The exceptions' signals, of which the kernel tells most in a handler's frame (`Processor::exception`).
const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

/// `struct kernel_sigaction` (`asm/signal.h`). The handler is never entered: it only has to be one.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// `struct sock_fprog` (`linux/filter.h`).
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Program {
    length: u64,
    instructions: u64,
}

/// The seccomp filter, `struct sock_filter`: return SECCOMP_RET_TRAP, whatever the call. System calls do not get there,
/// since the tracer intercepts them before; what does is the vsyscall page, and everything once the tracer erred.
const DENY_ALL: [u64; 1] = [0x0000_0006 | (libc::SECCOMP_RET_TRAP as u64) << 32];

/// What the child needs in its memory for the calls made on its behalf. It lies in the machine's own memory, and must
/// not be there when the guest runs.
pub(crate) struct Workbench<'a> {
    memory: &'a GuestMemory,
}

impl<'a> Workbench<'a> {
    /// Puts it there.
    pub(crate) fn lay_out(memory: &'a GuestMemory, layout: &Layout) -> Result<Self, Cause> {
        let workbench = Self { memory };
        workbench.write().map_err(|_| LayoutError::MemorySize { memory: layout.memory })?;
        Ok(workbench)
    }

    fn write(&self) -> Result<(), OutOfBounds> {
        let flags = libc::SA_SIGINFO | libc::SA_NODEFER | SA_RESTORER;
        let action = Action {
            handler: HYPERCALL_PAGE,
            flags: u64::from(flags.cast_unsigned()),
            restorer: HYPERCALL_PAGE,
            mask: 0,
        };
        let program = Program { length: DENY_ALL.len() as u64, instructions: FILTER };
        self.memory.write_unmarked(SYSCALL, &SYSCALL_CODE)?;
        self.memory.write_unmarked(ACTION, action.as_bytes())?;
        self.memory.write_unmarked(PROGRAM, program.as_bytes())?;
        self.memory.write_unmarked(FILTER, DENY_ALL.as_bytes())
    }

    /// Takes it away.
    pub(crate) fn clear(self) -> Result<(), Cause> {
        let cleared = self.memory.write_unmarked(WORKBENCH, &[0; WORKBENCH_LEN]);
        cleared.map_err(|_| LayoutError::MemorySize { memory: self.memory.size() }.into())
    }
}

/// `SA_RESTORER` of `asm/signal.h`, without which x86-64 takes no handler.
const SA_RESTORER: libc::c_int = 0x0400_0000;

/// A `popfq` with its operand, by which the child gets flags that its tracer cannot set. It lies where the workbench did,
/// and must not be there either when the guest runs.
pub(crate) struct FlagsPopped<'a> {
    workbench: Workbench<'a>,
}

impl<'a> FlagsPopped<'a> {
    /// Puts it there.
    pub(crate) fn lay_out(memory: &'a GuestMemory, registers: &Registers) -> Result<Self, Cause> {
        /// `popfq; ud2`.
        const CODE: [u8; 3] = [0x9d, 0x0f, 0x0b];
        let written = memory
            .write_unmarked(POP, &CODE)
            .and_then(|()| memory.write_unmarked(FLAGS, &registers.eflags.to_le_bytes()));
        written.map_err(|_| LayoutError::MemorySize { memory: memory.size() })?;
        Ok(Self { workbench: Workbench { memory } })
    }

    /// Lets a child carry it out.
    pub(crate) fn pop(child: &mut Tracee) -> Result<(), Failure> {
        child.step(&Registers::at_pop(POP, FLAGS))
    }

    /// Takes it away.
    pub(crate) fn clear(self) -> Result<(), Cause> {
        self.workbench.clear()
    }
}

/// Confines a child that has just been forked to these areas of the machine's memory, whose file it inherited.
pub(crate) fn confine(child: &mut Tracee, file: BorrowedFd<'_>, areas: &[Area]) -> Result<(), Failure> {
    let file = u64::from(file.as_raw_fd().cast_unsigned());
    let first = syscall_instruction as extern "C" fn() as usize as u64;
    child.end_restartable_sequences(first)?;
    child.call(first, libc::SYS_mmap, map(HYPERCALL_PAGE, PAGE_SIZE, EXECUTE, file))?;
    // From here on by the workbench's instruction, which stays.
    unmap_everything_else(child)?;
    for area in areas.iter().filter(|area| area.pages.start != HYPERCALL_PAGE && !area.pages.is_empty()) {
        let access = match (area.permission.write, area.permission.execute) {
            (true, _) => WRITE,
            (false, true) => EXECUTE,
            (false, false) => libc::PROT_READ,
        };
        let length = area.pages.end - area.pages.start;
        child.call(SYSCALL, libc::SYS_mmap, map(area.pages.start, length, access, file))?;
    }
    child.call(SYSCALL, libc::SYS_close_range, [0, u64::from(u32::MAX), 0, 0, 0, 0])?;
    for signal in SIGNALS {
        const MASK_LEN: u64 = 8;
        let signal = u64::from(signal.cast_unsigned());
        child.call(SYSCALL, libc::SYS_rt_sigaction, [signal, ACTION, 0, MASK_LEN, 0, 0])?;
    }
    let prctl = |option: i32, argument: i32| {
        [u64::from(option.cast_unsigned()), u64::from(argument.cast_unsigned()), 0, 0, 0, 0]
    };
    child.call(SYSCALL, libc::SYS_prctl, prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
    child.call(SYSCALL, libc::SYS_prctl, prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    restrict_speculation(child);
    let seccomp = [u64::from(libc::SECCOMP_SET_MODE_FILTER), 0, PROGRAM, 0, 0, 0];
    child.call(SYSCALL, libc::SYS_seccomp, seccomp)?;
    Ok(())
}

const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// Arguments that map a range of the machine's memory where the guest has it.
fn map(start: u64, length: u64, access: i32, file: u64) -> [u64; 6] {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
    [start, length, u64::from(access.cast_unsigned()), u64::from(flags.cast_unsigned()), file, start]
}

/// Unmaps all that the child inherited: the monitor's memory with what other requests and secrets it holds, its code,
/// the stack, the vDSO.
fn unmap_everything_else(child: &mut Tracee) -> Result<(), Failure> {
    child.call(SYSCALL, libc::SYS_munmap, [0, HYPERCALL_PAGE, 0, 0, 0, 0])?;
    let [largest, usual] = ADDRESS_SPACES;
    let mut unmap = |end: u64| child.call(SYSCALL, libc::SYS_munmap, [PAGE_END, end - PAGE_END, 0, 0, 0, 0]);
    match unmap(largest) {
        Err(Failure::Host(error)) if error.raw_os_error() == Some(libc::EINVAL) => unmap(usual).map(drop),
        other => other.map(drop),
    }
}

/// Keeps the guest from training the processor's predictors for others and others for it, where the host's kernel
/// leaves that to the process; elsewhere there is nothing to do.
fn restrict_speculation(child: &mut Tracee) {
    for feature in [libc::PR_SPEC_STORE_BYPASS, libc::PR_SPEC_INDIRECT_BRANCH] {
        let arguments = [
            u64::from(libc::PR_SET_SPECULATION_CTRL.cast_unsigned()),
            u64::from(feature.cast_unsigned()),
            u64::from(libc::PR_SPEC_FORCE_DISABLE),
            0,
            0,
            0,
        ];
        let _ = child.call(SYSCALL, libc::SYS_prctl, arguments);
    }
}

/// Never called: its instruction makes the child's first calls, before the child has one of its own.
#[unsafe(naked)]
extern "C" fn syscall_instruction() {
    naked_asm!("syscall", "ud2")
}

const _: () = assert!(libc::SYS_mmap == 9 as c_long, "the calls above are those of x86-64");
