//! The hypervisor: loads a unikernel into a machine of its own, under KVM or as a confined process, runs it at CPL 3,
//! serves its hypercalls. Called by the watchdog, one machine per thread; it knows nothing of HTTP, but for guests that
//! speak it themselves ([`solo5::server`]), or of processes.
//! It never trusts the guest: every address and length is checked, every end has a name ([`Cause`]).
//!
//! | module | duty |
//! |---|---|
//! | [`elf`] | reads a unikernel, refuses what cannot run |
//! | `layout` | decides where things lie in one machine's memory, and who may touch them |
//! | `memory` | guest memory: volatile access only |
//! | `kvm` | the processor under KVM: page tables, descriptor tables, fault stubs, registers, dirty pages |
//! | `process` | the same as a confined child process, for hosts without KVM |
//! | `processor` | a guest's processor, of whichever backend, and why it stops |
//! | `guest` | the run loop |
//! | `machine`, `template` | the states of a machine |
//! | `saved` | templates in files |
//! | `program` | a function's program and machines, of whichever machine type |
//! | [`solo5`] | Solo5's unikernels: a machine type of their own |
//! | `hypercall` | argument blocks in, answers out |
//! | `accelerate` | accelerator calls, one or a batch |
//! | `exchange` | a request in, a response out |
//! | `borrow` | the one place where guest memory becomes a slice |
//! | `report`, `backtrace` | the state of a guest that has ended, for those who wrote it |
//! | `trace` | tells an observer what a guest does |
//! | `debugger` | lets gdb debug a guest |
//! | `deadline` | kicks a guest that runs too long |
//! | `limits` | processor and accelerator time: what an invocation has used, what it and its function may |

mod accelerate;
mod backtrace;
mod borrow;
mod crash;
mod deadline;
mod debugger;
mod dirty;
pub mod elf;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guest;
mod hypercall;
mod hypervisor;
#[cfg(test)]
#[path = "../tests/common/image.rs"]
mod image;
mod kvm;
mod layout;
mod limits;
mod machine;
mod memory;
mod message;
mod probe;
mod process;
mod processor;
mod program;
mod report;
mod saved;
pub mod solo5;
mod template;
mod trace;

pub use backtrace::{Found, Frame};
pub use crash::{Cause, CodeAddress, Crash, FaultAccess};
pub use debugger::{Debugger, StopAt};
pub use elf::{ElfError, Unikernel};
pub use hypervisor::{Backend, Hypervisor, HypervisorError, UnknownBackend};
pub use layout::{LayoutError, MachineConfig};
pub use limits::{CpuBucket, Limits};
pub use machine::{Machine, Used};
pub use message::{Headers, Level, LogSink, Request, Response, Services, Usage};
pub use probe::{Probe, ProbeState, TrialError, probe};
pub use processor::Registers;
pub use program::{Program, ProgramError, ProgramMachine, ProgramTemplate, ProgramUsed};
pub use report::{FaultDetail, Report, RequestSummary};
pub use saved::{LoadError, TemplateKey};
pub use template::{Template, Watchers};
pub use trace::{Event, Observer, What};
