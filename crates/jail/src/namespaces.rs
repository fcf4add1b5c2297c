//! What the process sees of the host: no files, no network, no other processes.
//! Called while the jail is entered and, for the pid namespace, by whoever starts the process. It never undoes a namespace.

use std::{fs::File, io, os::fd::AsFd as _, process};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{chdir, getpid, pivot_root},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// A folder that every host has, to put the empty root on for a moment.
const MOUNT_POINT: &str = "/proc";

pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors stay shared");
    // SAFETY: descriptors stay shared between threads, as asserted.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

pub(crate) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("this container or host does not permit it: {error}"),
        _ => error.to_string(),
    }
}

/// A network of its own, in which not even the loopback interface is up.
pub(crate) fn without_network() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

pub(crate) fn without_ipc() -> io::Result<()> {
    unshare(UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP)
}

/// A root folder of its own that is empty and read-only.
pub(crate) fn without_files() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", MOUNT_POINT, "tmpfs", flags, c"mode=0555,size=4k,nr_inodes=1")?;
    chdir(MOUNT_POINT)?;
    // Puts the old root on top of the new one, from where it is taken away (pivot_root(2)).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// Whether the process was started into a pid namespace of its own.
pub(crate) fn is_first_process() -> Result<String, String> {
    if getpid().is_init() {
        Ok(String::new())
    } else {
        Err("whoever started the process did not give it one, which takes root".to_owned())
    }
}

/// Runs `spawn`, whose child becomes the first process of a new pid namespace; also gives the reason where that is not
/// possible, in which case the child is an ordinary one. For any thread that does nothing else meanwhile.
#[allow(clippy::disallowed_methods, reason = "the next function would see the processes of this one")]
pub fn in_new_pid_namespace<T>(spawn: impl FnOnce() -> T) -> (T, Option<io::Error>) {
    let entered = File::open("/proc/thread-self/ns/pid").and_then(|own| {
        // Going back takes rights over the namespace that it goes back to, which root in a user namespace may lack.
        return_to(&own)?;
        unshare(UnshareFlags::NEWPID)?;
        Ok(own)
    });
    let own = match entered {
        Ok(own) => own,
        Err(error) => return (spawn(), Some(error)),
    };
    let spawned = spawn();
    if let Err(error) = return_to(&own) {
        // The next child of this thread would share the namespace of this one.
        eprintln!("a thread cannot return to its pid namespace: {error}");
        process::abort();
    }
    (spawned, None)
}

fn return_to(own: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?)
}
