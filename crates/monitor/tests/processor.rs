//! Whatever instructions a guest carries out, its machine ends with a cause that names them, or goes on because they
//! are harmless; the next machine on the same thread works. Where processors differ, each of their ways is listed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "a guest's own addresses fit 31 bits")]

#[path = "common/attack.rs"]
mod attack;
mod common;
#[path = "common/image.rs"]
mod image;

use attack::{Arena, BLOCK, Code, SCRATCH, assemble, hypercall};
use common::nature::Nature;
use iced_x86::code_asm::*;
use image::{CODE, CONSTANTS, DATA, Elf};
use kernlet_abi::{
    hypercall::{HYPERCALL_PORT, number},
    map::{BOOT_BASE, HYPERCALL_PAGE, PAGE_TABLE_BASE, STACK_BASE, STACK_TOP, VECTORS_PAGE},
};
use kernlet_monitor::{Cause, Crash, FaultAccess};

/// Division error, debug, breakpoint, invalid opcode, stack segment, general protection, x87, alignment, SIMD.
const DE: u8 = 0;
const DB: u8 = 1;
const BP: u8 = 3;
const UD: u8 = 6;
const SS: u8 = 12;
const GP: u8 = 13;
const MF: u8 = 16;
const AC: u8 = 17;
const XM: u8 = 19;

const TRAP_FLAG: i32 = 1 << 8;
const IO_PRIVILEGE: i32 = 3 << 12;
const NESTED_TASK: i32 = 1 << 14;
const VIRTUAL_8086: i32 = 1 << 17;
const ALIGNMENT_CHECK: i32 = 1 << 18;

/// The hypercall port, as an instruction has it.
const PORT: i32 = HYPERCALL_PORT as i32;

fn vector(name: &str, crash: &Crash) -> u8 {
    match crash.cause() {
        Cause::Exception { vector, .. } => *vector,
        Cause::PageFault { .. } => 14,
        _ => panic!("{name} should end with an exception: {crash}"),
    }
}

/// Each of these ends its machine with one of these exceptions.
fn assert_exceptions(attacks: &[(&str, &[u8], Code)]) {
    for arena in Arena::on_each_backend() {
        for (name, vectors, code) in attacks {
            let crash = arena.crash(name, *code);
            assert!(vectors.contains(&vector(name, &crash)), "{name}: {crash}");
        }
    }
}

/// Each of these goes on, or ends its machine with one of these exceptions.
fn assert_harmless(attacks: &[(&str, &[u8], Code)]) {
    for arena in Arena::on_each_backend() {
        for (name, vectors, code) in attacks {
            if let Err(crash) = arena.run(*code, &[]) {
                assert!(vectors.contains(&vector(name, &crash)), "{name}: {crash}");
            }
        }
    }
}

#[test]
fn privileged_instructions_end_the_machine() {
    assert_exceptions(&[
        ("hlt", &[GP], |a| a.hlt()),
        ("cli", &[GP], |a| a.cli()),
        ("sti", &[GP], |a| a.sti()),
        ("mov cr0", &[GP], |a| a.mov(cr0, rax)),
        ("mov cr3", &[GP], |a| a.mov(cr3, rax)),
        ("mov cr4", &[GP], |a| a.mov(cr4, rax)),
        ("mov cr8", &[GP], |a| a.mov(cr8, rax)),
        ("mov from cr0", &[GP], |a| a.mov(rax, cr0)),
        ("mov from cr2", &[GP], |a| a.mov(rax, cr2)),
        ("mov dr0", &[GP], |a| a.mov(dr0, rax)),
        ("mov dr7", &[GP], |a| a.mov(dr7, rax)),
        ("mov from dr6", &[GP], |a| a.mov(rax, dr6)),
        ("clts", &[GP], |a| a.clts()),
        ("lmsw", &[GP], |a| a.lmsw(ax)),
        ("lgdt", &[GP], |a| a.lgdt(qword_ptr(SCRATCH))),
        ("lidt", &[GP], |a| a.lidt(qword_ptr(SCRATCH))),
        ("lldt", &[GP], |a| a.lldt(ax)),
        ("ltr", &[GP], |a| a.ltr(ax)),
        ("invlpg", &[GP], |a| a.invlpg(byte_ptr(CODE))),
        ("invd", &[GP], |a| a.invd()),
        ("wbinvd", &[GP], |a| a.wbinvd()),
        ("swapgs", &[GP], |a| a.swapgs()),
        ("rdmsr EFER", &[GP], |a| {
            a.mov(ecx, 0xc000_0080_u32)?;
            a.rdmsr()
        }),
        ("wrmsr EFER", &[GP], |a| {
            a.mov(ecx, 0xc000_0080_u32)?;
            a.wrmsr()
        }),
        ("wrmsr LSTAR", &[GP], |a| {
            a.mov(ecx, 0xc000_0082_u32)?;
            a.wrmsr()
        }),
        ("xsetbv", &[GP, UD], |a| {
            a.xor(ecx, ecx)?;
            a.xsetbv()
        }),
        ("rdpmc", &[GP], |a| {
            a.xor(ecx, ecx)?;
            a.rdpmc()
        }),
        ("sysret", &[GP, UD], |a| a.sysretq()),
        ("sysexit", &[GP, UD], |a| a.sysexit()),
        ("clac", &[UD], |a| a.clac()),
        ("stac", &[UD], |a| a.stac()),
        ("monitor", &[GP, UD], |a| a.monitor()),
        ("mwait", &[GP, UD], |a| a.mwait()),
    ]);
}

#[test]
fn instructions_of_a_hypervisor_or_a_secure_mode_end_the_machine() {
    assert_exceptions(&[
        ("vmrun", &[GP, UD], |a| a.vmrun()),
        ("clgi", &[GP, UD], |a| a.clgi()),
        ("skinit", &[GP, UD], |a| a.skinit()),
        ("rsm", &[UD], |a| a.rsm()),
        ("getsec", &[GP, UD], |a| a.getsec()),
        ("encls", &[GP, UD], |a| a.encls()),
        ("vmxoff", &[GP, UD], |a| a.vmxoff()),
    ]);
    // KVM answers these with an error in eax, whoever asks.
    assert_harmless(&[
        ("vmcall", &[GP, UD], |a| a.vmcall()),
        ("vmmcall", &[GP, UD], |a| a.vmmcall()),
        ("enclu", &[GP, UD], |a| a.enclu()),
    ]);
}

#[test]
fn system_calls_and_interrupts_end_the_machine() {
    // Nested KVM carries `syscall` to address zero of its own ring 0, which is not mapped (14).
    assert_exceptions(&[
        ("syscall", &[UD, 14], |a| a.syscall()),
        ("syscall with the descriptor table as stack", &[UD, 14], |a| {
            a.mov(rsp, 0x1800_u64)?;
            a.syscall()
        }),
        ("syscall with the task state as stack", &[UD, 14], |a| {
            a.mov(rsp, 0x4100_u64)?;
            a.syscall()
        }),
        ("sysenter", &[UD, GP], |a| a.sysenter()),
        ("int 0", &[UD, GP], |a| a.int(0)),
        ("int 2", &[UD, GP], |a| a.int(2)),
        ("int3", &[BP, GP], |a| a.int3()),
        ("int 3", &[BP, GP, UD], |a| a.int(3)),
        ("int 8", &[UD, GP], |a| a.int(8)),
        ("int 14", &[UD, GP], |a| a.int(14)),
        ("int 0x20", &[UD, GP], |a| a.int(0x20)),
        ("int 0x80, getpid", &[UD, GP], |a| {
            a.mov(eax, 20)?;
            a.int(0x80)
        }),
        ("int 0x80, exit", &[UD, GP], |a| {
            a.mov(eax, 1)?;
            a.xor(ebx, ebx)?;
            a.int(0x80)
        }),
        ("int 0xff", &[UD, GP], |a| a.int(0xff)),
        // QEMU's TCG decodes it as undefined.
        ("int1", &[DB, UD], |a| a.int1()),
    ]);
}

#[test]
fn undefined_and_failing_arithmetic_instructions_are_named() {
    assert_exceptions(&[
        ("ud2", &[UD], |a| a.ud2()),
        ("div by zero", &[DE], |a| {
            a.xor(ecx, ecx)?;
            a.div(ecx)
        }),
        // Not the smallest number by -1, at which QEMU's TCG itself dies.
        ("idiv overflow", &[DE], |a| {
            a.mov(eax, 0)?;
            a.mov(edx, 7)?;
            a.mov(ecx, -1)?;
            a.idiv(ecx)
        }),
        ("unmasked x87 exception", &[MF], |a| {
            a.mov(dword_ptr(SCRATCH), 0)?;
            a.fldcw(word_ptr(SCRATCH))?;
            a.fldz()?;
            a.fld1()?;
            a.fdivrp(st1, st0)?;
            a.wait()
        }),
        ("16 bytes of one instruction", &[GP], |a| {
            a.db(&[0x3e; 14])?;
            a.db(&[0xe7, 0x4c])
        }),
    ]);
    // QEMU's TCG raises none of these.
    assert_harmless(&[
        ("unmasked SIMD exception", &[XM], |a| {
            a.mov(dword_ptr(SCRATCH), 0)?;
            a.ldmxcsr(dword_ptr(SCRATCH))?;
            a.xorps(xmm0, xmm0)?;
            a.divps(xmm0, xmm0)
        }),
        ("reserved bits of MXCSR", &[GP, UD], |a| {
            a.mov(dword_ptr(SCRATCH), -1)?;
            a.ldmxcsr(dword_ptr(SCRATCH))
        }),
    ]);
}

#[test]
fn flags_that_a_guest_can_set_harm_only_itself() {
    assert_exceptions(&[
        ("single step", &[DB], |a| {
            set_flags(a, TRAP_FLAG)?;
            a.nop()
        }),
        ("single step into the hypercall page", &[DB], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.mov(edi, BLOCK as u32)?;
            a.mov(eax, HYPERCALL_PAGE as u32)?;
            set_flags(a, TRAP_FLAG)?;
            a.call(rax)
        }),
        ("single step over the hypercall", &[DB], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.mov(eax, BLOCK as u32)?;
            set_flags(a, TRAP_FLAG)?;
            a.out(PORT, eax)
        }),
        ("I/O privilege", &[GP], |a| {
            set_flags(a, IO_PRIVILEGE)?;
            a.out(0x80, al)
        }),
        ("iretq with a nested task", &[GP], |a| {
            set_flags(a, NESTED_TASK)?;
            a.iretq()
        }),
        ("iretq to ring 0", &[GP], |a| interrupt_return(a, 0x10, 2, 8)),
    ]);
    // QEMU's TCG does not check alignment; no processor takes virtual-8086 mode from ring 3.
    assert_harmless(&[
        ("alignment check", &[AC], |a| {
            set_flags(a, ALIGNMENT_CHECK)?;
            a.mov(eax, dword_ptr(SCRATCH + 1))
        }),
        ("alignment check during a hypercall", &[], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            set_flags(a, ALIGNMENT_CHECK)?;
            hypercall(a, BLOCK)
        }),
        ("direction flag during a hypercall", &[], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.std()?;
            hypercall(a, BLOCK)
        }),
        ("every flag during a hypercall", &[DB, AC], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            set_flags(a, !TRAP_FLAG)?;
            hypercall(a, BLOCK)
        }),
        ("virtual-8086 mode", &[GP], |a| interrupt_return(a, 0x23, VIRTUAL_8086 | 2, 0x2b)),
    ]);
}

fn set_flags(a: &mut CodeAssembler, flags: i32) -> Result<(), iced_x86::IcedError> {
    a.pushfq()?;
    a.or(qword_ptr(rsp), flags)?;
    a.popfq()
}

/// `iretq` to the instruction behind it, with these selectors and flags.
fn interrupt_return(a: &mut CodeAssembler, stack: i32, flags: i32, code: i32) -> Result<(), iced_x86::IcedError> {
    let mut next = a.create_label();
    a.lea(rcx, ptr(next))?;
    a.push(stack)?;
    a.push(i32::try_from(STACK_TOP - 0x100).unwrap())?;
    a.push(flags)?;
    a.push(code)?;
    a.push(rcx)?;
    a.iretq()?;
    a.set_label(&mut next)?;
    a.nop()
}

#[test]
fn every_port_but_the_hypercalls_is_forbidden() {
    assert_exceptions(&[
        ("out 0x80", &[GP], |a| a.out(0x80, al)),
        ("in 0x60", &[GP], |a| a.in_(al, 0x60)),
        ("the fault port, one byte", &[GP], |a| a.out(0x40, al)),
        ("the fault port, four bytes", &[GP], |a| a.out(0x40, eax)),
        ("the fault port, reading", &[GP], |a| a.in_(eax, 0x40)),
        ("four bytes up to 0x40", &[GP], |a| a.out(0x3d, eax)),
        ("below, one byte", &[GP], |a| a.out(PORT - 1, al)),
        ("below, overlapping", &[GP], |a| a.out(PORT - 1, eax)),
        ("inside, overlapping", &[GP], |a| a.out(PORT + 1, eax)),
        ("last, overlapping", &[GP], |a| a.out(PORT + 3, ax)),
        ("behind", &[GP], |a| a.out(PORT + 4, al)),
        ("below, reading", &[GP], |a| a.in_(eax, PORT - 1)),
        ("last of the bitmap, overlapping its end", &[GP], |a| out_dx(a, 0xff)),
        ("behind the bitmap", &[GP], |a| out_dx(a, 0x100)),
        ("0x1000 above the hypercall's", &[GP], |a| out_dx(a, 0x104c)),
        ("PCI", &[GP], |a| out_dx(a, 0xcf8)),
        ("the last", &[GP], |a| out_dx(a, 0xffff)),
        ("string to the fault port", &[GP], |a| {
            a.mov(rsi, SCRATCH)?;
            a.mov(ecx, 16)?;
            a.mov(edx, 0x40)?;
            a.rep().outsb()
        }),
        ("string from a forbidden port", &[GP], |a| {
            a.mov(rdi, SCRATCH)?;
            a.mov(edx, 0x60)?;
            a.insb()
        }),
    ]);
}

fn out_dx(a: &mut CodeAssembler, port: u32) -> Result<(), iced_x86::IcedError> {
    a.mov(edx, port)?;
    a.out(dx, ax)
}

#[test]
fn the_hypercall_port_takes_four_bytes_and_gives_none() {
    for arena in Arena::on_each_backend() {
        let attacks: &[(&str, u16, Code)] = &[
            ("one byte", 0, |a| a.out(PORT, al)),
            ("two bytes", 0, |a| a.out(PORT, ax)),
            ("one byte, inside", 1, |a| a.out(PORT + 1, al)),
            ("two bytes, inside", 2, |a| a.out(PORT + 2, ax)),
            ("reading a byte", 0, |a| a.in_(al, PORT)),
            ("reading four bytes", 0, |a| a.in_(eax, PORT)),
            ("a string in", 0, |a| string_in(a, SCRATCH, 1)),
            ("a long string in", 0, |a| string_in(a, SCRATCH, u64::MAX)),
            ("a string of two-byte pieces", 0, |a| {
                string_out(a, SCRATCH, 2)?;
                a.rep().outsw()
            }),
        ];
        for (name, above, code) in attacks {
            let crash = arena.crash(name, *code);
            let expected = HYPERCALL_PORT + above;
            assert!(matches!(crash.cause(), Cause::ForbiddenPort { port } if *port == expected), "{name}: {crash}");
        }
    }
}

fn string_out(a: &mut CodeAssembler, from: u64, count: u64) -> Result<(), iced_x86::IcedError> {
    a.mov(dword_ptr(SCRATCH), BLOCK as i32)?;
    a.mov(dword_ptr(BLOCK), number::CLOCK as i32)?;
    a.mov(rsi, from)?;
    a.mov(rcx, count)?;
    a.mov(edx, PORT)
}

fn string_in(a: &mut CodeAssembler, to: u64, count: u64) -> Result<(), iced_x86::IcedError> {
    a.mov(rdi, to)?;
    a.mov(rcx, count)?;
    a.mov(edx, PORT)?;
    a.rep().insd()
}

/// A string out is so many calls, of which each is checked; KVMs differ in how they hand over its pieces.
#[test]
fn strings_on_the_hypercall_port_reach_nothing_that_a_call_does_not() {
    for arena in Arena::on_each_backend() {
        let allowed: &[(&str, Code)] = &[
            ("one piece is a call", |a| {
                string_out(a, SCRATCH, 1)?;
                a.outsd()
            }),
            ("no piece is no call", |a| {
                string_out(a, SCRATCH, 0)?;
                a.rep().outsd()
            }),
        ];
        for (name, code) in allowed {
            match arena.run(*code, &[]) {
                Ok(_) => assert!(!Nature::PortStrings.is_a_processes(arena.hypervisor()), "{name}"),
                Err(crash) => {
                    assert!(Nature::PortStrings.is_a_processes(arena.hypervisor()), "{name}: {crash}");
                    assert!(matches!(crash.cause(), Cause::ForbiddenPort { .. }), "{name}: {crash}");
                }
            }
        }
        let attacks: &[(&str, Code)] = &[
            ("two pieces, the second null", |a| {
                string_out(a, SCRATCH, 2)?;
                a.rep().outsd()
            }),
            ("more pieces than there is memory", |a| {
                string_out(a, SCRATCH, u64::MAX)?;
                a.rep().outsd()
            }),
            ("bytes", |a| {
                string_out(a, SCRATCH + 1, 4)?;
                a.rep().outsb()
            }),
            ("into the monitor's memory", |a| string_in(a, PAGE_TABLE_BASE, 1)),
            ("into the boot page", |a| string_in(a, BOOT_BASE, 1)),
            ("into nowhere", |a| string_in(a, 0xf000_0000, 1)),
        ];
        for (name, code) in attacks {
            let crash = arena.crash(name, *code);
            let cause = crash.cause();
            assert!(
                matches!(cause, Cause::BadPointer { .. } | Cause::ForbiddenPort { .. } | Cause::PageFault { .. }),
                "{name}: {crash}"
            );
        }
        for from in ["null", "the descriptor tables", "the page tables"] {
            let crash = match from {
                "null" => arena.crash(from, |a| {
                    string_out(a, 0, 1)?;
                    a.outsd()
                }),
                "the descriptor tables" => arena.crash(from, |a| {
                    string_out(a, 0x1000, 1)?;
                    a.outsd()
                }),
                _ => arena.crash(from, |a| {
                    string_out(a, PAGE_TABLE_BASE, 1)?;
                    a.outsd()
                }),
            };
            match crash.cause() {
                Cause::PageFault { access: FaultAccess::Read, .. } => {}
                Cause::ForbiddenPort { .. } if Nature::PortStrings.is_a_processes(arena.hypervisor()) => {}
                _ => panic!("{from}: {crash}"),
            }
        }
    }
}

#[test]
fn prefixes_do_not_open_ports() {
    assert_harmless(&[
        ("rep out", &[UD], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.mov(eax, BLOCK as u32)?;
            a.db(&[0xf3, 0xe7, 0x4c])
        }),
        ("out of 15 bytes", &[GP, UD], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.mov(eax, BLOCK as u32)?;
            a.db(&[0x3e; 13])?;
            a.db(&[0xe7, 0x4c])
        }),
        ("lock out", &[UD], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.mov(eax, BLOCK as u32)?;
            a.db(&[0xf0, 0xe7, 0x4c])
        }),
    ]);
}

/// Reads, writes or executes, in this order, and what the machine's end must say.
fn page_fault(arena: &Arena, name: &str, code: Code) -> (FaultAccess, u64, &'static str) {
    let crash = arena.crash(name, code);
    match crash.cause() {
        Cause::PageFault { access, address, region, .. } => (*access, *address, region),
        _ => panic!("{name}: {crash}"),
    }
}

macro_rules! access {
    (read $address:expr) => {
        |a| {
            a.mov(rbx, $address)?;
            a.mov(al, byte_ptr(rbx))
        }
    };
    (write $address:expr) => {
        |a| {
            a.mov(rbx, $address)?;
            a.mov(byte_ptr(rbx), al)
        }
    };
    (execute $address:expr) => {
        |a| {
            a.mov(rbx, $address)?;
            a.call(rbx)
        }
    };
}

#[test]
fn memory_that_is_not_the_guests_is_named_with_the_access() {
    for arena in Arena::on_each_backend() {
        let attacks: &[(FaultAccess, u64, &str, Code)] = &[
            (FaultAccess::Read, 0, "null", access!(read 0_u64)),
            (FaultAccess::Read, 0xfff, "null", access!(read 0xfff_u64)),
            (FaultAccess::Write, 8, "null", access!(write 8_u64)),
            (FaultAccess::Execute, 0, "null", access!(execute 0_u64)),
            (FaultAccess::Read, 0x1000, "the monitor's", access!(read 0x1000_u64)),
            (FaultAccess::Write, 0x1000, "the monitor's", access!(write 0x1000_u64)),
            (FaultAccess::Write, 0x2000, "the monitor's", access!(write 0x2000_u64)),
            (FaultAccess::Execute, 0x3000, "the monitor's", access!(execute 0x3000_u64)),
            (FaultAccess::Write, 0x4068, "the monitor's", access!(write 0x4068_u64)),
            (FaultAccess::Write, 0x5ff8, "the monitor's", access!(write 0x5ff8_u64)),
            (FaultAccess::Read, PAGE_TABLE_BASE, "the monitor's", access!(read PAGE_TABLE_BASE)),
            (FaultAccess::Write, PAGE_TABLE_BASE, "the monitor's", access!(write PAGE_TABLE_BASE)),
            (FaultAccess::Write, BOOT_BASE, "read-only boot page", access!(write BOOT_BASE)),
            (FaultAccess::Execute, BOOT_BASE, "boot page", access!(execute BOOT_BASE)),
            (FaultAccess::Write, HYPERCALL_PAGE, "read-only hypercall", access!(write HYPERCALL_PAGE)),
            (FaultAccess::Write, VECTORS_PAGE, "read-only vector registers", access!(write VECTORS_PAGE)),
            (FaultAccess::Execute, VECTORS_PAGE, "vector registers", access!(execute VECTORS_PAGE)),
            (FaultAccess::Read, VECTORS_PAGE + 0x1000, "guard", access!(read VECTORS_PAGE + 0x1000)),
            (FaultAccess::Write, STACK_BASE - 1, "guard", access!(write STACK_BASE - 1)),
            (FaultAccess::Execute, STACK_BASE, "not executable", access!(execute STACK_BASE)),
            (FaultAccess::Write, CODE, "code, which is read-only", access!(write CODE)),
            (FaultAccess::Write, CONSTANTS, "constant", access!(write CONSTANTS)),
            (FaultAccess::Execute, CONSTANTS, "constant", access!(execute CONSTANTS)),
            (FaultAccess::Execute, DATA, "data, which is not executable", access!(execute DATA)),
            (FaultAccess::Read, CODE + 0x1000, "between", access!(read CODE + 0x1000)),
            (FaultAccess::Execute, DATA + 0x4000, "heap", access!(execute DATA + 0x4000)),
            (FaultAccess::Write, 0xff_f000, "request window", access!(write 0xff_f000_u64)),
            (FaultAccess::Execute, 0xff_f000, "request window", access!(execute 0xff_f000_u64)),
            (FaultAccess::Read, 0x100_0000, "outside", access!(read 0x100_0000_u64)),
            (FaultAccess::Write, 0xfee0_0000, "outside", access!(write 0xfee0_0000_u64)),
            (FaultAccess::Read, 0x7fff_ffff_f000, "outside", access!(read 0x7fff_ffff_f000_u64)),
            (FaultAccess::Read, 0xffff_8000_0000_0000, "outside", access!(read 0xffff_8000_0000_0000_u64)),
            (FaultAccess::Read, 0xffff_ffff_8100_0000, "outside", access!(read 0xffff_ffff_8100_0000_u64)),
            (FaultAccess::Execute, 0xffff_ffff_8100_0000, "outside", access!(execute 0xffff_ffff_8100_0000_u64)),
            // Where Linux keeps its vsyscall page, which its own programs may execute.
            (FaultAccess::Read, 0xffff_ffff_ff60_0000, "outside", access!(read 0xffff_ffff_ff60_0000_u64)),
            (FaultAccess::Execute, 0xffff_ffff_ff60_0000, "outside", access!(execute 0xffff_ffff_ff60_0000_u64)),
        ];
        for (access, address, region, code) in attacks {
            let name = format!("{access} {address:#x}");
            let (found_access, found, found_region) = page_fault(&arena, &name, *code);
            assert_eq!((found_access, found), (*access, *address), "{name}");
            assert!(found_region.contains(region), "{name}: {found_region}");
        }
    }
}

#[test]
fn addresses_that_are_none_end_the_machine() {
    assert_exceptions(&[
        ("read", &[GP], access!(read 0x8000_0000_0000_0000_u64)),
        ("write", &[GP], access!(write 0x8000_0000_0000_0000_u64)),
        ("just above the lower half", &[GP], access!(read 0x8000_0000_0000_u64)),
        ("jump", &[GP], |a| {
            a.mov(rax, 0x8000_0000_0000_0000_u64)?;
            a.jmp(rax)
        }),
        ("return", &[GP], |a| {
            a.mov(rax, 0x8000_0000_0000_0000_u64)?;
            a.push(rax)?;
            a.ret()
        }),
        ("push", &[SS, GP], |a| {
            a.mov(rsp, 0x8000_0000_0000_0000_u64)?;
            a.push(rax)
        }),
    ]);
}

#[test]
fn a_fault_is_reported_wherever_the_stack_is() {
    assert_exceptions(&[
        ("at null", &[UD], |a| {
            a.xor(esp, esp)?;
            a.ud2()
        }),
        ("nowhere", &[UD], |a| {
            a.mov(rsp, 0x8000_0000_0000_0000_u64)?;
            a.ud2()
        }),
        ("in the monitor's memory", &[UD], |a| {
            a.mov(rsp, 0x6000_u64)?;
            a.ud2()
        }),
        ("a push into the monitor's memory", &[14], |a| {
            a.mov(rsp, 0x6000_u64)?;
            a.push(rax)
        }),
        ("a hypercall with the stack at null", &[14], |a| {
            a.xor(esp, esp)?;
            hypercall(a, BLOCK)
        }),
    ]);
}

#[test]
fn segments_and_their_bases_harm_only_the_guest() {
    assert_exceptions(&[
        ("ds from an empty local table", &[GP], |a| load_ds(a, 7)),
        ("ds of ring 0", &[GP], |a| load_ds(a, 0x10)),
        ("a null ss", &[GP], |a| {
            a.xor(eax, eax)?;
            a.mov(ss, ax)
        }),
        ("far return to ring 0", &[GP], |a| far_return(a, 0x08)),
        ("far return to data", &[GP], |a| far_return(a, 0x10)),
        ("far return to a null selector", &[GP], |a| far_return(a, 0)),
        ("fs far away", &[14], |a| {
            a.mov(rax, 0xffff_8000_0000_0000_u64)?;
            a.wrfsbase(rax)?;
            a.mov(eax, dword_ptr(0).fs())
        }),
    ]);
    assert_harmless(&[
        // QEMU's TCG takes it.
        ("fs nowhere", &[GP], |a| {
            a.mov(rax, 0x8000_0000_0000_0000_u64)?;
            a.wrfsbase(rax)
        }),
        ("fs and gs in the guest's own memory, across a hypercall", &[], |a| {
            a.mov(dword_ptr(BLOCK), 3)?;
            a.mov(rax, SCRATCH)?;
            a.wrfsbase(rax)?;
            a.wrgsbase(rax)?;
            hypercall(a, BLOCK)?;
            a.mov(eax, dword_ptr(8).fs())?;
            a.mov(eax, dword_ptr(8).gs())
        }),
        ("the user's own selectors", &[], |a| {
            load_ds(a, 0x23)?;
            a.mov(es, ax)?;
            a.mov(fs, ax)?;
            a.mov(gs, ax)
        }),
        ("far return to 0x1b, a 32-bit segment", &[GP, UD, 14], |a| far_return(a, 0x1b)),
        ("far return to 0x23", &[GP, UD, 14], |a| far_return(a, 0x23)),
        ("far return to 0x2b", &[GP], |a| far_return(a, 0x2b)),
        ("far return to 0x33", &[GP, UD, 14], |a| far_return(a, 0x33)),
        ("sgdt", &[GP, UD], |a| a.sgdt(qword_ptr(SCRATCH))),
        ("smsw", &[GP, UD], |a| a.smsw(ax)),
        ("str", &[GP, UD], |a| a.str(ax)),
    ]);
    for arena in Arena::on_each_backend() {
        let its_own: Code = match Nature::Selectors.is_a_processes(arena.hypervisor()) {
            true => |a| far_return(a, 0x33),
            false => |a| far_return(a, 0x2b),
        };
        arena.run(its_own, &[]).expect("a far return to the guest's own segment");
        // What is a user's segment to the host of a nested KVM may be one to its guests.
        let outside: [(&str, Code); 2] = [
            ("ds from the task", |a| load_ds(a, 0x30)),
            ("fs in the upper half", |a| {
                a.mov(rax, 0xffff_8000_0000_0000_u64)?;
                a.wrfsbase(rax)
            }),
        ];
        for (name, code) in outside {
            match arena.run(code, &[]).map_err(|crash| (crash.to_string(), crash)) {
                Ok(_) => assert!(!Nature::Segments.is_a_processes(arena.hypervisor()), "{name}"),
                Err((text, _)) if text.contains("keep a function's segment registers") => {
                    assert!(Nature::Segments.is_a_processes(arena.hypervisor()), "{name}: {text}");
                }
                Err((_, crash)) => assert_eq!(vector(name, &crash), GP, "{name}: {crash}"),
            }
        }
    }
}

fn load_ds(a: &mut CodeAssembler, selector: u32) -> Result<(), iced_x86::IcedError> {
    a.mov(eax, selector)?;
    a.mov(ds, ax)
}

/// `retf` with 64-bit operands to the instruction behind it.
fn far_return(a: &mut CodeAssembler, selector: i32) -> Result<(), iced_x86::IcedError> {
    let mut next = a.create_label();
    a.lea(rcx, ptr(next))?;
    a.push(selector)?;
    a.push(rcx)?;
    a.db(&[0x48, 0xcb])?;
    a.set_label(&mut next)?;
    a.nop()
}

#[test]
fn vector_registers_work_where_the_host_has_them() {
    for arena in Arena::on_each_backend() {
        arena
            .run(
                |a| {
                    a.xorps(xmm0, xmm0)?;
                    a.addps(xmm1, xmm0)
                },
                &[],
            )
            .expect("SSE works");
        if std::arch::is_x86_feature_detected!("avx") {
            arena
                .run(
                    |a| {
                        a.vxorps(ymm0, ymm0, ymm0)?;
                        a.vaddps(ymm1, ymm0, ymm0)
                    },
                    &[],
                )
                .expect("AVX works");
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            arena.run(|a| a.vaddps(zmm1, zmm0, zmm0), &[]).expect("AVX-512 works");
        }
        assert_exceptions(&[("a register state that is none", &[GP], |a| {
            a.mov(dword_ptr(SCRATCH + 512 + 8), -1)?;
            a.mov(eax, -1)?;
            a.mov(edx, -1)?;
            a.xrstor(ptr(SCRATCH))
        })]);
    }
}

#[test]
fn a_guest_that_never_stops_is_stopped_where_it_is() {
    for arena in Arena::on_each_backend() {
        let attacks: &[(&str, Code)] = &[
            ("spin", |a| looped(a, |_| Ok(()))),
            ("pause", |a| looped(a, |a| a.pause())),
            ("cpuid", |a| looped(a, |a| a.cpuid())),
            ("hypercalls", |a| {
                looped(a, |a| {
                    a.mov(dword_ptr(BLOCK), number::CLOCK as i32)?;
                    hypercall(a, BLOCK)
                })
            }),
            ("memory", |a| {
                a.mov(rdi, DATA + 0x4000)?;
                looped(a, |a| {
                    a.mov(rdi, DATA + 0x4000)?;
                    a.mov(ecx, 0x10_0000)?;
                    a.rep().stosb()
                })
            }),
        ];
        for (name, code) in attacks {
            let crash = arena.crash(name, *code);
            let Cause::Timeout { at, .. } = crash.cause() else { panic!("{name}: {crash}") };
            assert!(at.address >= HYPERCALL_PAGE, "{name}: {crash}");
        }
        let symbols = Elf::with_code(&assemble(|a| looped(a, |a| a.pause())), &[]).symbol("spin_for_ever", CODE, 64);
        let Err(crash) = arena.run_elf(&symbols) else { panic!("the loop ended") };
        assert!(crash.to_string().contains("stopped at spin_for_ever+0x"), "{crash}");
    }
}

fn looped(a: &mut CodeAssembler, body: Code) -> Result<(), iced_x86::IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.nop()?;
    body(a)?;
    a.jmp(again)
}

#[test]
fn waiting_instructions_do_not_outlast_the_deadline() {
    for arena in Arena::on_each_backend() {
        let attacks: &[Code] = &[
            |a| {
                a.mov(edx, -1)?;
                a.mov(eax, -1)?;
                a.xor(ecx, ecx)?;
                looped(a, |a| a.tpause(ecx))
            },
            |a| {
                a.xor(ecx, ecx)?;
                looped(a, |a| a.mwaitx())
            },
        ];
        for code in attacks {
            let Err(crash) = arena.run(*code, &[]) else { panic!("the loop ended") };
            assert!(matches!(crash.cause(), Cause::Timeout { .. } | Cause::Exception { .. }), "{crash}");
        }
    }
}

/// What a guest can leave in its processor between taking a request and answering it.
const LEFTOVERS: &[(&str, Code)] = &[
    ("general registers", |a| {
        for register in [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] {
            a.mov(register, 0x5a5a_5a5a_5a5a_5a5a_u64)?;
        }
        a.mov(rsp, STACK_BASE + 0x800)
    }),
    ("flags", |a| set_flags(a, !TRAP_FLAG & !ALIGNMENT_CHECK)),
    ("the alignment flag", |a| set_flags(a, ALIGNMENT_CHECK)),
    ("segments", |a| {
        load_ds(a, 0)?;
        a.mov(es, ax)?;
        a.mov(fs, ax)?;
        a.mov(gs, ax)?;
        a.mov(eax, 0x23)?;
        a.mov(gs, ax)
    }),
    ("segment bases", |a| {
        a.mov(rax, SCRATCH)?;
        a.wrfsbase(rax)?;
        a.wrgsbase(rax)
    }),
    ("SSE and its control", |a| {
        a.mov(dword_ptr(SCRATCH), 0x1f80 | 3 << 13)?;
        a.ldmxcsr(dword_ptr(SCRATCH))?;
        a.mov(rax, 0x1234_5678_9abc_def0_u64)?;
        for register in [xmm0, xmm1, xmm7, xmm8, xmm15] {
            a.movq(register, rax)?;
        }
        Ok(())
    }),
    ("x87 and its control", |a| {
        a.mov(dword_ptr(SCRATCH), 0x027f)?;
        a.fldcw(word_ptr(SCRATCH))?;
        a.fldpi()?;
        a.fld1()?;
        a.fldln2()
    }),
    ("MMX", |a| {
        a.mov(rax, u64::MAX)?;
        a.movq(mm3, rax)
    }),
    ("every vector state at once", |a| {
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.mov(dword_ptr(SCRATCH + 512), eax)?;
        a.mov(dword_ptr(SCRATCH + 24), 0x1f80)?;
        a.mov(dword_ptr(SCRATCH + 160), 0x5555)?;
        a.mov(dword_ptr(SCRATCH + 576), 0x5555)?;
        a.mov(edx, 0)?;
        a.xrstor(ptr(SCRATCH))
    }),
    ("memory and the stack's depth", |a| {
        a.mov(rdi, DATA + 0x1000)?;
        a.mov(ecx, 0x8_0000)?;
        a.mov(al, 0x5a)?;
        a.rep().stosb()?;
        a.mov(rsp, STACK_BASE + 0x100)
    }),
    ("more pages than the log holds", |a| {
        a.mov(rdi, DATA + 0x2000)?;
        a.mov(ecx, (10 << 20) / 8)?;
        a.mov(rax, u64::MAX)?;
        a.rep().stosq()
    }),
];

#[test]
fn a_rewind_takes_back_whatever_a_guest_leaves_in_its_processor() {
    for arena in Arena::on_each_backend() {
        let narrow: Code = match Nature::Selectors.is_a_processes(arena.hypervisor()) {
            true => |a| far_return(a, 0x23),
            false => |a| far_return(a, 0x1b),
        };
        for (name, leave) in LEFTOVERS.iter().chain([&("a 32-bit code segment", narrow)]) {
            let Some(mut machine) = arena.answering(*leave) else { panic!("{name}: the guest did not start") };
            machine.audit().unwrap_or_else(|difference| panic!("{name}: {difference} differs at first"));
            for round in 0..3 {
                let answered = machine.invoke(&common::request("/", b"request"), common::in_seconds(5));
                let (used, response) = answered.unwrap_or_else(|crash| panic!("{name}, round {round}: {crash}"));
                assert_eq!(response.status, 201, "{name}, round {round}");
                machine = used.rewind().unwrap();
                machine.audit().unwrap_or_else(|difference| panic!("{name}, round {round}: {difference} differs"));
            }
            arena.assert_unharmed();
        }
    }
}

/// The answer may come from an `out` of the guest's own, or as a string: the machine that is rewound does not stand
/// behind that, but behind its template's call.
#[test]
fn a_rewind_does_not_complete_what_the_guest_left_by() {
    for arena in Arena::on_each_backend() {
        let ways: &[(&str, Code)] = &[
            ("an out of its own", |a| {
                prepare_answer(a)?;
                a.mov(eax, BLOCK as u32)?;
                a.out(PORT, eax)
            }),
            ("an out of its own, by dx", |a| {
                prepare_answer(a)?;
                a.mov(eax, BLOCK as u32)?;
                a.mov(edx, PORT)?;
                a.out(dx, eax)
            }),
            ("a string", |a| {
                prepare_answer(a)?;
                a.mov(dword_ptr(SCRATCH), BLOCK as i32)?;
                a.mov(rsi, SCRATCH)?;
                a.mov(edx, PORT)?;
                a.outsd()
            }),
            ("a string of many pieces", |a| {
                prepare_answer(a)?;
                a.mov(dword_ptr(SCRATCH), BLOCK as i32)?;
                a.mov(rsi, SCRATCH)?;
                a.mov(ecx, 3)?;
                a.mov(edx, PORT)?;
                a.rep().outsd()
            }),
            ("the hypercall page's out alone", |a| {
                prepare_answer(a)?;
                a.mov(eax, BLOCK as u32)?;
                a.mov(rcx, HYPERCALL_PAGE + 2)?;
                a.jmp(rcx)
            }),
        ];
        for (name, way) in ways {
            let Some(mut machine) = arena.answering(*way) else { panic!("{name}: the guest did not start") };
            for round in 0..3 {
                match machine.invoke(&common::request("/", b"request"), common::in_seconds(5)) {
                    Ok((used, response)) => {
                        assert_eq!(response.status, 201, "{name}, round {round}");
                        machine = used.rewind().unwrap();
                        machine
                            .audit()
                            .unwrap_or_else(|difference| panic!("{name}, round {round}: {difference} differs"));
                    }
                    // A KVM that hands over the pieces at once.
                    Err(crash) => {
                        assert!(matches!(crash.cause(), Cause::ForbiddenPort { .. }), "{name}: {crash}");
                        break;
                    }
                }
            }
            arena.assert_unharmed();
        }
    }
}

/// Fills [`BLOCK`] with the call that answers.
fn prepare_answer(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.mov(dword_ptr(BLOCK), number::NEXT_REQUEST as i32)?;
    a.mov(dword_ptr(BLOCK + 4), 0)?;
    a.mov(dword_ptr(BLOCK + 8), attack::RESPONSE as i32)?;
    a.mov(dword_ptr(BLOCK + 12), 0)
}

#[test]
fn symbols_that_lie_only_make_reports_odd() {
    for arena in Arena::on_each_backend() {
        let code = assemble(|a| a.ud2());
        let deep = format!("_R{}", "INtC1a1b".repeat(60));
        let names = ["", "\u{1b}[31m", "_ZN", "_ZN99999999999999999999E", &deep, &"x".repeat(5000)];
        for name in names {
            let mut elf = Elf::with_code(&code, &[]).symbol(name, CODE, u64::MAX);
            let Err(crash) = arena.run_elf(&elf) else { panic!("ud2 ends the machine") };
            let text = crash.to_string();
            assert!(text.len() < 2000 && !text.chars().any(char::is_control), "{text:?}");
            // The name has no end in the table, or is not in it.
            elf.names.pop();
            assert!(arena.run_elf(&elf).is_err());
            elf.symbols[0].name = u32::MAX;
            assert!(arena.run_elf(&elf).is_err());
        }
    }
}
