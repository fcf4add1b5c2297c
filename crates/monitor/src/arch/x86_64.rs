//! x86-64: descriptor tables, fault stubs, the hypercall page and the registers of a guest at CPL 3 in
//! long mode. Used when a machine is made and when it faults. Nothing here runs guest code at ring 0
//! except the fault stubs: a push or two and one `out`.
//!
//! ```text
//! 0x1000  GDT                 supervisor, read + write (accessed bits are set already)
//! 0x2000  IDT, 32 gates       supervisor, read
//! 0x3000  fault stubs         supervisor, execute
//! 0x4000  TSS + I/O bitmap    supervisor, read + write
//! 0x5000  fault stack         supervisor, read + write
//! ```

use kernlet_abi::{
    hypercall::HYPERCALL_PORT,
    map::{BOOT_BASE, HYPERCALL_PAGE, PAGE_SIZE, PAGE_TABLE_BASE, STACK_TOP, SUPERVISOR_BASE},
};
use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    crash::{Cause, kvm},
    layout::{Area, Permission},
    memory::{GuestMemory, OutOfBounds},
};

const GDT: u64 = SUPERVISOR_BASE;
const IDT: u64 = 0x2000;
const STUBS: u64 = 0x3000;
const TSS: u64 = 0x4000;
const FAULT_STACK: u64 = 0x5000;
const FAULT_STACK_TOP: u64 = FAULT_STACK + PAGE_SIZE;

/// Port that the fault stubs write to, at ring 0; the guest's I/O bitmap does not have it.
pub(crate) const FAULT_PORT: u16 = 0x40;

/// Exceptions that the processor defines.
const VECTORS: u8 = 32;
const STUB_SIZE: u64 = 16;

// Selectors: index in the GDT × 8, plus the requested privilege level.
const KERNEL_CODE: u16 = 0x08;
const USER_DATA: u16 = 0x23;
const USER_CODE: u16 = 0x2b;
const TASK: u16 = 0x30;

// Flat descriptors, Intel SDM volume 3A, section 3.4.5: present, accessed, 4 GiB limit in pages.
const DESCRIPTOR_KERNEL_CODE: u64 = 0x00af_9b00_0000_ffff;
const DESCRIPTOR_KERNEL_DATA: u64 = 0x00cf_9300_0000_ffff;
const DESCRIPTOR_USER_CODE32: u64 = 0x00cf_fb00_0000_ffff;
const DESCRIPTOR_USER_DATA: u64 = 0x00cf_f300_0000_ffff;
const DESCRIPTOR_USER_CODE: u64 = 0x00af_fb00_0000_ffff;

/// 64-bit TSS, available; KVM's segment cache is what counts, QEMU's TCG looks at this type.
const TSS_AVAILABLE: u8 = 9;
/// Where the I/O bitmap begins in the TSS: right behind its 104 bytes.
const IO_BITMAP: u64 = 104;
/// Bytes of the bitmap, one bit a port; ports beyond are refused.
const IO_BITMAP_LEN: u64 = 32;
/// Highest byte of the TSS: the bitmap and the byte of ones that must follow it.
const TSS_LIMIT: u64 = IO_BITMAP + IO_BITMAP_LEN;

/// Supervisor areas, for the page tables.
pub(crate) fn supervisor_areas() -> [Area; 5] {
    let area = |start, write, execute| Area {
        pages: start..start + PAGE_SIZE,
        permission: Permission { write, execute },
    };
    [
        area(GDT, true, false),
        area(IDT, false, false),
        area(STUBS, false, true),
        area(TSS, true, false),
        area(FAULT_STACK, true, false),
    ]
}

/// Writes descriptor tables, fault stubs and hypercall page into a new machine's memory.
pub(crate) fn write_tables(memory: &GuestMemory) -> Result<(), OutOfBounds> {
    let task = 0x0000_8900_0000_0000 | TSS_LIMIT | (TSS << 16);
    let descriptors: [u64; 8] = [
        0,
        DESCRIPTOR_KERNEL_CODE,
        DESCRIPTOR_KERNEL_DATA,
        DESCRIPTOR_USER_CODE32,
        DESCRIPTOR_USER_DATA,
        DESCRIPTOR_USER_CODE,
        task,
        0,
    ];
    memory.store(GDT, &descriptors)?;

    for vector in 0..VECTORS {
        let stub = STUBS + u64::from(vector) * STUB_SIZE;
        memory.write(stub, &fault_stub(vector))?;
        let gate = IDT + u64::from(vector) * 16;
        let selector = u64::from(KERNEL_CODE) << 16;
        // A 64-bit interrupt gate (type 0xe), present, DPL 0: the guest cannot raise one itself.
        memory.store(gate, &((stub & 0xffff) | selector | 0x8e00 << 32 | (stub >> 16) << 48))?;
    }

    // Ring 0 stack pointer at 4, I/O bitmap offset at 102 (SDM volume 3A, figure 8-11).
    memory.store(TSS + 4, &FAULT_STACK_TOP)?;
    memory.store(TSS + 102, &IO_BITMAP.to_le_bytes().first_chunk::<2>().copied().unwrap_or_default())?;
    let mut bitmap = [0xff_u8; 33];
    for port in HYPERCALL_PORT..HYPERCALL_PORT + 4 {
        bitmap[usize::from(port / 8)] &= !(1 << (port % 8));
    }
    memory.write(TSS + IO_BITMAP, &bitmap)?;

    memory.write(HYPERCALL_PAGE, &HYPERCALL_CODE)
}

/// `mov eax, edi; out HYPERCALL_PORT, eax; ret`.
#[allow(clippy::cast_possible_truncation, reason = "the port is asserted to fit below")]
const HYPERCALL_CODE: [u8; 5] = [0x89, 0xf8, 0xe7, HYPERCALL_PORT as u8, 0xc3];
const _: () = assert!(HYPERCALL_PORT < 0x100);

/// Address of the `out` in [`HYPERCALL_CODE`], and its length.
const HYPERCALL_OUT: u64 = HYPERCALL_PAGE + 2;
const HYPERCALL_OUT_LEN: u64 = 2;

/// Pushes a zero where the processor pushes no error code, then the vector, and tells the monitor.
#[allow(clippy::cast_possible_truncation, reason = "the port fits a byte, by its type's use here")]
fn fault_stub(vector: u8) -> [u8; STUB_SIZE as usize] {
    let mut code = [0x90; STUB_SIZE as usize];
    let push_vector = [0x6a, vector, 0xe6, FAULT_PORT as u8, 0xeb, 0xfe];
    let has_error_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    if has_error_code {
        code[..6].copy_from_slice(&push_vector);
    } else {
        code[..2].copy_from_slice(&[0x6a, 0]);
        code[2..8].copy_from_slice(&push_vector);
    }
    code
}

/// What the processor and the stub pushed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct FaultFrame {
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

impl FaultFrame {
    /// Reads the frame of the fault that was just reported.
    pub(crate) fn read(memory: &GuestMemory) -> Result<Self, OutOfBounds> {
        memory.load(FAULT_STACK_TOP - size_of::<Self>() as u64)
    }

    /// Whether this is the hypercall page's own `out`, refused: QEMU's TCG and some nested KVMs do not
    /// look at the I/O bitmap and raise #GP instead of leaving to the monitor.
    pub(crate) fn is_refused_hypercall(&self) -> bool {
        self.vector == 13 && self.rip == HYPERCALL_OUT
    }

    /// Goes on behind the refused `out`, at CPL 3.
    pub(crate) fn resume_after_hypercall(&self, vcpu: &VcpuFd, mut regs: kvm_regs) -> Result<(), Cause> {
        let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        user_segments(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))?;
        regs.rip = self.rip + HYPERCALL_OUT_LEN;
        regs.rsp = self.rsp;
        regs.rflags = self.rflags;
        vcpu.set_regs(&regs).map_err(kvm("set the processor's registers"))
    }
}

/// Name of an exception.
pub(crate) fn exception_name(vector: u8) -> &'static str {
    match vector {
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

/// Page-fault error code bits (SDM volume 3A, section 4.7).
pub(crate) const PAGE_FAULT: u8 = 14;
pub(crate) const PAGE_FAULT_WRITE: u64 = 1 << 1;
pub(crate) const PAGE_FAULT_FETCH: u64 = 1 << 4;

/// Puts a new vCPU at the guest's first instruction, at CPL 3 in long mode.
pub(crate) fn set_up_vcpu(vcpu: &VcpuFd, cpuid: &CpuId, entry: u64) -> Result<(), Cause> {
    vcpu.set_cpuid2(cpuid).map_err(kvm("set the processor's features"))?;
    let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
    // PE, MP, ET, NE, WP, AM, PG; PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE; SCE, LME, LMA, NXE.
    sregs.cr0 = 0x8005_0033;
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16;
    sregs.cr3 = PAGE_TABLE_BASE;
    sregs.efer = 0xd01;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x3f;
    sregs.idt.base = IDT;
    sregs.idt.limit = u16::from(VECTORS) * 16 - 1;
    sregs.ldt = kvm_segment::default();
    user_segments(&mut sregs);
    let xcr0 = supported_xcr0(cpuid);
    if xcr0.is_some() {
        sregs.cr4 |= 1 << 18;
    }
    vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))?;
    if let Some(value) = xcr0 {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = value;
        vcpu.set_xcrs(&xcrs).map_err(kvm("enable the vector registers"))?;
    }
    let regs = kvm_regs {
        rip: entry,
        // As after a call: eight below a multiple of sixteen (System V ABI, section 3.2.2).
        rsp: STACK_TOP - 8,
        rdi: BOOT_BASE,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(kvm("set the processor's registers"))
}

fn user_segments(sregs: &mut kvm_sregs) {
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, dpl: 3, s: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: USER_DATA, type_: 3, db: 1, ..flat };
    sregs.cs = kvm_segment { selector: USER_CODE, type_: 11, l: 1, ..flat };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.fs = kvm_segment { base: sregs.fs.base, ..data };
    sregs.gs = kvm_segment { base: sregs.gs.base, ..data };
    sregs.tr = kvm_segment {
        base: TSS,
        limit: u32::try_from(TSS_LIMIT).unwrap_or(u32::MAX),
        selector: TASK,
        type_: TSS_AVAILABLE,
        present: 1,
        ..Default::default()
    };
}

/// XCR0 for x87, SSE, AVX and AVX-512 as far as KVM has them; `None` where it has no XSAVE.
fn supported_xcr0(cpuid: &CpuId) -> Option<u64> {
    const VECTOR_STATES: u64 = 0xe7;
    let entries = cpuid.as_slice();
    let xsave = entries.iter().any(|entry| entry.function == 1 && entry.ecx & 1 << 26 != 0);
    let states = entries.iter().find(|entry| entry.function == 0xd && entry.index == 0)?;
    let value = u64::from(states.eax) & VECTOR_STATES;
    (xsave && value & 3 == 3).then_some(value)
}

/// Whether the processor stands in the fault stubs at ring 0: a report that the guest cannot forge.
pub(crate) fn is_in_fault_stub(regs: &kvm_regs) -> bool {
    (STUBS..STUBS + u64::from(VECTORS) * STUB_SIZE).contains(&regs.rip)
}
