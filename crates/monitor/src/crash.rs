//! How a machine ends other than by being dropped. Made by the machine, shown to operators and callers.
//! Its text names the function's code, the cause and the address; it never holds the guest's data. Registers and the
//! last log lines are in its report, which is for the function's own log.

use std::{fmt, time::Duration};

use crate::{elf::Unikernel, layout::LayoutError, message::Usage, report::Report};

/// The end of a machine: it cannot be used again.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Crash {
    cause: Cause,
    usage: Usage,
    report: Option<Report>,
}

impl Crash {
    pub(crate) fn new(cause: Cause, usage: Usage) -> Box<Self> {
        Box::new(Self { cause, usage, report: None })
    }

    pub(crate) fn with_report(cause: Cause, usage: Usage, report: Option<Report>) -> Box<Self> {
        Box::new(Self { cause, usage, report })
    }

    /// Why the machine ended.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// In what state the guest was; nothing when it never was in one.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// What the machine took until then, in the invocation that ended it.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

/// An address in the guest's code, with the symbol that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeAddress {
    /// Guest-virtual address.
    pub address: u64,
    /// Demangled name of the function there and the offset from its start, where the ELF has symbols.
    pub symbol: Option<(String, u64)>,
}

impl CodeAddress {
    pub(crate) fn new(address: u64, unikernel: &Unikernel) -> Self {
        Self { address, symbol: unikernel.symbol(address) }
    }

    /// Of the instruction behind a call. The call itself decides which function that is: one that never returns may
    /// be its function's last instruction.
    pub(crate) fn of_return(address: u64, unikernel: &Unikernel) -> Self {
        let symbol = address.checked_sub(1).and_then(|call| unikernel.symbol(call));
        Self { address, symbol: symbol.map(|(name, offset)| (name, offset + 1)) }
    }
}

impl fmt::Display for CodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.symbol {
            Some((name, offset)) => write!(f, "{name}+{offset:#x} ({:#x})", self.address),
            None => write!(f, "{:#x}", self.address),
        }
    }
}

/// What a faulting instruction tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAccess {
    /// Reading data.
    Read,
    /// Writing data.
    Write,
    /// Fetching an instruction.
    Execute,
}

impl fmt::Display for FaultAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "wrote",
            Self::Execute => "executed",
        })
    }
}

/// Why a machine ended.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A page fault: an access that the machine's memory map does not allow.
    #[error("the function {access} address {address:#x}, which is {region}, at {at}")]
    PageFault {
        /// What it tried.
        access: FaultAccess,
        /// The address it tried (CR2).
        address: u64,
        /// What lies there.
        region: &'static str,
        /// The instruction.
        at: CodeAddress,
    },
    /// Any other processor exception.
    #[error("the function raised {name} (vector {vector}, error code {error_code:#x}) at {at}")]
    Exception {
        /// The exception's name.
        name: &'static str,
        /// Its vector, 0 to 31.
        vector: u8,
        /// Its error code, zero for those that have none.
        error_code: u64,
        /// The instruction.
        at: CodeAddress,
    },
    /// A Rust panic in the function.
    #[error("the function panicked at {file}:{line}:{column}: {message}")]
    Panic {
        /// The panic's message.
        message: String,
        /// Source file.
        file: String,
        /// Source line.
        line: u32,
        /// Source column.
        column: u32,
    },
    /// The guest's heap is exhausted.
    #[error("the function ran out of memory: {message}; its machine has {memory} bytes (raise dev.kernlet.memory)")]
    OutOfMemory {
        /// What was asked for.
        message: String,
        /// The machine's memory, in bytes.
        memory: u64,
    },
    /// The function left its request loop.
    #[error("the function ended by itself instead of waiting for the next request")]
    Finished,
    /// The guest found a boot page of another ABI version.
    #[error("the unikernel was built for another version of the guest interface than {expected}; rebuild it")]
    AbiMismatch {
        /// The monitor's version.
        expected: u32,
    },
    /// The time limit passed while the guest ran.
    #[error(
        "the function ran for more than {limit:?}{} and was stopped at {at}",
        if paused.is_zero() { String::new() } else {
            format!(", {paused:?} of it paused by its share of the processors (raise dev.kernlet.limits.cpu),")
        }
    )]
    Timeout {
        /// The time it was given.
        limit: Duration,
        /// How much of it the function's share of the processors did not let it run.
        paused: Duration,
        /// Where it was.
        at: CodeAddress,
    },
    /// The invocation used up its processor time.
    #[error(
        "the function used up its {limit:?} of processor time for one invocation (raise dev.kernlet.limits.cpu-time) \
         and was stopped at {at}"
    )]
    CpuTime {
        /// The time it was given.
        limit: Duration,
        /// Where it was.
        at: CodeAddress,
    },
    /// An argument block or a range in one that the guest may not use so.
    #[error(
        "the function named {what} at {offset:#x}, {len} bytes long, which is not memory that it may {}",
        if *.write { "write" } else { "read" }
    )]
    BadPointer {
        /// What the range was for.
        what: &'static str,
        /// First address.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Whether it had to be writable.
        write: bool,
    },
    /// A call number that does not exist.
    #[error("the function made hypercall {number}, which does not exist")]
    UnknownHypercall {
        /// The number.
        number: u32,
    },
    /// Arguments of one accelerator call overlap where one of them is written.
    #[error("arguments {first} and {second} of an accelerator call overlap, and one of them is written")]
    OverlappingArguments {
        /// Index of the one.
        first: usize,
        /// Index of the other.
        second: usize,
    },
    /// More arguments than an accelerator call can have.
    #[error("the function made an accelerator call with {count} arguments; the most is {max}")]
    TooManyArguments {
        /// How many.
        count: u32,
        /// How many are allowed.
        max: u32,
    },
    /// An argument of an accelerator call says neither in, out nor both.
    #[error("argument {index} of an accelerator call has access {access}, which is none")]
    UnknownAccess {
        /// Index of the argument.
        index: usize,
        /// What it says.
        access: u32,
    },
    /// An access to an I/O port other than the hypercall's.
    #[error("the function used I/O port {port:#x}, which its machine does not have")]
    ForbiddenPort {
        /// The port.
        port: u16,
    },
    /// An access to memory outside the machine.
    #[error("the function used physical address {address:#x}, outside its machine's memory")]
    OutsideMemory {
        /// The guest-physical address.
        address: u64,
    },
    /// The response's body is larger than allowed.
    #[error("the function's response has {size} bytes; its limit is {limit} (raise dev.kernlet.limits.response)")]
    ResponseTooLarge {
        /// Body, in bytes.
        size: u64,
        /// Limit, in bytes.
        limit: u64,
    },
    /// The response cannot be understood.
    #[error("the function gave a response that is not one: {why}")]
    BadResponse {
        /// What is wrong.
        why: String,
    },
    /// The request does not fit into the window; the caller should have checked.
    #[error("the request takes {size} bytes; the function's request window has {window}")]
    RequestTooLarge {
        /// Bytes needed.
        size: u64,
        /// Bytes there are.
        window: u64,
    },
    /// A guest that answers by halting did so with a status other than 0.
    #[error("the function ended with status {status}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Exited {
        /// Its status; 255 where it gave up.
        status: i32,
        /// The last that its bindings said.
        said: String,
    },
    /// A Solo5 guest did what ends it.
    #[error("the function's Solo5 machine ended: {0}")]
    Solo5(Box<crate::solo5::End>),
    /// A Solo5 guest cannot have its machine.
    #[error("the function's Solo5 unikernel cannot start: {0}")]
    Solo5Boot(Box<crate::solo5::BootError>),
    /// A Solo5 guest that is to serve did not begin to.
    #[error(
        "the unikernel did not serve at {address} within {limit:?}: {why}; it was stopped at {at} (look at \
         dev.kernlet.solo5.ipv4, dev.kernlet.solo5.port and dev.kernlet.solo5.arguments)"
    )]
    NotServing {
        /// Where it was to.
        address: std::net::SocketAddrV4,
        /// The time it was given.
        limit: Duration,
        /// What came of asking.
        why: &'static str,
        /// Where it was.
        at: CodeAddress,
    },
    /// The time limit passed while the guest served other requests as well.
    #[error("the function's server, which serves other requests at the same time, did not answer within {limit:?}")]
    Unanswered {
        /// The time it was given.
        limit: Duration,
    },
    /// A machine that served several requests at once ended with another one.
    #[error("the machine that served it and other requests ended: {why}")]
    EndedWithAnother {
        /// How the other request's ended.
        why: String,
    },
    /// Whoever debugged the machine ended it.
    #[error("the machine was ended by its debugger")]
    Killed,
    /// The processor shut down (a triple fault).
    #[error("the function's processor shut down after a fault that it could not report")]
    Shutdown,
    /// KVM could not go on.
    #[error("KVM could not run the function's code at {at}: {detail}")]
    Stuck {
        /// Where.
        at: CodeAddress,
        /// The exit that KVM gave.
        detail: String,
    },
    /// Image, limits and memory size do not go together.
    #[error("the unikernel does not fit its machine")]
    Layout(#[from] LayoutError),
    /// A KVM call failed.
    #[error("KVM could not {action}")]
    Kvm {
        /// What was tried.
        action: &'static str,
        /// The error.
        source: kvm_ioctls::Error,
    },
    /// The host did not do its part for a machine that is a process.
    #[error("the host could not {action}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// The error.
        source: std::io::Error,
    },
    /// The process that ran the guest is gone.
    #[error(
        "the process that ran the function was ended{}: by somebody, or by the host, which was out of memory",
        .signal.map_or_else(String::new, |signal| format!(" by signal {signal}"))
    )]
    ProcessEnded {
        /// The signal, if it was one.
        signal: Option<i32>,
    },
    /// Template and hypervisor do not belong together.
    #[error("the function's template was made by another backend")]
    OtherBackend,
    /// A template from a file has told its guest another speed of the clock.
    #[error("the processor's clock has another speed than when the function's template was saved")]
    OtherClock,
    /// The host gave no memory for the machine.
    #[error("no memory for a machine of {size} bytes")]
    Memory {
        /// The machine's memory, in bytes.
        size: u64,
        /// The error.
        source: std::io::Error,
    },
}

/// Attaches what was being done to an error of KVM.
pub(crate) fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Cause {
    move |source| Cause::Kvm { action, source }
}
