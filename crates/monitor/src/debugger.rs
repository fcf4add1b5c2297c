//! Lets gdb debug a guest: registers, memory, breakpoints, watchpoints, single steps, Ctrl-C, over a connection that
//! somebody else has opened. Driven by the run loop, for a guest that has a debugger; others pay nothing.
//! Who debugs a guest may do with its memory what the monitor could, except touch the monitor's own pages in it; no
//! access leaves the machine.
//!
//! ```text
//! enter ─► converse ─► plant ─► the guest runs ─► an exception, a Ctrl-C ─► lift ─► converse ─► plant ─► ...
//!             │ gdb's packets, until it says `continue`        └ its next request ─► lift, and out of the run loop
//! ```
//!
//! Breakpoints are `int3` in memory, there only while the guest runs: a template never has one, and no rewind loses one.
//! The guest's interrupt table refuses `int3` to CPL 3, so that it arrives as #GP with the vector in its error code; some
//! nested KVMs do not look at the table's privilege and let it through. Watchpoints are single steps with a look at the
//! memory after each.

use std::{fmt, io, net::TcpStream};

use gdbstub::{
    common::Signal,
    conn::ConnectionExt as _,
    stub::{DisconnectReason, GdbStub, GdbStubError, SingleThreadStopReason, state_machine::GdbStubStateMachine},
    target::{
        Target, TargetError, TargetResult,
        ext::{
            base::{
                BaseOps,
                singlethread::{
                    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
                    SingleThreadSingleStepOps,
                },
            },
            breakpoints::{
                Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
                SwBreakpoint, SwBreakpointOps, WatchKind,
            },
        },
    },
};
use gdbstub_arch::x86::{X86_64_SSE, reg::X86_64CoreRegs};
use kernlet_abi::map::BOOT_BASE;
use kvm_bindings::kvm_fpu;

use crate::{
    crash::Cause,
    guest::Guest,
    kvm::{OtherRegisters, Step},
    memory::GuestMemory,
    processor::{Fault, Registers},
};

/// Most breakpoints in memory.
const BREAKPOINTS_MAX: usize = 1024;

/// Most watchpoints, and most bytes of each.
const WATCHES_MAX: usize = 16;
const WATCH_LEN_MAX: u64 = 4096;

/// `int3`.
const BREAKPOINT_CODE: u8 = 0xcc;

/// Error code of the #GP that an `int3` at CPL 3 becomes: its vector, and that it is one of the table's.
const REFUSED_BREAKPOINT: u64 = 3 << 3 | 2;

/// When gdb is first given the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAt {
    /// Before its first instruction.
    Entry,
    /// Before it answers its first request.
    Request,
}

/// A connection to gdb, and what gdb wants of the guest.
pub struct Debugger {
    connection: Option<TcpStream>,
    stub: Option<Stub>,
    stop_at: StopAt,
    orders: Orders,
}

type Stub = GdbStubStateMachine<'static, Guest, TcpStream>;

/// What gdb wants.
#[derive(Debug, Default)]
struct Orders {
    breakpoints: Vec<Breakpoint>,
    watches: Vec<Watch>,
    /// Registers of the guest while it is stopped.
    registers: Registers,
    step: bool,
    /// The signal that the guest is to get when it goes on.
    signal: Option<Signal>,
}

#[derive(Debug)]
struct Breakpoint {
    address: u64,
    /// What the memory has there, while the breakpoint is in its place.
    covered: Option<u8>,
}

impl Debugger {
    /// A debugger at the other end of `connection`, which speaks first.
    #[must_use]
    pub fn new(connection: TcpStream, stop_at: StopAt) -> Self {
        Self { connection: Some(connection), stub: None, stop_at, orders: Orders::default() }
    }
}

impl fmt::Debug for Debugger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debugger").field("stop_at", &self.stop_at).field("orders", &self.orders).finish_non_exhaustive()
    }
}

/// Memory that gdb wants to see change.
#[derive(Debug)]
struct Watch {
    address: u64,
    /// What it held last.
    value: Vec<u8>,
}

impl Watch {
    /// Looks at the memory, and says whether it has changed since the last time.
    fn has_changed(&mut self, memory: &GuestMemory) -> bool {
        let mut value = vec![0; self.value.len()];
        // It was in bounds when the watch was made.
        let changed = memory.read(self.address, &mut value).is_ok() && value != self.value;
        self.value = value;
        changed
    }
}

impl Orders {
    /// How the guest is to run.
    fn pace(&self) -> Step {
        if self.step || !self.watches.is_empty() { Step::One } else { Step::Many }
    }

    /// Whether the guest runs as if nobody debugged it.
    fn is_idle(&self) -> bool {
        self.breakpoints.is_empty() && self.watches.is_empty() && !self.step
    }
}

/// What becomes of a fault of a guest that is debugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The guest goes on.
    Resume,
    /// The fault has its effect.
    Pass,
}

/// Why there is no conversation any more.
enum Silence {
    /// gdb has gone, or does not speak its protocol.
    Gone,
    /// The processor failed.
    Failed(Cause),
}

type Reply = Result<Stub, Silence>;

fn silence(error: GdbStubError<Cause, io::Error>) -> Silence {
    error.into_target_error().map_or(Silence::Gone, Silence::Failed)
}

/// The guest is about to run.
pub(crate) fn enter(guest: &mut Guest) -> Result<(), Cause> {
    let has_request = guest.context.started.is_some();
    let Some(debugger) = &mut guest.debugger else { return Ok(()) };
    let is_due = debugger.stop_at == StopAt::Entry || has_request;
    if let Some(connection) = debugger.connection.take_if(|_| is_due) {
        halt(guest)?;
        let stub = GdbStub::new(connection).run_state_machine(guest).map_err(silence);
        converse(guest, stub)?;
        return resume(guest);
    }
    if guest.orders().is_some_and(|orders| !orders.is_idle()) {
        halt(guest)?;
        resume(guest)?;
    }
    Ok(())
}

/// The guest waits for a request, or has ended.
pub(crate) fn leave(guest: &mut Guest) -> Result<(), Cause> {
    let Some(orders) = guest.orders() else { return Ok(()) };
    if !orders.is_idle() {
        halt(guest)?;
        let registers = guest.stopped_at();
        guest.processor.debuggable()?.resume_at(&registers, Step::Many)?;
    }
    guest.processor.debuggable()?.forget_traps()
}

/// The guest raised an exception.
pub(crate) fn fault(guest: &mut Guest, fault: &Fault) -> Result<Verdict, Cause> {
    let Some(debugger) = guest.debugger.as_deref_mut().filter(|debugger| debugger.stub.is_some()) else {
        return Ok(Verdict::Pass);
    };
    let orders = &mut debugger.orders;
    let is_planted = |address| orders.breakpoints.iter().any(|breakpoint| breakpoint.address == address);
    let refused = fault.vector == Fault::PROTECTION && fault.error_code == REFUSED_BREAKPOINT && is_planted(fault.at);
    // A trap, which comes behind its instruction.
    let trapped = fault.vector == Fault::BREAKPOINT && is_planted(fault.at.wrapping_sub(1));
    let stepped = fault.vector == Fault::DEBUG && orders.pace() == Step::One;
    let memory = &guest.view.memory;
    let changed =
        orders.watches.iter_mut().filter_map(|watch| watch.has_changed(memory).then_some(watch.address)).last();
    if stepped && changed.is_none() && !orders.step {
        // On to the next instruction; nobody has to know.
        let registers = guest.processor.debuggable()?.registers_to_debug(memory);
        return guest.processor.debuggable()?.resume_at(&registers, Step::One).map(|()| Verdict::Resume);
    }
    halt(guest)?;
    if trapped && let Some(orders) = guest.orders() {
        orders.registers.rip = fault.at.wrapping_sub(1);
    }
    let reason = match changed {
        Some(addr) => Some(SingleThreadStopReason::Watch { tid: (), kind: WatchKind::Write, addr }),
        None if refused || trapped => Some(SingleThreadStopReason::SwBreak(())),
        None if stepped => Some(SingleThreadStopReason::DoneStep),
        None => None,
    };
    if let Some(reason) = reason {
        return stop(guest, reason).map(|()| Verdict::Resume);
    }
    stop(guest, SingleThreadStopReason::Signal(signal_of(fault)))?;
    // As with a process: to go on with the signal ends it, `signal 0` tries the instruction again.
    let passed = guest.orders().is_none_or(|orders| orders.signal.take().is_some());
    Ok(if passed { Verdict::Pass } else { Verdict::Resume })
}

/// The guest has done something that ends it; it can be looked at once more.
pub(crate) fn dying(guest: &mut Guest) -> Result<(), Cause> {
    if guest.debugger.as_ref().is_none_or(|debugger| debugger.stub.is_none()) {
        return Ok(());
    }
    halt(guest)?;
    stop(guest, SingleThreadStopReason::Signal(Signal::SIGABRT))
}

/// The machine has ended, well or not.
pub(crate) fn end(guest: &mut Guest, well: bool) {
    let reason =
        if well { SingleThreadStopReason::Exited(0) } else { SingleThreadStopReason::Terminated(Signal::SIGABRT) };
    if let Some(GdbStubStateMachine::Running(running)) = guest.take_stub() {
        let _gone = running.report_stop(guest, reason);
    }
}

/// A kick came: gdb may want something.
pub(crate) fn poll(guest: &mut Guest) -> Result<(), Cause> {
    // An exception that is on its way comes first.
    if guest.processor.debuggable()?.is_in_fault_stub() {
        return Ok(());
    }
    let Some(GdbStubStateMachine::Running(mut running)) = guest.take_stub() else { return Ok(()) };
    let connection = running.borrow_conn();
    let heard = match connection.peek() {
        Ok(None) => {
            guest.put_back(GdbStubStateMachine::Running(running));
            return Ok(());
        }
        Ok(Some(_)) => connection.read().map_err(|_| Silence::Gone),
        Err(_) => Err(Silence::Gone),
    };
    halt(guest)?;
    let stub = heard.and_then(|byte| running.incoming_data(guest, byte).map_err(silence));
    let stub = stub.and_then(|stub| match stub {
        GdbStubStateMachine::CtrlCInterrupt(interrupted) => {
            let reason = Some(SingleThreadStopReason::Signal(Signal::SIGINT));
            interrupted.interrupt_handled(guest, reason).map_err(silence)
        }
        stub => Ok(stub),
    });
    converse(guest, stub)?;
    resume(guest)
}

/// Tells gdb why the guest, which is halted, has stopped, and does what gdb says until it lets the guest go on.
fn stop(guest: &mut Guest, reason: SingleThreadStopReason<u64>) -> Result<(), Cause> {
    let told = match guest.take_stub() {
        Some(GdbStubStateMachine::Running(mut running)) => match running.borrow_conn().set_nonblocking(false) {
            Ok(()) => running.report_stop(guest, reason).map_err(silence),
            Err(_) => Err(Silence::Gone),
        },
        Some(stub) => Ok(stub),
        None => Err(Silence::Gone),
    };
    converse(guest, told)?;
    resume(guest)
}

/// Answers gdb until it lets the guest go on, or goes away.
fn converse(guest: &mut Guest, first: Reply) -> Result<(), Cause> {
    let mut stub = first;
    loop {
        stub = match stub {
            Ok(GdbStubStateMachine::Idle(mut idle)) => match idle.borrow_conn().read() {
                Ok(byte) => idle.incoming_data(guest, byte).map_err(silence),
                Err(_) => Err(Silence::Gone),
            },
            Ok(GdbStubStateMachine::CtrlCInterrupt(interrupted)) => {
                let nothing: Option<SingleThreadStopReason<u64>> = None;
                interrupted.interrupt_handled(guest, nothing).map_err(silence)
            }
            Ok(running @ GdbStubStateMachine::Running(_)) => {
                guest.put_back(running);
                return Ok(());
            }
            Ok(GdbStubStateMachine::Disconnected(disconnected)) => {
                guest.detach();
                return match disconnected.get_reason() {
                    DisconnectReason::Kill => Err(Cause::Killed),
                    _ => Ok(()),
                };
            }
            Err(Silence::Gone) => {
                guest.detach();
                return Ok(());
            }
            Err(Silence::Failed(cause)) => {
                guest.detach();
                return Err(cause);
            }
        }
    }
}

/// Takes the breakpoints out of the guest, which has stopped, and looks at its registers.
fn halt(guest: &mut Guest) -> Result<(), Cause> {
    let processor = guest.processor.debuggable()?;
    processor.finish_exit()?;
    let registers = processor.registers_to_debug(&guest.view.memory);
    let Some(debugger) = &mut guest.debugger else { return Ok(()) };
    debugger.orders.registers = registers;
    for breakpoint in &mut debugger.orders.breakpoints {
        if let Some(covered) = breakpoint.covered.take() {
            // It could be written before.
            let _ = guest.view.memory.write(breakpoint.address, &[covered]);
        }
    }
    Ok(())
}

/// Puts the breakpoints into the guest, and the guest where its registers say.
fn resume(guest: &mut Guest) -> Result<(), Cause> {
    let Some(debugger) = &mut guest.debugger else { return Ok(()) };
    let (pace, Orders { breakpoints, watches, registers, .. }) = (debugger.orders.pace(), &mut debugger.orders);
    for watch in watches {
        watch.has_changed(&guest.view.memory);
    }
    for breakpoint in breakpoints {
        let mut covered = [0];
        let memory = &guest.view.memory;
        let planted = memory
            .read(breakpoint.address, &mut covered)
            .and_then(|()| memory.write(breakpoint.address, &[BREAKPOINT_CODE]));
        breakpoint.covered = planted.is_ok().then_some(covered[0]);
    }
    guest.processor.debuggable()?.resume_at(registers, pace)
}

/// The signal that a process would get.
fn signal_of(fault: &Fault) -> Signal {
    match fault.vector {
        0 | 16 | 19 => Signal::SIGFPE,
        1 | 3 => Signal::SIGTRAP,
        6 => Signal::SIGILL,
        17 => Signal::SIGBUS,
        _ => Signal::SIGSEGV,
    }
}

impl Guest {
    fn orders(&mut self) -> Option<&mut Orders> {
        self.debugger.as_mut().map(|debugger| &mut debugger.orders)
    }

    fn other_registers(&mut self) -> Result<OtherRegisters, Cause> {
        self.processor.debuggable()?.other_registers()
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Cause> {
        self.processor.debuggable()?.set_fpu(fpu)
    }

    fn stopped_at(&self) -> Registers {
        self.debugger.as_ref().map(|debugger| debugger.orders.registers).unwrap_or_default()
    }

    fn take_stub(&mut self) -> Option<Stub> {
        self.debugger.as_mut()?.stub.take()
    }

    fn put_back(&mut self, stub: Stub) {
        if let Some(debugger) = &mut self.debugger {
            debugger.stub = Some(stub);
        }
    }

    /// From now on nobody debugs the guest. It is halted, and so has no breakpoints in it.
    fn detach(&mut self) {
        if let Some(debugger) = &mut self.debugger {
            debugger.stub = None;
            debugger.orders = Orders { registers: debugger.orders.registers, ..Orders::default() };
        }
    }

    /// Whether gdb may write there: not to the tables and stubs that the monitor's own work rests on.
    fn is_debuggable(&self, address: u64, len: u64) -> bool {
        let end = address.checked_add(len);
        address >= BOOT_BASE && end.is_some_and(|end| end <= self.view.memory.size())
    }

    fn go_on(&mut self, step: bool, signal: Option<Signal>) {
        if let Some(orders) = self.orders() {
            (orders.step, orders.signal) = (step, signal);
        }
    }
}

impl Target for Guest {
    type Arch = X86_64_SSE;
    type Error = Cause;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    /// Packets that people can read; the connection is a local one.
    fn use_rle(&self) -> bool {
        false
    }
}

impl SingleThreadBase for Guest {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        let other = self.other_registers().map_err(TargetError::Fatal)?;
        let now = self.stopped_at();
        let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, .. } = now;
        to.regs = [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15];
        to.rip = now.rip;
        #[allow(clippy::cast_possible_truncation, reason = "gdb has its lower half; the upper one is zero")]
        let flags = now.rflags as u32;
        to.eflags = flags;
        let [cs, ss, ds, es, fs, gs] = other.selectors.map(u32::from);
        let segments = &mut to.segments;
        (segments.cs, segments.ss, segments.ds) = (cs, ss, ds);
        (segments.es, segments.fs, segments.gs) = (es, fs, gs);
        to.xmm = other.fpu.xmm.map(u128::from_le_bytes);
        to.mxcsr = other.fpu.mxcsr;
        for (to, from) in to.st.iter_mut().zip(&other.fpu.fpr) {
            to.copy_from_slice(&from[..10]);
        }
        (to.fpu.fctrl, to.fpu.fstat) = (other.fpu.fcw.into(), other.fpu.fsw.into());
        Ok(())
    }

    fn write_registers(&mut self, from: &X86_64CoreRegs) -> TargetResult<(), Self> {
        let mut other = self.other_registers().map_err(TargetError::Fatal)?;
        let xmm = from.xmm.map(u128::to_le_bytes);
        if other.fpu.xmm != xmm {
            other.fpu.xmm = xmm;
            self.set_fpu(&other.fpu).map_err(TargetError::Fatal)?;
        }
        let Some(orders) = self.orders() else { return Err(TargetError::NonFatal) };
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = from.regs;
        let (rip, rflags) = (from.rip, u64::from(from.eflags));
        orders.registers =
            Registers { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 };
        Ok(())
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let room = self.view.memory.size().saturating_sub(start);
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        if len == 0 {
            return Err(TargetError::NonFatal);
        }
        self.view.memory.read(start, &mut data[..len]).map_err(|_| TargetError::NonFatal)?;
        Ok(len)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8]) -> TargetResult<(), Self> {
        if !self.is_debuggable(start, data.len() as u64) {
            return Err(TargetError::NonFatal);
        }
        self.view.memory.write(start, data).map_err(|_| TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Guest {
    fn resume(&mut self, signal: Option<Signal>) -> Result<(), Cause> {
        self.go_on(false, signal);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Guest {
    fn step(&mut self, signal: Option<Signal>) -> Result<(), Cause> {
        self.go_on(true, signal);
        Ok(())
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let fits = self.is_debuggable(address, 1);
        Ok(match self.orders() {
            Some(orders) if fits && orders.breakpoints.len() < BREAKPOINTS_MAX => {
                // Twice in one place would take the first one for the guest's code.
                if !orders.breakpoints.iter().any(|breakpoint| breakpoint.address == address) {
                    orders.breakpoints.push(Breakpoint { address, covered: None });
                }
                true
            }
            _ => false,
        })
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let Some(orders) = self.orders() else { return Ok(false) };
        let before = orders.breakpoints.len();
        orders.breakpoints.retain(|breakpoint| breakpoint.address != address);
        Ok(orders.breakpoints.len() < before)
    }
}

/// As good as any other: nothing can change the guest's code under a breakpoint.
impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.add_sw_breakpoint(address, kind)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove_sw_breakpoint(address, kind)
    }
}

/// gdb calls every watchpoint that it does not carry out itself a hardware one.
impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let fits = self.is_debuggable(address, len) && (1..=WATCH_LEN_MAX).contains(&len);
        let value = vec![0; usize::try_from(len.min(WATCH_LEN_MAX)).unwrap_or_default()];
        Ok(match self.orders() {
            // Who reads what cannot be seen.
            Some(orders) if fits && kind == WatchKind::Write && orders.watches.len() < WATCHES_MAX => {
                orders.watches.push(Watch { address, value });
                true
            }
            _ => false,
        })
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, _kind: WatchKind) -> TargetResult<bool, Self> {
        let Some(orders) = self.orders() else { return Ok(false) };
        let is_it = |watch: &Watch| watch.address == address && watch.value.len() as u64 == len;
        let found = orders.watches.iter().position(is_it);
        Ok(found.map(|index| orders.watches.remove(index)).is_some())
    }
}
