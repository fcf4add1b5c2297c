//! Tries out on this host what a machine needs, in throw-away machines. Called by `kernlet doctor`.
//! Every line it gives was tried, not looked up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::{
    hypercall::number,
    map::{HYPERCALL_PAGE, MEMORY_MIN, STACK_TOP},
};
use kernlet_accel::{Runtime, chain};

use crate::{
    Cause, Crash, Hypervisor, Level, LogSink, Machine, MachineConfig, Services, Template, Unikernel, Usage,
    guest::Guest,
    solo5::{BootError, Ring, RingSpeed},
};

/// How long a probe's guest may run.
const LIMIT: Duration = Duration::from_secs(2);

/// What trying one capability gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What was tried.
    pub name: &'static str,
    /// Whether it works.
    pub state: ProbeState,
    /// What was found: a fact where it works, the reason and the remedy where it does not.
    pub detail: String,
    /// What follows for the user.
    pub consequence: &'static str,
}

/// Result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// It works.
    Works,
    /// It does not.
    Fails,
    /// It does not, but functions run without it.
    Replaced,
    /// It could not be tried, since something before it fails.
    Untried,
}

/// Tries everything, in order.
#[must_use]
pub fn probe() -> Vec<Probe> {
    let hypervisor = Hypervisor::open();
    let processes = processes_work();
    let (code, faults) = match &hypervisor {
        Ok(hypervisor) => (
            tried(runs_code(hypervisor).map(|took| format!("a machine was made and ran code in {took:?}"))),
            tried(reports_faults(hypervisor).map(|()| "a load from address zero was reported as such".to_owned())),
        ),
        Err(_) => (untried(), untried()),
    };
    let ring0 = match &hypervisor {
        Ok(hypervisor) => tried(ring0(hypervisor)),
        Err(_) => untried(),
    };
    let kvm_works = hypervisor.is_ok();
    let or_else = |other| if other { ProbeState::Replaced } else { ProbeState::Fails };
    let (kvm_state, kvm_detail) = match hypervisor {
        Ok(_) => (ProbeState::Works, "/dev/kvm opens, with the API and capabilities needed".to_owned()),
        Err(error) => (or_else(processes.is_ok()), chain(&error)),
    };
    let (process_state, process_detail) = match processes {
        Ok(_) => (ProbeState::Works, "a confined child process ran code, and its fault was reported".to_owned()),
        Err(error) => (or_else(kvm_works), chain(error.as_ref())),
    };
    vec![
        Probe {
            name: "KVM",
            state: kvm_state,
            detail: kvm_detail,
            consequence: "functions run in machines of their own; without it they run as processes, slower and behind \
                          the host's kernel alone",
        },
        Probe {
            name: "guest code at ring 3",
            state: code.0,
            detail: code.1,
            consequence: "functions run at the processor's speed, vector instructions included",
        },
        Probe {
            name: "fault reports",
            state: faults.0,
            detail: faults.1,
            consequence: "a function that crashes is reported with address and cause",
        },
        Probe {
            name: "guest code at ring 0",
            state: ring0.0,
            detail: ring0.1,
            consequence: "Solo5 unikernels run at the ring that is the faster one, unless `--ring` says otherwise; as functions \
                          always at ring 3",
        },
        Probe {
            name: "processes",
            state: process_state,
            detail: process_detail,
            consequence: "functions can run without KVM, when it is missing or with `kernlet up --backend process`",
        },
    ]
}

/// Why something that was tried out does not work.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The machine ended.
    #[error(transparent)]
    Crash(#[from] Box<Crash>),
    /// A fault was not noticed.
    #[error("a load from address zero went through")]
    Unnoticed,
}

/// Whether a machine can be made, up to its first instruction.
pub(crate) fn make_one(hypervisor: &Hypervisor) -> Result<(), TrialError> {
    let (unikernel, config, services) = parts(&[0x0f, 0x0b]);
    let made = Guest::boot(hypervisor, &unikernel, &config, services, Instant::now());
    made.map(drop).map_err(|cause| Crash::new(cause, Usage::default()).into())
}

fn processes_work() -> Result<(), Box<dyn std::error::Error>> {
    let hypervisor = Hypervisor::processes()?;
    runs_code(&hypervisor)?;
    Ok(reports_faults(&hypervisor)?)
}

/// How fast a guest's own ring 0 is, which only Solo5 guests use.
fn ring0(hypervisor: &Hypervisor) -> Result<String, BootError> {
    let RingSpeed { instruction, better } = RingSpeed::measure(hypervisor)?;
    let speed = if better == Ring::Zero { "the processor's own speed" } else { "emulated" };
    Ok(format!("{speed}: {instruction:?} an instruction, so that Solo5 guests run at ring {better}"))
}

fn tried<E: std::error::Error + 'static>(outcome: Result<String, E>) -> (ProbeState, String) {
    match outcome {
        Ok(found) => (ProbeState::Works, found),
        Err(error) => (ProbeState::Fails, chain(&error)),
    }
}

fn untried() -> (ProbeState, String) {
    (ProbeState::Untried, "not tried without KVM".to_owned())
}

/// An SSE instruction, then `next_request` with its block below the top of the stack.
fn runs_code(hypervisor: &Hypervisor) -> Result<Duration, TrialError> {
    let [a, b, c, d] = block_address().to_le_bytes();
    let [e, f, g, h] = hypercall_entry().to_le_bytes();
    let [next, ..] = number::NEXT_REQUEST.to_le_bytes();
    let code = [
        0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
        0xbf, a, b, c, d, // mov edi, block
        0xc7, 0x07, next, 0, 0, 0, // mov dword [rdi], NEXT_REQUEST
        0xb8, e, f, g, h, // mov eax, entry
        0xff, 0xd0, // call rax
    ];
    let begun = Instant::now();
    boot(hypervisor, &code)?;
    Ok(begun.elapsed())
}

/// A load from the null page.
fn reports_faults(hypervisor: &Hypervisor) -> Result<(), TrialError> {
    let code = [
        0x31, 0xc0, // xor eax, eax
        0x8b, 0x00, // mov eax, [rax]
    ];
    match boot(hypervisor, &code) {
        Err(crash) if matches!(crash.cause(), Cause::PageFault { address: 0, .. }) => Ok(()),
        Err(crash) => Err(crash.into()),
        Ok(_) => Err(TrialError::Unnoticed),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the stack is below 4 GiB")]
fn block_address() -> u32 {
    STACK_TOP as u32 - 64
}

#[allow(clippy::cast_possible_truncation, reason = "the page is below 4 GiB")]
fn hypercall_entry() -> u32 {
    HYPERCALL_PAGE as u32
}

fn boot(hypervisor: &Hypervisor, code: &[u8]) -> Result<Machine, Box<Crash>> {
    let (unikernel, config, services) = parts(code);
    Template::boot(hypervisor, &unikernel, &config, services, Instant::now() + LIMIT).map(|(_, machine)| machine)
}

/// What the smallest machine is made of.
fn parts(code: &[u8]) -> (Unikernel, MachineConfig, Services) {
    let config = MachineConfig { memory: MEMORY_MIN, request_limit: 0, response_limit: 0, environment: Vec::new() };
    let services = Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log: Arc::new(NoLog) };
    (Unikernel::from_code(code), config, services)
}

/// A probe's guest logs nothing.
#[derive(Debug)]
struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _call_id: &str, _level: Level, _text: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_machine_needs_works_where_kvm_opens() {
        let probes = probe();
        if probes[0].state == ProbeState::Works {
            assert!(probes.iter().all(|probe| probe.state == ProbeState::Works), "{probes:#?}");
        }
    }
}
