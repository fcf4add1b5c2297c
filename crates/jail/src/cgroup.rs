//! Limits of a whole watchdog in control groups: its memory and processes. Made by the gateway for each replica, which
//! also puts the process in and takes the group away with the replica. It never changes a group that is not its own.
//! Processor time is not among them: a group of its own for the scheduler makes each hand-over between gateway and
//! watchdog a preemption, which takes a third of the requests a second; the watchdog meters and limits it itself.
//!
//! Both versions are used as they are found: version 2 where its controllers are, else version 1's folders. As root the
//! groups are made below the gateway's own (version 1) or below the root (version 2, as `runc` does without systemd);
//! another user needs a group that was delegated to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// What one watchdog may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Memory of the process and all of its machines, in bytes.
    pub memory: u64,
    /// Threads.
    pub threads: u64,
}

/// Why there is no control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// None of the controllers.
    #[error("neither the controller for memory nor that for pids is mounted at {MOUNT}")]
    NoControllers,
    /// One could not be made or set.
    #[error("{} cannot be made or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::File { path: path.to_owned(), source }
}

/// Where the groups of one gateway are made.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

/// One tree of groups.
#[derive(Clone, Debug)]
struct Hierarchy {
    folder: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Version 2, all controllers in one tree.
    Unified,
    Memory,
    Pids,
}

/// The group of one watchdog, taken away when dropped; by then its processes have ended.
#[derive(Debug)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroups {
    /// Finds what this host has and makes a group `name` in it for those of the watchdogs. No other gateway that runs may
    /// use the name; what one that was killed left under it is taken away.
    ///
    /// # Errors
    /// There are no controllers, or they may not be used.
    pub fn open(name: &str) -> Result<Self, CgroupError> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::open_at(Path::new(MOUNT), &own, name)
    }

    fn open_at(mount: &Path, own: &str, name: &str) -> Result<Self, CgroupError> {
        let unified = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let hierarchies = if unified.contains("memory") {
            vec![Hierarchy { folder: unified_parent(mount, own).join(name), kind: Kind::Unified }]
        } else {
            [("memory", Kind::Memory), ("pids", Kind::Pids)]
                .into_iter()
                .filter(|(controller, _)| mount.join(controller).join("cgroup.procs").exists())
                .map(|(controller, kind)| {
                    // In a container the tree may begin at our own group, whose path then does not exist in it.
                    let below = mount.join(controller).join(own_path(own, controller).trim_start_matches('/'));
                    let parent = if below.is_dir() { below } else { mount.join(controller) };
                    Hierarchy { folder: parent.join(name), kind }
                })
                .collect()
        };
        if hierarchies.is_empty() {
            return Err(CgroupError::NoControllers);
        }
        for hierarchy in &hierarchies {
            sweep(&hierarchy.folder);
            hierarchy.prepare()?;
        }
        Ok(Self { hierarchies })
    }

    /// Makes a group for one watchdog.
    ///
    /// # Errors
    /// It cannot be made, or a limit not be set.
    pub fn make(&self, id: &str, limits: &CgroupLimits) -> Result<Cgroup, CgroupError> {
        let mut group = Cgroup { folders: Vec::new() };
        for hierarchy @ Hierarchy { folder, kind } in &self.hierarchies {
            // The last gateway of this name may have taken it away when it ended.
            if !folder.is_dir() {
                hierarchy.prepare()?;
            }
            let folder = folder.join(id);
            make(&folder)?;
            group.folders.push(folder.clone());
            for (file, value) in kind.settings(limits) {
                let path = folder.join(file);
                fs::write(&path, value).map_err(failed(&path))?;
            }
        }
        Ok(group)
    }
}

impl Hierarchy {
    /// Makes the group for those of the watchdogs.
    fn prepare(&self) -> Result<(), CgroupError> {
        make(&self.folder)?;
        if self.kind == Kind::Unified {
            for at in [self.folder.parent().unwrap_or(&self.folder), &self.folder] {
                let control = at.join("cgroup.subtree_control");
                fs::write(&control, "+memory +pids").map_err(failed(&control))?;
            }
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for Hierarchy { folder, .. } in &self.hierarchies {
            // Another gateway of the same name, or a watchdog that is still ending, keeps it.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Kind {
    /// File names and values of kernel documentation `admin-guide/cgroup-v2.rst` and `admin-guide/cgroup-v1`.
    fn settings(self, limits: &CgroupLimits) -> Vec<(&'static str, String)> {
        let (memory, threads) = (limits.memory.to_string(), limits.threads.to_string());
        match self {
            Self::Unified => vec![("memory.max", memory), ("pids.max", threads)],
            Self::Memory => vec![("memory.limit_in_bytes", memory)],
            Self::Pids => vec![("pids.max", threads)],
        }
    }
}

impl Cgroup {
    /// Puts a process into the group.
    ///
    /// # Errors
    /// It has ended, or may not be moved.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        for folder in &self.folders {
            let path = folder.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(failed(&path))?;
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // What cannot be taken away yet, the next gateway takes away.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The path of our own group in the tree of a controller; empty for version 2's.
fn own_path<'a>(own: &'a str, controller: &str) -> &'a str {
    let of = |line: &'a str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|known| known == controller).then_some(path)
    };
    own.lines().find_map(of).unwrap_or("/")
}

/// In version 2 a group that has processes has no groups below it with limits, so ours cannot be below our own.
fn unified_parent(mount: &Path, own: &str) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return mount.to_owned();
    }
    let own = mount.join(own_path(own, "").trim_start_matches('/'));
    own.parent().map_or_else(|| mount.to_owned(), Path::to_owned)
}

fn make(folder: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(folder)(error)),
        _ => Ok(()),
    }
}

/// Takes away the groups below; those with processes stay.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
