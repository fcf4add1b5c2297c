//! What the backends differ in by their nature. Every test runs on every backend and asks the same of it, save what
//! asks here.

use kernlet_monitor::{Backend, Hypervisor};

/// What guests on the two backends can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// KVM hands over a string written to the hypercall port as so many calls. A process has no port: its hypercall is
    /// an exception, of which the monitor understands the instruction that the contract is made of, and no string.
    PortStrings,
    /// A machine under KVM has descriptor tables of our own: 0x2b is its code. A process has Linux': 0x33 is its code,
    /// 0x2b its data, 0x23 a 32-bit segment.
    Selectors,
    /// A program may put `fs` and `gs` anywhere, and load selectors of any privilege. Linux does not let a tracer put it
    /// back there, so a guest that has when its template is taken is refused.
    Segments,
}

impl Nature {
    /// Whether guests of this hypervisor have it the process backend's way.
    pub(crate) fn is_a_processes(self, hypervisor: &Hypervisor) -> bool {
        hypervisor.backend() == Backend::Process
    }
}
