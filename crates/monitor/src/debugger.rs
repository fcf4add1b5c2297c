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
//!
//! A guest of Solo5's at ring 0 has an interrupt table of its own, so there breakpoints are `hlt`, which always leaves to
//! the monitor, and steps are KVM's.

use std::{fmt, io, net::TcpStream, ops::Range};

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
use kvm_bindings::kvm_fpu;

use crate::{
    crash::Cause,
    guest::Guest,
    kvm::{OtherRegisters, Step},
    memory::GuestMemory,
    processor::{Fault, Registers},
    solo5,
};

/// Most breakpoints in memory.
const BREAKPOINTS_MAX: usize = 1024;

/// Most watchpoints, and most bytes of each.
const WATCHES_MAX: usize = 16;
const WATCH_LEN_MAX: u64 = 4096;

/// `int3`.
pub(crate) const BREAKPOINT_CODE: u8 = 0xcc;

/// Error code of the #GP that an `int3` at CPL 3 becomes: its vector, and that it is one of the table's.
pub(crate) const REFUSED_BREAKPOINT: u64 = 3 << 3 | 2;

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

/// gdb's side of a conversation about a guest of one type.
pub(crate) type StubOf<G> = GdbStubStateMachine<'static, Debugged<G>, TcpStream>;

/// The same, of whichever type.
pub(crate) enum Stub {
    Native(StubOf<Guest>),
    Solo5(StubOf<solo5::Machine>),
}

/// A guest that can be debugged, as far as the debugger has to know it.
pub(crate) trait Debuggee: Sized + 'static {
    /// What is put in place of code: an instruction of one byte that stops the guest behind it, or before it.
    fn breakpoint(&self) -> u8;
    /// Whether gdb hears of exceptions that are not its own doing.
    fn tells_faults(&self) -> bool;
    /// What gdb may write: what lies outside is the monitor's.
    fn writable(&self) -> Range<u64>;
    /// Whether it has been given a request.
    fn has_request(&self) -> bool;
    fn debugger(&mut self) -> &mut Option<Box<Debugger>>;
    fn memory(&self) -> &GuestMemory;
    /// Whether an exception is on its way from the guest to the monitor.
    fn is_reporting(&mut self) -> Result<bool, Cause>;
    /// Lets KVM finish what the last exit left half done.
    fn finish_exit(&mut self) -> Result<(), Cause>;
    /// The registers, without what steps leave in them.
    fn registers(&mut self) -> Result<Registers, Cause>;
    /// Puts the guest where these registers say.
    fn resume_at(&mut self, registers: &Registers, step: Step) -> Result<(), Cause>;
    /// Makes the processor forget why debug exceptions came.
    fn forget_traps(&mut self) -> Result<(), Cause>;
    fn other_registers(&mut self) -> Result<OtherRegisters, Cause>;
    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Cause>;
    /// A conversation about such a guest, and back.
    fn wrap(stub: StubOf<Self>) -> Stub;
    fn unwrap(stub: Stub) -> Option<StubOf<Self>>;
}

/// A guest as the protocol's library wants it: a type of this crate's, whichever guest it is.
#[repr(transparent)]
pub(crate) struct Debugged<G>(G);

impl<G> Debugged<G> {
    fn of(guest: &mut G) -> &mut Self {
        // SAFETY: a transparent structure of one field has that field's layout, and the borrow's life is the same.
        unsafe { &mut *std::ptr::from_mut(guest).cast::<Self>() }
    }
}

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
        let changed = memory.peek(self.address, &mut value).is_ok() && value != self.value;
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

type Reply<G> = Result<StubOf<G>, Silence>;

fn silence(error: GdbStubError<Cause, io::Error>) -> Silence {
    error.into_target_error().map_or(Silence::Gone, Silence::Failed)
}

/// The guest is about to run.
pub(crate) fn enter<G: Debuggee>(guest: &mut G) -> Result<(), Cause> {
    let has_request = guest.has_request();
    let Some(debugger) = guest.debugger() else { return Ok(()) };
    let is_due = debugger.stop_at == StopAt::Entry || has_request;
    if let Some(connection) = debugger.connection.take_if(|_| is_due) {
        halt(guest)?;
        let stub = GdbStub::new(connection).run_state_machine(Debugged::of(guest)).map_err(silence);
        converse(guest, stub)?;
        return resume(guest);
    }
    if orders_of(guest).is_some_and(|orders| !orders.is_idle()) {
        halt(guest)?;
        resume(guest)?;
    }
    Ok(())
}

/// The guest waits for a request, or has ended.
pub(crate) fn leave<G: Debuggee>(guest: &mut G) -> Result<(), Cause> {
    let Some(orders) = orders_of(guest) else { return Ok(()) };
    if !orders.is_idle() {
        halt(guest)?;
        let registers = stopped_at(guest);
        guest.resume_at(&registers, Step::Many)?;
    }
    guest.forget_traps()
}

/// The guest raised an exception.
pub(crate) fn fault<G: Debuggee>(guest: &mut G, fault: &Fault) -> Result<Verdict, Cause> {
    let mut taken = guest.debugger().take();
    let Some(debugger) = taken.as_deref_mut().filter(|debugger| debugger.stub.is_some()) else {
        *guest.debugger() = taken;
        return Ok(Verdict::Pass);
    };
    let orders = &mut debugger.orders;
    let is_planted = |address| orders.breakpoints.iter().any(|breakpoint| breakpoint.address == address);
    let refused = fault.vector == Fault::PROTECTION && fault.error_code == REFUSED_BREAKPOINT && is_planted(fault.at);
    // A trap, which comes behind its instruction.
    let trapped = fault.vector == Fault::BREAKPOINT && is_planted(fault.at.wrapping_sub(1));
    let stepped = fault.vector == Fault::DEBUG && orders.pace() == Step::One;
    let memory = guest.memory();
    let changed =
        orders.watches.iter_mut().filter_map(|watch| watch.has_changed(memory).then_some(watch.address)).last();
    let only_watches = !orders.step;
    *guest.debugger() = taken;
    if stepped && changed.is_none() && only_watches {
        // On to the next instruction; nobody has to know.
        let registers = guest.registers()?;
        return guest.resume_at(&registers, Step::One).map(|()| Verdict::Resume);
    }
    if !(stepped || refused || trapped || changed.is_some() || guest.tells_faults()) {
        return Ok(Verdict::Pass);
    }
    halt(guest)?;
    if trapped && let Some(orders) = orders_of(guest) {
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
    let passed = orders_of(guest).is_none_or(|orders| orders.signal.take().is_some());
    Ok(if passed { Verdict::Pass } else { Verdict::Resume })
}

/// The guest has done something that ends it; it can be looked at once more.
pub(crate) fn dying<G: Debuggee>(guest: &mut G) -> Result<(), Cause> {
    if guest.debugger().as_ref().is_none_or(|debugger| debugger.stub.is_none()) {
        return Ok(());
    }
    halt(guest)?;
    stop(guest, SingleThreadStopReason::Signal(Signal::SIGABRT))
}

/// The machine has ended, by itself with a status or not.
pub(crate) fn end<G: Debuggee>(guest: &mut G, status: Option<u8>) {
    let killed = SingleThreadStopReason::Terminated(Signal::SIGABRT);
    let reason = status.map_or(killed, SingleThreadStopReason::Exited);
    if let Some(GdbStubStateMachine::Running(running)) = take_stub(guest) {
        let _gone = running.report_stop(Debugged::of(guest), reason);
    }
}

/// A kick came: gdb may want something.
pub(crate) fn poll<G: Debuggee>(guest: &mut G) -> Result<(), Cause> {
    // An exception that is on its way comes first.
    if guest.is_reporting()? {
        return Ok(());
    }
    let Some(GdbStubStateMachine::Running(mut running)) = take_stub(guest) else { return Ok(()) };
    let connection = running.borrow_conn();
    let heard = match connection.peek() {
        Ok(None) => {
            put_back(guest, GdbStubStateMachine::Running(running));
            return Ok(());
        }
        Ok(Some(_)) => connection.read().map_err(|_| Silence::Gone),
        Err(_) => Err(Silence::Gone),
    };
    halt(guest)?;
    let stub = heard.and_then(|byte| running.incoming_data(Debugged::of(guest), byte).map_err(silence));
    let stub = stub.and_then(|stub| match stub {
        GdbStubStateMachine::CtrlCInterrupt(interrupted) => {
            let reason = Some(SingleThreadStopReason::Signal(Signal::SIGINT));
            interrupted.interrupt_handled(Debugged::of(guest), reason).map_err(silence)
        }
        stub => Ok(stub),
    });
    converse(guest, stub)?;
    resume(guest)
}

/// Tells gdb why the guest, which is halted, has stopped, and does what gdb says until it lets the guest go on.
fn stop<G: Debuggee>(guest: &mut G, reason: SingleThreadStopReason<u64>) -> Result<(), Cause> {
    let told = match take_stub(guest) {
        Some(GdbStubStateMachine::Running(mut running)) => match running.borrow_conn().set_nonblocking(false) {
            Ok(()) => running.report_stop(Debugged::of(guest), reason).map_err(silence),
            Err(_) => Err(Silence::Gone),
        },
        Some(stub) => Ok(stub),
        None => Err(Silence::Gone),
    };
    converse(guest, told)?;
    resume(guest)
}

/// Answers gdb until it lets the guest go on, or goes away.
fn converse<G: Debuggee>(guest: &mut G, first: Reply<G>) -> Result<(), Cause> {
    let mut stub = first;
    loop {
        stub = match stub {
            Ok(GdbStubStateMachine::Idle(mut idle)) => match idle.borrow_conn().read() {
                Ok(byte) => idle.incoming_data(Debugged::of(guest), byte).map_err(silence),
                Err(_) => Err(Silence::Gone),
            },
            Ok(GdbStubStateMachine::CtrlCInterrupt(interrupted)) => {
                let nothing: Option<SingleThreadStopReason<u64>> = None;
                interrupted.interrupt_handled(Debugged::of(guest), nothing).map_err(silence)
            }
            Ok(running @ GdbStubStateMachine::Running(_)) => {
                put_back(guest, running);
                return Ok(());
            }
            Ok(GdbStubStateMachine::Disconnected(disconnected)) => {
                detach(guest);
                return match disconnected.get_reason() {
                    DisconnectReason::Kill => Err(Cause::Killed),
                    _ => Ok(()),
                };
            }
            Err(Silence::Gone) => {
                detach(guest);
                return Ok(());
            }
            Err(Silence::Failed(cause)) => {
                detach(guest);
                return Err(cause);
            }
        }
    }
}

/// Takes the breakpoints out of the guest, which has stopped, and looks at its registers.
fn halt<G: Debuggee>(guest: &mut G) -> Result<(), Cause> {
    guest.finish_exit()?;
    let registers = guest.registers()?;
    let Some(mut debugger) = guest.debugger().take() else { return Ok(()) };
    debugger.orders.registers = registers;
    for breakpoint in &mut debugger.orders.breakpoints {
        if let Some(covered) = breakpoint.covered.take() {
            // It could be written before.
            let _ = guest.memory().poke(breakpoint.address, &[covered]);
        }
    }
    *guest.debugger() = Some(debugger);
    Ok(())
}

/// Puts the breakpoints into the guest, and the guest where its registers say.
fn resume<G: Debuggee>(guest: &mut G) -> Result<(), Cause> {
    let Some(mut debugger) = guest.debugger().take() else { return Ok(()) };
    let (pace, Orders { breakpoints, watches, registers, .. }) = (debugger.orders.pace(), &mut debugger.orders);
    let (memory, code) = (guest.memory(), guest.breakpoint());
    for watch in watches {
        watch.has_changed(memory);
    }
    for breakpoint in breakpoints {
        let mut covered = [0];
        let planted =
            memory.peek(breakpoint.address, &mut covered).and_then(|()| memory.poke(breakpoint.address, &[code]));
        breakpoint.covered = planted.is_ok().then_some(covered[0]);
    }
    let resumed = guest.resume_at(registers, pace);
    *guest.debugger() = Some(debugger);
    resumed
}

fn orders_of<G: Debuggee>(guest: &mut G) -> Option<&mut Orders> {
    guest.debugger().as_mut().map(|debugger| &mut debugger.orders)
}

fn stopped_at<G: Debuggee>(guest: &mut G) -> Registers {
    orders_of(guest).map(|orders| orders.registers).unwrap_or_default()
}

fn take_stub<G: Debuggee>(guest: &mut G) -> Option<StubOf<G>> {
    guest.debugger().as_mut()?.stub.take().and_then(G::unwrap)
}

fn put_back<G: Debuggee>(guest: &mut G, stub: StubOf<G>) {
    if let Some(debugger) = guest.debugger() {
        debugger.stub = Some(G::wrap(stub));
    }
}

/// From now on nobody debugs the guest. It is halted, and so has no breakpoints in it.
fn detach<G: Debuggee>(guest: &mut G) {
    if let Some(debugger) = guest.debugger() {
        debugger.stub = None;
        debugger.orders = Orders { registers: debugger.orders.registers, ..Orders::default() };
    }
}

/// Whether gdb may write there: not to the tables and stubs that the monitor's own work rests on.
fn is_debuggable<G: Debuggee>(guest: &G, address: u64, len: u64) -> bool {
    let (end, writable) = (address.checked_add(len), guest.writable());
    address >= writable.start && end.is_some_and(|end| end <= writable.end)
}

fn go_on<G: Debuggee>(guest: &mut G, step: bool, signal: Option<Signal>) {
    if let Some(orders) = orders_of(guest) {
        (orders.step, orders.signal) = (step, signal);
    }
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

impl<G: Debuggee> Target for Debugged<G> {
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

impl<G: Debuggee> SingleThreadBase for Debugged<G> {
    fn read_registers(&mut self, to: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        let other = self.0.other_registers().map_err(TargetError::Fatal)?;
        let now = stopped_at(&mut self.0);
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
        let mut other = self.0.other_registers().map_err(TargetError::Fatal)?;
        let xmm = from.xmm.map(u128::to_le_bytes);
        if other.fpu.xmm != xmm {
            other.fpu.xmm = xmm;
            self.0.set_fpu(&other.fpu).map_err(TargetError::Fatal)?;
        }
        let Some(orders) = orders_of(&mut self.0) else { return Err(TargetError::NonFatal) };
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = from.regs;
        let (rip, rflags) = (from.rip, u64::from(from.eflags));
        orders.registers =
            Registers { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 };
        Ok(())
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let room = self.0.memory().size().saturating_sub(start);
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        if len == 0 {
            return Err(TargetError::NonFatal);
        }
        self.0.memory().peek(start, &mut data[..len]).map_err(|_| TargetError::NonFatal)?;
        Ok(len)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8]) -> TargetResult<(), Self> {
        if !is_debuggable(&self.0, start, data.len() as u64) {
            return Err(TargetError::NonFatal);
        }
        self.0.memory().poke(start, data).map_err(|_| TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl<G: Debuggee> SingleThreadResume for Debugged<G> {
    fn resume(&mut self, signal: Option<Signal>) -> Result<(), Cause> {
        go_on(&mut self.0, false, signal);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl<G: Debuggee> SingleThreadSingleStep for Debugged<G> {
    fn step(&mut self, signal: Option<Signal>) -> Result<(), Cause> {
        go_on(&mut self.0, true, signal);
        Ok(())
    }
}

impl<G: Debuggee> Breakpoints for Debugged<G> {
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

impl<G: Debuggee> SwBreakpoint for Debugged<G> {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let fits = is_debuggable(&self.0, address, 1);
        Ok(match orders_of(&mut self.0) {
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
        let Some(orders) = orders_of(&mut self.0) else { return Ok(false) };
        let before = orders.breakpoints.len();
        orders.breakpoints.retain(|breakpoint| breakpoint.address != address);
        Ok(orders.breakpoints.len() < before)
    }
}

/// As good as any other: nothing can change the guest's code under a breakpoint.
impl<G: Debuggee> HwBreakpoint for Debugged<G> {
    fn add_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.add_sw_breakpoint(address, kind)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove_sw_breakpoint(address, kind)
    }
}

/// gdb calls every watchpoint that it does not carry out itself a hardware one.
impl<G: Debuggee> HwWatchpoint for Debugged<G> {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let fits = is_debuggable(&self.0, address, len) && (1..=WATCH_LEN_MAX).contains(&len);
        let value = vec![0; usize::try_from(len.min(WATCH_LEN_MAX)).unwrap_or_default()];
        Ok(match orders_of(&mut self.0) {
            // Who reads what cannot be seen.
            Some(orders) if fits && kind == WatchKind::Write && orders.watches.len() < WATCHES_MAX => {
                orders.watches.push(Watch { address, value });
                true
            }
            _ => false,
        })
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, _kind: WatchKind) -> TargetResult<bool, Self> {
        let Some(orders) = orders_of(&mut self.0) else { return Ok(false) };
        let is_it = |watch: &Watch| watch.address == address && watch.value.len() as u64 == len;
        let found = orders.watches.iter().position(is_it);
        Ok(found.map(|index| orders.watches.remove(index)).is_some())
    }
}
