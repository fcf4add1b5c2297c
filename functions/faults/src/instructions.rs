//! Instructions that a guest may not carry out, and accesses that its memory map does not allow.
//! Called for `/instruction/NAME`.

use core::arch::asm;

use kernlet_abi::{
    boot::BootPage,
    map::{BOOT_BASE, HYPERCALL_PAGE, PAGE_TABLE_BASE, STACK_BASE, SUPERVISOR_BASE},
};
use kernlet_guest::Response;

/// Far above any machine's memory, and a canonical address.
const FAR: u64 = 0x7fff_0000_0000;

/// No address at all: bits 47 to 63 differ.
const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;

/// The port by which the monitor's own fault stubs report; not a guest's to use.
const FAULT_PORT: u16 = 0x40;

/// `mov eax, 1; ret`, as data.
static CODE_AS_DATA: [u8; 6] = [0xb8, 1, 0, 0, 0, 0xc3];

pub(crate) fn run(name: &str) -> Response<'static> {
    match name {
        "read-null" => read(0),
        "read-far" => read(FAR),
        "read-not-canonical" => read(NOT_CANONICAL),
        "read-descriptor-tables" => read(SUPERVISOR_BASE),
        "read-page-tables" => read(PAGE_TABLE_BASE),
        "write-null" => write(8),
        "write-far" => write(FAR),
        "write-page-tables" => write(PAGE_TABLE_BASE),
        "write-boot-page" => write(BOOT_BASE),
        "write-hypercall-page" => write(HYPERCALL_PAGE),
        "write-stack-guard" => write(STACK_BASE - 8),
        "write-code" => write(run as *const () as u64),
        "write-request" => write(request_window()),
        "execute-null" => execute(0),
        "execute-data" => execute(CODE_AS_DATA.as_ptr() as u64),
        "execute-stack" => execute((&raw const name) as u64),
        "execute-far" => execute(FAR),
        // SAFETY: none of these returns: each faults, and the monitor ends the machine.
        _ => unsafe {
            match name {
                "undefined" => asm!("ud2"),
                "divide" => asm!("div {zero:e}", zero = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _),
                "breakpoint" => asm!("int3"),
                "interrupt" => asm!("int 0x80"),
                "halt" => asm!("hlt"),
                "disable-interrupts" => asm!("cli"),
                "read-control-register" => asm!("mov {0}, cr3", out(reg) _),
                "write-control-register" => asm!("mov cr3, {0}", in(reg) 0_u64),
                "write-model-register" => asm!("wrmsr", in("ecx") 0xc000_0082_u32, in("eax") 0, in("edx") 0),
                "load-descriptor-table" => asm!("lidt [{0}]", in(reg) &CODE_AS_DATA),
                "syscall" => asm!("syscall", out("rcx") _, out("r11") _),
                "sysenter" => asm!("sysenter"),
                "write-port" => asm!("out 0x80, al", in("al") 0_u8),
                "read-port" => asm!("in al, 0x60", out("al") _),
                "write-fault-port" => asm!("out dx, eax", in("dx") FAULT_PORT, in("eax") 0),
                "misaligned-vector" => {
                    asm!("movaps xmm0, [{0}]", in(reg) CODE_AS_DATA.as_ptr() as u64 | 1, out("xmm0") _)
                }
                "trap-flag" => asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop"),
                "stack-nowhere" => asm!("mov rsp, {0}", "push rax", in(reg) FAR, options(noreturn)),
                _ => return Response::new(404).body("no such instruction"),
            }
        },
    }
    Response::new(200).body("it did nothing")
}

/// Spins until the machine is stopped. Never inlined, so that a report can name it.
#[inline(never)]
pub(crate) fn loop_for_ever() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

fn request_window() -> u64 {
    let page: *const BootPage = core::ptr::with_exposed_provenance(BOOT_BASE as usize);
    // SAFETY: the monitor maps the boot page there, readable and constant.
    unsafe { (*page).request_window.offset }
}

fn read(address: u64) {
    // SAFETY: what it reads is not used; an address that may not be read ends the machine, which is the point.
    unsafe { asm!("mov {value}, [{address}]", address = in(reg) address, value = out(reg) _) };
}

fn write(address: u64) {
    // SAFETY: only addresses that may not be written come here, and the attempt ends the machine.
    unsafe { asm!("mov qword ptr [{address}], 0", address = in(reg) address) };
}

fn execute(address: u64) {
    // SAFETY: only addresses that may not be executed come here, and the attempt ends the machine.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) };
}
