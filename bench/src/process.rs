//! What the kernel says about processes: processor time, context switches.
//! Used by suites that say where a request's time goes. Never more exact than the kernel: its clock ticks every 10 ms.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Microseconds of a clock tick in `/proc` (USER_HZ, 100 on every architecture that runs here).
const TICK_US: f64 = 10_000.0;

/// Processor time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    pub(crate) cpu: Cpu,
    /// Context switches of its living threads, of either kind.
    pub(crate) switches: f64,
}

impl Cpu {
    /// Of this process's children that have ended and were waited for.
    pub(crate) fn of_ended_children() -> anyhow::Result<Self> {
        let [.., user, system] = times(Path::new("/proc/self"))?;
        Ok(Self { user_us: user, system_us: system })
    }

    /// What was used from `before` to now.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { user_us: self.user_us - before.user_us, system_us: self.system_us - before.system_us }
    }

    /// Both together.
    pub(crate) fn sum(self) -> f64 {
        self.user_us + self.system_us
    }
}

impl Account {
    /// Of a process and, with `children`, of the children that it has waited for.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}");
        let [user, system, ended_user, ended_system] = times(Path::new(&folder))?;
        let cpu = Cpu { user_us: user + ended_user, system_us: system + ended_system };
        let mut switches = 0.0;
        for thread in fs::read_dir(format!("{folder}/task"))? {
            // A thread may end meanwhile.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
            let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
            switches += counts.filter_map(|(_, count)| count.trim().parse::<f64>().ok()).sum::<f64>();
        }
        Ok(Self { cpu, switches })
    }

    /// What was used from `before` to now.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { cpu: self.cpu.since(before.cpu), switches: self.switches - before.switches }
    }
}

/// utime, stime, cutime and cstime (proc(5)), in microseconds.
fn times(folder: &Path) -> anyhow::Result<[f64; 4]> {
    let stat = fs::read_to_string(folder.join("stat")).with_context(|| format!("no process {}", folder.display()))?;
    // The name, in parentheses, may hold anything; the 14th field is the twelfth after it.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11));
    let mut ticks = fields.into_iter().flatten().map_while(|field| field.parse::<f64>().ok());
    let mut next = || ticks.next().map(|ticks| ticks * TICK_US).context("/proc/PID/stat is not as proc(5) has it");
    Ok([next()?, next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_accounted_for() -> anyhow::Result<()> {
        let before = Account::of(std::process::id())?;
        // Until the clock has ticked.
        while Account::of(std::process::id())?.since(before).cpu.sum() <= 0.0 {}
        assert!(Account::of(std::process::id())?.switches >= before.switches);
        Ok(())
    }
}
