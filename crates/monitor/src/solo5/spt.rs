//! Solo5's spt tender: the unikernel becomes this very process, which the kernel lets do no more than its manifest says. Used
//! by the command line, on hosts with and without KVM. It never comes back: the guest ends the process.
//!
//! Between the filter and the guest's first instruction nothing of ours makes a system call.

use std::{
    arch::asm,
    collections::BTreeMap,
    convert::Infallible,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    event::epoll,
    mm::{MapFlags, MprotectFlags, ProtFlags},
    time::{TimerfdClockId, TimerfdFlags, timerfd_create},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use zerocopy::{Immutable, IntoBytes};

use super::{
    COMMAND_LINE_MAX, PAGE_SIZE,
    device::{AttachError, Attached, Devices},
    image::{Image, ImageError, Loaded},
};

/// The guest's first address.
const LOW: u64 = 0x1_0000;
const BOOT_INFO: u64 = LOW + 0x1000;

/// What the timer is called where a guest waits for devices by their numbers.
const TIMER: u64 = !1 & 0xffff_ffff;

/// `struct spt_boot_info`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct BootInfo {
    memory_size: u64,
    kernel_end: u64,
    command_line: u64,
    manifest: u64,
    epoll: i32,
    timer: i32,
}

/// Why a guest cannot take over the process.
#[derive(Debug, thiserror::Error)]
pub enum SptError {
    /// The file does not fit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The devices are not right.
    #[error(transparent)]
    Devices(#[from] AttachError),
    /// The command line is too long.
    #[error("Guest command line too long (max={COMMAND_LINE_MAX} characters)")]
    CommandLine,
    /// A device is nothing that the kernel knows.
    #[error("a device is not a file of the host's")]
    NoDescriptor,
    /// The host did not do its part.
    #[error("{action}")]
    Host {
        /// What failed.
        action: &'static str,
        /// How.
        source: io::Error,
    },
    /// The filter cannot be made.
    #[error("the filter of system calls cannot be made")]
    Filter(#[from] seccompiler::BackendError),
    /// The filter cannot be installed.
    #[error("the filter of system calls cannot be installed")]
    Install(#[from] seccompiler::Error),
}

fn host(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> SptError {
    move |error| SptError::Host { action, source: error.into() }
}

/// Lets a unikernel take over this process, which must have no second thread. With `executable_heap` what no segment claims can
/// be executed as well.
///
/// # Errors
/// It does not fit, or the host does not allow it. Some of the guest's memory may be mapped then.
pub fn run(
    image: &Image,
    devices: Devices,
    command_line: &[u8],
    memory: u64,
    executable_heap: bool,
) -> Result<Infallible, SptError> {
    if command_line.len() > COMMAND_LINE_MAX {
        return Err(SptError::CommandLine);
    }
    let loaded = image.load(memory)?;
    let mut devices = devices.complete()?;
    let (waits, timer) = waiting(&devices)?;
    let filter = filter(&mut devices, &waits, &timer)?;
    map(memory, executable_heap)?;
    let manifest = devices.manifest.encode();
    let manifest_at = BOOT_INFO + size_of::<BootInfo>() as u64;
    let info = BootInfo {
        memory_size: memory,
        kernel_end: loaded.end,
        command_line: manifest_at + manifest.len() as u64,
        manifest: manifest_at,
        epoll: waits.as_raw_fd(),
        timer: timer.as_raw_fd(),
    };
    for (at, bytes) in [(BOOT_INFO, info.as_bytes()), (manifest_at, &manifest), (info.command_line, command_line)] {
        write(at, bytes);
    }
    load(image, &loaded)?;
    // The standard library's handlers make system calls that the guest may not.
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGPIPE] {
        // SAFETY: the default disposition has no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    seccompiler::apply_filter(&filter)?;
    launch(image.entry(), memory - 8)
}

/// What a guest waits with: all network devices, and a timer.
fn waiting(devices: &Attached) -> Result<(OwnedFd, OwnedFd), SptError> {
    let waits = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(host("epoll_create1() failed"))?;
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(host("timerfd_create() failed"))?;
    let add = |fd: BorrowedFd<'_>, number: u64| {
        epoll::add(&waits, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
            .map_err(host("epoll_ctl(EPOLL_CTL_ADD) failed"))
    };
    add(std::os::fd::AsFd::as_fd(&timer), TIMER)?;
    for (number, device) in devices.nets() {
        let descriptor = device.ready().ok_or(SptError::NoDescriptor)?;
        add(descriptor, number as u64)?;
    }
    Ok((waits, timer))
}

/// What the guest may ask the kernel for: its manifest, as system calls. Tells the guest the descriptors.
fn filter(devices: &mut Attached, waits: &OwnedFd, timer: &OwnedFd) -> Result<BpfProgram, SptError> {
    let is = |index, value: i32| SeccompCondition::new(index, Len::Dword, Op::Eq, u64::from(value.cast_unsigned()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut allow = |call, conditions| -> Result<(), SptError> {
        rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    };
    allow(libc::SYS_write, vec![is(0, 1)?])?;
    allow(libc::SYS_epoll_pwait, vec![is(0, waits.as_raw_fd())?])?;
    allow(libc::SYS_timerfd_settime, vec![is(0, timer.as_raw_fd())?])?;
    allow(libc::SYS_clock_gettime, vec![is(0, libc::CLOCK_MONOTONIC)?])?;
    allow(libc::SYS_clock_gettime, vec![is(0, libc::CLOCK_REALTIME)?])?;
    allow(libc::SYS_arch_prctl, vec![is(0, ARCH_SET_FS)?])?;
    let mut descriptors = Vec::new();
    for (number, device) in devices.blocks() {
        let descriptor = device.descriptor().ok_or(SptError::NoDescriptor)?.as_raw_fd();
        let size = u64::from(devices.manifest.block_size(number));
        for call in [libc::SYS_pread64, libc::SYS_pwrite64] {
            let whole = SeccompCondition::new(2, Len::Qword, Op::Eq, size)?;
            let inside = SeccompCondition::new(3, Len::Qword, Op::Le, device.capacity() - size)?;
            allow(call, vec![is(0, descriptor)?, whole, inside])?;
        }
        descriptors.push((number, descriptor));
    }
    for (number, device) in devices.nets() {
        let descriptor = device.ready().ok_or(SptError::NoDescriptor)?.as_raw_fd();
        allow(libc::SYS_read, vec![is(0, descriptor)?])?;
        allow(libc::SYS_write, vec![is(0, descriptor)?])?;
        descriptors.push((number, descriptor));
    }
    for (number, descriptor) in descriptors {
        if let Some(entry) = devices.manifest.raw_mut(number) {
            entry.descriptor = u64::from(descriptor.cast_unsigned());
        }
    }
    // Without conditions, which a rule must have: always.
    rules.insert(libc::SYS_exit_group, Vec::new());
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

const ARCH_SET_FS: i32 = 0x1002;

/// Maps the guest's memory where it has to be, in place of nothing.
fn map(memory: u64, executable_heap: bool) -> Result<(), SptError> {
    let mut access = ProtFlags::READ | ProtFlags::WRITE;
    access.set(ProtFlags::EXEC, executable_heap);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
    let len = usize::try_from(memory.saturating_sub(LOW)).unwrap_or(usize::MAX);
    // SAFETY: nothing that is mapped already is replaced.
    let mapped = unsafe { rustix::mm::mmap_anonymous(address(LOW), len, access, flags) };
    mapped.map(drop).map_err(host("Error allocating guest memory"))
}

fn load(image: &Image, loaded: &Loaded) -> Result<(), SptError> {
    for segment in &loaded.segments {
        write(segment.start, image.contents(segment));
        let mut access = MprotectFlags::empty();
        access.set(MprotectFlags::READ, segment.access.read);
        access.set(MprotectFlags::WRITE, segment.access.write);
        access.set(MprotectFlags::EXEC, segment.access.execute);
        let len = usize::try_from(segment.pages.end - segment.pages.start).unwrap_or_default();
        // SAFETY: pages of the guest's memory, which `load` of the image has found to lie in it.
        unsafe { rustix::mm::mprotect(address(segment.pages.start), len, access) }.map_err(host("mprotect failed"))?;
    }
    Ok(())
}

/// An address of the guest's, which is one of ours.
fn address(at: u64) -> *mut std::ffi::c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(at).unwrap_or(usize::MAX))
}

/// Copies bytes to where the caller knows that the guest's memory is.
fn write(at: u64, bytes: &[u8]) {
    // SAFETY: the range lies in what `map` has mapped: boot information below the lowest segment, or a segment that was found to
    // lie in memory. Nothing else of this process is there.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address(at).cast(), bytes.len()) };
}

fn launch(entry: u64, stack: u64) -> ! {
    // SAFETY: gives the thread to the guest for good, with a stack of its own; nothing of ours runs afterwards.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "jmp {entry}",
            stack = in(reg) stack,
            entry = in(reg) entry,
            in("rdi") BOOT_INFO,
            options(noreturn)
        )
    }
}

const _: () =
    assert!(BOOT_INFO + size_of::<BootInfo>() as u64 + 8 + 64 * 104 + 8192 < super::GUEST_MIN && PAGE_SIZE == 4096);
