//! The part of a watchdog's jail that belongs to whoever starts it: a pid namespace and a control group.
//! Used by the supervisor of each replica. It never keeps a function from starting: what the host does not permit is
//! said, unless the operator requires the jail.

use kernlet_image::FunctionSpec;
use kernlet_jail::Mode;
use kernlet_jail::cgroup::{Cgroup, CgroupError, CgroupLimits, Cgroups};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use tokio::process::{Child, Command};

/// Memory of a watchdog beside its machines: the program, its threads, and what plugins work with.
const MEMORY_BASE: u64 = 512 * 1024 * 1024;
/// Memory of a machine beside its guest's: page tables, copies of a request and its response.
const MEMORY_PER_MACHINE: u64 = 4 * 1024 * 1024;
/// A model is held as it was read and as it was made ready, which takes more.
const MODEL_FACTOR: u64 = 4;
/// Machines of a function that has no limit of requests; the watchdog's own limit.
const MACHINES_MAX: u64 = 128;
/// Threads: one a machine, one a connection, and the pools of plugins.
const THREADS_MAX: u64 = 1024;

/// How watchdogs are confined from the outside.
#[derive(Debug)]
pub(crate) struct Confinement {
    mode: Mode,
    cgroups: Option<Cgroups>,
}

impl Confinement {
    /// Finds out what this host permits.
    pub(crate) fn open(mode: Mode, home: &Path) -> Result<Confinement, CgroupError> {
        if mode == Mode::Off {
            return Ok(Confinement { mode, cgroups: None });
        }
        // The lock on the home keeps others from using the name.
        let name = fs::metadata(home).map(|home| format!("kernlet-{:x}-{:x}", home.dev(), home.ino()));
        let cgroups = match Cgroups::open(&name.unwrap_or_else(|_| "kernlet-gateway".to_owned())) {
            Ok(cgroups) => Some(cgroups),
            Err(error) if mode == Mode::Required => return Err(error),
            Err(error) => {
                let error = crate::answer::chain(&error);
                tracing::warn!(%error, "Watchdogs have no control groups, so nothing limits the memory of one as a whole");
                None
            }
        };
        Ok(Confinement { mode, cgroups })
    }

    /// The mode that watchdogs are told.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// A control group for a replica of this function, where there are any.
    pub(crate) fn cgroup(&self, id: &str, spec: &FunctionSpec) -> Result<Option<Cgroup>, CgroupError> {
        self.cgroups.as_ref().map(|cgroups| cgroups.make(id, &limits(spec))).transpose()
    }

    /// Starts a watchdog, in a pid namespace of its own if that is possible.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        match self.mode {
            Mode::Off => command.spawn(),
            // Without one, the watchdog says so.
            Mode::Required | Mode::BestEffort => kernlet_jail::in_new_pid_namespace(|| command.spawn()).0,
        }
    }
}

/// Generous: it is there to keep one function from taking the host, not to make it tight.
fn limits(spec: &FunctionSpec) -> CgroupLimits {
    let machines = match u64::from(spec.config.max_inflight) {
        0 => MACHINES_MAX,
        inflight => inflight.min(MACHINES_MAX),
    };
    // One more: the template.
    let written = spec.config.blocks.values().fold(0_u64, |sum, device| sum.saturating_add(device.room()));
    let each = spec.config.memory.bytes().saturating_add(MEMORY_PER_MACHINE).saturating_add(written);
    let guests = (machines + 1).saturating_mul(each);
    let sizes = spec.resources.iter().filter_map(|(_, path)| fs::metadata(path).ok());
    let models = sizes.fold(0_u64, |sum, file| sum.saturating_add(file.len())).saturating_mul(MODEL_FACTOR);
    CgroupLimits { memory: MEMORY_BASE.saturating_add(guests).saturating_add(models), threads: THREADS_MAX }
}
