//! Who the process is: a user of its own without capabilities, or the operator's in a user namespace.
//! Called while the jail is entered, before and after the steps that need root. It never gains a right.

use std::{fs, io, os::unix::ffi::OsStrExt as _};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{DumpableBehavior, geteuid, getgid, getpid, getuid, set_dumpable_behavior},
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::namespaces::unshare;

/// Where user ids of watchdogs begin: the process id is added, so that no two running processes share one, whoever
/// started them, and nobody has to hand them out. Process ids are below 2^22 (`proc(5)`, `pid_max`); systemd's list of
/// user ids, <https://systemd.io/UIDS-GIDS/>, has nobody from 1,879,048,192 to 2,147,352,575.
const FIRST: u32 = 2_000_000_000;

/// In a container that maps only the usual 65,536 ids: systemd's range for services with a dynamic user. Two watchdogs
/// may then share one; the other layers keep them apart.
const FIRST_SMALL: u32 = 61_184;
const COUNT_SMALL: u32 = 4_336;

/// Threads of this process, where the kernel says so. It lets a process that has one leave its thread group, which changes
/// nothing; asking it so takes a fiftieth of the time that looking into `/proc` does.
pub(crate) fn threads() -> Option<usize> {
    let thread = UnshareFlags::from_bits_retain(libc::CLONE_THREAD.cast_unsigned());
    unshare(thread).map_or_else(|_| fs::read_dir("/proc/self/task").ok().map(Iterator::count), |()| Some(1))
}

pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether standard output is a pipe whose reader is gone: the sign that whoever started this process has ended, also for
/// the first process of a pid namespace, to which its parent has no number.
pub(crate) fn nobody_reads_our_output() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        && polled.iter().any(|polled| polled.revents().contains(PollFlags::ERR))
}

/// A user namespace in which this user has the rights to make others.
pub(crate) fn enter_namespace() -> Result<bool, String> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(UnshareFlags::NEWUSER).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => "a process with several threads cannot have a user namespace".to_owned(),
        _ => format!("not root, and this host gives ordinary users no user namespace: {error}"),
    })?;
    let map = |file: &str, text: String| {
        fs::write(file, text).map_err(|error| format!("the user namespace cannot be set up: {file}: {error}"))
    };
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    map("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    Ok(true)
}

/// The id of this process outside of its pid namespace, as long as it sees the `/proc` of there.
pub(crate) fn outer_pid() -> u32 {
    let own = || getpid().as_raw_nonzero().get().unsigned_abs();
    let seen = fs::read_link("/proc/self").ok();
    seen.and_then(|link| std::str::from_utf8(link.as_os_str().as_bytes()).ok()?.parse().ok()).unwrap_or_else(own)
}

/// Changes to a user and a group that nobody else has.
pub(crate) fn become_own_user(is_root: bool, outer_pid: u32) -> Result<String, String> {
    if !is_root {
        return Err(format!("started by user {}: only root can give each watchdog another user", getuid().as_raw()));
    }
    let failed = |error: Errno| format!("the user cannot be changed: {error}");
    set_thread_groups(&[]).map_err(failed)?;
    for id in [FIRST + outer_pid, FIRST_SMALL + outer_pid % COUNT_SMALL] {
        let (gid, uid) = (Gid::from_raw(id), Uid::from_raw(id));
        match set_thread_res_gid(gid, gid, gid).and_then(|()| set_thread_res_uid(uid, uid, uid)) {
            Ok(()) => return Ok(format!("user {id}")),
            // Not mapped in the user namespace that all this runs in.
            Err(Errno::INVAL) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err("neither of the ids for it is mapped in this user namespace".to_owned())
}

/// No program that is started can have a capability. Needs one to do.
pub(crate) fn drop_bounding_set() -> Result<(), String> {
    for number in 0..64 {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            // An ordinary user without a user namespace: it has none to begin with, and `no_new_privs` keeps it so.
            Err(Errno::PERM) => break,
            Err(error) => return Err(format!("capability {number} cannot be dropped: {error}")),
        }
    }
    Ok(())
}

/// Gives up what capabilities the process has.
pub(crate) fn drop_capabilities() -> Result<(), String> {
    let failed = |error: Errno| format!("capabilities cannot be dropped: {error}");
    // A kernel before 4.3 has no ambient set to clear.
    let _ = clear_ambient_capability_set();
    // Being root again would bring none back. Without the right to say so, nobody can become root either.
    let _ = set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    );
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).map_err(failed)
}

/// No set-uid program gives rights, and no process of the same user may look inside.
pub(crate) fn no_new_privileges() -> Result<(), String> {
    set_no_new_privs(true).map_err(|error| format!("it cannot be set: {error}"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("the process cannot be closed to tracers: {error}"))
}
