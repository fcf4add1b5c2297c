//! Whether a guest at ring 0 may use vector instructions on this host. Hyperlight's guests run there and do; KVM that is
//! nested by page-table virtualization emulates ring 0, and these instructions not. Asked by the suite `peers`, once.

use std::ptr;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

const PORT: u8 = 0x4c;

#[derive(Debug)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Tries it in a machine that is thrown away; the error says what came instead.
pub(crate) fn vectors_work() -> anyhow::Result<Result<(), String>> {
    let mut page = Box::new(Page([0xf4; 4096]));
    // xorps xmm0, xmm0; out PORT, eax
    page.0[..5].copy_from_slice(&[0x0f, 0x57, 0xc0, 0xe7, PORT]);
    let vm = Kvm::new()?.create_vm()?;
    let region = kvm_userspace_memory_region {
        memory_size: 4096,
        userspace_addr: ptr::from_ref(&*page).expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the region is the whole of `page`, which outlives the machine and which nobody looks at.
    unsafe { vm.set_user_memory_region(region) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    // Protected mode without paging, flat, at privilege level 0; vectors are enabled.
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, db: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: 8, type_: 11, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr0 = 0x33;
    sregs.cr4 = 0x600;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rflags: 2, ..Default::default() })?;
    let exit = match vcpu.run() {
        Ok(VcpuExit::IoOut(port, _)) if port == u16::from(PORT) => Ok(()),
        Ok(exit) => Err(format!("{exit:?}")),
        Err(error) => Err(error.to_string()),
    };
    drop(vm);
    drop(page);
    Ok(exit)
}
