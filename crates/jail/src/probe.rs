//! Tries the jail out in a throw-away process. Called by `kernlet doctor`. It changes nothing for the caller.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    ptr,
};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::{Jail, Machines, Mode, Report, in_new_pid_namespace};

/// Why the jail could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No process to try it in.
    #[error("no process could be started to try the jail in")]
    Process(#[source] io::Error),
    /// The process ended before it said how it went.
    #[error("the process that tried the jail said nothing that can be read")]
    Silent(#[source] serde_json::Error),
}

/// Enters the jail that a watchdog of such machines would enter, in a child of this process, and says which layers hold.
///
/// # Errors
/// There is no child, or it did not get so far as to say anything.
pub fn probe(machines: Machines) -> Result<Report, ProbeError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| ProbeError::Process(error.into()))?;
    let (forked, _) = in_new_pid_namespace(|| {
        // SAFETY: the child takes no lock that another thread of this process may have held, save the allocator's,
        // which the C library keeps usable after a fork, and never returns from `try_out`.
        match unsafe { libc::fork() } {
            0 => try_out(machines, File::from(write)),
            child => {
                drop(write);
                child
            }
        }
    });
    if forked < 0 {
        return Err(ProbeError::Process(io::Error::last_os_error()));
    }
    let mut said = Vec::new();
    // A read that fails gives less than the whole report.
    let _ = File::from(read).read_to_end(&mut said);
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(forked, ptr::null_mut(), 0) };
    serde_json::from_slice(&said).map_err(ProbeError::Silent)
}

/// The child: enters the jail, says how that went, and ends.
fn try_out(machines: Machines, mut to: File) -> ! {
    let said = match Jail::plan(Mode::BestEffort).machines(machines).enter() {
        Ok(report) => serde_json::to_vec(&report).unwrap_or_default(),
        // Nothing that can be read as a report.
        Err(error) => error.to_string().into_bytes(),
    };
    // Whoever waits sees what arrived.
    let _ = to.write_all(&said);
    // SAFETY: ends this process without running what the parent's process has registered for its own end.
    unsafe { libc::_exit(0) }
}
