//! Bare KVM, as lean as it can be: a few instructions at CPL 3 that write to a port for ever. The floor that
//! machines are measured against. Never used by Kernlet itself.
//!
//! ```text
//! 0x0000  PML4    0x1000  page directory pointers    0x2000  page directory: one page of 2 MiB
//! 0x3000  code    0x4000  TSS with the I/O bitmap, then the GDT at 0x4800
//! 0x5000  64 pages, to some of which the guest may be told to write before each `out`
//! ```

use std::ptr;

use anyhow::{Context as _, bail, ensure};
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_REGS, kvm_enable_cap, kvm_regs, kvm_segment,
    kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};

const SIZE: usize = PAGES + 64 * 0x1000;
const PML4: usize = 0x0000;
const POINTERS: usize = 0x1000;
const DIRECTORY: usize = 0x2000;
const CODE: usize = 0x3000;
const TSS: usize = 0x4000;
const GDT: usize = 0x4800;
const PAGES: usize = 0x5000;

const PORT: u8 = 0x4c;

/// Present, writable, for CPL 3 (Intel SDM volume 3A, section 4.5).
const TABLE: u64 = 0x7;
/// The same, and a page of 2 MiB rather than a table.
const LARGE_PAGE: u64 = 0x87;

/// Where the I/O bitmap lies in the TSS, and the last byte of the TSS: 256 ports open, then the byte of ones.
const IO_BITMAP: u8 = 104;
const TSS_LIMIT: u8 = IO_BITMAP + 32;

/// Selectors: index in the GDT × 8, plus the privilege level asked for.
const USER_CODE: u16 = 0x0b;
const USER_DATA: u16 = 0x13;
const TASK: u16 = 0x18;

#[derive(Debug)]
#[repr(C, align(4096))]
struct Memory([u8; SIZE]);

/// KVM, and all that its machines have in common.
#[derive(Debug)]
pub(crate) struct BareKvm {
    kvm: Kvm,
    cpuid: CpuId,
    sregs: kvm_sregs,
    memory: Box<Memory>,
    syncs_registers: bool,
}

/// A machine that waits at its `out`.
#[derive(Debug)]
pub(crate) struct BareMachine<'k> {
    vcpu: VcpuFd,
    _vm: VmFd,
    common: &'k BareKvm,
}

impl BareKvm {
    pub(crate) fn open() -> anyhow::Result<Self> {
        Self::writing(0)
    }

    /// Whose guest writes to so many pages, at most 64, before it leaves.
    pub(crate) fn writing(pages: u8) -> anyhow::Result<Self> {
        ensure!(pages <= 64, "a bare guest has 64 pages");
        let kvm = Kvm::new().context("/dev/kvm cannot be opened; `kernlet doctor` says what to do")?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("KVM does not say what it supports")?;
        let synced = kvm.check_extension_int(Cap::SyncRegs);
        let syncs_registers = u32::try_from(synced).is_ok_and(|bits| bits & KVM_SYNC_X86_REGS != 0);
        let sregs = {
            let vm = lean_vm(&kvm)?;
            let vcpu = vm.create_vcpu(0)?;
            user_mode(vcpu.get_sregs()?)
        };
        Ok(Self { kvm, cpuid, sregs, memory: program(pages), syncs_registers })
    }

    /// A new machine, up to and with its first exit.
    pub(crate) fn create(&self) -> anyhow::Result<BareMachine<'_>> {
        let vm = lean_vm(&self.kvm)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: ptr::from_ref(&*self.memory).expose_provenance() as u64,
        };
        // SAFETY: the region is the whole of `memory`, which is not moved or freed while `common` is borrowed and
        // which nobody in this process looks at; the guest only sets the "accessed" bits of its page tables.
        unsafe { vm.set_user_memory_region(region) }?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid2(&self.cpuid)?;
        vcpu.set_sregs(&self.sregs)?;
        let mut machine = BareMachine { vcpu, _vm: vm, common: self };
        machine.set_and_run()?;
        Ok(machine)
    }
}

/// With an interrupt controller in the kernel, which nothing reaches: without one, KVM rewrites its own code with the first
/// processor that is made and the last that goes.
fn lean_vm(kvm: &Kvm) -> anyhow::Result<VmFd> {
    let vm = kvm.create_vm()?;
    vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() })?;
    Ok(vm)
}

impl BareMachine<'_> {
    /// Sets the registers, enters the guest, leaves at its `out`: with one system call where KVM takes registers
    /// from `kvm_run`, else with two.
    pub(crate) fn one_exit(&mut self) -> anyhow::Result<()> {
        if !self.common.syncs_registers {
            return self.set_and_run();
        }
        self.vcpu.sync_regs_mut().regs = start();
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.resume()
    }

    /// As [`Self::one_exit`], always with two system calls.
    pub(crate) fn set_and_run(&mut self) -> anyhow::Result<()> {
        self.vcpu.set_regs(&start())?;
        self.resume()
    }

    /// Enters the guest where it is, leaves at its next `out`.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        match self.vcpu.run()? {
            VcpuExit::IoOut(port, _) if port == u16::from(PORT) => Ok(()),
            exit => bail!("the bare guest left by {exit:?}"),
        }
    }
}

/// The guest's memory, filled.
fn program(pages: u8) -> Box<Memory> {
    let mut bytes = [0; SIZE];
    let mut store = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    store(PML4, POINTERS as u64 | TABLE);
    store(POINTERS, DIRECTORY as u64 | TABLE);
    store(DIRECTORY, LARGE_PAGE);
    // Present, DPL 3: 64-bit code, data; then the task (SDM volume 3A, figures 3-8 and 8-4).
    store(GDT + 8, 0x00af_fb00_0000_ffff);
    store(GDT + 16, 0x00cf_f300_0000_ffff);
    store(GDT + 24, 0x0000_8900_0000_0000 | u64::from(TSS_LIMIT) | (TSS as u64) << 16);
    bytes[TSS + 102..TSS + 104].copy_from_slice(&[IO_BITMAP, 0]);
    bytes[TSS + usize::from(TSS_LIMIT)] = 0xff;
    let mut code = Vec::new();
    if pages > 0 {
        // mov edi, PAGES; mov ecx, pages; write: mov [rdi], rcx; add edi, 4096; loop write
        code.extend([0xbf, 0x00, 0x50, 0x00, 0x00, 0xb9, pages, 0, 0, 0]);
        code.extend([0x48, 0x89, 0x0f, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xf5]);
    }
    // out PORT, eax; jmp to the start
    code.extend([0xe7, PORT, 0xeb, if pages > 0 { 0xe7 } else { 0xfc }]);
    bytes[CODE..CODE + code.len()].copy_from_slice(&code);
    Box::new(Memory(bytes))
}

/// Long mode at CPL 3.
fn user_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, dpl: 3, s: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: USER_DATA, type_: 3, db: 1, ..flat };
    sregs.cs = kvm_segment { selector: USER_CODE, type_: 11, l: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: TSS as u64,
        limit: u32::from(TSS_LIMIT),
        selector: TASK,
        // Available: the type that QEMU's TCG wants to see.
        type_: 9,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment::default();
    sregs.gdt.base = GDT as u64;
    sregs.gdt.limit = 0x27;
    // PE, MP, ET, NE, WP, AM, PG; PAE; SCE, LME, LMA, NXE.
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = 1 << 5;
    sregs.efer = 0xd01;
    sregs
}

fn start() -> kvm_regs {
    kvm_regs { rip: CODE as u64, rflags: 2, ..Default::default() }
}
