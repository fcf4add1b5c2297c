//! What processes hold: memory, descriptors, threads, machines. Asked by suites that promise that something does not
//! grow or takes so much. Never more exact than `/proc`.

use std::{fs, path::Path};

use anyhow::Context as _;

/// What some processes hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Census {
    pub(crate) processes: f64,
    /// Proportional set size: memory shared between processes is divided among them.
    pub(crate) pss_kib: f64,
    pub(crate) page_tables_kib: f64,
    pub(crate) descriptors: f64,
    pub(crate) threads: f64,
    /// KVM's virtual machines, some of which may be spare.
    pub(crate) vms: f64,
}

impl Census {
    /// Of a process and everything that it has started.
    pub(crate) fn of_family(pid: u32) -> anyhow::Result<Self> {
        let mut sum = Self::of(pid)?;
        for child in children(pid)? {
            sum = sum.plus(Self::of_family(child)?);
        }
        Ok(sum)
    }

    fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let text = |name| fs::read_to_string(folder.join(name)).with_context(|| format!("no {name} of process {pid}"));
        let status = text("status")?;
        let (mut descriptors, mut vms) = (0.0, 0.0);
        for entry in fs::read_dir(folder.join("fd"))? {
            descriptors += 1.0;
            // A descriptor may be closed meanwhile.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            vms += f64::from(u8::from(target.as_os_str() == "anon_inode:kvm-vm"));
        }
        Ok(Self {
            processes: 1.0,
            pss_kib: number(&text("smaps_rollup")?, "Pss")?,
            page_tables_kib: number(&status, "VmPTE")?,
            descriptors,
            threads: number(&status, "Threads")?,
            vms,
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            processes: self.processes + other.processes,
            pss_kib: self.pss_kib + other.pss_kib,
            page_tables_kib: self.page_tables_kib + other.page_tables_kib,
            descriptors: self.descriptors + other.descriptors,
            threads: self.threads + other.threads,
            vms: self.vms + other.vms,
        }
    }
}

/// Memory that the host could still give out, in KiB.
pub(crate) fn available_kib() -> anyhow::Result<f64> {
    number(&fs::read_to_string("/proc/meminfo")?, "MemAvailable")
}

/// The processes that a process has started and not waited for.
pub(crate) fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("children")) else { continue };
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(found)
}

/// A line `name:   123 kB`, or without a unit.
fn number(text: &str, name: &str) -> anyhow::Result<f64> {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut numbers = values.filter_map(|value| value.split_whitespace().next()?.parse().ok());
    numbers.next().with_context(|| format!("/proc does not say {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_counted() -> anyhow::Result<()> {
        let census = Census::of_family(std::process::id())?;
        assert!(census.processes >= 1.0 && census.threads >= 1.0 && census.pss_kib > 0.0 && census.descriptors > 2.0);
        Ok(())
    }
}
