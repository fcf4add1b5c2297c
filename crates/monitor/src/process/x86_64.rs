//! x86-64: a traced child's registers, where the kernel leaves an exception's details, and the instructions that
//! access ports. Used by the process backend; nothing here makes a system call.

use std::{mem::offset_of, ops::RangeInclusive};

use kernlet_abi::{
    hypercall::HYPERCALL_PORT,
    map::{BOOT_BASE, HYPERCALL_PAGE, STACK_TOP},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::processor::{self, Fault};

/// General and segment registers, as `struct user_regs_struct` of `sys/user.h` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) orig_rax: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) eflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) ds: u64,
    pub(crate) es: u64,
    pub(crate) fs: u64,
    pub(crate) gs: u64,
}

const _: () = {
    assert!(size_of::<Registers>() == size_of::<libc::user_regs_struct>());
    assert!(offset_of!(Registers, rax) == offset_of!(libc::user_regs_struct, rax));
    assert!(offset_of!(Registers, rip) == offset_of!(libc::user_regs_struct, rip));
    assert!(offset_of!(Registers, gs) == offset_of!(libc::user_regs_struct, gs));
};

/// Linux' selectors of 64-bit code and of data (`asm/segment.h`).
const USER_CODE: u64 = 0x33;
const USER_DATA: u64 = 0x2b;
/// Interrupts are on, and bit 1, which always is.
const EFLAGS: u64 = 0x202;
/// Of a stop that is no system call's: the kernel has none to restart.
const NO_CALL: u64 = u64::MAX;

impl Registers {
    /// At a guest's first instruction.
    pub(crate) fn at_entry(entry: u64) -> Self {
        // As after a call: eight below a multiple of sixteen (System V ABI, section 3.2.2).
        Self { rip: entry, rsp: STACK_TOP - 8, rdi: BOOT_BASE, ..Self::user() }
    }

    /// Of a child that goes on nowhere, with room for a frame below `stack`.
    pub(crate) fn at_stop(stack: u64) -> Self {
        Self { rip: HYPERCALL_PAGE, rsp: stack, ..Self::user() }
    }

    /// At a `popfq` at `at`, with its operand at `stack`.
    pub(crate) fn at_pop(at: u64, stack: u64) -> Self {
        Self { rip: at, rsp: stack, ..Self::user() }
    }

    /// Of a system call, made by the `syscall` at `at`.
    pub(crate) fn of_call(at: u64, number: i64, arguments: [u64; 6]) -> Self {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Self { rip: at, rax: number.cast_unsigned(), rdi, rsi, rdx, r10, r8, r9, ..Self::user() }
    }

    /// Those that a report shows.
    pub(crate) fn general(&self) -> processor::Registers {
        let Self { rip, rsp, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, .. } = *self;
        let rflags = self.eflags;
        processor::Registers {
            rip,
            rsp,
            rflags,
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
        }
    }

    fn user() -> Self {
        // All of them data, as under KVM: 64-bit code does not look at them, 32-bit code does.
        let [ss, ds, es, fs, gs] = [USER_DATA; 5];
        Self { orig_rax: NO_CALL, cs: USER_CODE, eflags: EFLAGS, ss, ds, es, fs, gs, ..Self::default() }
    }
}

/// Whether there is a difference that a tracer cannot undo: the ID flag (SDM volume 1, section 3.4.3), which a program
/// may change and `PTRACE_SETREGS` does not.
pub(crate) fn differ_beyond_ptrace(one: &Registers, other: &Registers) -> bool {
    const ID: u64 = 1 << 21;
    (one.eflags ^ other.eflags) & ID != 0
}

/// Whether two XSAVE areas hold the same. Which states are in use (XSTATE_BV, SDM volume 1, section 13.4.2) is left
/// out: the processor may say of one that holds its initial value that it is or is not.
pub(crate) fn same_vectors(one: &[u8], other: &[u8]) -> bool {
    let parts = |area: &[u8]| Some((area.get(..512)?.to_vec(), area.get(520..)?.to_vec()));
    parts(one) == parts(other)
}

// Where a signal's frame has what the processor said: offsets in `struct ucontext` (`asm/ucontext.h`,
// `asm/sigcontext.h`), whose address the handler gets in rdx.
const MACHINE_CONTEXT: u64 = 40;
pub(crate) const FRAME_ERROR_CODE: u64 = MACHINE_CONTEXT + 19 * 8;
pub(crate) const FRAME_VECTOR: u64 = MACHINE_CONTEXT + 20 * 8;
pub(crate) const FRAME_ADDRESS: u64 = MACHINE_CONTEXT + 22 * 8;

/// Where Linux keeps its legacy vsyscall page, which cannot be unmapped.
pub(crate) const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// The longest instruction.
pub(crate) const INSTRUCTION_MAX: usize = 15;

/// An instruction that accesses ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortAccess {
    /// Four bytes of eax to the hypercall port, by an instruction of so many bytes.
    Hypercall { length: u64 },
    /// Any other access to the hypercall port or the three above it.
    Forbidden { port: u16 },
}

const HYPERCALL_PORTS: RangeInclusive<u16> = HYPERCALL_PORT..=HYPERCALL_PORT + 3;

/// What an instruction does to the ports that a machine under KVM has; `None` for another port, or another
/// instruction.
pub(crate) fn port_access(code: &[u8], dx: u16) -> Option<PortAccess> {
    let is_prefix =
        |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let prefixes = code.iter().take_while(|byte| is_prefix(byte)).count();
    if code[..prefixes].contains(&0xf0) {
        return None;
    }
    let opcode = *code.get(prefixes)?;
    let (port, length) = match opcode {
        0xe4..=0xe7 => (u16::from(*code.get(prefixes + 1)?), 2),
        0x6c..=0x6f | 0xec..=0xef => (dx, 1),
        _ => return None,
    };
    let wide = if code[..prefixes].contains(&0x66) { 2 } else { 4 };
    let width = if opcode & 1 == 0 { 1 } else { wide };
    if !HYPERCALL_PORTS.contains(&port) || port + width - 1 > *HYPERCALL_PORTS.end() {
        return None;
    }
    if matches!(opcode, 0xe7 | 0xef) && width == 4 {
        return Some(PortAccess::Hypercall { length: prefixes as u64 + length });
    }
    Some(PortAccess::Forbidden { port })
}

/// The exception that a system call raises in a machine, which has none, by the two bytes before where the guest stands.
pub(crate) fn instead_of_call(instruction: [u8; 2], behind: u64) -> Fault {
    const INVALID_OPCODE: u8 = 6;
    const GENERAL_PROTECTION: u8 = 13;
    let (vector, error_code) = match instruction {
        // Selector error of an interrupt gate (SDM volume 3A, section 6.13).
        [0xcd, gate] => (GENERAL_PROTECTION, u64::from(gate) << 3 | 2),
        _ => (INVALID_OPCODE, 0),
    };
    Fault { vector, error_code, at: behind.wrapping_sub(2), address: 0 }
}

/// `sysenter` leaves a process that has no stack for it in the vDSO, which the child has no more. That address is the
/// monitor's own, and no guest's business.
pub(crate) fn disguise(fault: Fault) -> Fault {
    const VDSO_MAX: u64 = 1 << 16;
    // SAFETY: the function only looks a number up.
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let in_vdso = vdso != 0 && fault.at == fault.address && (vdso..vdso + VDSO_MAX).contains(&fault.at);
    if in_vdso { instead_of_call([0x0f, 0x34], 2) } else { fault }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_four_bytes_out_to_the_hypercall_port_are_a_hypercall() {
        let call = |length| Some(PortAccess::Hypercall { length });
        let forbidden = |port| Some(PortAccess::Forbidden { port });
        for (code, dx, expected) in [
            (&[0xe7, 0x4c][..], 0, call(2)),
            (&[0xef], 0x4c, call(1)),
            (&[0x3e, 0xe7, 0x4c], 0, call(3)),
            (&[0x66, 0xe7, 0x4c], 0, forbidden(0x4c)),
            (&[0xe6, 0x4d], 0, forbidden(0x4d)),
            (&[0xe5, 0x4c], 0, forbidden(0x4c)),
            (&[0xf3, 0x6f], 0x4c, forbidden(0x4c)),
            (&[0xe7, 0x4d], 0, None),
            (&[0xe7, 0x4b], 0, None),
            (&[0xef], 0x104c, None),
            (&[0xf0, 0xe7, 0x4c], 0, None),
            (&[0xe7], 0, None),
            (&[0x66; 15], 0, None),
            (&[], 0, None),
        ] {
            assert_eq!(port_access(code, dx), expected, "{code:x?}, dx {dx:#x}");
        }
    }
}
