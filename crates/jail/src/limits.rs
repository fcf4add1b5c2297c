//! Resource limits of a watchdog's process. Applied while the jail is entered. They only ever go down.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What one process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open descriptors. A machine has three, a connection one.
    pub descriptors: u64,
    /// Threads, where no other process has the same user.
    pub threads: u64,
    /// Longest file that may be written, in bytes; memory files of machines count.
    pub file_size: u64,
}

impl Default for Limits {
    /// For 128 machines and 512 connections.
    fn default() -> Self {
        Self { descriptors: 4096, threads: 1024, file_size: u64::MAX }
    }
}

impl Limits {
    pub(crate) fn apply(self, alone: bool) -> Result<String, String> {
        for (resource, limit, name) in [
            (Resource::Core, 0, "core"),
            (Resource::Nofile, self.descriptors, "nofile"),
            (Resource::Nproc, if alone { self.threads } else { u64::MAX }, "nproc"),
            (Resource::Fsize, self.file_size, "fsize"),
            (Resource::Memlock, 0, "memlock"),
            (Resource::Msgqueue, 0, "msgqueue"),
            (Resource::Rtprio, 0, "rtprio"),
        ] {
            let maximum = getrlimit(resource).maximum;
            let lowered =
                if limit == u64::MAX { maximum } else { Some(maximum.map_or(limit, |maximum| maximum.min(limit))) };
            setrlimit(resource, Rlimit { current: lowered, maximum: lowered })
                .map_err(|error| format!("{name} cannot be limited: {error}"))?;
        }
        Ok(String::new())
    }
}
