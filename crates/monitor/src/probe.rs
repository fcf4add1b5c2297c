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
use kernlet_accel::Runtime;

use crate::{Cause, Crash, Hypervisor, Level, LogSink, Machine, MachineConfig, Services, Template, Unikernel};

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
    /// It could not be tried, since something before it fails.
    Untried,
}

/// Tries everything, in order.
#[must_use]
pub fn probe() -> Vec<Probe> {
    let hypervisor = Hypervisor::open();
    let opened = match &hypervisor {
        Ok(_) => (ProbeState::Works, "/dev/kvm opens, with the API and capabilities needed".to_owned()),
        Err(error) => (ProbeState::Fails, chain(error)),
    };
    let (state, detail) = hypervisor.as_ref().map_or_else(|_| untried(), runs_code);
    let (fault_state, fault_detail) = hypervisor.as_ref().map_or_else(|_| untried(), reports_faults);
    vec![
        Probe {
            name: "KVM",
            state: opened.0,
            detail: opened.1,
            consequence: "functions run in machines of their own; without it they cannot run",
        },
        Probe {
            name: "guest code at ring 3",
            state,
            detail,
            consequence: "functions run at the processor's speed, vector instructions included",
        },
        Probe {
            name: "fault reports",
            state: fault_state,
            detail: fault_detail,
            consequence: "a function that crashes is reported with address and cause",
        },
    ]
}

fn untried() -> (ProbeState, String) {
    (ProbeState::Untried, "not tried without KVM".to_owned())
}

/// An SSE instruction, then `next_request` with its block below the top of the stack.
fn runs_code(hypervisor: &Hypervisor) -> (ProbeState, String) {
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
    match boot(hypervisor, &code) {
        Ok(_) => (ProbeState::Works, format!("a machine was made and ran code in {:?}", begun.elapsed())),
        Err(crash) => (ProbeState::Fails, chain(&crash)),
    }
}

/// A load from the null page.
fn reports_faults(hypervisor: &Hypervisor) -> (ProbeState, String) {
    let code = [
        0x31, 0xc0, // xor eax, eax
        0x8b, 0x00, // mov eax, [rax]
    ];
    match boot(hypervisor, &code) {
        Err(crash) if matches!(crash.cause(), Cause::PageFault { address: 0, .. }) => {
            (ProbeState::Works, "a load from address zero was reported as such".to_owned())
        }
        Err(crash) => (ProbeState::Fails, chain(&crash)),
        Ok(_) => (ProbeState::Fails, "a load from address zero went through".to_owned()),
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
    let config = MachineConfig { memory: MEMORY_MIN, request_limit: 0, response_limit: 0, environment: Vec::new() };
    let services = Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log: Arc::new(NoLog) };
    let unikernel = Unikernel::from_code(code);
    Template::boot(hypervisor, &unikernel, &config, services, Instant::now() + LIMIT).map(|(_, machine)| machine)
}

/// A probe's guest logs nothing.
#[derive(Debug)]
struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _call_id: &str, _level: Level, _text: &str) {}
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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
