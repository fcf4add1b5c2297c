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

use std::arch::x86_64::__cpuid;

use kernlet_abi::{
    hypercall::HYPERCALL_PORT,
    map::{BOOT_BASE, HYPERCALL_PAGE, PAGE_SIZE, PAGE_TABLE_BASE, STACK_TOP, SUPERVISOR_BASE, VECTORS_PAGE},
};
use kvm_bindings::{CpuId, Msrs, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    crash::{Cause, CodeAddress, kvm},
    layout::{Area, LayoutError, Permission},
    memory::{GuestMemory, OutOfBounds},
    processor::Registers,
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

/// Null, the segments of both rings, and room for the task's descriptor.
pub(crate) const DESCRIPTORS: [u64; 8] = [
    0,
    DESCRIPTOR_KERNEL_CODE,
    DESCRIPTOR_KERNEL_DATA,
    DESCRIPTOR_USER_CODE32,
    DESCRIPTOR_USER_DATA,
    DESCRIPTOR_USER_CODE,
    0,
    0,
];

/// 64-bit TSS, available; KVM's segment cache is what counts, QEMU's TCG looks at this type.
pub(crate) const TSS_AVAILABLE: u8 = 9;
/// Where the I/O bitmap begins in the TSS: right behind its 104 bytes.
const IO_BITMAP: u64 = 104;
/// Bytes of the bitmap, one bit a port; ports beyond are refused.
const IO_BITMAP_LEN: u64 = 32;
/// Highest byte of the TSS: the bitmap and the byte of ones that must follow it.
const TSS_LIMIT: u64 = IO_BITMAP + IO_BITMAP_LEN;

/// XSAVE and its kin are enabled.
const CR4_OSXSAVE: u64 = 1 << 18;

/// Supervisor areas, for the page tables.
pub(crate) fn supervisor_areas() -> [Area; 5] {
    let area =
        |start, write, execute| Area { pages: start..start + PAGE_SIZE, permission: Permission { write, execute } };
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
    memory.store(GDT, &DESCRIPTORS)?;
    memory.store(GDT + u64::from(TASK), &task)?;

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

    memory.write(HYPERCALL_PAGE, &HYPERCALL_CODE)?;
    memory.write(RESUME, &RESUME_CODE)?;
    memory.store(RESUME_TO_OUT, &HYPERCALL_OUT)
}

/// `mov eax, edi; out HYPERCALL_PORT, eax; ret`.
#[allow(clippy::cast_possible_truncation, reason = "the port is asserted to fit below")]
const HYPERCALL_CODE: [u8; 5] = [0x89, 0xf8, 0xe7, HYPERCALL_PORT as u8, 0xc3];
const _: () = assert!(HYPERCALL_PORT < 0x100);

/// Address of the `out` in [`HYPERCALL_CODE`], and its length.
const HYPERCALL_OUT: u64 = HYPERCALL_PAGE + 2;
const HYPERCALL_OUT_LEN: u64 = 2;

/// Where a clean machine goes on. It stands in a hypercall, as a called function, so this is that function's end: it
/// loads the vector registers of the template and returns.
const RESUME: u64 = HYPERCALL_PAGE + 64;

/// `mov eax, -1; mov edx, -1; xrstor64 [VECTORS_PAGE]; ret`: every state component that is enabled is loaded, or made
/// initial where the template has it so (Intel SDM volume 1, section 13.8).
#[rustfmt::skip]
const RESUME_CODE: [u8; 20] = {
    const AREA: [u8; 8] = VECTORS_PAGE.to_le_bytes();
    [
        0xb8, 0xff, 0xff, 0xff, 0xff,
        0xba, 0xff, 0xff, 0xff, 0xff,
        0x48, 0x0f, 0xae, 0x2c, 0x25, AREA[0], AREA[1], AREA[2], AREA[3],
        0xc3,
    ]
};

/// A word of the hypercall page with the address of its `out`: to one who takes it for the stack, a return address.
const RESUME_TO_OUT: u64 = HYPERCALL_PAGE + 128;

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

    /// The guest's registers: those that the processor put aside, the others as they are.
    pub(crate) fn registers(&self, regs: &kvm_regs) -> Registers {
        Registers { rip: self.rip, rsp: self.rsp, rflags: self.rflags, ..registers(regs) }
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

/// Puts a new vCPU at the guest's first instruction, at CPL 3 in long mode.
pub(crate) fn set_up_vcpu(vcpu: &VcpuFd, cpuid: &CpuId, entry: u64) -> Result<(), Cause> {
    let mut sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
    system_registers(&mut sregs, cpuid);
    vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))?;
    set_xcr0(vcpu, cpuid)?;
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

/// Long mode at CPL 3 with our tables: everything that decides what a guest is.
fn system_registers(sregs: &mut kvm_sregs, cpuid: &CpuId) {
    // PE, MP, ET, NE, WP, AM, PG; PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE; LME, LMA, NXE. Not SCE: `syscall`
    // would go to ring 0 with a stack pointer of the guest's choice, where the next fault's frame would be written.
    sregs.cr0 = 0x8005_0033;
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16;
    sregs.cr3 = PAGE_TABLE_BASE;
    sregs.efer = 0xd00;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x3f;
    sregs.idt.base = IDT;
    sregs.idt.limit = u16::from(VECTORS) * 16 - 1;
    sregs.ldt = kvm_segment::default();
    user_segments(sregs);
    if supported_xcr0(cpuid).is_some() {
        sregs.cr4 |= CR4_OSXSAVE;
    }
}

fn set_xcr0(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), Cause> {
    let Some(value) = supported_xcr0(cpuid) else {
        return Ok(());
    };
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = value;
    vcpu.set_xcrs(&xcrs).map_err(kvm("enable the vector registers"))
}

pub(crate) fn user_segments(sregs: &mut kvm_sregs) {
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

/// KVM's general registers in no backend's terms.
pub(crate) fn registers(regs: &kvm_regs) -> Registers {
    Registers {
        rip: regs.rip,
        rsp: regs.rsp,
        rflags: regs.rflags,
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rbp: regs.rbp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
    }
}

/// What a vCPU at CPL 3 can change about itself.
///
/// A template's state stands at [`RESUME`] where the guest's processor can load its vector registers itself: that
/// costs nothing to speak of, while KVM's call takes as long as copying fifty pages. Nothing that a guest chose runs
/// before it, and what it loads lies in memory that no guest can write. Elsewhere it stands behind the hypercall's
/// `out`, and KVM sets them.
#[derive(Debug)]
pub(crate) struct CpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    debug: kvm_debugregs,
    xcrs: kvm_xcrs,
    msrs: Msrs,
}

/// MSRs that decide how a guest runs. None can be written at CPL 3, so none is restored; they are kept for
/// [`CpuState::first_difference`].
const MSRS: [u32; 10] = [
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
    0x277,       // IA32_PAT
    0xc000_0080, // IA32_EFER
    0xc000_0081, // IA32_STAR
    0xc000_0082, // IA32_LSTAR
    0xc000_0083, // IA32_CSTAR
    0xc000_0084, // IA32_FMASK
    0xc000_0102, // IA32_KERNEL_GS_BASE
];

fn read_msrs(vcpu: &VcpuFd) -> Result<Msrs, Cause> {
    let entries = MSRS.map(|index| kvm_msr_entry { index, ..Default::default() });
    let action = "read model-specific registers";
    let mut msrs = Msrs::from_entries(&entries).map_err(|_| kvm(action)(kvm_ioctls::Error::new(libc::ENOMEM)))?;
    vcpu.get_msrs(&mut msrs).map_err(kvm(action))?;
    Ok(msrs)
}

impl CpuState {
    /// What of a vCPU, between two runs, differs from this state, other than vector registers.
    pub(crate) fn first_difference(&self, vcpu: &mut VcpuFd) -> Result<Option<&'static str>, Cause> {
        let now = Self::capture(vcpu)?;
        // The task register's busy bit, which the processor sets, is not the guest's.
        let sregs = |state: &Self| kvm_sregs { tr: kvm_segment { type_: 0, ..state.sregs.tr }, ..state.sregs };
        Ok([
            ("a general register", self.regs == now.regs),
            ("a system register", sregs(self) == sregs(&now)),
            ("a debug register", self.debug == now.debug),
            ("an extended control register", self.xcrs == now.xcrs),
            ("a model-specific register", self.msrs.as_slice() == now.msrs.as_slice()),
        ]
        .into_iter()
        .find_map(|(what, equal)| (!equal).then_some(what)))
    }

    /// Whether a vCPU's vector registers, as they are now, differ from this state's.
    pub(crate) fn vectors_differ(&self, vcpu: &VcpuFd) -> Result<bool, Cause> {
        let now = vcpu.get_xsave().map_err(kvm("read the vector registers"))?;
        Ok(contents(&self.xsave) != contents(&now))
    }

    /// Lets a vCPU in this state load its vector registers and then leave by a hypercall, where they can be read; or
    /// says that KVM has set them. [`Self::restore_general`] puts it back.
    pub(crate) fn resume_to_out(&self, vcpu: &mut VcpuFd) -> bool {
        if !self.resumes_by_loading() {
            return false;
        }
        vcpu.sync_regs_mut().regs = kvm_regs { rsp: RESUME_TO_OUT, ..self.regs };
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        true
    }

    /// Moves this state to where the guest loads its vector registers, which this puts into its memory, if it may be
    /// able to; gives the general registers of before.
    pub(crate) fn try_loading(&mut self, memory: &GuestMemory) -> Result<Option<kvm_regs>, Cause> {
        if !can_be_loaded(&self.xsave) || !loading_leaves_nothing() {
            return Ok(None);
        }
        self.place_vectors(memory)?;
        // Both are a called function's to change.
        let loading = kvm_regs { rip: RESUME, rax: 0, rdx: 0, ..self.regs };
        Ok(Some(std::mem::replace(&mut self.regs, loading)))
    }

    /// Takes back [`Self::try_loading`], and puts the vCPU into this state.
    pub(crate) fn give_up_loading(&mut self, vcpu: &mut VcpuFd, before: kvm_regs) -> Result<(), Cause> {
        self.regs = before;
        self.restore(vcpu)
    }

    fn place_vectors(&self, memory: &GuestMemory) -> Result<(), Cause> {
        let written = memory.write(VECTORS_PAGE, area_to_load(&self.xsave).as_bytes());
        written.map_err(|_| LayoutError::MemorySize { memory: memory.size() }.into())
    }

    /// Puts into a template's memory, made anew, what of this state a guest is to load from there.
    pub(crate) fn place(&self, memory: &GuestMemory) -> Result<(), Cause> {
        if self.resumes_by_loading() { self.place_vectors(memory) } else { Ok(()) }
    }

    fn resumes_by_loading(&self) -> bool {
        self.regs.rip == RESUME
    }

    /// The state of a guest that has just left by a hypercall.
    pub(crate) fn capture(vcpu: &mut VcpuFd) -> Result<Self, Cause> {
        finish_exit(vcpu)?;
        let regs = vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        let sregs = vcpu.get_sregs().map_err(kvm("read the processor's state"))?;
        let xsave = vcpu.get_xsave().map_err(kvm("read the vector registers"))?;
        let debug = vcpu.get_debug_regs().map_err(kvm("read the debug registers"))?;
        let xcrs = vcpu.get_xcrs().map_err(kvm("read the extended control registers"))?;
        let msrs = read_msrs(vcpu)?;
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        Ok(Self { regs, sregs, xsave, debug, xcrs, msrs })
    }

    /// Puts a new vCPU into this state.
    pub(crate) fn set_up(&self, vcpu: &mut VcpuFd, cpuid: &CpuId) -> Result<(), Cause> {
        let mut sregs = self.sregs;
        sregs.tr.type_ = TSS_AVAILABLE;
        vcpu.set_sregs(&sregs).map_err(kvm("set the processor's state"))?;
        set_xcr0(vcpu, cpuid)?;
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        self.restore_general(vcpu);
        self.restore_vectors(vcpu)
    }

    /// Puts the vCPU that this state was taken of, or set up with, back into it. Of the system registers a guest
    /// at CPL 3 can change segments only; KVM gave their values with the last exit.
    pub(crate) fn restore(&self, vcpu: &mut VcpuFd) -> Result<(), Cause> {
        let synced = vcpu.sync_regs_mut();
        if synced.sregs != self.sregs {
            synced.sregs = self.sregs;
            synced.sregs.tr.type_ = TSS_AVAILABLE;
            vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        self.restore_general(vcpu);
        self.restore_vectors(vcpu)
    }

    /// By the next KVM_RUN, without a call of its own.
    pub(crate) fn restore_general(&self, vcpu: &mut VcpuFd) {
        vcpu.sync_regs_mut().regs = self.regs;
        vcpu.set_sync_dirty_reg(SyncReg::Register);
    }

    /// Nothing to do where the guest loads them when it is resumed.
    fn restore_vectors(&self, vcpu: &VcpuFd) -> Result<(), Cause> {
        if self.resumes_by_loading() {
            return Ok(());
        }
        // SAFETY: KVM reads 4096 bytes, the size of `kvm_xsave`, unless a larger state was enabled by
        // ARCH_REQ_XCOMP_GUEST_PERM, which nothing here does.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(kvm("restore the vector registers"))
    }
}

// Of an XSAVE area: which state components it holds, and where its header ends (SDM volume 1, section 13.4).
const XSTATE_BV: usize = 512 / 4;
const XCOMP_BV: usize = 520 / 4;
const HEADER_END: usize = 576 / 4;

/// The vector registers' contents. Which of them are in use is left out: the processor may say of one that holds its
/// initial value that it is or is not, and KVM shows its value in either case.
pub(crate) fn contents(xsave: &kvm_xsave) -> [u32; 1024] {
    let mut region = xsave.region;
    region[XSTATE_BV..XCOMP_BV].fill(0);
    region
}

/// Whether `xrstor` finds everything that is in use within a page: x87, SSE, AVX, MPX, AVX-512 and protection keys
/// lie there on every processor, AMX does not.
fn can_be_loaded(xsave: &kvm_xsave) -> bool {
    xsave.region[XSTATE_BV] & !0x2ff == 0 && xsave.region[XSTATE_BV + 1] == 0
}

/// As `xrstor` takes it: the rest of the header is zero, which says that the format is the standard one.
fn area_to_load(xsave: &kvm_xsave) -> [u32; 1024] {
    let mut region = xsave.region;
    region[XCOMP_BV..HEADER_END].fill(0);
    region
}

/// Whether loading the vector registers leaves nothing of what was there. Before XSaveErPtr (CPUID 8000_0008h, EBX
/// bit 2), AMD's processors leave the addresses and the opcode of the last x87 instruction as they are unless an
/// exception is pending (Linux: `X86_BUG_FXSAVE_LEAK`); KVM's own call takes care of that.
fn loading_leaves_nothing() -> bool {
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
    let keeps = matches!(name.as_slice(), b"AuthenticAMD" | b"HygonGenuine");
    !keeps || (__cpuid(0x8000_0000).eax >= 0x8000_0008 && __cpuid(0x8000_0008).ebx & 1 << 2 != 0)
}

/// Bits of RFLAGS that code at CPL 3 can have set (Intel SDM volume 1, section 3.4.3): not IOPL, which would open every
/// port, nor virtual-8086 mode. IF is set where KVM shows it so.
const USER_FLAGS: u64 = 0x0025_4fd5;

/// A [`CpuState`] in a file: KVM's structures one after the other, as they are.
impl CpuState {
    /// Bytes that [`Self::encode`] gives.
    pub(crate) const ENCODED_LEN: usize = size_of::<kvm_regs>()
        + size_of::<kvm_sregs>()
        + size_of::<kvm_xsave>()
        + size_of::<kvm_debugregs>()
        + size_of::<kvm_xcrs>()
        + MSRS.len() * size_of::<kvm_msr_entry>();

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { regs, sregs, xsave, debug, xcrs, msrs } = self;
        let parts = [regs.as_bytes(), sregs.as_bytes(), xsave.as_bytes(), debug.as_bytes(), xcrs.as_bytes()];
        parts.into_iter().chain([msrs.as_slice().as_bytes()]).flatten().copied().collect()
    }

    /// The state of a guest that has not run, as far as its rights go.
    #[cfg(any(test, feature = "fuzzing"))]
    #[allow(clippy::unwrap_used, reason = "tests")]
    pub(crate) fn first(cpuid: &CpuId) -> Self {
        let mut sregs = kvm_sregs::default();
        system_registers(&mut sregs, cpuid);
        let msrs = MSRS.map(|index| kvm_msr_entry { index, ..Default::default() });
        Self {
            regs: kvm_regs { rflags: 2, ..Default::default() },
            sregs,
            xsave: kvm_xsave::default(),
            debug: kvm_debugregs::default(),
            xcrs: kvm_xcrs::default(),
            msrs: Msrs::from_entries(&msrs).unwrap(),
        }
    }

    /// Reads what a stranger may have written. What decides over the guest's rights has to be as the monitor sets it;
    /// the rest is the guest's own to change anyway, or else KVM refuses it when a machine is made.
    pub(crate) fn decode(mut bytes: &[u8], cpuid: &CpuId) -> Result<Self, &'static str> {
        let (regs, sregs): (kvm_regs, kvm_sregs) = (take(&mut bytes)?, take(&mut bytes)?);
        let (xsave, debug, xcrs) = (take(&mut bytes)?, take(&mut bytes)?, take(&mut bytes)?);
        let entries: [kvm_msr_entry; MSRS.len()] = take(&mut bytes)?;
        if !bytes.is_empty() {
            return Err("its registers are longer than they can be");
        }
        check_rights(&regs, &sregs, |right| system_registers(right, cpuid))?;
        if entries.iter().map(|entry| entry.index).ne(MSRS) {
            return Err("its model-specific registers are not those that are kept");
        }
        let msrs = Msrs::from_entries(&entries).map_err(|_| "there is no memory for its registers")?;
        let state = Self { regs, sregs, xsave, debug, xcrs, msrs };
        if state.resumes_by_loading() && !(can_be_loaded(&state.xsave) && loading_leaves_nothing()) {
            return Err("its vector registers cannot be loaded here");
        }
        Ok(state)
    }
}

/// Whether registers that a stranger may have written have no other rights than those that the monitor sets.
pub(crate) fn check_rights(
    regs: &kvm_regs,
    sregs: &kvm_sregs,
    set: impl FnOnce(&mut kvm_sregs),
) -> Result<(), &'static str> {
    let mut right = *sregs;
    set(&mut right);
    (right.ds, right.es, right.fs, right.gs) = (sregs.ds, sregs.es, sregs.fs, sregs.gs);
    // What a processor makes of these two: busy, and unusable.
    (right.tr.type_, right.ldt) = (sregs.tr.type_, sregs.ldt);
    let usable = |segment: &kvm_segment| segment.present != 0 && segment.unusable == 0;
    let is_users = |segment: &kvm_segment| !usable(segment) || segment.dpl == 3;
    if right != *sregs || sregs.interrupt_bitmap != [0; 4] || usable(&sregs.ldt) {
        return Err("its system registers are not those of a guest");
    }
    if ![sregs.ds, sregs.es, sregs.fs, sregs.gs].iter().all(is_users) {
        return Err("its segments are not those of a guest");
    }
    if regs.rflags & !USER_FLAGS == 2 { Ok(()) } else { Err("its flags are not those of a guest") }
}

/// The next of several values that lie one behind the other.
pub(crate) fn take<T: FromBytes>(bytes: &mut &[u8]) -> Result<T, &'static str> {
    let (value, rest) = T::read_from_prefix(bytes).map_err(|_| "its registers are cut short")?;
    *bytes = rest;
    Ok(value)
}

/// Names a processor as far as a guest that has looked at it depends on it: KVM's features without what differs from
/// one core to the next, and the kinds of KVM there are.
pub(crate) fn describe_processor(cpuid: &CpuId) -> Vec<u8> {
    let mut leaves: Vec<[u32; 6]> = cpuid
        .as_slice()
        .iter()
        .map(|leaf| {
            let (mut eax, mut ebx, mut ecx, mut edx) = (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx);
            match leaf.function {
                // The initial APIC id; OSXSAVE (SDM volume 2A, CPUID).
                1 => (ebx, ecx) = (ebx & 0x00ff_ffff, ecx & !(1 << 27)),
                // The x2APIC id.
                0xb | 0x1f => edx = 0,
                // Sizes for the XCR0 of the moment.
                0xd => ebx = 0,
                // AMD's extended APIC id, compute unit and node.
                0x8000_001e => (eax, ebx, ecx) = (0, 0, 0),
                _ => {}
            }
            [leaf.function, leaf.index, eax, ebx, ecx, edx]
        })
        .collect();
    leaves.sort_unstable();
    let kinds = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let kinds = kinds.into_iter().filter(|kind| std::path::Path::new("/sys/module").join(kind).exists());
    leaves.as_bytes().iter().copied().chain(kinds.flat_map(str::bytes)).collect()
}

/// Lets KVM complete the port write of the last exit, so that the registers stand behind it.
pub(crate) fn finish_exit(vcpu: &mut VcpuFd) -> Result<(), Cause> {
    vcpu.set_kvm_immediate_exit(1);
    let ended = match vcpu.run() {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        Err(error) => Err(kvm("complete a port write")(error)),
        Ok(exit) => Err(Cause::Stuck { at: CodeAddress { address: 0, symbol: None }, detail: format!("{exit:?}") }),
    };
    vcpu.set_kvm_immediate_exit(0);
    ended
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn registers_that_no_guest_can_have_are_refused() {
        let cpuid = CpuId::new(0).unwrap();
        let decode = |change: fn(&mut CpuState)| {
            let mut state = CpuState::first(&cpuid);
            change(&mut state);
            CpuState::decode(&state.encode(), &cpuid).map(|decoded| assert_eq!(decoded.encode(), state.encode()))
        };
        let system = Err("its system registers are not those of a guest");
        let forbidden: [fn(&mut CpuState); 13] = [
            |state| state.sregs.cs.dpl = 0,
            |state| state.sregs.ss.dpl = 0,
            |state| state.sregs.cs.selector = KERNEL_CODE,
            |state| state.sregs.cr0 ^= 1 << 16,
            |state| state.sregs.cr3 += PAGE_SIZE,
            |state| state.sregs.cr4 |= 1 << 12,
            |state| state.sregs.efer |= 1,
            |state| state.sregs.gdt.base = STACK_TOP,
            |state| state.sregs.idt.limit = 0,
            |state| state.sregs.tr.base = STACK_TOP,
            |state| state.sregs.tr.limit = 0x2000,
            |state| state.sregs.ldt.present = 1,
            |state| state.sregs.interrupt_bitmap[0] = 1,
        ];
        for change in forbidden {
            assert_eq!(decode(change), system);
        }
        assert!(decode(|state| state.sregs.ds.dpl = 0).is_err());
        assert!(decode(|state| state.regs.rflags |= 3 << 12).is_err(), "every port");
        assert!(decode(|state| state.regs.rflags |= 1 << 17).is_err(), "virtual-8086 mode");
        assert!(decode(|state| state.msrs.as_mut_slice()[0].index = 0x1b).is_err());
        let allowed: [fn(&mut CpuState); 5] = [
            |state| state.regs.rip = u64::MAX,
            |state| state.sregs.fs.base = 0x1234,
            |state| state.sregs.gs = kvm_segment { unusable: 1, ..Default::default() },
            |state| state.regs.rflags |= 1 << 9 | 1 << 10,
            |state| state.xsave.region.fill(u32::MAX),
        ];
        for change in allowed {
            assert_eq!(decode(change), Ok(()));
        }
        let bytes = CpuState::first(&cpuid).encode();
        assert_eq!(bytes.len(), CpuState::ENCODED_LEN);
        assert!(CpuState::decode(&bytes[1..], &cpuid).is_err());
        assert!(CpuState::decode(&[&bytes[..], &[0]].concat(), &cpuid).is_err());
    }
}
