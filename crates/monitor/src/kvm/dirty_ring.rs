//! KVM's dirty ring: which pages the guest wrote. Used by the processor; costs no system call as long as the ring has
//! room. What the host writes on the guest's behalf is not in it: see `crate::dirty`.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use kernlet_abi::map::PAGE_SIZE;
use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING, KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn, kvm_enable_cap};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::crash::{Cause, kvm};

/// Entries of a ring: 64 KiB of memory that the kernel keeps for each machine. A guest that dirties more
/// pages than this between two resets leaves the processor once for it.
const ENTRIES: usize = 4096;

const RING_BYTES: usize = ENTRIES * size_of::<Entry>();

// Flags of an entry, Linux Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING.
const DIRTY: u32 = 1;
const COLLECTED: u32 = 2;

/// A page that was written, as `struct kvm_dirty_gfn` of `linux/kvm.h` has it.
#[derive(Debug)]
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    slot: u32,
    /// Page number in the slot.
    offset: AtomicU64,
}

const _: () = assert!(size_of::<Entry>() == size_of::<kvm_dirty_gfn>());

/// The dirty ring of a machine's only vCPU.
#[derive(Debug)]
pub(crate) struct DirtyRing {
    entries: NonNull<Entry>,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// Bytes of a ring.
    pub(crate) const SIZE: u64 = RING_BYTES as u64;

    /// Gives the VM's vCPUs, which must not exist yet, rings.
    pub(crate) fn enable(vm: &VmFd) -> Result<(), Cause> {
        let cap =
            kvm_enable_cap { cap: KVM_CAP_DIRTY_LOG_RING, args: [RING_BYTES as u64, 0, 0, 0], ..Default::default() };
        vm.enable_cap(&cap).map_err(kvm("track the pages that the guest writes"))
    }

    /// Maps the ring of a vCPU.
    pub(crate) fn map(vcpu: &VcpuFd) -> Result<Self, io::Error> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let mapped = unsafe { mmap(std::ptr::null_mut(), RING_BYTES, access, MapFlags::SHARED, vcpu, offset) }?;
        let entries = NonNull::new(mapped.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { entries, next: 0 })
    }

    /// Hands over the number of each page that was logged since the last time.
    pub(crate) fn collect(&mut self, mut page: impl FnMut(u64)) {
        loop {
            // SAFETY: the index is below the ring's length.
            let entry = unsafe { self.entries.add(self.next % ENTRIES) };
            // SAFETY: it lies in the mapping, whose fields the kernel and we change as atomics.
            let entry = unsafe { entry.as_ref() };
            if entry.flags.load(Ordering::Acquire) & DIRTY == 0 {
                return;
            }
            page(entry.offset.load(Ordering::Relaxed));
            entry.flags.store(COLLECTED, Ordering::Release);
            self.next = self.next.wrapping_add(1);
        }
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping made in `map`; nothing borrows from it.
        let _ = unsafe { munmap(self.entries.as_ptr().cast(), RING_BYTES) };
    }
}

/// `KVM_RESET_DIRTY_RINGS`, `_IO(KVMIO, 0xc7)` of `linux/kvm.h`, which kvm-ioctls does not have.
const RESET_DIRTY_RINGS: libc::Ioctl = 0xaec7;

/// Lets KVM log again what was collected so far.
pub(crate) fn reset(vm: &VmFd) -> Result<(), Cause> {
    // SAFETY: the call takes no argument; the descriptor is that of a VM.
    let reset = unsafe { libc::ioctl(vm.as_raw_fd(), RESET_DIRTY_RINGS) };
    if reset < 0 { Err(kvm("reset its log of written pages")(kvm_ioctls::Error::last())) } else { Ok(()) }
}
